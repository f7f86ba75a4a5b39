"""Errors a client sees: RFC 9457 problem documents, never a stack trace, never a value that was sent."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1


class Problem(Exception):
    """An answer that is not a success: `code` is stable and for machines, `detail` is for people."""

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        detail: str,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.errors = status, code, detail, list(errors)
        self.headers = dict(headers or {})


def document(problem: Problem, instance: str, request_id: str) -> dict[str, Any]:
    """The problem as RFC 9457 writes it, with our `code`, `request_id` and `errors`."""
    return {
        "type": f"urn:ialp:problem:{problem.code}",
        "title": problem.status.phrase,
        "status": int(problem.status),
        "detail": problem.detail,
        "instance": instance,
        "code": problem.code,
        "request_id": request_id,
        "errors": problem.errors,
    }


def answer(request: Request, problem: Problem) -> JSONResponse:
    """The HTTP response of a problem."""
    request_id = request.scope.get("request_id", "")
    body = document(problem, request.url.path, request_id)
    return JSONResponse(body, int(problem.status), problem.headers, MEDIA_TYPE)


def redis_away() -> Problem:
    """503: what was asked needs Redis, which does not answer."""
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "storage_unavailable",
        "The storage does not answer; nothing was changed. Please retry.",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


def _invalid(error: RequestValidationError) -> Problem:
    errors = []
    malformed = False
    for item in error.errors():
        malformed |= item["type"] == "json_invalid"
        field = ".".join(str(part) for part in item["loc"] if part != "body")
        errors.append({"field": field, "code": item["type"], "message": item["msg"]})
    named = ", ".join(dict.fromkeys(e["field"] for e in errors if e["field"])) or "the body"
    if malformed:
        return Problem(HTTPStatus.BAD_REQUEST, "malformed_json", "The body is not valid JSON.", errors)
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", f"Not valid: {named}.", errors)


def install(app: FastAPI) -> None:
    """Register the handlers."""

    async def on_problem(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Problem)
        return answer(request, error)

    async def on_invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return answer(request, _invalid(error))

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        status = HTTPStatus(error.status_code)
        code = status.phrase.lower().replace(" ", "_").replace("-", "_")
        return answer(request, Problem(status, code, str(error.detail), headers=error.headers))

    async def on_redis(request: Request, error: Exception) -> JSONResponse:
        log.warning("%s %s: Redis failed (%s)", request.method, request.url.path, type(error).__name__)
        return answer(request, redis_away())

    async def on_bug(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return answer(request, Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "Something went wrong here."))

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RedisError, on_redis)
    app.add_exception_handler(Exception, on_bug)
