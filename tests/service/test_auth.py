"""Who may do what: every route asks for a key, keys change without a restart and outlast Redis."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import redis as syncredis
import redis.asyncio as aioredis
from fastapi.routing import iter_route_contexts
from typer.testing import CliRunner

from service.__main__ import app as command
from service.api.app import create_app
from service.runtime import embedded
from service.serving.live import PolicyWatch
from service.settings import Settings
from service.store import api_keys
from service.store.api_keys import SCOPES, KeyRing, Scope, rotated
from service.store.keys import Keys
from tests.service.auth_examples import add_key, bearer, id_of
from tests.service.service_examples import Server, make_settings, problem_of, serving_http, until

OPEN = {"/healthz", "/readyz", "/openapi.json", "/docs", "/", "/dashboard/app.js"}
SCOPE_OF = {"/recommend": {"serve"}, "/feedback": {"feedback"}, "/metrics": {"metrics", "admin"}}  # else: admin
SCOPE_OF |= {"/similar/1": {"serve"}, "/similar/{item_id}": {"serve"}, "/popular": {"serve"}, "/new": {"serve"}}
SCOPE_OF |= {"/bought-together/1": {"serve"}, "/bought-together/{item_id}": {"serve"}}
SCOPE_OF |= {"/trending": {"serve"}, "/recommend:page": {"serve"}}
SCOPE_OF |= {"/rank": {"serve"}, "/reward": {"feedback"}, "/activate": {"feedback"}}  # what ends so, of /personalizer
ASK = {"user_id": "ann", "k": 1}


@pytest.fixture
def settings(redis_url: str, snapshot_folder: Path, tmp_path: Path) -> Settings:
    """With keys, as a deployment has it."""
    return make_settings(redis_url, snapshot_folder, tmp_path, auth="on")


def routes(settings: Settings) -> list[tuple[str, str]]:
    """Method and path of everything the application has, open or not."""
    found = []
    for route in iter_route_contexts(create_app(settings).routes):
        path = (route.path or "").replace("{name:path}", "app.js")
        path = re.sub("{[^}]*:personalizer_version}", "v1.0", re.sub("{[^}]*:entry}", "1-1", path))
        path = re.sub("{[^}]*}", "1", path)
        found += [(method, path) for method in route.methods or {"GET"}]
    return found


def allowed(path: str) -> set[str]:
    known = path[path.rindex("/") :] if path.startswith("/personalizer/") else path.removeprefix("/v1")
    return SCOPE_OF.get(known, {"admin"})


def test_every_route_but_the_open_ones_asks_for_a_key(settings: Settings) -> None:
    found = routes(settings)
    assert {path for _, path in found} > OPEN
    with serving_http(settings) as client:
        for method, path in found:
            answer = client.request(method, path)
            if path in OPEN:
                assert answer.status_code == 200
                continue
            assert problem_of(answer, 401)["code"] == "unauthorized", (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"


def test_a_key_opens_what_its_scope_says_and_nothing_else(
    settings: Settings, redis: syncredis.Redis, keys: Keys
) -> None:
    tokens = {scope: add_key(redis, keys, scope) for scope in SCOPES}
    with serving_http(settings) as client:
        for method, path in routes(settings):
            for scope, token in tokens.items():
                with client.stream(method, path, headers=bearer(token)) as answer:
                    if not answer.is_success:  # one answer has no end
                        answer.read()
                if path in OPEN or scope in allowed(path):
                    assert answer.status_code not in (401, 403, 429, 500), (method, path, scope)
                else:
                    assert problem_of(answer, 403)["code"] == "missing_scope", (method, path, scope)


def test_three_headers_carry_a_key(settings: Settings, redis: syncredis.Redis, keys: Keys) -> None:
    token = add_key(redis, keys, "serve", "feedback")
    basic = {"authorization": "Basic YTpi"}
    azure = {"ocp-apim-subscription-key": token}
    with serving_http(settings) as client:
        for headers in (
            bearer(token),
            {"authorization": f"bearer   {token}"},
            {"x-api-key": token},
            basic | {"x-api-key": token},
            azure,
            basic | azure,
            bearer(token) | {"x-api-key": "wrong", "ocp-apim-subscription-key": "wrong"},
            {"x-api-key": token, "ocp-apim-subscription-key": "wrong"},
        ):
            assert client.post("/recommend", json=ASK, headers=headers).status_code == 200, headers
        for headers in (
            basic,
            {"authorization": token},
            bearer("wrong") | {"x-api-key": token},
            {"cookie": token},
            azure | {"x-api-key": "x"},
        ):
            problem_of(client.post("/recommend", json=ASK, headers=headers), 401)
        problem_of(client.post(f"/recommend?api_key={token}", json=ASK), 401)


def test_what_is_no_token_of_ours(settings: Settings, redis: syncredis.Redis, keys: Keys) -> None:
    token, other = add_key(redis, keys, "serve"), add_key(redis, keys, "serve")
    _, key_id, secret = token.split("_", 2)
    wrong = ["ialp", "ialp_", "ialp__", "_", key_id, secret, f"ialp_{key_id}", f"ialp_{key_id}_", f"ialp__{secret}"]
    wrong += [f"{token}x", token[:-1], token.upper(), f"IALP_{key_id}_{secret}", f"x{token}", f"ialp_nobody_{secret}"]
    wrong += [f"ialp_{id_of(other)}_{secret}", "x" * 5_000, api_keys.digest(secret).hex()]
    with serving_http(settings) as client:
        for given in wrong:
            problem_of(client.post("/recommend", json=ASK, headers=bearer(given)), 401)
        for raw in ("ialp_é_é".encode(), b"ialp_\xff_\xfe"):
            answer = client.post("/recommend", json=ASK, headers=[(b"authorization", b"Bearer " + raw)])
            problem_of(answer, 401)
        assert client.post("/recommend", json=ASK, headers=bearer(token)).status_code == 200


def test_it_is_refused_before_its_body_is_read(settings: Settings) -> None:
    head = "POST /recommend HTTP/1.1\r\nhost: [::1]\r\ncontent-type: application/json\r\ncontent-length: 500000\r\n\r\n"
    with serving_http(settings) as client:
        with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=20) as connection:
            connection.sendall(head.encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
        problem_of(client.post("/recommend", content=b"{", headers={"content-type": "application/json"}), 401)


def test_keys_come_and_go_while_it_runs(
    settings: Settings, redis: syncredis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: PolicyWatch) -> None:
        await asyncio.Event().wait()

    def status(token: str) -> int:
        return client.post("/recommend", json=ASK, headers=bearer(token)).status_code

    with serving_http(settings) as client:
        monkeypatch.setattr(PolicyWatch, "refresh", never)  # loading a large snapshot must not hold keys up
        token, other = add_key(redis, keys, "serve"), add_key(redis, keys, "serve")
        until(lambda: status(other) == 200, "the new key")
        assert status(token) == 200
        redis.hdel(keys.api_keys, id_of(token))
        until(lambda: status(token) == 401, "the end of the revoked key")
        assert status(other) == 200
    assert Settings.model_fields["refresh_interval_s"].default < 1, "a revoked key stops within a second"


def test_keys_work_while_redis_is_away(snapshot_folder: Path, tmp_path: Path) -> None:
    server = embedded.serving(tmp_path / "redis")
    url = server.__enter__()
    settings = make_settings(url, snapshot_folder, tmp_path / "service", auth="on")
    with syncredis.from_url(url) as redis:
        token = add_key(redis, Keys(settings.key_prefix), "serve")
    with serving_http(settings) as client:
        server.__exit__(None, None, None)
        answer = client.post("/recommend", json=ASK, headers=bearer(token))
        assert (answer.status_code, answer.json()["warnings"]) == (
            200,
            ["session_unavailable", "impression_not_logged"],
        )
        problem_of(client.post("/recommend", json=ASK, headers=bearer(f"{token}x")), 401)
    with Server(settings) as client:  # one that never saw the keys cannot call any of them wrong
        answer = client.post("/recommend", json=ASK, headers=bearer(token))
        assert problem_of(answer, 503)["code"] == "storage_unavailable" and answer.headers["retry-after"] == "1"
        assert "no_keys" in client.get("/readyz").json()["reasons"]


def test_a_record_that_cannot_be_read_refuses_its_key_alone(
    settings: Settings, redis: syncredis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    token, damaged = add_key(redis, keys, "serve"), add_key(redis, keys, "serve")
    redis.hset(keys.api_keys, id_of(damaged), b'{"scopes": ["everything"]}')
    with serving_http(settings) as client:
        assert client.post("/recommend", json=ASK, headers=bearer(token)).status_code == 200
        problem_of(client.post("/recommend", json=ASK, headers=bearer(damaged)), 401)
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert told == [f"API key '{id_of(damaged)}' is refused: its record cannot be read"]


def test_the_openapi_document_says_what_a_route_needs(settings: Settings) -> None:
    document = create_app(settings).openapi()
    schemes = document["components"]["securitySchemes"]
    assert schemes["bearer"]["scheme"] == "bearer"
    assert (schemes["api_key"]["in"], schemes["api_key"]["name"]) == ("header", "X-API-Key")
    for path, operations in document["paths"].items():
        for operation in operations.values():
            refusals = {"401", "403", "429"} & set(operation["responses"])
            if path in OPEN:
                assert "security" not in operation and not refusals
                continue
            assert len(refusals) == 3
            assert all("application/problem+json" in operation["responses"][code]["content"] for code in refusals)
            needed = {(name, scope) for entry in operation["security"] for name, (scope,) in entry.items()}
            assert needed == {(name, scope) for name in schemes for scope in allowed(path)}


@pytest.fixture
async def ring(redis_url: str, keys: Keys) -> AsyncIterator[KeyRing]:
    client = aioredis.from_url(redis_url)
    yield KeyRing(client, keys, 1.0)
    await client.aclose()


async def test_a_key_ends_when_it_expires(ring: KeyRing, redis: syncredis.Redis, keys: Keys) -> None:
    token, lasting = add_key(redis, keys, "serve", expires_at=1_000.0), add_key(redis, keys, "serve")
    await ring.refresh()
    assert ring.verify(token, 999.9) is not None
    assert ring.verify(token, 1_000.0) is None
    assert ring.verify(lasting, 1e12) is not None


async def test_an_old_secret_works_through_its_grace(ring: KeyRing, redis: syncredis.Redis, keys: Keys) -> None:
    key_id = id_of(first := add_key(redis, keys, "serve"))

    async def rotate(now: float, grace_s: float) -> str:
        secret = api_keys.new_secret()
        record = api_keys.decode(redis.hget(keys.api_keys, key_id))
        redis.hset(keys.api_keys, key_id, api_keys.encode(rotated(record, secret, now, grace_s)))
        await ring.refresh()
        return api_keys.token(key_id, secret)

    def works(now: float, *tokens: str) -> list[bool]:
        return [ring.verify(token, now) is not None for token in tokens]

    second = await rotate(1_000.0, 60.0)
    assert works(1_059.9, first, second) == [True, True]
    assert works(1_060.0, first, second) == [False, True]
    third = await rotate(1_010.0, 600.0)
    assert works(1_059.9, first, second, third) == [True, True, True]
    assert works(1_060.0, first, second, third) == [False, True, True], "another rotation does not prolong it"
    fourth = await rotate(1_020.0, 0.0)
    assert works(1_020.0, first, second, third, fourth) == [False, False, False, True], "no grace, not even an old one"
    assert len(api_keys.decode(redis.hget(keys.api_keys, key_id)).secrets) == 1, "what is over is not kept"


async def test_an_unknown_key_takes_the_same_steps(
    ring: KeyRing, redis: syncredis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = add_key(redis, keys, "serve")
    await ring.refresh()
    compared: list[int] = []

    def compare(a: str, b: str) -> bool:
        compared.append(len(a) + len(b))
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for given in (token, f"{token}x", "ialp_nobody_secret", "no token"):
        ring.verify(given, time.time())
    assert compared == [64] * 4


def test_stored_is_a_hash(redis: syncredis.Redis, keys: Keys) -> None:
    token = add_key(redis, keys, "serve")
    stored = redis.hget(keys.api_keys, id_of(token))
    assert token.split("_", 2)[2].encode() not in stored
    assert {"key_id", "name", "scopes", "secrets", "created_at"} <= set(msgspec.json.decode(stored))
    assert len(token.split("_", 2)[2]) == 43, "32 bytes in base64url"


def test_it_is_on_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IALP_AUTH", raising=False)
    assert Settings().auth == "on"
    monkeypatch.setenv("IALP_AUTH", "off")
    assert Settings().auth == "off"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "127.0.0.1.example.org", ""])  # noqa: S104
@pytest.mark.parametrize("process", ["api", "dev"])
def test_off_is_for_loopback_alone(process: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uvicorn.run", lambda *_, **__: None)
    monkeypatch.setattr("service.cli.processes._supervise", lambda *_: 0)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("IALP_AUTH", "off")
    monkeypatch.setenv("IALP_HOST", host)
    result = CliRunner().invoke(command, [process])
    assert result.exit_code == 2
    (line,) = result.output.strip().splitlines()
    assert line.startswith("error: setting IALP_AUTH: ") and "IALP_AUTH=off" in line and "IALP_HOST" in line


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_off_on_loopback_warns_at_the_start(
    host: str, redis_url: str, snapshot_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving_http(make_settings(redis_url, snapshot_folder, tmp_path, auth="off", host=host)) as client:
        assert client.get("/policies").status_code == 200
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [line for line in warnings if "IALP_AUTH=off" in line]


def test_on_binds_anywhere_and_does_not_warn(
    redis_url: str, snapshot_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving_http(make_settings(redis_url, snapshot_folder, tmp_path, auth="on", host="0.0.0.0")) as client:  # noqa: S104
        problem_of(client.get("/policies"), 401)
    assert "IALP_AUTH" not in caplog.text


def test_every_scope_is_asked_for_somewhere(settings: Settings) -> None:
    found: set[Scope] = set()
    for route in iter_route_contexts(create_app(settings).routes):
        found.update(getattr(route.original_route, "scopes", ()))
    assert found == set(SCOPES)
