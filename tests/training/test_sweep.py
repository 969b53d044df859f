"""Sweeps: their runs equal those of the trainer, resume after an interruption, and end in a table."""

from __future__ import annotations

import json
import os
import signal
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trm_fast.errors import UserError
from trm_fast.tasks.base import Dataset
from trm_fast.tasks.puzzle_task import PuzzleTask
from trm_fast.training import Callback, Trainer
from trm_fast.training.search import parse_range, suggest
from trm_fast.training.sweep import Plan, Sweep, Variant, grid, parse_variant

from .small import SECTIONS

SHORT = SECTIONS | {"training": SECTIONS["training"] | {"steps": 6, "eval_every": 0}}
VARIANTS = grid([], {"training.learning_rate": [1e-3, 1e-2]})
PLAN = Plan(sections=SHORT, seeds=[0, 5], variants=VARIANTS)


class AtStep(Callback):
    """Records the steps, and calls a function at one of them."""

    def __init__(self, at: int = 0, act: Callable[[], None] | None = None) -> None:
        self.at, self.act = at, act
        self.steps: list[int] = []

    def on_step(self, step: int) -> None:
        self.steps.append(step)
        if self.act is not None and step == self.at:
            self.act()


def train_all(sweep: Sweep) -> list[tuple[str, int]]:
    trained = []
    for variant, seed in sweep.pending():
        if sweep.train(variant, seed) is None:
            break
        trained.append((variant.name, seed))
    return trained


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def test_a_grid_has_every_combination() -> None:
    named = [Variant("plain"), parse_variant("slow: training.learning_rate=1e-5 training.betas=[0.9,0.99]")]
    variants = grid(named, {"model.hidden_size": [8, 16], "training.optimizer": ["sgd"]})
    assert [v.name for v in variants] == [
        "plain hidden_size=8 optimizer=sgd", "plain hidden_size=16 optimizer=sgd",
        "slow hidden_size=8 optimizer=sgd", "slow hidden_size=16 optimizer=sgd",
    ]  # fmt: skip
    assert variants[3].settings == {
        "training.learning_rate": 1e-5, "training.betas": [0.9, 0.99], "model.hidden_size": 16,
        "training.optimizer": "sgd",
    }  # fmt: skip
    assert grid([], {"task.seed": [1], "data.seed": [2]})[0].name == "task.seed=1 data.seed=2"
    with pytest.raises(UserError, match="two variants have the name 'plain'"):
        grid([Variant("plain"), Variant("plain")], {})
    for text in ("plain", ": a.b=1", "x: a.b", "x: =1"):
        with pytest.raises(UserError, match="--variant takes"):
            parse_variant(text)


def test_every_run_is_one_of_the_trainer_and_the_table_summarizes_them(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "sweep", PLAN, metric="cell_accuracy")
    names = [v.name for v in VARIANTS]
    assert train_all(sweep) == [(name, seed) for name in names for seed in (0, 5)]
    content = sweep.save()
    assert json.loads((tmp_path / "sweep" / "sweep.json").read_text()) == json.loads(json.dumps(content))
    values = []
    for seed in (0, 5):
        out = tmp_path / str(seed)
        summary = Trainer(PLAN.config(VARIANTS[1], seed), out).train()
        assert weights(out) == weights(tmp_path / "sweep" / "runs" / f"1-{names[1]}" / f"seed-{seed}")
        values.append(summary["evaluation"]["cell_accuracy"])
    a, b = values
    half = 12.7062 * abs(a - b) / 2  # t of one degree of freedom, times the standard error |a - b| / 2
    row = content["variants"][1]
    assert row["mean"] == pytest.approx((a + b) / 2)
    assert row["sd"] == pytest.approx(abs(a - b) / 2**0.5)
    assert row["interval"] == pytest.approx(((a + b) / 2 - half, (a + b) / 2 + half), abs=1e-4)
    assert (row["n"], row["steps"], row["sample_steps"]) == (2, 6, 42)
    assert row["seconds"] == statistics.fmean(run["seconds"] for run in sweep.finished_runs(VARIANTS[1]))
    assert train_all(Sweep(tmp_path / "sweep", PLAN)) == []


