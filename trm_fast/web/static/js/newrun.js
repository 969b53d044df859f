// The form of a new run: a preset with all its keys, their values, defaults and meanings.

import { get, post } from "./api.js";
import { button, el, field, option, showProblem } from "./dom.js";

const FIXED = ["task.name", "data.source", "data.test"];

export class NewRun {
  constructor(onStart) {
    this.onStart = onStart;
    this.taken = new Set();
    this.preset = el("select", { onchange: () => this.choose() });
    this.other = el("select", { onchange: () => this.compare() });
    this.name = el("input", { type: "text", maxlength: 64, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", autocomplete: "off" });
    this.filter = el("input", { type: "text", placeholder: "such as rate, steps, noise", oninput: () => this.narrow() });
    this.sections = el("div");
    this.difference = el("div", { hidden: true });
    this.startButton = button("Start training", () => this.start(), { class: "first" });
    this.node = el("div", { class: "card stack" }, el("h2", { text: "New run" }),
      el("div", { class: "fields" }, field("Preset", this.preset), field("Name of the run", this.name), field("Compare with", this.other)),
      el("div", { class: "row" }, this.startButton), this.difference, field("Find a key", this.filter), this.sections);
  }

  async load() {
    if (this.preset.options.length) return;
    const names = await get("/api/presets");
    this.preset.replaceChildren(...names.map((name) => option(name)));
    this.other.replaceChildren(option("", "nothing"), ...names.map((name) => option(name)));
    this.preset.value = "sudoku-4x4";
    await this.choose();
  }

  async choose() {
    showProblem(null);
    try {
      const { keys } = await get(`/api/presets/${encodeURIComponent(this.preset.value)}`);
      this.keys = keys;
      this.inputs = new Map();
      const names = [...new Set(keys.map((key) => key.name.split(".")[0]))];
      this.sections.replaceChildren(...names.map((name) => this.section(name)));
      this.name.value = this.freeName();
      this.narrow();
      await this.compare();
    } catch (error) {
      showProblem(error);
    }
  }

  freeName() {
    let [name, number] = [this.preset.value, 1];
    while (this.taken.has(name)) name = `${this.preset.value}-${++number}`;
    return name;
  }

  section(name) {
    const keys = this.keys.filter((key) => key.name.split(".")[0] === name);
    const head = el("tr", {}, ["Key", "Value", "Default", "Meaning"].map((text) => el("th", { scope: "col", text })));
    const table = el("table", { class: "keys" }, el("thead", {}, head), el("tbody", {}, keys.map((key) => this.row(key))));
    return el("details", {}, el("summary", { text: `${name} (${keys.length} keys)` }), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Keys of ${name}` }, table));
  }

  row(key) {
    const label = `Value of ${key.name}`;
    const fixed = FIXED.includes(key.name) || key.set_by === "task" || key.type.includes("section");
    let input;
    if (key.choices && !fixed) {
      input = el("select", { "aria-label": label }, key.choices.map((choice) => option(text(choice))));
    } else {
      input = el("input", { type: "text", "aria-label": label, disabled: fixed, title: key.type });
    }
    input.value = text(key.value);
    const row = el("tr", {}, el("th", { scope: "row", text: key.name.split(".").slice(1).join(".") }), el("td", {}, input), el("td", { text: text(key.default) }), el("td", { text: `${key.meaning} (${key.type})` }));
    row.dataset.words = `${key.name} ${key.meaning}`.toLowerCase();
    input.addEventListener("change", () => row.classList.toggle("edited", input.value !== text(key.value)));
    this.inputs.set(key.name, { key, input });
    return row;
  }

  narrow() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const section of this.sections.children) {
      const rows = [...section.querySelectorAll("tbody tr")];
      for (const row of rows) row.hidden = !words.every((word) => row.dataset.words.includes(word));
      section.hidden = rows.every((row) => row.hidden);
      if (words.length) section.open = true;
    }
  }

  async compare() {
    const other = this.other.value;
    this.difference.hidden = !other;
    if (!other) return;
    const { keys } = await get(`/api/presets/${encodeURIComponent(this.preset.value)}`, { diff: other });
    const head = el("tr", {}, ["Key", this.preset.value, other, "Meaning"].map((name) => el("th", { scope: "col", text: name })));
    const rows = keys.map((row) => el("tr", {}, el("th", { scope: "row", text: row.key }), el("td", { text: text(row.value) }), el("td", { text: text(row.other) }), el("td", { text: row.meaning })));
    this.difference.replaceChildren(el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Differences" }, el("table", {}, el("caption", { text: `${keys.length} keys differ` }), el("thead", {}, head), el("tbody", {}, rows))));
  }

  settings() {
    const settings = {};
    for (const [name, { key, input }] of this.inputs) {
      if (!input.disabled && input.value !== text(key.value)) settings[name] = valueOf(input.value, name);
    }
    return settings;
  }

  async start() {
    showProblem(null);
    this.startButton.disabled = true;
    try {
      const run = await post("/api/runs", { preset: this.preset.value, name: this.name.value.trim(), settings: this.settings() });
      this.taken.add(run.name);
      await this.onStart(run.name);
      this.name.value = this.freeName();
    } catch (error) {
      showProblem(error);
    } finally {
      this.startButton.disabled = false;
    }
  }
}

function text(value) {
  return value === null || value === undefined ? "none" : typeof value === "string" ? value : JSON.stringify(value);
}

/** The value of a field: JSON, none, or a name. */
function valueOf(written, name) {
  const value = written.trim();
  if (value === "none" || value === "") return null;
  try {
    return JSON.parse(value);
  } catch {
    if (/^[[{"]/.test(value)) throw new Error(`${name}: ${value} is not valid JSON`);
    return value;
  }
}
