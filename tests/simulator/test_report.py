"""The report's numbers from handmade sessions, and the pages made of them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from simulator.load.load import SessionRecord
from simulator.load.page import compare_arms, page, with_range
from simulator.load.plot import DARK, draw
from simulator.load.report import Report, baselines, summarise, write_results
from simulator.statistics import Interval, mean_interval
from tests.simulator.world_examples import make_world

WORLD = make_world()
PNG = b"\x89PNG\r\n\x1a\n"


def session(n: int, arm: str, rewards: Sequence[int], **changes: object) -> SessionRecord:
    """A complete session of slates of two that shows items 0, 1, 2 ..."""
    turns = len(rewards)
    record = SessionRecord(n, 0, float(n), arm, "finished", [1 + n // 10] * turns)
    record.shown, record.rewards = [[2 * t, 2 * t + 1] for t in range(turns)], list(rewards)
    record.recommend_ms, record.feedback_ms = [1.0 + n] * turns, [0.5]
    return replace(record, **changes)  # type: ignore[arg-type]


def report_of(records: Sequence[SessionRecord], **changes: object) -> Report:
    values: dict[str, object] = {
        "seconds": 10.0,
        "statuses": {("/recommend", "200"): 70, ("/recommend", "503"): 2, ("/feedback", "202"): 8},
        "baselines": {"random": Interval(1.0, 0.9, 1.1, 100), "oracle": Interval(50.0, 49.0, 51.0, 100)},
        "settings": {"url": "http://127.0.0.1:1", "seed": 0, "rate": None},
    }
    return summarise(records, WORLD, **(values | changes))  # type: ignore[arg-type]


def rising(n: int = 80) -> list[SessionRecord]:
    """Every fourth session is control and earns 2 or 3; adaptive sessions earn more and more."""
    return [
        session(i, "control", [1 + i % 8 // 4, 1]) if i % 4 == 0 else session(i, "adaptive", [i // 10, i % 3])
        for i in range(n)
    ]


def test_arms_and_their_quarters() -> None:
    records = rising()
    report = report_of(records)
    adaptive = [r.reward for r in records if r.arm == "adaptive"]
    late = {arm: [r.reward for r in records[60:] if r.arm == arm] for arm in ("adaptive", "control")}
    early = [r.reward for r in records[:20] if r.arm == "adaptive"]
    arm = report.arms["adaptive"]
    assert list(report.arms) == ["adaptive", "control"]
    assert (arm.reward, arm.first_quarter, arm.last_quarter) == tuple(
        map(mean_interval, (adaptive, early, late["adaptive"]))
    )
    assert arm.reward_per_item == pytest.approx(sum(adaptive) / (60 * 4))
    assert (arm.turns, arm.bored) == (2.0, 0.0) and arm.coverage == pytest.approx(4 / WORLD.n_items)
    expected = stats.ttest_ind(late["adaptive"], late["control"], equal_var=False).confidence_interval()
    assert report.gain is not None
    assert (report.gain.low, report.gain.high) == pytest.approx((expected.low, expected.high), rel=1e-4)


def test_diversity_is_the_mean_distance_of_pairs() -> None:
    arm = report_of([session(0, "adaptive", [0, 0])]).arms["adaptive"]
    vectors = WORLD.users.item_vectors[:4]
    pairs = [1 - float(vectors[i] @ vectors[j]) for i in range(4) for j in range(i)]
    assert arm.diversity == pytest.approx(np.mean(pairs), rel=1e-5)


def test_sessions_that_were_cut_count_for_latency_only() -> None:
    cut = session(1, "adaptive", [9], outcome="cut", recommend_ms=[5_000.0])
    failed = session(2, "", [], outcome="failed", recommend_ms=[900.0], warnings=["503"], shown=[])
    report = report_of([session(0, "adaptive", [1, 1]), cut, failed])
    assert (report.sessions, report.incomplete) == (1, {"cut": 1, "failed": 1})
    assert report.arms["adaptive"].reward.mean == 2.0
    assert report.latency_ms["/recommend"]["max"] == 5_000.0
    assert report.warnings == {"503": 1}


def test_statuses_rate_and_versions() -> None:
    report = report_of(rising())
    assert report.statuses == {"/feedback": {"202": 8}, "/recommend": {"200": 70, "503": 2}}
    assert (report.requests, report.requests_per_s) == (80, 8.0)
    assert report.versions == [(10 * n, n + 1) for n in range(8)]


def test_curve_bins_hold_every_session_once() -> None:
    report = report_of(rising(800))
    for name, curve in report.curves.items():
        assert sum(interval.n for interval in curve.reward) == report.arms[name].reward.n
        assert all(low < high for low, high in pairwise(curve.at))
        assert min(interval.n for interval in curve.reward) >= 20
    assert len(report.curves["control"].at) == 10


def test_baselines_are_ordered_by_what_they_know() -> None:
    reference = baselines(WORLD, 0, 200)
    assert reference["random"].high < reference["popularity"].mean < reference["oracle"].mean


def test_results_are_strict_json(tmp_path: Path) -> None:
    records = [session(0, "adaptive", [1, 1])]
    write_results(report_of(records), records, tmp_path / "new" / "folder")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    results = json.loads((tmp_path / "new/folder/results.json").read_text(), parse_constant=refuse)
    assert results["arms"]["adaptive"]["reward"] == {"mean": 2.0, "low": None, "high": None, "n": 1}
    assert results["gain"] is None and results["requests_per_s"] == 8.0
    (line,) = (tmp_path / "new/folder/sessions.jsonl").read_text().splitlines()
    assert json.loads(line)["shown"] == [[0, 1], [2, 3]]


class Structure(HTMLParser):
    """Opened and closed tags, and whatever could load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "srcset", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_trusts_no_text() -> None:
    evil = "<script>alert(1)</script>"
    report = report_of(
        [*rising(), session(80, evil, [1]), session(81, "control", [], outcome="failed", warnings=[evil], shown=[])],
        settings={"url": evil},
    )
    text = page(report)
    structure = Structure(text)
    assert structure.open == [] and not {"script", "link", "iframe"} & set(structure.tags)
    assert len(structure.sources) == 2 and all(s.startswith("data:image/png;base64,") for s in structure.sources)
    assert "prefers-color-scheme: dark" in text and "url(" not in text and "@import" not in text
    assert text.count("&lt;script&gt;") == 3
    assert with_range(report.arms["control"].reward) in text and "81 sessions" in text and "1 failed" in text


def test_the_comparison_follows_the_interval() -> None:
    report = report_of(rising())
    assert "earned more" in compare_arms(report)
    assert "earned less" in compare_arms(replace(report, gain=Interval(-1.0, -1.5, -0.5, 9)))
    assert "cannot be told apart" in compare_arms(replace(report, gain=Interval(0.1, -0.5, 0.7, 9)))
    assert "Too few" in compare_arms(replace(report, gain=Interval(0.1, math.nan, math.nan, 1)))
    assert "Only one arm" in compare_arms(report_of([session(0, "adaptive", [1])]))


@pytest.mark.parametrize(
    "records", [rising(), [session(0, "fallback", [0])], [session(0, "adaptive", [1], feedback_ms=[])]]
)
def test_pictures_can_be_drawn_of_any_run(records: list[SessionRecord]) -> None:
    report = report_of(records)
    light, dark = draw(report), draw(report, DARK)
    assert light.startswith(PNG) and dark.startswith(PNG) and light != dark
