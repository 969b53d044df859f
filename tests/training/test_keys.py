"""The table of a configuration's keys: complete, explained, and with the values that a run would have."""

from __future__ import annotations

from pathlib import Path

import pytest

from trm_fast.errors import UserError
from trm_fast.training import make_config, preset_names, read_preset
from trm_fast.training.keys import Key, changed_keys, config_keys, default_keys, read_sections


def keys(preset: str) -> dict[str, Key]:
    return {key.name: key for key in config_keys(read_preset(preset), preset)}


@pytest.mark.parametrize("preset", preset_names())
def test_every_key_of_every_preset_has_a_meaning_and_its_value(preset: str) -> None:
    table = keys(preset)
    assert [key.name for key in table.values() if not key.meaning or not key.type] == []
    config = make_config(read_preset(preset), preset).model_dump(mode="json")
    for name, key in table.items():
        value = config
        for part in name.split("."):
            if not isinstance(value, dict) or part not in value:  # an option of the optimizer that is not set
                value = key.default
                break
            value = value[part]
        assert key.value == value, name


def test_every_default_has_a_meaning() -> None:
    table = default_keys()
    assert [key.name for key in table if not key.meaning] == []
    names = {key.name for key in table}
    assert {"training.batch_size", "model.head", "solver.rollouts", "data.source", "task(maze).densities"} <= names


def test_types_choices_and_origins() -> None:
    table = keys("sudoku-4x4")
    assert table["training.batch_size"].type == "integer, at least 1"
    assert (table["training.batch_size"].default, table["training.batch_size"].value) == (768, 64)
    assert table["training.optimizer"].choices == ["adam_atan2", "adamw", "muon", "sgd"]
    assert table["task.size"].choices == [4, 6, 9]
    assert table["model.vocab_size"].set_by == "task"
    assert table["model.hidden_size"].set_by == "preset"
    assert table["model.num_layers"].set_by == "default"
    assert table["training.clip_norm"].type == "number, above 0 or none"


def test_the_options_of_an_optimizer_are_keys() -> None:
    sections = read_preset("sudoku-4x4")
    sections["training"] |= {"optimizer": "muon", "optimizer_options": {"momentum": 0.9}}
    table = {key.name: key for key in config_keys(sections, "test")}
    assert table["training.optimizer_options.momentum"].value == 0.9
    assert table["training.optimizer_options.momentum"].set_by == "preset"
    assert table["training.optimizer_options.iterations"].value == 5


def test_differences() -> None:
    first, second = (config_keys(*read_sections(name)) for name in ("sudoku-4x4", "copy"))
    rows = {name: (left, right) for name, left, right, _ in changed_keys(first, second)}
    assert rows["training.steps"] == (600, 2000)
    assert rows["task.size"] == (4, None)
    assert rows["task.length"] == (None, 5)
    assert "training.batch_size" not in rows
    assert changed_keys(first, first) == []


def test_a_file_and_an_unknown_name(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("task: {name: copy}\nmodel: {mixing: attention}\n")
    assert next(key for key in config_keys(*read_sections(str(path))) if key.name == "task.length").value == 5
    with pytest.raises(UserError, match="neither a preset nor a run folder nor a YAML file; did you mean sudoku-4x4"):
        read_sections("sudoku-4x5")
