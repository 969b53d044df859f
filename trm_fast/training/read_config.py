"""Reads run configurations from presets, YAML files and ``--set``, and merges in what the task determines."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from trm_fast.elsewhere import ELSEWHERE
from trm_fast.errors import UserError, shown
from trm_fast.inference.options import SolverConfig
from trm_fast.models import TRMConfig
from trm_fast.models.config import check_kinds
from trm_fast.models.format_v1 import upgrade_sections
from trm_fast.registry import suggest
from trm_fast.tasks import get_task
from trm_fast.tasks.base import DataConfig
from trm_fast.texts import MAX_CONFIG, parse_yaml, read_text
from trm_fast.training.config import RunConfig, TrainingConfig
from trm_fast.validation import Section, validated


def preset_names() -> list[str]:
    """The names of all presets, sorted."""
    return sorted(Path(f.name).stem for f in files("trm_fast.configs").iterdir() if f.name.endswith(".yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """Reads the sections of a preset without validating them.

    Raises:
        UserError: no preset has this name.
    """
    if name not in preset_names():
        raise UserError(f"unknown preset {shown(name)}; {suggest(name, preset_names())}", usage_error=True)
    return _sections((files("trm_fast.configs") / f"{name}.yaml").read_text(encoding="utf-8"), name)


def about_preset(name: str) -> str:
    """The first sentence of a preset's file, which says what it learns."""
    text = (files("trm_fast.configs") / f"{name}.yaml").read_text(encoding="utf-8")
    comment = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return re.split(r"[.:](?= |$)", " ".join(line.lstrip("# ") for line in comment), maxsplit=1)[0] + "."


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads the sections of a configuration file without validating them.

    Raises:
        UserError: the file can't be read, or is not YAML with sections.
    """
    try:
        text = read_text(path, MAX_CONFIG)
    except UserError as error:
        raise UserError(str(error), usage_error=True) from None
    return _sections(text, str(path))


def parse_section(text: str, option: str = "--task") -> dict[str, Any]:
    """Parses the section ``task:`` from a task's name, or from YAML on one line.

    Args:
        text: the name or the YAML.
        option: the command-line option that ``text`` comes from, for messages.

    Raises:
        UserError: the text is not valid YAML.

    Examples:
        >>> parse_section("sudoku"), parse_section("{name: sudoku, size: 4}")
        ({'name': 'sudoku'}, {'name': 'sudoku', 'size': 4})
    """
    value = parse_value(text, option)
    return value if isinstance(value, dict) else {"name": str(value)}


def apply_settings(sections: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Applies settings of the form ``section.key=value`` or ``section.key.key=value`` to a copy of the sections. Values
    are YAML.

    ``training.warmup_steps`` takes the place of a ``training.warmup_ratio`` in the sections, which would hide it.

    Raises:
        UserError: a setting has another form, its value is not valid YAML, a key before the last is not a section, or
            both of these keys are set.

    Examples:
        >>> apply_settings({"training": {"steps": 5}}, ["training.batch_size=16"])
        {'training': {'steps': 5, 'batch_size': 16}}
    """
    result, settings = copy.deepcopy(dict(sections)), list(settings)
    for setting in settings:
        path, equals, value = setting.partition("=")
        *outer, name = path.strip().split(".")
        if not equals or not outer or not all((*outer, name)):
            keys = full_keys(path.strip()) if equals else []
            hint = f"; did you mean {' or '.join(keys)}?" if keys else ""
            raise UserError(
                f"--set takes section.key=value, such as training.batch_size=16, not {shown(setting)}{hint}",
                usage_error=True,
            )
        section = result
        for depth, key in enumerate(outer, 1):
            if section.get(key) is None:
                section[key] = {}
            section = section[key]
            if not isinstance(section, dict):
                raise UserError(f"--set {setting}: {'.'.join(outer[:depth])} is not a section", usage_error=True)
        section[name] = parse_value(value, f"--set {setting}")
    chosen = {setting.partition("=")[0].strip() for setting in settings}
    if "training.warmup_steps" in chosen:
        if "training.warmup_ratio" in chosen and result["training"]["warmup_ratio"] is not None:
            raise UserError("set training.warmup_steps or training.warmup_ratio, not both", usage_error=True)
        result["training"]["warmup_ratio"] = None
    return result


SECTIONS: dict[str, type[Section]] = {
    "data": DataConfig,
    "model": TRMConfig,
    "training": TrainingConfig,
    "solver": SolverConfig,
}
"""The sections that every configuration has, besides ``task``."""


def full_keys(name: str, task: type[Section] | None = None) -> list[str]:
    """The keys, with their sections, that a key without its section may mean, also by the name of another program.
    ``task`` is the class of the section ``task``, if it is known.

    Examples:
        >>> full_keys("batch_size"), full_keys("d_model"), full_keys("color")
        (['training.batch_size'], ['model.hidden_size'], [])
    """
    sections = SECTIONS if task is None else {"task": task, **SECTIONS}
    keys = [f"{section}.{name}" for section, kind in sections.items() if name in kind.model_fields]
    return keys or [ELSEWHERE[key] for key in [name] if key in ELSEWHERE]


