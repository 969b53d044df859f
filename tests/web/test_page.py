"""The page in Chromium: every control, by keys and mouse, in three widths and two themes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.web import browser
from tests.web.browser import Visitor
from trm_fast import Solver
from trm_fast.interchange import locate
from trm_fast.tasks.pictures import write_png

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())]
PUZZLE = "3.......4.3...42"
NINE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Server]:
    server = browser.Server(tmp_path_factory.mktemp("page") / "runs")
    yield server
    server.kill()


@pytest.fixture
def visitor(chromium: Browser, server: browser.Server) -> Iterator[Visitor]:
    visitor = Visitor(chromium, server.address, viewport={"width": 1280, "height": 900})
    yield visitor
    visitor.context.close()
    assert visitor.errors == []


def cells(page: Page, name: str) -> list[str]:
    return page.get_by_role("grid", name=name).get_by_role("gridcell").all_inner_texts()


def open_puzzle(visitor: Visitor, model: str = "sudoku-4x4", puzzle: str = PUZZLE) -> Page:
    from urllib.parse import urlencode

    page = visitor.open("#" + urlencode({"tab": "solve", "model": model, "puzzle": puzzle}))
    page.get_by_role("grid", name="Answer").wait_for()
    page.wait_for_function("() => document.querySelector('[role=grid]').textContent.length > 0")
    return page


def solved(page: Page) -> None:
    page.get_by_text("Solved: the rules hold.").first.wait_for()


def test_a_puzzle_typed_with_keys(visitor: Visitor) -> None:
    page = open_puzzle(visitor)
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("grid", name="Puzzle").get_by_role("gridcell").first.focus()
    page.get_by_label("Solve while typing").uncheck()
    page.get_by_role("grid", name="Puzzle").get_by_role("gridcell").first.focus()
    for position, symbol in enumerate(PUZZLE):
        if symbol != ".":
            page.keyboard.press(symbol)
        page.keyboard.press("ArrowRight" if position % 4 < 3 else "Home")
        if position % 4 == 3:
            page.keyboard.press("ArrowDown")
    assert "".join(text or "." for text in cells(page, "Puzzle")) == PUZZLE
    page.keyboard.press("Enter")
    solved(page)
    assert "".join(cells(page, "Answer")) == "3124241342311342"
    assert f"puzzle={PUZZLE}" in page.evaluate("decodeURIComponent(location.hash)")
    page.reload()
    page.get_by_role("grid", name="Answer").wait_for()
    page.wait_for_function("() => document.querySelector('[role=grid]').textContent.length > 0")
    assert "".join(text or "." for text in cells(page, "Puzzle")) == PUZZLE


def test_steps_can_be_played_and_scrubbed(visitor: Visitor) -> None:
    page = open_puzzle(visitor)
    page.get_by_text("Options of the solver").first.click()
    page.get_by_label("Steps at most").first.fill("6")
    page.get_by_label("Run all steps").first.check()
    page.get_by_role("button", name="Solve", exact=True).click()
    page.get_by_text("step 6 of 6").wait_for()
    page.get_by_role("button", name="Previous step").click()
    page.get_by_text("step 5 of 6").wait_for()
    page.get_by_role("slider", name="Supervision step").press("Home")
    page.get_by_text("step 1 of 6").wait_for()
    assert "halting probability" in (
        page.get_by_role("slider", name="Supervision step").get_attribute("aria-valuetext") or ""
    )
    page.get_by_role("button", name="Play").click()
    page.get_by_text("step 6 of 6").wait_for()
    label = page.get_by_role("img", name=re.compile("Halting probability by step")).get_attribute("aria-label")
    assert "at step 6" in (label or "")


def test_text_files_and_pictures(visitor: Visitor, tmp_path: Path) -> None:
    page = open_puzzle(visitor)
    page.get_by_text("Puzzle as text").first.click()
    page.get_by_label("Puzzle as text").fill("3 . | . .\n. . | . .\n----+----\n4 . | 3 .\n. . | 4 2")
    page.get_by_role("button", name="Read the text").click()
    page.wait_for_function("() => document.querySelectorAll('[role=gridcell]')[8].textContent === '4'")
    file = tmp_path / "two.csv"
    file.write_text(f"question,answer\n{PUZZLE},3124241342311342\n.1..............,\n")
    page.get_by_label("Upload a file").set_input_files(file)
    page.get_by_label("Puzzle of the file").select_option(index=1)
    page.wait_for_function("() => document.querySelectorAll('[role=gridcell]')[1].textContent === '1'")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save PNG").click()
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save JSON").click()
    assert json.loads(Path(download.value.path()).read_text())["model"] == "sudoku-4x4"


def test_mistakes_are_explained(visitor: Visitor, tmp_path: Path) -> None:
    page = open_puzzle(visitor)
    page.get_by_text("Puzzle as text").first.click()
    page.get_by_label("Puzzle as text").fill("12x")
    page.get_by_role("button", name="Read the text").click()
    page.get_by_role("alert").get_by_text("found 3 cells, expected 16").wait_for()
    file = tmp_path / "wrong.png"
    file.write_bytes(b"no picture")
    page.get_by_label("Upload a file").set_input_files(file)
    page.get_by_role("alert").get_by_text("wrong.png").wait_for()
    page.get_by_role("grid", name="Puzzle").get_by_role("gridcell").nth(1).focus()
    page.keyboard.press("3")  # there is a 3 in this row already
    page.get_by_text("3 occurs twice in row 1").first.wait_for()
    visitor.errors = [error for error in visitor.errors if "400" not in error]  # Chromium notes refused requests


def test_a_maze_shows_its_path(visitor: Visitor, tmp_path: Path) -> None:
    located = locate("maze-small")
    question = located.task.generate(5)
    page = open_puzzle(visitor, "maze-small", question.text)
    page.get_by_role("button", name="Solve", exact=True).click()
    page.get_by_text(re.compile("olved")).first.wait_for()
    solution = Solver(located.model, located.task).solve(question).solution
    assert page.locator("[role=grid] .path").count() == str(solution).count("o") > 0
    write_png(tmp_path / "maze.png", located.task.picture(located.task.parse(question.text)))
    page.get_by_label("Upload a file").set_input_files(tmp_path / "maze.png")
    page.get_by_role("grid", name="Puzzle").get_by_role("gridcell").first.click()
    page.get_by_role("group", name="Type into the selected cell").get_by_role("button", name="wall").click()
    assert page.get_by_role("grid", name="Puzzle").locator(".wall").count() > 1


def test_sizes_and_generated_puzzles(visitor: Visitor) -> None:
    page = open_puzzle(visitor)
    page.get_by_label("Size").select_option("6")
    page.wait_for_function("() => document.querySelectorAll('[aria-label=Puzzle] [role=gridcell]').length === 36")
    page.get_by_label("Difficulty").select_option("easy")
    page.get_by_label("Seed", exact=True).fill("7")
    page.get_by_role("button", name="Generate").click()
    page.wait_for_function("() => document.querySelector('[aria-label=Puzzle]').textContent.length === 22")
    page.get_by_role("button", name="Solve", exact=True).click()
    solved(page)
    page.get_by_text("Options of the solver").first.click()
    page.get_by_label("Tries with noise").first.fill("2")
    page.get_by_label("Noise", exact=True).first.fill("0.3")
    page.get_by_label("Symmetries").first.fill("2")
    page.get_by_role("button", name="Solve", exact=True).click()
    solved(page)


def test_two_visitors(visitor: Visitor, chromium: Browser, server: browser.Server) -> None:
    other = Visitor(chromium, server.address)
    pages = open_puzzle(visitor), open_puzzle(other, "sudoku-6x6", ".36.45.1...61.34..52.6...5.2...42.13")
    for page in pages:
        page.get_by_role("button", name="Solve", exact=True).click()
    for page in pages:
        solved(page)
    assert other.errors == []
    other.context.close()


def test_an_evaluation_and_a_failure_to_watch(visitor: Visitor) -> None:
    page = visitor.open("#tab=evaluate&model=sudoku-cpu")
    page.get_by_label("Examples at most").fill("40")
    page.get_by_role("button", name="Evaluate", exact=True).click()
    page.get_by_text(re.compile("of 40 exactly right")).first.wait_for()
    page.get_by_text("By difficulty").wait_for()
    page.get_by_text("Confusions").wait_for()
    page.get_by_label("Failures only").uncheck()
    page.get_by_role("button", name="Watch example 1", exact=True).click()
    page.get_by_text("Confidence").first.wait_for()
    assert page.get_by_role("tab", name="Solve").get_attribute("aria-selected") == "true"


def test_tabs_by_keys(visitor: Visitor) -> None:
    page = open_puzzle(visitor)
    page.get_by_role("tab", name="Solve").focus()
    for name in ("Tools", "Train", "Evaluate", "Solve"):
        page.keyboard.press("ArrowRight")
        page.wait_for_function(f"() => document.activeElement.textContent === '{name}'")
        assert page.get_by_role("tabpanel", name=name).is_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 820, 390])
def test_widths_and_themes(chromium: Browser, server: browser.Server, width: int, theme: Any) -> None:
    """Nothing is wider than the screen, nothing moves after it was drawn, and axe-core finds nothing."""
    visitor = Visitor(chromium, server.address, viewport={"width": width, "height": 900}, color_scheme=theme)
    page = open_puzzle(visitor)
    page.get_by_role("button", name="Solve", exact=True).click()
    solved(page)
    browser.SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for name in ("solve", "tools", "train", "evaluate"):
        page.get_by_role("tab", name=name.title()).click()
        time.sleep(1)
        page.screenshot(path=browser.SCREENSHOTS / f"{name}-{width}-{theme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert browser.violations(page) == [], name
    assert page.evaluate("window.layoutShift") < 0.1  # more is felt, by the measure of Chromium's makers
    assert visitor.errors == []
    visitor.context.close()
