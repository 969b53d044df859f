"""The solver as a tool for LLM agents: a name, a description, a JSON schema and a call."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from trm_fast.errors import UserError, shown
from trm_fast.inference import Solver, Step
from trm_fast.interchange import bundled_names, locate
from trm_fast.interchange.locate import Located, bundled_task
from trm_fast.registry import suggest
from trm_fast.tasks.base import Question, Task
from trm_fast.tasks.values import is_value, text_of
from trm_fast.training import preset_names

T = TypeVar("T")

ANY_TYPE = "reasoning"
"""The ``type`` of a problem whose task is unknown: the first model that reads the puzzle solves it."""


class ReasoningTool:
    """Solves puzzles for an agent. Models are loaded when they are first needed.

    Args:
        model: a run, a model folder or the name of a bundled model. By default the first bundled model that reads the
            puzzle solves it.
        device: the torch device of the models.
        trust_code: whether a model's own task may be imported from a module that its configuration names.
        options: the options of ``trm_fast.inference.Solver``, such as ``max_steps`` and ``rollouts``.

    Raises:
        UserError: there is no such option.

    Examples:
        >>> from trm_fast import ReasoningTool
        >>> tool = ReasoningTool()
        >>> answer = tool({"puzzle": "3.......4.3...42", "type": "sudoku"})
        >>> answer["solution"], answer["valid"]
        ('3124241342311342', True)
    """

    name = "recursive_reasoning"

    def __init__(
        self, model: str | None = None, *, device: str = "cpu", trust_code: bool = False, **options: Any
    ) -> None:
        names = [field.name for field in fields(Solver) if field.name not in ("model", "task")]
        if unknown := [name for name in options if name not in names]:
            hint = suggest(unknown[0], ["model", "device", *names])
            raise UserError(f"there is no option {shown(unknown[0])}; {hint}", usage_error=True)
        self.model, self.device, self.trust_code, self.options = model, device, trust_code, options
        self._loaded: dict[str, Located] = {}

    @property
    def description(self) -> str:
        """Describes the tool to an LLM."""
        kinds = ", ".join(self.types())
        return (
            f"Solves a puzzle ({kinds}) with a small recursive neural network that refines its answer step by step. "
            "Give the puzzle as text or as a list of rows. The result has the solution in the same form, a confidence "
            "from 0 to 1, the number of steps, and whether the solution obeys the rules."
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """The JSON schema of a problem, the argument of a call."""
        kinds = [ANY_TYPE, *self.types()]
        rows = "the puzzle: text, such as a line of cells, a list of rows, or an object with a key puzzle"
        kinds_of_value = [{"type": "string"}, {"type": "array", "items": {}}, {"type": "object"}]
        puzzle = {"anyOf": kinds_of_value, "description": rows}
        tasks = f"the task of the puzzle; {ANY_TYPE} tries all of them"
        properties = {"puzzle": puzzle, "type": {"type": "string", "enum": kinds, "description": tasks}}
        return {
            "type": "object", "properties": properties, "required": ["puzzle"], "additionalProperties": False,
        }  # fmt: skip

    def types(self) -> list[str]:
        """The names of the tasks that this tool can solve, sorted."""
        if self.model is not None:
            return [self.located(self.model).task.name]
        return sorted({bundled_task(name) for name in bundled_names()})

    def __call__(self, problem: Mapping[str, Any], callback: Callable[[Step], None] | None = None) -> dict[str, Any]:
        """Solves one problem.

        Args:
            problem: ``{"puzzle": ..., "type": ...}``. ``puzzle`` is the text that ``trm-fast solve`` takes, a list of
                rows, or an array of numpy, torch or pandas. ``type`` names the task; it may be left out.
            callback: receives each supervision step's answer.

        Returns:
            ``{"solution", "confidence", "steps", "converged", "valid"}``. The solution has the form of the puzzle; it
            is None if the options let the solver give no answer.
            ``confidence``, between 0 and 1, is the model's estimate that its answer is right. ``valid`` says whether
            the answer obeys the task's rules; it is None for a task without rules.

        Raises:
            UserError: the puzzle is malformed, or no model reads it.
        """
        if not isinstance(problem, Mapping) or "puzzle" not in problem:
            raise UserError('the problem must be an object with a key "puzzle"', usage_error=True)
        if unknown := sorted(set(problem) - {"puzzle", "type"}):
            raise UserError(
                f"the problem has an unknown key {shown(unknown[0])}; known: puzzle, type", usage_error=True
            )
        puzzle = problem["puzzle"]
        located, question = self.read(text_of(puzzle), problem.get("type", ANY_TYPE))
        answer = self.solver(located).solve(question, callback=callback).to_json()
        if isinstance(puzzle, str) or answer["solution"] is None or not is_value(answer["solution"]):
            return answer
        return answer | {"solution": json.loads(answer["solution"])}

    def read(self, text: str, kind: str = ANY_TYPE) -> tuple[Located, Question]:
        """Finds the model for a puzzle and parses the puzzle.

        Args:
            text: the puzzle as text.
            kind: the name of its task, or ``"reasoning"`` to try the models one by one.

        Returns:
            The model with its task, and the question that the task parsed.

        Raises:
            UserError: no model reads the puzzle; the message has every model's reason.
        """
        return self._first(kind, lambda task: task.parse(text))

    def read_file(self, path: str | Path, kind: str = ANY_TYPE) -> tuple[Located, list[Question]]:
        """Finds the model for a file of puzzles and reads all of them; the arguments and errors are those of
        ``read``."""
        return self._first(kind, lambda task: list(task.questions(path)))

    def _first(self, kind: str, read: Callable[[Task], T]) -> tuple[Located, T]:
        """The first model whose task reads something, and what it reads."""
        if kind != ANY_TYPE and kind not in self.types():
            raise UserError(
                f"unknown type of puzzle {shown(kind)}; choose one of: {', '.join(self.types())}", usage_error=True
            )
        bundled = [name for name in bundled_names() if kind in (ANY_TYPE, bundled_task(name))]
        problems: list[str] = []
        for name in bundled if self.model is None else [self.model]:
            located = self.located(name)
            try:
                return located, read(located.task)
            except UserError as error:
                problems.append(f"{located.label}: {error}")
        raise UserError(problems[0] if len(problems) == 1 else "\n  ".join(["no model reads this puzzle:", *problems]))

    def solver(self, located: Located) -> Solver:
        """A solver for a model, with this tool's options."""
        return Solver(located.model, located.task, **self.options)

    def located(self, name: str) -> Located:
        """The model of a run, a folder or a bundled name, with its task; loaded at the first call."""
        if name not in self._loaded:
            self._loaded[name] = locate(name, device=self.device, trust_code=self.trust_code)
        return self._loaded[name]


