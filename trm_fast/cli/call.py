"""``trm-fast call``: what a tool-calling model does next in a conversation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from trm_fast.cli.console import (
    MAX_SEED,
    Device,
    FromStep,
    Json,
    Model,
    TrustCode,
    err,
    out,
    percent,
    pick_device,
    print_json,
    step_number,
)  # fmt: skip
from trm_fast.errors import UserError

if TYPE_CHECKING:
    from trm_fast.inference import Solver
    from trm_fast.tasks.base import Solution
    from trm_fast.tasks.tool_calling import Conversation, Prediction, Tool, ToolTask, Turn


def call(
    model: Model,
    tools: Annotated[
        str | None, typer.Option(metavar="FILE|JSON", help="Tools to offer; by default those of the training data.")
    ] = None,
    query: Annotated[str | None, typer.Option(help="The user's message.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="A file of conversations; prints one JSON object per row, in order.")
    ] = None,
    interactive: Annotated[bool, typer.Option("--interactive", help="Hold a conversation at a prompt.")] = False,
    beams: Annotated[
        int | None, typer.Option(min=1, max=64, help="Partial answers that the search keeps (tool-generate).")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Temperature of sampling; 0: the most likely symbol (tool-generate).")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option("--top-p", help="Share of the probability that sampling draws from (tool-generate)."),
    ] = None,
    replies: Annotated[
        bool | None, typer.Option("--replies/--no-replies", help="Whether it may answer in words (tool-generate).")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="Seed of sampling; by default 0.")] = None,
    from_step: FromStep = None,
    device: Device = "auto",
    trust_code: TrustCode = False,
    json_output: Json = False,
) -> None:
    """
    Shows what a tool-calling model does next: it answers, or calls a tool with arguments.

    [bold]Examples[/bold]

      trm-fast call runs/tool-slots --query "Check my savings account please"

      trm-fast call runs/tool-slots --tools tools.json --interactive

      trm-fast call runs/tool-slots --data rows.jsonl

      trm-fast call runs/tool-generate --tools tools.json --query "Weather in Paris?" --beams 4 --replies
    """
    from trm_fast.inference import Solver
    from trm_fast.interchange import locate
    from trm_fast.tasks.tool_calling import Conversation, ToolTask, Turn

    if sum((query is not None, data is not None, interactive)) != 1:
        raise UserError("give one of --query TEXT, --data FILE, --interactive", usage_error=True)
    if query is not None and not query.strip():
        raise UserError("--query is empty", usage_error=True)
    located = locate(model, from_step=step_number(from_step), device=pick_device(device), trust_code=trust_code)
    task = located.task
    if not isinstance(task, ToolTask):
        raise UserError(f"{located.label} is a model for the task {task.name}, which calls no tools", usage_error=True)
    if data is not None and tools is not None:
        raise UserError("the conversations in --data contain their own tools: leave out --tools", usage_error=True)
    chosen = {"beams": beams, "temperature": temperature, "top_p": top_p, "replies": replies, "seed": seed}
    if options := {name: value for name, value in chosen.items() if value is not None}:
        _set_search(task, options)
    offered = () if data is not None else task.known_tools() if tools is None else _tools(tools)
    solver = Solver(located.model, task)
    if interactive:
        _converse(solver, task, offered, json_output)
        return
    if data is not None:
        _call_rows(solver, task, data)
    if query is not None:
        _show(*_predict(solver, task, Conversation(offered, (Turn("user", query),), "--query")), json_output)


def _set_search(task: ToolTask, options: dict[str, Any]) -> None:
    try:
        task.set_search(**options)
    except UserError as error:
        raise UserError(str(error), usage_error=True) from None


def _tools(text: str) -> tuple[Tool, ...]:
    """The tools in JSON text, or in a JSON file."""
    from trm_fast.tasks.tool_calling import Refused, read_tools
    from trm_fast.texts import read_text

    inline = text.lstrip()[:1] in ("[", "{")
    try:
        tools = read_tools(text if inline else read_text(Path(text)), "tools")
    except Refused as error:
        raise UserError(f"--tools: {error}", usage_error=True) from None
    if not tools:
        raise UserError("--tools: it contains no tool", usage_error=True)
    return tools


def _call_rows(solver: Solver, task: ToolTask, data: Path) -> None:
    """Prints an object for each row of a file: what the model does next, or where the row is and its ``error``.

    Raises:
        UserError: the file can't be read, or none of its rows can be answered.
    """
    from trm_fast.tasks.tool_calling import Refusal, read_rows

    rows = list(read_rows(data))
    if not rows:
        raise UserError(f"{data} has no rows")
    errors: list[str] = []
    for row in rows:
        try:
            if isinstance(row, Refusal):
                raise UserError(str(row))
            prediction, answer = _predict(solver, task, row)
        except UserError as error:
            problem = str(error).removeprefix(f"{row.where}: ")
            errors.append(f"{row.where}: {problem}")
            print_json({"where": row.where, "error": problem})
        else:
            _show(prediction, answer, as_json=True)
    if len(errors) == len(rows):
        raise UserError(f"{errors[0]} (none of {len(rows)} rows can be answered)")
    if errors:
        note = f"{data}: {len(errors)} of {len(rows)} rows cannot be answered; the first: {errors[0]}"
        err.print(note, style="yellow", soft_wrap=True)


def _predict(solver: Solver, task: ToolTask, conversation: Conversation) -> tuple[Prediction, Solution]:
    from trm_fast.tasks.tool_calling import Refused, checked

    try:
        return task.predict(solver, checked(conversation))
    except Refused as error:
        raise UserError(f"{conversation.where}: {error}", usage_error=True) from None


def _show(prediction: Prediction, answer: Solution, as_json: bool) -> None:
    if as_json:
        print_json(prediction.to_json() | {"confidence": answer.confidence, "steps": answer.steps})
        return
    if prediction.calls and prediction.reply:
        out.print(Text(prediction.reply, "green"))
    for called in prediction.calls:
        out.print(Text.assemble(("call ", "bold yellow"), called.text()))
    if not prediction.calls:
        out.print(Text(prediction.reply or "answer directly: no tool is called", "green"))
    if prediction.slots:
        out.print(Text(f"slots {json.dumps(prediction.slots, ensure_ascii=False)}", "cyan"))
    for problem in prediction.problems:
        out.print(Text(f"not valid: {problem}", "red"))
    out.print(f"confidence {percent(answer.confidence)}; {answer.steps} supervision step{'s' * (answer.steps != 1)}")


def _converse(solver: Solver, task: ToolTask, offered: tuple[Tool, ...], json_output: bool) -> None:
    """Reads the user's turns at a prompt until an empty line. The user also types the result of each call, and the
    assistant's reply if the model writes none."""
    from trm_fast.tasks.tool_calling import Conversation, Turn

    turns: list[Turn] = []
    while text := _ask("you"):
        turns.append(Turn("user", text))
        prediction, answer = _predict(solver, task, Conversation(offered, tuple(turns), "prompt"))
        _show(prediction, answer, json_output)
        if prediction.calls and prediction.reply:  # a thought, which comes before the calls
            turns.append(Turn("assistant", prediction.reply))
        turns += [Turn.of_call(called) for called in prediction.calls]
        if prediction.calls and (result := _ask("result of the call (empty: none)")):
            turns.append(Turn("tool_response", result))
        written = "" if prediction.calls else prediction.reply
        if reply := written or _ask("reply of the assistant (empty: none)"):
            turns.append(Turn("assistant", reply))


def _ask(label: str) -> str:
    from rich.prompt import Prompt

    try:
        return Prompt.ask(label, console=err, default="", show_default=False).strip()
    except EOFError:
        return ""
    except UnicodeDecodeError:
        raise UserError("standard input is not UTF-8 text") from None
