"""The typed client, both forms of it, against a real server, and against one that fails."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import httpx
import pytest

from service.client import AsyncClient, BatchItem, Client, FeedbackEvent, ServiceError
from service.policy.snapshot_files import load_snapshot
from service.settings import Settings
from service.store.registry import Gate
from tests.service.client_examples import Both
from tests.service.service_examples import N_ITEMS, Server, published


@pytest.fixture
def client(kind: str, http_api: httpx.Client) -> Both:
    return Both(kind, str(http_api.base_url), recommend_budget_s=30.0)


def test_a_user_from_stranger_to_forgotten(client: Both) -> None:
    assert client.ready().policy_version == 1
    slate = client.recommend("ann", k=3, exclude_item_ids=["film-1"])
    assert len(slate.items) == 3 and "film-1" not in [item.item_id for item in slate.items]
    first = slate.items[0].item_id
    told = client.respond("ann", first, "like", recommendation_id=slate.recommendation_id)
    assert (told.accepted, told.duplicates) == (1, 0)
    events = [FeedbackEvent(event_id=f"e{n}", user_id="ann", item_id=f"film-{n}", reward=0.5) for n in range(3)]
    assert client.feedback(events).accepted == 3
    assert client.feedback(events).duplicates == 3
    assert [past.item_id for past in client.user("ann").history] == [first, "film-0", "film-1", "film-2"]
    near = client.explain("ann", ["film-9"]).items[0]
    assert near.text == "Film number 9" and near.nearest
    assert client.impressions(5).impressions[0].recommendation_id == slate.recommendation_id
    assert client.recommend(session_id="visitor").items
    assert client.erase_user("ann").session
    with pytest.raises(ServiceError) as caught:
        client.user("ann")
    assert (caught.value.status, caught.value.code) == ("404", "unknown_user")


def test_the_catalogue(client: Both) -> None:
    name = "a/b c?#ä"
    assert client.put_item(name, "Odd", categories=["x"]).categories == ["x"]
    assert client.item(name).text == "Odd"
    made = client.put_items([BatchItem(item_id="n1", text="One"), BatchItem(item_id=name, text="Two", hidden=True)])
    assert (made.created, made.updated) == (1, 1)
    assert client.item(name).hidden
    assert client.items(search="Film number 3", count=2).items[0].item_id == "film-3"
    page = client.items(after=f"film-{N_ITEMS - 1}", count=1)
    assert [item.item_id for item in page.items] == [name] and page.next == name
    assert client.delete_item(name) is None
    with pytest.raises(ServiceError, match="404"):
        client.item(name)


def test_versions(client: Both, settings: Settings, redis: Any) -> None:
    snapshot = load_snapshot(settings.data_dir / "policies" / "00000001")
    manifest = snapshot.manifest.__class__(**{**snapshot.manifest.__dict__, "version": 2, "parent": 1})
    assert published(
        redis, settings, snapshot.__class__(manifest, snapshot.item_ids, snapshot.tensors), Gate(passed=True)
    )
    assert [one.version for one in client.policies().policies] == [2, 1]
    assert client.roll_back().live_version == 1
    assert client.activate(2, follow=False).mode == "held"
    assert client.freeze().mode == "frozen"
    assert client.activate(2).mode == "auto"
    assert client.evaluation().arms == {}


def test_what_is_wrong_is_named(client: Both) -> None:
    with pytest.raises(ServiceError, match=r"POST /feedback: 422 .*item_id: is not in the catalogue") as caught:
        client.respond("ann", "nowhere", "like")
    assert caught.value.code == "invalid_request"
    with pytest.raises(ValueError, match="user_id or session_id is needed"):
        client.recommend()
    with pytest.raises(ValueError, match="exactly one of type, reward and undo"):
        client.respond("ann", "film-1")


class Flaky:
    """Answers 503, breaks the connection, then answers; remembers what it was sent."""

    def __init__(self, good: dict[str, Any]) -> None:
        self.sent: list[tuple[str, str, bytes]] = []
        self.good = good

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.sent.append((request.method, request.url.path, request.content))
        if len(self.sent) == 1:
            return httpx.Response(503, headers={"Retry-After": "0"})
        if len(self.sent) == 2:
            raise httpx.ConnectError("refused")
        return httpx.Response(202, json=self.good)


def test_the_same_event_is_sent_until_it_is_taken(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.client.attempts._FIRST_WAIT_S", 0.0)
    flaky, seen = Flaky({"accepted": 1, "duplicates": 0, "rejected": []}), []
    transport = httpx.MockTransport(flaky)
    client = Both(kind, "http://service", transport=transport, observe=lambda *told: seen.append(told), seed=1)
    assert client.respond("ann", "film-1", "like").accepted == 1
    assert len(flaky.sent) == 3 and len(set(flaky.sent)) == 1, "one event id for all attempts"
    assert seen == [("/feedback", "503"), ("/feedback", "no connection"), ("/feedback", "202")]


def test_a_roll_back_is_never_made_twice(kind: str) -> None:
    flaky = Flaky({})
    with pytest.raises(ServiceError, match="503 after 1 attempt"):
        Both(kind, "http://service", transport=httpx.MockTransport(flaky)).roll_back()
    assert len(flaky.sent) == 1


def test_what_an_attempt_deleted_whose_answer_was_lost_is_deleted(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.client.attempts._FIRST_WAIT_S", 0.0)
    asked: list[str] = []

    def lose(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path.decode())
        if len(asked) == 1:
            raise httpx.ReadError("lost")
        return httpx.Response(404, json={"code": "unknown_item", "detail": "There is no such item."})

    client = Both(kind, "http://service", transport=httpx.MockTransport(lose))
    assert client.delete_item("..") is None
    assert asked == ["/items/%2E%2E"] * 2
    with pytest.raises(ServiceError, match="404"):
        client.delete_item("never-there")


def test_it_gives_up_and_tells_no_key(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.client.attempts._FIRST_WAIT_S", 0.0)

    def refuse(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer hush-hush"
        raise httpx.ConnectError("no")

    client = Both(kind, "http://service", api_key="hush-hush", attempts=2, transport=httpx.MockTransport(refuse))
    with pytest.raises(ServiceError, match="no connection after 2 attempt") as caught:
        client.recommend("ann")
    assert "hush" not in f"{caught.value} {caught.value!r}"
    with pytest.raises(ValueError, match="attempts: 0"):
        Both(kind, "http://service", attempts=0).ready()


def test_a_process_that_is_not_ready_says_why(kind: str, settings: Settings) -> None:
    with (
        Server(settings.model_copy(update={"snapshot": None})) as http,
        pytest.raises(ServiceError, match=r"GET /readyz: 503 after 1 attempt.*no_policy"),
    ):
        Both(kind, str(http.base_url)).ready()


def test_both_clients_are_alike() -> None:
    def signatures(kind: type) -> dict[str, str]:
        members = inspect.getmembers(kind, inspect.isfunction)
        return {name: str(inspect.signature(member)) for name, member in members if not name.startswith("_")}

    mine, others = signatures(Client), signatures(AsyncClient)
    del mine["close"], others["aclose"], others["status_of"]
    assert mine == others


def test_the_client_is_light() -> None:
    code = (
        "import sys, service.client; "
        "print([m for m in ('torch', 'numpy', 'fastapi', 'redis', 'uvicorn') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "[]"
