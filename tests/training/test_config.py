"""Configurations: an error names every wrong input in one line; valid ones survive a round trip."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.models import TRMConfig
from trm_fast.training import RunConfig, apply_settings, make_config, read_preset, read_yaml

from .small import SECTIONS, run_config, training_config


def changed(section: str, **keys: Any) -> dict[str, Any]:
    return SECTIONS | {section: {**SECTIONS.get(section, {}), **keys}}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({}, ["task.name is missing"]),
        ({"task": "sudoku"}, ["task.name is missing"]),
        ({"task": {"name": 4}}, ["task.name is missing"]),
        ({"task": {"name": "suduko"}}, ["suduko", "sudoku"]),
        (changed("task", sise=4), ["f.yaml", "unknown key task.sise", "did you mean size?"]),
        (changed("task", size=5), ["task.size = 5", "4, 6 or 9"]),
        (SECTIONS | {"trainin": {}}, ["unknown key trainin", "did you mean training?"]),
        (SECTIONS | {"zzz": {}}, ["unknown key zzz", "choose one of: task, data, model, training"]),
        (SECTIONS | {"training": [1]}, ["training must be a section of keys, not [1]"]),
        (SECTIONS | {"model": "big"}, ["model must be a section of keys, not 'big'"]),
        (SECTIONS | {"data": 3}, ["data must be a section of keys, not 3"]),
        (changed("data", sauce="x"), ["unknown key data.sauce", "did you mean source?"]),
        (changed("data", holdout=1.0), ["data.holdout = 1.0"]),
        (changed("model", hiden_size=3), ["unknown key model.hiden_size", "did you mean hidden_size?"]),
        (changed("model", hidden_size="64"), ["model.hidden_size = '64'", "integer"]),
        (changed("model", hidden_size=True), ["model.hidden_size = True", "integer"]),
        (changed("model", mixing="conv"), ["model.mixing = 'conv'", "'mlp', 'attention' or 'groups'"]),
        (changed("model", mixing="attention", num_heads=3), ["model: hidden_size 8", "num_heads 3"]),
        (changed("model", causal=True), ["model: causal needs mixing: attention"]),
        (changed("model", vocab_size=9), ["model.vocab_size = 9 contradicts task sudoku, which needs 6; remove"]),
        (changed("model", seq_len=81), ["model.seq_len = 81 contradicts", "16"]),
        (changed("model", grid_shape=[2, 8]), ["model.grid_shape = [2, 8] contradicts", "(4, 4)"]),
        (changed("training", stps=5), ["unknown key training.stps", "did you mean steps?"]),
        (changed("training", steps=True), ["training.steps = True", "integer"]),
        (changed("training", steps=5.0), ["training.steps = 5.0", "integer"]),
        (changed("training", steps="5"), ["training.steps = '5'", "integer"]),
        (changed("training", steps=0), ["training.steps = 0", "greater than or equal to 1"]),
        (changed("training", steps=None), ["training.steps = None"]),
        (changed("training", learning_rate="1e-4"), ["training.learning_rate = '1e-4'", "number"]),
        (changed("training", learning_rate=math.nan), ["training.learning_rate = nan"]),
        (changed("training", learning_rate=math.inf), ["training.learning_rate = inf", "finite"]),
        (changed("training", betas=[0.9]), ["training.betas = [0.9]", "too few"]),
        (changed("training", betas=[0.9, 0.9, 0.9]), ["training.betas", "at most 2"]),
        (changed("training", betas=[0.9, 1.0]), ["training.betas = 1.0", "less than 1"]),
        (changed("training", ema_decay=1.0), ["training.ema_decay = 1.0"]),
        (changed("training", label_smoothing=1.0), ["training.label_smoothing = 1.0", "less than 1"]),
        (changed("training", halting_weight=-1), ["training.halting_weight = -1"]),
        (changed("training", clip_norm=0), ["training.clip_norm = 0", "greater than 0"]),
        (changed("training", gradient_accumulation="half"), ["training.gradient_accumulation = 'half'"]),
        (changed("training", gradient_accumulation=0), ["training.gradient_accumulation = 0"]),
        (changed("training", dtype="fp8"), ["training.dtype = 'fp8'", "bfloat16"]),
        (changed("training", optimizer="adamv"), ["training.optimizer = 'adamv'", "did you mean adamw?"]),
        (changed("training", optimizer_options={"momentum": 0.9}), ["optimizer_options", "unknown key momentum"]),
        (
            changed("training", optimizer="muon", optimizer_options={"momentum": 1.5}),
            ["training.optimizer_options", "momentum = 1.5", "less than 1"],
        ),
        (changed("training", schedule="linear"), ["training.schedule = 'linear'", "choose one of: constant, cosine"]),
        (changed("training", seed=-1), ["training.seed = -1"]),
        (changed("training", seed=2**64), ["training.seed", "less than 18446744073709551616"]),
        (changed("training", depth=3), ["training.depth = 3", "must be a list of stages"]),
        (changed("training", depth=[5]), ["training.depth", "stage 1"]),
        (changed("training", depth=[{"until": 0, "T_cycles": 1}]), ["stage 1", "until = 0", "greater than or equal"]),
        (changed("training", depth=[{"T_cycles": 1}]), ["stage 1", "until is missing"]),
        (changed("training", depth=[{"until": 5}]), ["stage 1 changes nothing: it has T_cycles, n_latent_steps"]),
        (changed("training", depth=[{"until": 5, "T_cycle": 1}]), ["unknown key T_cycle", "did you mean T_cycles?"]),
        (
            changed("training", depth=[{"until": 5, "T_cycles": 1}, {"until": 5, "T_cycles": 2}]),
            ["stage 2 ends at step 5, not after step 5"],
        ),
        (changed("training", depth=[{"until": 5, "T_cycles": 9}]), ["T_cycles 9 is deeper than the model's own, 2"]),
        (changed("training", depth=[{"until": 5, "n_latent_steps": 0}]), ["until step 5", "n_latent_steps: 0 needs"]),
        (changed("training", steps=0, batch_size=0), ["training.steps", "training.batch_size"]),
    ],
)  # fmt: skip
def test_an_error_names_the_wrong_key(sections: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        make_config(sections, "f.yaml")
    assert error.value.usage_error
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training:\n  steps: 1\n  steps: 2\n", ["line 3", 'duplicate key "steps"']),
        ("task: {}\nmodel: {}\ntask: {}\n", ["line 3", 'duplicate key "task"']),
        ("task: [1\n", ["not valid YAML"]),
        ("task:\n\t- x\n", ["line 2, column 1", "not valid YAML"]),
        ("a: !!python/object:os.system {}\n", ["not valid YAML"]),
        ("- task\n", ["a configuration has sections (task, data, model, training)"]),
        ("", ["a configuration has sections"]),
    ],
)
def test_broken_yaml_is_located(text: str, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert error.value.usage_error
    for word in [str(path), *words]:
        assert word in str(error.value)


def test_keys_must_be_strings(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("task: {name: sudoku, [1]: 2}\n")
    with pytest.raises(UserError, match=r"f\.yaml: task.* keys should be strings"):
        make_config(read_yaml(path), str(path))


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_unreadable_files_are_rejected(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read|is not UTF-8 text"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("6E+3", 6e3),
        ("-1.5e2", -150.0),
        (".5", 0.5),
        (".5e1", ".5e1"),  # validation then rejects it
        ("1_0", 10),
        ("1e", "1e"),
        ("e4", "e4"),
        ("1e-4x", "1e-4x"),
        ("2.5", 2.5),
        ("null", None),
        ("[1e-4, 2]", [1e-4, 2]),
    ],
)
def test_numbers_have_their_usual_notation(text: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(f"training: {{x: {text}}}\n")
    for sections in (read_yaml(path), apply_settings({}, [f"training.x={text}"])):
        got = sections["training"]["x"]
        assert got == value
        assert type(got) is type(value)


def test_yaml_merges_keys(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("model: &small {hidden_size: 8, num_heads: 2}\ntraining: {<<: *small, num_heads: 4}\n")
    assert read_yaml(path)["training"] == {"hidden_size": 8, "num_heads": 4}


def test_settings_change_a_copy() -> None:
    original = {"training": {"steps": 3, "seed": 1}, "model": None}
    after = apply_settings(
        original, ["training.steps=5", " model.hidden_size=8", "data.source=a=b", "task.givens=[4, 7]"]
    )
    assert after == {
        "training": {"steps": 5, "seed": 1},
        "model": {"hidden_size": 8},
        "data": {"source": "a=b"},
        "task": {"givens": [4, 7]},
    }
    assert original == {"training": {"steps": 3, "seed": 1}, "model": None}


def test_settings_reach_any_depth() -> None:
    original = {"training": {"optimizer": "muon", "optimizer_options": {"nesterov": False}}}
    after = apply_settings(original, ["training.optimizer_options.momentum=0.9", "a.b.c.d=[1, {e: 2}]"])
    assert after["training"]["optimizer_options"] == {"nesterov": False, "momentum": 0.9}
    assert after["a"] == {"b": {"c": {"d": [1, {"e": 2}]}}}
    assert original["training"]["optimizer_options"] == {"nesterov": False}
    config = make_config(apply_settings(SECTIONS | original, ["training.optimizer_options.momentum=0.9"]), "test")
    assert config.training.optimizer_options == {"nesterov": False, "momentum": 0.9}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("training.steps", "--set takes section.key=value"),
        ("steps=5", "--set takes section.key=value"),
        ("training.=5", "--set takes section.key=value"),
        ("=", "--set takes section.key=value"),
        ("list.x=5", "list is not a section"),
        ("list.x.y=5", "list is not a section"),
        ("deep.x.y=5", "deep.x is not a section"),
        ("deep..y=5", "--set takes section.key=value"),
        ("training.steps=[1", "--set training.steps=[1: not valid YAML"),
    ],
)
def test_wrong_settings_are_named(setting: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        apply_settings({"list": [1], "deep": {"x": 1}}, [setting])
    assert words in str(error.value)
    assert error.value.usage_error


@pytest.mark.parametrize(
    "training", [{}, {"learning_rate": 1e-5, "clip_norm": 1e10, "betas": [0.5, 0.25], "seed": 2**64 - 1}]
)
def test_a_configuration_survives_a_round_trip(training: dict[str, Any], tmp_path: Path) -> None:
    config = run_config({"mixing": "attention", "positions": "grid"}, **training)
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    again = make_config(read_yaml(path), str(path))
    assert again == config
    assert type(again.task) is type(config.task)
    assert again.make_task().seq_len == again.model.seq_len == 16
    assert again.model.grid_shape == (4, 4)


def test_a_task_alone_is_a_valid_configuration() -> None:
    config = make_config({"task": {"name": "sudoku"}, "model": None, "training": {}}, "f")
    assert isinstance(config, RunConfig)
    assert (config.model.vocab_size, config.model.seq_len) == (11, 81)
    assert config.training.learning_rate == 1e-4


def test_an_unknown_preset_is_named() -> None:
    pytest.importorskip("trm_fast.configs")
    with pytest.raises(UserError, match="unknown preset 'sudoku-4x'; did you mean sudoku-4x4"):
        read_preset("sudoku-4x")


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({"schedule": "constant"}, {1: 0.1, 5: 0.5, 9: 0.9, 10: 1, 11: 1, 100: 1, 500: 1}),
        ({"schedule": "constant", "warmup_steps": 0}, {1: 1, 2: 1}),
        ({"schedule": "cosine", "final_learning_rate": 0.2}, {1: 0.1, 10: 1, 55: 0.6, 100: 0.2, 200: 0.2}),
        ({"schedule": "cosine", "final_learning_rate": 0.0, "warmup_steps": 0}, {50: 0.5, 75: 0.14644661, 100: 0}),
        ({"schedule": "cosine", "schedule_steps": 50, "final_learning_rate": 0.5}, {30: 0.75, 50: 0.5, 100: 0.5}),
        ({"schedule": "cosine", "warmup_steps": 200}, {100: 0.5}),
        ({"schedule": "constant", "warmup_ratio": 0.2}, {1: 0.05, 10: 0.5, 20: 1, 100: 1}),
        ({"schedule": "constant", "warmup_ratio": 0.0}, {1: 1}),
        ({"schedule": "constant", "warmup_ratio": 0.2, "steps": 10}, {1: 0.5, 2: 1, 10: 1}),
    ],
)
def test_schedules_give_these_rates(changes: dict[str, Any], rates: dict[int, float]) -> None:
    config = training_config(**{"steps": 100, "warmup_steps": 10, "learning_rate": 1e-3, **changes})
    for step, share in rates.items():
        assert config.learning_rate_at(step) == pytest.approx(share * 1e-3), step


def test_embeddings_may_have_their_own_rate() -> None:
    model = TRM(TRMConfig(vocab_size=5, seq_len=4, hidden_size=8, num_heads=2, inner_multiple=8, positions="learned"))
    names = [name for name, _ in model.named_parameters()]
    assert set(training_config(learning_rate=1e-4).make_optimizer(model).rates) == {1.0}
    rates = training_config(learning_rate=1e-4, embedding_learning_rate=1e-2).make_optimizer(model).rates
    changed_rates = {name: rate for name, rate in zip(names, rates, strict=True) if rate != 1}
    assert changed_rates == pytest.approx({"embedding.tokens.weight": 100, "embedding.positions.weight": 100})


def test_arguments_at_the_last_step_need_a_last_step() -> None:
    slots = apply_settings(read_preset("tool-slots"), ["model.head.arguments=last", "training.supervision=unrolled"])
    make_config(slots, "test")
    for sections, setting, message in (
        (slots, "training.supervision=carry", "needs training.supervision"),
        (slots, "model.halting=batch", "needs model.halting"),
        (read_preset("sudoku-4x4"), "model.head.arguments=last", "unknown key"),
    ):
        with pytest.raises(UserError, match=message):
            make_config(apply_settings(sections, [setting]), "test")


def test_a_head_without_classes_smooths_no_labels() -> None:
    sections = apply_settings(read_preset("copy"), ["training.label_smoothing=0.1"])
    with pytest.raises(UserError, match=r"label_smoothing is not for model\.head\.kind: values"):
        make_config(sections, "test")


def test_warmup_steps_replace_the_ratio_of_a_preset() -> None:
    preset = read_preset("tool-select-small")
    assert preset["training"]["warmup_ratio"]
    training = apply_settings(preset, ["training.warmup_steps=500"])["training"]
    assert (training["warmup_steps"], training["warmup_ratio"]) == (500, None)
    with pytest.raises(UserError, match="not both"):
        apply_settings(preset, ["training.warmup_steps=500", "training.warmup_ratio=0.1"])