def test_a_single_run_has_the_interval_of_its_evaluation(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, replace(PLAN, seeds=[0], variants=VARIANTS[:1]))
    train_all(sweep)
    evaluation = sweep.runs[0]["evaluation"]
    row = sweep.save()["variants"][0]
    assert (row["n"], row["sd"], row["interval"]) == (1, None, list(evaluation["interval"]))
    evaluation.update({"f1": 0.5, "f1_low": 0.4, "f1_high": 0.7})
    assert sweep.rows("f1")[0]["interval"] == [0.4, 0.7]
    assert sweep.rows("cell_accuracy")[0]["interval"] is None
    with pytest.raises(UserError, match=r"--metric score: choose from exact_accuracy, cell_accuracy, .*f1"):
        sweep.rows("score")


def test_an_interrupted_sweep_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    plan = replace(PLAN, sections=SHORT | {"training": SHORT["training"] | {"checkpoint_every": 2}})
    straight = Sweep(tmp_path / "straight", plan)
    train_all(straight)
    callbacks: list[AtStep] = []

    def second_is_interrupted() -> list[AtStep]:
        interrupts = len(callbacks) == 1
        callbacks.append(AtStep(3, lambda: os.kill(os.getpid(), signal.SIGINT)) if interrupts else AtStep())
        return callbacks[-1:]

    out = tmp_path / "stopped"
    assert train_all(Sweep(out, plan, callbacks=second_is_interrupted)) == [(VARIANTS[0].name, 0)]
    resumed = Sweep(out, plan, callbacks=second_is_interrupted)
    assert len(train_all(resumed)) == 3
    assert [c.steps for c in callbacks] == [[1, 2, 3, 4, 5, 6], [1, 2, 3], [4, 5, 6], *[[1, 2, 3, 4, 5, 6]] * 2]
    for folder in (tmp_path / "straight" / "runs").glob("*/*"):
        assert weights(folder) == weights(out / folder.relative_to(tmp_path / "straight"))
    assert [row["mean"] for row in resumed.rows("cell_accuracy")] == [
        row["mean"] for row in straight.rows("cell_accuracy")
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": [0, 1]},
        {"variants": VARIANTS[:1]},
        {"sections": SECTIONS},
        {"minutes": 1.0},
        {"eval_data": "hf:other"},
        {"solver": {"max_steps": 4}},
    ],
)
def test_another_plan_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    Sweep(tmp_path, PLAN).save()
    Sweep(tmp_path, PLAN, metric="cell_accuracy")
    with pytest.raises(UserError, match=rf"holds another sweep: {next(iter(changes))} changed\. .* another --out"):
        Sweep(tmp_path, replace(PLAN, **changes))


def test_a_variant_that_is_not_valid_is_refused_before_any_run(tmp_path: Path) -> None:
    plan = replace(PLAN, variants=[*VARIANTS, Variant("wrong", {"training.batch_size": 0})])
    with pytest.raises(UserError, match=r"variant wrong: training\.batch_size = 0"):
        Sweep(tmp_path / "out", plan)
    assert not (tmp_path / "out").exists()


def test_a_diverged_run_is_counted_and_left_out_of_the_mean(tmp_path: Path) -> None:
    settings = {"training.optimizer": "sgd", "training.learning_rate": 1e30, "training.warmup_steps": 0}
    sweep = Sweep(tmp_path, replace(PLAN, seeds=[0], variants=[Variant("diverges", settings), *VARIANTS[:1]]))
    assert len(train_all(sweep)) == 2
    diverged, finished = sweep.save()["variants"]
    assert (diverged["n"], diverged["diverged"], diverged["mean"], diverged["interval"]) == (0, 1, None, None)
    assert "the loss is not finite after step" in sweep.runs[0]["diverged"]
    assert (finished["n"], finished["diverged"]) == (1, 0)


