"""Options of a solver's tries, which can be stored with a model, and the condition for giving an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from typing_extensions import Self

from trm_fast.errors import UserError, shown
from trm_fast.models import TRMModel
from trm_fast.models.config import MAX_STEPS
from trm_fast.validation import Section, validated

Select = Literal["auto", "rules", "confidence", "majority", "first"]
Start = Literal["fixed", "each", "random", "last"]

MAX_TRIES = 1_000_000
"""The largest number of rollouts, of symmetric images, and of both together."""


class SolverConfig(Section):
    """The ``solver:`` section: the default options of ``Solver`` for a model. ``Solver`` describes them.

    Examples:
        >>> SolverConfig(symmetries=8, rollouts=2, noise=0.3).tries
        16
    """

    max_steps: int | None = Field(None, ge=1, le=MAX_STEPS)
    """Maximum number of supervision steps per try; None: 16, or that of training if it is larger."""
    rollouts: int = Field(1, ge=1, le=MAX_TRIES)
    """Tries per question and symmetric image; all but the first differ by noise, start or hints."""
    noise: float = Field(0.0, ge=0, le=1000)
    """Standard deviation of that noise."""
    symmetries: int = Field(1, ge=1, le=MAX_TRIES)
    """Number of symmetric images to try per question, the question itself included."""
    start: Start = "fixed"
    """The state that further tries start from: the first initial state, each of the model's initial states in turn, a
    random latent state, or the last one of the previous rollout."""
    resample_every: int = Field(0, ge=0)
    """Interval in steps at which rollouts exchange states by the odds that their answers are right; 0: never."""
    hints: int = Field(0, ge=0)
    """Number of open cells in which each further rollout reads the first rollout's answer as given; 0: none."""
    select: Select = "auto"
    """Which try is returned: a valid one (``rules``), the most confident, the most frequent answer (``majority``), or
    the one that halts in the fewest steps (``first``); ``auto``: rules, or else majority or confidence, by the
    task."""

    @model_validator(mode="after")
    def _tries_differ(self) -> Self:
        if self.tries > MAX_TRIES:
            raise ValueError(f"rollouts x symmetries is {self.tries:,}, the limit is {MAX_TRIES:,}")
        if self.rollouts > 1 and not self.noise and self.start == "fixed" and not self.hints:
            raise ValueError("rollouts differ only by noise, start or hints: give a noise above 0, such as 0.3")
        return self

    @property
    def tries(self) -> int:
        """Number of tries at each question."""
        return self.rollouts * self.symmetries

    def changes(self) -> dict[str, Any]:
        """The options that differ from their built-in defaults, by name."""
        return self.model_dump(mode="json", exclude_defaults=True)


def stored_options(model: TRMModel, where: str = "the model") -> SolverConfig:
    """The options that are stored with a model.

    Raises:
        UserError: they are not valid. The message starts with ``where``.
    """
    return validated(SolverConfig, model.solver_defaults, "solver", where)


def merged_options(stored: SolverConfig, changes: Mapping[str, Any]) -> SolverConfig:
    """The stored options with changes. With a single try, the options of further tries have their defaults.

    Raises:
        UserError: a value is invalid, or changes contradict each other.

    Examples:
        >>> merged_options(SolverConfig(symmetries=8, start="random"), {"symmetries": 1}).changes()
        {}
    """
    options = validated(SolverConfig, {**stored.model_dump(), **changes}, "", "solver")
    needs = {
        "noise": ("rollouts or symmetries, because the first try has none", options.tries > 1),
        "start": ("rollouts or symmetries, because the first try starts from the fixed state", options.tries > 1),
        "hints": ("rollouts, because the first try reads the question as it is", options.rollouts > 1),
        "resample_every": ("3 rollouts or more, because it compares those with noise", options.rollouts > 2),
    }
    for name, (what, fulfilled) in needs.items():
        if not fulfilled:
            default = SolverConfig.model_fields[name].default
            if changes.get(name, default) != default:
                raise UserError(f"{name.replace('_', '-')} needs {what}", usage_error=True)
            options = options.model_copy(update={name: default})
    meanings = {"last": "continues from where the one before it ended", "each": "has another initial state"}
    if options.start in meanings and options.rollouts == 1:
        if changes.get("start") in meanings:
            raise UserError(f"start {options.start} needs rollouts: each {meanings[options.start]}", usage_error=True)
        options = options.model_copy(update={"start": "fixed"})
    return options


def check_start(options: SolverConfig, count: int) -> None:
    """Checks that rollouts with ``start: each`` differ in a model with ``count`` initial states.

    Raises:
        UserError: they do not.
    """
    if options.start != "each":
        return
    if count == 1:
        raise UserError("start each: this model has one initial state", usage_error=True)
    if options.rollouts > count and not options.noise and not options.hints:
        raise UserError(
            f"start each: this model has {count} initial states, so {options.rollouts} rollouts would repeat some: add "
            f"noise, or make at most {count}",
            usage_error=True,
        )


def meets(condition: str, confidence: npt.NDArray[np.float32], valid: Any) -> npt.NDArray[np.bool_]:
    """Whether each answer meets a condition, bool (N,).

    Args:
        condition: ``valid``, or ``confidence>=X``.
        confidence: confidences of the answers, float32 (N,).
        valid: whether they obey the task's rules, bool (N,); None for a task without rules.

    Raises:
        UserError: the condition has another form, or it is ``valid`` and the task has no rules.

    Examples:
        >>> meets("confidence>=0.9", np.array([0.8, 0.95], dtype=np.float32), None).tolist()
        [False, True]
    """
    if condition == "valid":
        if valid is None:
            raise UserError("answer-only-if valid: the task has no rules", usage_error=True)
        return np.asarray(valid, dtype=np.bool_)
    match = re.fullmatch(r"confidence\s*>=\s*(0?\.\d+|[01](?:\.\d*)?)", condition.strip())
    if match is None or not 0 <= float(match[1]) <= 1:
        raise UserError(
            f"answer-only-if takes valid or confidence>=X, with X from 0 to 1, not {shown(condition)}", usage_error=True
        )
    return np.asarray(confidence >= float(match[1]))