def preset_config(name: str, **changes: Any) -> RunConfig:
    """The configuration of a preset, with other values of some keys.

    Args:
        name: the preset.
        changes: values by key. A key may leave its section out if no other section has a key of this name; a key with
            its section is given as ``**{"training.batch_size": 16}``.

    Raises:
        UserError: there is no such preset or key, a key belongs to several sections, or a value is not valid.

    Examples:
        >>> preset_config("sudoku-4x4", batch_size=16).training.batch_size
        16
    """
    sections = copy.deepcopy(read_preset(name))
    task = get_task(sections["task"]["name"]).Config
    for key, value in changes.items():
        path = key.split(".")
        if len(path) == 1:
            keys = full_keys(key, task)
            matches = [candidate for candidate in keys if candidate.endswith(f".{key}")]
            if len(matches) != 1:
                names = sorted({field for kind in (task, *SECTIONS.values()) for field in kind.model_fields})
                several = f"it may be {' or '.join(matches)}; give it with its section"
                hint = several if matches else f"did you mean {keys[0]}?" if keys else suggest(key, names)
                raise UserError(f"unknown key {shown(key)}; {hint}", usage_error=True)
            path = matches[0].split(".")
        section = sections
        for part in path[:-1]:
            section[part] = dict(section.get(part) or {})
            section = section[part]
        section[path[-1]] = value
    return make_config(sections, name)


def make_config(sections: Mapping[str, Any], where: str) -> RunConfig:
    """Validates sections, and merges in the model settings that the task determines.

    Args:
        sections: ``task``, ``data``, ``model``, ``training`` and ``solver``, as read from a file.
        where: the name of the file or preset, for messages.

    Raises:
        UserError: a key is unknown, missing or has a wrong value, or contradicts the task; or the task's module may
            not be imported (``trm_fast.tasks.trusting_code``).
    """
    task_section = sections.get("task")
    if not isinstance(task_section, Mapping) or not isinstance(task_section.get("name"), str):
        raise UserError(f"{where}: task.name is missing: it says which task to train", usage_error=True)
    try:
        task_type = get_task(task_section["name"])
    except UserError as error:
        raise UserError(f"{where}: {error}", usage_error=True) from None
    data = validated(DataConfig, sections.get("data") or {}, "data", where)
    task_config = validated(task_type.Config, task_section, "task", where)
    if "vocab_size" not in (sections.get("model") or {}):  # a run's own configuration is complete
        task_config = task_type.completed(task_config, data)
    task = task_type(task_config)
    task_keys = task.model_keys(data)
    sections = upgrade_sections(sections, task_keys.get("head", {}).get("kind"))
    model = sections.get("model") or {}
    if not isinstance(model, Mapping):
        raise UserError(f"{where}: model must be a section of keys, not {shown(model)}", usage_error=True)
    if model.get("mixing") == "groups":
        model = task.group_keys() | {key: value for key, value in model.items() if value is not None}
    parts: dict[str, Any] = {**sections, "task": task_config}
    parts["model"] = validated(TRMConfig, _merged(model, task_keys, "model", task.name, where), "model", where)
    try:
        check_kinds(parts["model"], task.name, task_keys)
    except ValueError as error:
        raise UserError(f"{where}: {error}", usage_error=True) from None
    parts["data"] = data
    parts["training"] = validated(TrainingConfig, sections.get("training") or {}, "training", where)
    parts["solver"] = validated(SolverConfig, sections.get("solver") or {}, "solver", where)
    return validated(RunConfig, parts, "", where)


def _merged(
    section: Mapping[str, Any], task_keys: Mapping[str, Any], name: str, task: str, where: str
) -> dict[str, Any]:
    """Merges the keys that the task determines into a section and its nested sections. The values must agree."""
    merged = dict(section)
    for key, value in task_keys.items():
        configured = section.get(key)
        if isinstance(configured, list):  # YAML has no tuples
            configured = tuple(configured)
        if isinstance(value, Mapping) and isinstance(configured, Mapping):
            value = _merged(configured, value, f"{name}.{key}", task, where)
        elif configured not in (None, value):
            raise UserError(
                f"{where}: {name}.{key} = {shown(section[key])} contradicts task {task}, which needs {value}; "
                "remove the key",
                usage_error=True,
            )
        merged[key] = value
    return merged


def _sections(text: str, where: str) -> dict[str, Any]:
    sections = parse_yaml(text, where)
    if not isinstance(sections, dict):
        raise UserError(f"{where}: a configuration has sections (task, data, model, training)", usage_error=True)
    return sections


def parse_value(text: str, source: str) -> Any:
    """Parses a value, which is YAML.

    Raises:
        UserError: the text is not valid YAML; ``source`` starts the message.
    """
    return parse_yaml(text, source)
