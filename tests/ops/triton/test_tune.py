"""The tuner without a card: its candidates compile, its choice is right, and what it leaves is a whole table."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from trm_fast.ops import backend

from . import offline

pytestmark = pytest.mark.skipif(backend.INTERPRETED, reason="the interpreter does not compile")
BENCH = Path(__file__).parents[3] / "bench"
sys.path[:0] = [str(BENCH), str(BENCH / "gpu")]
import card as cards  # noqa: E402
import together  # noqa: E402
import tune  # noqa: E402
import tuned  # noqa: E402
from common import Report  # noqa: E402

VENDOR = {"ROWS": 0}
JOB = tuned.Job("token_mixer", "token_mixer_bwd_weights", 97, tuned.SMALL)
KERNELS = sorted({job.kernel for job in tuned.jobs()})


@pytest.fixture
def table(monkeypatch):
    """The process's table, put back behind the test; tensors on the CPU have the rows of an H200."""
    from trm_fast.triton_kernels import configs

    before = copy.deepcopy(configs.table())
    monkeypatch.setattr(configs, "architecture", functools.cache(lambda device: "sm_90"))
    yield configs.table()
    configs.table().clear()
    configs.table().update(before)
    configs._lookup.cache_clear()


@pytest.fixture
def card(table, launched, monkeypatch, tmp_path):
    """Launches up to the driver, on CPU tensors."""
    if torch.cuda.is_available():
        pytest.skip("launches are real here")
    monkeypatch.setattr(cards, "architecture", lambda device: "sm_90")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    return cards.Card("cpu", [tmp_path / "configs.json"])


def test_candidates_name_the_options_of_the_rows(table):
    jobs = tuned.jobs()
    assert {job.kernel for job in jobs} == set(table["default"])
    for job in jobs:
        for rows in (table["default"], table["sm_90"]):
            for row in rows.get(job.kernel, {}).values():
                for options in job.candidates():
                    if VENDOR not in (row, options):
                        assert {*options, "num_stages"} == {*row, "num_stages"}, job
        assert 2 <= len(job.candidates()) <= 6
    assert [VENDOR in job.candidates() for job in jobs if job.kernel == "project_fwd"] == [True] * 4


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the tuner itself compiles them")
@pytest.mark.parametrize("kernel", KERNELS)
def test_candidates_compile_for_an_h200(table, monkeypatch, tmp_path, kernel):
    seen = {}
    if kernel == "qkv_fwd":  # with the vendor's product behind it, it is not launched
        rows = dict.fromkeys(("16:512x512", "16:512x512:small"), table["default"]["project_fwd"]["16"])
        monkeypatch.setitem(table["sm_90"], "project_fwd", table["sm_90"]["project_fwd"] | rows)
    for job in tuned.jobs():
        for options in job.candidates() if job.kernel == kernel and job.tokens == 97 else ():
            part = cards.made(job, "meta")
            cards.put("sm_90", job, part, options)
            run = lambda part=part, job=job: (part.forward(True), part.run(job.backward))  # noqa: E731
            launches = [a for a in offline.launches(monkeypatch, 90, run) if cards.of_row(kernel, a[0].__name__)]
            assert launches or options == VENDOR
            for function, arguments in reversed(launches):  # a forward's first keeps values, in more registers
                seen[job.batch, str(options), function.__name__] = function, arguments
    assert len(seen) >= 2
    for (_, options, _), (function, arguments) in seen.items():
        made = offline.compile_for(90, function, arguments | {"ADD": True}, tmp_path)  # to sums that are there
        assert made.stack <= offline.CANDIDATES_SPILL, options
        assert not made.serialized, options
        assert made.shared <= 227 * 1024, options


