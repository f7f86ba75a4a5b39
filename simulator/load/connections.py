"""HTTP/1.1 over kept connections, for a load test's hot path: plain HTTP, answers with a Content-Length.

The general pool below httpx took six times the CPU a request (0.65 against 4 ms), which a load test on the service's
own machine takes away from the service.
"""

from __future__ import annotations

import asyncio
import contextlib

import httpx

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class KeptConnections(httpx.AsyncBaseTransport):
    """A transport for httpx that opens as many connections as there are requests at once, and keeps them."""

    def __init__(self) -> None:
        self._idle: list[_Connection] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send and receive, within httpx's read timeout altogether.

        Raises:
            httpx.TransportError: no connection, a connection that broke, no answer in time, or no Content-Length.
        """
        connection: _Connection | None = None
        try:
            async with asyncio.timeout(request.extensions.get("timeout", {}).get("read")):
                connection = await self._connected(request.url)
                response, keep = await _exchange(request, *connection)
        except TimeoutError:
            raise httpx.ReadTimeout("no answer in time", request=request) from None
        except (OSError, asyncio.IncompleteReadError) as error:
            raise httpx.NetworkError(type(error).__name__, request=request) from None
        except (asyncio.LimitOverrunError, ValueError, KeyError) as error:
            raise httpx.RemoteProtocolError(f"not an answer of the service: {error!r}", request=request) from None
        else:
            if keep:
                self._idle.append(connection)
                connection = None
            return response
        finally:
            # Broken, cancelled or refused: what comes on it next could be the answer to something else.
            if connection is not None:
                connection[1].close()

    async def aclose(self) -> None:
        """Close what is kept."""
        while self._idle:
            _, writer = self._idle.pop()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _connected(self, url: httpx.URL) -> _Connection:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(url.host, url.port or 80)


async def _exchange(
    request: httpx.Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[httpx.Response, bool]:
    """The answer and whether the connection can be used again."""
    line = b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)
    fields = [name + b": " + value for name, value in request.headers.raw]
    writer.write(b"\r\n".join([line, *fields, b"", request.content]))
    status, *fields = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
    headers = []
    for name, _, value in (entry.partition(b":") for entry in fields):
        headers.append((name.strip().lower(), value.strip()))
    by_name = dict(headers)
    body = await reader.readexactly(int(by_name[b"content-length"]))
    keep = status.startswith(b"HTTP/1.1") and by_name.get(b"connection", b"").lower() != b"close"
    return httpx.Response(int(status.split()[1]), headers=headers, stream=httpx.ByteStream(body)), keep
