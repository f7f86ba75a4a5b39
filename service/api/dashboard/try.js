// Try it: be a user, like what you like, and watch the slate change.

import { call, Refused } from "./api.js";
import { changes } from "./changes.js";
import { element, number, probability } from "./dom.js";

const K = 10;
const GUESTS = 12; // strangers that are looked at for one whom the learned policy serves
const ARMS = {
  adaptive: "adaptive arm",
  control: "control arm, which always sees the pre-trained policy",
  fallback: "no policy: the most popular items",
};
let user = null; // kept while the page is open, so that one may look at other views meanwhile
let rewards = { like: 1, dislike: -1 }; // of this deployment's feedback types, as the stream gives them
let view, list, liked, changed, found, status, name, before;

export function open(main, received) {
  before = new Set();
  status = element("p", { className: "quiet", role: "status" }, "Loading…");
  list = element("ol", { className: "slate", "aria-label": "Slate" });
  liked = element("ul", { className: "plain" });
  changed = element("div", { className: "changed", "aria-live": "polite" });
  found = element("ul", { className: "plain", "aria-label": "Search results" });
  name = element("input", { id: "user", value: user ?? "", maxLength: 200, autocomplete: "off", required: true });
  const search = element("input", { id: "search", type: "search", maxLength: 200, autocomplete: "off" });
  main.append(
    element("section", {},
      element("form", { className: "row", onsubmit: (event) => { event.preventDefault(); be(name.value.trim()); } },
        element("label", { htmlFor: "user" }, "User id", name),
        element("button", { className: "main" }, "Show their slate"),
        element("button", { type: "button", onclick: somebodyNew }, "Somebody new"))),
    view = element("div", { className: "try" },
      element("section", {}, element("h2", {}, "Their slate"), status, list),
      element("div", {},
        element("section", {},
          element("h2", {}, "Find something they like"),
          element("form", { className: "row", role: "search", onsubmit: (event) => { event.preventDefault(); look(search.value); } },
            element("label", { htmlFor: "search" }, "Words of its title, or what it is about", search), element("button", {}, "Search")),
          found),
        element("section", {}, element("h2", {}, "What they did"), liked),
        element("section", {}, element("h2", {}, "What it changed"), changed))));
  update(received);
  if (user === null) somebodyNew();
  else recommend();
}

export function update(received) {
  if (received.now) ({ rewards } = received.now);
  view.classList.toggle("no-dislikes", !feedbackType("dislike"));
}

// Opens this view for a user.
export function actAs(who) {
  user = who;
  location.hash = "#try";
}

// The deployment's own type for a like or a dislike: of this name, or else the one that counts most.
function feedbackType(kind) {
  const sign = kind === "like" ? 1 : -1;
  if (rewards[kind] * sign > 0) return kind;
  const [most] = Object.entries(rewards).filter(([, reward]) => reward * sign > 0).sort(([, a], [, b]) => sign * (b - a));
  return most?.[0];
}

// A stranger of the adaptive arm, if there is one soon: with the control there would be no learning to see.
const somebodyNew = () => guarded(async () => {
  let guest;
  for (let n = 0; n < GUESTS; n++) {
    guest = `guest-${Math.random().toString(36).slice(2, 8)}`;
    const { arm } = await explained(guest, ["-"]);
    if (arm !== "control") break;
  }
  be(guest);
});

// Without a policy there is nothing to explain, and yet a slate.
async function explained(who, ids) {
  try {
    return await call("POST", "explain", { user_id: who, item_ids: ids });
  } catch (error) {
    if (error.code !== "no_policy") throw error;
    return { arm: null, items: [], history: [] };
  }
}

function be(who) {
  if (!who) return;
  user = name.value = who;
  before = new Set();
  found.replaceChildren();
  recommend();
}

async function guarded(work) {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof Refused || error instanceof TypeError)) throw error;
    status.className = "error";
    status.textContent = error instanceof TypeError ? "The service does not answer." : error.message;
  }
}

