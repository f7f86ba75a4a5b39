"""Runs of methods in environments: in parallel over the cores, each kept as soon as it is over, resumable."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from offline.processes import end_with_parent
from simulator.experiments.runs.config import Experiments, MethodSpec
from simulator.experiments.runs.method_kinds import method_kinds
from simulator.experiments.runs.play import play_agent, play_policy
from simulator.experiments.runs.preparation import Prepared, sources_hash
from simulator.experiments.runs.record import Record, curves_of, metrics_of, run_key
from simulator.experiments.seam.agent import Setting
from simulator.world.rollout import CEILINGS

_ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Run:
    """One cell of environments x methods x seeds, with all that a process needs to play it."""

    environment: str
    method: str
    seed: int
    sessions: int
    concurrent: int
    key: str
    configuration: Mapping[str, Any]
    options: Mapping[str, Any]
    artefacts: Mapping[str, Path]
    code: Mapping[str, str]  # as it was when the run was planned


def plan(
    experiments: Experiments,
    environments: Sequence[str],
    methods: Sequence[str],
    data: Path,
    work: Path,
    console: Console,
) -> Iterator[Run]:
    """All runs, seed by seed, so that an interrupted experiment has all methods with as many seeds as time allowed.

    Prepares what is missing (see `preparation`).
    """
    torch.set_num_threads(1)
    protocol = experiments.protocol
    prepared = {name: Prepared(name, experiments.environments[name], data, work) for name in environments}
    for name, environment in prepared.items():
        world = environment.world
        console.print(f"{name}: {world.n_items} items, {world.n_users} users, held-out AUC {world.users.auc:.3f}")
    for seed in range(protocol.first_seed, protocol.first_seed + protocol.seeds):
        for name, environment in prepared.items():
            for method in methods:
                spec = experiments.methods[method]
                if not experiments.plays(method, name) or seed - protocol.first_seed >= (spec.seeds or protocol.seeds):
                    continue
                yield _run(experiments, environment, method, spec, seed, console)


def _run(
    experiments: Experiments, environment: Prepared, method: str, spec: MethodSpec, seed: int, console: Console
) -> Run:
    options = experiments.options(method, environment.name)
    sessions, concurrent = spec.sessions or experiments.protocol.sessions, experiments.protocol.concurrent
    artefacts: dict[str, Path] = {}
    configuration: dict[str, Any] = {
        "environment": environment.configuration(),
        "method": {"title": spec.title, "kind": spec.kind, "group": spec.group, "options": options},
        "protocol": {"sessions": sessions, "concurrent": concurrent},
    }
    if spec.logs:
        artefacts["log"] = environment.log()
        configuration["log"] = artefacts["log"].name
    if spec.prior is not None:
        prior = experiments.priors[spec.prior]
        artefacts["prior"] = environment.prior(experiments, spec.prior, console)
        configuration["prior"] = {**asdict(prior), "snapshot": artefacts["prior"].name}
        configuration["judge"] = asdict(experiments.judges[prior.judge])
    # The names of what is prepared change with any source file: results stand until they are asked for --again.
    prior_spec = asdict(experiments.priors[spec.prior]) if spec.prior is not None else None
    settings = {**configuration, "prior": prior_spec, "log": spec.logs}
    key = run_key(environment.name, method, seed, settings)
    return Run(
        environment.name, method, seed, sessions, concurrent, key, configuration, options, artefacts, code_version()
    )


def execute(
    runs: Sequence[Run], experiments: Experiments, data: Path, work: Path, processes: int
) -> Iterator[tuple[Run, Record]]:
    """Play the runs, `processes` at a time; yields each as it ends."""
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(processes, mp_context=context, initializer=start_worker) as pool:
        waiting = iter(runs)
        running: dict[Future[Record], Run] = {}
        n_started = 0  # a process with each of the first runs
        try:
            while True:
                while len(running) < processes and (run := next(waiting, None)) is not None:
                    spec = experiments.environments[run.environment]
                    n_started += 1
                    with _interrupts_ignored() if n_started <= processes else contextlib.nullcontext():
                        running[pool.submit(_play, run, spec, data, work)] = run
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            for future in running:
                future.cancel()
            if running:  # half a run is worth nothing; and who died waiting for one holds a lock that others wait for
                for worker in set(multiprocessing.active_children()) - others:
                    worker.kill()


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C. A process that is started meanwhile does so until `start_worker` has run in it: it imports for
    seconds, and would show a stack trace."""
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def start_worker() -> None:
    """Set up a worker process of experiments."""
    # Ctrl-C reaches the whole process group: a run takes a minute and half of one is worth nothing, so it just ends.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()
    torch.set_num_threads(1)


_prepared: dict[str, Prepared] = {}


def _play(run: Run, spec: Any, data: Path, work: Path) -> Record:
    if run.environment not in _prepared:
        _prepared.clear()  # one world at a time keeps memory bounded
        _prepared[run.environment] = Prepared(run.environment, spec, data, work)
    environment = _prepared[run.environment]
    setting = Setting(environment.catalogue, run.seed, run.options, run.artefacts)
    kind = run.configuration["method"]["kind"]
    diagnostics: dict[str, float] = {}
    if kind in CEILINGS:
        policy = CEILINGS[kind](environment.world)
        played = play_policy(environment.world, policy, run.seed, run.sessions, run.concurrent)
    else:
        agent = method_kinds()[kind](setting)
        played = play_agent(environment.world, agent, run.seed, run.sessions, run.concurrent)
        diagnostics = agent.diagnostics()
    return Record(
        environment=run.environment,
        method=run.method,
        seed=run.seed,
        sessions=run.sessions,
        key=run.key,
        configuration=run.configuration,
        code=run.code,
        metrics=metrics_of(played, environment.world),
        curves=curves_of(played),
        diagnostics=diagnostics,
    )


@cache
def code_version() -> dict[str, str]:
    """Version, commit and a hash of the sources that a result depends on."""
    found = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    return {
        "version": version("ialp"),
        "commit": found.stdout.strip() or "unknown",
        "sources": sources_hash("service/policy", "offline", "simulator"),
    }
