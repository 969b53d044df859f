// The list of models, and the control that chooses one.

import { get } from "./api.js";
import { el, option } from "./dom.js";

const TITLES = { named: "Named at the start", shipped: "Shipped with trm_fast", run: "Runs" };

export class ModelChoice {
  /** onChoose(model): called with the description of the chosen model. accepts(entry): which models to list. */
  constructor(onChoose, accepts = () => true) {
    this.onChoose = onChoose;
    this.accepts = accepts;
    this.entries = [];
    this.select = el("select", { onchange: () => this.choose(this.select.value) });
  }

  async load(wanted) {
    this.entries = (await get("/api/models")).filter(this.accepts);
    this.fill();
    const name = this.entries.some((entry) => entry.name === wanted) ? wanted : this.preferred();
    if (name) await this.choose(name);
  }

  /** Lists models that have appeared since. */
  async refresh() {
    this.entries = (await get("/api/models")).filter(this.accepts);
    const chosen = this.select.value;
    this.fill();
    this.select.value = chosen;
  }

  preferred() {
    return (this.entries.find((entry) => entry.kind === "named") || this.entries.find((entry) => entry.task === "sudoku" && entry.size === 9) || this.entries[0])?.name;
  }

  fill() {
    this.select.replaceChildren(
      ...Object.entries(TITLES).map(([kind, label]) => {
        const group = this.entries.filter((entry) => entry.kind === kind);
        return group.length ? el("optgroup", { label }, group.map((entry) => option(entry.name, `${entry.name} (${entry.task})`))) : "";
      }),
    );
  }

  async choose(name) {
    this.select.value = name;
    const model = await get(`/api/models/${name.split("/").map(encodeURIComponent).join("/")}`);
    if (this.select.value === name) await this.onChoose(model);
  }
}