def test_models_are_evaluated_on_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, dataset = tmp_path / "hard.csv", PuzzleTask.dataset
    data.write_text("question,answer\n" + "12343412214343..,1234341221434321\n" * 3)

    def without_test(*arguments: Any) -> Dataset:
        whole = dataset(*arguments)
        return replace(whole, test=whole.test.take(slice(0)))

    monkeypatch.setattr(PuzzleTask, "dataset", without_test)
    plan = replace(PLAN, seeds=[0], variants=VARIANTS[:1])
    with pytest.raises(UserError, match="no test set: give --eval-data"):
        train_all(Sweep(tmp_path / "none", plan))
    sweep = Sweep(tmp_path / "out", replace(plan, eval_data=str(data), eval_limit=2, solver={"max_steps": 3}))
    train_all(sweep)
    evaluation = sweep.runs[0]["eval_data"]
    assert (evaluation["count"], sweep.runs[0]["evaluation"]) == (2, None)
    assert evaluation["mean_steps"] <= 3
    assert sweep.save()["variants"][0]["mean"] == evaluation["exact_accuracy"]


def test_a_limit_of_training_time_ends_every_run(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, replace(PLAN, seeds=[0], minutes=1e-9, processor_time=True))
    train_all(sweep)
    assert [run["steps"] for run in sweep.runs] == [1, 1]


def test_ranges() -> None:
    assert parse_range(["1e-4..1e-2"], "k") == (1e-4, 1e-2)
    assert parse_range(["adamw"], "k") is parse_range([1, "2..3"], "k") is None
    for text in ("3..2", "a..b", "1..1"):
        with pytest.raises(UserError, match=r"--vary k=.*: a range is LOW\.\.HIGH"):
            parse_range([text], "k")


def test_a_search_continues_as_if_it_had_not_been_interrupted(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    space = {"training.learning_rate": ["1e-4..1e-1"], "model.num_layers": ["1..2"], "training.betas": [[0.9, 0.9]]}
    plan = Plan(sections=SHORT, seeds=[0], space=space, trials=3)
    straight = Sweep(tmp_path / "straight", plan, metric="cell_accuracy")
    assert len(train_all(straight)) == 3
    for variant in straight.variants:
        assert 1e-4 <= variant.settings["training.learning_rate"] <= 1e-1
        assert variant.settings["model.num_layers"] in (1, 2)
        assert variant.settings["training.betas"] == [0.9, 0.9]
    stopped = Sweep(tmp_path / "stopped", plan, metric="cell_accuracy")
    variant, seed = next(stopped.pending())
    stopped.train(variant, seed)
    next(Sweep(tmp_path / "stopped", plan, metric="cell_accuracy").pending())
    resumed = Sweep(tmp_path / "stopped", plan, metric="cell_accuracy")
    assert len(train_all(resumed)) == 2
    assert resumed.variants == straight.variants


def test_a_search_finds_the_better_half_of_a_range() -> None:
    pytest.importorskip("optuna")
    previous: list[tuple[dict[str, Any], float | None]] = []
    for _ in range(30):
        settings = suggest({"x": ["0.0..1.0"], "y": [1, 2]}, previous)
        value = None if settings["x"] < 0.1 else -((settings["x"] - 0.8) ** 2) + settings["y"]
        previous.append((settings, value))
    assert statistics.median(settings["x"] for settings, _ in previous[15:]) > 0.6
    assert statistics.mean(settings["y"] for settings, _ in previous[15:]) > 1.6


def test_a_search_without_optuna_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UserError, match=r'pip install "trm-fast\[sweep\]"'):
        suggest({"x": [1, 2]}, [])
