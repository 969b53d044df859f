"""The interactive agent: a prompt with commands that solve and generate puzzles and describe models."""

from __future__ import annotations

import atexit
import cmd
import os
import sys
import time
from contextlib import suppress
from glob import glob
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trm_fast.agent.tool import ReasoningTool
from trm_fast.errors import UserError, in_lines, shown
from trm_fast.inference import Step
from trm_fast.interchange import bundled_names
from trm_fast.interchange.locate import Located
from trm_fast.tasks.base import Question

MAX_LINE = 16 << 20
"""The smallest number of characters that is too many for a line of input."""

HISTORY = 1000
"""The maximum number of lines in the history."""


class Agent(cmd.Cmd):
    """Reads commands from the terminal or a pipe until ``quit``.

    A user's mistake prints one line and changes nothing.

    Args:
        tool: holds the model and the options of the solver.
        console: where everything is printed.
    """

    prompt = "agent> "
    intro = "Type a puzzle's text after solve, or help for the commands."

    def __init__(self, tool: ReasoningTool, console: Console) -> None:
        super().__init__()
        self.tool, self.console = tool, console
        self.trajectory = False
        self.current: Question | None = None
        self.seed = time.time_ns() % 2**31

    def onecmd(self, line: str) -> bool:
        try:
            return bool(super().onecmd(line))
        except UserError as error:
            self.console.print(in_lines(f"error: {error}"), style="red", soft_wrap=True)
        except KeyboardInterrupt:
            self.console.print("interrupted")
        return False

    def default(self, line: str) -> None:
        if line == "EOF":
            raise EOFError
        raise UserError(f"unknown command {shown(line.split()[0])}; type help for the list")

    def emptyline(self) -> bool:
        return False

    def do_solve(self, argument: str) -> None:
        """solve PUZZLE | solve FILE | solve: a puzzle, every puzzle of a file, or the generated puzzle."""
        if not argument and self.current is None:
            raise UserError("there is no puzzle yet: give one, give a file, or generate one first")
        path = os.path.expanduser(argument)
        if os.path.isfile(path):
            located, questions = self.tool.read_file(path)
            for question in questions:
                self.console.print(question.where)
                self._solve(located, question)
            return
        try:
            located, question = self.tool.read(argument or self.current.text)  # type: ignore[union-attr]
        except UserError as error:
            raise UserError(f"{error} (and there is no file {argument})" if "/" in argument else str(error)) from None
        self._solve(located, question)

    def do_generate(self, argument: str) -> None:
        """generate [MODEL]: makes a puzzle for a model, by default the current one; solve then solves it."""
        located = self._located(argument)
        self.seed += 1
        self.current = located.task.generate(self.seed)
        self.console.print(located.task.draw(self.current))
        self.console.print(self.current.text, soft_wrap=True)

    def do_model(self, argument: str) -> None:
        """model NAME | model any: chooses a run, a folder or a model that ships; any: one for each puzzle."""
        if not argument:
            raise UserError(f"name a model: {', '.join(bundled_names())}, a run or folder, or any")
        old, name = self.tool, None if argument == "any" else argument
        tool = ReasoningTool(name, device=old.device, trust_code=old.trust_code, **old.options)
        tool.types()  # raises UserError if the model cannot be loaded
        self.tool = tool

    def do_info(self, argument: str) -> None:
        """info [MODEL]: shows task, size and input of a model; by default of the current one, or of all that ship."""
        names = [argument or self.tool.model] if argument or self.tool.model else bundled_names()
        table = Table("model", "task", "parameters", "effective depth", "reads", "channels")
        for name in names:
            located = self.tool.located(str(name))
            config = located.model.config
            table.add_row(
                located.label, located.task.name, f"{located.model.num_parameters():,}", str(config.effective_depth),
                f"{config.seq_len} {config.inputs}", str(config.hidden_size),
            )  # fmt: skip
        self.console.print(table)

    def do_trajectory(self, argument: str) -> None:
        """trajectory [on|off]: shows the answer after each supervision step."""
        if argument not in ("", "on", "off"):
            raise UserError("trajectory takes on or off")
        self.trajectory = argument == "on" or (not argument and not self.trajectory)
        self.console.print(f"trajectory is {'on' if self.trajectory else 'off'}")

    def do_quit(self, argument: str) -> bool:
        """quit: ends the agent; so does Ctrl-D."""
        return True

    do_exit = do_quit

    def do_help(self, argument: str) -> None:
        """help: lists the commands."""
        table = Table(show_header=False, box=None)
        for name in ("solve", "generate", "model", "info", "trajectory", "help", "quit"):
            usage, _, text = str(getattr(self, f"do_{name}").__doc__).partition(": ")
            table.add_row(usage, text)
        self.console.print(table)

    def complete_solve(self, text: str, *_: Any) -> list[str]:
        return glob(text + "*")

    def complete_model(self, text: str, *_: Any) -> list[str]:
        return [name for name in [*bundled_names(), "any", *glob("runs/*")] if name.startswith(text)]

    complete_generate = complete_info = complete_model

    def complete_trajectory(self, text: str, *_: Any) -> list[str]:
        return [word for word in ("on", "off") if word.startswith(text)]

    def _located(self, name: str) -> Located:
        return self.tool.located(name or self.tool.model or bundled_names()[0])

    def _solve(self, located: Located, question: Question) -> None:
        def show_step(step: Step) -> None:
            if self.trajectory:
                self.console.print(f"step {step.step}: confidence {100 * step.confidence:.2f} %")
                self.console.print(located.task.draw(question, step.raw))

        answer = self.tool.solver(located).solve(question, callback=show_step)
        if not self.trajectory:
            self.console.print(located.task.draw(question, answer.shown))
        self.console.print(f"{located.label}: {answer.describe()}")


def run(tool: ReasoningTool, console: Console) -> None:
    """Runs the agent. In a terminal it has a prompt, completion, and a history that is kept between sessions."""
    agent = Agent(tool, console)
    if os.isatty(0):
        _keep_history()
    else:
        agent.intro = agent.prompt = ""
        agent.use_rawinput, agent.stdin = False, _Lines()  # type: ignore[assignment]
    try:
        agent.cmdloop()
    except (EOFError, KeyboardInterrupt):
        console.print()


class _Lines:
    """Reads lines of standard input for ``cmd.Cmd``.

    Raises:
        UserError: a line is no text, or too long.
    """

    def readline(self) -> str:
        try:
            line = sys.stdin.readline(MAX_LINE)
        except UnicodeDecodeError:
            raise UserError("standard input is not UTF-8 text") from None
        if len(line) == MAX_LINE:
            raise UserError(f"standard input has a line of {MAX_LINE:,} characters or more")
        return line


def _keep_history() -> None:
    """Reads the history of earlier sessions, and writes it back with this session's lines when the program ends."""
    try:
        import readline
    except ImportError:  # Windows
        return
    readline.set_completer_delims(" \t\n")
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "trm-fast"

    def write() -> None:
        with suppress(OSError):  # a read-only home directory keeps no history
            state.mkdir(parents=True, exist_ok=True)
            readline.set_history_length(HISTORY)
            readline.write_history_file(state / "history")

    with suppress(OSError):
        readline.read_history_file(state / "history")
    atexit.register(write)
