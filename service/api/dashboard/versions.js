// Versions: where each came from, what the gate found, and the levers.

import { call, confirmed, Refused } from "./api.js";
import { element, number, percent, span, table, time } from "./dom.js";

const AT_ONCE = 25;
const REASONS = {
  off_policy: "recent slates say that it would have earned less",
  unproven: "recent slates cannot tell what it would earn, and it is far from what serves",
  not_finite: "its numbers are not finite",
  learning_failed: "a learning step failed",
};
let box, status, fresh, seen, every;

export function open(main) {
  seen = null;
  every = false;
  status = element("p", { role: "status" });
  fresh = element("span", { role: "status" });
  box = element("div", {}, element("p", { className: "quiet" }, "Loading…"));
  main.append(
    element("section", {},
      element("h2", {}, "Levers"),
      element("div", { className: "row" },
        element("button", { type: "button", onclick: rollBack }, "Roll back"),
        element("button", { type: "button", className: "danger", onclick: freeze }, "Freeze"),
        element("span", { className: "quiet" }, "Roll back: the version before serves again, and is held. Freeze: everybody gets the pre-trained policy at once.")),
      status),
    element("section", {}, element("div", { className: "row" }, element("h2", {}, "Versions"), fresh), box),
  );
  load();
}

export function update(received) {
  const state = received.now && [received.now.version, received.now.mode, received.now.shadow, received.moments.at(-1)?.[1]].join();
  if (seen !== null && state !== seen) news();
  seen = state;
}

// What is being read or pressed is not taken away.
function news() {
  if (!box.contains(document.activeElement) && !box.querySelector("details[open]")) load();
  else if (!fresh.firstChild) fresh.replaceChildren(element("button", { type: "button", onclick: load }, "Versions have changed: show them"));
}

async function load() {
  fresh.replaceChildren();
  try {
    const [policies, evaluation] = await Promise.all([call("GET", "policies"), call("GET", "evaluation")]);
    box.replaceChildren(trust(evaluation.alignment), all(policies, evaluation));
  } catch (error) {
    if (!(error instanceof Refused || error instanceof TypeError)) throw error;
    box.replaceChildren(element("p", { className: "error", role: "alert" }, `Versions cannot be read: ${error.message}`));
  }
}

// How far the language model was right, in users' own answers; before the first, in what could be measured without them.
function trust(alignment) {
  const worth = (name) => `${number(alignment[name])} (${number(alignment[`${name}_low`])} to ${number(alignment[`${name}_high`])})`;
  const texts = [];
  if (alignment.prior_gain_item !== undefined) {
    texts.push(`Measured by users' responses, the language model's judgements of items deserve ${worth("prior_gain_item")} of their weight, those of persons ${worth("prior_gain_personal")}; 1 is all of it, 0 nothing.`);
  } else if (alignment.alignment_prior_share !== undefined) {
    texts.push(`Users' responses cannot tell yet how far the language model is right. Before the first user, its judgements of items were given ${number(100 * alignment.alignment_prior_share)} % of their weight${alignment.alignment_uses_personal ? "" : ", and those of persons none"}.`);
  }
  return element("p", { className: "quiet" }, ...texts);
}

function all(received, evaluation) {
  if (!received.policies.length) return element("p", { className: "quiet" }, "No version has been published yet: a snapshot is the first (IALP_SNAPSHOT).");
  const findings = new Map(evaluation.watch.map((finding) => [finding.since_version, finding]));
  const head = ["Version", "Created", "Gate", "Off-policy value", "Entropy", "Against the control", "Actions"];
  const shown = every ? received.policies : received.policies.filter((one, n) => n < AT_ONCE || one.version === received.live_version);
  const rest = received.policies.length - shown.length;
  const more = rest ? element("p", {}, element("button", { type: "button", onclick: () => { every = true; load(); } }, `Show ${rest} older ones`)) : "";
  return element("div", {}, table("Versions", head, shown.map((one) => row(one, received, findings.get(one.version)))), more);
}

