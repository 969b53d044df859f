// The four pages, the tabs that choose among them, and the theme.

import { readAddress, writeAddress } from "./address.js";
import { redrawCharts } from "./charts.js";
import { showProblem } from "./dom.js";
import { EvaluatePage } from "./evaluate.js";
import { SolvePage } from "./solve.js";
import { ToolsPage } from "./tools.js";
import { TrainPage } from "./train.js";

const NAMES = ["solve", "tools", "train", "evaluate"];
const panel = (name) => document.getElementById(`page-${name}`);
const tab = (name) => document.getElementById(`tab-${name}`);

const pages = {
  solve: new SolvePage(panel("solve")),
  tools: new ToolsPage(panel("tools")),
  train: new TrainPage(panel("train")),
  evaluate: new EvaluatePage(panel("evaluate"), async (model, puzzle) => {
    await choose("solve");
    tab("solve").focus();
    await pages.solve.show(model, puzzle);
  }),
};
const opened = {};

async function choose(name, address = {}) {
  for (const each of NAMES) {
    panel(each).hidden = each !== name;
    tab(each).setAttribute("aria-selected", String(each === name));
    tab(each).tabIndex = each === name ? 0 : -1;
    pages[each].active = each === name;
  }
  if (name !== "solve" || opened.solve) writeAddress({ tab: name });
  showProblem(null);
  try {
    if (!opened[name]) panel(name).setAttribute("aria-busy", "true"); // hides the page, so that nothing moves while it fills
    opened[name] ??= pages[name].open(address);
    await opened[name];
    if (name === "solve") pages.solve.remember();
    redrawCharts();
  } catch (error) {
    delete opened[name];
    showProblem(error);
  } finally {
    panel(name).removeAttribute("aria-busy");
  }
}

function tabKey(event) {
  const at = NAMES.findIndex((name) => tab(name) === document.activeElement);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: NAMES.length - 1 }[event.key];
  if (to === undefined) return;
  const name = NAMES[(to + NAMES.length) % NAMES.length];
  tab(name).focus();
  choose(name);
  event.preventDefault();
}

function setTheme(theme) {
  const names = { system: "as the system", light: "light", dark: "dark" };
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
  const control = document.getElementById("theme");
  control.textContent = `Theme: ${theme}`;
  control.setAttribute("aria-label", `Theme: ${theme} (color theme ${names[theme]}; press to change)`);
  redrawCharts();
}

for (const name of NAMES) tab(name).addEventListener("click", () => choose(name));
document.querySelector('[role="tablist"]').addEventListener("keydown", tabKey);
const order = ["system", "light", "dark"];
document.getElementById("theme").addEventListener("click", () => {
  setTheme(order[(order.indexOf(localStorage.getItem("theme") || "system") + 1) % order.length]);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawCharts);
setTheme(order.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "system");
const address = readAddress();
window.addEventListener("hashchange", () => {
  const values = readAddress();
  if (values.puzzle && values.tab === "solve") choose("solve").then(() => pages.solve.show(values.model || pages.solve.model.name, values.puzzle)).catch(showProblem);
  else if (NAMES.includes(values.tab)) choose(values.tab, values);
});
choose(NAMES.includes(address.tab) ? address.tab : "solve", address);
