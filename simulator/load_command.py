"""The commands `load` and `users`."""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from offline.artefacts import write_atomic
from offline.datasets import Dataset, read_dataset
from simulator.client import API_KEY_FILE_VARIABLE, ServiceClient, check_url, read_api_key
from simulator.environment import EnvironmentConfig, World
from simulator.errors import SimulatorError
from simulator.load import Load, LoadConfig, SessionRecord
from simulator.report import PAGE_FILE, PLOT_FILE, Report, baselines, summarise, write_results
from simulator.users import UserModel
from simulator.worlds import PRESETS, build_world

DatasetFolder = Annotated[Path, typer.Option(help="Folder written by `offline datasets`: the users' hidden truth.")]


def users(
    dataset: DatasetFolder,
    out: Annotated[Path, typer.Option(help="Where the fitted users go, such as RUN/users.safetensors.")],
    seed: Annotated[int, typer.Option(help="Seed of the fit.")] = 0,
) -> None:
    """Fit the synthetic users' hidden taste on what real users did, and say how well it predicts them."""
    world = build_world(read_dataset(dataset), seed=seed)
    world.users.save(out)
    Console().print(
        f"{world.n_users} users, {world.n_items} items; held-out AUC {world.users.auc:.3f}, mean probability of a"
        f" positive response {world.users.affinity.mean():.4f}; written to {out}"
    )


def load(
    dataset: DatasetFolder,
    out: Annotated[Path, typer.Option(help="Where the report goes, such as RUN/load.")],
    url: Annotated[str, typer.Option(help="The running service.")] = "http://127.0.0.1:8000",
    users: Annotated[
        Path | None, typer.Option(help="Fitted users; made if absent [default: a cache beside the data set].")
    ] = None,
    sessions: Annotated[int | None, typer.Option(min=1, help="Stop after so many sessions.")] = None,
    max_seconds: Annotated[float | None, typer.Option(min=0.1, help="Stop after so long.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Users at a time; with --rate, connections.")] = 16,
    rate: Annotated[
        float | None, typer.Option(min=1e-6, help="Users arriving per second, whatever the service does (open loop).")
    ] = None,
    think_seconds: Annotated[
        float | None, typer.Option(min=0, help="Mean pause of a user between slates [default: 0, with --rate 1].")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of users, luck and arrivals; one seed, one visit.")] = 0,
    baseline_sessions: Annotated[int, typer.Option(min=2, help="Sessions of each reference policy.")] = 1_000,
    allow_remote: Annotated[bool, typer.Option(help="Allow a --url that is not this machine.")] = False,
    api_key_file: Annotated[
        Path | None,
        typer.Option(envvar=API_KEY_FILE_VARIABLE, help="File with a key of the service; or put it in IALP_API_KEY."),
    ] = None,
) -> None:
    """Send synthetic users to the running service and report what they got."""
    check_url(url, allow_remote)
    api_key = read_api_key(api_key_file)
    if sessions is None and max_seconds is None:
        raise SimulatorError("say when to stop: --sessions, --max-seconds or both")
    config = LoadConfig(sessions, max_seconds, concurrency, rate, think_seconds, seed)
    data = read_dataset(dataset)
    console = Console()
    world = _world(data, dataset, users)
    console.print(f"{world.n_users} synthetic users of {data.name}, held-out AUC {world.users.auc:.3f}")
    reference = baselines(world, seed, baseline_sessions)
    run, statuses = asyncio.run(_run(url, api_key, world, data, config, console))
    if not any(record.complete for record in run.records):
        raise SimulatorError(f"no session came to its end; answers by route and status: {statuses}")
    settings = {"url": url, "data set": data.name, "users' AUC": round(world.users.auc, 4)}
    report = summarise(
        run.records,
        world,
        seconds=run.seconds,
        statuses=statuses,
        baselines=reference,
        settings=settings | asdict(config) | asdict(world.config),
    )
    _write(report, run.records, out, console)


def _world(data: Dataset, folder: Path, users: Path | None) -> World:
    if users is None or not users.exists():
        world = build_world(data, cache=folder.parent if users is None else None)
        if users is not None:
            world.users.save(users)
        return world
    model = UserModel.load(users)
    if len(model.item_factors) != len(data.items):
        raise SimulatorError(f"{users}: fitted on another data set ({len(model.item_factors)} items); delete it")
    return World(model, PRESETS[data.name][1] if data.name in PRESETS else EnvironmentConfig())


async def _run(
    url: str, api_key: str | None, world: World, data: Dataset, config: LoadConfig, console: Console
) -> tuple[Load, dict[tuple[str, str], int]]:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def interrupted() -> None:
        # A second Ctrl-C then means what it always means.
        loop.remove_signal_handler(signal.SIGINT)
        console.print("stopping; the report follows")
        stop.set()

    loop.add_signal_handler(signal.SIGINT, interrupted)
    client = ServiceClient(
        url,
        connections=config.concurrency,
        rng=np.random.default_rng([config.seed, 2]),
        api_key=api_key,
    )
    columns = (BarColumn(), TextColumn("{task.fields[told]}"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, refresh_per_second=2) as progress:
        told = _Told(progress, config)
        run = Load(world, tuple(item.item_id for item in data.items), client, config, told.add)
        async with client:
            await run.run(stop)
    return run, dict(client.statuses)


class _Told:
    """The line of progress: sessions, their rate and the mean reward so far by arm."""

    def __init__(self, progress: Progress, config: LoadConfig) -> None:
        self._progress, self._config = progress, config
        self._task = progress.add_task("load", total=1.0, told="")
        self._began = time.monotonic()
        self._sessions = 0
        self._arms: dict[str, tuple[int, int]] = {}

    def add(self, record: SessionRecord) -> None:
        """Another session is over."""
        self._sessions += 1
        if record.complete:
            count, reward = self._arms.get(record.arm, (0, 0))
            self._arms[record.arm] = count + 1, reward + record.reward
        seconds = time.monotonic() - self._began
        done = max(
            self._sessions / self._config.sessions if self._config.sessions else 0.0,
            seconds / self._config.max_seconds if self._config.max_seconds else 0.0,
        )
        means = ", ".join(f"{arm} {reward / count:.2f}" for arm, (count, reward) in sorted(self._arms.items()))
        told = f"{self._sessions} sessions, {self._sessions / max(seconds, 1e-9):.1f}/s; reward {means}"
        self._progress.update(self._task, completed=min(done, 1.0), told=told)


def _write(report: Report, records: list[SessionRecord], out: Path, console: Console) -> None:
    # matplotlib takes a second to import, which nothing before this needs to wait for.
    from simulator.page import page, verdict, with_range
    from simulator.plot import draw

    write_results(report, records, out)
    write_atomic(out / PLOT_FILE, draw(report))
    write_atomic(out / PAGE_FILE, page(report).encode())
    table = Table("", "sessions", "reward per session", "first quarter", "last quarter", box=box.SIMPLE_HEAD, padding=0)
    for name, arm in report.arms.items():
        table.add_row(name, str(arm.reward.n), *map(with_range, (arm.reward, arm.first_quarter, arm.last_quarter)))
    for name, interval in report.baselines.items():
        table.add_row(name, str(interval.n), with_range(interval))
    console.print(table)
    for route, values in report.latency_ms.items():
        console.print(f"{route}: " + ", ".join(f"{name} {ms:.1f} ms" for name, ms in values.items()))
    console.print(f"{report.requests} requests, {report.requests_per_s:.0f}/s; {report.statuses}")
    console.print(verdict(report))
    console.print(f"report: {out / PAGE_FILE}", soft_wrap=True)
