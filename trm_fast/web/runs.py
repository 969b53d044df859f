"""Training runs of the page: each is a process of its own, which ``trm-fast train`` runs, and its folder is the truth.

The server keeps nothing about a run in memory that it could not read again, so runs survive it. Beside the run folders
it has ``.web/NAME.json`` (which process it started) and ``.web/NAME.log`` (what that process printed).
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import psutil
from pydantic import BaseModel, Field

from trm_fast.errors import UserError
from trm_fast.run_folder import CONFIG, METRICS, SUMMARY
from trm_fast.tasks import get_task
from trm_fast.tasks.base import DataConfig
from trm_fast.tasks.files import write_text
from trm_fast.training import checkpoint
from trm_fast.training.keys import config_keys, read_sections
from trm_fast.training.lock import HOLDER
from trm_fast.training.read_config import make_config, preset_names, read_preset, read_yaml
from trm_fast.web.catalog import run_sections
from trm_fast.web.solving import Request

NOTES = ".web"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_RUNNING = 4
MAX_LOG = 4000
"""The end of a process's messages that a client gets, in bytes."""
MAX_RECORDS = 4000
"""Number of records of metrics in one answer; the client asks for the rest."""

Value = bool | int | float | str | None | list[Any]


class StartRequest(Request):
    """A new run: a preset, a name, and changes of keys by their paths."""

    preset: str = Field(max_length=100)
    name: str = Field(max_length=64)
    settings: dict[str, Value] = Field({}, max_length=200)


class ResumeRequest(Request):
    """A run to continue, with a new total of steps if ``steps`` is given."""

    steps: int | None = Field(None, ge=1, le=10**9)


