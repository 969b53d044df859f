// The page Train: new runs, their states and curves, and what their newest checkpoints answer.

import { get, post } from "./api.js";
import { announce, button, check, count, el, field, percent, showProblem } from "./dom.js";
import { Grid } from "./grid.js";
import { NewRun } from "./newrun.js";
import { Curves } from "./curves.js";

const POLL = 1500;
const ACTIVE = ["starting", "running"];

export class TrainPage {
  constructor(panel) {
    this.newRun = new NewRun((name) => this.started(name));
    this.curves = new Curves();
    this.chosen = new Set();
    this.rows = el("tbody");
    this.none = el("p", { class: "quiet", text: "There are no runs yet: start one." });
    this.samples = el("div", { class: "samples" });
    this.sampleTitle = el("h2", { text: "Sample predictions" });
    this.log = el("pre", { hidden: true, tabindex: 0, "aria-label": "What the run printed" });
    const head = el("tr", {}, ["", "Run", "State", "Progress", "Exact", ""].map((text, i) => el("th", { scope: "col", class: i === 3 || i === 4 ? "number" : "" }, text || el("span", { class: "hidden-text", text: i ? "Actions" : "Shown" }))));
    panel.append(el("div", { class: "stack" }, this.newRun.node,
      el("div", { class: "card" }, el("h2", { text: "Runs" }), this.none, el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Runs" }, el("table", {}, el("thead", {}, head), this.rows)), this.log),
      el("div", { class: "card stack" }, el("h2", { text: "Curves" }), this.curves.node),
      el("div", { class: "card" }, this.sampleTitle, this.samples)));
  }

  async open() {
    await this.newRun.load();
    await this.refresh();
  }

  set active(active) {
    clearInterval(this.timer);
    if (active) this.timer = setInterval(() => this.refresh(), POLL);
  }

  async started(name) {
    this.chosen.add(name);
    await this.refresh();
    announce(`The run ${name} starts.`);
  }

  async refresh() {
    if (this.refreshing || document.hidden) return;
    this.refreshing = true;
    try {
      this.runs = await get("/api/runs");
      if (!this.chosen.size && this.runs.length) this.chosen.add(this.runs[0].name);
      this.newRun.taken = new Set(this.runs.map((run) => run.name));
      this.draw();
      await this.curves.update(this.runs.filter((run) => this.chosen.has(run.name)));
      await this.updateSamples();
      if (this.lost) showProblem(null);
      this.lost = false;
    } catch (error) {
      this.lost = true;
      showProblem(error);
    } finally {
      this.refreshing = false;
    }
  }

  draw() {
    this.none.hidden = this.runs.length > 0;
    const key = JSON.stringify([this.runs, [...this.chosen]]);
    if (key === this.drawn) return;
    this.drawn = key;
    const focused = document.activeElement?.dataset?.key;
    this.rows.replaceChildren(...this.runs.map((run) => this.row(run)));
    if (focused) this.rows.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
    const failed = this.runs.find((run) => run.state === "failed" && this.chosen.has(run.name) && run.log);
    this.log.hidden = !failed;
    if (failed) this.log.textContent = `${failed.name}:\n${failed.log}`;
  }

  row(run) {
    const shown = el("input", { type: "checkbox", "aria-label": `Show ${run.name}`, "data-key": `show ${run.name}`, onchange: (event) => this.toggle(run.name, event.target.checked) });
    shown.checked = this.chosen.has(run.name);
    const action = (text, verb, body) => button(text, () => this.act(run.name, verb, body), { "aria-label": `${text} ${run.name}`, "data-key": `${verb} ${run.name}` });
    const actions = ACTIVE.includes(run.state) ? [action("Stop", "stop")] : run.task ? [action(run.state === "finished" ? "Extend" : "Resume", "resume", run.state === "finished" ? { steps: 2 * run.steps } : {})] : [];
    const exact = run.summary?.evaluation?.exact_accuracy;
    const tone = { running: "good", starting: "good", failed: "bad" }[run.state] || "quiet";
    return el("tr", {}, el("td", {}, shown), el("th", { scope: "row", text: run.name }), el("td", {}, el("span", { class: `state ${tone}`, text: run.state })),
      el("td", { class: "number", text: `${count(run.step)} / ${count(run.steps)}` }), el("td", { class: "number", text: percent(exact) }), el("td", {}, actions));
  }

  toggle(name, shown) {
    if (shown) this.chosen.add(name);
    else this.chosen.delete(name);
    this.drawn = null;
    this.refresh();
  }

  async act(name, verb, body = {}) {
    showProblem(null);
    try {
      await post(`/api/runs/${encodeURIComponent(name)}/${verb}`, body);
      announce(verb === "stop" ? `${name} saves a checkpoint and stops.` : `${name} continues.`);
      await this.refresh();
    } catch (error) {
      showProblem(error);
    }
  }

  async updateSamples() {
    const run = this.runs.find((each) => this.chosen.has(each.name) && each.checkpoints.length);
    if (!run) {
      this.samples.replaceChildren(el("p", { class: "quiet", text: "They come with the first checkpoint." }));
      this.sampled = null;
      return;
    }
    const key = `${run.name} ${run.checkpoints.at(-1)}`;
    if (key === this.sampled) return;
    const { step, samples, view } = await get(`/api/runs/${encodeURIComponent(run.name)}/samples`);
    this.sampled = `${run.name} ${step}`;
    this.sampleTitle.textContent = `Sample predictions of ${run.name} at step ${step}`;
    this.samples.replaceChildren(...samples.map((sample, i) => this.sample(sample, view, i + 1)));
    if (!samples.length) this.samples.append(el("p", { class: "quiet", text: "This task makes no puzzles of its own to try." }));
  }

  sample({ question, answer }, view, number) {
    const verdict = { true: ["the rules hold", "good"], false: ["breaks the rules", "bad"], null: ["no rules", "quiet"] }[answer.valid];
    const caption = el("figcaption", {}, el("span", { class: verdict[1], text: verdict[0] }), `, ${percent(answer.confidence, 0)}`);
    if (view.kind !== "grid") {
      const text = answer.cells ? `${question.cells.join(", ")} → ${answer.cells.join(", ")}` : `${question.text} → ${answer.text}`;
      return el("figure", {}, caption, el("p", { text }));
    }
    const grid = new Grid(view, { label: `Sample ${number}`, small: true });
    grid.draw({ cells: answer.cells, question: question.cells, confidence: answer.cell_confidence, conflicts: answer.conflicts });
    grid.nodes[0].tabIndex = -1;
    return el("figure", {}, caption, grid.node);
  }
}
