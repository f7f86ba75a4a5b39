"""The dashboard for everybody: keyboard, contrast, phones, lost connections, keys."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect

from service.store.keys import Keys
from tests.dashboard.dashboard_examples import VIEWS, Scheme, Site, go
from tests.service.auth_examples import add_key
from tests.service.service_examples import Server, until_ready


def test_all_of_it_works_by_keyboard(lively: Site, page: Page) -> None:
    go(page, "now")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/#versions")
    expect(page.locator("#view")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Roll back")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("button", name="Roll back")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_nothing_serious_stands_in_the_way_of_anybody(
    lively: Site, browser: Browser, view: str, scheme: Scheme
) -> None:
    context = browser.new_context(base_url=lively.url, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    go(page, view)
    expect(page.get_by_text("Loading…")).to_have_count(0)
    found = Axe().run(page).response["violations"]
    context.close()
    serious = [
        (one["id"], [node["html"] for node in one["nodes"]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == []


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("view", VIEWS)
def test_the_page_fits_a_phone(lively: Site, browser: Browser, view: str, width: int) -> None:
    context = browser.new_context(base_url=lively.url, viewport={"width": width, "height": 740})
    page = context.new_page()
    go(page, view)
    expect(page.get_by_text("Loading…")).to_have_count(0)
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    context.close()
    assert overflow <= 0


def test_a_lost_connection_is_told_and_found_again(lively: Site, page: Page) -> None:
    page.route("**/dashboard/stream", lambda route: route.abort())
    page.goto("/")
    expect(page.locator("#connection")).to_contain_text("No connection")
    page.unroute("**/dashboard/stream")
    expect(page.locator("#connection")).to_have_text("Live")


def test_a_key_is_asked_for_and_never_stored(site: Site, browser: Browser, tmp_path: Path) -> None:
    closed = site.settings.model_copy(update={"auth": "on", "key_prefix": f"{site.settings.key_prefix}:closed"})
    closed = closed.model_copy(update={"data_dir": tmp_path / "data"})
    reader = add_key(site.redis, Keys(closed.key_prefix), "serve")
    admin = add_key(site.redis, Keys(closed.key_prefix), "admin", "serve", "feedback")
    with Server(closed) as client:
        until_ready(client)
        context = browser.new_context(base_url=str(client.base_url))
        page = context.new_page()
        page.goto("/")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("An admin key is needed")
        for wrong, why in (("nonsense", "Send a valid API key"), (reader, "needs a key with the scope admin")):
            dialog.get_by_label("API key").fill(wrong)
            dialog.get_by_role("button", name="Use it").click()
            expect(dialog).to_contain_text(why)
        dialog.get_by_label("API key").fill(admin)
        dialog.get_by_role("button", name="Use it").click()
        expect(page.locator("#connection")).to_have_text("Live")
        expect(page.locator("#trouble")).not_to_contain_text("IALP_AUTH=off")
        stored = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])")
        assert admin.rsplit("_", 1)[1] not in stored
        page.get_by_role("button", name="Forget key").click()
        expect(dialog).to_contain_text("An admin key is needed")
        context.close()


def test_without_a_policy_popular_items_are_shown(site: Site, browser: Browser, tmp_path: Path) -> None:
    empty = site.settings.model_copy(update={"key_prefix": f"{site.settings.key_prefix}:empty", "snapshot": None})
    with Server(empty.model_copy(update={"data_dir": tmp_path / "data"})) as client:
        page = browser.new_page(base_url=str(client.base_url))
        go(page, "try")
        expect(page.get_by_text("There is nothing left to show (no_policy")).to_be_visible()
        expect(page.locator("#trouble .bad")).to_contain_text("No policy is loaded")
        page.close()


def test_errors_are_told_where_they_are(lively: Site, page: Page) -> None:
    def refuse(route: Route) -> None:
        body = json.dumps({"detail": "Redis does not answer <now>."})
        route.fulfill(status=503, content_type="application/problem+json", body=body)

    for path in ("**/policies", "**/recommend", "**/impressions*"):
        page.route(path, refuse)
    for view in ("versions", "try", "logs"):
        page.goto(f"/#{view}")
        expect(page.get_by_text("Redis does not answer <now>.").first).to_be_visible()
    page.unroute_all()


def test_static_files_have_a_strict_policy_and_no_way_out(lively: Site) -> None:
    for path in ("/", "/dashboard/app.js", "/dashboard/style.css", "/dashboard/vendor/uPlot.iife.min.js"):
        answer = lively.client.get(path)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    for path in ("/dashboard/../now.py", "/dashboard/..%2fnow.py", "/dashboard/", "/dashboard/vendor/LICENSE-uPlot"):
        assert httpx.get(f"{lively.url}{path}").status_code == 404
