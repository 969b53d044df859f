"""Measures the web page in Chromium: first paint, layout shift, the time from a key to the first step, the time between
steps, the memory of the idle server, and how much watching a run slows its training.

python bench/web.py [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil

sys.path.append(str(Path(__file__).parents[1]))
import itertools

from tests.web import browser
from tests.web.browser import Server, Visitor

NINE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
KEYS = ("4", "Delete") * 6
WINDOW, PAIRS = 12.0, 4  # seconds of training with and without a page that watches
SHOWN = """() => {
    window.times = []; window.drawn = [];
    new MutationObserver(() => {
        if (!document.querySelector('output').textContent.startsWith('step')) return;
        window.times.push(performance.now());
        requestAnimationFrame(() => window.drawn.push(performance.now()));
    }).observe(document.querySelector('output'), {childList: true, characterData: true, subtree: true});
}"""


def measure_page(chromium: Any, server: Server, model: str) -> dict[str, float]:
    """First paint and layout shift of the page Solve, then solving while typing, in milliseconds."""
    visitor = Visitor(chromium, server.address, viewport={"width": 1280, "height": 900})
    page = visitor.open("#" + urlencode({"tab": "solve", "model": model, "puzzle": NINE}))
    page.get_by_role("grid", name="Answer").wait_for()
    page.wait_for_function("() => document.querySelector('[role=grid]').textContent.length > 0")
    page.get_by_role("grid", name="Puzzle").get_by_role("gridcell").nth(2).focus()
    page.evaluate(SHOWN)
    first, between = [], []
    for key in KEYS:
        page.evaluate("window.times.length = window.drawn.length = 0; window.pressed = performance.now()")
        page.keyboard.press(key)
        page.wait_for_function("() => window.drawn.length > 0")
        time.sleep(1)
        times = page.evaluate("window.times")
        first.append(page.evaluate("window.drawn[0] - window.pressed"))
        between += [after - one for one, after in itertools.pairwise(times)]
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    shift = page.evaluate("window.layoutShift")
    visitor.context.close()
    return {
        "first_paint_ms": paint, "layout_shift": shift, "key_to_step_ms": statistics.median(first),
        "key_to_step_max_ms": max(first), "between_steps_ms": statistics.median(between or [0.0]),
    }  # fmt: skip


def measure_watching(chromium: Any, server: Server) -> dict[str, float]:
    """The rate of training while a page shows its curves, as a share of the rate without, in turns."""
    settings = {"training.steps": 1_000_000, "training.checkpoint_every": 1_000_000, "training.log_every": 20}
    body = json.dumps({"preset": "sudoku-4x4", "name": "watched", "settings": settings}).encode()
    headers = {"content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{server.address}/api/runs", body, headers)):
        pass
    metrics = server.runs / "watched" / "metrics.jsonl"

    def steps() -> tuple[float, int]:
        while not metrics.exists() or not (lines := metrics.read_text().splitlines()):
            time.sleep(0.2)
        record = json.loads(lines[-1])
        return record["seconds"], record["sample_steps"]

    visitor = Visitor(chromium, server.address, viewport={"width": 1280, "height": 900})
    rates: tuple[list[float], list[float]] = ([], [])
    steps()
    for _ in range(PAIRS):
        for watched in (False, True):
            visitor.open("#tab=train") if watched else visitor.page.goto("about:blank")
            time.sleep(2)
            began, done = steps()
            time.sleep(WINDOW)
            ended, more = steps()
            rates[watched].append((more - done) / (ended - began))
    visitor.context.close()
    request = urllib.request.Request(f"{server.address}/api/runs/watched/stop", b"{}", headers)
    with urllib.request.urlopen(request):
        pass
    alone, seen = (statistics.median(values) for values in rates)
    return {"rate_alone": alone, "rate_watched": seen, "slowed_percent": 100 * (1 - seen / alone)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sudoku-cpu", help="the 9x9 model that solves while a person types")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if reason := browser.missing():
        parser.error(reason)
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = Server(Path(folder) / "runs")
        try:
            time.sleep(2)
            memory = psutil.Process(server.process.pid).memory_info().rss / 2**20
            arguments = ["--no-sandbox", "--disable-gpu"]
            chromium = playwright.chromium.launch(executable_path=browser.chromium(), args=arguments)
            result = {"model": options.model, "idle_server_mib": memory}
            result |= measure_page(chromium, server, options.model) | measure_watching(chromium, server)
            chromium.close()
        finally:
            server.kill()
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:20} {value if isinstance(value, str) else round(value, 3)}")


if __name__ == "__main__":
    main()
