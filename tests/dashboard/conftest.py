"""A headless Chromium, and a service that has seen some users, for the dashboard's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis as syncredis
import torch
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from service.runtime import embedded
from service.store.keys import Keys
from tests.dashboard.chromium import chromium
from tests.dashboard.dashboard_examples import PLANTED, Site
from tests.service.service_examples import (
    learning_settings,
    make_settings,
    make_snapshot,
    report_of,
    serving_http,
    talk,
    until,
    working,
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """As the service does."""
    torch.set_num_threads(1)


# Of the module, since Playwright has an event loop running in this thread as long as it is there.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests."""
    with sync_playwright() as playwright, chromium(playwright) as launched:
        yield launched


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """With a version that was learned, an item whose text is markup, and a dead letter."""
    folder = tmp_path_factory.mktemp("site")
    snapshot = make_snapshot(folder / "snapshot")
    with embedded.serving(folder / "redis") as url, syncredis.from_url(url) as redis:
        settings = learning_settings(make_settings(url, snapshot, folder / "deployment"))
        with serving_http(settings) as client, working(settings):
            yield Site(str(client.base_url).rstrip("/"), client, settings, redis)


@pytest.fixture(scope="module")
def lively(site: Site) -> Site:
    """After some traffic."""
    site.client.put("/items/planted", json={"text": PLANTED, "categories": ["<i>Genre</i>"]}).raise_for_status()
    start = 0

    def learned() -> bool:
        nonlocal start
        talk(site.client, 10, start)  # an impression closes when later events come
        start += 10
        moments = site.redis.xlen(Keys(site.settings.key_prefix).history)
        return report_of(site.redis, site.settings).version > 1 and moments > 3

    until(learned, "a version that was learned, and curves with some points")
    return site


def _is_ours(message: ConsoleMessage) -> bool:
    """An error that is not just the browser's word that an answer was none of success."""
    return message.type == "error" and not message.text.startswith("Failed to load resource")


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """A page of the dashboard that must not log errors, nor ask for anything elsewhere."""
    context = browser.new_context(base_url=site.url, reduced_motion="reduce", accept_downloads=True)
    opened = context.new_page()
    opened.set_default_timeout(15_000)
    problems: list[str] = []
    opened.on("console", lambda message: problems.append(message.text) if _is_ours(message) else None)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on(
        "request",
        lambda request: None if request.url.startswith((site.url, "blob:", "data:")) else problems.append(request.url),
    )
    yield opened
    context.close()
    assert problems == []
