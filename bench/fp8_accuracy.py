"""What FP8 in the cycles without gradient costs in accuracy: the same runs with and without it, over some seeds.

    python bench/fp8_accuracy.py                         sudoku-4x4 on a CPU, with emulated rounding
    python bench/fp8_accuracy.py --device cuda --preset sudoku-cpu --steps 1000 --seeds 3 --out fp8.json

A row a seed: last losses, accuracy on unseen puzzles of both runs and their difference; on a GPU the seconds, too. T is
set to at least 2: with one cycle there is none without gradient."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from trm_fast.training import Trainer, apply_settings, make_config, read_preset
from trm_fast.training.folder import read_metrics


def run(asked: Any, seed: int, dtype: str, folder: Path) -> dict[str, Any]:
    sections = read_preset(asked.preset)
    cycles = max(2, sections["model"].get("T_cycles", 3))
    settings = [
        f"training.no_grad_dtype={dtype}", f"training.seed={seed}", f"training.steps={asked.steps}",
        f"model.T_cycles={cycles}", f"training.eval_count={asked.count}", "training.checkpoint_every=1000000",
        *asked.settings,
    ]  # fmt: skip
    config = make_config(apply_settings(sections, settings), asked.preset)
    summary = Trainer(config, folder / f"{dtype}_{seed}", device=asked.device).train()
    losses = [r["loss"] for r in read_metrics(folder / f"{dtype}_{seed}") if "loss" in r]
    tail = losses[-5:]
    return {
        "loss": sum(tail) / len(tail),
        "exact_accuracy": summary["evaluation"]["exact_accuracy"],
        "cell_accuracy": summary["evaluation"]["cell_accuracy"],
        "seconds": summary["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="sudoku-4x4")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--count", type=int, default=500, help="test puzzles")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, help="write the rows to a file, too")
    asked = parser.parse_args()
    dtype = "fp8-emulated" if asked.device == "cpu" else "fp8"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(asked.seeds):
            exact, rounded = (run(asked, seed, kind, Path(folder)) for kind in ("same", dtype))
            difference = rounded["exact_accuracy"] - exact["exact_accuracy"]
            row = {"preset": asked.preset, "steps": asked.steps, "seed": seed, "same": exact, dtype: rounded}
            rows.append({**row, "exact_accuracy_difference": difference})
            print(json.dumps(rows[-1]), flush=True)
            if asked.out:
                asked.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
