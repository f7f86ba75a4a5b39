"""The page is written from the committed results, and tells what is in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulator.pages.sections import filled, marks
from tests.chaos.page import NAME, WRITER, main

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "reliability" / "chaos.jsonl"


def test_the_committed_page_is_that_of_the_committed_results(tmp_path: Path) -> None:
    committed = (ROOT / "docs" / "reliability.md").read_text()
    page = tmp_path / "reliability.md"
    page.write_text(filled(committed, NAME, WRITER, "emptied"))
    main(RESULTS, page)
    assert page.read_text() == committed


def test_what_was_lost_is_told(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    lines[0]["feedback"]["acknowledged_not_logged"] = 98_765
    changed = tmp_path / "chaos.jsonl"
    changed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = tmp_path / "page.md"
    begin, end = marks(NAME, WRITER)
    page.write_text(f"# Mine\n{begin}\n{end}\nkept\n")
    main(changed, page)
    text = page.read_text()
    assert text.count("98,765") == 2, "in short and in the table"
    assert text.startswith("# Mine\n") and text.endswith("kept\n")


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        filled("# Mine\n", NAME, WRITER, "text")
