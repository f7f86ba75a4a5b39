"""Errors a client sees: RFC 9457 problem documents, never a stack trace, never a value that was sent."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, TypedDict

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1
_MAX_FIELD = 64
_MAX_ERRORS = 20


class FieldError(TypedDict):
    """One thing that is wrong with a request; `field` is empty where it is the whole body."""

    field: str
    code: str
    message: str


class Problem(HTTPException):
    """An answer that is not a success: `code` is stable and for machines, `detail` is for people.

    An HTTPException, so that FastAPI lets one pass that is raised while it reads a body.
    """

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        detail: str,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(int(status), detail, dict(headers or {}))
        self.status, self.code, self.errors = status, code, list(errors)


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
    body = document(problem, request.scope["path"], request_id)  # request.url fails on a malformed Host
    return JSONResponse(body, int(problem.status), problem.headers, MEDIA_TYPE)


def field_name(location: Sequence[int | str]) -> str:
    """Name the place of an error, as `items.3.text`; names that the client chose are cut at 64 characters."""
    return ".".join(str(part)[:_MAX_FIELD] for part in location if part != "body")


def redis_away() -> Problem:
    """503: the request needs Redis, which does not answer or refuses. True whether or not it got the command."""
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "storage_unavailable",
        "The storage is not available, and the request may or may not have been carried out. Please retry: feedback "
        "that is sent again with the same event_id counts once.",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


def no_policy() -> Problem:
    """503: the request needs a policy, and none is loaded."""
    detail = "No policy is loaded; see /readyz."
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "no_policy", detail, headers=headers)


def no_encoder(detail: str) -> Problem:
    """503: texts cannot be read, since a package of the policy's text encoder is not installed here."""
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "no_text_encoder", f"{detail}.")


def not_in_charset(charset: str, position: int) -> Problem:
    """400 for a body that is not in its charset, from the byte at `position` on."""
    detail = (
        f"The body is not {charset.upper()}: the byte at position {position}, from 0 on, is wrong. Send UTF-8, or name "
        "another charset: `Content-Type: application/json; charset=iso-8859-1`, windows-1252 or utf-16."
    )
    return Problem(HTTPStatus.BAD_REQUEST, "malformed_charset", detail)


def _invalid(error: RequestValidationError) -> Problem:
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        detail = f"The body is not valid JSON, from character {found[0]['loc'][-1]} on."
        return Problem(HTTPStatus.BAD_REQUEST, "malformed_json", detail)
    shown = found[:_MAX_ERRORS]
    return invalid([{"field": field_name(i["loc"]), "code": i["type"], "message": i["msg"]} for i in shown])


def invalid(errors: Sequence[FieldError]) -> Problem:
    """422 for a request that is JSON, but not what the contract says."""
    shown = errors[:_MAX_ERRORS]
    named = ", ".join(dict.fromkeys(e["field"] for e in shown if e["field"])) or "the body"
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", f"Not valid: {named}.", shown)


def _allowed(request: Request) -> str:
    """The methods of all routes of this path; the router names those of the first. HEAD comes with GET (see `edge`)."""
    methods = ("DELETE", "GET", "OPTIONS", "PATCH", "POST", "PUT")
    scopes = {method: {**request.scope, "method": method} for method in methods}
    routes = request.app.router.routes
    allowed = [m for m, s in scopes.items() if any(route.matches(s)[0] is Match.FULL for route in routes)]
    return ", ".join(sorted([*allowed, "HEAD"] if "GET" in allowed else allowed))


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
        if isinstance(cause := error.__cause__, UnicodeDecodeError):  # FastAPI could not read the body
            return answer(request, not_in_charset(cause.encoding, cause.start))
        status = HTTPStatus(error.status_code)
        code = status.phrase.lower().replace(" ", "_").replace("-", "_")
        headers = {"Allow": _allowed(request)} if status == HTTPStatus.METHOD_NOT_ALLOWED else error.headers
        return answer(request, Problem(status, code, str(error.detail), headers=headers))

    async def on_redis(request: Request, error: Exception) -> JSONResponse:
        log.warning("%s %r: Redis failed (%s)", request.method, request.scope["path"], type(error).__name__)
        return answer(request, redis_away())

    async def on_bug(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %r failed", request.method, request.scope["path"], exc_info=error)
        headers = {"X-Request-Id": request.scope.get("request_id", "")}  # this answer passes outside of Edge
        detail = "Something went wrong here."
        return answer(request, Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", detail, headers=headers))

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RedisError, on_redis)
    app.add_exception_handler(Exception, on_bug)