class Fake:
    """A bench where every row's error and time are known."""

    def __init__(self, present: tuple[int, float, float], rows: dict[int, tuple[float, float]]) -> None:
        self.rows = {present[0]: present[1:]} | rows
        self.kept, self.present = {"ROWS": present[0]}, {"ROWS": present[0]}

    def open(self, job: Any) -> dict[str, int]:
        return self.present

    def attempt(self, options: dict[str, int]) -> tuple[float, Any]:
        error, ms = self.rows[options["ROWS"]]
        if math.isinf(error):
            raise RuntimeError("out of resources")
        return error, lambda: ms

    def milliseconds(self, works: Any) -> dict[str, float]:
        return {name: work() for name, work in works.items()}

    def keep(self, options: dict[str, int]) -> None:
        self.kept = options


OUT = math.inf


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ({2: (0.01, 0.97), 3: (0.01, 0.9)}, 3),
        ({2: (0.01, 0.99), 3: (0.01, 1.5)}, 1),  # no 2 % faster
        ({2: (0.013, 0.1), 3: (0.0119, 0.9)}, 3),  # the fastest is wrong
        ({2: (math.nan, 0.1), 3: (OUT, 0.1)}, 1),
        ({}, 1),
    ],
)
def test_the_best_right_row_is_kept(rows, best):
    bench = Fake((1, 0.01, 1.0), rows)
    made = tune.decide(JOB, [{"ROWS": name} for name in (1, *rows)], bench)
    assert bench.kept == {"ROWS": best}
    assert made["kept"] == f"ROWS={best}"
    assert {*made["milliseconds"], *made["refused"]} == {f"ROWS={name}" for name in (1, *rows)}


@pytest.mark.parametrize("wrong", [0.2, math.nan, OUT])
def test_nothing_changes_where_the_present_row_is_wrong(wrong):
    bench = Fake((1, wrong, 1.0), {2: (0.01, 0.1)})
    with pytest.raises((ValueError, RuntimeError)):
        tune.decide(JOB, [{"ROWS": 2}], bench)
    assert bench.kept == {"ROWS": 1}


def test_a_kernel_that_another_row_keeps_out_is_left_alone(card, launched):
    """Behind the vendor's product attention's first product is the vendor's, too."""
    (job,) = (job for job in tuned.jobs() if (job.kernel, job.batch) == ("qkv_fwd", tuned.SMALL))
    assert tune.decide(job, job.candidates(), card)["launched"] is False


def test_the_time_is_kept_and_what_is_broken_is_left_out(tmp_path, capsys):
    wanted = tuned.jobs(["token_mixer"])
    ticks, asked = itertools.count(), []

    class Counting(Fake):
        def open(self, job):
            asked.append(job)
            return super().open(job)

        def attempt(self, options):
            if options != self.present:
                assert options == first, "the others were not compiled"
            return 0.01, lambda: 1.0

    first = wanted[1].candidates()[0]
    unusable = {tune.title(job): {cards.words(o): "wrong" for o in job.candidates() if o != first} for job in wanted}
    unusable[tune.title(wanted[0])] = {"": "late"}
    unusable[tune.title(wanted[3]._replace(kernel=""))] = {"": "crashed"}
    tune.tune(wanted, Counting((0, 0.01, 1.0), {}), unusable, Report(tmp_path, "tune", "cpu"), 5, lambda: next(ticks))
    assert wanted[3].batch == tuned.SMALL
    assert asked == wanted[1:3]
    rows = json.loads((tmp_path / "tune.json").read_text())["rows"]
    assert len(rows) == len(asked) + 1
    assert "error" not in str(rows)
    assert rows[-1]["first not reached"] == tune.title(wanted[5])
    assert cards.words(first) in rows[0]["milliseconds"]


def test_a_table_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "configs.json"
    cards.write(path, {"default": {}})
    with pytest.raises(TypeError):
        cards.write(path, {"default": {1, 2}})
    assert json.loads(path.read_text()) == {"default": {}}
    assert os.listdir(tmp_path) == ["configs.json"]


