"""The random state in a checkpoint is that of the run's device. Two functions emulate a GPU's generator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from trm_fast.training import Trainer, checkpoint
from trm_fast.training.rng import random_state, set_random_state

from .small import run_config

GPU, CPU = torch.device("cuda", 1), torch.device("cpu")


class Generator:
    """Seed and offset, which are the 16 bytes of state that torch keeps for a CUDA device."""

    def __init__(self) -> None:
        self.state, self.devices = torch.tensor([7, 0]), set[torch.device]()

    def get(self, device: torch.device) -> Tensor:
        self.devices.add(device)
        return self.state.view(torch.uint8).clone()

    def set(self, state: Tensor, device: torch.device) -> None:
        self.devices.add(device)
        self.state = state.clone().view(torch.int64)


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> Generator:
    fake = Generator()
    monkeypatch.setattr(torch.cuda, "get_rng_state", fake.get)
    monkeypatch.setattr(torch.cuda, "set_rng_state", fake.set)
    return fake


def test_each_device_has_its_own_state(generator: Generator) -> None:
    cpu_state = random_state(CPU)
    generator.state[1] = 40  # ten replays have drawn
    saved = random_state(GPU)
    generator.state[1] = 0
    set_random_state(GPU, saved)
    assert generator.state.tolist() == [7, 40]
    assert generator.devices == {GPU}
    assert torch.equal(random_state(CPU), cpu_state)


def test_a_state_of_another_kind_of_device_is_ignored(generator: Generator) -> None:
    cpu_state = random_state(CPU)
    set_random_state(CPU, random_state(GPU))
    set_random_state(GPU, cpu_state)
    assert torch.equal(random_state(CPU), cpu_state)
    assert generator.state.tolist() == [7, 0]


def test_a_checkpoint_holds_the_state_of_the_runs_device(
    generator: Generator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trainer = Trainer(run_config({"dropout": 0.1}, steps=3), tmp_path / "run")
    trainer.train()
    generator.state[1] = 12
    trainer.step_function.device = GPU
    trainer.save()
    assert checkpoint.load(tmp_path / "run")[0]["carry"]["rng_0"].view(torch.int64).tolist() == [7, 12]
    generator.state[1] = 99
    groups, state = checkpoint.load(tmp_path / "run")
    trainer._restore(groups, state)
    assert generator.state.tolist() == [7, 12]


def test_a_resumed_run_continues_the_random_numbers_of_dropout(tmp_path: Path) -> None:
    config = run_config({"dropout": 0.3}, steps=12, eval_every=0)
    straight = Trainer(config, tmp_path / "straight")
    straight.train()
    Trainer(run_config({"dropout": 0.3}, steps=6, schedule_steps=12, eval_every=0), tmp_path / "stopped").train()
    torch.manual_seed(123)
    resumed = Trainer.resume(tmp_path / "stopped", config=config)
    resumed.train()
    assert torch.equal(random_state(CPU), checkpoint.load(tmp_path / "straight")[0]["carry"]["rng_0"])
    for a, b in zip(resumed.optimizer.weights, straight.optimizer.weights, strict=True):
        assert torch.equal(a, b)
