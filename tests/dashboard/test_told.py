"""What the dashboard says while there is little to say, and that it says it on a phone, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from service.settings import Settings
from service.store.registry import Gate
from tests.dashboard.dashboard_examples import VIEWS, Site, go, section
from tests.service.service_examples import Server, published, recommend, report_of, talk, until, until_ready, working
from tests.service.test_policies import opinionated

# Elements that reach beyond the page's right edge, or beyond that of what they are shown in.
_BEYOND = """() => {
  const wide = (box) => box !== null && box.scrollWidth > box.clientWidth;
  return [...document.querySelectorAll("main :is(button, td, th, input, textarea, canvas)")]
    .filter((one) => one.checkVisibility() && !one.closest("thead"))
    .filter((one) => one.getBoundingClientRect().right > innerWidth - 1 || wide(one.closest(".scroll")))
    .map((one) => one.outerHTML.slice(0, 200));
}"""


def of_its_own(site: Site, folder: Path, name: str, **changes: object) -> Settings:
    """Settings of a deployment beside the others."""
    own = {"key_prefix": f"{site.settings.key_prefix}:{name}", "data_dir": folder / "data"}
    return site.settings.model_copy(update=own | changes)


@pytest.mark.parametrize("width", [360, 390, 600])
@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_beyond_the_edge_of_a_phone(lively: Site, browser: Browser, view: str, width: int) -> None:
    context = browser.new_context(base_url=lively.url, viewport={"width": width, "height": 844})
    page = context.new_page()
    go(page, view)
    expect(page.get_by_text("Loading…")).to_have_count(0)
    beyond = page.evaluate(_BEYOND)
    context.close()
    assert beyond == []


def test_a_phone_shows_a_version_as_a_card_with_its_gate_and_its_button(lively: Site, browser: Browser) -> None:
    context = browser.new_context(base_url=lively.url, viewport={"width": 390, "height": 844})
    page = context.new_page()
    go(page, "versions")
    row = page.get_by_role("row").filter(has=page.get_by_role("button", name="Activate version 1", exact=True))
    for told in (row.get_by_role("cell").filter(has_text="passed"), row.get_by_role("button")):
        box = told.bounding_box()
        assert box is not None and box["x"] > 0 and box["x"] + box["width"] < 390
    label = row.locator("td").nth(1).evaluate("cell => getComputedStyle(cell, '::before').content")
    context.close()
    assert label == '"Gate"'


def test_before_the_first_version_it_says_what_is_waited_for(site: Site, browser: Browser, tmp_path: Path) -> None:
    settings = of_its_own(site, tmp_path, "waiting", reward_window_s=1800.0, publish_every=1_000)
    with Server(settings) as client, working(settings):
        until_ready(client)
        page = browser.new_page(base_url=str(client.base_url))
        go(page, "now")
        chart = page.locator(".chart").first
        expect(chart).to_contain_text("No slate has been shown yet.")
        expect(chart).to_contain_text("closed 30 min after it was shown (IALP_REWARD_WINDOW_S)")
        recommend(client, "ann", k=3)
        expect(chart).to_contain_text("No slate has been closed yet, 1 is open.")
        said = page.locator("#trouble")
        expect(said).to_contain_text("first version comes after 50 closed slates or likes without a slate, 0 so far.")
        expect(said).to_contain_text("closes 30 minutes after it was shown")
        like = {"event_id": "1", "user_id": "ann", "item_id": "film-1", "type": "like"}
        client.post("/feedback", json=like).raise_for_status()
        expect(said).to_contain_text("50 closed slates or likes without a slate, 1 so far.")
        page.close()


def test_a_version_whose_age_is_not_known_has_none(lively: Site, page: Page) -> None:
    go(page, "versions")
    row = page.get_by_role("row").filter(has=page.get_by_role("button", name="Activate version 1", exact=True))
    expect(row).not_to_contain_text("days ago")


def test_a_refused_version_is_not_offered_but_can_be_forced(site: Site, browser: Browser, tmp_path: Path) -> None:
    settings = of_its_own(site, tmp_path, "refusing")
    with Server(settings) as client:
        until_ready(client)
        gate = Gate(passed=False, reasons=("off_policy",))
        assert not published(site.redis, settings, opinionated(settings, 2), gate)
        page = browser.new_page(base_url=str(client.base_url))
        go(page, "versions")
        row = page.get_by_role("row").filter(has_text="refused")
        expect(row).to_contain_text("recent slates say that it would have earned less")
        expect(row).to_contain_text("Not offered, since it was refused.")
        expect(page.get_by_role("button", name="Activate version 2", exact=True)).to_have_count(0)
        expect(page.get_by_role("button", name="Activate version 1", exact=True)).to_be_visible()
        row.get_by_text("All of it").click()
        row.get_by_role("button", name="Activate the refused version 2").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("The gate refused it.")
        dialog.get_by_role("button", name="Activate").click()
        expect(page.get_by_text("Activated. Version 2 serves (auto).")).to_be_visible()
        expect(page.get_by_role("row").filter(has_text="refused")).to_contain_text("It serves all the same.")
        page.close()


def test_curves_stop_while_nothing_happens(lively: Site, page: Page) -> None:
    go(page, "now")
    idle = page.evaluate(
        """async () => {
          const { idleTimes } = await import("./dashboard/now.js");
          const steady = [...Array(100).keys()].map((n) => 1000 + 2 * n);
          const slow = [...Array(100).keys()].map((n) => 1000 + 120 * n + (n % 7));
          return [[], [5], steady, slow, [...steady, 2000, 2002]].map(idleTimes);
        }"""
    )
    assert idle == [[], [], [], [], [(1198 + 2000) / 2]]
    drawn = page.evaluate(
        """async () => {
          const { Chart } = await import("./dashboard/chart.js");
          const chart = new Chart("An idle hour", ["adaptive", "control"], { format: String });
          document.querySelector(".charts").append(chart.root);
          const at = (times) => times.map((at) => ({ at, mean: 1 }));
          chart.draw({ adaptive: at([1, 2, 3602]), control: at([2, 3602, 3603]) }, [1802]);
          return JSON.stringify([chart.data, chart.plot.series.map((one) => one.spanGaps ?? false)]);
        }"""
    )
    # JSON has null for what is undefined, too: uPlot draws on over that, and stops at null alone.
    times, adaptive, control = [1, 2, 1802, 3602, 3603], [1, 1, None, 1, None], [None, 1, None, 1, 1]
    assert json.loads(drawn) == [[times, adaptive, control], [False] * 3]


def test_a_curve_begins_once_there_is_enough(site: Site, browser: Browser, tmp_path: Path) -> None:
    settings = of_its_own(site, tmp_path, "beginning")
    with Server(settings) as client, working(settings):
        until_ready(client)
        page = browser.new_page(base_url=str(client.base_url))
        go(page, "now")
        talk(client, 3)

        def closed() -> bool:
            recommend(client, "later", k=1)  # slates close as the log goes on
            return report_of(site.redis, settings).closed > 0

        until(closed, "a closed slate")
        expect(section(page, "What the arms earn")).to_contain_text("a curve begins once an arm has had 20")
        page.close()
