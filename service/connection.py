"""The API's connections to Redis: one that the other side has reset is lost, whatever the event loop calls that."""

from __future__ import annotations

from typing import Any

from redis.exceptions import ConnectionError as ConnectionLost


def steady(connection: Any) -> Any:
    """The connection class, with uvloop's RuntimeError for a closed transport told as redis-py's ConnectionError.

    redis-py expects an OSError there, as asyncio's own loop gives; a RuntimeError would pass for a bug of ours.
    """

    class Steady(connection):  # type: ignore[misc]
        async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            try:
                await super().send_packed_command(command, check_health)
            except RuntimeError as error:
                raise ConnectionLost(f"the connection was lost: {error}") from error

    return Steady
