"""The configuration of a run, from a preset or a file and the options of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trm_fast.errors import UserError

if TYPE_CHECKING:
    from trm_fast.training import RunConfig


def configured(
    preset: str | None, config: Path | None, settings: list[str], epochs: float | None, tuning: bool
) -> RunConfig:
    """``tuning``: with the schedule for a model that is trained already, where ``settings`` say nothing else."""
    from trm_fast.training import apply_settings, fine_tuning, make_config, preset_names

    if (preset is None) == (config is None):
        raise UserError(f"give --preset NAME or --config FILE; presets: {', '.join(preset_names())}", wrong_use=True)
    sections = fine_tuning(_sections(preset, config)) if tuning else _sections(preset, config)
    made = make_config(apply_settings(sections, settings), preset or str(config))
    if epochs is None:
        return made
    if epochs <= 0:
        raise UserError("--epochs must be more than 0", wrong_use=True)
    examples = len(made.make_task().dataset(made.data, made.training.seed).train)
    total = max(1, -(-int(examples * epochs) // made.training.batch_size))
    return made.model_copy(update={"training": made.training.model_copy(update={"steps": total})})


def resumed(run: Path, preset: str | None, config: Path | None, settings: list[str]) -> RunConfig:
    """The run's own configuration with changes to how it trains; its problem, model and random numbers stay."""
    from trm_fast.training import apply_settings, make_config
    from trm_fast.training.folder import read_run_config

    own = read_run_config(run)
    made = make_config(apply_settings(own.model_dump(mode="json"), settings), str(run))
    fixed: list[tuple[str, Any, Any]] = [
        ("task", made.task, own.task),
        ("model", made.model, own.model),
        ("data", made.data, own.data),
        ("training.seed", made.training.seed, own.training.seed),
        ("training.batch_size", made.training.batch_size, own.training.batch_size),
    ]
    if preset is not None or config is not None:
        named = make_config(_sections(preset, config), preset or str(config))
        fixed += [("task", named.task, own.task), ("model", named.model, own.model)]
    if changed := [name for name, new, old in fixed if new != old]:
        raise UserError(f"{run} was started with another {changed[0]}: a resumed run keeps it", wrong_use=True)
    return made


def _sections(preset: str | None, config: Path | None) -> dict[str, Any]:
    from trm_fast.training import read_preset, read_yaml

    return read_preset(preset) if preset is not None else read_yaml(config or Path())


def free_folder(base: Path) -> Path:
    """``base``, or the first of ``base-2``, ``base-3``, ... that is not there."""
    number, folder = 1, base
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder
