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
    this.empty = element("p", { className: "empty" }, "No slates have been closed yet.");
    this.root = element("div", { className: "chart", role: "img", "aria-label": title }, this.empty);
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(this.root);
    for (const other of open) if (!other.root.isConnected) open.delete(other);
    open.add(this);
  }

  size() {
    return { width: Math.max(120, this.root.clientWidth), height: Math.max(120, this.root.clientHeight) };
  }

  // `curves`: arm -> [{at, mean, low, high}], oldest first.
  draw(curves) {
    const times = [...new Set(this.arms.flatMap((arm) => (curves[arm] ?? []).map((point) => point.at)))].sort((a, b) => a - b);
    if (times.length < 2) return;
    const fields = this.bands ? ["mean", "low", "high"] : ["mean"];
    const columns = this.arms.flatMap((arm) => {
      const at = new Map((curves[arm] ?? []).map((point) => [point.at, point]));
      return fields.map((field) => times.map((t) => at.get(t)?.[field] ?? null));
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
      series.push({ label: arm, stroke, width: 2, spanGaps: true, points: { show: false } });
      if (!this.bands) continue;
      const faint = { stroke: "transparent", width: 0, spanGaps: true, points: { show: false } };
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
