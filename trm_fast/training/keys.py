"""The table of a configuration's keys: type, default, value and meaning of each, as the configuration classes state
them. ``trm-fast config`` prints it, and the web page builds its forms from it."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

from trm_fast.errors import UserError
from trm_fast.registry import Registry, suggest
from trm_fast.run_folder import CONFIG
from trm_fast.tasks import get_task, task_names
from trm_fast.training.config import TrainingConfig
from trm_fast.training.optimizers import OPTIMIZERS
from trm_fast.training.read_config import SECTIONS, make_config, preset_names, read_preset, read_yaml

Sections = Mapping[str, Any]


@dataclass(frozen=True)
class Key:
    """One key of a configuration.

    Attributes:
        name: its path, such as ``training.batch_size``.
        type: what values it takes, in words.
        choices: the values that it can have, if they are names; None otherwise.
        default: the value that it has if nothing sets it.
        value: the value in the configuration; the default if there is no configuration.
        set_by: ``preset`` if the configuration sets it, ``task`` if it follows from the task, otherwise ``default``.
        meaning: what it does.
    """

    name: str
    type: str
    choices: list[Any] | None
    default: Any
    value: Any
    set_by: str
    meaning: str

    def to_json(self) -> dict[str, Any]:
        """The key as JSON values."""
        return asdict(self)


def read_sections(reference: str) -> tuple[Sections, str]:
    """The sections of a preset, a run folder or a YAML file, and the name of that for messages.

    Raises:
        UserError: there is no such preset, run or file.
    """
    if reference in preset_names():
        return read_preset(reference), reference
    path = Path(reference)
    if path.is_dir():
        return read_yaml(path / CONFIG), reference
    if path.is_file():
        return read_yaml(path), reference
    raise UserError(
        f"{reference!r} is neither a preset nor a run folder nor a YAML file; {suggest(reference, preset_names())}",
        usage_error=True,
    )


def config_keys(sections: Sections, where: str) -> list[Key]:
    """All keys of a configuration, in the order of its file.

    Raises:
        UserError: the configuration is not valid. The message starts with ``where``.
    """
    config = make_config(sections, where)
    task = config.make_task()
    derived = {"model": task.group_keys() | dict(task.model_keys(config.data))}
    parts: dict[str, BaseModel] = {"task": config.task}
    parts |= {name: getattr(config, name) for name in SECTIONS}
    keys: list[Key] = []
    for name, part in parts.items():
        keys += _section_keys(name, type(part), part, sections.get(name) or {}, derived.get(name, {}))
    return keys


def default_keys() -> list[Key]:
    """The keys that all configurations share, with their defaults, followed by those of each task's section."""
    keys = [key for name, kind in SECTIONS.items() for key in _section_keys(name, kind, None, {}, {})]
    for name in task_names():
        keys += _section_keys(f"task({name})", get_task(name).Config, None, {}, {})
    return keys


def changed_keys(first: list[Key], second: list[Key]) -> list[tuple[str, Any, Any, str]]:
    """The keys whose values differ, each with both values and its meaning. A key that one side does not have is
    None there."""
    left, right = ({key.name: key for key in keys} for keys in (first, second))
    names = [*left, *(name for name in right if name not in left)]
    rows = []
    for name in names:
        values = [side[name].value if name in side else None for side in (left, right)]
        if values[0] != values[1]:
            rows.append((name, values[0], values[1], (left.get(name) or right[name]).meaning))
    return rows


def _section_keys(
    name: str, kind: type[BaseModel], part: BaseModel | None, configured: Mapping[str, Any], derived: Mapping[str, Any]
) -> Iterator[Key]:
    """The keys of a section and of the sections in it. ``part`` is the validated section, None for its defaults."""
    values = {} if part is None else part.model_dump(mode="json")
    properties = _properties(kind)
    meanings = field_meanings(kind)
    for field, info in kind.model_fields.items():
        path, default = f"{name}.{field}", _default(info)
        nested = _nested(field, part)
        if nested is not None:
            inner = derived.get(field) or {}
            chosen = configured.get(field) or {}
            yield from _section_keys(path, type(nested), nested, chosen, inner)
            continue
        set_by = "preset" if field in configured else "task" if field in derived else "default"
        described = _described(properties.get(field, {}), info)
        yield Key(path, *described, default, values.get(field, default), set_by, meanings.get(field, ""))


