"""The end of `make demo`: what it took, what was earned, and what persons are shown before and after learning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from service.durable import write_file

if TYPE_CHECKING:
    from simulator.personas.judgement import Judgement

BEFORE, AFTER = Path("personas/pretrained"), Path("personas/learned")
"""Folders of the two judgements by persons, in the run's."""
_LOAD = Path("load")


def summarise(run: Path, times: Mapping[str, float], console: Console) -> None:
    """Print the summary of a run, and put the judgements by persons into its report."""
    from simulator.personas.judgement import read_judgement
    from simulator.personas.terminal import print_headline, print_people

    before, after = read_judgement(run / BEFORE), read_judgement(run / AFTER)
    report = _write_persons(run, before, after)
    _print_times(times, console)
    print_people(after, console)
    console.rule("[bold]in short")
    _print_rewards(run, console)
    print_headline(before, console, "Pre-trained: ")
    print_headline(after, console, "After learning: ")
    console.print(f"Report: {report}", soft_wrap=True)


def _print_times(times: Mapping[str, float], console: Console) -> None:
    table = Table(title="Time", show_header=False)
    for stage, seconds in times.items():
        table.add_row(stage, f"{seconds:.0f} s")
    table.add_row("together", f"{sum(times.values()):.0f} s")
    console.print(table)


def _print_rewards(run: Path, console: Console) -> None:
    evaluated: dict[str, Any] = json.loads((run / "evaluate" / "results.json").read_text())
    results: dict[str, Any] = json.loads((run / _LOAD / "results.json").read_text())
    console.print(
        f"Before any feedback the pre-trained policy earns {evaluated['pretrained_over_random']:.2f}x what random does."
    )
    gain = results["gain"]
    if gain is not None:
        console.print(
            f"In the last quarter the adaptive arm earned {gain['mean']:+.2f} positive responses a session against the"
            f" frozen control (95% interval {gain['low']:+.2f} to {gain['high']:+.2f})."
        )


def _write_persons(run: Path, before: Judgement, after: Judgement) -> Path:
    """Fill the report's part on persons, with links to the two pages; the report's path."""
    from simulator.load.page import PERSONS, WRITER
    from simulator.load.report import PAGE_FILE as REPORT_FILE
    from simulator.pages.sections import filled
    from simulator.pages.templates import render
    from simulator.personas.judgement import PAGE_FILE

    judged = [("Pre-trained", before, BEFORE.as_posix()), ("After learning", after, AFTER.as_posix())]
    part = render("demo/persons.html", judged=judged, page=PAGE_FILE)
    path = run / _LOAD / REPORT_FILE
    write_file(path, filled(path.read_text(), PERSONS, WRITER, part).encode())
    return path
