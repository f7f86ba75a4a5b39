"""Check a caller's API key before a route answers: `route_class=needs("serve")` on its router."""

from __future__ import annotations

import functools
import ipaddress
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from http import HTTPStatus
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.routing import APIRoute

from service.api.errors import Problem, redis_away
from service.api.openapi import SCHEMES, problems
from service.api.state import State, state_of
from service.store.api_keys import KeyRecord, Scope

ADMITTED = "ialp.admitted"  # in the scope of a request that was let in before it came to its route
Headers = Sequence[tuple[bytes, bytes]]


class Guarded(APIRoute):
    """A route for keys with any of `scopes`; no dependency, since FastAPI reads and parses the body before those."""

    scopes: ClassVar[tuple[Scope, ...]]
    without_redis: ClassVar[bool]  # it has an answer while Redis is away

    def __init__(self, *args: Any, **options: Any) -> None:
        security = [{scheme: [scope]} for scope in self.scopes for scheme in SCHEMES]
        options["openapi_extra"] = {**(options.get("openapi_extra") or {}), "security": security}
        options["responses"] = {**problems(401, 403, 429), **(options.get("responses") or {})}
        super().__init__(*args, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler behind the check."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            if ADMITTED not in request.scope:
                await admit(state_of(request), request.scope["headers"], self.scopes)
            if state_of(request).circuit.is_open and not self.without_redis:
                raise redis_away()  # before the body is read: all who were refused come again
            return await handle(request)

        return guarded


def needs(*scopes: Scope, without_redis: bool = False) -> type[Guarded]:
    """The class of routes that let in keys with any of `scopes`; `without_redis`: also while Redis is away."""
    return type("Guarded", (Guarded,), {"scopes": scopes, "without_redis": without_redis})


_NAMES = (b"x-api-key", b"ocp-apim-subscription-key")  # the second is what Azure Personalizer's clients send


def _token(headers: Headers) -> str:
    found = {name: value for name, value in reversed(headers) if name == b"authorization" or name in _NAMES}
    scheme, _, token = found.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return next((found[name] for name in _NAMES if name in found), b"").decode("latin-1")


async def admit(state: State, headers: Headers, scopes: tuple[Scope, ...]) -> None:
    """Raise Problem unless the request's headers hold a key with one of `scopes` that has not used up its rate."""
    if state.key_ring is None:
        _refuse_foreign(headers, state.settings.cors_origins)
        return
    if not state.key_ring.loaded:
        raise redis_away()
    key = state.key_ring.verify(_token(headers), time.time())
    if key is None:
        detail = "Send a valid API key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`."
        raise Problem(HTTPStatus.UNAUTHORIZED, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
    if not any(scope in key.scopes for scope in scopes):
        raise Problem(HTTPStatus.FORBIDDEN, "missing_scope", f"This needs a key with the scope {' or '.join(scopes)}.")
    if key.rate is not None:
        await _take(state, key, key.rate)


def _refuse_foreign(headers: Headers, allowed: Sequence[str]) -> None:
    """Refuse pages of other sites where no key is asked for: in the operator's browser they could do what they like.

    `allowed`: origins that the settings name.
    """
    found = {name: value for name, value in headers if name in (b"origin", b"host")}
    origin, host = found.get(b"origin"), found.get(b"host", b"localhost")
    # A name of the other site's own may lead to this machine as well, and then it is no foreign origin.
    is_foreign = origin is not None and origin.partition(b"://")[2] != host and origin.decode("latin-1") not in allowed
    if is_foreign or not _is_of_this_machine(host.decode("latin-1")):
        detail = (
            "Without API keys (IALP_AUTH=off) this service answers requests to localhost or an IP address only, and of "
            "its own page or those in IALP_CORS_ORIGINS."
        )
        raise Problem(HTTPStatus.FORBIDDEN, "cross_origin", detail)


@functools.lru_cache(64)
def _is_of_this_machine(host: str) -> bool:
    """Check that a Host header names an address or localhost; other names may be anybody's."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name.lower() == "localhost"
    return True


def holds_key(state: State, headers: Headers, scopes: tuple[Scope, ...]) -> bool:
    """Check that the request's headers still hold a key with one of `scopes`; True where no keys are asked for."""
    if state.key_ring is None:
        return True
    key = state.key_ring.verify(_token(headers), time.time())
    return key is not None and any(scope in key.scopes for scope in scopes)


async def _take(state: State, key: KeyRecord, rate: float) -> None:
    wait_s = await state.limiter.wait_s(key.key_id, rate, key.burst)
    if wait_s > 0:
        detail = f"This key may send {rate:g} requests a second, {key.burst} at once."
        headers = {"Retry-After": str(math.ceil(wait_s))}
        raise Problem(HTTPStatus.TOO_MANY_REQUESTS, "rate_limited", detail, headers=headers)
