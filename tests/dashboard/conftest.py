"""A headless Chromium, and a service that has seen some users, for the dashboard's tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import debian
import httpx
import pytest
import redis as syncredis
import torch
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright
from service_examples import learning_settings, make_settings, make_snapshot, report_of, serving, talk, until, working

from service import embedded
from service.settings import Settings

ROOT = Path(__file__).parents[2]
UNPACKED = ROOT / "runs" / "chromium"
PLANTED = "<script>document.title='planted'</script><b>Bold & 'quoted'</b>"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """As the service does."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium: the one that is installed, or else its package, unpacked into runs/."""
    folder = UNPACKED / "usr" / "lib" / "chromium"
    path = debian.program("chromium", ["chromium", "fonts-dejavu-core"], UNPACKED, needs=True)
    if str(UNPACKED) in path:  # the wrapper there looks into /usr
        path = str(folder / "chromium")
    environment = {**os.environ, **debian.libraries(UNPACKED)}
    environment["LD_LIBRARY_PATH"] += os.pathsep + str(folder)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=path, env=environment, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield launched
        launched.close()


@dataclass(frozen=True)
class Site:
    """A running service with a worker."""

    url: str
    client: httpx.Client
    settings: Settings
    redis: syncredis.Redis


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """With a version that was learned, an item whose text is markup, and a dead letter."""
    folder = tmp_path_factory.mktemp("site")
    snapshot = make_snapshot(folder / "snapshot")
    with embedded.serving(folder / "redis") as url, syncredis.from_url(url) as redis:
        settings = learning_settings(make_settings(url, snapshot, folder / "deployment"))
        with serving(settings) as client, working(settings):
            yield Site(str(client.base_url).rstrip("/"), client, settings, redis)


@pytest.fixture(scope="session")
def lively(site: Site) -> Site:
    """After some traffic."""
    site.client.put("/items/planted", json={"text": PLANTED, "categories": ["<i>Genre</i>"]}).raise_for_status()
    for start in range(0, 160, 40):
        talk(site.client, 40, start)
        until(lambda: report_of(site.redis, site.settings).open == 0, "the slates to close")
    until(lambda: report_of(site.redis, site.settings).version > 1, "a version that was learned")
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