class Runs:
    """The runs of a folder.

    Args:
        folder: the folder.
        device: what ``trm-fast train --device`` gets.
    """

    def __init__(self, folder: Path, device: str = "auto") -> None:
        self.folder, self.device = folder, device
        self._lock = threading.Lock()
        self._children: list[subprocess.Popen[bytes]] = []

    def names(self) -> list[str]:
        """The names of all runs, those that are starting included, newest first."""
        changed: dict[str, float] = {}
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if NAME.fullmatch(path.name) and not path.is_symlink() and (path / CONFIG).is_file():
                    changed[path.name] = (path / CONFIG).stat().st_mtime
        for note in (self.folder / NOTES).glob("*.json"):
            changed.setdefault(note.stem, note.stat().st_mtime)
        return sorted(changed, key=lambda name: -changed[name])

    def get(self, name: str) -> dict[str, Any]:
        """A run's state: ``starting``, ``running``, ``stopped``, ``finished`` or ``failed``, with its progress.

        Raises:
            UserError: there is no such run.
        """
        run = self._run_folder(name)
        process = self._process(name)
        has_config = (run / CONFIG).is_file()
        summary = _json(run / SUMMARY)
        last = next(reversed_records(run / METRICS), {})
        task, total = _about(run) if has_config else (None, None)
        done = summary.get("steps") == total and not summary.get("interrupted", True)
        if process is not None:
            state = "running" if has_config else "starting"
        elif done:
            state = "finished"
        else:
            state = "stopped" if has_config and checkpoint.saved_steps(run) else "failed"
        return {
            "name": name, "state": state, "task": task, "steps": total, "step": last.get("step", 0),
            "seconds": last.get("seconds"), "checkpoints": checkpoint.saved_steps(run),
            "summary": summary if done else None, "log": self._log_end(name) if state == "failed" else "",
            "ours": self._note(name) != {},
        }  # fmt: skip

    def config(self, name: str) -> list[dict[str, Any]]:
        """All keys of a run's configuration."""
        run = self._run_folder(name)
        if not (run / CONFIG).is_file():
            return []
        return [key.to_json() for key in config_keys(read_yaml(run / CONFIG), name)]

    def start(self, request: StartRequest) -> dict[str, Any]:
        """Starts a run in a process of its own.

        Raises:
            UserError: the name is taken or not allowed, the configuration is not valid, or too many runs train.
        """
        if not NAME.fullmatch(request.name):
            raise UserError(
                f"a run's name has 1 to 64 letters, digits, dots, hyphens and underscores: not {request.name!r}"
            )
        if request.preset not in preset_names():
            raise UserError(f"there is no preset {request.preset!r}")
        settings = checked_settings(request.preset, request.settings)
        with self._lock:
            folder = self.folder / request.name
            holds_run = (folder / CONFIG).exists() or bool(checkpoint.saved_steps(folder))
            if holds_run or folder.is_symlink() or folder.is_file() or self._process(request.name) is not None:
                raise UserError(f"there is a run {request.name} already: choose another name, or resume it")
            options = [part for setting in settings for part in ("--set", setting)]
            self._spawn(request.name, ["--preset", request.preset, "--out", str(folder), *options])
        return self.get(request.name)

    def resume(self, name: str, request: ResumeRequest) -> dict[str, Any]:
        """Continues a run in a process of its own.

        Raises:
            UserError: there is no such run, it is training, or too many runs train.
        """
        run = self._run_folder(name)
        with self._lock:
            if self._process(name) is not None:
                raise UserError(f"{name} is training already")
            if not (run / CONFIG).is_file():
                raise UserError(f"{name} has no configuration to resume from")
            steps = [] if request.steps is None else ["--steps", str(request.steps)]
            self._spawn(name, ["--resume", str(run), *steps])
        return self.get(name)

    def stop(self, name: str) -> dict[str, Any]:
        """Asks a run to save a checkpoint and end. A run that is still starting ends at once.

        Raises:
            UserError: there is no such run, or it is not training on this machine.
        """
        self._run_folder(name)
        process = self._process(name)
        if process is None:
            raise UserError(f"{name} is not training")
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
        return self.get(name)

    def metrics(self, name: str, offset: int) -> dict[str, Any]:
        """The records of metrics from a byte offset on, and the next offset. ``reset`` says that the file was cut, as
        a resumed run does: the client then starts again.

        Raises:
            UserError: there is no such run.
        """
        path = self._run_folder(name) / METRICS
        size = path.stat().st_size if path.is_file() else 0
        reset = offset > size
        records: list[dict[str, Any]] = []
        start = 0 if reset else offset
        if size:
            with path.open("rb") as stream:
                stream.seek(start)
                for line in stream:
                    if not line.endswith(b"\n") or len(records) >= MAX_RECORDS:
                        break
                    start += len(line)
                    records.append(_finite(json.loads(line)))
        return {"records": records, "offset": start, "reset": reset, "more": len(records) >= MAX_RECORDS}

    def _spawn(self, name: str, arguments: list[str]) -> None:
        if len([run for run in self.names() if self._process(run) is not None]) >= MAX_RUNNING:
            raise UserError(f"{MAX_RUNNING} runs train already: stop one of them first")
        notes = self.folder / NOTES
        notes.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-c", _main(), "train", *arguments, "--device", self.device]
        with (notes / f"{name}.log").open("wb") as log:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env=_environment(),
            )  # fmt: skip
        self._children = [running for running in self._children if running.poll() is None] + [child]
        created = psutil.Process(child.pid).create_time()
        write_text(notes / f"{name}.json", json.dumps({"pid": child.pid, "created": created}) + "\n")

    def _process(self, name: str) -> psutil.Process | None:
        """The process that trains a run: one that this server or an earlier one started, or one of the command line."""
        for child in self._children:
            child.poll()  # lets an ended child go
        note = self._note(name)
        if note and (process := _alive(note.get("pid"), note.get("created"))):
            return process
        holder = self.folder / name / HOLDER
        about = _json(holder)
        if about and about.get("host") in (None, os.uname().nodename):
            return _alive(about.get("pid"), None, holder.stat().st_mtime)
        return None

    def _note(self, name: str) -> dict[str, Any]:
        return _json(self.folder / NOTES / f"{name}.json")

    def _log_end(self, name: str) -> str:
        path = self.folder / NOTES / f"{name}.log"
        if not path.is_file():
            return ""
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - MAX_LOG))
            return stream.read().decode("utf-8", "replace")

    def _run_folder(self, name: str) -> Path:
        """The folder of a run. The name is looked up, so that no other path is reached.

        Raises:
            UserError: there is no such run.
        """
        if not NAME.fullmatch(name) or name not in self.names():
            raise UserError(f"there is no run {name[:100]!r} here", usage_error=True)
        return self.folder / name


