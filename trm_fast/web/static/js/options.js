// The solver's options as fields of a form.

import { check, el, field, numberOf } from "./dom.js";

export class SolverOptions {
  constructor(onChange = () => {}) {
    const number = (attributes) => el("input", { type: "number", onchange: onChange, ...attributes });
    this.steps = number({ min: 1, max: 256, placeholder: "model's own" });
    this.rollouts = number({ min: 1, max: 128, placeholder: "model's own" });
    this.noise = number({ min: 0, max: 10, step: "any", placeholder: "model's own" });
    this.symmetries = number({ min: 1, max: 128, placeholder: "model's own" });
    this.hints = number({ min: 0, max: 80, placeholder: "model's own" });
    this.budget = number({ min: 0.1, max: 60, step: "any", placeholder: "30" });
    this.seed = number({ min: 0, value: 0 });
    this.all = check("Run all steps, without halting", false, onChange);
    this.node = el("div", { class: "fields" },
      field("Steps at most", this.steps), field("Tries with noise", this.rollouts), field("Noise", this.noise), field("Symmetries", this.symmetries),
      field("Hints", this.hints), field("Budget, seconds", this.budget), field("Seed of tries", this.seed), this.all.label);
  }

  value() {
    const fields = {
      max_steps: this.steps, rollouts: this.rollouts, noise: this.noise, symmetries: this.symmetries,
      hints: this.hints, budget: this.budget, seed: this.seed,
    };
    const given = Object.entries(fields).map(([name, input]) => [name, numberOf(input)]).filter(([, value]) => value !== null);
    return { ...Object.fromEntries(given), halt: !this.all.box.checked };
  }
}
