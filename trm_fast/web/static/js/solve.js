// The page Solve: a puzzle to type, paste, generate or upload, and the answer step by step.

import { addressOf, writeAddress } from "./address.js";
import { get, isAbort, post, sendFile, stream } from "./api.js";
import { announce, button, check, el, field, numberOf, option, save, showProblem } from "./dom.js";
import { Grid } from "./grid.js";
import { ModelChoice } from "./models.js";
import { SolverOptions } from "./options.js";
import { Player } from "./player.js";

const DIFFICULTY = { 4: { easy: 6, medium: 9, hard: 11 }, 6: { easy: 14, medium: 20, hard: 25 }, 9: { easy: 36, medium: 46, hard: 53 } };

export class SolvePage {
  constructor(panel) {
    this.models = new ModelChoice((model) => this.useModel(model), (entry) => !entry.task.startsWith("tool-"));
    this.player = new Player();
    this.options = new SolverOptions(() => this.edited());
    this.live = check("Solve while typing", true, () => {});
    this.solveButton = button("Solve", () => this.solve(), { class: "first" });
    this.stopButton = button("Stop", () => this.abort?.abort(), { disabled: true });
    this.text = el("textarea", { rows: 5, spellcheck: "false", "aria-label": "Puzzle as text", onpaste: () => setTimeout(() => this.read(), 0) });
    this.paste = el("details", {}, el("summary", { text: "Puzzle as text: paste any format that trm-fast solve reads" }), this.text,
      el("div", { class: "row" }, button("Read the text", () => this.read())));
    this.size = el("select", { onchange: () => this.chooseSize() });
    this.difficulty = el("select", {}, ["easy", "medium", "hard", "as trained"].map((name) => option(name)));
    this.difficulty.value = "medium";
    this.seed = el("input", { type: "number", min: 0, value: 1 });
    this.file = el("input", { type: "file", accept: ".csv,.json,.jsonl,.opensudoku,.png,.sdk,.sdm,.ss,.tsv,.txt,.xml", onchange: () => this.readFile() });
    this.questions = el("select", { onchange: () => this.useQuestion(this.found[Number(this.questions.value)]) });
    this.questionField = field("Puzzle of the file", this.questions, { hidden: true });
    this.input = el("div");
    this.about = el("p", { class: "quiet", text: " " });
    panel.append(el("div", { class: "columns" }, this.puzzleCard(), this.answerCard()));
    panel.addEventListener("paste", (event) => this.pasted(event));
    panel.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.target.role === "gridcell" || event.target.getAttribute("role") === "gridcell")) this.solve();
    });
  }

  puzzleCard() {
    this.sizeField = field("Size", this.size);
    this.difficultyField = field("Difficulty", this.difficulty);
    return el("div", { class: "card stack" },
      el("div", {}, el("h2", { text: "Puzzle" }), field("Model", this.models.select), this.about),
      this.input,
      el("div", { class: "row" }, this.solveButton, this.stopButton, button("Clear", () => this.clear()), this.live.label),
      el("div", { class: "fields" }, this.sizeField, this.difficultyField, field("Seed", this.seed), el("div", { class: "field" }, el("span", { text: "\u00a0" }), button("Generate", () => this.generate()))),
      this.paste,
      field("Upload a file (CSV, JSON, JSON Lines, text or PNG)", this.file), this.questionField,
      el("details", {}, el("summary", { text: "Options of the solver" }), this.options.node));
  }

  answerCard() {
    const swatch = (style, text) => el("li", {}, el("span", { class: "swatch", "aria-hidden": "true", ...style }), text);
    this.legend = el("ul", { class: "legend" }, swatch({ "--sure": 1, class: "swatch shaded-key" }, "darker: more confident"), swatch({ class: "swatch flash-key" }, "flash: changed"), swatch({ class: "swatch conflict-key" }, "framed, !: conflict"));
    return el("div", { class: "card" }, el("h2", { text: "Answer" }), this.player.node, this.legend,
      el("div", { class: "row" }, button("Copy link", () => this.copyLink()), button("Save PNG", () => this.savePicture()), button("Save JSON", () => this.saveJson())));
  }

  async open(address) {
    await this.models.load(address.model);
    if (address.puzzle) await this.usePuzzle(address.puzzle);
    else await this.generate();
  }

  async show(model, puzzle) {
    await this.models.refresh();
    if (this.model?.name !== model) await this.models.choose(model);
    await this.usePuzzle(puzzle);
    await this.solve();
  }

  async useModel(model) {
    const same = this.model && JSON.stringify(model.view) === JSON.stringify(this.model.view);
    this.model = model;
    this.about.textContent = `${model.parameters.toLocaleString("en-US")} parameters, ${model.depth} layers of effective depth per step`;
    const sizes = this.models.entries.filter((entry) => entry.task === model.task && entry.size && entry.kind !== "run");
    this.size.replaceChildren(...[...new Set(sizes.map((entry) => String(entry.size)))].map((size) => option(size, `${size} × ${size}`)));
    this.size.value = String(model.size ?? "");
    this.sizeField.hidden = this.size.options.length < 2 && !model.size;
    this.difficultyField.hidden = model.task !== "sudoku";
    if (same) {
      this.edited();
      return;
    }
    const view = model.view;
    const editable = view.kind === "grid" && view.palette !== "colors";
    this.grid = view.kind === "grid" ? new Grid(view, { label: "Puzzle", onEdit: editable ? () => this.edited() : null }) : null;
    this.input.replaceChildren(...(this.grid ? [this.grid.node, ...(editable ? [this.grid.keys()] : [])] : []));
    this.paste.open = !editable;
    this.live.label.hidden = !editable;
    this.player.clear(view);
    this.text.value = "";
    if (this.ready) await this.generate();
    this.ready = true;
  }

  chooseSize() {
    const entry = this.models.entries.find((each) => each.task === this.model.task && String(each.size) === this.size.value && each.kind !== "run");
    if (entry) this.models.choose(entry.name).catch(showProblem);
  }

  puzzle() {
    const editable = this.grid?.onEdit;
    return editable ? this.grid.text() : this.text.value;
  }

  edited() {
    if (this.grid?.onEdit) this.text.value = this.grid.text();
    this.remember();
    if (this.live.box.checked && this.grid?.onEdit) this.solve({ quiet: true });
  }

  remember() {
    if (this.active) writeAddress({ tab: "solve", model: this.model.name, puzzle: this.puzzle() });
  }

  async attempt(action) {
    showProblem(null);
    try {
      await action();
    } catch (error) {
      if (!isAbort(error)) showProblem(error);
    }
  }

  usePuzzle(text) {
    return this.attempt(async () => this.useQuestion(await post("/api/parse", { model: this.model.name, puzzle: text })));
  }

  useQuestion(question) {
    this.abort?.abort();
    this.text.value = question.text;
    if (this.grid && question.cells) this.grid.draw({ cells: question.cells, question: this.grid.onEdit ? null : question.cells });
    this.player.clear(this.model.view);
    this.player.question = question;
    this.player.grid?.draw({ cells: question.cells, question: question.cells });
    this.remember();
  }

  read() {
    return this.usePuzzle(this.text.value);
  }

  pasted(event) {
    const text = event.clipboardData?.getData("text") || "";
    if (event.target === this.text || event.target.tagName === "INPUT" || text.trim().length < 2) return;
    event.preventDefault();
    this.usePuzzle(text).then(() => this.live.box.checked && this.solve());
  }

  generate() {
    return this.attempt(async () => {
      if (!this.model.view.generates) return;
      const blanks = this.model.task === "sudoku" ? DIFFICULTY[this.model.view.rows]?.[this.difficulty.value] : null;
      const question = await get("/api/generate", { model: this.model.name, seed: numberOf(this.seed) ?? 0, ...(blanks ? { blanks } : {}) });
      this.useQuestion(question);
      this.seed.value = (numberOf(this.seed) ?? 0) + 1;
      announce("A new puzzle is there.");
    });
  }

  readFile() {
    return this.attempt(async () => {
      const file = this.file.files[0];
      if (!file) return;
      this.found = (await sendFile("/api/upload", file, { model: this.model.name })).questions;
      this.questions.replaceChildren(...this.found.map((question, i) => option(i, question.where || `puzzle ${i + 1}`)));
      this.questionField.hidden = this.found.length < 2;
      this.useQuestion(this.found[0]);
      announce(`${this.found.length} puzzles were read.`);
    });
  }

  clear() {
    if (this.grid?.onEdit) {
      this.grid.draw({ cells: Array(this.grid.cells.length).fill(this.grid.empty) });
      this.text.value = this.grid.text();
    } else this.text.value = "";
    this.abort?.abort();
    this.player.clear(this.model.view);
    this.player.grid?.draw({ cells: this.player.grid.cells.map(() => this.player.grid.empty) });
    this.remember();
    showProblem(null);
  }

  async solve({ quiet = false } = {}) {
    this.abort?.abort();
    const abort = (this.abort = new AbortController());
    this.events = [];
    this.stopButton.disabled = false;
    showProblem(null);
    const body = { model: this.model.name, puzzle: this.puzzle(), options: this.options.value() };
    try {
      await stream("/api/stream", body, (event) => {
        if (abort !== this.abort) return;
        this.events.push(event);
        if (event.event === "question") this.player.begin(event);
        else if (event.event === "step") this.player.add(event);
        else this.player.finish(event);
      }, { signal: abort.signal });
    } catch (error) {
      if (!isAbort(error) && abort === this.abort) {
        this.player.clear(this.model.view);
        this.player.verdict.replaceChildren(el("strong", { class: "bad", text: error.message }));
        if (!quiet) showProblem(error);
      }
    } finally {
      if (abort === this.abort) this.stopButton.disabled = true;
    }
  }

  async copyLink() {
    const link = addressOf({ tab: "solve", model: this.model.name, puzzle: this.puzzle() });
    writeAddress({ tab: "solve", model: this.model.name, puzzle: this.puzzle() });
    try {
      await navigator.clipboard.writeText(link);
      announce("The link is in the clipboard.");
    } catch {
      announce("The link is in the address bar.");
    }
  }

  async savePicture() {
    const grid = this.player.grid || this.grid;
    if (grid) save("answer.png", await grid.png());
    else showProblem("only grids can be saved as pictures");
  }

  saveJson() {
    const data = { model: this.model.name, puzzle: this.puzzle(), options: this.options.value(), events: this.events || [] };
    save("answer.json", new Blob([JSON.stringify(data, null, 1)], { type: "application/json" }));
  }
}
