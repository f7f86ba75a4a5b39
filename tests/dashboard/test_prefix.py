"""The dashboard and /docs at a prefix of a reverse proxy."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import uvicorn
from playwright.sync_api import Browser, expect

from service.api.app import create_app
from tests.dashboard.dashboard_examples import Site
from tests.service.prefix_examples import Stripping
from tests.service.service_examples import until


@pytest.fixture(scope="module")
def proxied(lively: Site) -> Iterator[str]:
    """The URL of a second API process, at /ialp and nowhere else."""
    app = create_app(lively.settings.model_copy(update={"root_path": "/ialp"}))
    config = uvicorn.Config(Stripping(app, "/ialp", True), port=0, log_config=None, lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started, "the proxy")
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/ialp"
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("end", ["/", ""])
def test_the_dashboard_finds_its_files_and_its_api(proxied: str, browser: Browser, end: str) -> None:
    page = browser.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("response", lambda answer: problems.append(answer.url) if answer.status >= 400 else None)
    page.goto(f"{proxied}{end}")
    expect(page.get_by_text("Requests")).not_to_have_count(0)
    page.get_by_role("link", name="Versions").click()
    expect(page.get_by_role("button", name="Freeze")).to_be_visible()
    page.get_by_role("link", name="Logs").click()
    expect(page.get_by_text("Loading…")).to_have_count(0)
    expect(page.get_by_role("link", name="API reference")).to_have_attribute("href", "docs")
    assert problems == []
    page.get_by_role("link", name="API reference").click()
    page.wait_for_url(f"{proxied}/docs")
    page.close()
