// The page Evaluate: a model on a data set, and every example with its result.

import { isAbort, stream } from "./api.js";
import { Chart } from "./charts.js";
import { announce, button, check, count, el, field, numberOf, percent, showProblem } from "./dom.js";
import { ModelChoice } from "./models.js";
import { SolverOptions } from "./options.js";

const PAGE = 50;

export class EvaluatePage {
  /** watch(model, puzzle): shows a puzzle on the page Solve. */
  constructor(panel, watch) {
    this.watch = watch;
    this.models = new ModelChoice((model) => (this.model = model));
    this.file = el("input", { type: "file", accept: ".csv,.json,.jsonl,.txt" });
    this.limit = el("input", { type: "number", min: 1, max: 2000, value: 200 });
    this.options = new SolverOptions();
    this.startButton = button("Evaluate", () => this.start(), { class: "first" });
    this.stopButton = button("Stop", () => this.abort?.abort(), { disabled: true });
    this.progress = el("progress", { max: 1, value: 0, "aria-label": "Evaluated" });
    this.note = el("p", { class: "quiet", role: "status", text: "\u00a0" });
    this.compute = new Chart("Accuracy by steps allowed", { x: "step", range: () => [0, 1], format: (value) => `${Math.round(100 * value)} %`, colors: ["#2f6fe0", "#8a93a5", "#8a93a5"] });
    this.summary = el("div");
    this.groups = el("div");
    this.confusion = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Confusions" });
    this.failures = check("Failures only", true, () => this.page(0));
    this.rows = el("tbody");
    this.pageLine = el("span", { class: "quiet" });
    this.results = el("div", { class: "stack", hidden: true }, el("div", { class: "columns" }, el("div", { class: "card" }, this.summary), el("div", { class: "card" }, this.compute.node)),
      el("div", { class: "columns" }, el("div", { class: "card" }, this.groups), el("div", { class: "card" }, this.confusion)), this.exampleCard());
    panel.append(el("div", { class: "stack" },
      el("div", { class: "card stack" }, el("h2", { text: "Evaluation" }),
        el("div", { class: "fields wide" }, field("Model", this.models.select), field("Examples at most", this.limit), field("File with answers; without one, the model's own test set", this.file)),
        el("details", {}, el("summary", { text: "Options of the solver" }), this.options.node),
        el("div", { class: "row" }, this.startButton, this.stopButton), this.progress, this.note), this.results));
  }

