// Placements: what each place of a page shows, what it earned, and the form that changes it.

import { call, confirmed } from "./api.js";
import { element, number, table, whole } from "./dom.js";
import { field, object, pretty, show, textarea, told } from "./editor.js";

const REPEATS = { "": "as the service does", never: "never", when_empty: "when nothing else is left", freely: "freely" };
let status, box, editor;

export function open(main) {
  status = element("p", { role: "status" });
  box = element("div", {}, element("p", { className: "quiet" }, "Loading…"));
  editor = element("div");
  main.append(
    element("section", {},
      element("div", { className: "row" },
        element("h2", {}, "Placements"),
        element("button", { type: "button", onclick: () => edit("", null) }, "New placement"),
        element("button", { type: "button", onclick: load }, "Refresh")),
      element("p", { className: "quiet" }, "A placement is a place of a page, mail or app, which requests name. What is stored of it holds for requests that do not say otherwise. Rewards are means a slate with 95% intervals."),
      status),
    editor,
    element("section", {}, element("h2", {}, "What they show and earn"), box));
  load();
}

const address = (name) => `placements/${encodeURIComponent(name)}`;

async function load() {
  await told(status, async () => {
    const [{ placements }, evaluation] = await Promise.all([call("GET", "placements"), call("GET", "evaluation")]);
    box.replaceChildren(all(placements, evaluation.placements));
  });
  if (status.className === "error") box.replaceChildren();
}

function all(stored, earned) {
  const names = [...new Set([...Object.keys(stored), ...Object.keys(earned)])].sort();
  if (!names.length) return element("p", { className: "quiet" }, "No placement is stored, and no closed slate was of one. A request names one as “placement”; what it always wants is stored here or by PUT /placements/{name}.");
  return table("Placements", ["Placement", "Shows", "Earned", "Actions"], names.map((name) => ({ cells: [
    name,
    Object.hasOwn(stored, name) ? settings(stored[name]) : element("span", { className: "quiet" }, "Nothing is stored: requests alone say."),
    Object.hasOwn(earned, name) ? arms(earned[name]) : element("span", { className: "quiet" }, "No slate of it has been closed yet."),
    element("div", { className: "row" },
      element("button", { type: "button", "aria-label": `Edit ${name}`, onclick: () => edit(name, stored[name] ?? null) }, "Edit"),
      Object.hasOwn(stored, name) ? element("button", { type: "button", className: "danger", "aria-label": `Delete ${name}`, onclick: () => remove(name) }, "Delete") : null),
  ] })));
}

// What is set beside what has a field or words of its own here: releases add to it, and none of it may be lost.
const others = (of, ...known) => Object.fromEntries(Object.entries(of ?? {}).filter(([name, value]) =>
  !known.includes(name) && value !== null && !(Array.isArray(value) && !value.length)));

const beside = (stored) => others(stored, "k", "filters", "rules", "repeat");

function settings(stored) {
  const { k, filters, rules, repeat } = stored;
  const { pins = [], boosts = [], at_most: limits = [] } = rules ?? {};
  const rest = { ...others(rules, "pins", "boosts", "at_most"), ...beside(stored) };
  const said = [
    k ? `${k} ${k === 1 ? "slot" : "slots"}` : null,
    filters?.categories?.length ? `only ${filters.categories.join(" or ")}` : null,
    filters?.where ? `only where ${JSON.stringify(filters.where)}` : null,
    ...pins.map(({ slot, item_id: item }) => `${item} at slot ${slot}`),
    ...boosts.map(({ where, by }) => `${by > 0 ? "+" : ""}${number(by)} log odds where ${JSON.stringify(where)}`),
    ...limits.map(({ of, n }) => `at most ${n} with the same ${of}`),
    repeat ? `repeats: ${REPEATS[repeat] ?? repeat}` : null,
    ...Object.entries(rest).map(([name, value]) => `${name}: ${JSON.stringify(value)}`),
  ].filter(Boolean);
  return element("ul", { className: "plain facts" }, ...(said.length ? said : ["nothing of its own"]).map((text) => element("li", {}, text)));
}

const arms = (earned) => element("ul", { className: "plain facts" }, ...Object.entries(earned).map(([arm, one]) =>
  element("li", { className: arm }, `${arm} ${number(one.reward_mean)} (${number(one.reward_low)} to ${number(one.reward_high)}), ${whole(one.impressions)} ${one.impressions === 1 ? "slate" : "slates"}`)));

function close() {
  editor.replaceChildren();
}

async function remove(name) {
  if (!await confirmed(`Delete ${name}?`, "What it shows is forgotten. Requests may go on to name it, and what it earned stays.", "Delete")) return;
  await told(status, async () => {
    await call("DELETE", address(name));
    close();
    await load();
    show(status, `Deleted: ${name}.`);
  });
}

function edit(name, stored) {
  const named = element("input", { id: "placement-name", value: name, required: true, maxLength: 64, pattern: "[A-Za-z0-9_.:\\-]+", title: "letters, digits and _ . : -", autocomplete: "off", readOnly: Boolean(name) });
  const k = element("input", { id: "placement-k", type: "number", min: 1, step: 1, value: stored?.k ?? "" });
  const repeat = element("select", { id: "placement-repeat" }, ...Object.entries(REPEATS).map(([value, text]) => element("option", { value, selected: value === (stored?.repeat ?? "") }, text)));
  const filters = textarea("placement-filters", pretty(stored?.filters), 4);
  const rules = textarea("placement-rules", pretty(stored?.rules), 8);
  const rest = textarea("placement-rest", stored && Object.keys(beside(stored)).length ? pretty(beside(stored)) : "", 3);
  const problem = element("p", { role: "status" });
  const save = () => told(problem, async () => {
    const written = { ...object(rest, "All else"), k: k.value ? Number(k.value) : null, repeat: repeat.value || null, filters: object(filters, "Filters"), rules: object(rules, "Rules") };
    await call("PUT", address(named.value), Object.fromEntries(Object.entries(written).filter(([, value]) => value !== null)));
    close();
    await load();
    show(status, `Saved: ${named.value}. It holds within a second.`);
  });
  editor.replaceChildren(element("section", {},
    element("h2", {}, name ? `Edit ${name}` : "New placement"),
    element("form", { className: "editor", onsubmit: (event) => { event.preventDefault(); save(); } },
      field("Name", named, "As requests name it, such as home."),
      field("Slots", k, "Where a request does not say how many; 10 without either."),
      field("Items that were shown before come again", repeat),
      field("Filters", filters, 'JSON: {"categories": ["Drama"], "where": {"price": {"<": 9}}}. A request restricts further.'),
      field("Rules", rules, 'JSON: {"pins": [{"slot": 0, "item_id": "a"}], "boosts": [{"where": {"sale": true}, "by": 0.7}], "at_most": [{"of": "categories", "n": 2}]}. A request that has rules replaces them.'),
      field("All else", rest, 'JSON: {"repeat_after_days": 30, "exclude_feedback_types": ["purchase"]}.'),
      element("div", { className: "row" },
        element("button", { className: "main" }, "Save"),
        element("button", { type: "button", onclick: close }, "Cancel")),
      problem)));
  editor.scrollIntoView({ block: "nearest" });
  (name ? k : named).focus();
}