const recommend = () => guarded(async () => {
  const asked = user;
  const slate = await call("POST", "recommend", { user_id: asked, k: K });
  const ids = slate.items.map((item) => item.item_id);
  const why = await explained(asked, ids.length ? ids : ["-"]);
  const differences = why.arm ? await changes(why, K) : [];
  if (asked !== user) return;
  const known = new Map(why.items.map((item) => [item.item_id, item]));
  const hasLiked = why.history.some((past) => past.reward > 0);
  list.replaceChildren(...slate.items.map((item) => entry(item, slate, asked, known.get(item.item_id), hasLiked)));
  before = new Set(ids);
  history(why.history);
  changed.replaceChildren(...differences);
  status.className = "quiet";
  const warnings = slate.warnings.length ? ` (${slate.warnings.join(", ")})` : "";
  status.textContent = slate.items.length
    ? `Version ${slate.policy_version}, ${ARMS[slate.arm]}${warnings}. Shown items do not come again.`
    : `There is nothing left to show${warnings}.`;
});

function entry(item, slate, who, known, hasLiked) {
  const title = known?.text || item.item_id;
  const nearest = (known?.nearest ?? []).filter((near) => near.closeness >= 0.1);
  const reason = nearest.length
    ? `Close to ${nearest.map((near) => `${near.text || near.item_id} (${number(near.closeness, 2)})`).join(", ")}.`
    : hasLiked ? "Nothing they liked is close to it." : "";
  const chance = element("meter", { min: 0, max: 1, value: Math.sqrt(item.propensity), "aria-hidden": "true" });
  return element("li", { className: before.size && !before.has(item.item_id) ? "fresh" : "" },
    element("div", { className: "title" }, title),
    actions(item.item_id, title, slate, who),
    element("div", { className: "facts" },
      ...(known?.categories ?? []).flatMap((category) => [element("span", { className: "chip" }, category), " "]),
      element("span", { className: `chip ${item.source}` }, { pretrained: "pre-trained policy", learned: "learned policy" }[item.source] ?? item.source),
      " propensity ", chance, ` ${probability(item.propensity)}, score ${probability(item.score)}. `, reason));
}

const actions = (item, title, slate, who) => element("div", { className: "actions" },
  element("button", { type: "button", "aria-label": `Like ${title}`, onclick: (event) => respond(item, "like", slate, who, event) }, "Like"),
  element("button", { type: "button", className: "dislike", "aria-label": `Not for me: ${title}`, onclick: (event) => respond(item, "dislike", slate, who, event) }, "Not for me"));

// The response of the user whose slate it was, whoever is named in the form by now.
const respond = (item, kind, slate, who, event) => {
  const buttons = [...event.currentTarget.closest("li").querySelectorAll("button")];
  return guarded(async () => {
    const sent = { event_id: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`, user_id: who, item_id: item, type: feedbackType(kind) ?? kind };
    if (slate) sent.recommendation_id = slate.recommendation_id;
    try {
      for (const button of buttons) button.disabled = true;
      await call("POST", "feedback", sent);
    } catch (error) {
      for (const button of buttons) button.disabled = false;
      throw error;
    }
    await recommend();
  });
};

// Entries of a list: `history` is oldest first.
export function responses(history, nothing) {
  if (!history.length) return [element("li", { className: "quiet" }, nothing)];
  return history.slice().reverse().map((one) => element("li", {},
    element("span", { className: one.reward > 0 ? "chip good" : one.reward < 0 ? "chip bad" : "chip" }, one.reward > 0 ? "liked" : one.reward < 0 ? "disliked" : "seen"),
    " ", one.text || one.item_id));
}

const history = (past) => liked.replaceChildren(...responses(past, "Nothing yet: this user is a stranger. Like something."));

const look = (text) => guarded(async () => {
  if (!text.trim()) return;
  found.replaceChildren(element("li", { className: "quiet" }, "Searching…"));
  const received = await call("GET", `items?count=8&search=${encodeURIComponent(text)}`);
  const results = received.items.map((item) => element("li", { className: "row" },
    element("span", { className: "title" }, item.text), actions(item.item_id, item.text, null, user)));
  const by = received.found_by === "meaning" && results.length ? [element("li", { className: "quiet" }, "No title has all of these words. Closest in meaning:")] : [];
  found.replaceChildren(...(results.length ? [...by, ...results] : [element("li", { className: "quiet" }, "Nothing is found.")]));
});
