// Items: find them by title, meaning or id, change them, hide them, take them away.

import { call, confirmed, Refused } from "./api.js";
import { element, table, time } from "./dom.js";
import { field, object, pretty, show, textarea, told } from "./editor.js";

const PAGE = 20;
let status, search, box, editor, seen;

export function open(main) {
  seen = { items: [], next: null };
  status = element("p", { role: "status" });
  search = element("input", { id: "search-items", type: "search", maxLength: 200, autocomplete: "off" });
  box = element("div", {}, element("p", { className: "quiet" }, "Loading…"));
  editor = element("div");
  main.append(
    element("section", {},
      element("h2", {}, "Find items"),
      element("form", { className: "row", role: "search", onsubmit: (event) => { event.preventDefault(); load(); } },
        element("label", { htmlFor: "search-items" }, "Words of its title, what it is about, or its id", search),
        element("button", { className: "main" }, "Search"),
        element("button", { type: "button", onclick: () => edit(null) }, "New item")),
      status),
    editor,
    element("section", {}, element("h2", {}, "Items"), box));
  load();
}

const address = (id) => `items/${encodeURIComponent(id)}`;

// Null where there is no item of this id.
async function byId(id) {
  try {
    return await call("GET", address(id));
  } catch (error) {
    if (error.code !== "unknown_item" && error.code !== "invalid_request") throw error;
    return null;
  }
}

async function load(after = null) {
  const text = search.value.trim();
  const query = new URLSearchParams({ count: PAGE, ...(text ? { search: text, hidden: true } : after ? { after } : {}) });
  await told(status, async () => {
    const [page, one] = await Promise.all([call("GET", `items?${query}`), text && !/^\.+$/.test(text) ? byId(text) : null]);
    const others = one ? page.items.filter((item) => item.item_id !== one.item_id && page.found_by === "words") : page.items;
    const found = one ? [one, ...others] : others;
    seen = { items: after ? [...seen.items, ...found] : found, next: page.next, text, by: one ? "id" : page.found_by };
  });
  if (status.className === "error") box.replaceChildren();
  else render();
}

function render() {
  const { items, next, text, by } = seen;
  if (!items.length) {
    box.replaceChildren(element("p", { className: "quiet" }, text
      ? "Nothing is found."
      : "There are no items yet. They come with the snapshot, by PUT /items/{item_id}, or by “New item”."));
    return;
  }
  box.replaceChildren(
    by === "meaning" ? element("p", { className: "quiet" }, "No title has all of these words. Closest in words and meaning:") : "",
    table("Items", ["Item", "Categories", "Properties", "Shown", "Actions"], items.map(row)),
    next ? element("p", {}, element("button", { type: "button", onclick: () => load(next) }, "Show more")) : "");
}

const row = (item) => ({ cells: [
  [element("span", { className: "title" }, item.text), element("div", { className: "quiet" }, item.item_id)],
  item.categories.flatMap((category) => [element("span", { className: "chip" }, category), " "]),
  element("ul", { className: "plain facts" }, ...Object.entries(item.properties).map(([name, value]) =>
    element("li", {}, element("span", { className: "quiet" }, `${name} `), typeof value === "string" ? value : JSON.stringify(value)))),
  shown(item),
  element("div", { className: "row" },
    element("button", { type: "button", "aria-label": `Edit ${item.text}`, onclick: () => edit(item.item_id) }, "Edit"),
    element("button", { type: "button", className: "danger", "aria-label": `Delete ${item.text}`, onclick: () => remove(item) }, "Delete")),
] });

function shown({ hidden, available_from: from, available_until: until }) {
  const now = Date.now() / 1000;
  if (hidden) return element("span", { className: "chip bad" }, "hidden");
  if (from !== null && now < from) return element("span", { className: "chip" }, `from ${time(from)}`);
  if (until !== null && now >= until) return element("span", { className: "chip bad" }, `not since ${time(until)}`);
  return element("span", { className: "chip good" }, until === null ? "shown" : `until ${time(until)}`);
}

