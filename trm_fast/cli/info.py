"""``trm-fast info``: versions, the device, the build, and which kernels the ops use here."""

from __future__ import annotations

import platform
import warnings
from importlib.metadata import distributions
from itertools import groupby
from operator import itemgetter
from typing import Annotated, Any

import typer
from rich.table import Table

from trm_fast.cli.console import Json, err, out, print_json

Check = Annotated[bool, typer.Option("--check", help="Check every kernel again, with each instruction set of the CPU.")]
Measure = Annotated[
    bool, typer.Option("--measure", help="Time the kernels on this device; on a GPU auto then uses the fastest.")
]

PADDING = (
    "the C++ and Triton kernels support masks and causal order, the CUDA C++ kernels do not: auto then uses Triton. "
    "On a CPU attention models skip the padding after a batch's longest row"
)


def info(check: Check = False, measure: Measure = False, json_output: Json = False) -> None:
    """
    Shows versions, the device, what was built and what was not, the presets, and which implementation each op uses.

    [bold]Example[/bold]

      trm-fast info --check
    """
    checks = _checks() if check else []
    times = _times() if measure else []
    facts = _facts() | ({"self_check": checks} if check else {}) | ({"measured": times} if measure else {})
    if json_output:
        print_json(facts)
        return
    table = Table(title="trm-fast", show_header=False, title_justify="left")
    for name, value in facts["versions"].items():
        table.add_row(name, value)
    for name, value in facts["device"].items():
        table.add_row(name, str(value))
    for part, record in facts["build"].items():
        table.add_row(f"built: {part}", _built(record))
    table.add_row("rows with padding", facts["padding"])
    table.add_row("presets", ", ".join(facts["presets"]))
    table.add_row("models that ship", ", ".join(facts["models"]) or "none")
    out.print(table)
    out.print(_implementations(facts["ops"]))
    if check:
        out.print(_plain_table("Checks of the kernels", checks))
    if measure:
        out.print(_plain_table("Milliseconds, forward and backward", times))


def _devices() -> tuple[str, ...]:
    import torch

    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def _checks() -> list[dict[str, Any]]:
    from rich.progress import Progress

    from trm_fast.ops import report

    with warnings.catch_warnings(), Progress(console=err, transient=True) as bar:
        warnings.simplefilter("ignore")  # the table shows the same
        rows = ((device, row) for device in _devices() for row in report.check_all(device))
        results = list(bar.track(rows, total=None, description="checking"))
    return [
        {"op": op, "device": device, "dtype": dtype, "backend": name, "result": result}
        for device, (op, name, dtype, result) in results
    ]


def _times() -> list[dict[str, Any]]:
    import torch
    from rich.progress import Progress

    from trm_fast.inference.capture import recorded
    from trm_fast.ops import report

    with Progress(console=err, transient=True) as bar:
        recorders = {device: recorded(torch.device(device)) for device in _devices()}
        rows = ((device, row) for device, record in recorders.items() for row in report.measure(device, record))
        results = list(bar.track(rows, total=None, description="timing"))
    return [
        {"op": op, "device": device, "dtype": dtype, "inputs": size}
        | {name: round(times[name], 3) for name in times}
        | {"fastest": min(times, key=lambda name: times[name])}
        for device, (op, dtype, size, times) in results
    ]


def _plain_table(title: str, rows: list[dict[str, Any]]) -> Table:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    columns.sort(key="fastest".__eq__)  # moves it to the end
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in columns))
    return table


def _implementations(rows: list[dict[str, Any]]) -> Table:
    """One row per op, one column per device and dtype. Where an op uses the reference, the cell also says why."""
    columns = dict.fromkeys(f"{row['device']} {row['dtype']}" for row in rows)
    table = Table("op", *columns, title="Implementations", title_justify="left")
    for op, cells in groupby(rows, key=itemgetter("op")):
        table.add_row(op, *map(_cell, cells))
    return table


def _cell(row: dict[str, Any]) -> str:
    if row["backend"] != "reference":
        return str(row["backend"])
    backends = {"cpu": ("cpp",), "cuda": ("triton", "cuda")}[row["device"]]
    return "\n".join(["reference", *(row["reasons"][name] for name in backends)])


def _built(record: Any) -> str:
    if not isinstance(record, dict):
        return str(record)
    status = "yes" if record.get("built") else f"no: {record.get('reason')}"
    more = ", ".join(f"{key} {value}" for key, value in record.items() if key not in ("built", "reason") and value)
    return f"{status}  {more}" if more else status


def _facts() -> dict[str, Any]:
    import psutil
    import torch

    from trm_fast import ops
    from trm_fast.interchange import bundled_names
    from trm_fast.training import preset_names
    from trm_fast.version import __version__

    versions = {"trm-fast": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    versions["triton"] = next((package.version for package in distributions(name="triton")), "not installed")
    device: dict[str, Any] = {
        "cpu": f"{platform.machine()}, {psutil.cpu_count(logical=False)} cores, kernels: {ops.cpu_path()}",
        "threads": torch.get_num_threads(),
        "memory": f"{psutil.virtual_memory().available / 2**30:.1f} GiB free",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
    return {
        "versions": versions,
        "device": device,
        "build": ops.build_record() or {"native": {"built": False, "reason": "this is a checkout that was not built"}},
        "padding": PADDING,
        "presets": preset_names(),
        "models": bundled_names(),
        "ops": [row._asdict() for row in ops.table(_devices())],
    }
