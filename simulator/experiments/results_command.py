"""The command `results`: the page and its plots from the records, with no number typed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offline.artefacts import write_atomic
from simulator.errors import SimulatorError
from simulator.experiments.figures import draw_all
from simulator.experiments.record import read_records
from simulator.experiments.results import collect
from simulator.experiments.results_page import results_page

PREFIX = "results-"  # of the plots' files; such files from earlier pages are removed


def results(
    results: Annotated[Path, typer.Option(help="Folder of the results, one .jsonl an environment.")] = Path(
        "docs/results"
    ),
    out: Annotated[Path, typer.Option(help="The page; its plots land in img/ beside it.")] = Path("docs/results.md"),
) -> None:
    """Write the page of results and its plots from the runs' records alone."""
    collected = collect(read_records(results))
    if not collected.cells:
        raise SimulatorError(f"--results {results}: no records there; `python -m simulator experiment` makes them")
    images = out.parent / "img"
    drawn = draw_all(collected)
    for name, svg in drawn.items():
        write_atomic(images / f"{PREFIX}{name}.svg", svg)
    for stale in images.glob(f"{PREFIX}*.svg"):
        if stale.stem.removeprefix(PREFIX) not in drawn:
            stale.unlink()
    page = results_page(collected, {name: f"img/{PREFIX}{name}.svg" for name in drawn})
    write_atomic(out, page.encode())
    n_runs = sum(collected.code.values())
    typer.echo(f"{out}: {n_runs:,} runs in {len(collected.cells)} environments, {len(drawn)} plots in {images}")
