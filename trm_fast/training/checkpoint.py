"""Saves and loads checkpoints: folders ``step_N``, which are always complete.

A checkpoint is written under a temporary name, synced and renamed. ``state.json`` holds the size and SHA-256 of every
other file, so that a truncated or changed file is noticed before the run continues.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trm_fast.errors import UserError
from trm_fast.memory import OutOfMemory, require_memory
from trm_fast.models.saving import save_tensors
from trm_fast.models.weights import check_numbers
from trm_fast.texts import parse_json, read_text
from trm_fast.writing import out_of_space

FORMAT_VERSION = 1
STATE = "state.json"
_UNFINISHED = ".writing-"
Groups = dict[str, dict[str, Tensor]]
"""Tensors by file and name."""


def step_folder(run: Path, step: int) -> Path:
    """The folder of a step's checkpoint, which may not exist."""
    return run / "checkpoints" / f"step_{step}"


def saved_steps(run: Path) -> list[int]:
    """The steps of a run that have a checkpoint, in ascending order."""
    folder = run / "checkpoints"
    names = (re.fullmatch(r"step_(\d+)", p.name) for p in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(m[1]) for m in names if m)


def save(run: Path, step: int, groups: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
    """Writes the checkpoint ``step_N``: one safetensors file per group, and ``state.json``.

    Raises:
        UserError: it can't be written. Existing checkpoints stay as they are.
    """
    target = step_folder(run, step)
    new = target.with_name(_UNFINISHED + target.name)
    try:
        clean(run)
        new.mkdir(parents=True)
        mode = stat.S_IMODE(new.stat().st_mode) & 0o666  # safetensors itself ignores the umask
        files = {}
        for name, tensors in groups.items():
            file = new / f"{name}.safetensors"
            save_tensors({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, file)
            os.chmod(file, mode)
            files[file.name] = {"size": file.stat().st_size, "sha256": _sha256(file)}
        content = {"format_version": FORMAT_VERSION, "step": step, **state, "files": files}
        content["sha256"] = _state_sha256(content)
        (new / STATE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        for file in new.iterdir():
            _sync(file)
        if target.exists():
            shutil.rmtree(target)  # left over from before a resume at an earlier step
        os.rename(new, target)
        _sync(target.parent)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        steps = saved_steps(run)
        advice = "free some space, then " if out_of_space(error) else ""
        kept = f"; step_{steps[-1]} is intact: {advice}--resume {run} continues from it" if steps else ""
        raise UserError(f"the checkpoint {target} could not be written ({error.strerror or error}){kept}") from None
    return target


def load(run: Path, step: int | None = None) -> tuple[Groups, dict[str, Any]]:
    """Loads the tensors (by group) and the state of a checkpoint, by default the newest one.

    Raises:
        UserError: there is no such checkpoint, or it is damaged.
    """
    steps = saved_steps(run)
    if not steps:
        raise UserError(f"{run} has no checkpoint")
    if step is not None and step not in steps:
        raise UserError(f"{run} has no checkpoint step_{step}; choose one of: " + ", ".join(f"step_{s}" for s in steps))
    newest = step is None
    step = steps[-1] if step is None else step
    folder = step_folder(run, step)
    others = [s for s in steps if s != step]
    try:
        state = read_state(folder)
        groups = {}
        for name, expected in state["files"].items():
            file = folder / Path(name).name
            if file.stat().st_size != expected["size"] or _sha256(file) != expected["sha256"]:
                raise ValueError(f"{name} was changed or truncated")
            require_memory(file.stat().st_size, str(file), "close other programs")
            groups[file.stem] = load_file(file)
    except OutOfMemory:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        if not folder.exists():
            if newest and saved_steps(run)[-1:] not in ([], [step]):  # a process that trains the run has a newer one
                return load(run)
            raise UserError(f"checkpoint {folder} was removed while it was read, by a process that trains it") from None
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise UserError(f"cannot read {error.filename or folder}: {error.strerror or error}") from None
        use = f"; use an earlier one with --from step_{others[-1]}" if others else ""
        raise UserError(f"checkpoint {folder} is damaged: {error}{use}") from None
    for name in ("model", "ema"):
        check_numbers(groups.get(name, {}), f"checkpoint {folder}")
    return groups, state


def read_state(folder: Path) -> dict[str, Any]:
    """Reads and verifies ``state.json`` of a checkpoint.

    Raises:
        ValueError: it can't be read, has another format version, or was changed.
    """
    state = parse_json(read_text(folder / STATE), f"{STATE}: ")
    if not isinstance(state, dict) or state.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{STATE} is not of format version {FORMAT_VERSION}")
    if state.get("sha256") != _state_sha256(state) or folder.name != f"step_{state['step']}":
        raise ValueError(f"{STATE} was changed")
    best = state.get("best")
    numbers = [state["step"], state.get("seconds", 0), *(best.values() if isinstance(best, dict) else [])]
    if not all(isinstance(number, int | float) and 0 <= number < 2**63 for number in numbers):
        raise ValueError(f"{STATE} has values that are no numbers")
    return state


def prune(run: Path, last: int, newest: int, best: int | None) -> None:
    """Removes all checkpoints except the ``newest`` ones up to step ``last``, and the one of step ``best``.

    Checkpoints after ``last`` are left over from before a resume at an earlier step. They must not count as the newest.
    """
    steps = saved_steps(run)
    kept = {*[step for step in steps if step <= last][-newest:], best}
    for step in steps:
        if step not in kept:
            old = step_folder(run, step)
            renamed = old.with_name(_UNFINISHED + old.name)
            os.rename(old, renamed)  # so that a half-removed folder does not look like a checkpoint
            shutil.rmtree(renamed, ignore_errors=True)


def clean(run: Path) -> None:
    """Removes the leftovers of interrupted writes and removals."""
    for leftover in (run / "checkpoints").glob(_UNFINISHED + "*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _state_sha256(state: Mapping[str, Any]) -> str:
    content = {key: value for key, value in state.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
