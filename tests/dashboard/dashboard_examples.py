"""What the dashboard's tests share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import httpx
import redis as syncredis
from playwright.sync_api import Locator, Page, expect

from service.settings import Settings

VIEWS = ("now", "versions", "items", "users", "placements", "try", "logs")
PLANTED = "<script>document.title='planted'</script><b>Bold & 'quoted'</b>"

Scheme = Literal["light", "dark"]  # what a reader's screen prefers


@dataclass(frozen=True)
class Site:
    """A running service with a worker."""

    url: str
    client: httpx.Client
    settings: Settings
    redis: syncredis.Redis


def go(page: Page, view: str) -> None:
    """Open a view, and wait until the page hears from the service."""
    page.goto(f"/#{view}")
    expect(page.locator("#connection")).to_have_text("Live")


def section(page: Page, heading: str) -> Locator:
    """The part of the page under a heading."""
    return page.locator("section", has=page.get_by_role("heading", name=heading, exact=True))
