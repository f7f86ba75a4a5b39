"""`make demo`: the main job end to end on this machine, each stage by its own public command, each timed.

data set -> distil an LLM's preferences -> pre-train -> evaluate -> serve -> judge by persons -> simulate -> judge by
persons -> report. Stages that a former
run finished are kept; the service starts afresh.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console

from offline.distil_command import is_whole
from service.command_line import exits
from simulator.demo.summary import AFTER, BEFORE, summarise
from simulator.errors import SimulatorError
from simulator.world.kinds import DEFAULT_WORLD, WorldName

# The demo's users answer within milliseconds and come in thousands; a real deployment waits longer.
SERVICE = {
    "IALP_REWARD_WINDOW_S": "2",
    "IALP_CONTROL_SHARE": "0.33",
    "IALP_PUBLISH_EVERY": "500",
}
_READY_S = 60.0
_TIMES, _ENDS = "How long", "How it ends"
_STOP_S = 30.0


_Run = Annotated[Path, typer.Option(help="Folder of the run.")]
_DistilSeconds = Annotated[
    float, typer.Option(min=10, help="Seconds of asking the language model.", rich_help_panel=_TIMES)
]
_LoadSeconds = Annotated[float, typer.Option(min=5, help="Seconds of the simulated users.", rich_help_panel=_TIMES)]
_Concurrency = Annotated[int, typer.Option(min=1, help="Simulated users at a time.")]
_Port = Annotated[int, typer.Option(min=0, max=65_535, help="Port of the service; 0 takes 8000, or any that is free.")]
_World = Annotated[WorldName, typer.Option(help="Behaviour of simulated users; see docs/experiments.md.")]
_Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
_Stay = Annotated[
    bool | None,
    typer.Option(
        help="Keep serving until Ctrl-C after the users are done.", show_default="in a terminal", rich_help_panel=_ENDS
    ),
]
_PrepareOnly = Annotated[
    bool, typer.Option(help="Stop when the snapshot is ready to be served.", rich_help_panel=_ENDS)
]
_InstallSeconds = Annotated[
    float, typer.Option(min=0, help="Seconds that the installation took, for the summary.", rich_help_panel=_TIMES)
]


def demo(
    run: _Run = Path("runs/demo"),
    distil_seconds: _DistilSeconds = 210,
    load_seconds: _LoadSeconds = 150,
    concurrency: _Concurrency = 16,
    port: _Port = 0,
    world: _World = DEFAULT_WORLD,
    seed: _Seed = 0,
    stay: _Stay = None,
    prepare_only: _PrepareOnly = False,
    install_seconds: _InstallSeconds = 0,
) -> None:
    """From nothing to a service that visibly learns, with a report; about 10 minutes on two cores.

    Needs: the extra `demo`; no network, no key. Its stages are the commands `offline datasets`, `distil`, `pretrain`,
    `simulator evaluate`, `service dev`, `simulator load` and, before and after it, `simulator personas`, each with its
    own progress.

    Writes: RUN, with RUN/load/report.html in the end. Stages that a former run finished are kept; the service starts
    afresh.

    Ctrl-C: finished stages are kept; the same command goes on from there.

    Once it serves on after the report, Ctrl-C is how it ends, with exit code 0.

    Examples:
        python -m simulator demo
        python -m simulator demo --run runs/quick --distil-seconds 30 \\
            --load-seconds 30
    """
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that what it started ends with it
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    console = Console()
    times: dict[str, float] = {"install": install_seconds} if install_seconds else {}
    seeded = ["--seed", str(seed)]
    _prepare(run, distil_seconds, seeded, times, console, evaluate=not prepare_only)
    if prepare_only:
        console.print(f"ready to serve: {run / 'snapshot'}")
        return
    with _service(run, port or _free_port(), console) as url:
        console.print(f"[bold]watch it learn: {url}/[/]")
        _judge(url, run / BEFORE, "persons before", seeded, times, console)
        with _timed("serve and simulate", times, console):
            load = ["--url", url, "--dataset", str(run / "dataset"), "--out", str(run / "load")]
            bounds = ["--max-seconds", str(load_seconds), "--concurrency", str(concurrency)]
            _command("simulator", "load", *load, *bounds, "--world", world, *seeded)
        _judge(url, run / AFTER, "persons after", seeded, times, console)
        summarise(run, times, console)
        if sys.stdout.isatty() if stay is None else stay:
            _wait_for_the_end(url, console)


def _prepare(
    run: Path,
    distil_seconds: float,
    seeded: Sequence[str],
    times: dict[str, float],
    console: Console,
    *,
    evaluate: bool,
) -> None:
    """The stages before there is a service, but for those that a former run finished."""
    common = ["--run", str(run), *seeded]
    stages = {
        "datasets": ("dataset", ["--source", "movielens", "--out", str(run / "dataset")]),
        "distil": ("distil", [*common, "--max-seconds", str(distil_seconds)]),
        "pretrain": ("snapshot", common),
        "evaluate": ("evaluate", common),
    }
    if not evaluate:
        del stages["evaluate"]
    for stage, (folder, arguments) in stages.items():
        done = run / folder
        if is_whole(done) if stage == "distil" else (done / "manifest.json").exists():
            console.print(f"[bold]{stage}[/]: kept from a former run ({done})")
            continue
        with _timed(stage, times, console):
            _command("simulator" if stage == "evaluate" else "offline", stage, *arguments)


def _judge(url: str, out: Path, stage: str, seeded: Sequence[str], times: dict[str, float], console: Console) -> None:
    """Judge by persons what is served; the lists come with the summary."""
    with _timed(stage, times, console):
        _command("simulator", "personas", "--url", url, "--out", str(out), "--no-lists", *seeded)


def _wait_for_the_end(url: str, console: Console) -> None:
    """Until Ctrl-C or SIGTERM."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    console.print(f"[bold]The dashboard is at {url}/[/]; Ctrl-C ends the service.")
    ended.wait()
    console.print("stopping the service")


@contextlib.contextmanager
def _timed(stage: str, times: dict[str, float], console: Console) -> Iterator[None]:
    console.rule(f"[bold]{stage}")
    started = time.monotonic()
    yield
    times[stage] = time.monotonic() - started


def _command(package: str, *arguments: str) -> None:
    """Run a command of ours. Ctrl-C is handed on once, and what the command then still has to write is waited for."""
    command = [sys.executable, "-m", package, *arguments]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    except BaseException:
        process.kill()
        raise
    if code == exits.INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        exits.tell(
            f"`python -m {package} {arguments[0]}` ended with code {code}; run the same demo again to go on from there"
        )
        raise typer.Exit(code if code > 0 else exits.FAILED)


def _free_port() -> int:
    """The service's usual one, unless something listens there."""
    for candidate in (8000, 0):
        with contextlib.suppress(OSError), socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", candidate))
            port: int = free.getsockname()[1]
            return port
    raise SimulatorError("no port is free on this machine")


@contextlib.contextmanager
def _service(run: Path, port: int, console: Console) -> Iterator[str]:
    """`python -m service dev` on the run's snapshot, stopped at the end."""
    data = run / "service"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    log = data / "service.log"
    environment = {**SERVICE, **os.environ, "IALP_DATA_DIR": str(data)}
    arguments = [sys.executable, "-m", "service", "dev", "--snapshot", str(run / "snapshot"), "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait_ready(url, process, log)
            console.print(f"the service answers at {url} (log: {log})")
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz").status_code == httpx.codes.OK:
                return
        time.sleep(0.1)
    raise SimulatorError(f"the service did not become ready; see {log}")
