"""Chromium for the tests of the page: found on this machine, driven by Playwright, which downloads nothing."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.process import environment

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"
NAMES = ("chromium", "chromium-browser", "google-chrome")
WAIT = 120_000
"""Milliseconds after which a test gives up; other programs may use the processors."""
AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"

SHIFT = """window.layoutShift = 0; new PerformanceObserver((list) => { for (const entry of list.getEntries())
    if (!entry.hadRecentInput) window.layoutShift += entry.value; }).observe({type: "layout-shift", buffered: true});"""
"""Sums up how far things moved that nobody touched, as Chromium's cumulative layout shift does."""


def chromium() -> str | None:
    """The path of Chromium, None if it is not installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def missing() -> str:
    """Why the tests of the page cannot run here; empty if they can."""
    try:
        import fastapi  # noqa: F401
        import playwright  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not installed"
    return "" if chromium() else f"none of {', '.join(NAMES)} is installed (apt-get install chromium)"


class Server:
    """``trm-fast serve`` in a process of its own.

    Args:
        runs: the folder of runs.
        options: further arguments of the command.
    """

    def __init__(self, runs: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.runs, self.options = runs, options
        self.address = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Starts the process, and waits until it answers."""
        command = [sys.executable, "-m", "trm_fast.cli", "serve", "--port", str(self.port), "--runs", str(self.runs)]
        # Elsewhere than in the checkout, where ``-m`` would find the package before the installed one.
        self.process = subprocess.Popen(
            [*command, *self.options], cwd="/", env=environment(), stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert "ready at" in line, line + self.process.stderr.read()

    def kill(self) -> None:
        """Ends the process at once."""
        self.process.kill()
        self.process.wait()
        time.sleep(0.1)


class Visitor:
    """A page of its own, which notes the errors of its console."""

    def __init__(self, chromium: Browser, address: str, **context: Any) -> None:
        self.context = chromium.new_context(accept_downloads=True, **context)
        self.context.set_default_timeout(WAIT)
        self.context.add_init_script(SHIFT)
        self.page = self.context.new_page()
        self.address = address
        self.errors: list[str] = []
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, fragment: str = "") -> Page:
        self.page.goto("about:blank")
        self.page.goto(f"{self.address}/{fragment}", timeout=WAIT)
        return self.page


def violations(page: Page) -> list[str]:
    """What axe-core finds wrong with the accessibility of a page."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [f"{fault['id']}: {node['target']} {node['failureSummary']}" for fault in result for node in fault["nodes"]]
