"""bench/gpu.sh on the CPU: parts that succeed, fail, take too long or lose their process."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "gpu"))
import checks
import common
import op_cases
import op_table
import plan
import run

ROOT = Path(__file__).parents[2]
TOP = {"copy_tbps": 1.0, "gemm_tflops": 1.0}


def gpu_sh(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "bench" / "gpu.sh"), "--self-test", *map(str, arguments)]
    return subprocess.run(
        command, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(tmp_path):
    done = gpu_sh("--out", tmp_path)
    assert done.returncode == 0, done.stdout + "".join(p.read_text() for p in tmp_path.glob("*.error.json"))
    for part in plan.PART_SECONDS:
        rows = json.loads((tmp_path / f"{part}.json").read_text())["rows"]
        assert rows
        assert not any("error" in row or "skipped" in row for row in rows)
    assert not list(tmp_path.glob("*.error.json"))
    assert (tmp_path / "run_sudoku_summary.json").exists()


@pytest.mark.slow
def test_the_other_parts_run_when_one_fails(tmp_path):
    done = gpu_sh("--parts", "solver", "training", "--data", tmp_path / "nothing", "--out", tmp_path)
    assert done.returncode == 1
    assert "failed: training" in done.stdout
    assert not (tmp_path / "solver.error.json").exists()
    assert len(json.loads((tmp_path / "solver.json").read_text())["rows"]) == 2
    wrong = json.loads((tmp_path / "training.error.json").read_text())
    assert wrong["exit"] == 1
    assert "hard_test.csv.gz" in wrong["output"]


@pytest.fixture
def parts(monkeypatch, tmp_path):
    """Runs a script as the part ``part``; returns whether it succeeded, and its error file."""
    monkeypatch.setattr(run, "HERE", tmp_path)

    def call(script: str, seconds: float = 30.0) -> tuple[bool, dict]:
        (tmp_path / "part.py").write_text(script)
        good = run.run_part("part", seconds, {"out": str(tmp_path)}, dict(os.environ))
        error = tmp_path / "part.error.json"
        return good, json.loads(error.read_text()) if error.exists() else {}

    return call


def test_a_part_succeeds_with_exit_status_0_alone(parts):
    assert parts("raise SystemExit('three rows failed')")[1]["output"] == "three rows failed\n"
    assert parts("print('good')") == (True, {})


def test_a_part_that_takes_too_long_is_ended_with_its_processes(parts, tmp_path):
    child = f"import pathlib, time; time.sleep(4); pathlib.Path({str(tmp_path / 'late')!r}).touch()"
    script = f"import subprocess, sys; print('here', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    good, error = parts(script, 2.0)
    assert not good
    assert error["timed_out"]
    assert error["output"] == "here\n"
    time.sleep(3)
    assert not (tmp_path / "late").exists()


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", f"os._exit({run.DEVICE_LOST})"])
def test_a_part_continues_after_the_case_that_ended_its_process(parts, tmp_path, end):
    first = "if not json.loads(sys.argv[2])['resume']: "
    script = f"import json, os, sys\nprint('begun')\nsys.stdout.flush()\n{first}{end}\n"
    assert parts(script) == (True, {})
    assert (tmp_path / "part.log").read_text() == "begun\n" * 2
    good, error = parts(script.replace(first, ""))
    assert not good
    assert error["output"] == "begun\n" * (1 + plan.RESTARTS)


def part(out: Path, **options) -> common.Part:
    return common.Part("part", out=str(out), seconds=60, device="cpu", **options)


def test_rows_are_written_at_once_and_an_error_fails_the_part(tmp_path):
    results = part(tmp_path)
    results.attempt("good", lambda: {"ms": 1.0})
    results.finish()
    results.attempt("bad", lambda: 1 / 0)
    results.attempt("late", lambda: {}, min_seconds=1e9)
    rows = json.loads((tmp_path / "part.json").read_text())["rows"]
    assert [row["case"] for row in rows] == ["good", "bad", "late"]
    assert rows[1]["error"].startswith("ZeroDivisionError")
    assert rows[2]["skipped"]
    with pytest.raises(SystemExit, match="1 of 3 rows failed: bad"):
        results.finish()
    with pytest.raises(KeyboardInterrupt):
        results.attempt("ended", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    again = part(tmp_path, resume=True)
    assert again.attempt("ended", lambda: {"ms": 2.0})["error"] == "it ended the process"
    assert part(tmp_path).rows == {}


def test_a_kernel_that_ends_its_process_loses_only_its_own_row(monkeypatch, tmp_path):
    results = part(tmp_path)
    cases = ["mlp/triton/float32", "swiglu/triton/float32", "attention/triton/float32"]

    def run_process(part, file, command, device, *pending):
        if "swiglu" in pending[0]:
            return -11, ""  # the process crashed
        verdict = {"error": "not finite"} if "attention" in pending[0] else {"result": "passed"}
        return 0, "a warning\n" + json.dumps({"case": pending[0], **verdict}) + "\n"

    monkeypatch.setattr(checks, "run_process", run_process)
    checks.check_kernels(results, cases[:1])
    checks.check_kernels(results, cases[1:])
    assert results.rows[cases[0]]["result"] == "passed"
    assert results.rows[cases[1]]["error"] == "it ended the process"
    assert results.rows[cases[2]]["error"] == "not finite"
    monkeypatch.setattr(results, "end", 0.0)
    checks.check_kernels(results, ["rms_norm/triton/float32"])
    assert "rms_norm/triton/float32" not in results.rows


def test_a_kernel_that_loses_the_device_fails_no_other(monkeypatch, tmp_path):
    results, cases = part(tmp_path), ["mlp/triton/float32", "mlp/triton/bfloat16"]
    rows = {cases[0]: {"error": "an illegal memory access"}, cases[1]: {"result": "passed"}}

    def run_process(part, file, command, device, *pending):
        code = plan.DEVICE_LOST if pending[0] == cases[0] else 0
        return code, json.dumps({"case": pending[0], **rows[pending[0]]}) + "\n"

    monkeypatch.setattr(checks, "run_process", run_process)
    checks.check_kernels(results, [*cases])
    assert results.rows == {case: {"case": case, **row} for case, row in rows.items()}


def test_a_check_prints_what_is_wrong(monkeypatch, capsys):
    monkeypatch.setattr(checks.validation, "verdict", lambda op, *_: "off" if op == "mlp" else "passed")
    checks.check("cpu", ["mlp/cpp/float32", "swiglu/cpp/bfloat16"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [{"case": "mlp/cpp/float32", "error": "off"}, {"case": "swiglu/cpp/bfloat16", "result": "passed"}]


@pytest.fixture
def cases():
    return op_cases.cases(2, plan.TINY, torch.float32)


def test_a_backward_that_fails_loses_only_its_own_time(cases, monkeypatch):
    case = next(case for case in cases if case.op == "swiglu")
    plain, names = op_table.report.work, iter(["reference", "cpp"])

    def broken(*arguments):
        if next(names, "") == "cpp":
            raise RuntimeError("out of resources")
        return plain(*arguments)

    monkeypatch.setattr(op_table, "backends", lambda *_: ["reference", "cpp"])
    monkeypatch.setattr(op_table.report, "work", broken)
    row = op_table.measure_case(case, "cpu", True, TOP)
    assert "out of resources" in row["failed"]["cpp"]
    assert row["error"] == "failed: cpp"
    assert list(row["backends"]) == ["reference"]
    assert list(op_table.measure_case(case, "cpu", False, TOP)["backends"]) == ["reference", "cpp"]


def test_bytes_are_those_of_both_passes(cases):
    (norm,) = (case for case in cases if (case.op, case.label) == ("rms_norm", "channels"))
    forward, both = (op_table.measure_case(norm, "cpu", backward, TOP) for backward in (False, True))
    size = math.prod(norm.case.shapes[0]) * 4
    assert (forward["bytes"], both["bytes"]) == (3 * size, 6 * size)  # x, residual, y; dy, y, dx
    for row in (forward, both):
        timed = row["backends"]["reference"]
        assert timed["gb_per_s"] == pytest.approx(1e-6 * row["bytes"] / timed["ms"], rel=0.01, abs=0.06)
