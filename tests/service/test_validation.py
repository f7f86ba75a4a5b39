"""What no client should send: each gets a problem document that names the field, echoes nothing and is never a 500."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.contract.schemas import RecommendRequest
from service.settings import Settings
from tests.service.service_examples import problem_of, serving_http

SECRET = "echo-me-not"
LONG = SECRET + "x" * 10_000
EVENT: dict[str, Any] = {"event_id": "e", "user_id": "u", "item_id": "film-1", "type": "click"}
ITEM: dict[str, Any] = {"text": "A film"}
BODIES = [("POST", "/recommend"), ("POST", "/feedback"), ("PUT", "/items/i"), ("POST", "/items:batch")]
BODIES += [("POST", "/policies/1:activate"), ("POST", "/v1/recommend")]


@pytest.fixture(scope="module")
def client(redis_url: str, snapshot_folder: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One API for the module: nothing that is refused leaves a trace."""
    values = {"redis_url": redis_url, "key_prefix": "test:validation", "snapshot": snapshot_folder, "auth": "off"}
    folder = tmp_path_factory.mktemp("validation")
    settings = Settings.model_validate({"auth": "off", **values, "data_dir": folder, "refresh_interval_s": 0.02})
    with serving_http(settings) as client:
        yield client


def send(client: httpx.Client, method: str, path: str, body: object, **headers: str) -> httpx.Response:
    """Send a body as it is (bytes) or as JSON that may hold what is not JSON (NaN, lone surrogates)."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.request(method, path, content=content, headers={"content-type": "application/json", **headers})


def wrong(field: str, *values: object) -> list[tuple[str, object]]:
    """That field with each of these values."""
    return [(field, value) for value in values]


WRONG_RECOMMEND = wrong("k", "5", 1.5, True, 0, -1, 101, [], 10**30, float("nan"), float("inf"))
WRONG_RECOMMEND += wrong("user_id", "", LONG, 7, ["u"], {"a": 1}, "\ud800" + SECRET, "é" * 200, True)
WRONG_RECOMMEND += [("unknown_field", SECRET), ("context", []), ("context", {"a": [{"b": SECRET}]})]
WRONG_RECOMMEND += [("context", {"a": 1e999})]
WRONG_RECOMMEND += [("context", {str(n): n for n in range(33)}), ("candidate_item_ids", SECRET)]
WRONG_RECOMMEND += [("candidate_item_ids", ["a"] * 1001), ("exclude_item_ids", [""]), ("exclude_item_ids", None)]
WRONG_RECOMMEND += [
    ("filters", {"genre": SECRET}),
    ("filters", {"categories": [7]}),
    ("filters", {"categories": ["c"] * 101}),
]
WRONG_RECOMMEND += [
    ("history", [{"item_id": "a", "reward": r}]) for r in ("1", float("nan"), 1e999, 1e7, int("9" * 400))
]
WRONG_RECOMMEND += [("history", [{"item_id": "a"}] * 201), ("history", [{"reward": 1.0}]), ("history", {})]


@pytest.mark.parametrize(("field", "value"), WRONG_RECOMMEND, ids=lambda v: repr(v)[:24])
def test_recommend_refuses(client: httpx.Client, field: str, value: object) -> None:
    answer = send(client, "POST", "/recommend", {"user_id": "u", field: value})
    problem = problem_of(answer, 422)
    assert problem["errors"][0]["field"].split(".")[0] == field
    assert field in problem["detail"]
    assert SECRET not in answer.text


WRONG_EVENTS = wrong("reward", float("nan"), float("inf"), -float("inf"), "1", True, 1e7, int("9" * 400), {})
WRONG_EVENTS += wrong("type", SECRET + " ", "", 5, "x" * 65, "like\n")
WRONG_EVENTS += [
    (name, bad) for name in ("event_id", "item_id", "recommendation_id") for bad in ("", LONG, 5, "\udfff")
]
WRONG_EVENTS += wrong("occurred_at", "now", -1e12, float("nan"), 1e300) + wrong("unknown", SECRET)


@pytest.mark.parametrize(("field", "value"), WRONG_EVENTS, ids=lambda v: repr(v)[:24])
def test_feedback_refuses(client: httpx.Client, field: str, value: object) -> None:
    event = {**EVENT, field: value}
    if field == "reward":
        del event["type"]
    answer = send(client, "POST", "/feedback", event)
    problem = problem_of(answer, 422)
    assert [error["field"] for error in problem["errors"]] == [field]
    assert SECRET not in answer.text
    in_array = send(client, "POST", "/feedback", [event])
    assert in_array.status_code == 202, in_array.text
    (rejection,) = in_array.json()["rejected"]
    assert rejection["message"].startswith(f"{field}: ")
    assert SECRET not in in_array.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user_id": None}, "user_id or session_id is needed"),
        ({"type": None}, "exactly one of type, reward and undo"),
        ({"reward": 1.0}, "exactly one of type, reward and undo"),
        ({"undo": True}, "exactly one of type, reward and undo"),
        ({"type": "yawn"}, "is not one of click, dislike"),
        ({"item_id": "no-such-film"}, "is not in the catalogue"),
    ],
)
def test_feedback_that_contradicts_itself_or_the_catalogue(
    client: httpx.Client, changes: dict[str, Any], message: str
) -> None:
    event = {key: value for key, value in (EVENT | changes).items() if value is not None}
    assert message in problem_of(send(client, "POST", "/feedback", event), 422)["errors"][0]["message"]
    assert message in send(client, "POST", "/feedback", [event]).json()["rejected"][0]["message"]


@pytest.mark.parametrize("who", [{}, {"user_id": None}])
def test_a_request_is_of_somebody(client: httpx.Client, who: dict[str, Any]) -> None:
    problem = problem_of(send(client, "POST", "/recommend", who), 422)
    assert "user_id or session_id is needed" in problem["errors"][0]["message"]


def test_a_preview_is_of_one_user_or_one_session(client: httpx.Client) -> None:
    problem = problem_of(
        send(client, "POST", "/explain", {"user_id": "u", "session_id": "s", "item_ids": ["film-1"]}), 422
    )
    assert "exactly one of user_id and session_id" in problem["errors"][0]["message"]


WRONG_ITEMS = wrong("text", "", "x" * 4001, 5, None, "\ud800") + wrong("extra", SECRET) + wrong("hidden", "no")
WRONG_ITEMS += wrong("categories", "Drama", [""], ["x" * 300], ["c"] * 101, [None])


@pytest.mark.parametrize(("field", "value"), WRONG_ITEMS, ids=lambda v: repr(v)[:24])
def test_items_refuse(client: httpx.Client, field: str, value: object) -> None:
    single = problem_of(send(client, "PUT", "/items/i", {**ITEM, field: value}), 422)
    assert single["errors"][0]["field"].split(".")[0] == field
    batch = {"items": [{"item_id": "good", **ITEM}, {"item_id": "bad", **ITEM, field: value}]}
    answer = send(client, "POST", "/items:batch", batch)
    problem = problem_of(answer, 422)
    assert problem["errors"][0]["field"].startswith(f"items.1.{field}")
    assert SECRET not in answer.text
    problem_of(client.get("/items/good"), 404)


@pytest.mark.parametrize("items", [[], [{"item_id": "a", "text": "t"}] * 2, [{"item_id": "a", "text": "t"}] * 1001, {}])
def test_batches_are_of_one_to_a_thousand_different_items(client: httpx.Client, items: object) -> None:
    problem = problem_of(send(client, "POST", "/items:batch", {"items": items}), 422)
    assert problem["errors"][0]["field"].startswith("items")
    problem_of(client.get("/items/a"), 404)


BROKEN = {
    "truncated": b'{"user_id": "echo-me-not',
    "not_json": b"echo-me-not",
    "single_quotes": b"{'user_id': 'u'}",
    "invalid_utf8": b'{"user_id": "\xff\xfe\xfd"}',
    "deep_arrays": b"[" * 100_000,
    "deep_objects": b'{"a":' * 100_000,
    "huge_number": b'{"user_id": "u", "k": ' + b"9" * 5000 + b"}",
    "utf16": '{"user_id": "u'.encode("utf-16"),
    "nul": b"\0\0\0\0",
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize(("method", "path"), BODIES)
def test_what_is_not_json(client: httpx.Client, method: str, path: str, name: str) -> None:
    answer = send(client, method, path, BROKEN[name])
    problem_of(answer, 400, 422)
    assert SECRET not in answer.text


@pytest.mark.parametrize("body", [b"7", b'"text"', b"true", b"null", b"1e400", b"", b"[[]]"])
@pytest.mark.parametrize(("method", "path"), BODIES)
def test_what_is_json_but_no_object(client: httpx.Client, method: str, path: str, body: bytes) -> None:
    if path == "/feedback" and body == b"[[]]":
        assert send(client, method, path, body).json()["rejected"][0]["index"] == 0
    elif path.endswith(":activate") and body in (b"null", b""):
        assert send(client, method, path, body).status_code == 200  # the body is optional
    else:
        problem_of(send(client, method, path, body), 422)


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
@pytest.mark.parametrize(("method", "path"), BODIES)
def test_ten_megabytes(client: httpx.Client, method: str, path: str, chunked: bool) -> None:
    body = b'{"user_id": "' + b"x" * 10_000_000 + b'"}'
    content = (body[start : start + 65536] for start in range(0, len(body), 65536)) if chunked else body
    try:
        answer = client.request(method, path, content=content, headers={"content-type": "application/json"})
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        return  # the server closed while we were still sending; what counts is that it is well
    finally:
        assert client.get("/healthz").status_code == 200
    assert problem_of(answer, 413)["code"] == "body_too_large"


def test_too_large_a_body_is_refused_before_it_is_sent(client: httpx.Client) -> None:
    kind = "content-type: application/json\r\ncontent-length: 1000000000000"
    head = f"POST /recommend HTTP/1.1\r\nhost: localhost\r\n{kind}\r\n\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=20) as connection:
        connection.sendall(head.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))  # to the end: the server closes
    assert answer.startswith(b"HTTP/1.1 413 ") and b"body_too_large" in answer


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
@pytest.mark.parametrize(("method", "path"), BODIES)
def test_other_content_types(client: httpx.Client, method: str, path: str, content_type: str) -> None:
    answer = client.request(method, path, content=b'{"user_id": "u"}', headers={"content-type": content_type})
    assert problem_of(answer, 415)["code"] == "unsupported_media_type"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/recommend", 405),
        ("DELETE", "/feedback", 405),
        ("POST", "/items/i", 405),
        ("GET", "/policies:freeze", 405),
        ("PROPFIND", "/recommend", 405),
        ("GET", "/nowhere", 404),
        ("POST", "/recommend/", 404),
        ("GET", "/itemz", 404),
        ("GET", "/items/", 422),
        ("GET", "/users/" + "x" * 10_000, 422),
        ("PUT", "/items/" + "x" * 257, 422),
        ("POST", "/policies/0:activate", 422),
        ("POST", "/policies/one:activate", 422),
        ("POST", f"/policies/{'9' * 5000}:activate", 422),
    ],
    ids=lambda value: str(value)[:24],
)
def test_wrong_methods_and_paths(client: httpx.Client, method: str, path: str, status: int) -> None:
    body = b'{"text": "t"}' if method == "PUT" else None
    headers = {"content-type": "application/json"} if body else {}
    problem_of(client.request(method, path, content=body, headers=headers), status)


def test_strange_hosts_get_an_answer(client: httpx.Client) -> None:
    for host in ("[", "a b", "x" * 5000, "%"):
        answer = client.post("/recommend", json={"user_id": "u", "k": 0}, headers={"host": host})
        assert answer.status_code in (400, 403, 422), answer.text


def test_a_thousand_and_one_events_are_too_many(client: httpx.Client) -> None:
    events = [{**EVENT, "event_id": str(n)} for n in range(1001)]
    assert problem_of(send(client, "POST", "/feedback", events), 422)["code"] == "too_many_events"


_text = st.text(st.characters(codec=None), max_size=12)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=4),
    max_leaves=8,
)
_ids = st.sampled_from(["u", "film-1", "film-2", "", "\0", "a/b"]) | _text
_requests = st.dictionaries(
    st.sampled_from([*RecommendRequest.model_fields]),
    _json
    | _ids
    | st.integers(0, 101)
    | st.lists(_ids, max_size=3)
    | st.fixed_dictionaries({"categories": _json})
    | st.fixed_dictionaries({"where": _json})
    | st.fixed_dictionaries({"pins": _json, "boosts": _json, "at_most": _json}),
    max_size=4,
)
_events = st.fixed_dictionaries(
    {"event_id": _ids, "item_id": _ids, "user_id": _ids},
    optional={"type": st.sampled_from(["click", "skip"]) | _json, "reward": st.floats() | _json, "occurred_at": _json},
)
_generous = hypothesis_settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


@_generous
@given(body=_requests.map(lambda body: {"user_id": "u"} | body) | _requests | _json)
def test_any_json_to_recommend_is_answered(client: httpx.Client, body: object) -> None:
    answer = send(client, "POST", "/recommend", body)
    if answer.status_code != 200:
        problem_of(answer, 400, 422)


@_generous
@given(body=_events | st.lists(_events | _json, max_size=4) | _json)
def test_any_json_to_feedback_is_answered(client: httpx.Client, body: object) -> None:
    answer = send(client, "POST", "/feedback", body)
    if answer.status_code != 202:
        problem_of(answer, 400, 422)
    else:
        outcome = answer.json()
        assert outcome["accepted"] + outcome["duplicates"] + len(outcome["rejected"]) == (
            len(body) if isinstance(body, list) else 1
        )
