"""Progress on stderr, with rate and time left: a bar in a terminal, a plain line now and then anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

EVERY_S = 30.0  # between plain lines


class Progress:
    """Progress of some work: `advance` by more, or `reach` so much in all."""

    def __init__(
        self, console: Console, what: str, total: float | None, unit: str, within_s: float | None, before: float
    ) -> None:
        self._console, self._what, self._total, self._unit, self._within_s = console, what, total, unit, within_s
        self._done = self._before = before
        self._note = ""
        self._began = self._last_line = time.monotonic()
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[counts]}", markup=False),
            TimeElapsedColumn(),
            _Left(self.left),
        )
        self.display = RichProgress(*columns, console=console, disable=not console.is_terminal, refresh_per_second=4)
        self._task = self.display.add_task(what, total=total, counts="")
        self.display.update(self._task, completed=before)

    def advance(self, amount: float = 1.0, what: str = "", note: str = "") -> None:
        """Add `amount` to what is done; from now on show that `what` is going on, and `note` beside it."""
        self.reach(self._done + amount, what=what, note=note)

    def reach(self, done: float, total: float | None = None, what: str = "", note: str = "") -> None:
        """Set what is done in all, of `total` where that is known only now; the rest as for `advance`."""
        self._done, self._total = done, total or self._total
        self._what, self._note = what or self._what, note or self._note
        counts = ", ".join(part for part in (self._counted(), self._note) if part)
        self.display.update(self._task, description=self._what, completed=done, total=self._total, counts=counts)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line >= EVERY_S:
            self._last_line = now
            line = ", ".join(part for part in (counts, f"{_clock(now - self._began)} gone", self.left()) if part)
            self._console.print(f"{self._what}: {line}", highlight=False, markup=False, soft_wrap=True)

    def left(self) -> str:
        """Estimate the time left, by the rate so far and the time allowed; empty while neither tells it."""
        gone = time.monotonic() - self._began
        fresh = self._done - self._before
        estimates = [] if self._within_s is None else [self._within_s - gone]
        if self._total is not None and fresh > 0:
            estimates.append(gone / fresh * (self._total - self._done))
        return f"{_clock(max(0.0, min(estimates)))} left" if estimates else ""

    def _counted(self) -> str:
        if not self._unit:
            return f"{self._done / self._total:.0%}" if self._total else ""
        rate = (self._done - self._before) / max(time.monotonic() - self._began, 1e-9)
        speed = f"{rate:,.1f}/s" if rate >= 1 else f"{60 * rate:,.1f}/min"
        of = "" if self._total is None else f"/{self._total:,.0f}"
        return f"{self._done:,.0f}{of} {self._unit}, {speed}"


class _Left(ProgressColumn):
    def __init__(self, left: Callable[[], str]) -> None:
        super().__init__()
        self._left = left

    def render(self, task: Task) -> Text:
        return Text("" if task.finished else self._left())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


@contextmanager
def progress(
    what: str,
    total: float | None,
    unit: str = "",
    *,
    console: Console | None = None,
    within_s: float | None = None,
    before: float = 0.0,
) -> Iterator[Progress]:
    """Show the progress of work while it goes on: numbers of `unit` with their rate, or without one a share of `total`.

    `within_s`: it ends by then whatever is done. `before`: was done by a former run, and does not count for the rate.
    """
    bar = Progress(console or Console(stderr=True), what, total, unit, within_s, before)
    with bar.display:
        yield bar
