"""Validates configurations with pydantic, and turns its errors into short messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from trm_fast.elsewhere import ELSEWHERE
from trm_fast.errors import UserError, shown
from trm_fast.registry import suggest

M = TypeVar("M", bound=BaseModel)


MAX_NUMBER = 1_000_000_000
"""The largest whole number in a configuration, except where a field has a limit of its own."""


class Section(BaseModel):
    """A section of a configuration. It rejects unknown keys and numbers that are not finite, and does not convert
    types: ``"3"`` is not 3."""

    # A class builds its validator at its first use, because a command uses few of the many.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _limited(cls, value: Any, info: ValidationInfo) -> Any:
        """Rejects whole numbers above ``MAX_NUMBER`` for fields without an upper limit of their own."""
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            rules = cls.model_fields[str(info.field_name)].metadata
            if not any(hasattr(rule, "le") or hasattr(rule, "lt") for rule in rules):
                raise ValueError(f"numbers are limited to {MAX_NUMBER:,}")
        return value


def validated(kind: type[M], section: Any, name: str, where: str) -> M:
    """Validates a section against its class ``kind``.

    Args:
        kind: the class of the section.
        section: its keys and values, as read from a file.
        name: the section's name, such as ``training``; empty for the whole configuration.
        where: the file or preset that the section comes from, for messages.

    Raises:
        UserError: it is not a section, or a key is unknown, missing or has a wrong value.
    """
    if not isinstance(section, Mapping):
        raise UserError(f"{where}: {name} must be a section of keys, not {shown(section)}", usage_error=True)
    try:
        return kind.model_validate(dict(section))
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, kind, name)}", usage_error=True) from None


def explain(error: ValidationError, kind: type[BaseModel], section: str) -> str:
    """Describes pydantic's first three errors in one line. ``section`` prefixes the keys."""
    return "; ".join(_explain(e, kind, section) for e in error.errors()[:3])


def _explain(error: Any, kind: type[BaseModel], section: str) -> str:
    keys, fields = _located(error["loc"], kind)
    key = ".".join((section, *keys)).strip(".")
    if error["type"] == "extra_forbidden":
        target = ELSEWHERE.get(keys[-1])
        hint = suggest(keys[-1], fields) if target is None else f"did you mean {target}?"
        return f"unknown key {key}; {hint}"
    if error["type"] == "missing":
        if keys[-1] == error["loc"][-1]:
            return f"{key} is missing"
        return f"{key} = {shown(error['input'])} has too few values"
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return f"{section}: {message}" if section else message
    return f"{key} = {shown(error['input'])}: {message[0].lower()}{message[1:]}"


def _located(loc: tuple[int | str, ...], kind: type[BaseModel]) -> tuple[list[str], list[str]]:
    """The path of keys to an error, and the valid names of its last key, from pydantic's location ``loc``. Members of
    unions and list indices in ``loc`` are left out."""
    keys: list[str] = []
    models: list[type[BaseModel]] = [kind]
    names: list[str] = []
    for part in loc:
        fields = {name: field for model in models for name, field in model.model_fields.items()}
        if part in fields:
            models = _models_in(fields[str(part)].annotation)
        elif part != loc[-1] or not isinstance(part, str) or not models:
            break
        keys.append(str(part))
        names = list(fields)
    return keys, names


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
