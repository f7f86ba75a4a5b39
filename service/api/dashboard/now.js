// Now: what the service does at this moment, and how the arms have done over time.

import { Chart } from "./chart.js";
import { element, number, percent, span, whole } from "./dom.js";

const CARDS = {
  version: "Version in service", age: "Its age", items: "Items", requests: "Requests a second",
  latency: "Latency p50 / p99", lag: "Feedback lag", closed: "Slates learned from",
  fresh: "Slots of new items",
};
const POINTS = 150;
const FEWEST = 20; // slates of a window
const LEAST_IDLE_S = 20;
let fields, charts, legend;

export function open(main, received) {
  fields = Object.fromEntries(Object.keys(CARDS).map((name) => [name, element("dd", {}, "…")]));
  legend = { adaptive: element("span"), control: element("span") };
  charts = {
    reward: new Chart("Reward a slate", ["adaptive", "control"], { bands: true, format: (v) => number(v, 3) }),
    weight: new Chart("Learned share of the mixture", ["adaptive"], { range: [0, 1], format: percent }),
    entropy: new Chart("Entropy of the policy, nats", ["adaptive", "control"], { format: (v) => number(v, 3) }),
    coverage: new Chart("Share of items shown by the last 1,000 slates", ["all"], { format: percent }),
    lag: new Chart("Feedback lag, seconds", ["all"], { format: (v) => number(v, 2) }),
  };
  main.append(
    element("dl", { className: "cards" },
      ...Object.entries(CARDS).map(([name, title]) => element("div", { className: "card" }, element("dt", {}, title), fields[name]))),
    element("div", { className: "charts" },
      element("section", { className: "wide" },
        element("h2", {}, "What the arms earn"),
        element("p", { className: "quiet" }, "Mean reward a slate over the latest slates of each arm, with a 95% interval as if slates were independent. The control always sees the pre-trained policy."),
        charts.reward.root,
        element("ul", { className: "legend" },
          element("li", { className: "adaptive" }, element("span", {}, "Adaptive "), legend.adaptive),
          element("li", { className: "control" }, element("span", {}, "Control "), legend.control))),
      ...["weight", "entropy", "coverage", "lag"].map((name) =>
        element("section", {}, element("h2", {}, charts[name].title), charts[name].root))),
  );
  update(received);
}

export function update(received) {
  if (received.now) {
    tell(received.now);
    for (const chart of Object.values(charts)) chart.wait(waitedFor(received.now));
  }
  draw(received.moments);
}

// Why there is no curve yet.
function waitedFor({ closed, open, reward_window_s: window }) {
  const closes = `A slate is closed ${span(window)} after it was shown (IALP_REWARD_WINDOW_S), with the next event of the log`;
  if (!closed && !open) return `No slate has been shown yet. ${closes}; curves begin then.`;
  if (!closed) return `No slate has been closed yet, ${whole(open)} ${open === 1 ? "is" : "are"} open. ${closes}; curves begin then.`;
  return `${whole(closed)} ${closed === 1 ? "slate has" : "slates have"} been closed; a curve begins once an arm has had ${FEWEST}, and goes on as more are closed.`;
}

function tell(now) {
  const text = {
    version: now.mode ? `${now.version}` : "none",
    age: span(now.age_s),
    items: whole(now.items),
    requests: number(now.requests.per_second, 3),
    latency: now.requests.p50_ms === null ? "–" : `${number(now.requests.p50_ms, 2)} / ${number(now.requests.p99_ms, 2)} ms`,
    lag: span(now.lag_s),
    closed: whole(now.closed),
    fresh: now.new_share === null ? "–" : percent(now.new_share),
  };
  for (const [name, value] of Object.entries(text)) fields[name].textContent = value;
  if (now.new_reward !== null) {
    fields.fresh.append(" ", element("small", {}, `earn ${number(now.new_reward, 2)}, all ${number(now.slot_reward, 2)}`));
  }
  if (now.mode) fields.version.append(" ", element("small", {}, [now.variant, now.mode].join(", ")));
}

function draw(moments) {
  const arms = { adaptive: windows(moments, "adaptive"), control: windows(moments, "control") };
  for (const [name, points] of Object.entries(arms)) {
    const last = points.at(-1);
    legend[name].textContent = last ? `${number(last.mean, 3)} (${number(last.low, 3)} to ${number(last.high, 3)})` : "–";
  }
  const idle = idleTimes(moments.map(([at]) => at));
  charts.reward.draw({ adaptive: arms.adaptive, control: arms.control }, idle);
  const series = (points, field) => points.map((point) => ({ at: point.at, mean: point[field] }));
  charts.weight.draw({ adaptive: series(arms.adaptive, "weight") }, idle);
  charts.entropy.draw({ adaptive: series(arms.adaptive, "entropy"), control: series(arms.control, "entropy") }, idle);
  const thin = moments.filter((_, n) => n % Math.ceil(moments.length / (2 * POINTS) || 1) === 0);
  charts.coverage.draw({ all: thin.map(([at, , coverage]) => ({ at, mean: coverage })) }, idle);
  charts.lag.draw({ all: thin.map(([at, , , lag]) => ({ at, mean: lag })) }, idle);
}

// A time within each long while in which no slate was closed, so that no curve is drawn through it: long against the
// usual time between moments, and to be seen in the picture.
export function idleTimes(times) {
  const between = times.slice(1).map((at, n) => at - times[n]);
  if (!between.length) return [];
  const usual = between.slice().sort((a, b) => a - b)[between.length >> 1];
  const long = Math.max(LEAST_IDLE_S, 10 * usual, (times.at(-1) - times[0]) / 50);
  return between.flatMap((seconds, n) => (seconds > long ? [times[n] + seconds / 2] : []));
}

// Means over a window of an arm's latest slates, at some moments. Counts are sums since the log began, so a window is
// the difference of two moments; where they step back, a worker went on from an earlier checkpoint.
export function windows(moments, arm) {
  const sums = [];
  for (const [at, , , , arms] of moments) {
    const [n, reward, squares, weight, entropy] = arms[arm] ?? [0, 0, 0, 0, 0];
    if (n > 0) {
      while (sums.length && sums.at(-1).n >= n) sums.pop();
      sums.push({ at, n, reward, squares, weight, entropy });
    }
  }
  if (!sums.length) return [];
  const width = Math.max(100, (sums.at(-1).n - sums[0].n) / 15);
  const step = Math.max(1, Math.floor(sums.length / POINTS));
  const points = [];
  const nothing = { n: 0, reward: 0, squares: 0, weight: 0, entropy: 0 };
  let first = 0;
  for (let last = 0; last < sums.length; last++) {
    while (first + 1 < last && sums[last].n - sums[first + 1].n >= width) first++;
    const whole = sums[last].n - sums[first].n >= width;
    if (sums[last].n < FEWEST) continue; // no spread to speak of
    if (!whole && sums[0].n > 20 * width) continue; // what came before the history would be most of it
    const from = whole ? sums[first] : nothing;
    if ((sums.length - 1 - last) % step) continue;
    const n = sums[last].n - from.n;
    const of = (field) => (sums[last][field] - from[field]) / n;
    const mean = of("reward");
    const half = 1.96 * Math.sqrt(Math.max(0, of("squares") - mean * mean) / Math.max(1, n - 1));
    points.push({ at: sums[last].at, mean, low: mean - half, high: mean + half, weight: of("weight"), entropy: of("entropy") });
  }
  return points;
}
