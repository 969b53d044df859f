"""Turns ``results/<device>/end_to_end.json`` into the README's tables (between its markers) and a plot per device.

python bench/report.py            prints the tables, and that of ``results/recipes``
python bench/report.py --write    writes them into README.md and draws results/<device>/end_to_end.png
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import recipes
from matplotlib.figure import Figure

FOLDER = Path(__file__).parent
README = FOLDER.parent / "README.md"
START, END = "<!-- end_to_end -->", "<!-- /end_to_end -->"
ROW = (
    "| `{case}` | {threads} | {dtype} | {baseline} | {baseline_ms:,.1f} | {ms:,.1f} | **{ratio:.2f} x** | {gflops:.0f} "
    "| {peak} | {gemm_share:.0%} | {memory} |"
)
COLUMNS = (
    "case",
    "threads",
    "dtype",
    "baseline",
    "baseline ms",
    "trm_fast ms",
    "ratio",
    "GFLOP/s",
    "share of peak",
    "share of GEMM",
    "memory",
)


def read() -> dict[str, list[dict[str, Any]]]:
    """The results by device."""
    files = sorted((FOLDER / "results").glob("*/end_to_end.json"))
    return {file.parent.name: json.loads(file.read_text()) for file in files}


def table(device: str, results: list[dict[str, Any]]) -> str:
    """A table in Markdown, after a line with the device and the command. The share of the peak and the memory are
    empty if they were not measured: on GPUs, and in older results."""
    lines = [f"On `{device}`, by `python bench/end_to_end.py` (median of interleaved steps):", ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for r in results:
        share, memory = r.get("peak_share"), r["peak_rss_ratio"]
        columns = {
            "peak": "" if share is None else f"{share:.0%}",
            "memory": "" if memory is None else f"{memory:.2f} x",
        }
        lines.append(ROW.format(**columns, **r))
    return "\n".join(lines)


def label(r: dict[str, Any]) -> str:
    """The label of a bar."""
    baseline = "" if r["baseline"] == "eager" else f"  {r['baseline']}"
    return f"{r['case']}  {r['threads']} thr  {r['dtype']}{baseline}"


def plot(device: str, results: list[dict[str, Any]]) -> Path:
    """Draws a bar per result; returns the file."""
    labels = [label(r) for r in results]
    figure = Figure(figsize=(8, 0.35 * len(results) + 1.2), layout="constrained")
    axis = figure.subplots()
    bars = axis.barh(labels[::-1], [r["ratio"] for r in results][::-1])
    axis.bar_label(bars, fmt="%.2f x", padding=3)
    axis.axvline(1.0, color="black", linewidth=0.8)
    axis.set(xlabel="times as fast as PyTorch", title=device)
    path = FOLDER / "results" / device / "end_to_end.png"
    figure.savefig(path, dpi=100)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    by_device = read()
    if not by_device:
        raise SystemExit("bench/results has no end_to_end.json: run python bench/end_to_end.py first")
    text = "\n\n".join(table(device, results) for device, results in by_device.items())
    if not options.write:
        print(text)
        print(f"\nRecipes, by `python bench/recipes.py`:\n\n{recipes.table()}")
        return
    pattern = re.compile(re.escape(START) + ".*?" + re.escape(END), re.S)
    readme = README.read_text()
    if not pattern.search(readme):
        raise SystemExit(f"README.md has no markers {START} ... {END}")
    README.write_text(pattern.sub(lambda _: f"{START}\n{text}\n{END}", readme))
    for device, results in by_device.items():
        print(plot(device, results))


if __name__ == "__main__":
    main()
