"""The interactive agent, through a pipe and in a terminal."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "trm_fast.cli", "agent"]


def run_agent(text: str, *arguments: str) -> str:
    done = subprocess.run([*COMMAND, *arguments], cwd="/", input=text, capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def test_a_conversation_through_a_pipe(tmp_path: Path) -> None:
    puzzles = tmp_path / "two.txt"
    puzzles.write_text("3.......4.3...42\n1...........2.43\n")
    output = run_agent(
        f"info\ngenerate\nsolve\ntrajectory on\nsolve 3.......4.3...42\nsolve {puzzles}\nsolve 33......4.3...42\n"
        '\nchess\nmodel nobody\ngenerate "x\nsolve /no/puzzle.txt\nhelp\nquit\nsolve never\n',
        "sudoku-4x4",
    )
    assert "80,705" in output
    assert output.count("the rules hold") == 4
    assert "step 1: " in output
    assert "error: sudoku-4x4: the givens contradict each other" in output
    assert "error: unknown command 'chess'" in output
    assert "error: there is no run or model 'nobody'" in output
    assert "error: there is no run or model '\"x'" in output
    assert "(and there is no file /no/puzzle.txt)" in output
    for name in ("solve", "generate", "model", "info", "trajectory", "quit"):
        assert re.search(rf"^ *{name}", output, re.M)
    assert "never" not in output


def test_a_file_needs_no_model(tmp_path: Path) -> None:
    (tmp_path / "grid.txt").write_text("3...\n....\n4.3.\n..42\n")
    assert "sudoku-4x4: confidence" in run_agent(f"solve {tmp_path / 'grid.txt'}\n")


def test_the_end_of_input_ends_it() -> None:
    assert "3 occurs twice" in run_agent("solve 33......4.3...42")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_has_a_prompt_history_and_completion(tmp_path: Path) -> None:
    import pty

    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "xterm"}
    child, terminal = pty.fork()
    if child == 0:
        os.chdir("/")
        os.execve(sys.executable, [*COMMAND, "sudoku-4x4"], environment)
    seen = b""

    def read_until(expected: bytes) -> None:
        nonlocal seen
        while expected not in seen:
            assert select.select([terminal], [], [], 120)[0], f"{expected!r} did not appear in {seen!r}"
            seen += os.read(terminal, 4096)

    read_until(b"agent> ")
    os.write(terminal, b"traj\t on\n")
    read_until(b"trajectory is on")
    seen = b""
    os.write(terminal, b"\x1b[A\n")  # the last line again
    read_until(b"trajectory is on")
    os.write(terminal, b"solve 3.......4.3...42\n")
    read_until(b"the rules hold")
    os.write(terminal, b"quit\n")
    assert os.waitpid(child, 0)[1] == 0
    assert "trajectory on" in (tmp_path / "trm-fast" / "history").read_text()
