"""The command `tune`: every setting of every method, and a page that says which is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from offline.artefacts import write_atomic
from simulator.experiments.command_options import (
    DATA,
    FILES,
    WORK,
    Data,
    Environments,
    Methods,
    Processes,
    Results,
    Work,
)
from simulator.experiments.experiment_command import chosen_names, play_missing
from simulator.experiments.files import ALL_PUBLISHED, EXPERIMENTS_FILE, TUNING_FILE

if TYPE_CHECKING:
    from simulator.experiments.config import Experiments, Protocol
    from simulator.experiments.record import Record
    from simulator.experiments.tuning import Tuning

HEAD = """\
# Tuning

*This page is generated: do not edit it. `python -m simulator tune` plays what has no result yet and writes it again.*
"""


def tune(
    config: Annotated[
        Path,
        typer.Option(
            help="The declarative file of the experiments.",
            rich_help_panel=FILES,
            show_default="the file of this package",
        ),
    ] = EXPERIMENTS_FILE,
    settings: Annotated[
        Path,
        typer.Option(
            help="The settings that are tried.", rich_help_panel=FILES, show_default="the file of this package"
        ),
    ] = TUNING_FILE,
    data: Data = DATA,
    work: Work = WORK,
    results: Results = Path("docs/results/tuning"),
    out: Annotated[Path, typer.Option(help="The page.", rich_help_panel=FILES)] = Path("docs/tuning.md"),
    environments: Environments = ALL_PUBLISHED,
    methods: Methods = "*",
    processes: Processes = None,
) -> None:
    """Play as many settings of each method, on seeds that are not reported, and say which earned most.

    Needs: what `experiment` needs.

    Writes: runs to RESULTS as they end, then the page OUT. What it finds is used once it stands in CONFIG as `tuned`.

    Ctrl-C: runs that are over are kept, the page is as it was; the same command plays the rest.

    Examples:
        python -m simulator tune --data data
        python -m simulator tune --data data --methods linucb --environments coat
    """
    from simulator.experiments.config import read_experiments
    from simulator.experiments.record import read_records
    from simulator.experiments.runner import plan
    from simulator.experiments.tuning import candidates, read_tuning

    console = Console(stderr=True)
    experiments = read_experiments(config)
    tuning = read_tuning(experiments, settings)
    chosen = chosen_names("--methods", methods, list(tuning.settings))
    all_settings = candidates(experiments, tuning)
    names = [name for name in all_settings.methods if name.rpartition(".")[0] in chosen]
    places = chosen_names("--environments", environments, list(experiments.environments))
    planned = list(plan(all_settings, places, names, data, work, console))
    play_missing(planned, all_settings, data, work, results, processes, console)
    write_atomic(out, tuning_page(experiments, tuning, list(read_records(results))).encode())
    console.print(f"{out} is written; settings that are used stand in {config} as `tuned`")


def tuning_page(experiments: Experiments, tuning: Tuning, records: list[Record]) -> str:
    """What was tried, what it earned, and what is used."""
    from simulator.experiments.tables import table
    from simulator.experiments.tuning import tried, winners

    protocol = tuning.protocol
    found = tried(experiments, tuning, records)
    chosen = winners(tuning, found)
    n_settings = max((len(s) for s in tuning.settings.values()), default=0)
    parts = [
        HEAD,
        f"Every method tries {n_settings} settings, the first of them its defaults, on {protocol.sessions:,} sessions "
        f"(methods that had logs: fewer, since they learn nothing more) of each of these seeds, of which no result is "
        f"reported: {_numbers(protocol)}. Numbers are rewards per session; the one in bold is used: the highest of an "
        "environment.\n",
        *(
            f"`{name}` has one setting for all environments, that of the highest mean of rewards relative to the "
            "defaults'; all that runs the learner which we deploy has it, too.\n"
            for name in tuning.one_for_all
        ),
    ]
    for method in tuning.settings:
        of_method = [one for one in found if one.method == method]
        if not of_method:
            continue
        titles = ["setting", *(experiments.environments[one.environment].title for one in of_method)]
        used = [chosen[method, one.environment] for one in of_method]
        rows = [
            [_described(setting), *(_cell(one.means[i], setting == u) for one, u in zip(of_method, used, strict=True))]
            for i, setting in enumerate(tuning.settings[method])
        ]
        parts.append(f"## {experiments.methods[method].title} (`{method}`)\n\n" + table(titles, rows, left=1))
    return "\n".join(parts)


def _numbers(protocol: Protocol) -> str:
    return ", ".join(str(protocol.first_seed + n) for n in range(protocol.seeds))


def _cell(mean: float, used: bool) -> str:
    return f"**{mean:.3f}**" if used else f"{mean:.3f}"


def _described(setting: Mapping[str, Any]) -> str:
    return "`" + json.dumps(setting) + "`" if setting else "defaults"
