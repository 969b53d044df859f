"""Only one process trains a run; a killed one holds no lock."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trm_fast.errors import UserError
from trm_fast.training import Trainer
from trm_fast.training.lock import HOLDER, RunLock

from .small import run_config

HOLD = """
import sys, time
from pathlib import Path
from trm_fast.training.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.Popen[str]]:
    """A run whose folder another process holds."""
    run = tmp_path_factory.mktemp("held") / "run"
    Trainer(run_config(steps=4), run).train()
    process = subprocess.Popen([sys.executable, "-c", HOLD, run], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield run, process
    process.kill()
    process.wait()


def test_a_second_trainer_is_told_who_trains(held: tuple[Path, subprocess.Popen[str]]) -> None:
    run, process = held
    for start in (lambda: Trainer.resume(run), lambda: Trainer(run_config(), run), lambda: RunLock(run)):
        with pytest.raises(UserError) as error:
            start()
        assert f"process {process.pid} on {socket.gethostname()} (since 2" in str(error.value)
        assert f"is training {run}" in str(error.value)
        assert not error.value.usage_error


def test_a_link_to_the_folder_is_the_folder(held: tuple[Path, subprocess.Popen[str]], tmp_path: Path) -> None:
    run, process = held
    (tmp_path / "link").symlink_to(run)
    with pytest.raises(UserError, match=f"process {process.pid} "):
        Trainer.resume(tmp_path / "link")


@pytest.mark.parametrize("content", ["", "nonsense", "[]", '{"pid": "x", "host": 1}', None])
def test_a_holder_without_a_name(held: tuple[Path, subprocess.Popen[str]], content: str | None) -> None:
    run, _ = held
    saved = (run / HOLDER).read_text()
    if content is None:
        (run / HOLDER).unlink()
    else:
        (run / HOLDER).write_text(content)
    with pytest.raises(UserError, match="another process is training"):
        RunLock(run)
    (run / HOLDER).write_text(saved)


def test_a_killed_trainer_holds_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    lock = RunLock(tmp_path)
    assert f'"pid": {os.getpid()}' in (tmp_path / HOLDER).read_text()
    lock.release()


def free(folder: Path) -> bool:
    """Whether another process can lock a folder."""
    code = (
        "import sys; from pathlib import Path; from trm_fast.training.lock import RunLock; RunLock(Path(sys.argv[1]))"
    )
    return not subprocess.run([sys.executable, "-c", code, folder], capture_output=True).returncode


def test_a_process_may_lock_twice_and_holds_until_the_last_release(tmp_path: Path) -> None:
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    first.release()
    first.release()
    assert not free(tmp_path)
    del second
    assert free(tmp_path)


def test_a_trainer_holds_its_folder_until_it_has_trained(tmp_path: Path) -> None:
    trainer = Trainer(run_config(steps=2), tmp_path / "run")
    assert not free(tmp_path / "run")
    trainer.train()
    assert free(tmp_path / "run")
    trainer.train()
    assert free(tmp_path / "run")


def test_a_folder_without_locks_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems have none."""

    def none(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr("filelock.FileLock.acquire", none)
    RunLock(tmp_path).release()


def test_what_killed_trainers_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".model.1234.part").mkdir()
    RunLock(tmp_path).release()
    assert not (tmp_path / ".model.1234.part").exists()
    assert time.time() - (tmp_path / HOLDER).stat().st_mtime < 60
