"""Outputs of the commands go where they are sent: through links, into pipes and devices; mistakes show at once."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

PUZZLE = "3.......4.3...42"
SOLVE = ["solve", "{run}", PUZZLE, "--max-steps", "1"]
EVAL = ["eval", "{run}", "--limit", "4", "--max-steps", "1"]
FILES: dict[str, tuple[list[str], bytes]] = {
    "answers": ([*SOLVE, "--output", "{out}"], b'{"solution"'),
    "picture": ([*SOLVE, "--png", "{out}"], b"\x89PNG"),
    "measures": ([*EVAL, "--output", "{out}"], b'{"exact_accuracy"'),
    "sweep": ([*EVAL, "--sweep", "steps=1,2", "--plot", "{out}"], b"\x89PNG"),
    "curves": (["plot", "{run}", "--out", "{out}"], b"\x89PNG"),
    "puzzles": (["data", "sudoku", "--size", "4", "--count", "3", "--out", "{out}"], b"source,question"),
    "mazes": (["data", "maze", "--size", "9", "--count", "3", "--out", "{out}"], b"source,question"),
    "onnx": (["export", "{run}", "--format", "onnx", "--part", "step", "--out", "{out}"], b"\x08"),
}


def filled(command: list[str], trained: Path, out: Path) -> list[str]:
    return [word.format(run=trained, out=out) for word in command]


@pytest.mark.parametrize("name", FILES)
def test_links_pipes_and_devices(run: Any, trained: Path, name: str, tmp_path: Path) -> None:
    command, start = FILES[name]
    if name == "onnx":
        pytest.importorskip("onnx", reason="needs the extra onnx")
    (tmp_path / "link").symlink_to("target")
    os.mkfifo(tmp_path / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()), daemon=True)
    reader.start()
    for out in ("link", "pipe"):
        result = run(*filled(command, trained, tmp_path / out))
        assert result.code == 0, result.err
    reader.join(timeout=60)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes().startswith(start)
    assert read[0].startswith(start)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    try:
        os.mknod(tmp_path / "full", 0o666 | stat.S_IFCHR, os.makedev(1, 7))  # as /dev/full
        (tmp_path / "full").open("rb").close()
    except OSError:
        return  # only root may make devices
    result = run(*filled(command, trained, tmp_path / "full"))
    assert result.code == 1
    assert f"cannot write {tmp_path / 'full'}: No space left on device" in result.err
    assert stat.S_ISCHR((tmp_path / "full").stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["full", "link", "pipe", "target"]


@pytest.mark.parametrize("name", FILES)
def test_a_folder_is_no_file(run: Any, trained: Path, name: str, tmp_path: Path) -> None:
    result = run(*filled(FILES[name][0], trained, tmp_path))
    assert result.code in (1, 2)
    assert f"cannot write {tmp_path}: it is a folder; name a file" in result.err
    assert not list(tmp_path.iterdir())


def test_several_pictures_into_one_pipe(run: Any, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "puzzles.txt").write_text(f"{PUZZLE}\n{PUZZLE}\n")
    os.mkfifo(tmp_path / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()), daemon=True)
    reader.start()
    result = run("solve", trained, tmp_path / "puzzles.txt", "--max-steps", 1, "--png", tmp_path / "pipe")
    assert result.code == 0, result.err
    reader.join(timeout=60)
    assert read[0].count(b"\x89PNG") == 2
    assert sorted(os.listdir(tmp_path)) == ["pipe", "puzzles.txt"]


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ([*SOLVE, "--output", "{tmp}/x", "--png", "{tmp}/x"], 2, "--output and --png must name different files"),
        ([*EVAL, "--sweep", "steps=1", "--plot", "{tmp}/x.docx"], 2, ".docx is not a format of pictures; use .png"),
        ([*EVAL, "--sweep", "steps=1", "--plot", "{tmp}/no/x.png"], 2, "--plot: cannot write"),
        (["plot", "{run}", "--out", "{tmp}/no/x.png"], 2, "the folder {tmp}/no does not exist"),
        (["export", "{run}", "--format", "safetensors", "--out", "{tmp}/file"], 1, "it is not a folder"),
        (["train", "--preset", "sudoku-4x4", "--out", "{tmp}/file"], 1, "file is not a folder: choose another name"),
        (["train", "--preset", "sudoku-4x4", "--out", "{tmp}/file/run"], 1, "cannot create the folder"),
        (["sweep", "--preset", "sudoku-4x4", "--variant", "a:", "--out", "{tmp}/file"], 1, "is not a folder"),
        (["data", "hermes", "{tmp}/file", "--out", "{pipe}", "--val-split", "0.5"], 2, "must be a file's name"),
    ],
)
def test_mistakes_name_the_cause(
    run: Any, trained: Path, command: list[str], code: int, words: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("text")
    os.mkfifo(tmp_path / "pipe")
    result = run(*(word.format(run=trained, tmp=tmp_path, pipe=tmp_path / "pipe") for word in command))
    assert result.code == code
    assert words.format(tmp=tmp_path) in result.err
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]
    assert (tmp_path / "file").read_text() == "text"


def test_a_run_behind_a_link(run: Any, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    small = ["--set", "model.hidden_size=16", "--set", "task.train_count=20", "--set", "task.test_count=4"]
    result = run("train", "--preset", "sudoku-4x4", *small, "--steps", 1, "--out", tmp_path / "link", "--json")
    assert result.code == 0, result.err
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "model" / "config.json").exists()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "real").rglob("*") if path.is_file()}
    umask = os.umask(0)
    os.umask(umask)
    assert modes <= {0o666 & ~umask, 0o600}  # the lock may be for its owner only
    assert (tmp_path / "real" / "model" / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask


def test_an_export_joins_a_folder_with_other_files(run: Any, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("kept")
    (tmp_path / "README.md").write_text("mine")
    assert run("export", trained, "--format", "safetensors", "--out", tmp_path).code == 0
    assert sorted(os.listdir(tmp_path)) == ["README.md", "config.json", "model.safetensors", "notes"]
    assert (tmp_path / "README.md").read_text() == "mine"
