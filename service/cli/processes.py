"""`python -m service api | worker | dev`: the processes of a deployment, and all of them for one machine."""

from __future__ import annotations

import ctypes
import errno
import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from service.cli.configured import refuse, settings_or_exit
from service.command_line import exits
from service.runtime import embedded, process_log, telemetry

if TYPE_CHECKING:
    from service.settings import Settings

log = logging.getLogger(__name__)

_SUPERVISED = "IALP_SUPERVISED"
_STOP_S = 20.0
_PR_SET_PDEATHSIG = 1


def dev(
    snapshot: Annotated[
        Path | None, typer.Option(help="Folder written by `offline pretrain`; same as IALP_SNAPSHOT.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="Port of the API; same as IALP_PORT.", show_default="8000"),
    ] = None,
) -> None:
    """Run everything on this machine: a Redis-protocol server (unless REDIS_URL is set), the API and the worker.

    Needs: a snapshot, at the first start: `python -m offline pretrain` or `make demo` writes one. No API key is needed,
    unless IALP_AUTH=on.

    Writes: all of its state to IALP_DATA_DIR (runs/service unless set), where the next start finds it, and its log to
    stderr. The dashboard is at http://127.0.0.1:8000.

    Ctrl-C or SIGTERM ends all of it in order, with exit code 0.

    Examples:
        python -m service dev --snapshot runs/demo/snapshot
        IALP_DATA_DIR=runs/other python -m service dev --port 8080
    """
    from service.settings import LOOPBACK

    if snapshot is not None:
        os.environ["IALP_SNAPSHOT"] = str(snapshot)
    if port is not None:
        os.environ["IALP_PORT"] = str(port)
    open_by_default = "IALP_AUTH" not in os.environ and os.environ.get("IALP_HOST", LOOPBACK[0]) in LOOPBACK
    if open_by_default:
        os.environ["IALP_AUTH"] = "off"
    settings = _begin("dev")
    _require_snapshot(settings)
    _require_free(settings)
    if open_by_default:
        log.info("no API keys are needed on this machine (IALP_AUTH=off); set IALP_AUTH=on to require them")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    given = os.environ.get("REDIS_URL") or os.environ.get("IALP_REDIS_URL")
    try:
        if given:
            code = _supervise(given, stop)
        else:
            with embedded.serving(settings.data_dir / "redis") as url:
                code = _supervise(url, stop)
    except embedded.ServerError as error:
        exits.tell(str(error))
        raise typer.Exit(exits.MISTAKE) from None
    raise typer.Exit(code)


def api() -> None:
    """Serve the HTTP API; several processes may share one Redis.

    Needs: Redis (REDIS_URL), an API key for whoever calls (`keys create`, or IALP_AUTH=off on loopback), and the folder
    IALP_DATA_DIR, which it shares with the worker. Without a policy it starts and /readyz says so.

    Writes: events to Redis, policy versions to IALP_DATA_DIR, its log to stderr. Listens on IALP_HOST and IALP_PORT,
    127.0.0.1:8000 unless set.

    Ctrl-C or SIGTERM ends it in order, with exit code 0: /readyz says so, answers in progress are finished.

    Examples:
        python -m service api
        IALP_PORT=8080 IALP_SNAPSHOT=runs/demo/snapshot python -m service api
    """
    from service.api.app import create_app
    from service.api.server import Server, raise_file_limit

    settings = _begin("api")
    _require_free(settings)
    raise_file_limit()
    server = Server(create_app(settings), settings)
    gc.collect()
    gc.freeze()  # what the imports made stays: later collections need not walk through it
    gc.set_threshold(50_000, 20, 20)  # nearly all of a request goes by its reference counts
    _serve(server.run)


def worker() -> None:
    """Learn from the event log and publish policy versions; a second one stands by.

    Needs: Redis (REDIS_URL) and the folder IALP_DATA_DIR that the API uses. While either is away it waits.

    Writes: versions and checkpoints to IALP_DATA_DIR, the live pointer to Redis, its log to stderr.

    Ctrl-C or SIGTERM ends it in order, with exit code 0, after a checkpoint. It may also be killed: nothing is learned
    twice.

    Examples:
        python -m service worker
    """
    from service.worker.worker import Worker

    settings = _begin("worker")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _serve(Worker(settings, stop).run)


def _begin(role: Literal["api", "worker", "dev"]) -> Settings:
    """Settings and log of a process of ours; one that `dev` started dies with it, even if that is killed."""
    settings = settings_or_exit()
    process_log.begin(settings)
    supervisor = os.environ.get(_SUPERVISED)
    if supervisor and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(supervisor):  # it died before it could be told
            raise typer.Exit(1)
    if settings.telemetry == "on" and role != "dev":
        try:
            telemetry.begin(role)
        except telemetry.TelemetryError as error:
            exits.tell(str(error))
            raise typer.Exit(exits.MISTAKE) from None
    return settings


def _serve(run: Callable[[], None]) -> None:
    """Run a server; an error that ends it is not the caller's mistake, so the log has its stack trace."""
    try:
        run()
    except OSError:
        log.exception("ended by an error")
        raise typer.Exit(exits.FAILED) from None


def _require_snapshot(settings: Settings) -> None:
    """Exit if there is no policy to begin with: the processes alone would wait for one without a word."""
    from service.policy.snapshot import SnapshotError
    from service.store.bootstrap import check_snapshot

    folder = settings.snapshot
    written_by = "`python -m offline pretrain --run RUN` writes RUN/snapshot"
    if folder is None:
        if not any(settings.data_dir.glob("policies/*")):
            refuse([f"there is no policy in {settings.data_dir} yet: give --snapshot FOLDER; {written_by}"])
        return
    try:
        check_snapshot(folder)
    except SnapshotError as error:
        refuse([f"{folder}: is not a snapshot to begin with ({error}); {written_by}"])


def _require_free(settings: Settings) -> None:
    """Exit if address and port cannot be used: the server would say so late, and `dev` only that its API ended."""
    host, port = settings.host, settings.port
    reason, works = "it is not an address of this machine", False
    try:
        for family, kind, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                with socket.socket(family, kind) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(address)
                works = True
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    fix = "stop what listens there, or choose another (IALP_PORT, --port)"
                    refuse([f"port {port} of {host} is in use: {fix}"])
                reason = error.strerror or reason  # a name may stand for a family that this machine has not
    except socket.gaierror as error:
        reason = error.strerror or reason
    if not works:
        refuse([f"IALP_HOST={host} and IALP_PORT={port} cannot be listened on ({reason})"])


def _supervise(url: str, stop: threading.Event) -> int:
    """Run API and worker until `stop` or until one of them ends; 0 if it was `stop`."""
    environment = {**os.environ, "REDIS_URL": url, _SUPERVISED: str(os.getpid())}
    # Sessions of their own: Ctrl-C reaches only this process, which stops them in order.
    children = {
        name: subprocess.Popen([sys.executable, "-m", "service", name], env=environment, start_new_session=True)
        for name in ("api", "worker")
    }
    ended = None
    while not stop.wait(0.1):
        ended = next((name for name, child in children.items() if child.poll() is not None), None)
        if ended:
            log.error("%s ended with code %s; stopping", ended, children[ended].returncode)
            break
    for name, child in children.items():
        child.terminate()
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            log.error("%s does not stop; killing it", name)
            child.kill()
            child.wait()
    return 1 if ended else 0
