"""The log of a process of ours: a line an event, as text or JSON, with the id of the request that it is about."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING

from pythonjsonlogger.msgspec import MsgspecFormatter

if TYPE_CHECKING:
    from service.settings import Settings

request_id: ContextVar[str] = ContextVar("request_id", default="")

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_JSON = ("levelname", "name", "message", "request_id")
_NAMES = {"levelname": "level", "name": "logger", "exc_info": "exception"}


class _AboutRequest(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


class _Text(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        about: str = record.request_id  # type: ignore[attr-defined]
        return super().formatMessage(record) + (f" [{about}]" if about else "")


def begin(settings: Settings) -> None:
    """Send all records to stderr, in the form that `settings` ask for."""
    handler = logging.StreamHandler()
    handler.addFilter(_AboutRequest())
    as_json = settings.log_format == "json"
    handler.setFormatter(MsgspecFormatter(_JSON, timestamp=True, rename_fields=_NAMES) if as_json else _Text(_TEXT))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
