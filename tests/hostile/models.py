"""Damaged models, runs and weights, and outputs that cannot be written."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from .case import MODEL, PUZZLE, SMALL, SOLVE, TRAIN, Case, each, write_published

Damage = Callable[[Path], Any]
LONG, DEEP = "9" * 5000, "[" * 100_000
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def key(name: str, value: Any) -> Damage:
    """Sets ``section.key``, or removes it if the value is ``...``."""
    section, _, last = name.rpartition(".")

    def damage(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        inner = config.setdefault(section, {}) if section else config
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
        (folder / CONFIG).write_text(json.dumps(config))

    return damage


def text(content: str | bytes, file: str = CONFIG) -> Damage:
    content = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / file).write_bytes(content)


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        loaded = load_file(folder / WEIGHTS)
        change(loaded)
        save_file(loaded, folder / WEIGHTS)

    return damage


def header(size: int, content: bytes = b"{}") -> Damage:
    """A safetensors file whose header claims a size."""
    return text(struct.pack("<Q", size) + content, WEIGHTS)


def tensor(shape: list[int], end: int) -> Damage:
    """A safetensors file whose header claims a tensor of a shape and of ``end`` bytes, which are not there."""
    head = json.dumps({"z_init": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return header(len(head), head)


def fill(name: str, value: float) -> Damage:
    return tensors(lambda loaded: loaded[name].view(-1).__setitem__(0, value))


MODELS: dict[str, tuple[Damage, str]] = {
    "empty": (text(""), CONFIG),
    "cut": (text('{"model": {'), CONFIG),
    "list": (text("[]"), CONFIG),
    "deep": (text(DEEP), CONFIG),
    "deep-objects": (text('{"a":' * 100_000), CONFIG),
    "digits": (text('{"model": ' + LONG + "}"), CONFIG),
    "nan": (text('{"model": NaN}'), CONFIG),
    "binary": (text(b"\xff\xfe\0\0"), CONFIG),
    "large": (text(" " * (17 << 20)), CONFIG),
    "endless": (lambda f: ((f / CONFIG).unlink(), (f / CONFIG).symlink_to("/dev/zero")), CONFIG),
    "loop": (lambda f: ((f / CONFIG).unlink(), (f / CONFIG).symlink_to(CONFIG)), CONFIG),
    "folder": (lambda f: ((f / CONFIG).unlink(), (f / CONFIG).mkdir()), CONFIG),
    "no-config": (lambda f: (f / CONFIG).unlink(), CONFIG),
    "no-weights": (lambda f: (f / WEIGHTS).unlink(), WEIGHTS),
    "no-model": (key("model", ...), "model"),
    "no-task": (key("task", ...), "task"),
    "version": (key("format_version", 99), "format_version"),
    "version-long": (key("format_version", "x" * 100_000), "format_version"),
    "unknown": (key("model.nothing", 1), "nothing"),
    "hidden-size": (key("model.hidden_size", 10**9), "model.hidden_size"),
    "hidden-size-64": (key("model.hidden_size", 10**19), "model.hidden_size"),
    "hidden-size-other": (key("model.hidden_size", 100_000), WEIGHTS),
    "hidden-size-text": (key("model.hidden_size", "64"), "model.hidden_size"),
    "seq-len": (key("model.seq_len", 10**9), "model.seq_len"),
    "seq-len-other": (key("model.seq_len", 10**6), WEIGHTS),
    "vocabulary": (key("model.vocab_size", 10**12), "model.vocab_size"),
    "vocabulary-zero": (key("model.vocab_size", 0), "model.vocab_size"),
    "expansion": (key("model.expansion", 1e308), "model.expansion"),
    "inner": (key("model.inner_multiple", 10**12), "model.inner_multiple"),
    "prefix": (key("model.prefix_tokens", 10**9), "model.prefix_tokens"),
    "layers": (key("model.num_layers", 10**6), "model.num_layers"),
    "layers-other": (key("model.num_layers", 200), WEIGHTS),
    "cycles": (key("model.T_cycles", 10**9), "model.T_cycles"),
    "steps": (key("model.max_supervision_steps", 10**12), "model.max_supervision_steps"),
    "heads": (key("model.num_heads", 0), "model.num_heads"),
    "shape": (key("model.grid_shape", [4]), "grid_shape"),
    "threshold": (key("model.q_threshold", 7), "model.q_threshold"),
    "solver": (key("solver.max_steps", 10**30), "solver.max_steps"),
    "solver-key": (key("solver.nothing", 1), "nothing"),
    "task-unknown": (key("task.name", "chess"), "chess"),
    "task-long": (key("task.name", "x" * 100_000), "task"),
    "task-number": (key("task.name", 5), "task"),
    "task-relative": (key("task.name", ".x:y"), "MODULE:CLASS"),
    "task-parents": (key("task.name", "..:y"), "MODULE:CLASS"),
    "task-no-module": (key("task.name", ":x"), "MODULE:CLASS"),
    "task-no-class": (key("task.name", "trm_fast.tasks.base:"), "MODULE:CLASS"),
    "task-code": (key("task.name", "canary:Task"), "--trust-code"),
    "task-module": (key("task.name", "antigravity:Task"), "--trust-code"),
    "task-size": (key("task.size", 5), "size"),
    "task-other": (key("task.size", 9), "81"),
    "weights-empty": (text("", WEIGHTS), WEIGHTS),
    "weights-text": (text("garbage" * 99, WEIGHTS), WEIGHTS),
    "weights-zeros": (text(b"\0" * 4096, WEIGHTS), WEIGHTS),
    "weights-cut": (lambda f: os.truncate(f / WEIGHTS, 100_000), WEIGHTS),
    "weights-longer": (lambda f: (f / WEIGHTS).open("ab").write(b"more"), WEIGHTS),
    "weights-header": (header(2**63), WEIGHTS),
    "weights-header-large": (header(10**8), WEIGHTS),
    "weights-deep": (header(len(DEEP), DEEP.encode()), WEIGHTS),
    "weights-shape": (tensor([10**9, 10**9], 8), WEIGHTS),
    "weights-overflow": (tensor([2**62, 2**62], 0), WEIGHTS),
    "weights-negative": (tensor([-1], 4), WEIGHTS),
    "weights-promise": (tensor([10**12], 4 * 10**12), WEIGHTS),
    "weights-folder": (lambda f: ((f / WEIGHTS).unlink(), (f / WEIGHTS).mkdir()), WEIGHTS),
    "weights-endless": (lambda f: ((f / WEIGHTS).unlink(), (f / WEIGHTS).symlink_to("/dev/zero")), WEIGHTS),
    "weights-nan": (fill("z_init", float("nan")), "z_init"),
    "weights-infinite": (fill("head.linear.weight", float("inf")), "head.linear.weight"),
    "weights-missing": (tensors(lambda t: t.pop("q_head.bias")), "q_head.bias"),
    "weights-unknown": (tensors(lambda t: t.update(x=torch.zeros(1))), "x is unknown"),
    "weights-other": (tensors(lambda t: t.update({"q_head.bias": torch.zeros(7)})), "q_head.bias"),
}
"""Damages of a model folder, with words of the error."""
MODEL_CASES = [Case(("solve", f"models/{name}", PUZZLE), words) for name, (_, words) in MODELS.items()]
for name, words in {
    "task-code": "--trust-code", "deep": "models/deep", "weights-promise": "models/weights-promise",
    "weights-nan": "z_init",
}.items():  # fmt: skip
    folder = f"models/{name}"
    MODEL_CASES += [
        Case(("eval", folder), words),
        Case(("agent", folder), words),
        Case(("mcp", folder), words),
        Case(("call", folder, "--query", "hello"), words),
        Case(("export", folder, "--format", "safetensors", "--out", "new/m"), words),
        Case(("export", folder, "--format", "onnx", "--out", "new/m.onnx"), words),
        Case((*SMALL, "--init-from", folder), words),
    ]


def last(run: Path) -> Path:
    return max((run / "checkpoints").iterdir(), key=lambda folder: int(folder.name[5:]))


def state(**changes: Any) -> Damage:
    def damage(run: Path) -> None:
        file = last(run) / "state.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return damage


def weights(change: Callable[[Path], Any]) -> Damage:
    return lambda run: change(last(run) / WEIGHTS)


RUNS: dict[str, tuple[Damage, str]] = {
    "no-config": (lambda r: (r / "config.yaml").unlink(), "config.yaml"),
    "config-empty": (text("", "config.yaml"), "task"),
    "config-deep": (text(DEEP, "config.yaml"), "config.yaml"),
    "config-binary": (text(b"\xff\xfe", "config.yaml"), "config.yaml"),
    "config-task": (text("task: {name: chess}\n", "config.yaml"), "chess"),
    "config-code": (text("task: {name: 'canary:Task'}\n", "config.yaml"), "--trust-code"),
    "no-checkpoint": (lambda r: shutil.rmtree(r / "checkpoints"), "checkpoint"),
    "state-empty": (lambda r: text("", "state.json")(last(r)), "is damaged"),
    "state-deep": (lambda r: text(DEEP, "state.json")(last(r)), "is damaged"),
    "state-step": (state(step=7), "is damaged"),
    "state-files": (state(files={"../../config.yaml": {}}), "is damaged"),
    "weights-cut": (weights(lambda file: os.truncate(file, 1000)), "is damaged"),
    "weights-changed": (weights(lambda file: file.write_bytes(file.read_bytes()[:-1] + b"!")), "is damaged"),
    "weights-missing": (weights(Path.unlink), "is damaged"),
}
RUN_CASES = [
    case
    for name, (_, words) in RUNS.items()
    for case in [Case(("solve", f"runs/{name}", PUZZLE), words)]
    + [Case(("train", "--resume", f"runs/{name}", "--steps", "9"), words)] * (name != "no-checkpoint")
] + [
    Case(("train", "--resume", "runs/good", "--set", "training.seed=5"), "training.seed"),
    Case(("train", "--resume", "runs/good", "--set", "model.hidden_size=32"), "model"),
    Case(("train", "--resume", "runs/good", "--epochs", "3"), "--epochs"),
    Case(("train", "--resume", "runs/good", "--out", "new/run"), "--out"),
    Case(("train", "--resume", "runs/good", "--from", "step_99"), "step_99"),
    Case(("train", "--preset", MODEL, "--out", "runs/good"), "holds a run already"),
    Case(("solve", "runs/good", PUZZLE, "--from", "step_99"), "step_99"),
    *each(("plot", "runs/{}"), "metrics.jsonl", "metrics-huge", "metrics-deep", "metrics-text", "metrics-type"),
    Case(("plot", "runs/metrics-none"), "no metrics"),
]
METRICS = {
    "huge": '{"step": 1, "loss": 1' + "0" * 400 + "}\n",
    "deep": '{"step": 1, "loss": ' + "[" * 1000 + "]" * 1000 + "}\n",
    "text": "text\n",
    "type": '{"step": "1", "loss": 0.5}\n',
    "none": "",
}


class Touch:
    """A pickle that leaves a file when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch new/ran",)


