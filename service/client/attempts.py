"""Attempts of a call: how long each may take, when another is made, and what the last answer means."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Generic

import httpx
from pydantic import ValidationError

from service.client.calls import JSON, NO_CONNECTION, Call, Model, ServiceError

KEPT_S = 2.0  # an idle connection: the service ends it after 5 s, and a call that is sent just then is lost
_RETRIED = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 5.0
_LEAST_S = 0.001  # a time-out of 0 would be an error of its own
# Errors before anything was sent.
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)


class Attempts:
    """Connection options and retries that both clients share."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        timeout_s: float,
        attempts: int,
        seed: int | None,
        observe: Callable[[str, str], None] | None,
    ) -> None:
        if attempts < 1:
            raise ValueError(f"attempts: {attempts}, expected at least 1")
        headers = {"Accept": "application/json"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self.options: dict[str, Any] = {"base_url": url, "headers": headers, "timeout": timeout_s}
        self.timeout_s, self.most, self.random, self.observe = timeout_s, attempts, random.Random(seed), observe

    def begin(self, call: Call[Model], budget_s: float, clock: Callable[[], float]) -> Sending[Model]:
        """Begin a call that may take `budget_s` altogether."""
        return Sending(self, call, budget_s, clock)


class Sending(Generic[Model]):
    """One call on its way: its attempts, the time that is left, and what came last."""

    def __init__(self, shared: Attempts, call: Call[Model], budget_s: float, clock: Callable[[], float]) -> None:
        if not budget_s > 0:
            raise ValueError(f"budget_s: {budget_s}, expected more than 0")
        self._shared, self._call, self._budget_s, self._clock = shared, call, budget_s, clock
        self._ends_at, self._timeout_s = clock() + budget_s, shared.timeout_s + call.extra_s
        self._attempt = 0
        self._answer: httpx.Response | None = None
        self._error: Exception | None = None

    @property
    def left_s(self) -> float:
        """Seconds that are left of the budget; infinite without one."""
        return self._ends_at - self._clock()

    def options(self) -> dict[str, Any]:
        """Return what httpx needs to make an attempt."""
        call = self._call
        headers = JSON if call.body is not None else None
        found: dict[str, Any] = {"method": call.method, "url": call.path, "content": call.body, "headers": headers}
        if math.isfinite(self._budget_s):
            return found | {"extensions": {"timeout": _Left(self._timeout_s, lambda: self.left_s)}}
        return found | {"timeout": httpx.Timeout(self._timeout_s, connect=self._shared.timeout_s)}

    def ends(self, answer: httpx.Response | None, error: Exception | None = None) -> float | None:
        """End an attempt by its answer or error. Return the seconds to wait before the next, or None: there is none."""
        self._attempt += 1
        self._answer, self._error = answer, error
        shared, call = self._shared, self._call
        if shared.observe is not None:
            shared.observe(call.route, NO_CONNECTION if answer is None else str(answer.status_code))
        if answer is not None and answer.status_code not in _RETRIED:
            return None
        if self._attempt >= shared.most or not call.repeatable or (call.sent_once and self._in_doubt):
            return None
        wait_s = self._wait_s()
        return wait_s if wait_s < self.left_s else None

    @property
    def _in_doubt(self) -> bool:
        """Tell if the service got the call, and may be at work on it."""
        return self._answer is None and not isinstance(self._error, _UNSENT)

    def _wait_s(self) -> float:
        retry_after = self._answer.headers.get("Retry-After") if self._answer is not None else None
        if retry_after is not None and retry_after.isdigit():
            return min(float(retry_after), _LONGEST_WAIT_S)
        # Random, so that callers turned away together do not come back together.
        return self._shared.random.uniform(0.5, 1.0) * min(_FIRST_WAIT_S * 2.0**self._attempt, _LONGEST_WAIT_S)

    def result(self) -> Model:
        """Decode the last answer; raises ServiceError if it is not a success."""
        call, answer = self._call, self._answer
        where, after = f"{call.method} {call.route}", f"after {self._attempt} attempt(s)"
        if answer is None:
            within = f" in {self._budget_s:g} s" if math.isfinite(self._budget_s) else ""
            message = f"{where}: {NO_CONNECTION} {after}{within}: {type(self._error).__name__}"
            if self._in_doubt and call.method != "GET" and (call.sent_once or not call.repeatable):
                message += "; it was sent, and the service may still be working on it"
            raise ServiceError(message, NO_CONNECTION, in_doubt=self._in_doubt)
        gone = call.method == "DELETE" and call.model is None and answer.status_code == HTTPStatus.NOT_FOUND
        if gone and self._attempt > 1:
            return None  # type: ignore[return-value]  # gone by an attempt before, whose answer was lost
        if not answer.is_success:
            status, (code, detail) = str(answer.status_code), _problem(answer)
            raise ServiceError(f"{where}: {status} {after}: {detail}", status, code)
        if call.model is None:
            return None  # type: ignore[return-value]
        try:
            return call.model.model_validate_json(answer.content)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            message = f"the service's answer is not a {call.model.__name__}: {field}: {first['msg']}"
            raise ServiceError(message, str(answer.status_code)) from None


class _Left(dict[str, float]):
    """Time-outs of an attempt with a budget: each of its phases may take what is left when that phase begins.

    httpx's own are numbers, and a phase that follows a slow one would get the whole time again.
    """

    def __init__(self, timeout_s: float, left_s: Callable[[], float]) -> None:
        super().__init__(dict.fromkeys(("connect", "read", "write", "pool"), timeout_s))
        self._timeout_s, self._left_s = timeout_s, left_s

    def get(self, key: str, default: Any = None) -> Any:
        """Return the seconds that a phase may take."""
        return max(_LEAST_S, min(self._timeout_s, self._left_s())) if key in self else default


def _problem(answer: httpx.Response) -> tuple[str | None, str]:
    """Code and detail of a problem document, with the fields that it names; the beginning of anything else."""
    try:
        document = answer.json()
        fields = [f"{error['field']}: {error['message']}" for error in document.get("errors", [])]
        return document["code"], " ".join([document["detail"], *fields])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, answer.text[:300]
