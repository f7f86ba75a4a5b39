"""Refuse feedback that could not be learned soon."""

from __future__ import annotations

from http import HTTPStatus

from service.api.errors import Problem
from service.store.lag import Lag

_RETRY_AFTER_S = 5


def check(lag: Lag) -> None:
    """Refuse what would have to wait.

    Raises:
        Problem: 503, the worker is too far behind.
    """
    if lag.too_far:
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "learner_behind",
            "The learner is too far behind the log to take more; nothing was stored. Please retry later.",
            headers={"Retry-After": str(_RETRY_AFTER_S)},
        )
