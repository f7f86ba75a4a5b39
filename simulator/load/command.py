"""The commands `load` and `users`; what they do with torch, and what makes load, is imported when they run."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from offline.datasets import Dataset, read_dataset
from service.command_line.progress import Progress, progress
from service.durable import write_file
from simulator.errors import SimulatorError
from simulator.world.kinds import DEFAULT_WORLD, WORLDS, WorldName

if TYPE_CHECKING:
    from simulator.load.load import Load, LoadConfig, SessionRecord
    from simulator.load.report import Report
    from simulator.statistics import Interval
    from simulator.world.environment import World

DatasetFolder = Annotated[Path, typer.Option(help="Folder written by `offline datasets`: the users' hidden truth.")]
_VISITS, _TRUTH, _SERVICE = "How they visit", "Who they are", "The service"


def users(
    dataset: DatasetFolder,
    out: Annotated[Path, typer.Option(help="File for the fitted users, such as RUN/users.safetensors.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the fit.")] = 0,
) -> None:
    """Fit the synthetic users' hidden taste on what real users did, and say how well it predicts them.

    Needs: a data set with interactions, which `offline datasets` writes.

    Writes: OUT, for `load --users`; `load` also fits them itself.

    Ctrl-C: nothing was written, an older OUT stands; run the same command again.

    Examples:
        python -m simulator users --dataset runs/demo/dataset \\
            --out runs/demo/users.safetensors
    """
    from simulator.world.worlds import build_world

    with progress("fitting users", None, "epochs") as bar:
        world = build_world(read_dataset(dataset), seed=seed, progress=bar.reach)
    world.users.save(out)
    Console().print(
        f"{world.n_users} users, {world.n_items} items; held-out AUC {world.users.auc:.3f}, mean probability of a"
        f" positive response {world.users.affinity.mean():.4f}; written to {out}"
    )


_Out = Annotated[Path, typer.Option(help="Folder of the report, such as RUN/load.")]
_Url = Annotated[str, typer.Option(help="The running service.", rich_help_panel=_SERVICE)]
_Users = Annotated[
    Path | None,
    typer.Option(
        help="File of the fitted users; written if absent.",
        rich_help_panel=_TRUTH,
        show_default="a cache beside the data set",
    ),
]
_Sessions = Annotated[int | None, typer.Option(min=1, help="Stop after this many sessions.", rich_help_panel=_VISITS)]
_MaxSeconds = Annotated[
    float | None, typer.Option(min=0.1, help="Stop after this many seconds.", rich_help_panel=_VISITS)
]
_Concurrency = Annotated[
    int, typer.Option(min=1, help="Users at a time; with --rate, connections.", rich_help_panel=_VISITS)
]
_Rate = Annotated[
    float | None,
    typer.Option(
        min=1e-6,
        metavar="PER SECOND",
        help="Users arriving per second, whatever the service does (open loop).",
        rich_help_panel=_VISITS,
    ),
]
_ThinkSeconds = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Mean pause of a user between slates, in seconds.",
        rich_help_panel=_VISITS,
        show_default="0, with --rate 1",
    ),
]
_World = Annotated[
    WorldName,
    typer.Option(help="Behaviour of the users; see docs/experiments.md.", rich_help_panel=_TRUTH),
]
_Seed = Annotated[
    int,
    typer.Option(
        min=0, help="Seed of users, chance and arrivals; a service takes each seed once.", rich_help_panel=_TRUTH
    ),
]
_BaselineSessions = Annotated[
    int, typer.Option(min=2, help="Sessions of each reference policy.", rich_help_panel=_TRUTH)
]
_AllowRemote = Annotated[bool, typer.Option(help="Allow a --url that is not this machine.", rich_help_panel=_SERVICE)]
_ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        envvar="IALP_API_KEY_FILE",
        help="File with a key of the service; alternatively, set IALP_API_KEY.",
        rich_help_panel=_SERVICE,
    ),
]


def load(
    dataset: DatasetFolder,
    out: _Out,
    url: _Url = "http://127.0.0.1:8000",
    users: _Users = None,
    sessions: _Sessions = None,
    max_seconds: _MaxSeconds = None,
    concurrency: _Concurrency = 16,
    rate: _Rate = None,
    think_seconds: _ThinkSeconds = None,
    world: _World = DEFAULT_WORLD,
    seed: _Seed = 0,
    baseline_sessions: _BaselineSessions = 1_000,
    allow_remote: _AllowRemote = False,
    api_key_file: _ApiKeyFile = None,
) -> None:
    """Send synthetic users to the running service and report what they got; --sessions or --max-seconds ends it.

    Needs: a service with a snapshot of the same data set (`service dev --snapshot`) that has not met these users, and a
    key with the scopes serve and feedback if it asks for one.

    Writes: OUT/report.html, with a plot, OUT/results.json and OUT/sessions.jsonl.

    Ctrl-C: the report of the sessions so far is written; another --seed sends new users.

    Examples:
        python -m simulator load --dataset runs/demo/dataset --out runs/load \\
            --max-seconds 60
        python -m simulator load --dataset runs/demo/dataset --out runs/load \\
            --sessions 2000 --rate 20 --seed 1 --api-key-file load.key
    """
    from simulator.load.client import check_url, read_api_key
    from simulator.load.load import LoadConfig
    from simulator.load.report import summarise

    check_url(url, allow_remote)
    api_key = read_api_key(api_key_file)
    if sessions is None and max_seconds is None:
        raise SimulatorError("say when to stop: --sessions, --max-seconds or both")
    config = LoadConfig(sessions, max_seconds, concurrency, rate, think_seconds, seed)
    data, console = read_dataset(dataset), Console()
    asyncio.run(_check(url, api_key, seed))  # before anything that takes time
    built = _world(data, dataset, users, world)
    console.print(f"{built.n_users} synthetic users of {data.name}, held-out AUC {built.users.auc:.3f}")
    console.print(f"in the world `{world}`: {WORLDS[world].users}")
    reference = _reference(built, seed, baseline_sessions)
    run, statuses, interrupted = asyncio.run(_run(url, api_key, built, data, config, console))
    _check_complete(run, statuses, interrupted)
    settings = {"url": url, "data set": data.name, "world": world, "users' AUC": round(built.users.auc, 4)}
    report = summarise(
        run.records,
        built,
        seconds=run.seconds,
        statuses=statuses,
        baselines=reference,
        settings=settings | asdict(config) | built.config.rules(),
    )
    _write(report, run.records, out, console)
    if interrupted:
        raise KeyboardInterrupt


def _check_complete(run: Load, statuses: Mapping[tuple[str, str], int], interrupted: bool) -> None:
    if not any(record.complete for record in run.records):
        if interrupted:
            raise SimulatorError("interrupted before a session was completed; nothing is written")
        raise SimulatorError(f"no session was completed; answers by route and status: {_listed(statuses)}")


def _listed(statuses: Mapping[tuple[str, str], int]) -> str:
    return ", ".join(f"{route} {status}: {count}" for (route, status), count in statuses.items()) or "none came"


def _reference(world: World, seed: int, n_sessions: int) -> dict[str, Interval]:
    from simulator.load.report import baselines

    with progress("reference policies", 3 * n_sessions, "sessions") as bar:
        return baselines(world, seed, n_sessions, bar.advance)


def _world(data: Dataset, folder: Path, users: Path | None, name: WorldName) -> World:
    from simulator.world.environment import World
    from simulator.world.users import UserModel
    from simulator.world.worlds import build_world, rules_of

    rules = rules_of(data.name, name)
    if users is None or not users.exists():
        with progress("fitting users", None, "epochs") as bar:
            cache = folder.parent if users is None else None
            world = build_world(data, config=rules, cache=cache, progress=bar.reach)
        if users is not None:
            world.users.save(users)
        return world
    model = UserModel.load(users)
    if len(model.item_factors) != len(data.items):
        raise SimulatorError(f"{users}: fitted on another data set ({len(model.item_factors)} items); delete it")
    return World(model, rules)


async def _check(url: str, api_key: str | None, seed: int) -> None:
    from simulator.load.client import ServiceClient
    from simulator.load.load import check_service

    async with ServiceClient(url, connections=1, rng=np.random.default_rng(seed), api_key=api_key) as client:
        await check_service(client, seed)


async def _run(
    url: str, api_key: str | None, world: World, data: Dataset, config: LoadConfig, console: Console
) -> tuple[Load, dict[tuple[str, str], int], bool]:
    """The run, answers by route and status, and whether Ctrl-C ended it."""
    from simulator.load.client import ServiceClient
    from simulator.load.load import Load

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        # A second Ctrl-C then means what it always means.
        loop.remove_signal_handler(signal.SIGINT)
        console.print("stopping; the report follows")
        interrupted = True
        stop.set()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    client = ServiceClient(
        url,
        connections=config.concurrency,
        rng=np.random.default_rng([config.seed, 2]),
        api_key=api_key,
    )
    with progress("load", config.sessions, "sessions", within_s=config.max_seconds) as bar:
        run = Load(world, tuple(item.item_id for item in data.items), client, config, _Rewards(bar).add)
        async with client:
            await run.run(stop)
    return run, dict(client.statuses), interrupted


class _Rewards:
    """Shows the mean reward so far by arm, with every session that is over."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._arms: dict[str, tuple[int, int]] = {}

    def add(self, record: SessionRecord) -> None:
        """Another session is over."""
        if record.complete:
            count, reward = self._arms.get(record.arm, (0, 0))
            self._arms[record.arm] = count + 1, reward + record.reward
        means = ", ".join(f"{arm} {reward / count:.2f}" for arm, (count, reward) in sorted(self._arms.items()))
        self._bar.advance(note=f"reward {means}" if means else "")


def _write(report: Report, records: list[SessionRecord], out: Path, console: Console) -> None:
    # matplotlib takes a second to import, which nothing before this needs to wait for.
    from simulator.load.page import compare_arms, page, with_range
    from simulator.load.plot import draw
    from simulator.load.report import PAGE_FILE, PLOT_FILE, write_results

    write_results(report, records, out)
    write_file(out / PLOT_FILE, draw(report))
    write_file(out / PAGE_FILE, page(report).encode())
    table = Table("", "sessions", "reward per session", "first quarter", "last quarter", box=box.SIMPLE_HEAD, padding=0)
    for name, arm in report.arms.items():
        table.add_row(name, str(arm.reward.n), *map(with_range, (arm.reward, arm.first_quarter, arm.last_quarter)))
    for name, interval in report.baselines.items():
        table.add_row(name, str(interval.n), with_range(interval))
    console.print(table)
    for route, values in report.latency_ms.items():
        console.print(f"{route}: " + ", ".join(f"{name} {ms:.1f} ms" for name, ms in values.items()))
    console.print(f"{report.requests} requests, {report.requests_per_s:.0f}/s; {report.statuses}")
    console.print(compare_arms(report))
    console.print(f"report: {out / PAGE_FILE}", soft_wrap=True)
