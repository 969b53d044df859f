"""Errors of a configuration in words a person can act on: which key, what is wrong, and the name that was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from trm_fast.errors import UserError

M = TypeVar("M", bound=BaseModel)


def validated(kind: type[M], section: Any, name: str, where: str) -> M:
    """A section of a configuration as its model; a UserError says ``where`` which key is wrong."""
    if not isinstance(section, Mapping):
        raise UserError(f"{where}: {name} must be a section of keys, not {section!r}", wrong_use=True)
    try:
        return kind.model_validate(dict(section))
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, kind, name)}", wrong_use=True) from None


def explain(error: ValidationError, kind: type[BaseModel], section: str) -> str:
    """The first few of pydantic's errors, one after the other."""
    return "; ".join(_explain(e, kind, section) for e in error.errors()[:3])


def _explain(error: Any, kind: type[BaseModel], section: str) -> str:
    """One line for one of pydantic's errors: the key, what is wrong, and the name that was meant."""
    key = ".".join(str(part) for part in (section, *error["loc"][:1]) if part != "")
    if error["type"] == "extra_forbidden":
        return f"unknown key {key}; {suggest(str(error['loc'][0]), kind.model_fields)}"
    if error["type"] == "missing":
        return f"{key} is missing" if len(error["loc"]) == 1 else f"{key} = {error['input']!r} has too few values"
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return f"{section}: {message}" if section else message
    return f"{key} = {error['input']!r}: {message[0].lower()}{message[1:]}"


def suggest(name: str, known: Iterable[str]) -> str:
    """What may have been meant."""
    names = list(known)
    close = difflib.get_close_matches(name, names, 1)
    return f"did you mean {close[0]}?" if close else "there are: " + ", ".join(names)


def known(name: str, registry: Iterable[str], what: str) -> str:
    """``name``, if it is one of those registered; a ValueError says which there are."""
    if name not in registry:
        raise ValueError(f"there is no such {what}; {suggest(name, registry)}")
    return name
