"""Part e: trains on Sudoku-Extreme's 1,000 puzzles for some minutes, or goes on with the run that an earlier call left.

Tested on DATA/hard_test.csv.gz, whose puzzles (17 clues, the hardest of the forums) are harder than Sudoku-Extreme's
own test set: the accuracy is not comparable with published ones. Without rollouts, then with some."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import Report, options
from safetensors.torch import save_file

from trm_fast.inference import Solver, evaluate
from trm_fast.interchange import locate

PRESETS = ("sudoku", "sudoku-fast", "sudoku-faster", "sudoku-deep")
TINY = {
    "model.hidden_size": 32, "model.num_heads": 2, "model.T_cycles": 1, "model.n_latent_steps": 1,
    "model.max_supervision_steps": 2, "training.depth": [], "training.batch_size": 16, "training.eval_every": 20,
    "training.steps": 40, "training.log_every": 10,
}  # fmt: skip


def train(asked: Any, run: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "trm_fast.cli", "train", "--json", "--device", asked.device]
    command += ["--minutes", str(asked.minutes)]
    if (run / "config.yaml").exists():
        command += ["--resume", str(run)]
    else:
        settings = {
            "data.test": str(asked.data / "hard_test.csv.gz"), "training.eval_every": 500, "training.eval_count": 512,
            "training.log_every": 50, "training.checkpoint_every": 1000, "training.keep_checkpoints": 1,
            **(TINY if asked.tiny else {}),
        }  # fmt: skip
        command += ["--preset", asked.preset, "--data", str(asked.data / "extreme_train_1k.csv.gz"), "--out", str(run)]
        command += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"exit {done.returncode}: {' '.join(command)}")
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"preset": asked.preset, "minutes": asked.minutes, **summary}


def tested(asked: Any, run: Path, **choices: Any) -> dict[str, Any]:
    found = locate(str(run), device=asked.device)
    examples = found.task.read(str(asked.data / "hard_test.csv.gz"))
    count = asked.count if not asked.tiny else 8
    solver = Solver(found.model, found.task, batch_size=768, **choices)
    return {"choices": choices, **evaluate(solver, examples.take(slice(count))).to_json()}


def keep(run: Path, out: Path) -> dict[str, Any]:
    """What is worth taking home: metrics, summary, configuration, and the averaged weights in bfloat16."""
    for name in ("metrics.jsonl", "summary.json", "config.yaml"):
        if (run / name).exists():  # a run that broke down has no summary
            shutil.copy(run / name, out / f"e_{run.name}_{name}")
    model = locate(str(run)).model
    tensors = {k: (t.bfloat16() if t.is_floating_point() else t).contiguous() for k, t in model.state_dict().items()}
    path = out / f"e_{run.name}_ema_bf16.safetensors"
    save_file(tensors, path)
    (out / f"e_{run.name}_model.json").write_text(json.dumps(model.config.model_dump(mode="json"), indent=1) + "\n")
    return {"weights": path.name, "bytes": path.stat().st_size}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with extreme_train_1k and hard_test (.csv.gz)")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--preset", choices=PRESETS, default="sudoku-fast", help="sudoku is the published recipe")
    parser.add_argument("--count", type=int, default=2000, help="test puzzles")
    parser.add_argument("--run", type=Path, help="folder of the run; OUT/run_PRESET")
    asked = parser.parse_args()
    torch.manual_seed(0)
    run = asked.run or asked.out / f"run_{asked.preset}"
    report = Report(asked.out, f"e_train_{asked.preset}", asked.device)
    report.about["test set"] = "hard_test.csv.gz: harder than Sudoku-Extreme's own test set"
    start = time.perf_counter()
    report.attempt("train", lambda: train(asked, run))
    report.attempt("keep", lambda: keep(run, asked.out))
    report.attempt("test", lambda: tested(asked, run))
    report.attempt("test, 64 steps", lambda: tested(asked, run, max_steps=4 if asked.tiny else 64))
    rollouts = 2 if asked.tiny else 16
    report.attempt("test, rollouts", lambda: tested(asked, run, rollouts=rollouts, noise=0.3))
    report.attempt("whole part", lambda: {"seconds": time.perf_counter() - start})


if __name__ == "__main__":
    main()
