// Line charts by uPlot, in the colors of the theme.

import uPlot from "../vendor/uplot/uPlot.esm.js";
import { el } from "./dom.js";

export const COLORS = ["#2f6fe0", "#d2691e", "#2e8b57", "#b0368f", "#8a7100", "#0f8b8d", "#c0392b", "#6c5ce7"];
const WHOLE = [1, 2, 5].flatMap((digit) => Array.from({ length: 8 }, (_, power) => digit * 10 ** power)).sort((one, two) => one - two);
const charts = new Set();

function variable(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export class Chart {
  /** caption; series: names; options: height, logarithmic, range of y, x (name), format of y. */
  constructor(caption, options = {}) {
    this.options = { height: 190, logarithmic: false, range: null, x: "step", format: (v) => String(v), ...options };
    this.host = el("div", { class: "chart empty", role: "img", "aria-label": `${caption}: no data yet`, "--height": `${this.options.height}px` });
    this.node = el("figure", { class: "chart-figure" }, el("figcaption", { text: caption }), this.host);
    this.caption = caption;
    this.names = [];
    this.data = [[]];
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.host);
    charts.add(this);
  }

  /** data: the values of x, then those of each series (null where there is none). */
  set(names, data) {
    const same = this.plot && names.length === this.names.length && names.every((name, i) => name === this.names[i]);
    this.names = names;
    this.data = data;
    if (same && this.plot.ready) this.plot.setData(this.visible());
    else this.build();
    const parts = names.map((name, i) => {
      const values = data[i + 1].filter((value) => value !== null);
      return values.length ? `${name}: ${this.options.format(values.at(-1))} at ${this.options.x} ${data[0].at(-1)}` : `${name}: no data`;
    });
    this.host.setAttribute("aria-label", `${this.caption}. ${parts.join("; ") || "no data yet"}`);
  }

  visible() {
    if (!this.options.logarithmic) return this.data;
    return [this.data[0], ...this.data.slice(1).map((values) => values.map((value) => (value > 0 ? value : null)))];
  }

  build() {
    this.plot?.destroy();
    this.plot = null;
    this.host.classList.toggle("empty", !this.data[0].length);
    if (!this.host.clientWidth || !this.data[0].length) return;
    const [ink, line] = [variable("--quiet"), variable("--line")];
    const font = "12px system-ui, 'DejaVu Sans', sans-serif";
    const axis = { stroke: ink, font, grid: { stroke: line, width: 0.5 }, ticks: { stroke: line, width: 0.5, size: 4 } };
    const values = (_, ticks) => ticks.map((tick) => (tick === null ? "" : this.options.format(tick)));
    this.plot = new uPlot(
      {
        width: this.host.clientWidth,
        height: this.options.height,
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false } },
        scales: {
          x: { time: false },
          y: { distr: this.options.logarithmic ? 3 : 1, ...(this.options.range ? { range: this.options.range } : {}) },
        },
        axes: [{ ...axis, incrs: WHOLE }, { ...axis, size: 56, values }],
        series: [{}, ...this.names.map((name, i) => ({
          label: name, stroke: this.options.colors?.[i] || COLORS[i % COLORS.length], width: 2, spanGaps: true,
          points: { show: this.data[0].length < 40, size: 6 },
        }))],
      },
      this.visible(),
      this.host,
    );
  }

  resize() {
    const width = this.host.clientWidth;
    if (!width) return;
    if (!this.plot) this.build();
    else if (this.plot.width !== width) this.plot.setSize({ width, height: this.options.height });
  }
}

/** Draws all charts again, after the theme has changed. */
export function redrawCharts() {
  for (const chart of charts) chart.build();
}
