"""Part a of the GPU's benchmarks, on the CPU: what it makes of programs that end well, badly or not at all."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "gpu"))
import checks
import shard
import tiny


@pytest.fixture
def says(monkeypatch, tmp_path):
    """A compute-sanitizer that prints something and ends."""

    def make(text: str, code: int = 0) -> None:
        program = tmp_path / "compute-sanitizer"
        program.write_text(f"#!{sys.executable}\nimport sys\nprint({text!r})\nsys.exit({code})\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return make


@pytest.mark.parametrize(
    ("text", "code", "status"),
    [
        ("========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors", 0, "clean"),
        ("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", 0, "clean"),
        ("UserWarning: not supported here\n========= ERROR SUMMARY: 3 errors", 9, "errors"),
        ("Traceback\n========= ERROR SUMMARY: 0 errors", 1, "errors"),
        ("it has nothing to say", 0, "errors"),
        ("========= Error: No attachable process found\nRuntimeError", 1, "skipped"),
        ("Device not supported\nRuntimeError", 1, "skipped"),
    ],
)
def test_what_a_memory_checker_says(says, text, code, status):
    says(text, code)
    assert checks.sanitizer("memcheck", ["python"], 20.0)["status"] == status


def test_verdicts_are_read_and_not_written(monkeypatch, tmp_path):
    """What a part that is cut short leaves half done must not switch kernels off for the next one."""
    file = tmp_path / "trm_fast" / "self_check" / "h200.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"mlp": None}))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    script = "import os; p = os.environ['XDG_CACHE_HOME'] + '/trm_fast/self_check/h200.json'; print(open(p).read());"
    code, text = checks.run([sys.executable, "-c", f"{script} open(p, 'w').write('never finished')"], 20.0)
    assert (code, text.strip()) == (0, '{"mlp": null}')
    assert json.loads(file.read_text()) == {"mlp": None}


def test_kernels_that_disagree_are_named(monkeypatch):
    rows = [{"op": op, "result": result} for op, result in (("mlp", "passed"), ("swiglu", "not finite"))]
    monkeypatch.setattr(checks, "run", lambda *_: (0, "a warning\n" + json.dumps({"self_check": rows}) + "\n"))
    assert checks.self_checked(1.0) == {"exit": 0, "passed": 1, "wrong": rows[1:]}
    for text in ("", "took more than 1 s\nchecking", "[]"):
        monkeypatch.setattr(checks, "run", lambda *_, text=text: (124, text))
        assert checks.self_checked(1.0) == {"exit": 124, "output": text}


def test_what_never_ends_is_ended():
    code, text = checks.run([sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"], 3.0)
    assert code == 124
    assert text.startswith("took more than 3 s\nhere")


def test_every_kernel_is_run_and_none_is_judged_for_good(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tiny.self_check, "check", lambda op, name, dtype, device: "off" if op == "mlp" else None)
    monkeypatch.setattr(tiny.backend, "unavailable", lambda op, name, device, dtype: None if name == "cuda" else "no")
    tiny.every_kernel("cuda")
    said = capsys.readouterr().out.splitlines()
    assert "latent_step cuda torch.bfloat16 passed" in said
    assert "rms_norm cuda torch.float32 passed" in said
    assert not any("float16" in line.split() or "triton" in line for line in said)
    assert not list(tmp_path.iterdir())


def test_what_a_gpu_is_needed_for_comes_first(monkeypatch):
    def item(name: str, *fixtures: str) -> SimpleNamespace:
        return SimpleNamespace(path=Path("tests/ops", name), fixturenames=fixtures)

    anywhere = [item("test_mlp.py", "cpp"), item("test_cuda_kernels.py", "device"), item("triton/test_offline.py")]
    on_a_card = [item("test_cuda_device.py"), item("triton/test_kernels.py", "triton", "device")]
    shares, left_out = [], []
    config = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda items: left_out.append(items)))
    for number in range(2):
        monkeypatch.setenv("TRM_FAST_SHARD", f"{number}/2")
        mine = anywhere + on_a_card
        shard.pytest_collection_modifyitems(config, mine)
        shares.append(mine)
    assert shares == [[on_a_card[0], anywhere[0], anywhere[2]], [on_a_card[1], anywhere[1]]]
    assert left_out == shares[::-1]
