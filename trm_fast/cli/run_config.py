"""The configuration of a run, merged from a preset or a file and the options of ``trm-fast train``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trm_fast.cli.console import check_positive
from trm_fast.errors import UserError

if TYPE_CHECKING:
    from trm_fast.interchange import Located
    from trm_fast.training import RunConfig


def new_config(
    preset: str | None, config: Path | None, settings: list[str], epochs: float | None, trained: Located | None
) -> RunConfig:
    """The configuration of a new run.

    Args:
        preset, config: a preset's name or a YAML file; exactly one of them.
        settings: changes, each ``key=value``.
        epochs: the length of the run in passes over the data, or None for ``training.steps``.
        trained: the model that the run fine-tunes, or None. The run then has a schedule for that, and keeps what the
            meaning of the model's tokens depends on, except where ``settings`` change it.

    Raises:
        UserError: not exactly one of preset and config, or settings that are not valid.
    """
    from trm_fast.tasks import trusting_code
    from trm_fast.tasks.loading import load_or_generate
    from trm_fast.training import apply_settings, fine_tuning, make_config
    from trm_fast.validation import MAX_NUMBER

    sections = chosen_sections(preset, config)
    if trained is not None:
        sections = kept_sections(fine_tuning(sections), settings, trained)
    with trusting_code():  # the user chose the configuration
        merged = make_config(apply_settings(sections, settings), preset or str(config))
    if epochs is None:
        return merged
    check_positive("--epochs", epochs)
    if any(setting.partition("=")[0].strip() == "training.steps" for setting in settings):
        raise UserError("give --epochs or training.steps, not both", usage_error=True)
    data, dataset = load_or_generate(merged.make_task(), merged.data, merged.training.seed)
    total = max(1, -(-int(len(dataset.train) * epochs) // merged.training.batch_size))
    if total > MAX_NUMBER:
        raise UserError(f"--epochs {epochs:g} are {total:,} steps, the limit is {MAX_NUMBER:,}", usage_error=True)
    training = merged.training.model_copy(update={"steps": total})
    return merged.model_copy(update={"data": data, "training": training})


def kept_sections(sections: dict[str, Any], settings: list[str], trained: Located) -> dict[str, Any]:
    """The sections with those keys of the task that a run of the same task keeps from the model that it fine-tunes
    (``Task.kept``), unless ``settings`` set them."""
    task = dict(sections.get("task") or {})
    if task.get("name") != trained.section.get("name"):
        return sections
    changed = {setting.partition("=")[0].strip() for setting in settings}
    if "task.tokenizer" in changed:  # its file says how many pieces there are
        changed.add("task.vocab_size")
    kept = [key for key in type(trained.task).kept if f"task.{key}" not in changed and key in trained.section]
    return {**sections, "task": task | {key: trained.section[key] for key in kept}}


def chosen_sections(preset: str | None, config: Path | None) -> dict[str, Any]:
    """The sections of a preset or a YAML file, not validated yet.

    Raises:
        UserError: not exactly one of preset and config is given, or it can't be read.
    """
    from trm_fast.training import preset_names

    if (preset is None) == (config is None):
        raise UserError(f"give --preset NAME or --config FILE; presets: {', '.join(preset_names())}", usage_error=True)
    return _sections(preset, config)


def resumed_config(
    run: Path, preset: str | None, config: Path | None, settings: list[str], trust_code: bool
) -> RunConfig:
    """The configuration to resume ``run`` with: its own, with ``settings`` applied. ``trust_code``: whether the module
    of the run's own task may be imported.

    Raises:
        UserError: the settings, preset or file change the task, model, data, seed or batch size of the run.
    """
    from trm_fast.tasks import trusting_code
    from trm_fast.training import apply_settings, make_config
    from trm_fast.training.folder import read_run_config

    with trusting_code(trust_code):
        original = read_run_config(run)
    merged = make_config(apply_settings(original.model_dump(mode="json"), settings), str(run))
    fixed: list[tuple[str, Any, Any]] = [
        ("task", merged.task, original.task),
        ("model", merged.model, original.model),
        ("data", merged.data, original.data),
        ("training.seed", merged.training.seed, original.training.seed),
        ("training.batch_size", merged.training.batch_size, original.training.batch_size),
    ]
    if preset is not None or config is not None:
        chosen = _sections(preset, config) | {"data": original.data.model_dump()}  # some keys follow from the data
        named = make_config(chosen, preset or str(config))
        fixed += [("task", named.task, original.task), ("model", named.model, original.model)]
    if changed := [name for name, new, old in fixed if new != old]:
        raise UserError(f"{run} was started with another {changed[0]}: a resumed run keeps it", usage_error=True)
    return merged


def _sections(preset: str | None, config: Path | None) -> dict[str, Any]:
    from trm_fast.training import read_preset, read_yaml

    return read_preset(preset) if preset is not None else read_yaml(config or Path())


def option_settings(options: Mapping[str, Any]) -> list[str]:
    """Settings as ``--set`` takes them, for options that each set one key. An option that is None was not used."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in options.items() if value is not None]


def merged_settings(settings: list[str], options: Mapping[str, tuple[str, Any]]) -> list[str]:
    """The settings of ``--set`` followed by those of the options that each set one key.

    Args:
        settings: changes, each ``key=value``.
        options: key and value by option; the value is None if the option was not used.

    Raises:
        UserError: an option and ``--set`` give the same key.
    """
    set_keys = {setting.partition("=")[0].strip() for setting in settings}
    used = {option: (key, value) for option, (key, value) in options.items() if value is not None}
    for option, (key, _) in used.items():
        if key in set_keys:
            raise UserError(f"{option} and --set {key} both give {key}: leave one out", usage_error=True)
    return [*settings, *option_settings(dict(used.values()))]
