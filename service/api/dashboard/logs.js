// Logs: what was shown lately and what came back, what could not be read, and the log as a file.

import { call, confirmed, download, Refused } from "./api.js";
import { element, number, probability, table, time } from "./dom.js";

let shown, dead, status;

export function open(main) {
  status = element("p", { role: "status" });
  shown = element("div", {}, element("p", { className: "quiet" }, "Loading…"));
  dead = element("div", {}, element("p", { className: "quiet" }, "Loading…"));
  main.append(
    element("section", {},
      element("h2", {}, "The log as a file"),
      element("div", { className: "row" },
        element("button", { type: "button", className: "main", onclick: (event) => save(event.currentTarget, "parquet", "log.parquet") }, "Download Parquet"),
        element("button", { type: "button", onclick: (event) => save(event.currentTarget, "obp", "bandit_feedback.npz") }, "Download for Open Bandit Pipeline"),
        element("span", { className: "quiet" }, "Closed slates with propensities and rewards.")),
      status),
    element("section", {},
      element("div", { className: "row" }, element("h2", {}, "Latest slates"), element("button", { type: "button", onclick: load }, "Refresh")),
      shown),
    element("section", {}, element("h2", {}, "Dead letters"),
      element("p", { className: "quiet" }, "Entries of the log that the worker could not use."), dead));
  load();
}

async function load() {
  await Promise.all([fill(shown, "impressions?count=50", slates), fill(dead, "dead-letters?count=100", letters)]);
}

async function fill(box, path, made) {
  try {
    box.replaceChildren(made(await call("GET", path)));
  } catch (error) {
    if (!(error instanceof Refused || error instanceof TypeError)) throw error;
    box.replaceChildren(element("p", { className: "error", role: "alert" }, `This cannot be read: ${error.message}`));
  }
}

function slates(received) {
  if (!received.impressions.length) return element("p", { className: "quiet" }, "No slate has been shown yet: POST /recommend shows one, and so does Try it.");
  return table("Latest slates", ["When", "User", "Policy", "Shown"], received.impressions.map((one) => {
    const answered = one.items.filter((item) => item.reward !== null);
    return { cells: [
      time(one.at),
      one.user,
      [`version ${one.policy_version}, ${one.arm}`, element("div", { className: "quiet" }, `learned share ${number(one.weight, 2)}, entropy ${number(one.entropy, 3)}`)],
      [answered.length ? element("div", {}, ...answered.flatMap((item) => [element("span", { className: item.reward > 0 ? "chip good" : "chip" }, `${item.text || item.item_id}: ${number(item.reward, 2)}`), " "])) : element("div", { className: "quiet" }, "nothing came back yet"),
        element("details", {}, element("summary", {}, `${one.items.length} items`),
          element("ol", {}, ...one.items.map((item) => element("li", {}, `${item.text || item.item_id} `, element("span", { className: "quiet" }, probability(item.propensity))))))],
    ] };
  }));
}

function letters(received) {
  if (!received.dead_letters.length) return element("p", { className: "quiet" }, "There are none.");
  return table("Dead letters", ["Entry", "Why", "Actions"], received.dead_letters.map((one) => ({ cells: [
    one.entry_id,
    one.reason,
    element("div", { className: "row" },
      element("button", { type: "button", "aria-label": `Replay ${one.entry_id}`, onclick: () => act("POST", `dead-letters/${one.entry_id}:replay`) }, "Replay"),
      element("button", { type: "button", className: "danger", "aria-label": `Discard ${one.entry_id}`, onclick: () => discard(one.entry_id) }, "Discard")),
  ] })));
}

async function act(method, path) {
  await tell(async () => {
    await call(method, path);
    await load();
  });
}

async function discard(id) {
  if (await confirmed("Discard this entry?", "It is deleted for good, and cannot be replayed any more.", "Discard")) await act("DELETE", `dead-letters/${id}`);
}

async function save(button, form, name) {
  button.disabled = true;
  await tell(() => download(`log:export?form=${form}`, name));
  button.disabled = false;
}

async function tell(work) {
  status.className = "";
  status.textContent = "";
  try {
    await work();
  } catch (error) {
    if (!(error instanceof Refused || error instanceof TypeError)) throw error;
    status.className = "error";
    status.textContent = error.message;
  }
}
