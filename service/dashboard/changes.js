// What a user's answers changed, in plain words with small bars: against a stranger, and by the last answer alone.

import { call } from "./api.js";
import { element, percent } from "./dom.js";

const LEAST = 0.005; // of the slots, or of slates for an item: smaller changes are not told
const ROWS = 6;
const SEED = 1; // alike at every turn, so that what changes is the user

export async function changes(user, k) {
  try {
    return await told(user, k);
  } catch (error) {
    if (error.code !== "no_policy") throw error;
    return [];
  }
}

async function told(user, k) {
  const ask = (baseline) => call("POST", "preview", { user_id: user, k, baseline, seed: SEED });
  const against = await ask([]);
  const last = against.history.findLastIndex((past) => past.reward !== 0);
  if (last < 0) return [element("p", { className: "quiet" }, "Nothing yet: like something, or say that it is not for them.")];
  const before = await ask(against.history.filter((_, n) => n !== last));
  const item = against.history[last];
  const title = (await call("POST", "explain", { user_id: user, item_ids: [item.item_id] })).items[0]?.text || item.item_id;
  const did = item.reward > 0 ? "liking" : "disliking";
  return [...part("Compared with a stranger", against, "a stranger’s"), ...part(`By ${did} ${title}`, before, "before")];
}

function part(title, answer, other) {
  const moved = percent(answer.comparison.total_variation);
  const rows = answer.categories.length ? ofCategories(answer, other) : ofItems(answer, other);
  const shown = rows.filter((row) => Math.abs(row.now - row.then) >= LEAST)
    .sort((a, b) => Math.abs(b.now - b.then) - Math.abs(a.now - a.then)).slice(0, ROWS)
    .sort((a, b) => (b.now - b.then) - (a.now - a.then));
  return [
    element("h3", {}, title),
    element("p", { className: "quiet" }, `${moved} of the slots go to other items.`),
    element("ul", { className: "plain changes" }, ...(shown.length ? shown.map(entry) : [element("li", { className: "quiet" }, "No kind is noticeably more or less likely.")])),
  ];
}

const ofCategories = (answer, other) => answer.categories.map((one) => ({
  name: one.category, now: one.share, then: one.baseline_share,
  words: `${percent(one.share)} of the slots, ${other} ${percent(one.baseline_share)}`,
}));

const ofItems = (answer, other) => [...answer.comparison.more_likely, ...answer.comparison.less_likely].map((one) => ({
  name: one.text || one.item_id, now: one.in_slate, then: one.baseline_in_slate,
  words: `in ${percent(one.in_slate)} of slates, ${other} ${percent(one.baseline_in_slate)}`,
}));

function entry({ name, now, then, words }) {
  const bar = element("span", { className: "bar", "aria-hidden": "true" }, element("i"), element("b"));
  bar.children[0].style.width = percent(Math.min(now, 1));
  bar.children[1].style.left = percent(Math.min(then, 1));
  return element("li", { className: now > then ? "more" : "less" },
    element("span", { className: "title" }, name),
    element("span", {}, now > then ? " more likely" : " less likely"),
    bar, element("span", { className: "quiet" }, words));
}
