"""The page is written from the committed results, and its numbers follow from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulator.pages.sections import filled
from tests.bench.performance_page import NAME, WRITER, exponent, main, page, ratios

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "performance" / "bench.json"


def test_the_committed_page_is_that_of_the_committed_results(tmp_path: Path) -> None:
    committed = (ROOT / "docs" / "performance.md").read_text()
    (tmp_path / "img").mkdir()
    target = tmp_path / "performance.md"
    target.write_text(filled(committed, NAME, WRITER, "emptied"))
    main(RESULTS, target)
    assert target.read_text() == committed


def test_what_falls_short_is_told() -> None:
    told = json.loads(RESULTS.read_text())
    told["million_users"]["gib"] = 7.89
    told["freshness"]["known_to_next_slate"] -= 1
    short = page(told).split("### The hot path")[0]
    lines = {line.split(" | ")[0]: line for line in short.splitlines()}
    assert "7.89 GiB | **not met**" in lines["| Redis for a million users"]
    assert "**not met**" in lines["| clicks that the same user's next slate knows"]


def test_ratios_are_medians_of_rounds() -> None:
    rounds = {
        name: {"per_second": [10.0, 20.0, 40.0]} for name in json.loads(RESULTS.read_text())["hot_path"]["rounds"]
    }
    rounds["ours"] = {"per_second": [5.0, 40.0, 40.0]}
    assert set(ratios({"rounds": rounds}).values()) == {1.0}


def test_the_exponent_of_a_power_law() -> None:
    assert exponent({"10": 3.0, "100": 30.0, "1000": 300.0}) == pytest.approx(1.0)
    assert exponent({"1": 100.0, "10": 2.0, "100": 20.0**0.5}, beyond=5) == pytest.approx(0.35, abs=0.01)
