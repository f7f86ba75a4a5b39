"""What browsers, monitors and proxies expect: CORS, HEAD, and a prefix in front of every path."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import urljoin

import httpx
import pytest
import redis as syncredis
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from service.api.app import create_app
from service.settings import Settings
from service.store.keys import Keys
from tests.service.auth_examples import add_key
from tests.service.prefix_examples import Stripping
from tests.service.service_examples import problem_of, serving, serving_http, until

SHOP = "https://shop.example"


@contextlib.contextmanager
def inside(app: ASGIApp) -> Iterator[httpx.Client]:
    """A client of an application in this process."""
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False, follow_redirects=False) as client:
        yield cast(httpx.Client, client)


def asked(api: httpx.Client, path: str, method: str, origin: str = SHOP, headers: str = "") -> httpx.Response:
    """A browser's question before it sends a page's request."""
    sent = {"origin": origin, "access-control-request-method": method}
    return api.options(path, headers=sent | ({"access-control-request-headers": headers} if headers else {}))


@pytest.fixture
def shop(settings: Settings) -> Iterator[httpx.Client]:
    """An API with keys whose only origin is the shop's."""
    with serving(settings.model_copy(update={"cors_origins": [SHOP], "auth": "on"})) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/recommend"),
        ("POST", "/v1/feedback"),
        ("PUT", "/items/a"),
        ("GET", "/users/a"),
        ("DELETE", "/users/a"),
    ],
)
def test_a_preflight_is_answered_without_a_key(shop: httpx.Client, method: str, path: str) -> None:
    answer = asked(shop, path, method, headers="x-api-key,content-type")
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert method in answer.headers["access-control-allow-methods"].split(", ")
    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
    assert {"x-api-key", "authorization", "content-type", "content-encoding"} <= set(allowed)
    assert answer.headers["x-request-id"]


