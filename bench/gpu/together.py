"""Calls in processes of their own, many at once: what one after the other takes minutes for, sixteen do in seconds."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

Task = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function of a module, and what it is given."""


def together(tasks: Sequence[Task], seconds: float, most: int = 14) -> dict[str, Any]:
    """Runs them in this order, up to ``most`` at once, if there are cores for them; leaves those not done in time.

    ``done``: ((function's name, given), result) of each; ``failed``: what was wrong, by name: an exception, or how the
    process ended, for a kernel that crashes takes its process alone; ``late``: names.
    """
    start = time.perf_counter()
    workers = max(1, min((os.cpu_count() or 2) - 2, most))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "loaded"])  # the second where PYTHONPATH names this folder
    waiting = deque(tasks)
    running: dict[Any, tuple[Any, Task]] = {}  # by the pipe that the answer comes through
    done: list[tuple[tuple[str, tuple[Any, ...]], Any]] = []
    failed: dict[str, str] = {}
    while (waiting or running) and (left := start + seconds - time.perf_counter()) > 0:
        if waiting and len(running) < workers:
            task = waiting.popleft()
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_answer, args=(theirs, *task), daemon=True)
            process.start()
            theirs.close()  # so that its end is seen
            running[ours] = process, task
            continue
        for pipe in wait(list(running), left):
            process, task = running.pop(pipe)
            error, result = _received(pipe, process)
            if error:
                failed[name(*task)] = error
            else:
                done.append(((task[0].__name__, task[1]), result))
    late = [name(*task) for task in (*(task for _, task in running.values()), *waiting)]
    for process, _ in running.values():
        process.kill()
    return {"done": done, "seconds": round(time.perf_counter() - start, 1), "failed": failed, "late": late}


def name(work: Callable[..., Any], given: tuple[Any, ...]) -> str:
    return f"{work.__name__}{given}"


def _answer(pipe: Connection, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    error, result = None, None
    try:
        result = work(*given)
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"[:300]
    pipe.send((error, result))


def _received(pipe: Any, process: Any) -> tuple[str | None, Any]:
    try:
        error, result = pipe.recv()
    except EOFError:
        process.join()
        return f"its process ended with {process.exitcode}", None
    return error, result
