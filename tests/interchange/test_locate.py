"""Finds models by run, folder and name."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch

from trm_fast.errors import UserError
from trm_fast.inference import Solver
from trm_fast.interchange import bundled_names, locate
from trm_fast.models.saving import save_model
from trm_fast.training import Trainer, checkpoint, make_config

SECTIONS: dict[str, Any] = {
    "task": {"name": "sudoku", "size": 4, "givens": [8, 10], "train_count": 20, "test_count": 5},
    "model": {"hidden_size": 8, "num_layers": 1, "inner_multiple": 8, "T_cycles": 1, "n_latent_steps": 1},
    "data": {"holdout": 0.25},
    "training": {"steps": 4, "batch_size": 4, "checkpoint_every": 2, "seed": 3, "ema_decay": 0.5, "learning_rate": 0.1},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    trainer = Trainer(make_config(SECTIONS, "test"), tmp_path_factory.mktemp("located") / "run")
    trainer.train()
    return trainer


@pytest.mark.parametrize("step", [None, 2, 4])
def test_a_run_is_its_averaged_weights(trained: Trainer, step: int | None) -> None:
    located = locate(str(trained.out), from_step=step)
    groups, _ = checkpoint.load(trained.out, step)
    for name, tensor in located.model.state_dict().items():
        assert torch.equal(tensor, groups["ema"][name]), name
    assert not torch.equal(located.model.q_head.weight, groups["model"]["q_head.weight"])
    assert not located.model.training
    assert located.label.endswith(f"run at step {step or 4}")
    assert (located.seed, located.data.holdout) == (3, 0.25)
    assert located.task.seq_len == 16
    assert len(Solver(located.model, located.task).solve("." * 16).solution) == 16


def test_a_model_folder(trained: Trainer) -> None:
    located, of_run = locate(str(trained.out / "model")), locate(str(trained.out))
    for name, tensor in located.model.state_dict().items():
        assert torch.equal(tensor, of_run.model.state_dict()[name]), name
    assert located.label == "model"
    assert located.task.config == of_run.task.config  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="--from needs a run") as error:
        locate(str(trained.out / "model"), from_step=2)
    assert error.value.usage_error


def test_every_model_that_ships_is_found() -> None:
    folders = {path.parent.name for path in Path(str(files("trm_fast.pretrained"))).glob("*/config.json")}
    assert sorted(bundled_names()) == sorted(folders)
    for name in bundled_names():
        located = locate(name)
        assert located.label == name
        Solver(located.model, located.task)


def test_unknown_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run or model 'nothing'; models that ship with trm_fast: "):
        locate("nothing")
    with pytest.raises(UserError, match=r"is not a model: it has no config\.json"):
        locate(str(tmp_path))


def test_runs_without_checkpoints_or_configuration(trained: Trainer, tmp_path: Path) -> None:
    (tmp_path / "a" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match=r"is not a run: it has no config\.yaml"):
        locate(str(tmp_path / "a"))
    (tmp_path / "a" / "config.yaml").write_text(trained.config.to_yaml())
    with pytest.raises(UserError, match="has no checkpoint"):
        locate(str(tmp_path / "a"))
    with pytest.raises(UserError, match="no checkpoint step_3; choose one of: step_2, step_4"):
        locate(str(trained.out), from_step=3)


def test_a_checkpoint_of_another_model(trained: Trainer, tmp_path: Path) -> None:
    groups, _ = checkpoint.load(trained.out)
    groups["ema"].pop("z_init")
    checkpoint.save(tmp_path, 7, groups, {})
    (tmp_path / "config.yaml").write_text(trained.config.to_yaml())
    with pytest.raises(UserError, match=r"step_7 does not fit .*z_init") as error:
        locate(str(tmp_path))
    assert "\n" not in str(error.value)


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        config = json.loads(path.read_text())
        change(config)
        path.write_text(json.dumps(config))

    return apply


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (edit(lambda c: c.pop("task")), "names no task"),
        (edit(lambda c: c.update(task="sudoku")), "names no task"),
        (edit(lambda c: c.update(task={"size": 4})), "names no task"),
        (edit(lambda c: c["task"].update(name="maize")), "unknown task 'maize'"),
        (edit(lambda c: c["task"].update(size=5)), "task: .*4, 6 or 9"),
        (edit(lambda c: c["model"].pop("seq_len")), "has shape|tokens"),
        (lambda path: path.write_text("{"), "can't be read"),
    ],
)
def test_damaged_model_folders(damage: Callable[[Path], None], words: str, trained: Trainer, tmp_path: Path) -> None:
    save_model(trained.averaged_model(), tmp_path, task=SECTIONS["task"])
    damage(tmp_path / "config.json")
    with pytest.raises(UserError, match=words):
        locate(str(tmp_path))