def test_a_compiling_process_launches_its_kernel_alone(card, launched):
    launched.clear()
    assert cards.compiled(JOB, "cpu") == {}
    assert launched == ["token_mixer_bwd_weights_kernel"] * len(JOB.candidates())
    launched.clear()
    assert cards.compiled(JOB._replace(kernel=""), "cpu") == {}
    assert {name.split("_kernel")[0] for name in launched} == set(tuned.KERNELS["token_mixer"])


def test_a_candidate_that_fails_is_left_out(card, monkeypatch):
    asked = JOB.candidates()
    monkeypatch.setattr(tuned, "candidates", lambda *_: [*asked[:1], asked[0] | {"INNER": 48}])  # no power of two
    ((options, wrong),) = cards.compiled(JOB, "cpu").items()
    assert "INNER=48" in options
    assert "CompilationError" in wrong


def test_what_was_compiled_is_reported(monkeypatch):
    wanted = tuned.jobs(["rms_norm"])
    task = lambda job: (cards.compiled, (job, "cuda"))  # noqa: E731
    monkeypatch.setattr(
        tune, "together",
        lambda tasks, seconds, most: {
            "done": [(("compiled", tasks[1][1]), {"ROWS=1": "wrong"})], "seconds": 1.0,
            "failed": {tune.name(*tasks[0]): "its process ended with -11"},
            "late": [tune.name(*task(job)) for job in wanted[1:]],
        },
    )  # fmt: skip
    found = tune.compile_all(wanted, "cuda", 1.0, 3)
    assert found["unusable"] == {
        tune.title(wanted[0]): {"ROWS=1": "wrong"},
        tune.title(wanted[0]._replace(kernel="")): {"": "its process ended with -11"},
        tune.title(wanted[1]): {"": "not compiled in time"},
    }


def test_an_attempt_is_timed_by_its_kernel_alone(card, launched):
    present = card.open(JOB)
    assert present["slabs"] == 16
    _, work = card.attempt(present | {"slabs": 8})
    assert len(launched) > 2
    launched.clear()
    work()
    assert launched == ["token_mixer_bwd_weights_kernel"]


def test_what_is_kept_is_written_and_leaves_other_rows_alone(card, table, monkeypatch):
    monkeypatch.setattr(cards, "error", lambda results, truth: 0.0)
    card.device = "meta"
    large = JOB._replace(kernel="token_mixer_fwd", batch=tuned.LARGE)
    small = cards.made(large._replace(batch=tuned.SMALL), "meta")
    before, present = small.lookup("token_mixer_fwd"), card.open(large)
    best = present | {"num_stages": 2}
    assert len({cards.words(options) for options in (present, best, before)}) == 3
    card.attempt(best)
    card.keep(best)
    assert card.part.lookup("token_mixer_fwd") == best
    assert small.lookup("token_mixer_fwd") == before
    written = json.loads(card.tables[0].read_text())
    assert written == table
    assert written["sm_90"]["token_mixer_fwd"]["16:97x512"] == best


def test_what_would_be_tried_is_listed(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tune.py", "--dry", "--only", "token_mixer"])
    tune.main()
    listed = capsys.readouterr().out
    assert "token_mixer_fwd 16:81x256:small (token_mixer, 81 tokens, batch 8)" in listed
    assert listed.count("slabs=") == sum(len(job.candidates()) for job in tuned.jobs() if "weights" in job.kernel)
    assert "gate_up" not in listed


def test_without_a_gpu_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["tune.py", "--device", "cpu", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="cpu is no GPU that torch sees"):
        tune.main()
    assert not os.listdir(tmp_path)


def test_calls_together():
    tasks = [(math.sqrt, (4.0,)), (os._exit, (3,)), (math.sqrt, (-1.0,))]
    found = together.together(tasks, 100.0)
    assert found["done"] == [(("sqrt", (4.0,)), 2.0)]
    assert found["failed"] == {
        "_exit(3,)": "its process ended with 3",
        "sqrt(-1.0,)": "ValueError: math domain error",
    }
    assert together.together([(time.sleep, (600,))], 0.5)["late"] == ["sleep(600,)"]
