// The answer after each supervision step: the cells, the curve of the halting probability, and a bar to move through it.

import { Chart } from "./charts.js";
import { announce, button, el, percent } from "./dom.js";
import { Grid } from "./grid.js";

const STEP_TIME = 350;

export class Player {
  constructor() {
    this.chart = new Chart("Halting probability by step", { height: 150, range: () => [0, 1], format: (v) => `${Math.round(100 * v)} %` });
    this.stage = el("div");
    this.slider = el("input", { type: "range", min: 1, max: 1, value: 1, disabled: true, "aria-label": "Supervision step", oninput: () => this.seek(Number(this.slider.value)) });
    this.output = el("output", { text: "no steps" });
    this.playButton = button("Play", () => this.toggle(), { disabled: true });
    this.back = button("◀", () => this.seek(this.position - 1), { disabled: true, "aria-label": "Previous step" });
    this.forward = button("▶", () => this.seek(this.position + 1), { disabled: true, "aria-label": "Next step" });
    this.tries = el("select", { "aria-label": "Try", hidden: true, onchange: () => this.showTry(Number(this.tries.value)) });
    this.verdict = el("p", { class: "verdict" });
    this.node = el("div", {}, this.stage, el("div", { class: "player" }, this.back, this.playButton, this.forward, this.slider, this.output),
      el("div", { class: "row" }, this.tries), this.verdict, this.chart.node);
    this.clear(null);
  }

  /** Prepares for the answers of a task. */
  clear(view) {
    this.stop();
    if (view !== this.view || !this.grid) this.prepare(view);
    this.view = view;
    this.question = null;
    this.steps = new Map(); // by try
    this.current = 0;
    this.position = 0;
    this.answer = null;
    this.following = true;
    this.verdict.textContent = "";
    this.tries.replaceChildren();
    this.tries.hidden = true;
    this.update();
  }

  prepare(view) {
    this.grid = view?.kind === "grid" ? new Grid(view, { label: "Answer" }) : null;
    this.list = el("ul", { class: "numbers", "aria-label": "Answer" });
    this.text = el("div", { class: "answer-text", "aria-label": "Answer", role: "group" });
    this.stage.replaceChildren(this.grid ? this.grid.node : view?.kind === "numbers" ? this.list : this.text);
  }

  begin(question) {
    this.clear(this.view);
    this.question = question;
    this.grid?.draw({ cells: question.cells, question: question.cells });
    this.list.replaceChildren();
    this.text.textContent = "";
  }

  add(step) {
    if (!this.steps.has(step.try)) {
      this.steps.set(step.try, []);
      if (this.steps.size > 1) {
        if (!this.tries.options.length) this.tries.append(el("option", { value: 0, text: "try 1" }));
        if (step.cells !== undefined) this.tries.append(el("option", { value: step.try, text: `try ${step.try + 1}` }));
        this.tries.hidden = this.tries.options.length < 2;
      }
    }
    this.steps.get(step.try).push(step);
    if (step.try === this.current && this.following) this.seek(this.shown().length);
    else this.update();
  }

  finish(answer) {
    this.answer = answer;
    const rules = { true: ["Solved: the rules hold.", "good"], false: ["Not solved: the answer breaks the rules.", "bad"], null: ["This task has no rules to check.", ""] }[answer.valid];
    const [text, tone] = answer.solution === null ? ["No answer within the limits.", "bad"] : rules;
    const tries = answer.tries > 1 ? `, ${answer.tries} tries` : "";
    const details = `Confidence ${percent(answer.confidence)}; ${answer.steps} step${answer.steps === 1 ? "" : "s"}${tries}; ${answer.converged ? "halted by itself" : "reached the limit of steps"}; ${Math.round(1000 * answer.seconds)} ms.`;
    this.verdict.replaceChildren(el("strong", { class: tone, text }), ` ${details}`);
    announce(`${text} ${details}`);
    if (answer.cells && this.following) this.drawAnswer(answer);
  }

  /** Shows the answer that was chosen, which may come from another try. */
  drawAnswer(answer) {
    const last = this.shown().at(-1);
    if (!last || JSON.stringify(last.cells) !== JSON.stringify(answer.cells)) this.drawCells({ ...answer, cell_confidence: null }, last);
  }

  shown() {
    return this.steps.get(this.current) || [];
  }

  showTry(number) {
    this.current = number;
    this.seek(this.shown().length);
  }

  seek(position) {
    const steps = this.shown();
    this.position = Math.max(1, Math.min(position, steps.length));
    this.following = this.position === steps.length;
    const step = steps[this.position - 1];
    if (step) this.drawCells(step, steps[this.position - 2]);
    this.update();
  }

  drawCells(step, previous) {
    if (this.grid) {
      this.grid.draw({ cells: step.cells, question: this.question.cells, confidence: step.cell_confidence, conflicts: step.conflicts, previous: previous?.cells || this.question.cells });
    } else if (this.view.kind === "numbers") {
      this.list.replaceChildren(...step.cells.map((value) => el("li", { text: value })));
    } else {
      this.text.textContent = step.text ?? "";
    }
  }

  update() {
    const steps = this.shown();
    const none = !steps.length;
    this.slider.max = Math.max(1, steps.length);
    this.slider.value = this.position || 1;
    this.slider.disabled = this.playButton.disabled = none;
    this.back.disabled = this.position <= 1;
    this.forward.disabled = this.position >= steps.length;
    const step = steps[this.position - 1];
    this.output.textContent = step ? `step ${step.step} of ${steps.length}` : "no steps";
    this.slider.setAttribute("aria-valuetext", step ? `step ${step.step}, halting probability ${percent(step.confidence)}` : "no steps");
    const numbers = steps.map((each) => each.step);
    this.chart.set(["halting probability"], [numbers, steps.map((each) => each.confidence)]);
  }

  toggle() {
    if (this.timer) {
      this.stop();
      return;
    }
    if (this.position >= this.shown().length) this.seek(1);
    this.playButton.textContent = "Pause";
    this.timer = setInterval(() => {
      if (this.position >= this.shown().length) this.stop();
      else this.seek(this.position + 1);
    }, STEP_TIME);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.playButton.textContent = "Play";
  }
}
