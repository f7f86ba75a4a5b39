"""The command `results`: the page and its plots from the records, with no number typed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from service.durable import write_file
from simulator.errors import SimulatorError

PREFIX = "results-"  # of the plots' files; such files from earlier pages are removed


def results(
    results: Annotated[Path, typer.Option(help="Folder of the results, one .jsonl an environment.")] = Path(
        "docs/results"
    ),
    out: Annotated[Path, typer.Option(help="The page; its plots are written to img/ beside it.")] = Path(
        "docs/results.md"
    ),
) -> None:
    """Write the page of results and its plots from the runs' records alone.

    Needs: records, which `experiment` writes, and the extra `simulator`.

    Writes: OUT, and its plots in img/ beside it; plots of an earlier page are removed.

    Ctrl-C: the page may be older than its plots; run the same command again.

    Examples:
        python -m simulator results
        python -m simulator results --results runs/try --out runs/try/page.md
    """
    from simulator.experiments.analysis.results import collect
    from simulator.experiments.pages.results import results_page
    from simulator.experiments.runs.record import read_records

    collected = collect(read_records(results))
    if not collected.cells:
        raise SimulatorError(f"--results {results}: no records there; `python -m simulator experiment` makes them")
    from simulator.experiments.pages.figures import draw_all  # takes matplotlib along

    images = out.parent / "img"
    with Console(stderr=True).status("drawing the plots"):
        drawn = draw_all(collected)
    for name, svg in drawn.items():
        write_file(images / f"{PREFIX}{name}.svg", svg)
    for stale in images.glob(f"{PREFIX}*.svg"):
        if stale.stem.removeprefix(PREFIX) not in drawn:
            stale.unlink()
    page = results_page(collected, {name: f"img/{PREFIX}{name}.svg" for name in drawn})
    write_file(out, page.encode())
    n_runs = sum(collected.code.values())
    typer.echo(f"{out}: {n_runs:,} runs in {len(collected.cells)} environments, {len(drawn)} plots in {images}")
