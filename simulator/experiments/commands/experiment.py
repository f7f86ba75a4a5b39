"""The command `experiment`: plan, play what has no result yet, keep every result at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from offline.artefacts import keep_line
from offline.processes import usable_cores
from service.command_line.progress import progress
from simulator.errors import SimulatorError
from simulator.experiments.commands.options import (
    DATA,
    FILES,
    PLAYED,
    WORK,
    Data,
    Environments,
    Methods,
    Processes,
    Results,
    Work,
)
from simulator.experiments.runs.files import EXPERIMENTS_FILE

if TYPE_CHECKING:
    from simulator.experiments.runs.config import Experiments
    from simulator.experiments.runs.record import Record
    from simulator.experiments.runs.runner import Run


def experiment(
    config: Annotated[
        Path,
        typer.Option(help="The declarative file.", rich_help_panel=FILES, show_default="the file of this package"),
    ] = EXPERIMENTS_FILE,
    data: Data = DATA,
    work: Work = WORK,
    results: Results = Path("docs/results"),
    environments: Environments = "*",
    methods: Methods = "*",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of seeds.", rich_help_panel=PLAYED, show_default="the file's")
    ] = None,
    first_seed: Annotated[
        int | None, typer.Option(min=0, help="The first seed.", rich_help_panel=PLAYED, show_default="the file's")
    ] = None,
    sessions: Annotated[
        int | None,
        typer.Option(
            min=100, help="Sessions of every run.", rich_help_panel=PLAYED, show_default="the file's, by method"
        ),
    ] = None,
    processes: Processes = None,
    again: Annotated[bool, typer.Option(help="Also run what already has a result, and replace it.")] = False,
) -> None:
    """Play environments x methods x seeds; what has a result already is not played again.

    Needs: the extra `experiments`, and for all environments but movielens the files of public data in DATA.

    Writes: every run, as soon as it is over, to RESULTS; data sets, judgements and policies to WORK. Without --results
    that is what docs/results.md is made of: try things out in another folder.

    Ctrl-C: runs that are over are kept; the same command plays the rest.

    Examples:
        python -m simulator experiment --data data
        python -m simulator experiment --environments movielens --methods "ialp_*" \\
            --seeds 1 --sessions 1000 --results runs/try
    """
    from simulator.experiments.runs.config import read_experiments
    from simulator.experiments.runs.runner import plan

    console = Console(stderr=True)
    experiments = read_experiments(config)
    changed = {
        name: v for name, v in (("seeds", seeds), ("first_seed", first_seed), ("sessions", sessions)) if v is not None
    }
    experiments = replace(experiments, protocol=replace(experiments.protocol, **changed))
    if sessions is not None:
        methods_cut = {n: replace(m, sessions=sessions) for n, m in experiments.methods.items()}
        experiments = replace(experiments, methods=methods_cut)
    chosen_environments = chosen_names("--environments", environments, list(experiments.environments))
    chosen_methods = chosen_names("--methods", methods, list(experiments.methods))
    planned = list(plan(experiments, chosen_environments, chosen_methods, data, work, console))
    play_missing(planned, experiments, data, work, results, processes, console, again)


def play_missing(
    planned: Sequence[Run],
    experiments: Experiments,
    data: Path,
    work: Path,
    results: Path,
    processes: int | None,
    console: Console,
    again: bool = False,
) -> None:
    """Play the runs that have no record in the folder `results`, or all; each record is kept as soon as it is there."""
    from simulator.experiments.runs.record import read_records
    from simulator.experiments.runs.runner import execute

    finished = {record.key for record in read_records(results)}
    runs = [run for run in planned if again or run.key not in finished]
    console.print(f"{len(planned)} runs planned, {len(planned) - len(runs)} of them have a result")
    results.mkdir(parents=True, exist_ok=True)
    with progress("experiment", len(runs), "runs", console=console) as bar:
        for run, record in execute(runs, experiments, data, work, processes or usable_cores()):
            _keep(results / f"{run.environment}.jsonl", record)
            reward, cpu = record.metrics["reward"], record.metrics["cpu_seconds"]
            last = f"{run.environment} {run.method} {run.seed}: {reward:.2f} ({cpu:.0f} s)"
            bar.advance()
            console.print(last, highlight=False)


def chosen_names(option: str, patterns: str, names: list[str]) -> list[str]:
    """The names that a pattern of the option matches."""
    found = [name for name in names if any(fnmatch(name, pattern.strip()) for pattern in patterns.split(","))]
    if not found:
        raise SimulatorError(f"{option} {patterns}: matches none of {', '.join(names)}")
    return found


def _keep(path: Path, record: Record) -> None:
    """Append the record; one with the same key gives way, as does a line that a kill had torn."""
    keep_line(path, record.to_line(), lambda line: f'"key": "{record.key}"' in line)
