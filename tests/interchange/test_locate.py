"""Finds models by run, folder and name."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.inference import Solver
from trm_fast.interchange import bundled_names, locate
from trm_fast.models import TRMConfig
from trm_fast.models.saving import read_model_config, save_model
from trm_fast.tasks import make_task
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
    assert located.task.config == of_run.task.config
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
    with pytest.raises(UserError, match=r"step_7.*z_init") as error:
        locate(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_model_saved_with_its_task_solves(tmp_path: Path) -> None:
    model = TRM(TRMConfig.for_sudoku(vocab_size=6, seq_len=16, grid_shape=(4, 4), hidden_size=8, inner_multiple=8))
    section = {"name": "sudoku", "size": 4}
    for name, task in (("1", section), ("2", make_task(section, "test"))):
        model.save_pretrained(tmp_path / name, task=task)
        located = locate(str(tmp_path / name))
        assert len(Solver(located.model, located.task).solve("." * 16).solution) == 16
    again = TRM.from_pretrained(tmp_path / "1")
    again.save_pretrained(tmp_path / "again")  # a loaded model keeps its task
    assert read_model_config(tmp_path / "again")["task"]["size"] == 4
    model = TRM(model.config)
    for wrong, words in (("sudoko", "unknown task 'sudoko'"), ("sudoku", "the task sudoku has 81 of 11")):
        with pytest.raises(UserError, match=words):
            model.save_pretrained(tmp_path / "wrong", task=wrong)
    assert not (tmp_path / "wrong").exists()
    model.save_pretrained(tmp_path / "none")
    with pytest.raises(UserError, match=r'names no task, .*save_pretrained\(folder, task="sudoku"\)'):
        locate(str(tmp_path / "none"))


def test_a_model_with_further_files_is_saved_with_them(tmp_path: Path) -> None:
    run = Path(__file__).parents[1] / "fixtures" / "format_v1" / "runs" / "tool-select"
    located = locate(str(run))
    located.model.save_pretrained(tmp_path / "a")
    TRM.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert {path.name for path in (tmp_path / "b").iterdir()} >= {"config.json", "lexicon.json", "tokenizer.json"}
    assert locate(str(tmp_path / "b")).task.name == "tool-select"
    with pytest.raises(UserError, match="this task has no tokenizer yet"):
        located.model.save_pretrained(tmp_path / "c", task=located.section)
    assert not (tmp_path / "c").exists()


def test_a_task_that_cannot_be_imported_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    TRM(TRMConfig(hidden_size=8, inner_multiple=8)).save_pretrained(folder)
    edit(lambda config: config.update(task={"name": "gone_module:Task"}))(folder / "config.json")
    TRM.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert read_model_config(tmp_path / "again")["task"] == {"name": "gone_module:Task"}
    with pytest.raises(UserError, match=r"gone_module:Task' runs the code of the module gone_module\. If you trust it"):
        locate(str(tmp_path / "again"))


def test_models_that_ship_are_loaded_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in bundled_names():
        model = TRM.from_pretrained(name)
        assert torch.equal(model.z_init, locate(name).model.z_init)
    with pytest.raises(UserError, match=r"there is no folder sudoku-5x5; models that ship: maze-small, "):
        TRM.from_pretrained("sudoku-5x5")
    monkeypatch.chdir(tmp_path)
    locate("sudoku-4x4").model.save_pretrained("sudoku-6x6")
    assert TRM.from_pretrained("sudoku-6x6").config.seq_len == 16  # a folder precedes a name


def test_the_folder_of_a_run_is_not_a_model(trained: Trainer) -> None:
    with pytest.raises(UserError, match=r"is a run, not a model: its model is .*model"):
        TRM.from_pretrained(trained.out)


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
        (edit(lambda c: c["task"].update(size=5)), r"task\.size = 5: .*4, 6 or 9"),
        (edit(lambda c: c["model"].pop("seq_len")), "has shape|tokens"),
        (lambda path: path.write_text("{"), "config.json: not valid JSON"),
    ],
)
def test_damaged_model_folders(damage: Callable[[Path], None], words: str, trained: Trainer, tmp_path: Path) -> None:
    save_model(trained.averaged_model(), tmp_path, task=SECTIONS["task"])
    damage(tmp_path / "config.json")
    with pytest.raises(UserError, match=words):
        locate(str(tmp_path))
