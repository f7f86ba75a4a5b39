"""A headless Chromium of Debian's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Playwright

from tests.observability import debian

UNPACKED = Path(__file__).parents[2] / "runs" / "chromium"


@contextlib.contextmanager
def chromium(playwright: Playwright) -> Iterator[Browser]:
    """The one that is installed, or else its package, unpacked into runs/ with what it needs."""
    path = debian.program("chromium", ["chromium", "fonts-dejavu-core"], UNPACKED, needs=True)
    environment = {**os.environ, **debian.libraries(UNPACKED)}
    if path.startswith(str(UNPACKED)):  # the script that starts it looks into /usr
        own = UNPACKED / "usr" / "lib" / "chromium"
        path = str(own / "chromium")
        environment["LD_LIBRARY_PATH"] += os.pathsep + str(own)
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    browser = playwright.chromium.launch(executable_path=path, env={**environment}, args=arguments)
    yield browser
    browser.close()
