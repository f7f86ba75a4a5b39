// One time chart by uPlot, in the page's colours, with bands where there are intervals.

import { element } from "./dom.js";

const DARK = matchMedia("(prefers-color-scheme: dark)");
const open = new Set();
DARK.addEventListener("change", () => open.forEach((chart) => chart.rebuild()));

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export class Chart {
  // `arms` names its curves: "adaptive", "control", or "all" for one that is of no arm.
  constructor(title, arms, { bands = false, range = null, format }) {
    Object.assign(this, { title, arms, bands, range, format, plot: null, data: null });
    this.empty = element("p", { className: "empty" }, "…");
    this.root = element("div", { className: "chart", role: "img", "aria-label": title }, this.empty);
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(this.root);
    for (const other of open) if (!other.root.isConnected) open.delete(other);
    open.add(this);
  }

  size() {
    return { width: Math.max(120, this.root.clientWidth), height: Math.max(120, this.root.clientHeight) };
  }

  // What is waited for while there is no curve.
  wait(text) {
    if (this.empty.textContent !== text) this.empty.textContent = text;
  }

  // `curves`: arm -> [{at, mean, low, high}], oldest first. `idle`: times at which nothing happened, where curves end
  // and begin again.
  draw(curves, idle = []) {
    const known = new Set(this.arms.flatMap((arm) => (curves[arm] ?? []).map((point) => point.at)));
    if (known.size < 2) return;
    const [from, to] = [Math.min(...known), Math.max(...known)];
    const breaks = new Set(idle.filter((at) => at > from && at < to));
    const times = [...known, ...breaks].sort((a, b) => a - b);
    const fields = this.bands ? ["mean", "low", "high"] : ["mean"];
    const columns = this.arms.flatMap((arm) => {
      const at = new Map((curves[arm] ?? []).map((point) => [point.at, point]));
      // uPlot draws on over what is undefined, and interrupts the curve where it is null.
      return fields.map((field) => times.map((t) => (breaks.has(t) ? null : at.get(t)?.[field])));
    });
    this.data = [times, ...columns];
    const last = this.arms.map((arm) => curves[arm]?.at(-1)).map((p, n) => p && `${this.arms[n]} ${this.format(p.mean)}`);
    this.root.setAttribute("aria-label", `${this.title}; latest: ${last.filter(Boolean).join(", ")}`);
    if (this.plot) this.plot.setData(this.data);
    else this.rebuild();
  }

  rebuild() {
    if (!this.data) return;
    this.plot?.destroy();
    this.empty.remove();
    const axis = { stroke: colour("quiet"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1 } };
    const each = this.bands ? 3 : 1;
    const series = [{}];
    const bands = [];
    for (const [n, arm] of this.arms.entries()) {
      const stroke = colour(arm === "all" ? "adaptive" : arm);
      series.push({ label: arm, stroke, width: 2, points: { show: true, size: 5, fill: stroke, filter: (plot, place) => alone(plot.data[place]) } });
      if (!this.bands) continue;
      const faint = { stroke: "transparent", width: 0, points: { show: false } };
      series.push({ label: `${arm} low`, ...faint }, { label: `${arm} high`, ...faint });
      const alpha = Math.round(255 * Number(colour("band"))).toString(16).padStart(2, "0");
      bands.push({ series: [each * n + 3, each * n + 2], fill: stroke + alpha });
    }
    this.plot = new uPlot(
      {
        ...this.size(), series, bands,
        legend: { show: false },
        cursor: { y: false, points: { size: 6 } },
        scales: { y: this.range ? { range: this.range } : {} },
        axes: [axis, { ...axis, size: 62, values: (_, splits) => splits.map((v) => this.format(v)) }],
      },
      this.data, this.root,
    );
  }
}

// Places of values that no line leads to or from, which are drawn as points.
function alone(column) {
  const found = [];
  let run = [];
  for (let n = 0; n <= column.length; n++) {
    if (column[n] === undefined && n < column.length) continue;
    if (column[n] !== null && n < column.length) run.push(n);
    else {
      if (run.length === 1) found.push(run[0]);
      run = [];
    }
  }
  return found;
}