function row(one, received, finding) {
  const live = one.version === received.live_version;
  const gate = one.gate_numbers;
  const chips = [
    live ? element("span", { className: "chip good" }, received.mode === "auto" ? "serves" : `serves, ${received.mode}`) : null,
    one.version === received.shadow_version ? element("span", { className: "chip" }, "shadow version") : null,
    one.parent === null ? element("span", { className: "chip pretrained" }, "pre-trained") : null,
  ].filter(Boolean);
  return { className: live ? "live" : "", cells: [
    [`${one.version} `, ...chips,
      element("div", { className: "quiet" }, one.parent === null ? "the first" : `after ${one.parent}`),
      details(one)],
    one.created_at ? [span(Date.now() / 1000 - one.created_at), " ago", element("div", { className: "quiet date" }, time(one.created_at))] : "–",
    [one.gate_passed ? element("span", { className: "chip good" }, "passed") : element("span", { className: "chip bad" }, "refused"),
      one.gate_share < 1 ? element("div", { className: "quiet" }, `share of ${percent(one.gate_share)} at first`) : null,
      one.gate_reasons.length ? element("div", { className: "error" }, one.gate_reasons.map((reason) => REASONS[reason] ?? reason).join("; ")) : null],
    [gate.off_policy_value === undefined ? "–" : `${number(gate.off_policy_value)} (${number(gate.off_policy_low)} to ${number(gate.off_policy_high)})`,
      gate.ess === undefined ? null : element("div", { className: "quiet" }, `logged ${number(gate.logged_value)}, effective sample ${number(gate.ess)}`)],
    number(gate.entropy),
    finding ? `${number(finding.difference)} (${number(finding.low)} to ${number(finding.high)})` : "–",
    one.gate_passed
      ? element("button", { type: "button", disabled: live && received.mode === "auto", "aria-label": `Activate version ${one.version}`, onclick: () => activate(one) }, "Activate")
      : element("span", { className: "quiet" }, live ? "It serves all the same." : "Not offered, since it was refused."),
  ] };
}

function details(one) {
  const facts = { variant: one.variant, ...prefixed("learner", one.learner), ...prefixed("lineage", one.lineage), ...one.metrics, ...one.gate_numbers };
  return element("details", {}, element("summary", { "aria-label": `All of version ${one.version}` }, "All of it"),
    element("dl", { className: "facts" }, ...Object.entries(facts).flatMap(([name, value]) => [
      element("dt", {}, name), element("dd", {}, typeof value === "number" ? number(value, 4) : typeof value === "string" ? value : JSON.stringify(value)),
    ])),
    one.gate_passed ? null : element("button", { type: "button", className: "danger", "aria-label": `Activate the refused version ${one.version}`, onclick: () => activate(one) }, "Activate it although it was refused"));
}

const prefixed = (prefix, of) => Object.fromEntries(Object.entries(of).map(([name, value]) => [`${prefix}.${name}`, value]));

async function act(path, body, done) {
  try {
    const live = await call("POST", path, body);
    status.className = "";
    status.textContent = `${done} Version ${live.live_version} serves (${live.mode}).`;
    await load();
  } catch (error) {
    if (!(error instanceof Refused || error instanceof TypeError)) throw error;
    status.className = "error";
    status.textContent = error.message;
  }
}

async function activate({ version, gate_passed: passed }) {
  const warning = passed ? "" : "The gate refused it. ";
  if (await confirmed(`Activate version ${version}?`, `${warning}It serves all users of the adaptive arm until a later version passes the gate.`, "Activate", !passed))
    await act(`policies/${version}:activate`, { follow: true, force: !passed }, "Activated.");
}

async function rollBack() {
  if (await confirmed("Roll back?", "The version that served before serves again, and is held: newer ones wait until one is activated.", "Roll back"))
    await act("policies:rollback", undefined, "Rolled back.");
}

async function freeze() {
  if (await confirmed("Freeze?", "Everybody gets the pre-trained policy within a second, until a version is activated.", "Freeze"))
    await act("policies:freeze", undefined, "Frozen.");
}
