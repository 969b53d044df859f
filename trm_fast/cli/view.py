"""The summary of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from trm_fast.cli.console import measures, out, share


def print_summary(summary: dict[str, Any], folder: Path, report: list[Any]) -> None:
    for part in report:  # the task's own tables of its measures
        out.print(part)
    table = Table(title=summary["task"], show_header=False, title_justify="left")
    table.add_row("data", summary["data"])
    table.add_row("steps", f"{summary['steps']:,}  ({summary['sample_steps']:,} sample-steps)")
    table.add_row(
        "time", f"{summary['seconds']:.1f} s  ({summary['sample_steps_per_second'] or 0:,.0f} sample-steps/s)"
    )
    table.add_row("parameters", f"{summary['parameters']:,}")
    if evaluation := summary["evaluation"]:
        low, high = evaluation["interval"]
        table.add_row("exact accuracy", f"{share(evaluation['exact_accuracy'])}  (95 %: {share(low)} to {share(high)})")
        table.add_row("cell accuracy", share(evaluation["cell_accuracy"]))
        for name, value in measures(evaluation).items() if not report else ():
            table.add_row(name.replace("_", " "), f"{value:.4f}")
        table.add_row("unseen", f"{evaluation['count']:,}, {evaluation['mean_steps']:.2f} supervision steps each")
    table.add_row("run", str(folder))
    out.print(table)