@cache
def _properties(kind: type[BaseModel]) -> Mapping[str, Any]:
    """The JSON schemas of a section's fields."""
    properties: Mapping[str, Any] = kind.model_json_schema(mode="validation").get("properties", {})
    return properties


def _nested(field: str, part: BaseModel | None) -> BaseModel | None:
    """The section that a field of ``part`` holds, if it holds one."""
    value = getattr(part, field, None)
    if isinstance(value, BaseModel):
        return value
    if isinstance(part, TrainingConfig) and field == "optimizer_options":
        options = OPTIMIZERS[part.optimizer].options_type
        return options.model_validate(value) if options.model_fields else None
    return None


def _default(info: FieldInfo) -> Any:
    if info.is_required():
        return None
    value = info.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value


def _described(schema: Mapping[str, Any], info: FieldInfo) -> tuple[str, list[Any] | None]:
    """The type of a field in words, and its choices."""
    for check in info.metadata:
        registry = getattr(check.func, "__self__", None) if isinstance(check, AfterValidator) else None
        if isinstance(registry, Registry):
            names = sorted(registry)
            return f"one of {', '.join(names)}", names
    return _words(schema), _choices(schema)


def _choices(schema: Mapping[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    if "enum" in schema:
        return list(schema["enum"])
    return [True, False] if schema.get("type") == "boolean" else None


TYPES = {
    "integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "array": "list",
    "object": "section", "null": "none",
}  # fmt: skip
LIMITS = {
    "minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below",
    "minItems": "at least", "maxItems": "at most",
}  # fmt: skip


def _words(schema: Mapping[str, Any]) -> str:
    """A JSON schema in a few words.

    Examples:
        >>> _words({"type": "integer", "minimum": 1}), _words({"anyOf": [{"type": "number"}, {"type": "null"}]})
        ('integer, at least 1', 'number or none')
    """
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_words(part) for part in schema["anyOf"]))
    if (choices := _choices(schema)) and schema.get("type") != "boolean":
        return f"one of {', '.join(map(str, choices))}" if len(choices) > 1 else str(choices[0])
    kind = TYPES.get(schema.get("type", ""), "section")
    if "prefixItems" in schema:
        parts = list(dict.fromkeys(_words(part) for part in schema["prefixItems"]))
        return f"list of {len(schema['prefixItems'])}: {'; '.join(parts)}"
    if schema.get("type") == "array" and schema.get("items"):
        kind = f"list of {_words(schema['items'])}"
    limits = [f"{words} {schema[name]:,}" for name, words in LIMITS.items() if name in schema]
    return ", ".join([kind, *limits])


@cache
def field_meanings(kind: type[BaseModel]) -> dict[str, str]:
    """The meaning of each field of a section: the string below it, or its entry under ``Attributes:`` in the class's
    docstring. Inherited fields are included."""
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            meanings |= _stated(base)
    meanings |= {name: _one_line(info.description) for name, info in kind.model_fields.items() if info.description}
    return {name: meanings[name] for name in kind.model_fields if name in meanings}


def _stated(kind: type[BaseModel]) -> dict[str, str]:
    entries = dict(_attributes(inspect.cleandoc(kind.__doc__ or "")))
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    for field, after in zip(definition.body, definition.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            entries[field.target.id] = _one_line(after.value.value)
    return entries


def _attributes(docstring: str) -> Iterator[tuple[str, str]]:
    """The entries of a docstring's ``Attributes:`` part: names, one or several with commas, and their text."""
    part = re.search(r"^Attributes:\n((?: .*\n?|\n)+)", docstring, re.M)
    for match in re.finditer(r"^    ([\w, ]+): (.*(?:\n {5,}.*)*)", part[1] if part else "", re.M):
        for name in match[1].split(","):
            yield name.strip(), _one_line(match[2])


def _one_line(text: str) -> str:
    """A docstring as one line without markup, with a full stop, and with a capital letter unless it starts with code.

    Examples:
        >>> _one_line("the number of ``layers``; 2\\n    as published")
        'The number of layers; 2 as published.'
    """
    words = " ".join(text.replace("``", "").split())
    first = words[:1] if text.lstrip().startswith("``") else words[:1].upper()
    return f"{first}{words[1:].rstrip('.')}."