async function remove({ item_id: id, text }) {
  if (!await confirmed(`Delete ${text}?`, "It is not shown any more. Its id keeps its place, so that what was learned of it comes back with it, if it is put again.", "Delete")) return;
  await told(status, async () => {
    await call("DELETE", address(id));
    close();
    await load();
    show(status, `Deleted: ${text}.`);
  });
}

function close() {
  editor.replaceChildren();
}

// What is stored now, and not what the list had: somebody else may have changed it since.
async function edit(id) {
  await told(status, async () => {
    const item = id === null ? null : await call("GET", address(id));
    editor.replaceChildren(form(item));
    editor.scrollIntoView({ block: "nearest" });
    editor.querySelector("input, textarea").focus();
  });
}

function form(item) {
  const id = element("input", { id: "item-id", required: true, maxLength: 256, autocomplete: "off" });
  const text = textarea("item-text", item?.text ?? "", 2, { required: true });
  const categories = textarea("item-categories", (item?.categories ?? []).join("\n"), 3);
  const properties = textarea("item-properties", item && Object.keys(item.properties).length ? pretty(item.properties) : "", 4);
  const from = moment("item-from", item?.available_from ?? null);
  const until = moment("item-until", item?.available_until ?? null);
  const hidden = element("input", { id: "item-hidden", type: "checkbox", checked: item?.hidden ?? false });
  const problem = element("p", { role: "status" });
  const written = () => ({
    text: text.value,
    categories: categories.value.split("\n").map((line) => line.trim()).filter(Boolean),
    properties: object(properties, "Properties") ?? {},
    available_from: seconds(from), available_until: seconds(until),
    hidden: hidden.checked,
  });
  const save = () => told(problem, async () => {
    const stored = item ? await patch(item, written()) : await call("PUT", address(id.value), written());
    close();
    search.value = item ? search.value : stored.item_id;
    await load();
    show(status, `Saved: ${stored.text}.`);
  });
  return element("section", {},
    element("h2", {}, item ? `Edit ${item.text}` : "New item"),
    element("form", { className: "editor", onsubmit: (event) => { event.preventDefault(); save(); } },
      item ? element("p", { className: "quiet" }, `Id: ${item.item_id}`) : field("Id", id),
      field("Text", text, "What a person would read first: a title."),
      field("Categories", categories, "One a line."),
      field("Properties", properties, 'Facts to filter by, as JSON: {"price": 12.5, "tags": ["new"]}.'),
      element("div", { className: "row" }, field("Available from", from), field("Available until", until)),
      element("label", { className: "check", htmlFor: "item-hidden" }, hidden, " Hidden: kept, but never shown"),
      element("div", { className: "row" },
        element("button", { className: "main" }, "Save"),
        element("button", { type: "button", onclick: close }, "Cancel")),
      problem));
}

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

// Sends what was changed here alone, so that another writer's price or stock stays.
async function patch(item, after) {
  const changes = {};
  for (const name of ["text", "categories", "hidden", "available_from", "available_until"]) {
    if (!same(item[name], after[name])) changes[name] = after[name];
  }
  const properties = {};
  for (const name of new Set([...Object.keys(item.properties), ...Object.keys(after.properties)])) {
    if (!same(item.properties[name], after.properties[name])) properties[name] = after.properties[name] ?? null;
  }
  if (Object.keys(properties).length) changes.properties = properties;
  if (!Object.keys(changes).length) throw new Refused("Nothing was changed.");
  return call("PATCH", address(item.item_id), changes);
}

// A time in this browser's time zone. What is not touched stays to the fraction of a second.
function moment(id, at) {
  const input = element("input", { id, type: "datetime-local", step: 1 });
  if (at !== null) input.value = new Date(1000 * at - 60_000 * new Date(1000 * at).getTimezoneOffset()).toISOString().slice(0, 19);
  return Object.assign(input, { stored: at, first: input.value });
}

function seconds(input) {
  if (input.value === input.first) return input.stored;
  return input.value ? new Date(input.value).getTime() / 1000 : null;
}
