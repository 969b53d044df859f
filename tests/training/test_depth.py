"""The depth curriculum: each stage has its depth and its own capture, and a resumed run is the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from trm_fast.api import TRM
from trm_fast.interchange import locate
from trm_fast.training import RunConfig, Trainer, read_yaml
from trm_fast.training.estimate import run_seconds
from trm_fast.training.folder import read_metrics

from .recorder import Recorder
from .small import run_config
from .test_step import CASES, Host, make, same

MODEL = {"T_cycles": 3, "n_latent_steps": 2}
STAGES = [
    {"until": 9, "T_cycles": 1, "n_latent_steps": 1, "max_supervision_steps": 2},
    {"until": 17, "T_cycles": 2},
]
DEPTHS = [(9, 1, 1, 2), (17, 2, 2, 4), (40, 3, 2, 4)]


def config(**training: Any) -> RunConfig:
    return run_config(MODEL, **{"depth": STAGES, "eval_every": 0, "log_every": 1, **training})


def test_a_stage_lasts_until_its_step() -> None:
    run = config()
    for until, T, n, steps in DEPTHS:
        model = run.model_at(until)
        assert (model.T_cycles, model.n_latent_steps, model.max_supervision_steps) == (T, n, steps)
        assert run.model_at(until + 1) != model or until == 40
    assert run.model_at(99) == run.model
    flop = [count * run.model_at(step).gemm_flop(training=True) for step, count in ((9, 9), (17, 8), (18, 23))]
    assert run.flop() == sum(flop)
    assert run_seconds(run, 1e9) < run_seconds(run_config(MODEL), 1e9)


def test_unrolled_steps_count_all_their_supervision_steps() -> None:
    carried, unrolled = (run_config(steps=5, supervision=how) for how in ("carry", "unrolled"))
    assert unrolled.flop() == unrolled.model.max_supervision_steps * carried.flop()
    assert 5 * unrolled.step_flop(unrolled.model) == unrolled.flop()


def test_a_curriculum_survives_a_round_trip_through_yaml(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(config().to_yaml())
    again = run_config(MODEL, **read_yaml(tmp_path / "f.yaml")["training"])
    assert again.training == config().training


@pytest.mark.parametrize("name", ["dual", "unrolled", "puzzles"])
def test_a_change_of_depth_captures_the_step_again(name: str) -> None:
    model, training, parts = CASES[name]
    runs = []
    for runner in (None, Recorder()):
        torch.manual_seed(0)
        step = make(model | {"n_latent_steps": 2}, training, parts, runner=runner)
        whole, host, states = step.model.config, Host(step), []
        for changes in ({"T_cycles": 1, "n_latent_steps": 1, "max_supervision_steps": 2}, {}):
            original = [t.clone() for t in step.tensors()]
            step.set_depth(whole.model_copy(update=changes).depth)
            assert same([original], [step.tensors()]), "a capture changes no tensor"
            for _ in range(3):
                host()
                states.append([t.clone() for t in step.tensors()])
        runs.append(states)
    assert same(*runs)


class Depths(Trainer):
    """Records the depth of each step."""

    def _one_step(self) -> None:
        super()._one_step()
        self.__dict__.setdefault("seen", []).append(self.step_function.depth)


@pytest.mark.parametrize("stop", [5, 9, 13, 20])
def test_a_resumed_run_is_the_run_that_was_not_stopped(stop: int, tmp_path: Path) -> None:
    straight = Depths(config(steps=24, schedule_steps=24), tmp_path / "straight")
    straight.train()
    assert straight.__dict__["seen"] == [(1, 1, 2)] * 9 + [(2, 2, 4)] * 8 + [(3, 2, 4)] * 7
    Trainer(config(steps=stop, schedule_steps=24), tmp_path / "stopped").train()
    resumed = Depths.resume(tmp_path / "stopped", config=config(steps=24, schedule_steps=24))
    assert resumed.step_function.depth == resumed.config.model_at(stop + 1).depth == resumed.config.depth_at(stop + 1)
    resumed.train()
    assert same([straight.step_function.tensors()], [resumed.step_function.tensors()])
    losses = [
        [(r["step"], r["loss"], r["depth"]) for r in read_metrics(run) if "loss" in r]
        for run in (straight.out, resumed.out)
    ]
    assert losses[0] == losses[1]
    assert [depth for *_, depth in losses[0]] == [2] * 9 + [6] * 8 + [9] * 7


def test_a_run_that_stopped_early_has_the_depth_of_its_last_stage(tmp_path: Path) -> None:
    trainer = Trainer(config(steps=12), tmp_path / "run")
    trainer.train()
    for model in (locate(str(tmp_path / "run")).model, TRM.from_pretrained(tmp_path / "run" / "model")):
        assert model.config == trainer.config.model_at(12)