  exampleCard() {
    const head = el("tr", {}, ["Example", "Result", "Confidence", "Steps", "Difficulty", "Question", ""].map((text, i) => el("th", { scope: "col", class: i > 1 && i < 5 ? "number" : "" }, text || el("span", { class: "hidden-text", text: "Watch" }))));
    return el("div", { class: "card" }, el("h2", { text: "Examples" }),
      el("div", { class: "row" }, this.failures.label, button("Back", () => this.page(this.from - PAGE)), button("Next", () => this.page(this.from + PAGE)), this.pageLine),
      el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Examples" }, el("table", {}, el("thead", {}, head), this.rows)));
  }

  async open(address) {
    await this.models.load(address.model);
  }

  async start() {
    const abort = (this.abort = new AbortController());
    const file = this.file.files[0];
    const limit = numberOf(this.limit) ?? 200;
    const model = this.models.select.value;
    showProblem(null);
    this.startButton.disabled = true;
    this.stopButton.disabled = false;
    this.progress.value = 0;
    this.note.textContent = "preparing the examples";
    try {
      const [path, body] = file ? ["/api/evaluate/upload", { model, limit }] : ["/api/evaluate", { model, limit, options: { ...this.options.value(), budget: numberOf(this.options.budget) ?? 60 } }];
      await stream(path, body, (event) => this.take(event, model), { signal: abort.signal, file });
    } catch (error) {
      this.note.textContent = isAbort(error) ? "stopped" : "\u00a0";
      if (!isAbort(error)) showProblem(error);
    } finally {
      this.startButton.disabled = false;
      this.stopButton.disabled = true;
    }
  }

  take(event, model) {
    if (event.event === "progress") {
      this.progress.max = event.count;
      this.progress.value = event.done;
      this.note.textContent = `${count(event.done)} of ${count(event.count)}`;
    } else if (event.event === "note") {
      this.note.textContent = event.note;
    } else {
      this.result = event;
      this.evaluated = model;
      this.show();
    }
  }

  show() {
    const result = this.result;
    this.results.hidden = false;
    const interval = (bounds) => `${percent(bounds[0])} to ${percent(bounds[1])}`;
    const known = ["exact_accuracy", "cell_accuracy", "interval", "count", "mean_steps", "converged", "valid", "coverage", "puzzles_per_second"];
    const facts = [
      ["Exact accuracy", `${percent(result.exact_accuracy)} (95 %: ${interval(result.interval)})`], ["Cell accuracy", percent(result.cell_accuracy)],
      ["Answers that obey the rules", percent(result.valid)], ["Examples", count(result.count)], ["Supervision steps", result.mean_steps.toFixed(2)],
      ["Halted by themselves", percent(result.converged)], ["With an answer", percent(result.coverage)], ["Examples per second", count(result.puzzles_per_second)],
      ["Data", result.source],
    ];
    const skipped = new Set([...known, "event", "source", "model", "flop_per_step", "compute", "difficulty", "difficulty_means", "confusion", "examples", "seconds", "answered_accuracy"]);
    for (const [name, value] of Object.entries(result)) if (!skipped.has(name) && typeof value === "number") facts.push([name.replaceAll("_", " "), value.toFixed(4)]);
    this.summary.replaceChildren(el("table", {}, el("caption", { text: result.model }), el("tbody", {}, facts.map(([name, value]) => el("tr", {}, el("th", { scope: "row", text: name }), el("td", { class: "number", text: value }))))));
    this.compute.node.hidden = !result.compute;
    if (result.compute) {
      const points = result.compute;
      this.compute.set(["exact accuracy", "95 %, lower", "95 %, upper"], [points.map((p) => p.max_steps), points.map((p) => p.accuracy), points.map((p) => p.interval[0]), points.map((p) => p.interval[1])]);
      this.compute.resize();
    }
    this.showGroups(result);
    this.showConfusion(result.confusion);
    this.note.textContent = `${percent(result.exact_accuracy)} of ${count(result.count)} exactly right`;
    announce(this.note.textContent);
    this.failures.box.checked = result.examples.some((example) => !example.right);
    this.page(0);
  }

  showGroups({ difficulty, difficulty_means: meaning }) {
    if (!difficulty) {
      this.groups.replaceChildren(el("h2", { text: "By difficulty" }), el("p", { class: "quiet", text: "This task has no measure of difficulty." }));
      return;
    }
    const rows = difficulty.map((group) => el("tr", {}, el("th", { scope: "row", text: group.from === group.to ? group.from : `${group.from} to ${group.to}` }), el("td", { class: "number", text: count(group.count) }),
      el("td", {}, el("div", { class: "bar", "aria-hidden": "true" }, el("span", { "--share": group.accuracy }))), el("td", { class: "number", text: percent(group.accuracy) }), el("td", { class: "number quiet", text: `${percent(group.interval[0], 0)} to ${percent(group.interval[1], 0)}` })));
    const head = el("tr", {}, [meaning, "Count", "", "Exact", "95 %"].map((name) => el("th", { scope: "col" }, name || el("span", { class: "hidden-text", text: "Bar" }))));
    this.groups.replaceChildren(el("h2", { text: "By difficulty" }), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Accuracy by difficulty" }, el("table", {}, el("thead", {}, head), el("tbody", {}, rows))));
  }

  showConfusion(confusion) {
    if (!confusion) {
      this.confusion.replaceChildren(el("h2", { text: "Confusions" }), el("p", { class: "quiet", text: "This task has too many symbols, or none." }));
      return;
    }
    const { symbols, counts } = confusion;
    const head = el("tr", {}, el("th", { scope: "col", text: "right \\ answered" }), symbols.map((symbol) => el("th", { scope: "col", class: "number", text: symbol })));
    const rows = counts.map((line, i) => {
      const total = Math.max(1, line.reduce((sum, value) => sum + value, 0));
      return el("tr", {}, el("th", { scope: "row", text: symbols[i] }), line.map((value, j) => el("td", { class: i === j || !value ? "" : "bad", "--share": i === j ? value / total : Math.min(1, (4 * value) / total), text: value })));
    });
    this.confusion.replaceChildren(el("h2", { text: "Confusions" }), el("table", { class: "confusion" }, el("thead", {}, head), el("tbody", {}, rows)));
  }

  page(from) {
    const examples = this.result.examples.filter((example) => !this.failures.box.checked || !example.right);
    this.from = Math.max(0, Math.min(from, Math.floor(Math.max(0, examples.length - 1) / PAGE) * PAGE));
    const shown = examples.slice(this.from, this.from + PAGE);
    this.pageLine.textContent = examples.length ? `${this.from + 1} to ${this.from + shown.length} of ${examples.length}` : "none";
    this.rows.replaceChildren(...shown.map((example) => this.row(example)));
  }

  row(example) {
    const result = example.right ? ["right", "good"] : example.valid ? ["another valid answer", "good"] : ["wrong", "bad"];
    const text = (example.text || "").replaceAll("\n", " ");
    const watch = example.text ? button("Watch", () => this.watch(this.evaluated, example.text), { "aria-label": `Watch example ${example.number}` }) : "";
    return el("tr", {}, el("th", { scope: "row", text: example.number }), el("td", {}, el("span", { class: result[1], text: result[0] })), el("td", { class: "number", text: percent(example.confidence) }), el("td", { class: "number", text: example.steps }),
      el("td", { class: "number", text: example.difficulty ?? "–" }), el("td", {}, el("code", { text: text.length > 48 ? `${text.slice(0, 48)}…` : text })), el("td", {}, watch));
  }
}
