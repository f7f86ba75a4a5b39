"""The documents as a site: everything builds, no link leads nowhere, and what is generated is up to date."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import reference
from tests.docs.documents import ROOT, blocks

_LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
_SCREENS = 2 * 50  # lines


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a link to a page, heading or file that is not there ends the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_in_the_site(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert pages <= {path.relative_to(site) for path in site.rglob("*.html")}


def test_the_site_needs_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|link)[^>]*?(?:src|href)=\"?(https?:[^\">\s]+)", page.read_text())
        assert [address for address in loaded if "canonical" not in address] == [], page


@pytest.mark.parametrize("name", reference.PAGES)
def test_reference_is_up_to_date(name: str) -> None:
    written = (ROOT / "docs/reference" / name).read_text(encoding="utf-8")
    assert written == reference.PAGES[name](), "run `make reference`"


def test_the_readme_keeps_to_two_screens_and_its_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= _SCREENS
    for link in (first or second for first, second in _LINK.findall(text)):
        assert link.startswith(("http://", "https://")) or (ROOT / link.partition("#")[0]).exists(), link


def test_the_typescript_example_is_the_one_that_is_tested() -> None:
    tested = (ROOT / "tests/typescript/example.ts").read_text(encoding="utf-8").partition("\nexport {}")[0]
    page = (ROOT / "docs/guides/integrate.md").read_text(encoding="utf-8")
    assert [block.text for block in blocks(page) if block.language == "typescript"] == [tested]
