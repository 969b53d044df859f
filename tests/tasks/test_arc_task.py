"""The task arc: training and test data, rows of the embedding, votes, guesses and drawings."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from rich.console import Console

from trm_fast.errors import UserError
from trm_fast.tasks.arc.data import ARCConfig
from trm_fast.tasks.arc.grids import decode, encode, labels_to_tokens
from trm_fast.tasks.arc.task import ARC
from trm_fast.tasks.base import IGNORE, Candidates, DataConfig, Examples
from trm_fast.training import make_config

from .arc_data import mirrored, raised, real, write
from .test_arc_grids import canvas_of, image_of

TASKS = {"training": {"mirror": mirrored(1, tests=2)}, "evaluation": {"raise": raised(2), "mirror2": mirrored(3)}}

UNANSWERED = {
    "train": TASKS["evaluation"]["raise"]["train"],
    "test": [{"input": TASKS["evaluation"]["raise"]["test"][0]["input"]}],
}


def arc(**keys: Any) -> ARC:
    return ARC(ARCConfig(**({"canvas": 6, "augmentations": 3} | keys)))


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    return DataConfig(source=str(write(tmp_path / "tasks.json", TASKS)))


def grids_of(rows: np.ndarray, canvas: int = 6) -> list[Any]:
    return [decode(row, canvas).tolist() for row in labels_to_tokens(rows)]


def learned(data: DataConfig, **keys: Any) -> tuple[ARC, Examples, Examples]:
    task = arc(**keys)
    sets = task.dataset(data, 0)
    return task, sets.train, sets.test


def test_test_pairs_are_held_out(data: DataConfig) -> None:
    task, train, test = learned(data)
    assert task.model_keys(data) == {"vocab_size": 12, "seq_len": 36, "grid_shape": (6, 6), "num_puzzles": 3 * 4}
    expected = [p for subset in TASKS.values() for t in subset.values() for p in t["train"]]
    assert grids_of(train.inputs) == [p["input"] for p in expected]
    assert grids_of(train.labels) == [p["output"] for p in expected]
    assert train.puzzle_ids.tolist() == [0, 0, 0, 4, 4, 8, 8, 8]
    assert test.puzzle_ids.tolist() == [0, 0, 4, 8]
    assert grids_of(test.labels)[2] == TASKS["evaluation"]["raise"]["test"][0]["output"]


def test_only_held_out_subsets_are_tested(data: DataConfig) -> None:
    _, train, test = learned(data, held_out=["evaluation"])
    assert train.puzzle_ids.tolist() == [0, 0, 0, 0, 0, 4, 4, 8, 8, 8]
    assert test.puzzle_ids.tolist() == [4, 8]
    test_inputs = {row.tobytes() for row in test.inputs}
    assert not test_inputs & {row.tobytes() for row in train.inputs}


def test_choosing_subsets_and_tasks(data: DataConfig) -> None:
    _, train, test = learned(data, subsets=["evaluation"])
    assert (train.puzzle_ids.max(), len(test)) == (4, 2)
    _, train, test = learned(data, tasks=["mirror2"])
    assert (train.puzzle_ids.tolist(), len(test)) == ([0, 0, 0], 1)
    for keys, message in (
        ({"tasks": ["nothing"]}, r"task\.tasks: the data has no nothing; it has mirror, mirror2, raise"),
        ({"subsets": ["train"]}, r"task\.subsets: the data has no train; it has evaluation, training"),
        ({"held_out": ["test"]}, r"task\.held_out: the data has no test"),
        ({"subsets": ["training"], "tasks": ["mirror2"]}, r"no task in task\.tasks belongs to task\.subsets"),
        ({"canvas": 1}, "no task is left: all of them have grids larger than 1 x 1"),
    ):
        with pytest.raises(UserError, match=message):
            learned(data, **keys)


def test_a_test_set_of_its_own(tmp_path: Path, data: DataConfig) -> None:
    other = write(tmp_path / "other.json", raised(9))
    task = arc()
    sets = task.dataset(DataConfig(source=data.source, test=str(other)), 0)
    assert sets.test.puzzle_ids.tolist() == [12]
    assert len(sets.train) == 8 + 3 + 1 + 2  # all pairs of the source, and the demonstrations of the other task
    assert task.model_keys(DataConfig(source=data.source, test=str(other)))["num_puzzles"] == 16


def test_large_tasks_are_left_out_with_a_note(data: DataConfig) -> None:
    sets = arc(canvas=3).dataset(data, 0)
    assert not sets.notes
    task = mirrored(1) | {"train": [{"input": [[1] * 5], "output": [[1]]}]}
    content = {"x": {"wide": task, "raise": raised(1)}}
    path = Path(str(data.source)).with_name("wide.json")
    sets = arc(canvas=4).dataset(DataConfig(source=str(write(path, content))), 0)
    assert sets.notes == ["1 of 2 tasks have grids larger than 4 x 4 and are left out"]


def test_data_is_required_to_train_but_not_to_configure() -> None:
    with pytest.raises(UserError, match=r"needs data: --data FILE"):
        arc().dataset(DataConfig(), 0)
    assert "num_puzzles" not in arc().model_keys(DataConfig(source="gone.json"))
    assert make_config({"task": {"name": "arc"}, "data": {"source": "gone.json"}}, "test").model.seq_len == 900


def test_configuration() -> None:
    for keys, message in (
        ({"augmentations": 8, "colors": False}, "without colors: true there are at most 7 augmentations"),
        ({"augmentations": 8, "colors": "shared"}, "at most 7 augmentations"),
        ({"augmentations": 1, "colors": "some"}, "Input should be"),
        ({"augmentations": 1, "colors": False, "dihedral": False}, "at most 0 augmentations"),
        ({"canvas": 31}, "less than or equal to 30"),
    ):
        with pytest.raises(ValidationError, match=message):
            ARCConfig(**keys)


def test_augmented_pairs_are_images_with_their_own_row(data: DataConfig) -> None:
    task, train, _ = learned(data, augmentations=20)
    rows = np.arange(len(train)).repeat(200)
    drawn = task.augment(train.take(rows), np.random.default_rng(0))
    again = task.augment(train.take(rows), np.random.default_rng(0))
    symmetries = task._symmetries
    assert symmetries is not None
    positions = set()
    for i, row in enumerate(rows):
        of, base = int(drawn.puzzle_ids[i]), int(train.puzzle_ids[row])
        assert base <= of < base + 21
        element, colors = int(symmetries.dihedral[of]), symmetries.colors[of].tolist()
        pair = [image_of(grids_of(a[row : row + 1])[0], element, colors) for a in (train.inputs, train.labels)]
        cells = drawn.inputs[i].reshape(6, 6)
        down, right = (int((cells >= 2).any(axis=axis).argmax()) for axis in (1, 0))
        positions.add((down, right))
        for grid, tokens in zip(pair, (drawn.inputs[i], labels_to_tokens(drawn.labels[i])), strict=True):
            assert tokens.reshape(6, 6).tolist() == canvas_of(grid, 6, down, right)
    assert len(positions) > 9
    np.testing.assert_array_equal(drawn.inputs, again.inputs)
    assert len(set(drawn.puzzle_ids.tolist())) == 3 * 21


def test_rows_of_equal_augmentations_are_not_used(tmp_path: Path) -> None:
    """Grids of one color that all elements leave as they are: 9 augmentations with the task itself, not 41."""
    ring = [[4, 4, 4], [4, 0, 4], [4, 4, 4]]
    same = {"train": [{"input": ring, "output": [[4]]}], "test": [{"input": ring, "output": [[4]]}]}
    source = write(tmp_path / "two.json", {"ring": same, "mirror": mirrored(1)})
    task, train, test = learned(DataConfig(source=str(source)), augmentations=40, translation=False)
    drawn = task.augment(train.repeat(400), np.random.default_rng(0))
    assert set(drawn.puzzle_ids.tolist()) == {*range(9), *range(41, 82)}
    ringed = drawn.take(np.flatnonzero(drawn.puzzle_ids < 9))
    assert len({(json.dumps(g), i) for g, i in zip(grids_of(ringed.inputs), ringed.puzzle_ids, strict=True)}) == 9
    images, undo = task.images(test, 41, np.random.default_rng(0))
    assert images.puzzle_ids[:41].tolist() == [k % 9 for k in range(41)]
    back = undo(images.inputs.reshape(len(test), 41, 36))
    np.testing.assert_array_equal(back, np.repeat(test.inputs[:, None], 41, axis=1))
    task.save_assets(tmp_path)
    again = arc(augmentations=40, translation=False)
    again.load_assets(tmp_path)
    np.testing.assert_array_equal(again.augment(train.repeat(400), np.random.default_rng(0)).inputs, drawn.inputs)


def test_shared_colors_leave_the_rows_to_the_dihedral_elements(data: DataConfig) -> None:
    task, train, _ = learned(data, augmentations=7, colors="shared", translation=False)
    drawn = task.augment(train.repeat(300), np.random.default_rng(0))
    symmetries = task._symmetries
    assert symmetries is not None
    assert (symmetries.colors == np.arange(10)).all()
    questions, answers = grids_of(drawn.inputs), grids_of(drawn.labels)
    for i, (of, row) in enumerate(zip(drawn.puzzle_ids.tolist(), np.arange(len(train)).repeat(300), strict=True)):
        plain = [grids_of(a[row : row + 1])[0] for a in (train.inputs, train.labels)]
        turned = [image_of(grid, int(symmetries.dihedral[of]), list(range(10))) for grid in plain]
        became: dict[int, int] = {0: 0}
        for was, now in zip(turned, (questions[i], answers[i]), strict=True):
            for cells in zip(np.ravel(was).tolist(), np.ravel(now).tolist(), strict=True):
                assert became.setdefault(*cells) == cells[1]  # one color for one color, in both grids
        assert len(set(became.values())) == len(became)
    assert len({json.dumps(grid) for grid in questions}) > len(train) * 8 * 10


def test_no_translation(data: DataConfig) -> None:
    task, train, _ = learned(data, translation=False)
    drawn = task.augment(train.repeat(20), np.random.default_rng(0))
    assert (drawn.inputs[:, 0] >= 2).all()


@pytest.mark.parametrize("count", [1, 3, 4])
def test_images_and_back(data: DataConfig, count: int) -> None:
    """Right answers to the images become the right answer to the question, whatever stands beyond the border."""
    task, _, test = learned(data)
    images, undo = task.images(test, count, np.random.default_rng(0))
    assert images.puzzle_ids.tolist() == [base + k for base in test.puzzle_ids for k in range(count)]
    np.testing.assert_array_equal(images.inputs[::count], test.inputs)
    symmetries = task._symmetries
    assert symmetries is not None
    answers = np.zeros((len(test), count, 36), dtype=np.int64)
    for n, (question, label) in enumerate(zip(grids_of(test.inputs), grids_of(test.labels), strict=True)):
        for k in range(count):
            of = int(test.puzzle_ids[n]) + k
            element, colors = int(symmetries.dihedral[of]), symmetries.colors[of].tolist()
            shown = canvas_of(image_of(question, element, colors), 6)
            assert images.inputs[n * count + k].reshape(6, 6).tolist() == shown
            answers[n, k] = np.array(canvas_of(image_of(label, element, colors), 6)).ravel()
            answers[n, k][-1] = 11 if answers[n, k][-1] == 0 else answers[n, k][-1]
    back = undo(answers)
    assert back.shape == answers.shape
    for n in range(len(test)):
        for k in range(count):
            np.testing.assert_array_equal(back[n, k], labels_to_tokens(test.labels[n]))
    if count == 4:
        with pytest.raises(UserError, match="5 symmetries: this model has only 4 augmentations"):
            task.images(test, 5, np.random.default_rng(0))


def candidates(grids: list[Any]) -> Candidates:
    tokens = encode([np.array(g, dtype=np.uint8) if g else None for g in grids], 6)
    count = len(grids)
    return Candidates(tokens, np.arange(count, 0, -1), np.full(count, 0.5, dtype=np.float32))


def test_pass_at_k_is_a_mean_over_tasks(data: DataConfig) -> None:
    task, _, test = learned(data)
    right, wrong = grids_of(test.labels), [[[0]], [[1]], [[2]]]
    ranked = [
        candidates([right[0], *wrong]),  # of mirror: first
        candidates([*wrong, right[1]]),  # of mirror: fourth
        candidates([wrong[0], right[2]]),  # of raise: second
        candidates(wrong),  # of mirror2: never
    ]
    measured = task.ranked_metrics(test, ranked)
    assert measured == {"pass@1": 0.5 / 3, "pass@2": 1.5 / 3, "pass@100": pytest.approx(2 / 3), "tasks": 3.0}


def test_submission(data: DataConfig) -> None:
    task, _, test = learned(data)
    ranked = [candidates([[[1]], [[2]], [[3]]]), candidates([[[4]]]), candidates([None, [[5, 6]]]), candidates([None])]
    assert task.submission(test, ranked) == {
        "mirror": [{"attempt_1": [[1]], "attempt_2": [[2]]}, {"attempt_1": [[4]], "attempt_2": [[4]]}],
        "raise": [{"attempt_1": [[5, 6]], "attempt_2": [[5, 6]]}],
        "mirror2": [{"attempt_1": [[0]], "attempt_2": [[0]]}],
    }


def test_a_saved_model_knows_its_tasks(tmp_path: Path, data: DataConfig) -> None:
    task, _, test = learned(data)
    model = tmp_path / "model"
    model.mkdir()
    task.save_assets(model)
    other = arc()
    with pytest.raises(UserError, match="has no list of ARC tasks"):
        other.read(str(data.source))
    other.load_assets(model)
    examples = other.read(str(data.source))
    np.testing.assert_array_equal(examples.inputs, test.inputs)
    np.testing.assert_array_equal(examples.puzzle_ids, test.puzzle_ids)
    single = write(tmp_path / "renamed.json", TASKS["evaluation"]["mirror2"])
    assert other.read(str(single)).puzzle_ids.tolist() == [8]
    more = write(tmp_path / "more.json", {"all": {"new": mirrored(50), "mirror2": TASKS["evaluation"]["mirror2"]}})
    assert other.read(str(more)).puzzle_ids.tolist() == [8]  # unknown tasks are skipped
    with pytest.raises(UserError, match="unknown: the model was not trained on this task"):
        other.read(str(write(tmp_path / "unknown.json", mirrored(51))))
    assert other.parse(json.dumps(TASKS["evaluation"]["raise"])).puzzle_id == 4
    (model / "tasks.json").write_text("[1]")
    with pytest.raises(UserError, match=r"tasks\.json, the model's list of tasks, cannot be read"):
        arc().load_assets(model)
    (model / "tasks.json").write_text('[{"name": "a", "demonstrations": "0"}]')
    with pytest.raises(UserError, match=r"tasks\.json, the model's list of tasks, has no 'shapes'"):
        arc().load_assets(model)
    eight, seven = [[1]] * 8, [[1]] * 7
    (model / "tasks.json").write_text(
        json.dumps([{"name": "a", "demonstrations": "0", "shapes": [0] * 8, "colors": c} for c in (eight, seven)])
    )
    with pytest.raises(UserError, match="shapes and colors of a must have 8 entries each"):
        arc().load_assets(model)


def test_questions_and_answers(tmp_path: Path, data: DataConfig) -> None:
    task, _, test = learned(data)
    questions = list(task.questions(str(data.source)))
    assert [q.where for q in questions] == ["mirror test 1", "mirror test 2", "raise test 1", "mirror2 test 1"]
    np.testing.assert_array_equal(np.stack([q.inputs for q in questions]), test.inputs)
    answer = labels_to_tokens(test.labels[2])
    assert json.loads(task.format(questions[2], answer)) == TASKS["evaluation"]["raise"]["test"][0]["output"]
    unanswered = {n: t | {"test": [{"input": p["input"]} for p in t["test"]]} for n, t in TASKS["evaluation"].items()}
    path = write(tmp_path / "open_challenges.json", unanswered)
    assert len(list(task.questions(path))) == 2
    with pytest.raises(UserError, match="raise has no test outputs to compare with"):
        task.read(str(path))
    sets = arc().dataset(DataConfig(source=str(path)), 0)
    assert len(sets.test) == 0
    assert sets.notes == ["2 of 2 test inputs have no answer and are not scored"]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (mirrored(77), "the model was not trained on this task"),
        ({"train": mirrored(1)["train"], "test": [{"input": [[1] * 7]}]}, "a grid is larger than 6 x 6"),
    ],
)
def test_unsolvable_tasks_are_refused(tmp_path: Path, data: DataConfig, task: Any, message: str) -> None:
    trained, _, _ = learned(data)
    with pytest.raises(UserError, match=message):
        list(trained.questions(write(tmp_path / "new.json", task)))
    with pytest.raises(UserError, match=message):
        trained.parse(json.dumps(task))


def test_other_mistakes_in_questions(tmp_path: Path, data: DataConfig) -> None:
    trained, _, _ = learned(data)
    with pytest.raises(UserError, match="was trained on a task of this name, but with other demonstration pairs"):
        list(trained.questions(write(tmp_path / "mirror.json", mirrored(5))))
    with pytest.raises(UserError, match="the task has 2 test inputs: save it to a file"):
        trained.parse(json.dumps(TASKS["training"]["mirror"]))
    with pytest.raises(UserError, match="not valid JSON"):
        trained.parse("3....")


def drawn(renderable: Any, width: int = 80, color: bool = False) -> str:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=color, color_system="truecolor" if color else None
    )
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_drawings(data: DataConfig) -> None:
    task, _, test = learned(data)
    question = list(task.questions(str(data.source)))[2]
    grid, target = grids_of(test.inputs)[2], grids_of(test.labels)[2]
    right, wrong = labels_to_tokens(test.labels[2]), test.inputs[2]
    text = drawn(task.draw(question, right))
    titles, *lines = text.splitlines()
    assert titles.split() == ["input", "target", "prediction:", "right"]
    assert [line.split() for line in lines] == [
        [str(c) for g in (grid, target, target) for c in (g[row] if row < len(g) else [])] for row in range(3)
    ]
    assert "prediction: wrong" in drawn(task.draw(question, wrong))
    assert "prediction: wrong" in drawn(task.draw(question, np.zeros(36)))
    unanswered = task.parse(json.dumps(UNANSWERED))
    assert drawn(task.draw(unanswered, np.zeros(36))).split("\n")[0].split() == ["input", "prediction:", "no", "grid"]
    assert task.picture(unanswered, np.zeros(36)).shape[2] == 3
    assert max(map(len, drawn(task.draw(question, right), width=12).splitlines())) <= 17
    assert "48;2;" in drawn(task.draw(question, right), color=True)

    picture = task.picture(question, right)
    assert picture.dtype == np.uint8
    assert picture.shape == (3 * 16 + 5 + 32, 3 * (2 * 16 + 5) + 4 * 16, 3)
    assert (picture != task.picture(question, wrong)[: len(picture), : picture.shape[1]]).any()
    assert task.picture(question).shape[1] == 2 * (2 * 16 + 5) + 3 * 16


def test_real_tasks_fit_the_published_shape() -> None:
    task = ARC(ARCConfig(augmentations=1, held_out=["evaluation"]))
    sets = task.dataset(DataConfig(source=f"{real('arc1.json.gz')},{real('concept.json.gz')}"), 0)
    # 3,988 pairs, but 40853293 and 070dd51e are the same task, and so are MoveToBoundary9 and 10.
    assert (len(sets.train), len(sets.test)) == (3983, 419)
    assert sets.train.inputs.shape == (3983, 900)
    assert sets.train.puzzle_ids.max() == 2 * 960 - 2
    assert set(np.unique(sets.train.labels).tolist()) == {IGNORE, *range(1, 12)}
