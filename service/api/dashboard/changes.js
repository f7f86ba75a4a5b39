// What a user's answers changed, in plain words with small bars: against a stranger, and by the last answer alone.

import { call } from "./api.js";
import { element, percent } from "./dom.js";

const LEAST = 0.005; // of the slots, or of slates for an item: smaller changes are not shown
const ROWS = 6;
const SEED = 1; // alike at every turn, so that what changes is the user

// `history` and `arm` as /explain tells them. Asked for nobody in particular, so that what was shown already counts, too.
export async function changes({ history, arm }, k) {
  const last = history.findLastIndex((past) => past.reward !== 0);
  if (last < 0) return [element("p", { className: "quiet" }, "Nothing yet: like something, or say that it is not for them.")];
  const answers = history.map(({ item_id, reward }) => ({ item_id, reward }));
  const ask = (baseline) => call("POST", "preview", { arm, k, history: answers, baseline, seed: SEED });
  const [against, before] = await Promise.all([ask([]), ask(answers.filter((_, n) => n !== last))]);
  const { text, item_id, reward } = history[last];
  return [
    ...part("Compared with a stranger", against, "a stranger’s"),
    ...part(`By ${reward > 0 ? "liking" : "disliking"} ${text || item_id}`, before, "before"),
  ];
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
    element("ul", { className: "plain changes" }, ...(shown.length ? shown.map(entry) : [element("li", { className: "quiet" }, "Nothing is noticeably more or less likely.")])),
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
