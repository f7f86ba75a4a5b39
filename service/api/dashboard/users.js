// Users: what is kept of one, and forgetting them.

import { call, confirmed } from "./api.js";
import { element } from "./dom.js";
import { show, told } from "./editor.js";
import { actAs, responses } from "./try.js";

let status, name, box;

export function open(main) {
  status = element("p", { role: "status" });
  name = element("input", { id: "user-id", maxLength: 256, autocomplete: "off", required: true });
  box = element("div");
  main.append(
    element("section", {},
      element("h2", {}, "Look a user up"),
      element("form", { className: "row", onsubmit: (event) => { event.preventDefault(); look(name.value); } },
        element("label", { htmlFor: "user-id" }, "User id, as your requests name them", name),
        element("button", { className: "main" }, "Look up")),
      status),
    box);
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
