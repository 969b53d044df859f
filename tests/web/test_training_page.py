"""The page Train in Chromium: a run is started, watched, reloaded, seen by a second visitor, stopped and resumed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.web import browser
from tests.web.browser import Visitor

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())]
LONG = 300_000
SETTINGS = {
    "training.steps": "100000", "training.batch_size": "8", "training.checkpoint_every": "40",
    "model.hidden_size": "16", "task.train_count": "60", "task.test_count": "20", "training.log_every": "5",
}  # fmt: skip


@pytest.fixture
def server(tmp_path: Path) -> Iterator[browser.Server]:
    server = browser.Server(tmp_path / "runs")
    yield server
    server.kill()


def has_curve(page: Page, name: str) -> None:
    chart = page.get_by_role("img", name=re.compile(rf"^Loss\. .*{name}: [\d.e-]+ at step \d+"))
    chart.wait_for(timeout=LONG)


def has_state(page: Page, name: str, state: str) -> None:
    page.get_by_role("row", name=re.compile(rf"\b{name}\b.*{state}")).first.wait_for(timeout=LONG)


def test_a_run_from_start_to_resume(chromium: Browser, server: browser.Server) -> None:
    visitor = Visitor(chromium, server.address, viewport={"width": 1280, "height": 900})
    page = visitor.open("#tab=train")
    page.get_by_label("Name of the run").fill("mini")
    page.get_by_label("Compare with").select_option("copy")
    page.get_by_role("region", name="Differences").get_by_text("learning_rate").first.wait_for()
    for key, value in SETTINGS.items():
        page.get_by_label("Find a key").fill(key)
        page.get_by_label(f"Value of {key}", exact=True).fill(value)
    page.get_by_role("button", name="Start training").click()
    has_state(page, "mini", "running")
    has_curve(page, "mini")
    page.get_by_text(re.compile("Sample predictions of mini at step")).wait_for(timeout=LONG)
    page.get_by_label("Smoothing", exact=True).fill("0.9")
    page.get_by_label("Logarithmic loss").check()
    browser.SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=browser.SCREENSHOTS / "training.png", full_page=True)

    page.reload()
    has_curve(page, "mini")
    other = Visitor(chromium, server.address)
    has_curve(other.open("#tab=train"), "mini")
    server.kill()
    page.get_by_role("alert").get_by_text("the server does not answer").wait_for(timeout=LONG)
    server.start()
    has_state(page, "mini", "running")
    page.get_by_role("alert").wait_for(state="hidden", timeout=LONG)

    page.get_by_role("button", name="Stop mini").click()
    has_state(page, "mini", "stopped")
    page.get_by_role("button", name="Resume mini").click()
    has_state(page, "mini", "running")
    page.get_by_role("button", name="Stop mini").click()
    has_state(page, "mini", "stopped")
    assert browser.violations(page) == []
    visitor.context.close()
    other.context.close()


def test_a_wrong_value_is_explained(chromium: Browser, server: browser.Server) -> None:
    visitor = Visitor(chromium, server.address)
    page = visitor.open("#tab=train")
    page.get_by_label("Find a key").fill("training.steps")
    page.get_by_label("Value of training.steps", exact=True).fill("many")
    page.get_by_role("button", name="Start training").click()
    page.get_by_role("alert").get_by_text("training.steps").wait_for(timeout=LONG)
    page.get_by_text("There are no runs yet").wait_for()
    visitor.context.close()
