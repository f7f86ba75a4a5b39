"""Real processes that can be started, killed, paused and started again; what they print goes to a file each."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from service.runtime import embedded
from service.settings import Settings

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

STOP_S = 30.0
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# torch's optimisers import the second when they are first used; a fork imports the program that started it.
_PRELOADED = ["service.api.app", "torch._dynamo", "service.worker.worker", "uvicorn", "pytest"]
_ALIASES = {"redis_url": "REDIS_URL"}
_SECRET = {"learner_config", "rewards", "seed"}  # left at their defaults


class Process:
    """A process by name; `launch` starts it anew each time."""

    def __init__(self, launch: Callable[[], subprocess.Popen[bytes] | BaseProcess]) -> None:
        self._launch = launch
        self._running: subprocess.Popen[bytes] | BaseProcess | None = None

    def start(self) -> None:
        """Start it; does not wait until it is of use."""
        assert self._running is None, "it runs already"
        self._running = self._launch()

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._running is not None and self._running.pid is not None, "it does not run"
        return self._running.pid

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and wait until it has ended."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def clear(self) -> None:
        """Kill it if it runs."""
        if self._running is not None:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself
                self.kill()
            self._running = None

    def _end(self, number: int) -> None:
        os.kill(self.pid, number)
        assert self._running is not None
        if isinstance(self._running, subprocess.Popen):
            self._running.wait(STOP_S)
        else:
            self._running.join(STOP_S)
            assert self._running.exitcode is not None, "it does not end"
        self._running = None


def service_process(command: str, settings: Settings, log: Path, clock_s: float = 0.0, fsync_s: float = 0.0) -> Process:
    """`python -m service COMMAND`; its clock may be wrong by `clock_s` and each of its fsyncs take `fsync_s` longer."""

    def launch() -> subprocess.Popen[bytes]:
        program = [
            sys.executable,
            "-c",
            f"from tests.chaos import processes; processes.run({command!r}, {clock_s}, {fsync_s})",
        ]
        if not clock_s and not fsync_s:
            program = [sys.executable, "-m", "service", command]
        here = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": here, **environment_of(settings)}
        with log.open("ab") as out:
            return subprocess.Popen(program, env=environment, stdout=out, stderr=out)

    return Process(launch)


def preloaded_process(
    command: str, settings: Settings, log: Path, clock_s: float = 0.0, fsync_s: float = 0.0
) -> Process:
    """The same from a fork of a process that has imported torch already: starts in a fraction of the time."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(_PRELOADED)
    with mock.patch.dict(os.environ, _ONE_THREAD):  # a process with threads is not to be forked
        forkserver.ensure_running()

    def launch() -> BaseProcess:
        given = (command, clock_s, fsync_s, environment_of(settings), log)
        process = forks.Process(target=_run_forked, args=given, daemon=True)
        process.start()
        return process

    return Process(launch)


def _run_forked(command: str, clock_s: float, fsync_s: float, environment: Mapping[str, str], log: Path) -> None:
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ |= environment
    run(command, clock_s, fsync_s)


def run(command: str, clock_s: float, fsync_s: float) -> None:
    """Be `python -m service COMMAND` with another clock and a slower disk."""
    now, fsync = time.time, os.fsync

    def slow_fsync(fd: FileDescriptorLike) -> None:
        time.sleep(fsync_s)
        fsync(fd)

    if clock_s:
        time.time = lambda: now() + clock_s
    if fsync_s:
        os.fsync = slow_fsync
    sys.argv = ["service", command]
    runpy.run_module("service", run_name="__main__", alter_sys=True)


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that `settings` are read from."""
    given = settings.model_dump(mode="json", exclude=_SECRET, exclude_none=True)
    told = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
    named = {_ALIASES.get(name, f"IALP_{name.upper()}"): value for name, value in told.items()}
    return {**_ONE_THREAD, **named, "REDIS_URL": settings.redis_url}


class Server(Process):
    """The Redis-protocol server, always on the same folder and socket; `environment` is added to ours."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.socket = embedded._socket_path(folder)
        self.url = f"unix://{self.socket}"

        def launch() -> subprocess.Popen[bytes]:
            self.socket.unlink(missing_ok=True)
            with mock.patch.dict(os.environ, environment):
                return embedded._start(folder.resolve(), self.socket)

        super().__init__(launch)

    @property
    def answers(self) -> bool:
        """Whether it is up."""
        return embedded._answers(self.socket)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def running(process: Process) -> Iterator[Process]:
    """Started; killed at the end if it still runs."""
    process.start()
    try:
        yield process
    finally:
        process.clear()
