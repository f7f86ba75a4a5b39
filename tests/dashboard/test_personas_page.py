"""The page of `simulator personas` in a browser: it fits, it can be read, and texts stay texts."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from simulator.personas.page import page as page_of
from tests.dashboard.dashboard_examples import Scheme
from tests.simulator.personas_examples import judgement


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("personas") / "personas.html"
    path.write_text(page_of(judgement()))
    return path.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_for_everybody(url: str, browser: Browser, width: int, scheme: Scheme) -> None:
    context = browser.new_context(viewport={"width": width, "height": 740}, color_scheme=scheme)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    expect(page.locator("svg.curve")).to_have_count(3)
    expect(page.locator("svg.curve.bad")).to_have_count(1)
    expect(page.get_by_role("img", name="Horror: 3 dislikes 5.0%, none 10%, 1 like 20%")).to_be_visible()
    expect(page.get_by_text("1 of 2 categories rise with likes")).to_be_visible()
    expect(page.get_by_role("heading", name="A fan of Horror")).to_be_visible()
    assert page.title() == "ialp: persons" and page.locator("article script, article b").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    found = Axe().run(page).response["violations"]
    context.close()
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
    assert asked == [url], "nothing comes from elsewhere"
