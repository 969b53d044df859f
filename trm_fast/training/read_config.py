"""Configurations from presets, YAML files and ``--set``."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from trm_fast.errors import UserError
from trm_fast.models import TRMConfig
from trm_fast.models.format_v1 import upgrade_sections
from trm_fast.registry import suggest
from trm_fast.tasks import get_task
from trm_fast.tasks.base import DataConfig
from trm_fast.training.config import RunConfig, TrainingConfig
from trm_fast.validation import validated


def preset_names() -> list[str]:
    return sorted(Path(f.name).stem for f in files("trm_fast.configs").iterdir() if f.name.endswith(".yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """The sections of a preset, not validated yet."""
    if name not in preset_names():
        raise UserError(f"there is no preset {name!r}; {suggest(name, preset_names())}", wrong_use=True)
    return _parse_yaml((files("trm_fast.configs") / f"{name}.yaml").read_text(encoding="utf-8"), name)


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a configuration file, not validated yet."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read: {error}", wrong_use=True) from None
    return _parse_yaml(text, str(path))


def parse_section(text: str) -> dict[str, Any]:
    """A task's name, or its section as YAML on one line, as the sections of a ``task:``."""
    value = _parse_value(text, f"task={text}")
    return value if isinstance(value, dict) else {"name": str(value)}


def apply_settings(sections: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """The sections with ``section.key=value`` settings applied, a key of a key as ``section.key.key=value``; values are
    YAML. The sections given stay as they are."""
    result = copy.deepcopy(dict(sections))
    for setting in settings:
        path, equals, value = setting.partition("=")
        *outer, name = path.strip().split(".")
        if not equals or not outer or not all((*outer, name)):
            raise UserError(
                f"--set takes section.key=value, such as training.batch_size=16, not {setting!r}", wrong_use=True
            )
        section = result
        for depth, key in enumerate(outer, 1):
            if section.get(key) is None:
                section[key] = {}
            section = section[key]
            if not isinstance(section, dict):
                raise UserError(f"--set {setting}: {'.'.join(outer[:depth])} is not a section", wrong_use=True)
        section[name] = _parse_value(value, setting)
    return result


def make_config(sections: Mapping[str, Any], where: str) -> RunConfig:
    """Validates sections; an unknown, missing or ill-typed key is a UserError that names it and ``where`` it stands."""
    task_section = sections.get("task")
    if not isinstance(task_section, Mapping) or not isinstance(task_section.get("name"), str):
        raise UserError(f"{where}: task.name is missing: it says which task to train", wrong_use=True)
    task_type = get_task(task_section["name"])
    task_config = validated(task_type.Config, task_section, "task", where)
    task = task_type(task_config)
    data = validated(DataConfig, sections.get("data") or {}, "data", where)
    given = task.model_keys(data)
    sections = upgrade_sections(sections, given.get("head", {}).get("kind"))
    model = sections.get("model") or {}
    if not isinstance(model, Mapping):
        raise UserError(f"{where}: model must be a section of keys, not {model!r}", wrong_use=True)
    parts: dict[str, Any] = {**sections, "task": task_config}
    parts["model"] = validated(TRMConfig, _joined(model, given, "model", task.name, where), "model", where)
    parts["data"] = data
    parts["training"] = validated(TrainingConfig, sections.get("training") or {}, "training", where)
    return validated(RunConfig, parts, "", where)


def _joined(asked: Mapping[str, Any], given: Mapping[str, Any], name: str, task: str, where: str) -> dict[str, Any]:
    """A section's keys and those that the task decides, those of its own sections included; they must agree."""
    joined = dict(asked)
    for key, value in given.items():
        own = asked.get(key)
        if isinstance(value, Mapping) and isinstance(own, Mapping):
            value = _joined(own, value, f"{name}.{key}", task, where)
        elif own is not None and own != value and (not isinstance(own, list) or tuple(own) != value):
            raise UserError(
                f"{where}: {name}.{key} is {own}, but task {task} has {value}; leave it out", wrong_use=True
            )
        joined[key] = value
    return joined


def _parse_yaml(text: str, where: str) -> dict[str, Any]:
    try:
        sections = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(
            f"{where}{line}: not valid YAML: {getattr(error, 'problem', None) or error}", wrong_use=True
        ) from None
    if not isinstance(sections, dict):
        raise UserError(f"{where}: a configuration has sections (task, data, model, training)", wrong_use=True)
    return sections


def _parse_value(text: str, setting: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        raise UserError(f"--set {setting}: {text!r} is not a YAML value", wrong_use=True) from None