def zipped(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(f"archive/{name}.pkl", data)
    return content.getvalue()


IMPORTS: dict[str, bytes] = {
    "empty.pt": b"",
    "text.pt": b"weights",
    "touch.pt": pickle.dumps(Touch()),
    "touch-zip.pt": zipped(data=pickle.dumps({"w": Touch()})),
    "number.pt": pickle.dumps(5),
    "cut.pt": pickle.dumps({"a": 1})[:-1],
    "zip-bomb.pt": zipped(data=pickle.dumps(b"\0" * (1 << 20)), x=b"\0" * (64 << 20)),
    "empty.safetensors": b"",
    "text.safetensors": b"weights" * 9,
}
IMPORT = ("import", "weights/{}", "--task", "{name: sudoku, size: 4}", "--cycles", "1", "--latent-steps", "1")
IMPORT_CASES = [
    *each((*IMPORT, "--out", "new/model"), "weights/{}", *IMPORTS),
    *each((*IMPORT, "--out", "new/model"), "embed_tokens", "other.safetensors"),
    Case(("import", "rows", "--task", "sudoku", "--out", "new/model"), "rows"),
    Case(("import", "weights/good.safetensors", "--task", "sudoku", "--cycles", "1", "--latent-steps", "1",
          "--out", "new/model"), "is it for another --task?"),
    Case(("import", "weights/good.safetensors", "--task", "{name", "--out", "new/model"), "--task"),
    Case(("import", "weights/good.safetensors", "--task", "sudoku", "--out", "models/no-task"), "already contains"),
]  # fmt: skip

OUTPUTS = [
    case
    for option, command in {
        "--output": SOLVE, "--png": SOLVE, "--plot": ("eval", MODEL, "--sweep", "steps=1"),
        "--out": ("data", "sudoku", "--size", "4"), "--refused": ("data", "hermes", "rows/chat.jsonl"),
    }.items()
    for case in each((*command, option, "{}"), "cannot write", "", "rows", "missing/x.png", "rows/chat.jsonl/x", "loop")
] + [
    *each(("export", MODEL, "--format", "onnx", "--out", "{}"), "{}", "rows", "loop"),
    *each(("export", MODEL, "--format", "safetensors", "--out", "{}"), "cannot write {}", "rows/chat.jsonl", "loop"),
    *each((*TRAIN[:5], "--out", "{}"), "{} is not a folder", "rows/chat.jsonl"),
    *each(("sweep", "--preset", MODEL, "--variant", "a:", "--out", "{}"), "{} is not a folder", "rows/chat.jsonl"),
    *each((*TRAIN[:5], "--out", "{}"), "cannot create the folder", "rows/chat.jsonl/run"),
    *each(("export", MODEL, "--format", "onnx", "--out", "{}"), "rows/chat.jsonl is not", "rows/chat.jsonl/x.onnx"),
    Case((*SOLVE, "--output", "new/a", "--png", "new/a"), "different files"),
]  # fmt: skip


def build(folder: Path, model: Path, run: Path) -> None:
    """Writes all models, runs and weights from a good model and a good run."""
    shutil.copytree(run, folder / "runs" / "good")
    for name, (damage, _) in MODELS.items():
        shutil.copytree(model, folder / "models" / name)
        damage(folder / "models" / name)
    for name, (damage, _) in RUNS.items():
        shutil.copytree(run, folder / "runs" / name)
        damage(folder / "runs" / name)
    for name, content in METRICS.items():
        shutil.copytree(run, folder / "runs" / f"metrics-{name}")
        (folder / "runs" / f"metrics-{name}" / "metrics.jsonl").write_text(content)
    (folder / "weights").mkdir()
    for name, data in IMPORTS.items():
        (folder / "weights" / name).write_bytes(data)
    save_file({"a": torch.zeros(3)}, folder / "weights" / "other.safetensors")
    write_published(folder / "weights" / "good.safetensors")
    (folder / "canary.py").write_text("open('new/ran', 'w').close()\n")


CASES = MODEL_CASES + RUN_CASES + IMPORT_CASES + OUTPUTS
