"""The solver as a tool that an LLM agent calls: a name, a description, a JSON schema and a call.

Code repair and planning, which the same interface would suit, are not built: no model here is trained for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trm_fast.errors import UserError
from trm_fast.inference import Solver, Step
from trm_fast.interchange import bundled_names, locate
from trm_fast.interchange.locate import Located, task_of_bundled
from trm_fast.tasks.base import Question

ANY_TYPE = "reasoning"
"""The task type that leaves the choice of the task to the puzzle."""


class ReasoningTool:
    """Solves puzzles for an agent: ``tool({"puzzle": "3...", "type": "sudoku"})``.

    ``puzzle`` is the text that ``trm-fast solve`` takes, or a list of rows; the solution comes in the same form.
    ``type`` names the task. Without ``model`` (a run, a model folder or a model that ships) the first model that ships
    and reads the puzzle is taken. ``options`` are those of ``Solver``. Models are loaded when they are first needed.

    The result is ``{"solution", "confidence", "steps", "converged", "valid"}``. ``confidence``, between 0 and 1, is the
    model's own estimate that its answer is right: a learned reward, where a program wants one; ``valid`` says whether
    the task's rules hold, and is null where it has none.
    """

    name = "recursive_reasoning"

    def __init__(self, model: str | None = None, *, device: str = "cpu", **options: Any) -> None:
        self.model, self.device, self.options = model, device, options
        self._loaded: dict[str, Located] = {}

    @property
    def description(self) -> str:
        kinds = ", ".join(self.types())
        return (
            f"Solves a puzzle ({kinds}) with a small recursive neural network that thinks in steps and knows how sure "
            "it is. Give the puzzle as text or as a list of rows; the answer has the solution in the same form, a "
            "confidence from 0 to 1, the steps it took, and whether the solution obeys the rules."
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """JSON schema of the one argument."""
        return {
            "type": "object",
            "properties": {
                "puzzle": {
                    "anyOf": [{"type": "string"}, {"type": "array", "items": {}}],
                    "description": "the puzzle: text, such as a line of cells, or a list of rows",
                },
                "type": {
                    "type": "string",
                    "enum": [ANY_TYPE, *self.types()],
                    "description": f"the kind of puzzle; {ANY_TYPE} finds out",
                },
            },
            "required": ["puzzle"],
        }

    def types(self) -> list[str]:
        """The tasks that this tool can solve."""
        if self.model is not None:
            return [self.located(self.model).task.name]
        return sorted({task_of_bundled(name) for name in bundled_names()})

    def __call__(self, problem: Mapping[str, Any], callback: Callable[[Step], None] | None = None) -> dict[str, Any]:
        """The answer to ``{"puzzle": ..., "type": ...}``; ``callback`` sees each step's answer while the model thinks.

        UserError where the puzzle is malformed or no model reads it.
        """
        if not isinstance(problem, Mapping) or "puzzle" not in problem:
            raise UserError('the problem must be an object with a key "puzzle"', wrong_use=True)
        if unknown := sorted(set(problem) - {"puzzle", "type"}):
            raise UserError(f"the problem has an unknown key {unknown[0]!r}; known: puzzle, type", wrong_use=True)
        puzzle = problem["puzzle"]
        if not isinstance(puzzle, str | list):
            raise UserError(f"the puzzle must be text or a list of rows, not {type(puzzle).__name__}", wrong_use=True)
        text = puzzle if isinstance(puzzle, str) else json.dumps(puzzle)
        found, question = self.read(text, problem.get("type", ANY_TYPE))
        answer = self.solver(found).solve(question, callback=callback).to_json()
        return answer if isinstance(puzzle, str) else answer | {"solution": json.loads(answer["solution"])}

    def read(self, text: str, kind: str = ANY_TYPE) -> tuple[Located, Question]:
        """The model for a puzzle, and the puzzle as it reads it."""
        if kind != ANY_TYPE and kind not in self.types():
            raise UserError(
                f"there is no model for puzzles of type {kind!r}; there is: {', '.join(self.types())}", wrong_use=True
            )
        bundled = [name for name in bundled_names() if kind in (ANY_TYPE, task_of_bundled(name))]
        problems: list[str] = []
        for name in bundled if self.model is None else [self.model]:
            found = self.located(name)
            try:
                return found, found.task.parse(text)
            except UserError as error:
                problems.append(f"{found.label}: {error}")
        raise UserError(problems[0] if len(problems) == 1 else "\n  ".join(["no model reads this puzzle:", *problems]))

    def solver(self, found: Located) -> Solver:
        return Solver(found.model, found.task, **self.options)

    def located(self, name: str) -> Located:
        """A model and its task, loaded once."""
        if name not in self._loaded:
            self._loaded[name] = locate(name, device=self.device)
        return self._loaded[name]


def run_task(
    task_type: str, input_data: Any, model: str | None = None, preset: str | None = None, **options: Any
) -> dict[str, Any]:
    """Solves one problem: ``run_task("sudoku", {"puzzle": grid})``.

    ``task_type`` is a task or ``"reasoning"``; ``input_data`` a puzzle, or ``{"puzzle": puzzle}``. ``preset`` takes the
    model that ships under a preset's name, or the run ``runs/PRESET``. Returns what ``ReasoningTool`` returns.
    """
    if model is None and preset is not None:
        model = preset if preset in bundled_names() else str(Path("runs") / preset)
        if not (preset in bundled_names() or Path(model).exists()):
            raise UserError(
                f"there is no trained model of the preset {preset!r} (models that ship: {', '.join(bundled_names())}); "
                f"train one with: trm-fast train --preset {preset}",
                wrong_use=True,
            )
    problem = dict(input_data) if isinstance(input_data, Mapping) else {"puzzle": input_data}
    return ReasoningTool(model, **options)({"type": task_type, **problem})
