"""bench/tune.py in Triton's interpreter: which rows it tries, and which it keeps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from trm_fast.ops._core import registry

BENCH = Path(__file__).parents[3] / "bench"
pytestmark = pytest.mark.skipif(registry.INTERPRETED, reason="test_it_tunes_in_the_interpreter runs it there")


@pytest.fixture
def tune(needs_triton, monkeypatch):
    from trm_fast.triton_kernels import configs

    monkeypatch.syspath_prepend(str(BENCH))
    import tune

    previous = json.dumps(configs.table())
    yield tune
    configs.table().clear()
    configs.table().update(json.loads(previous))
    configs._lookup.cache_clear()
    configs.architecture.cache_clear()


def test_neighbors_differ_in_one_option(tune):
    rows = list(tune.neighbors({"ROWS": 64, "num_warps": 1, "num_stages": 1}))
    assert rows == [
        {"ROWS": 32, "num_warps": 1, "num_stages": 1},
        {"ROWS": 128, "num_warps": 1, "num_stages": 1},
        {"ROWS": 64, "num_warps": 2, "num_stages": 1},
        {"ROWS": 64, "num_warps": 1, "num_stages": 2},
    ]


@pytest.fixture
def decided(tune, monkeypatch):
    """The block size that the tuner keeps for ``swiglu_fwd``, given the milliseconds of each block size. None stands
    for a block size that cannot run."""
    from trm_fast.triton_kernels import configs

    def run(present: int, milliseconds: dict[int, float | None], right=lambda block: True) -> int:
        at = lambda: configs.table()["default"]["swiglu_fwd"]["16"]["BLOCK"]  # noqa: E731

        def work():
            if milliseconds.get(at()) is None:
                raise RuntimeError("out of resources")
            return [torch.ones(3) if right(at()) else torch.zeros(3)]

        def interleaved(runs, *_, around):
            times = {}
            for text in runs:
                with around(text):
                    times[text] = milliseconds[at()]
            return times

        monkeypatch.setattr(tune, "interleaved", interleaved)
        options = {"BLOCK": present}
        configs.put("default", "swiglu_fwd", "16", options)
        tune.tune_row(work, work, "swiglu_fwd", "16", options, "cpu", tune.time.monotonic() + 60)
        return at()

    return run


@pytest.mark.parametrize(
    ("milliseconds", "best"),
    [
        ({512: 3.0, 1024: 2.0, 2048: 3.0}, 1024),
        ({1024: 2.0, 2048: 1.5, 4096: 1.0, 8192: 1.2}, 4096),
        ({1024: 2.0, 2048: 1.99}, 1024),  # no gain worth a change
        ({1024: 2.0, 512: None, 2048: None}, 1024),
    ],
)
def test_the_fastest_row_is_kept(decided, milliseconds, best):
    assert decided(1024, milliseconds) == best


def test_a_row_with_other_results_is_refused(decided):
    assert decided(1024, {512: 1.5, 1024: 2.0, 2048: 1.0}, right=lambda block: block < 2048) == 512


def test_a_row_with_other_results_of_an_in_place_op_is_refused(tune, monkeypatch):
    import op_cases

    from trm_fast.triton_kernels import configs

    (row,) = (row for row in tune.cases(2, tune.TINY, torch.float32) if row.op == "adam_atan2_")
    original = op_cases.OPS["adam_atan2_"].function

    def block() -> int:
        return configs.table()["default"]["adam_atan2_"]["32"]["BLOCK"]

    def wrong_if_large(params, *arguments, **options):
        if block() < 2048:
            original(params, *arguments, **options)

    monkeypatch.setattr(op_cases, "OPS", {"adam_atan2_": SimpleNamespace(function=wrong_if_large)})
    monkeypatch.setattr(op_cases.ops, "use_backend", lambda *_: nullcontext())
    monkeypatch.setattr(tune, "compile_together", lambda *_: None)
    monkeypatch.setattr(tune, "interleaved", lambda runs, *_, around: {t: 1 / (around(t), block())[1] for t in runs})
    inputs, options = row.case.inputs(torch.float32, torch.device("cpu")), {"BLOCK": 512}
    configs.put("default", "adam_atan2_", "32", options)
    work, results = partial(op_cases.run, row, row.case.leaves(inputs)), partial(op_cases.outcome, row, inputs)
    tune.tune_row(work, results, "adam_atan2_", "32", options, "cpu", tune.time.monotonic() + 60)
    assert block() == 1024


def test_candidates_are_compiled_together_and_not_launched(tune, launched, monkeypatch, tmp_path):
    from trm_fast.triton_kernels import configs
    from trm_fast.triton_kernels.swiglu import swiglu_fwd

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    x, tried = torch.zeros(2, 4, 64, dtype=torch.bfloat16), [{"BLOCK": b, "num_warps": 4} for b in (256, 512)]

    def put(options):
        configs.put("default", "swiglu_fwd", "16", options)

    launched.clear()  # launches of other tests in this process
    tune.compile_together(lambda: swiglu_fwd(x, -1), put, tried)
    assert launched == []
    compiled = set(tmp_path.iterdir())
    assert len(list(tmp_path.rglob("*.cubin"))) == 2
    for options in tried:
        put(options)
        swiglu_fwd(x, -1)
    assert len(launched) == 2
    assert {path.name for path in compiled} <= {path.name for path in tmp_path.iterdir()}
    assert len(list(tmp_path.rglob("*.cubin"))) == 2


def test_every_requested_row_is_recorded(tune, monkeypatch):
    from trm_fast.triton_kernels import configs

    small, large = torch.empty(4), torch.empty(1, dtype=torch.bfloat16).expand(2**21)
    with tune.rows_used() as rows:
        configs.lookup("swiglu_fwd", small)
        options = configs.lookup("gate_up_fwd", large, 1536, 512)
    assert list(rows) == [("swiglu_fwd", "32:small"), ("gate_up_fwd", "16:1536x512")]
    assert rows["gate_up_fwd", "16:1536x512"] == options
    configs.lookup("swiglu_bwd", small)
    assert len(rows) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tune, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tune.py"])
    with pytest.raises(SystemExit, match="torch sees no GPU"):
        tune.main()


@pytest.mark.slow
def test_it_tunes_in_the_interpreter(tmp_path):
    table = tmp_path / "configs.json"
    command = [sys.executable, str(BENCH / "tune.py"), "--tiny", "--only", "swiglu", "--seconds", "5"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(
        [*command, "--table", str(table)], env=environment, cwd="/", capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    rows = json.loads(table.read_text())["default"]["swiglu_fwd"]
    assert set(rows["32:small"]) == {"BLOCK", "num_warps"}