def run_task(
    task_type: str,
    input_data: Any,
    model: str | None = None,
    preset: str | None = None,
    architecture: str = "trm",
    **options: Any,
) -> dict[str, Any]:
    """Solves one problem with a new ``ReasoningTool``.

    Args:
        task_type: the name of a task, or ``"reasoning"`` to try the models one by one.
        input_data: a puzzle, or ``{"puzzle": puzzle}``.
        model: a run, a model folder or the name of a bundled model.
        preset: the name of a preset: takes the bundled model of that name, or the run ``runs/PRESET``.
        architecture: ``trm``, the only one.
        options: the options of ``ReasoningTool``.

    Returns:
        What a call of ``ReasoningTool`` returns.

    Raises:
        UserError: the puzzle is malformed, no model reads it, the preset has no trained model, or there is no such
            architecture, preset or option.

    Examples:
        >>> from trm_fast import run_task
        >>> run_task("sudoku", {"puzzle": "3.......4.3...42"})["solution"]
        '3124241342311342'
    """
    if architecture != "trm":
        raise UserError(f"unknown architecture {architecture!r}; there is trm alone", usage_error=True)
    if model is not None and preset is not None:
        raise UserError("give a model or a preset, not both", usage_error=True)
    if preset is not None:
        model = preset if preset in bundled_names() else str(Path("runs") / preset)
        if not (preset in bundled_names() or Path(model).exists()):
            if preset not in preset_names():
                raise UserError(f"unknown preset {preset!r}; {suggest(preset, preset_names())}", usage_error=True)
            raise UserError(
                f"there is no trained model of the preset {shown(preset)} "
                f"(models that ship: {', '.join(bundled_names())}); "
                f"train one with: trm-fast train --preset {preset}",
                usage_error=True,
            )
    problem = dict(input_data) if isinstance(input_data, Mapping) else {"puzzle": input_data}
    return ReasoningTool(model, **options)({"type": task_type, **problem})