def checked_settings(preset: str, settings: Mapping[str, Value]) -> list[str]:
    """Settings as ``--set`` takes them, after the checks of ``trm-fast train`` and those of a request: it may not name
    files, data sets of the hub or code.

    Raises:
        UserError: a key is unknown or may not be set here, or a value is wrong.
    """
    sections = json.loads(json.dumps(read_preset(preset)))
    current = {key.name: key for key in config_keys(*read_sections(preset))}
    for path, value in settings.items():
        section, *keys = path.split(".")
        if section not in ("task", "data", "model", "training", "solver") or not keys or len(path) > 200:
            raise UserError(f"there is no key {path[:200]!r}")
        if section in ("task", "data") and _names_something(sections, section, keys, value):
            raise UserError(f"{path}: only the command line can set this, because it may name files or code")
        inner = sections.setdefault(section, {})
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise UserError(f"there is no key {path!r}")
        inner[keys[-1]] = value
    make_config(sections, preset)
    changed = {path: value for path, value in settings.items() if path not in current or current[path].value != value}
    return [f"{path}={json.dumps(value)}" for path, value in changed.items()]


def _names_something(sections: Mapping[str, Any], section: str, keys: list[str], value: Value) -> bool:
    """Whether a value of ``task`` or ``data`` could be a path or a module: text that is not one of the field's names,
    or anything with an inner structure."""
    kind: type[BaseModel] = DataConfig if section == "data" else get_task(sections["task"]["name"]).Config
    field = kind.model_fields.get(keys[0])
    if keys == ["name"] or len(keys) > 1 or field is None:
        return True
    if isinstance(value, list):
        return not all(isinstance(item, bool | int | float) for item in value)
    return isinstance(value, str) and value not in _literals(field.annotation)


def _literals(annotation: Any) -> set[Any]:
    parts = get_args(annotation)
    inner = {literal for part in parts if get_args(part) for literal in _literals(part)}
    return inner | {part for part in parts if isinstance(part, str)}


def reversed_records(path: Path) -> Iterator[dict[str, Any]]:
    """The complete records at the end of a file of metrics, the last one first."""
    if not path.is_file():
        return
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 2**16))
        lines = stream.read().split(b"\n")[:-1]
    for line in reversed(lines):
        with suppress(ValueError):
            yield _finite(json.loads(line))


def _finite(record: dict[str, Any]) -> dict[str, Any]:
    """A record without numbers that JSON does not have."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


def _about(run: Path) -> tuple[str | None, int | None]:
    """A run's task and its number of steps."""
    try:
        sections = run_sections(run)
        return str(sections["task"]["name"]), int(sections["training"]["steps"])
    except (UserError, KeyError, TypeError, ValueError):
        return None, None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _alive(pid: Any, created: Any, not_after: float = math.inf) -> psutil.Process | None:
    """The process with a number, if it runs and is the one that was meant, not a later one with the same number."""
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0:
        return None
    try:
        process = psutil.Process(pid)
        if created is not None and abs(process.create_time() - created) > 1:
            return None
        if process.create_time() > not_after + 1 or process.status() == psutil.STATUS_ZOMBIE:
            return None
    except psutil.Error:
        return None
    return process


def _main() -> str:
    """A program that is ``trm-fast``, from the same package as this process. ``-m`` would look in the current folder
    first, where another package of this name may lie."""
    path = [str(Path(__file__).parents[2]), *sys.path]
    return f"import sys; sys.path[:] = {path!r}; from trm_fast.cli.main import main; main()"


def _environment() -> dict[str, str]:
    """The environment of a run: this one's, without the access token."""
    return {name: value for name, value in os.environ.items() if name != "TRM_FAST_WEB_TOKEN"}
