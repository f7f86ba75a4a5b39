"""The command `tune`: every setting of every method, and a page that says which is used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console

from service.durable import write_file
from simulator.experiments.commands.experiment import chosen_names, play_missing
from simulator.experiments.commands.options import (
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
from simulator.experiments.runs.files import ALL_WORLDS, EXPERIMENTS_FILE, TUNING_FILE

if TYPE_CHECKING:
    from simulator.experiments.runs.config import Experiments, Protocol
    from simulator.experiments.runs.record import Record
    from simulator.experiments.runs.tuning import Tried, Tuning

Chosen = Mapping[tuple[str, str], Mapping[str, Any]]  # method and data set -> setting

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
    environments: Environments = ALL_WORLDS,
    methods: Methods = "*",
    processes: Processes = None,
) -> None:
    """Play as many settings of each method, on seeds that are not reported, and say which earned most in all worlds.

    Needs: what `experiment` needs.

    Writes: runs to RESULTS as they end, then the page OUT. What it finds is used once it stands in CONFIG as `tuned`.

    Ctrl-C: runs that are over are kept, the page is as it was; the same command plays the rest.

    Examples:
        python -m simulator tune --data data
        python -m simulator tune --data data --methods linucb --environments 'coat*'
    """
    from simulator.experiments.runs.config import read_experiments
    from simulator.experiments.runs.record import read_records
    from simulator.experiments.runs.runner import plan
    from simulator.experiments.runs.tuning import candidates, read_tuning

    console = Console(stderr=True)
    experiments = read_experiments(config)
    tuning = read_tuning(experiments, settings)
    chosen = chosen_names("--methods", methods, list(tuning.settings))
    all_settings = candidates(experiments, tuning)
    names = [name for name in all_settings.methods if name.rpartition(".")[0] in chosen]
    places = chosen_names("--environments", environments, list(experiments.environments))
    planned = list(plan(all_settings, places, names, data, work, console))
    play_missing(planned, all_settings, data, work, results, processes, console)
    write_file(out, tuning_page(experiments, tuning, list(read_records(results))).encode())
    console.print(f"{out} is written; settings that are used stand in {config} as `tuned`")


def tuning_page(experiments: Experiments, tuning: Tuning, records: list[Record]) -> str:
    """Write the page of the settings tried, their rewards, and the settings used."""
    from simulator.experiments.runs.tuning import tried, winners

    protocol = tuning.protocol
    found = tried(experiments, tuning, records)
    chosen = winners(experiments, tuning, found)
    n_settings = max((len(s) for s in tuning.settings.values()), default=0)
    parts = [
        HEAD,
        f"Every method tries {n_settings} settings, the first of them its defaults, on {protocol.sessions:,} sessions "
        f"(methods that had logs: fewer, since they learn nothing more) of each of these seeds, of which no result is "
        f"reported: {_numbers(protocol)}. Numbers are rewards per session. The setting that is used with a data set, "
        "in bold, has the highest mean of rewards relative to the defaults', over all worlds in which the method is "
        "played; it is never chosen on some of them only.\n",
        *(
            f"`{name}` has one setting for all environments, that of the highest mean over all of them; every method "
            "that runs the deployed learner has it, too.\n"
            for name in tuning.one_for_all
        ),
        _undecided(experiments, found, chosen),
    ]
    for method in tuning.settings:
        of_method = [one for one in found if one.method == method]
        if of_method:
            title = experiments.methods[method].title
            rows = _table(experiments, tuning.settings[method], of_method, chosen)
            parts.append(f"## {title} (`{method}`)\n\n{rows}")
    return "\n".join(part for part in parts if part)


def _undecided(experiments: Experiments, found: Sequence[Tried], chosen: Chosen) -> str:
    """List the data sets of which a method has been played in some worlds only."""
    open_: dict[str, list[str]] = {}
    for one in found:
        data_set = experiments.data_set(one.environment)
        title = experiments.environments[data_set].title
        if (one.method, data_set) not in chosen and title not in open_.setdefault(one.method, []):
            open_[one.method].append(title)
    by_titles: dict[str, list[str]] = {}
    for method, titles in open_.items():
        by_titles.setdefault(", ".join(titles), []).append(f"`{method}`")
    return "".join(
        f"> **Not chosen yet**, because other worlds are missing: {', '.join(methods)} in {titles}. Their settings in "
        "`tuned` were the best in one world.\n"
        for titles, methods in by_titles.items()
    )


def _table(
    experiments: Experiments,
    settings: Sequence[Mapping[str, Any]],
    of_method: Sequence[Tried],
    chosen: Chosen,
) -> str:
    """A row a setting; a column a world, and one for their mean where there are several."""
    from simulator.experiments.pages.tables import table

    titles, columns = ["setting"], [[_described(setting) for setting in settings]]
    for data_set in dict.fromkeys(experiments.data_set(one.environment) for one in of_method):
        worlds = [one for one in of_method if experiments.data_set(one.environment) == data_set]
        used = [setting == chosen.get((worlds[0].method, data_set)) for setting in settings]
        titles += [experiments.environments[one.environment].title for one in worlds]
        columns += [[_cell(f"{mean:.3f}", u) for mean, u in zip(one.means, used, strict=True)] for one in worlds]
        if len(worlds) > 1:
            means = np.mean([one.relative for one in worlds], axis=0)
            titles.append("mean of these")
            columns.append([_cell(f"{100 * (m - 1):+.1f}%", u) for m, u in zip(means, used, strict=True)])
    return table(titles, list(zip(*columns, strict=True)), left=1)


def _numbers(protocol: Protocol) -> str:
    return ", ".join(str(protocol.first_seed + n) for n in range(protocol.seeds))


def _cell(text: str, used: bool) -> str:
    return f"**{text}**" if used else text


def _described(setting: Mapping[str, Any]) -> str:
    return "`" + json.dumps(setting) + "`" if setting else "defaults"
