"""The command `experiment`: plan, play what has no result yet, keep every result at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from offline.processes import usable_cores
from simulator.errors import SimulatorError
from simulator.experiments.config import DEFAULT_FILE, Experiments, read_experiments
from simulator.experiments.record import Record, read_records
from simulator.experiments.runner import Run, execute, plan


def experiment(
    config: Annotated[Path, typer.Option(help="The declarative file.")] = DEFAULT_FILE,
    data: Annotated[Path, typer.Option(help="Folder with the folders of public data.")] = Path("../shared/data"),
    work: Annotated[Path, typer.Option(help="Where data sets, judgements and policies are kept.")] = Path(
        "runs/experiments"
    ),
    results: Annotated[Path, typer.Option(help="Folder of the results, one .jsonl an environment.")] = Path(
        "docs/results"
    ),
    environments: Annotated[str, typer.Option(help="Only these, by comma; * is a wildcard.")] = "*",
    methods: Annotated[str, typer.Option(help="Only these, by comma; * is a wildcard.")] = "*",
    seeds: Annotated[int | None, typer.Option(min=1, help="Instead of the file's.")] = None,
    first_seed: Annotated[int | None, typer.Option(min=0, help="Instead of the file's.")] = None,
    sessions: Annotated[int | None, typer.Option(min=100, help="Instead of the file's, for every method.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Runs at a time; one a core by default.")] = None,
    again: Annotated[bool, typer.Option(help="Also run what has a result; it is replaced.")] = False,
) -> None:
    """Play environments x methods x seeds; what has a result already is not played again."""
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
    known = {record.key for record in read_records(results)}
    runs = [run for run in planned if again or run.key not in known]
    console.print(f"{len(planned)} runs planned, {len(planned) - len(runs)} of them have a result")
    results.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("experiment"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[last]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("experiment", total=len(runs), last="")
        for run, record in execute(runs, experiments, data, work, processes or usable_cores()):
            _keep(results / f"{run.environment}.jsonl", record)
            reward, cpu = record.metrics["reward"], record.metrics["cpu_seconds"]
            last = f"{run.environment} {run.method} {run.seed}: {reward:.2f} ({cpu:.0f} s)"
            progress.update(task, advance=1, last=last)
            console.print(last)


def chosen_names(option: str, patterns: str, names: list[str]) -> list[str]:
    """The names that a pattern of the option matches."""
    found = [name for name in names if any(fnmatch(name, pattern.strip()) for pattern in patterns.split(","))]
    if not found:
        raise SimulatorError(f"{option} {patterns}: matches none of {', '.join(names)}")
    return found


def _keep(path: Path, record: Record) -> None:
    """Append the record; one with the same key gives way, as does a line that a kill had torn."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n") and f'"key": "{record.key}"' not in line]
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text("".join([*whole, record.to_line()]))
    unfinished.replace(path)
