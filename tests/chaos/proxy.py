"""A TCP proxy before the Redis-protocol server that can reset, stall and refuse connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

_CHUNK = 65_536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s
T = TypeVar("T")


class Proxy:
    """Listens on a loopback port from `start` to `stop`, in a thread of its own."""

    def __init__(self, target: Path, port: int) -> None:
        self.port, self._target = port, target
        self.url = f"redis://127.0.0.1:{port}/0"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None
        self._flow = {"commands": asyncio.Event(), "answers": asyncio.Event()}

    def start(self) -> None:
        """Listen, and pass everything on."""
        self._thread.start()
        self.flow()
        self.accept()

    def stop(self) -> None:
        """Cut everything and end."""
        self.refuse()
        self._call(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Reset all connections (RST, as when a machine between dies)."""
        self._call(self._cut)

    def stall(self, *directions: str) -> None:
        """Pass nothing on, of "commands" or "answers", until `flow`; connections stay open."""
        for direction in directions:
            self._loop.call_soon_threadsafe(self._flow[direction].clear)

    def flow(self) -> None:
        """Pass on again, what was held back included."""
        for event in self._flow.values():
            self._loop.call_soon_threadsafe(event.set)

    def refuse(self) -> None:
        """Stop listening and reset what is open: new connections are refused."""
        self._call(self._refuse)

    def accept(self) -> None:
        """Listen again."""
        self._call(self._accept)

    def _call(self, action: Callable[[], Awaitable[T]]) -> T:
        async def act() -> T:
            return await action()

        return asyncio.run_coroutine_threadsafe(act(), self._loop).result(10)

    async def _accept(self) -> None:
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _refuse(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        await self._cut()

    async def _cut(self) -> None:
        for writer in tuple(self._open):
            _reset(writer)

    async def _end(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._pass_on(reader, writer)
        finally:
            _reset(writer)
            self._open.discard(writer)
            self._tasks.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(str(self._target))
        ways = [
            asyncio.ensure_future(self._pump("commands", reader, server_writer)),
            asyncio.ensure_future(self._pump("answers", server_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            server_writer.transport.abort()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pump(self, direction: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            await self._flow[direction].wait()
            writer.write(data)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None and not writer.transport.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