def test_other_origins_and_methods_are_refused(shop: httpx.Client) -> None:
    for answer in (asked(shop, "/recommend", "POST", "https://elsewhere.example"), asked(shop, "/recommend", "TRACE")):
        problem = problem_of(answer, 400)
        assert problem["code"] == "cross_origin" and "IALP_CORS_ORIGINS" in problem["detail"]
    elsewhere = shop.post("/recommend", json={"user_id": "ann"}, headers={"origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in elsewhere.headers


def test_a_page_may_read_answers_and_problems(shop: httpx.Client, settings: Settings, redis: syncredis.Redis) -> None:
    key = {"x-api-key": add_key(redis, Keys(settings.key_prefix), "serve", "feedback"), "origin": SHOP}
    until(lambda: shop.post("/recommend", json={"user_id": "a"}, headers=key).status_code == 200, "the key")
    answers = {
        200: shop.post("/recommend", json={"user_id": "ann"}, headers=key),
        401: shop.post("/recommend", json={"user_id": "ann"}, headers={"origin": SHOP}),
        403: shop.get("/users/ann", headers=key),
        404: shop.get("/nowhere", headers=key),
        405: shop.get("/recommend", headers=key),
        415: shop.post("/recommend", content=b"x", headers=key),
        422: shop.post("/recommend", json={}, headers=key),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == SHOP, status
        exposed = set(answer.headers["access-control-expose-headers"].split(", "))
        assert {"X-Request-Id", "Retry-After"} <= exposed
        assert answer.headers["vary"] == "Origin"


def test_a_page_may_read_503_and_500(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(settings.model_copy(update={"cors_origins": [SHOP], "snapshot": None}))
    with inside(app) as client:
        client.headers["origin"] = SHOP
        answers = {503: client.put("/items/a", json={"text": "A"})}
        monkeypatch.setattr("service.api.items.no_policy", lambda: ValueError("a bug"))
        answers[500] = client.put("/items/a", json={"text": "A"})
    for status, answer in answers.items():
        problem_of(answer, status)
        assert answer.headers["access-control-allow-origin"] == SHOP
    assert answers[503].headers["retry-after"]


def test_any_origin_is_a_choice_that_is_told(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    settings = settings.model_copy(update={"cors_origins": ["*"], "auth": "on"})
    with caplog.at_level(logging.WARNING), inside(create_app(settings)) as client:
        assert "IALP_CORS_ORIGINS=*" in caplog.text
        assert asked(client, "/recommend", "POST").headers["access-control-allow-origin"] == "*"
        assert client.get("/users/a", headers={"origin": SHOP}).headers["access-control-allow-origin"] == "*"


def test_without_the_setting_nobody_else_is_answered(api: httpx.Client) -> None:
    assert asked(api, "/recommend", "POST").status_code == 405
    answer = api.post("/recommend", json={"user_id": "ann"}, headers={"origin": SHOP})
    assert problem_of(answer, 403)["code"] == "cross_origin"
    assert "access-control-allow-origin" not in answer.headers


def test_without_keys_the_pages_of_named_origins_are_served(settings: Settings) -> None:
    with serving(settings.model_copy(update={"cors_origins": [SHOP]})) as client:
        for origin, status in ((SHOP, 200), ("https://elsewhere.example", 403)):
            answer = client.post("/recommend", json={"user_id": "ann"}, headers={"origin": origin})
            assert answer.status_code == status


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"cors_origins": ["shop.example"]}, "cors_origins"),
        ({"cors_origins": ["https://shop.example/"]}, "cors_origins"),
        ({"cors_origins": ["https://*.example"]}, "cors_origins"),
        ({"cors_origins": ["https://Shop.example"]}, "cors_origins"),
        ({"cors_origins": ["*"], "auth": "off"}, "IALP_AUTH=on"),
        ({"root_path": "ialp"}, "root_path"),
        ({"root_path": "/ialp/"}, "root_path"),
        ({"root_path": '/"><script>'}, "root_path"),
    ],
)
def test_settings_that_would_do_nothing_or_too_much_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        Settings.model_validate(changes)


def test_origins_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IALP_CORS_ORIGINS", f'["{SHOP}", "http://localhost:3000"]')
    monkeypatch.setenv("IALP_ROOT_PATH", "/shop/ialp")
    settings = Settings()
    assert (settings.cors_origins, settings.root_path) == ([SHOP, "http://localhost:3000"], "/shop/ialp")


GETS = ["/healthz", "/readyz", "/items", "/items/film-1", "/items/nowhere", "/", "/dashboard/app.js", "/docs"]
GETS += ["/openapi.json", "/metrics", "/users/nobody", "/policies", "/v1/policies", "/evaluation", "/dead-letters"]
GETS += ["/impressions", "/recommend", "/nowhere"]


@pytest.mark.parametrize("path", GETS)
def test_head_is_get_without_its_body(http_api: httpx.Client, path: str) -> None:
    get, head = http_api.get(path), http_api.head(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["x-request-id"] != get.headers["x-request-id"]
    varying = {"x-request-id", "date", "content-length"} if path == "/metrics" else {"x-request-id", "date"}
    kept = [{n: v for n, v in answer.headers.items() if n not in varying} for answer in (get, head)]
    assert kept[0] == kept[1]
    assert http_api.get("/healthz").json() == {"status": "ok", "policy_version": None, "reasons": []}


def test_every_get_is_allowed_head(api: httpx.Client) -> None:
    assert api.post("/healthz").headers["allow"] == "GET, HEAD"
    assert api.head("/recommend").headers["allow"] == "POST"
    counted = api.get("/metrics").text
    assert 'http_request_method="HEAD"' in counted


def test_the_head_of_a_stream_ends(http_api: httpx.Client) -> None:
    head = http_api.head("/dashboard/stream")
    assert head.status_code == 200 and head.headers["content-type"].startswith("text/event-stream")
    assert http_api.get("/healthz").status_code == 200  # on the same connection


@contextlib.contextmanager
def behind(settings: Settings, prefix: str, strips: bool = True) -> Iterator[httpx.Client]:
    app = create_app(settings.model_copy(update={"root_path": prefix}))
    with inside(Stripping(app, prefix, strips)) as client:
        until(lambda: client.get(f"{prefix}/readyz").status_code == 200, "readiness")
        yield client


# The last begins like a route of ours, so there only what is stripped can be told.
@pytest.mark.parametrize(("prefix", "strips"), [("/ialp", True), ("/ialp", False), ("/a/b-c", True), ("/items", True)])
def test_behind_a_prefix_everything_is_found(settings: Settings, prefix: str, strips: bool) -> None:
    with behind(settings, prefix, strips) as client:
        docs = client.get(f"{prefix}/docs").text
        (document,) = re.findall(r"url: '([^']*)'", docs)
        assert document == f"{prefix}/openapi.json"
        assert client.get(document).json()["servers"] == [{"url": prefix}]
        for where in (f"{prefix}/", prefix):
            html = client.get(where).text
            (base,) = re.findall(r'<base href="([^"]*)">', html)
            links = set(re.findall(r'(?:href|src)="([^"#]+)"', html)) - {base}
            assert len(links) >= 6
            for link in links:
                assert client.get(urljoin(base, link)).status_code == 200, link
        slate = client.post(f"{prefix}/recommend", json={"user_id": "ann", "k": 3})
        assert len(slate.json()["items"]) == 3
        assert client.post(f"{prefix}/v1/recommend", json={"user_id": "ann", "k": 3, "context": {}}).status_code == 200
        assert client.get(f"{prefix}/items/film-1").json()["item_id"] == "film-1"
        assert len(client.get(f"{prefix}/items").json()["items"]) == 20
        assert problem_of(client.get(f"{prefix}/nowhere"), 404)["instance"] == f"{prefix}/nowhere"
        assert client.get(f"{prefix}/recommend").headers["allow"] == "POST"
        counted = client.get(f"{prefix}/metrics").text
        assert 'http_route="/recommend"' in counted and f'http_route="{prefix}/recommend' not in counted


def test_without_a_prefix_the_page_has_no_base(http_api: httpx.Client) -> None:
    assert "<base" not in http_api.get("/").text
    assert "servers" not in http_api.get("/openapi.json").json()


def test_behind_a_prefix_the_service_itself_answers_as_before(settings: Settings) -> None:
    with serving_http(settings.model_copy(update={"root_path": "/ialp"})) as client:
        assert client.post("/recommend", json={"user_id": "ann"}).status_code == 200
        assert client.head("/").status_code == 200
        assert client.get("/ialpine").status_code == 404
