// Users: what is kept of one, and forgetting them; and the imports of what users did elsewhere.

import { call, confirmed, Refused } from "./api.js";
import { element, span, table, time, whole } from "./dom.js";
import { show, told } from "./editor.js";
import { actAs, responses } from "./try.js";

const LOOKED_S = 3; // between looks at the imports
const SILENT_S = 60; // after which one that tells nothing may have been killed
let status, name, box, imports, looked, known;

export function open(main) {
  status = element("p", { role: "status" });
  name = element("input", { id: "user-id", maxLength: 256, autocomplete: "off", required: true });
  box = element("div");
  imports = element("div", {}, element("p", { className: "quiet" }, "Loading…"));
  main.append(
    element("section", {},
      element("h2", {}, "Look a user up"),
      element("form", { className: "row", onsubmit: (event) => { event.preventDefault(); look(name.value); } },
        element("label", { htmlFor: "user-id" }, "User id, as your requests name them", name),
        element("button", { className: "main" }, "Look up")),
      status),
    box,
    element("section", {},
      element("h2", {}, "Imports of what users did before"),
      element("p", { className: "quiet" }, "Runs of python -m service import, the latest first."),
      imports));
  looked = 0;
  known = null;
  lookAtImports(Date.now() / 1000);
}

export function update(received) {
  if (received.now && performance.now() - looked >= 1000 * LOOKED_S) lookAtImports(received.now.at);
}

const address = (id) => `users/${encodeURIComponent(id)}`;

async function look(id) {
  box.replaceChildren();
  await told(status, async () => {
    const [user, titles] = await Promise.all([call("GET", address(id)), titlesOf(id)]);
    box.replaceChildren(element("section", {},
      element("h2", {}, id),
      element("p", {}, `In the ${user.arm} arm. ${count(user.history.length, "response")} kept, ${count(user.seen_item_ids.length, "item")} seen.`),
      element("div", { className: "row" },
        element("button", { type: "button", onclick: () => actAs(id) }, "Try it as this user"),
        element("button", { type: "button", className: "danger", onclick: () => erase(id) }, "Erase")),
      element("h3", {}, "What they did, latest first"),
      element("ul", { className: "plain" }, ...responses(user.history.map((past) => ({ ...past, text: titles.get(past.item_id) })), "Nothing: they have seen items and answered none.")),
      element("details", {}, element("summary", {}, `${count(user.seen_item_ids.length, "item")} that they have seen`),
        element("ul", {}, ...user.seen_item_ids.map((item) => element("li", {}, item))))));
  });
}

const count = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;

// By item, where a policy is loaded: without one nobody tells titles.
async function titlesOf(id) {
  try {
    const { history } = await call("POST", "explain", { user_id: id, item_ids: ["-"] });
    return new Map(history.map((past) => [past.item_id, past.text]));
  } catch (error) {
    if (error.code !== "no_policy") throw error;
    return new Map();
  }
}

async function erase(id) {
  if (!await confirmed(`Erase ${id}?`, "What is kept of this user, and of the visitors without an account that they were, is deleted for good: history, slates and feedback in the log.", "Erase")) return;
  await told(status, async () => {
    const gone = await call("DELETE", address(id));
    box.replaceChildren(element("section", {},
      element("h2", {}, `${id} is erased`),
      element("p", {}, `Deleted: ${gone.session ? "what was kept of them" : "nothing kept of them"}, ${count(gone.impressions, "slate")}, ${count(gone.feedback, "event")} of feedback, ${count(gone.dead_letters, "dead letter")}.`),
      element("h3", {}, "What remains"),
      element("ul", {}, ...gone.remains.map((text) => element("li", {}, text)))));
    show(status, "Erased.");
  });
}

// `now`: the service's time.
async function lookAtImports(now) {
  const into = imports;
  looked = performance.now();
  try {
    const received = await call("GET", "imports");
    const news = JSON.stringify(received);
    if (news === known && !received.imports.some(runs)) return; // what is being read stays as it is
    known = news;
    into.replaceChildren(received.imports.length
      ? table("Imports", ["File", "Began", "State", "Taken", "Left out"], received.imports.map((one) => row(one, now)))
      : element("p", { className: "quiet" }, "There was none yet. python -m service import --interactions FILE makes what users did elsewhere part of their histories, and is seen here while it runs."));
  } catch (error) {
    if (!(error instanceof Refused || error instanceof TypeError)) throw error;
    known = null;
    into.replaceChildren(element("p", { className: "error", role: "alert" }, `Imports cannot be read: ${error.message}`));
  }
}

const runs = ({ state }) => state === "reading" || state === "writing";

function row(one, now) {
  const silent = now - one.told_at;
  const done = one.changed + one.same;
  const state = {
    reading: ["reads the file, ", `${whole(one.rows)} rows so far`],
    writing: [`writes histories, ${whole(done)} of ${whole(one.users ?? 0)} users so far `, element("meter", { min: 0, max: Math.max(1, one.users ?? 0), value: done, "aria-hidden": "true" })],
    done: [element("span", { className: "chip good" }, "done"), ` in ${span(one.told_at - one.started_at)}`],
    stopped: [element("span", { className: "chip bad" }, "interrupted"), " The same command takes the others."],
    failed: [element("span", { className: "chip bad" }, "failed"), ` ${one.problem}`],
  }[one.state];
  const texts = (list) => element("ul", { className: "plain facts" }, ...list.map((text) => element("li", {}, text)));
  return { cells: [
    one.file,
    time(one.started_at),
    [...state, runs(one) && silent > SILENT_S ? element("div", { className: "error" }, `Nothing was heard of it for ${span(silent)}: it may have been killed.`) : null],
    texts([
      one.state === "done" ? `${whole(one.interactions)} interactions` : `${whole(one.rows)} rows read`,
      `${whole(one.changed)} histories changed, ${whole(one.same)} had it all`,
      ...one.notes,
    ]),
    one.left_out.length ? texts(one.left_out) : one.state === "done" ? "nothing" : "–",
  ] };
}
