"""`make screenshots URL=...`: pictures of a running service's dashboard for the documents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from playwright.sync_api import Page, ViewportSize, expect, sync_playwright

from tests.dashboard.chromium import chromium
from tests.dashboard.dashboard_examples import VIEWS

_SIZES: dict[str, ViewportSize] = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


def main(
    url: Annotated[str, typer.Option(help="Where the service answers.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("docs/img"),
) -> None:
    """Every view in light and dark, as wide as a desk's and a phone's screen."""
    with sync_playwright() as playwright, chromium(playwright) as browser:
        for size, viewport in _SIZES.items():
            for scheme in ("light", "dark"):
                context = browser.new_context(
                    base_url=url,
                    viewport=viewport,
                    color_scheme=scheme,
                    reduced_motion="reduce",
                )
                page = context.new_page()
                for view in VIEWS:
                    _open(page, view)
                    page.screenshot(path=out / f"dashboard-{view}-{scheme}-{size}.png")
                context.close()


def _open(page: Page, view: str) -> None:
    page.goto(f"/#{view}")
    expect(page.locator("#connection")).to_have_text("Live")
    expect(page.get_by_text("Loading…")).to_have_count(0)
    if view == "now":
        expect(page.locator(".chart canvas").first).to_be_visible()
    if view == "try":
        for _ in range(3):
            shown = page.locator("ol.slate .title").first.inner_text()
            page.locator("ol.slate button").first.click()
            expect(page.locator("ol.slate .title").first).not_to_have_text(shown)


if __name__ == "__main__":
    typer.run(main)
