"""Progress: a bar in a terminal, plain lines now and then elsewhere; what it says of rate and time left."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from service.command_line.progress import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=120, color_system=None), out


def test_elsewhere_a_plain_line_comes_now_and_then(clock: list[float]) -> None:
    where, out = console(terminal=False)
    with progress("distil", 1000, "judged", console=where) as bar:
        for _ in range(100):
            clock[0] += 1
            bar.advance(2)
    assert out.getvalue().splitlines() == [
        "distil: 60/1,000 judged, 2.0/s, 0:30 gone, 7:50 left",
        "distil: 120/1,000 judged, 2.0/s, 1:00 gone, 7:20 left",
        "distil: 180/1,000 judged, 2.0/s, 1:30 gone, 6:50 left",
    ]


def test_what_was_done_before_counts_but_not_for_the_rate(clock: list[float]) -> None:
    where, out = console(terminal=False)
    with progress("distil", 1000, "judged", console=where, before=500) as bar:
        clock[0] += 100
        bar.advance(100)
    assert out.getvalue() == "distil: 600/1,000 judged, 1.0/s, 1:40 gone, 6:40 left\n"


def test_a_budget_of_time_ends_it_earlier(clock: list[float]) -> None:
    where, out = console(terminal=False)
    with progress("load", None, "sessions", console=where, within_s=60) as bar:
        clock[0] += 40
        bar.advance(20, note="reward control 2.00")
    assert out.getvalue() == "load: 20 sessions, 30.0/min, reward control 2.00, 0:40 gone, 0:20 left\n"


def test_a_total_may_be_known_later(clock: list[float]) -> None:
    where, out = console(terminal=False)
    with progress("fitting users", None, "epochs", console=where) as bar:
        clock[0] += 4000
        bar.reach(60, 120)
    assert out.getvalue() == "fitting users: 60/120 epochs, 0.9/min, 1:06:40 gone, 1:06:40 left\n"


def test_a_terminal_gets_a_bar(clock: list[float]) -> None:
    where, out = console(terminal=True)
    with progress("export", 10, "entries", console=where) as bar:
        clock[0] += 2
        bar.advance(4, what="writing [rows]")
        bar.display.refresh()
    assert "writing [rows]" in out.getvalue() and "4/10 entries, 2.0/s" in out.getvalue()
    assert "0:03 left" in out.getvalue() and "━" in out.getvalue()
