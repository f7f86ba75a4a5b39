"""The command `degradation`: what bad versions cost before the watch rolls them back, and how often it errs."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from offline.processes import usable_cores
from service.command_line.progress import progress
from service.durable import write_file
from simulator.experiments.commands.experiment import chosen_names
from simulator.experiments.commands.options import (
    DATA,
    FILES,
    PLAYED,
    WORK,
    Data,
    Environments,
    Processes,
    Work,
)
from simulator.experiments.runs.files import ALL_PUBLISHED, EXPERIMENTS_FILE

if TYPE_CHECKING:
    from simulator.experiments.runs.degradation import Fault, Plan

_FAULTS: tuple[Fault, ...] = ("none", "bad_update", "taste_shift")


@dataclass(frozen=True)
class _Task:
    environment: str
    plan: Plan
    data: Path
    work: Path
    prior: Path


_Out = Annotated[
    Path, typer.Option(help="Results, one line a run; finished runs are not played again.", rich_help_panel=FILES)
]
_Seeds = Annotated[int, typer.Option(min=0, help="Runs of each fault in each environment.", rich_help_panel=PLAYED)]
_Stationary = Annotated[
    int,
    typer.Option(
        min=0, help="Runs in each environment in which both arms get the frozen policy.", rich_help_panel=PLAYED
    ),
]
_Page = Annotated[Path | None, typer.Option(help="Document whose marked part is written anew.", rich_help_panel=FILES)]


def degradation(
    data: Data = DATA,
    work: Work = WORK,
    out: _Out = Path("docs/results/reliability/degradation.jsonl"),
    environments: Environments = ALL_PUBLISHED,
    seeds: _Seeds = 3,
    stationary: _Stationary = 200,
    page: _Page = Path("docs/reliability.md"),
    processes: Processes = None,
) -> None:
    """Simulate deployments with a bad update, a shift of tastes or neither, watched as the worker does.

    Needs: what `experiment` needs.

    Writes: runs to OUT as they end, then the marked part of PAGE.

    Ctrl-C: runs that are over are kept, the page is as it was; the same command plays the rest.

    Examples:
        python -m simulator degradation --data data
        python -m simulator degradation --data data --environments coat --seeds 1 \\
            --stationary 5 --out runs/try.jsonl
    """
    from simulator.experiments.pages.degradation import write_page
    from simulator.experiments.runs.config import read_experiments
    from simulator.experiments.runs.degradation import Plan
    from simulator.experiments.runs.preparation import Prepared
    from simulator.experiments.runs.runner import code_version, start_worker

    console = Console(stderr=True)
    experiments = read_experiments(EXPERIMENTS_FILE)
    tasks: list[_Task] = []
    for name in chosen_names("--environments", environments, list(experiments.environments)):
        prepared = Prepared(name, experiments.environments[name], data, work)
        prior = prepared.prior(experiments, "text", console)
        plans = [Plan(fault, seed) for seed in range(seeds) for fault in _FAULTS]
        plans += [Plan("bad_update", seed, watched=False) for seed in range(seeds)]
        plans += [Plan("none", seed, n_sessions=1_000, fault_at=0, learns=False) for seed in range(stationary)]
        tasks += [_Task(name, plan, data, work, prior) for plan in plans]
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    finished = {_key(line["environment"], line["plan"]) for line in lines}
    missing = [task for task in tasks if _key(task.environment, asdict(task.plan)) not in finished]
    console.print(f"{len(tasks)} runs planned, {len(tasks) - len(missing)} of them have a result")
    context = multiprocessing.get_context("spawn")
    with (
        progress("degradation", len(missing), "runs", console=console) as bar,
        ProcessPoolExecutor(processes or usable_cores(), mp_context=context, initializer=start_worker) as pool,
    ):
        try:
            for future in as_completed([pool.submit(_play, task) for task in missing]):
                lines.append(future.result() | {"code": code_version()})
                write_file(out, "".join(json.dumps(line) + "\n" for line in lines).encode())
                bar.advance()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what has not begun would be waited for
            raise
    if page is not None:
        write_page(out, page)


def _key(environment: str, plan: dict[str, Any]) -> str:
    return json.dumps([environment, plan], sort_keys=True)


def _play(task: _Task) -> dict[str, Any]:
    import torch

    from simulator.experiments.runs.config import read_experiments
    from simulator.experiments.runs.degradation import simulate
    from simulator.experiments.runs.preparation import Prepared
    from simulator.experiments.seam.agent import Setting

    torch.set_num_threads(1)
    spec = read_experiments(EXPERIMENTS_FILE).environments[task.environment]
    prepared = Prepared(task.environment, spec, task.data, task.work)
    setting = Setting(prepared.catalogue, task.plan.seed, {"variant": "ap"}, {"prior": task.prior})
    return {"environment": task.environment, **asdict(simulate(prepared.world, setting, task.plan))}
