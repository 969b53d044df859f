// The page Tools: what a tool-calling model does next in a conversation.

import { post } from "./api.js";
import { announce, button, el, field, percent, showProblem } from "./dom.js";
import { ModelChoice } from "./models.js";

const EXAMPLE = [{ name: "get_weather", description: "The weather of a city", parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } }];

export class ToolsPage {
  constructor(panel) {
    this.models = new ModelChoice((model) => this.useModel(model), (entry) => entry.task.startsWith("tool-"));
    this.tools = el("textarea", { rows: 8, spellcheck: "false", placeholder: JSON.stringify(EXAMPLE, null, 1) });
    this.query = el("textarea", { rows: 3, placeholder: "What is the weather in Paris?" });
    this.conversation = el("textarea", { rows: 8, spellcheck: "false", placeholder: '{"messages": [...], "tools": [...]}' });
    this.result = el("div", { class: "stack", role: "region", "aria-label": "What the model does" });
    this.none = el("p", { hidden: true, text: "There is no tool-calling model here. None ships: train one with a preset tool-... and its data, and name its run at the start of the server, or put it under the runs folder." });
    this.own = el("p", { class: "quiet" });
    this.callButton = button("Call the model", () => this.call(), { class: "first" });
    panel.append(el("div", { class: "columns" },
      el("div", { class: "card stack" }, el("h2", { text: "Request" }), this.none, field("Model", this.models.select), this.own,
        field("Message of the user", this.query), field("Tools, as JSON", this.tools),
        el("details", {}, el("summary", { text: "Instead, a whole conversation in any format that is read" }), field("Conversation, as JSON", this.conversation)),
        el("div", { class: "row" }, this.callButton)),
      el("div", { class: "card" }, el("h2", { text: "What the model does" }), this.result)));
  }

  async open(address) {
    await this.models.load(address.model);
    const none = !this.models.entries.length;
    this.none.hidden = !none;
    this.callButton.disabled = none;
  }

  useModel(model) {
    const names = (model.tools || []).map((tool) => tool.function.name);
    this.own.textContent = names.length ? `Without tools of yours, it may call its own: ${names.join(", ")}.` : "";
  }

  async call() {
    showProblem(null);
    this.callButton.disabled = true;
    try {
      const conversation = this.conversation.value.trim();
      const body = conversation ? { conversation } : { query: this.query.value, tools: this.tools.value };
      this.show(await post("/api/tools", { model: this.models.select.value, ...body }));
    } catch (error) {
      showProblem(error);
    } finally {
      this.callButton.disabled = false;
    }
  }

  show(result) {
    const decision = result.calls.length ? `Calls ${result.calls.map((call) => call.name).join(", ")}` : "Answers directly, without a call";
    const turns = result.turns.map((turn, number) =>
      el("div", { class: "turn" }, el("strong", { text: `${turn.role}: ` }), ...marked(turn.text, result.copied.filter((span) => span.turn === number))));
    const calls = result.calls.map((call) => el("div", { class: "call" }, el("strong", { text: call.name }), el("pre", { tabindex: 0, text: JSON.stringify(call.arguments, null, 1) })));
    const slots = Object.keys(result.slots).length ? [el("h3", { text: "Slots" }), el("pre", { tabindex: 0, text: JSON.stringify(result.slots, null, 1) })] : [];
    const check = result.problems.length
      ? el("ul", { class: "bad" }, result.problems.map((text) => el("li", { text })))
      : el("p", { class: "good", text: result.calls.length ? "The calls fit the schemas of their tools." : "There is no call to check." });
    this.result.replaceChildren(
      el("p", {}, el("strong", { text: decision }), `; confidence ${percent(result.confidence)}, ${result.steps} step${result.steps === 1 ? "" : "s"}.`),
      ...calls, ...(result.reply ? [el("p", { text: result.reply })] : []), ...slots,
      el("h3", { text: "Schema check" }), check, el("h3", { text: "Conversation, with the copied words marked" }), ...turns,
    );
    announce(`${decision}; confidence ${percent(result.confidence)}.`);
  }
}

/** A text with its copied spans as marks, each named by its argument. */
function marked(text, spans) {
  const parts = [];
  let end = 0;
  for (const span of [...spans].sort((one, two) => one.start - two.start)) {
    if (span.start < end) continue;
    parts.push(text.slice(end, span.start), el("mark", { title: span.argument, text: text.slice(span.start, span.end) }));
    end = span.end;
  }
  return [...parts, text.slice(end)];
}
