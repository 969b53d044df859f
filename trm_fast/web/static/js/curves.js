// Live curves of several runs, overlaid: loss and its parts, accuracies, halting steps, speed, learning rate.

import { get } from "./api.js";
import { Chart, COLORS } from "./charts.js";
import { check, el, field } from "./dom.js";

const share = (value) => `${(100 * value).toFixed(0)} %`;
const small = (value) => (value === 0 ? "0" : Math.abs(value) < 0.01 ? value.toExponential(0) : String(Number(value.toPrecision(3))));
const METRICS = [
  { key: "loss", title: "Loss", loss: true, format: small },
  { key: "answer_loss", title: "Loss of the answer", loss: true, format: small },
  { key: "halting_loss", title: "Loss of halting", loss: true, format: small },
  { key: "exact_accuracy", title: "Exact accuracy in training", range: [0, 1], format: share },
  { key: "cell_accuracy", title: "Cell accuracy in training", range: [0, 1], format: share },
  { key: "eval_exact_accuracy", title: "Exact accuracy on unseen examples", range: [0, 1], format: share },
  { key: "mean_steps", title: "Supervision steps until halting", format: small },
  { key: "rate", title: "Sample-steps per second", format: (value) => Math.round(value).toLocaleString("en-US") },
  { key: "learning_rate", title: "Learning rate", format: small },
];

export class Curves {
  constructor() {
    this.records = new Map(); // by run: records and the next offset
    this.smoothing = el("input", { type: "range", min: 0, max: 0.98, step: 0.02, value: 0, oninput: () => this.draw() });
    this.logarithmic = check("Logarithmic loss", false, () => this.draw());
    this.legend = el("ul", { class: "legend" });
    this.charts = METRICS.map((metric) => new Chart(metric.title, { range: metric.range ? () => metric.range : null, format: metric.format, height: 170 }));
    this.node = el("div", { class: "stack" }, el("div", { class: "row" }, field("Smoothing", this.smoothing), this.logarithmic.label), this.legend,
      el("div", { class: "charts" }, this.charts.map((chart) => chart.node)));
  }

  /** Reads what the runs have logged since. */
  async update(runs) {
    let changed = JSON.stringify(runs.map((run) => run.name)) !== this.shown;
    this.shown = JSON.stringify(runs.map((run) => run.name));
    this.names = runs.map((run) => run.name);
    for (const name of this.names) {
      const known = this.records.get(name) || { offset: 0, records: [] };
      for (;;) {
        const news = await get(`/api/runs/${encodeURIComponent(name)}/metrics`, { offset: known.offset });
        if (news.reset) known.records = [];
        known.records.push(...news.records);
        known.offset = news.offset;
        changed ||= news.records.length > 0 || news.reset;
        if (!news.more) break;
      }
      this.records.set(name, known);
    }
    if (changed) this.draw();
  }

  draw() {
    const names = this.names || [];
    const marks = names.map((name, i) => el("li", {}, el("span", { class: "swatch", "aria-hidden": "true", "--swatch": COLORS[i % COLORS.length] }), name));
    this.legend.replaceChildren(...marks);
    METRICS.forEach((metric, i) => {
      const lines = names.map((name) => smoothed(pointsOf(this.records.get(name).records, metric.key), Number(this.smoothing.value)));
      const steps = [...new Set(lines.flatMap((line) => [...line.keys()]))].sort((one, two) => one - two);
      this.charts[i].options.logarithmic = Boolean(metric.loss && this.logarithmic.box.checked);
      if (this.charts[i].scale !== this.charts[i].options.logarithmic) this.charts[i].names = ["changed"];
      this.charts[i].scale = this.charts[i].options.logarithmic;
      this.charts[i].set(names, [steps, ...lines.map((line) => steps.map((step) => line.get(step) ?? null))]);
    });
  }
}

/** The values of a metric by step. */
function pointsOf(records, key) {
  const points = new Map();
  let previous = null;
  for (const record of records) {
    if (key !== "rate") {
      if (typeof record[key] === "number") points.set(record.step, record[key]);
    } else if ("loss" in record) {
      const time = previous && record.seconds - previous.seconds;
      if (time > 0) points.set(record.step, (record.sample_steps - previous.sample_steps) / time);
      previous = record;
    }
  }
  return points;
}

/** Exponential moving averages, corrected at their start. */
function smoothed(points, weight) {
  if (!weight) return points;
  const result = new Map();
  let [sum, total] = [0, 0];
  for (const [step, value] of points) {
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    result.set(step, sum / total);
  }
  return result;
}
