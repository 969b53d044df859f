"""Finds the sets of weights in a checkpoint: the model, an average of it, or both, at any depth."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from trm_fast.errors import UserError

MARK = "embed_tokens.embedding_weight"
"""The end of a name that every set of published weights has once."""
AVERAGED = {"ema", "shadow", "swa", "polyak"}
AVERAGED_ELSEWHERE = {"avg", "average", "averaged"}
"""In the state of an optimizer these words name averages of gradients."""
OPTIMIZER = {"optimizer", "optimizers", "optim", "opt"}


@dataclass(frozen=True)
class WeightSet:
    """Tensors by name. ``name`` is the path of the set in its file, empty if the file holds nothing else; ``arch`` has
    the published configuration keys that the file states."""

    name: str
    tensors: dict[str, Tensor]
    arch: dict[str, Any] = field(default_factory=dict)

    @property
    def averaged(self) -> bool:
        """Whether the name says that the weights are an average."""
        return is_average(self.name)


def is_average(path: str) -> bool:
    """Whether a path says that what it holds is an average of weights.

    Examples:
        >>> [is_average(path) for path in ("model_ema", "EMACallback.state", "schema", "optimizer.state.exp_avg")]
        [True, True, False, False]
    """
    words = _words(path)
    return bool(words & AVERAGED) or (not words & OPTIMIZER and bool(words & AVERAGED_ELSEWHERE))


def choose_weights(content: Mapping[Any, Any], kind: str, where: str) -> WeightSet:
    """One set of weights of a checkpoint.

    Args:
        content: the checkpoint, with tensors at any depth.
        kind: ``ema``, the averaged weights, or the only weights of a checkpoint without an average; ``raw``, those that
            are not averaged; or the name of a set.
        where: the file, for messages.

    Raises:
        UserError: there is no such set, several fit, or the average has no names of tensors.
    """
    sets = list(_sets(content, ""))
    if not sets and (tensors := _tensors(content)):
        return WeightSet("", tensors)  # the caller says what is missing
    names = ", ".join(s.name or "(unnamed)" for s in sets)
    if kind not in ("ema", "raw"):
        if matches := [s for s in sets if s.name == kind]:
            return matches[0]
        raise UserError(f"{where} has no weights named {kind!r}; it has {names or 'none'}", usage_error=True)
    fitting = [s for s in sets if s.averaged == (kind == "ema")]
    if kind == "ema" and not fitting:
        if nameless := sorted(path for path in _nameless(content, "") if is_average(path)):
            raise UserError(
                f"{where}: the average in {nameless[0]!r} has no names of tensors and cannot be read; --weights raw "
                f"takes {names or 'none'}"
            )
        if len(sets) > 1:
            raise UserError(f"{where} has several sets of weights ({names}): choose one with --weights NAME")
        fitting = sets
    if len(fitting) > 1:
        several = ", ".join(s.name or "(unnamed)" for s in fitting)
        raise UserError(f"{where} has several sets of {kind} weights ({several}): choose one with --weights NAME")
    if not fitting:
        raise UserError(f"{where} has no {kind} weights; it contains {', '.join(map(str, content)) or 'nothing'}")
    return fitting[0]


def _sets(content: Any, path: str) -> Iterator[WeightSet]:
    """The sets of weights in a value and the values inside it."""
    if isinstance(content, Mapping):
        yield from _sets_among(_tensors(content), path)
    for name, value in _members(content, path):
        yield from _sets(value, name)


def _sets_among(tensors: Mapping[str, Tensor], path: str) -> Iterator[WeightSet]:
    """The sets among the tensors of one dictionary, told apart by the prefixes of their names. Tensors without a prefix
    belong to the first set, where an unknown one is noticed."""
    prefixes = sorted((name.removesuffix(MARK) for name in tensors if name.endswith(MARK)), key=len)
    if _words(path) & OPTIMIZER and not is_average(path):
        return
    remaining = dict(tensors)
    sets: list[WeightSet] = []
    for prefix in reversed(prefixes):  # a longer prefix may contain a shorter one
        names = [name for name in remaining if name.startswith(prefix) or prefix == prefixes[0]]
        named = len(prefixes) > 1 or is_average(prefix)
        full_path = f"{path}.{prefix}".strip(".") if named else path
        sets.append(WeightSet(full_path, {name.removeprefix(prefix): remaining.pop(name) for name in names}))
    yield from reversed(sets)


def _nameless(content: Any, path: str) -> Iterator[str]:
    """The paths of values that hold tensors, but not under the names of a set of weights."""
    direct = list(content.values()) if isinstance(content, Mapping) else content
    if isinstance(direct, Sequence) and not isinstance(direct, str | bytes):
        tensors = any(isinstance(value, Tensor) for value in direct)
        if tensors and not (isinstance(content, Mapping) and any(str(name).endswith(MARK) for name in content)):
            yield path
    for name, value in _members(content, path):
        yield from _nameless(value, name)


def _members(content: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The dictionaries and lists inside a value, with their paths."""
    if isinstance(content, Mapping):
        items = [(str(name), value) for name, value in content.items()]
    else:
        items = [(str(i), value) for i, value in enumerate(content)]
    for name, value in items:
        if isinstance(value, Mapping | list | tuple):
            yield f"{path}.{name}".strip("."), value


def _tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}


def _words(path: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", path)}
