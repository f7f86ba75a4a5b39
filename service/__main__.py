"""`python -m service api | worker | dev | export | openapi | keys`"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated, Literal

import typer

from service import embedded, keys_command, logs, telemetry
from service.command_settings import settings_of_what_runs, settings_or_exit
from service.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Serve recommendations and learn from feedback. Settings come from IALP_* environment variables.",
)
app.add_typer(keys_command.app, name="keys")
log = logging.getLogger(__name__)

_SUPERVISED = "IALP_SUPERVISED"
_STOP_S = 20.0
_PR_SET_PDEATHSIG = 1


def _begin(role: Literal["api", "worker", "dev"]) -> Settings:
    """Settings and log of a process of ours; one that `dev` started dies with it, even if that is killed."""
    settings = settings_or_exit()
    logs.begin(settings)
    supervisor = os.environ.get(_SUPERVISED)
    if supervisor and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(supervisor):  # it died before it could be told
            raise typer.Exit(1)
    if settings.telemetry == "on" and role != "dev":
        try:
            telemetry.begin(role)
        except telemetry.TelemetryError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None
    return settings


@app.command()
def api() -> None:
    """Serve HTTP."""
    from service.connections import Server, raise_file_limit
    from service.main import create_app

    settings = _begin("api")
    raise_file_limit()
    server = Server(create_app(settings), settings)
    gc.collect()
    gc.freeze()  # what the imports made stays: later collections need not walk through it
    gc.set_threshold(50_000, 20, 20)  # nearly all of a request goes by its reference counts
    server.run()


@app.command()
def worker() -> None:
    """Learn from the event log and publish policy versions."""
    from service.worker import Worker

    settings = _begin("worker")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    Worker(settings, stop).run()


@app.command()
def dev(
    snapshot: Annotated[
        Path | None, typer.Option(help="Folder written by `offline pretrain`; same as IALP_SNAPSHOT.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port of the API; same as IALP_PORT.")] = None,
) -> None:
    """Run everything on this machine: a Redis-protocol server (unless REDIS_URL is set), the API and the worker."""
    if snapshot is not None:
        os.environ["IALP_SNAPSHOT"] = str(snapshot)
    if port is not None:
        os.environ["IALP_PORT"] = str(port)
    open_by_default = "IALP_AUTH" not in os.environ
    if open_by_default:
        os.environ["IALP_AUTH"] = "off"
    settings = _begin("dev")
    if open_by_default:
        log.info("no API keys are asked for on this machine (IALP_AUTH=off); set IALP_AUTH=on to ask for them")
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
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(code)


@app.command()
def export(
    out: Annotated[Path | None, typer.Option(help="Parquet file for the log: one row for each impression.")] = None,
    items: Annotated[
        Path | None, typer.Option(help="--out: Parquet file for the catalogue with its text embeddings as well.")
    ] = None,
    obp: Annotated[
        Path | None, typer.Option(help="The log as the Open Bandit Pipeline's `bandit_feedback`: an .npz file.")
    ] = None,
) -> None:
    """Write the log, for `offline evaluate --log` or for others: closed impressions with what they earned."""
    import redis
    from redis.exceptions import RedisError

    from service.export_files import ExportError, write_log
    from service.export_obp import write_obp
    from service.keys import Keys

    settings = settings_of_what_runs()
    if (out is None and obp is None) or (out is None and items is not None):
        typer.echo("error: give --out FILE.parquet, --obp FILE.npz or both; --items goes with --out", err=True)
        raise typer.Exit(2)
    written = {}
    try:
        with redis.Redis.from_url(settings.redis_url, socket_connect_timeout=settings.redis_timeout_s) as client:
            keys, window_s = Keys(settings.key_prefix), settings.reward_window_s
            if out is not None:
                written[out] = write_log(out, client, keys, window_s, items)
            if obp is not None:
                written[obp] = write_obp(obp, client, keys, window_s)
    except ExportError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except RedisError as error:
        typer.echo(f"error: Redis does not answer as it should ({type(error).__name__}); check REDIS_URL", err=True)
        raise typer.Exit(2) from None
    for path, counts in written.items():
        told = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in sorted(counts.items()))
        typer.echo(f"{path}: {told}", err=True)


@app.command()
def openapi() -> None:
    """Print the OpenAPI document of the HTTP API, as /openapi.json serves it; it is the same for all settings."""
    from service.main import create_app

    document = create_app(Settings.model_construct()).openapi()
    typer.echo(json.dumps(document, indent=2, sort_keys=True))


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


if __name__ == "__main__":
    app()
