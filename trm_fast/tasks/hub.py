"""Loads data sets of the Hugging Face hub, with the optional ``datasets`` package."""

from __future__ import annotations

from importlib import import_module
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from trm_fast.errors import UserError
from trm_fast.tasks.base import Split
from trm_fast.tasks.columns import ANSWER, QUESTION, RATING, find_column
from trm_fast.tasks.tables import Table
from trm_fast.tasks.values import as_text

PREFIX = "hf:"
TIMEOUT_SECONDS = 3.0


class Unavailable(UserError):
    """The hub cannot be used: the ``datasets`` package or the network connection is missing."""


def load_split(source: str, split: str) -> Any:
    """One split of the hub data set ``hf:NAME``: a sequence of rows.

    Raises:
        Unavailable: the ``datasets`` package is not installed, or the hub cannot be reached. With HF_HUB_OFFLINE=1 a
            cached copy is used.
        UserError: there is no such data set or split.
    """
    try:
        datasets, constants = import_module("datasets"), import_module("huggingface_hub.constants")
    except ImportError as error:
        raise Unavailable(f"{source} needs the datasets package: pip install trm-fast[data]") from error
    if not constants.HF_HUB_OFFLINE and not _reachable(constants.ENDPOINT):
        raise Unavailable(f"{source}: the hub cannot be reached (HF_HUB_OFFLINE=1 uses a cached copy)")
    try:
        return datasets.load_dataset(source.removeprefix(PREFIX), split=split)
    except Exception as error:  # the errors come from three packages and share no base class
        kind = Unavailable if constants.HF_HUB_OFFLINE else UserError
        raise kind(f"{source}: no split {split!r} could be loaded: {error}") from error


def load(source: str, split: Split, limit: int | None = None) -> Table:
    """One split of a hub data set of puzzles, or its first ``limit`` rows.

    Raises:
        Unavailable: as in ``load_split``.
        UserError: there is no such split, or it has no columns question and answer.
    """
    table = load_split(source, split)
    names = list(table.column_names)
    columns: list[list[str]] = []
    for aliases in (QUESTION, ANSWER, RATING):
        index = find_column(names, aliases, source)
        if index is None and aliases is not RATING:
            raise UserError(f"{source} has no column {aliases[0]!r} but {', '.join(names)}")
        columns.append([] if index is None else [as_text(value) for value in table[names[index]][:limit]])
    questions, answers, ratings = columns
    return Table(questions, answers, ratings, [f"{source} ({split}), row {row}" for row in range(len(questions))])


def _reachable(endpoint: str) -> bool:
    """Whether the hub responds. Without this check the packages retry for minutes if there is no network."""
    try:
        with urlopen(Request(endpoint, method="HEAD"), timeout=TIMEOUT_SECONDS):
            return True
    except HTTPError:
        return True  # an error page is a response too
    except OSError:
        return False
