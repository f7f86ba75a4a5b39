"""A whole deployment of real processes in one folder: a Redis-protocol server, APIs and a worker."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import httpx
import redis as syncredis

from service.store.keys import Keys
from service.store.worker_report import WorkerReport
from tests.chaos.clock import Clock
from tests.chaos.processes import Process, Server, free_port, preloaded_process, service_process
from tests.chaos.proxy import Proxy
from tests.service.service_examples import learning_settings, make_settings, report_of, until

_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own in it
# A window that most clicks meet, versions and checkpoints every second or two, a lease that is soon free again.
_SETTINGS: dict[str, object] = {"reward_window_s": 1.0, "refresh_interval_s": 0.1, "lease_ttl_s": 1.0}


class Deployment:
    """Between `with` and its end everything runs; then everything is killed.

    `preloaded` starts the service's processes from a fork of one that has imported torch already. With `proxied`, the
    service reaches the server through `proxy`; with `movable_clock`, its clock can be set. `changes`: of settings.
    """

    def __init__(
        self,
        folder: Path,
        snapshot: Path,
        *,
        apis: int = 1,
        proxied: bool = False,
        preloaded: bool = True,
        movable_clock: bool = False,
        **changes: object,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._clock = Clock(folder) if movable_clock else None
        self._memory = _in_memory(folder / "redis")
        self.server = Server(folder / "redis", self._clock.environment if self._clock else {})
        self.proxy = Proxy(self.server.socket, free_port()) if proxied else None
        url = self.proxy.url if self.proxy else self.server.url
        self._process = preloaded_process if preloaded else service_process
        settings = make_settings(url, snapshot, folder, **_SETTINGS, **changes)
        self.settings = learning_settings(settings, publish_every=60, checkpoint_every=60)
        self._ports = [free_port() for _ in range(apis)]
        self.urls = [f"http://127.0.0.1:{port}" for port in self._ports]
        self.apis = [self.service("api", port=port) for port in self._ports]
        self.worker = self.service("worker")
        self._stack = contextlib.ExitStack()
        self.redis = syncredis.from_url(self.server.url)  # never through the proxy

    @property
    def api(self) -> Process:
        """The first API."""
        return self.apis[0]

    @property
    def keys(self) -> Keys:
        """Of this deployment."""
        return Keys(self.settings.key_prefix)

    @property
    def report(self) -> WorkerReport:
        """What the worker last reported."""
        return report_of(self.redis, self.settings)

    @property
    def last_entry(self) -> str:
        """Id of the log's last entry."""
        newest = self.redis.xrevrange(self.keys.events, count=1)
        return newest[0][0].decode() if newest else "0-0"

    def service(self, command: str, *, port: int | None = None, clock_s: float = 0.0, fsync_s: float = 0.0) -> Process:
        """Another process of the service, not started; see `processes.service_process`."""
        settings = self.settings if port is None else self.settings.model_copy(update={"port": port})
        name = command if port is None else f"{command}-{port}"
        return self._process(command, settings, self.folder / f"{name}.log", clock_s, fsync_s)

    def replace(self, *, clock_s: float = 0.0, fsync_s: float = 0.0) -> None:
        """Stop API and worker, and start them with another clock or a slower disk."""
        for old in (*self.apis, self.worker):
            old.stop()
        self.apis = [self.service("api", port=port, clock_s=clock_s, fsync_s=fsync_s) for port in self._ports]
        self.worker = self.service("worker", clock_s=clock_s, fsync_s=fsync_s)
        for new in (*self.apis, self.worker):
            new.start()

    def also(self, process: Process) -> None:
        """Kill that process too at the end."""
        self._stack.callback(process.clear)

    def move_clock(self, seconds: int) -> None:
        """Let the server's wall clock be wrong by so much."""
        assert self._clock is not None
        self._clock.set(seconds)

    def start_server(self) -> None:
        """Start the server and wait until it answers."""
        self.server.start()
        until(lambda: self.server.answers, "the Redis-protocol server")

    def ready(self, url: str) -> bool:
        """Whether that API says it is ready."""
        try:
            return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def alive(self, url: str) -> bool:
        """Whether that API answers."""
        try:
            return httpx.get(f"{url}/healthz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def worked(self, entry_id: str) -> bool:
        """Whether the worker has taken in the log up to an entry."""
        return _order(self.report.cursor) >= _order(entry_id)

    def post(self, path: str, **body: object) -> None:
        """An operator's call to the first API."""
        httpx.post(self.urls[0] + path, json=body or None, timeout=5).raise_for_status()

    def _clear(self) -> None:
        for process in (*self.apis, self.worker):
            process.clear()

    def __enter__(self) -> Deployment:
        with contextlib.ExitStack() as stack:
            stack.callback(self.redis.close)
            stack.callback(self.server.clear)
            self.start_server()
            if self.proxy is not None:
                self.proxy.start()
                stack.callback(self.proxy.stop)
            stack.callback(self._clear)
            for process in (*self.apis, self.worker):
                process.start()
            until(lambda: all(self.ready(url) for url in self.urls), "readiness")
            until(lambda: self.report.reported_at > 0, "the worker")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        if self._memory is not None:
            self._memory.cleanup()


def _in_memory(folder: Path) -> tempfile.TemporaryDirectory[str] | None:
    """Put a server's folder into memory where there is such a place, unless a fault has made it: every write waits for
    fsync, and a disk that others use holds it up for seconds now and then, which is not the fault that is looked at."""
    if folder.exists() or not os.access(_MEMORY, os.W_OK):
        return None
    memory = tempfile.TemporaryDirectory(prefix="ialp-chaos-", dir=_MEMORY)
    folder.symlink_to(memory.name)
    return memory


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, number = entry_id.split("-")
    return int(milliseconds), int(number)
