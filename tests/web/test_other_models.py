"""The page in Chromium with models that do not ship: a tool-calling model on the page Tools, and ARC."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.web import browser
from tests.web.browser import Visitor
from tests.web.models import TOOL, dialogue_row, train_arc, train_caller

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[browser.Server]:
    models = [str(train_caller(folder, "training.steps=60")), str(train_arc(folder))]
    server = browser.Server(folder / "runs", *models)
    yield server
    server.kill()


@pytest.fixture
def page(chromium: Browser, server: browser.Server) -> Iterator[Page]:
    visitor = Visitor(chromium, server.address, viewport={"width": 1280, "height": 900})
    yield visitor.open("#tab=tools&model=run")
    visitor.context.close()
    visitor.errors = [error for error in visitor.errors if "400" not in error]  # Chromium notes refused requests
    assert visitor.errors == []


def test_a_call_is_shown_and_checked(page: Page) -> None:
    page.get_by_text("Without tools of yours, it may call its own: get_weather.").wait_for()
    page.get_by_label("Message of the user").fill("weather in Rome")
    page.get_by_role("button", name="Call the model").click()
    result = page.get_by_role("region", name="What the model does")
    result.get_by_text(re.compile(r"^(Calls get_weather|Answers directly).*confidence [\d.]+ %")).wait_for()
    result.get_by_text("user: weather in Rome").wait_for()
    assert result.get_by_text("Schema check").count() == 1
    assert browser.violations(page) == []
    called = result.get_by_text("Calls get_weather").count() == 1
    assert (result.locator(".call").count() == 1) is called
    page.get_by_label("Tools, as JSON").fill(json.dumps([{**TOOL["function"], "name": "get_forecast"}]))
    page.get_by_role("button", name="Call the model").click()
    result.get_by_text(re.compile("get_forecast|Answers directly")).first.wait_for()


def test_a_conversation_in_another_format(page: Page) -> None:
    page.get_by_text("Instead, a whole conversation").click()
    row = dialogue_row(0)
    messages = [{"role": "system", "content": "Be brief."}, *row["history"]]
    page.get_by_label("Conversation, as JSON").fill(json.dumps({"messages": messages, "tools": row["tools"]}))
    page.get_by_role("button", name="Call the model").click()
    page.get_by_text("system: Be brief.").wait_for()
    page.get_by_label("Conversation, as JSON").fill('{"messages": 3}')
    page.get_by_role("button", name="Call the model").click()
    page.get_by_role("alert").get_by_text("messages").wait_for()


def test_an_arc_task_is_drawn_in_its_colors(page: Page, server: browser.Server, folder: Path) -> None:
    page.goto(f"{server.address}/#tab=solve&model=arc")
    page.reload()
    puzzle, answer = (page.get_by_role("grid", name=name) for name in ("Puzzle", "Answer"))
    puzzle.get_by_role("gridcell").first.wait_for()  # the model's own grid, drawn late, would replace the file's puzzle
    page.get_by_label("Upload a file").set_input_files(folder / "tasks.json")
    page.wait_for_function("() => document.querySelector('[aria-label=Puzzle]').textContent.includes('3')")
    cells = puzzle.get_by_role("gridcell").all_inner_texts()
    assert [text for text in cells if text] == ["1", "0", "2", "0", "3", "0"]
    colors = puzzle.get_by_role("gridcell").evaluate_all(
        "cells => cells.map((c) => getComputedStyle(c).backgroundColor)"
    )
    shown = {text: color for text, color in zip(cells, colors, strict=True) if text}
    assert len(set(shown.values())) == len(shown) == 4
    page.get_by_role("button", name="Solve", exact=True).click()
    answer.get_by_role("gridcell").filter(has_text=re.compile(r"\d")).first.wait_for()
    assert browser.violations(page) == []
