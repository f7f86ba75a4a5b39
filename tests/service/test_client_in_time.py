"""Both clients against services that hang, drip or break: a page gets something in time, a batch is sent once."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from service.client import BatchItem, RecommendRequest, ServiceError
from tests.service.client_examples import Both

PATIENCE_S = 5.0  # far more than any budget here: a machine may be busy
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n"


class Bad:
    """A server that reads requests and answers none, or `drips`: it begins an answer and never ends it."""

    def __init__(self, drips: bool = False) -> None:
        self._drips, self._over = drips, threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.requests: list[str] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._over.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._hold, args=(connection,)))
            self._threads[-1].start()

    def _hold(self, connection: socket.socket) -> None:
        with connection:
            self.requests.append(connection.recv(65_536).decode().partition("\r\n")[0])
            try:
                connection.sendall(ANSWER if self._drips else b"")
                while not self._over.wait(0.01):
                    connection.sendall(b" " if self._drips else b"")
            except OSError:
                pass


@pytest.fixture(params=["hangs", "drips"])
def bad(request: pytest.FixtureRequest) -> Iterator[Bad]:
    server = Bad(request.param == "drips")
    yield server
    server.close()


def timed(call: Callable[[], object]) -> tuple[object, float]:
    began = time.monotonic()
    return call(), time.monotonic() - began


def popular(request: RecommendRequest) -> list[str]:
    """What a page shows by itself: more than is asked for, and something twice."""
    return [f"{request.user_id}-{n}" for n in (1, 2, 2, 3, 4, 5)]


def test_a_page_waits_no_longer_than_its_budget(kind: str, bad: Bad) -> None:
    client = Both(kind, bad.url, recommend_budget_s=0.2)

    def ask() -> ServiceError:
        with pytest.raises(ServiceError, match=r"no connection after 1 attempt\(s\) in 0.2 s") as caught:
            client.recommend("ann")
        return caught.value

    error, seconds = timed(ask)
    assert isinstance(error, ServiceError) and error.in_doubt
    assert 0.2 <= seconds < PATIENCE_S


def test_the_budget_of_a_page_is_a_second_and_a_call_may_have_its_own(kind: str, bad: Bad) -> None:
    slate, seconds = timed(lambda: Both(kind, bad.url, fallback=popular).recommend("ann"))
    assert 1.0 <= seconds < PATIENCE_S
    assert slate.is_fallback  # type: ignore[attr-defined]
    _, seconds = timed(lambda: Both(kind, bad.url).recommend("ann", budget_s=0.05, fallback=popular))
    assert seconds < 1.0
    for wrong in (0, -1, math.nan):
        with pytest.raises(ValueError, match="budget_s"):
            Both(kind, bad.url).recommend("ann", budget_s=wrong)


def test_the_fallback_is_shown_and_marked(kind: str, bad: Bad) -> None:
    client = Both(kind, bad.url, recommend_budget_s=0.1, fallback=popular)
    slate = client.recommend("ann", k=3, exclude_item_ids=["ann-1"])
    assert [item.item_id for item in slate.items] == ["ann-2", "ann-3", "ann-4"]
    assert [item.slot for item in slate.items] == [0, 1, 2]
    assert slate.is_fallback and "no connection" in slate.fallback_reason
    assert (slate.arm, slate.policy_version) == ("fallback", 0)
    other = client.recommend("ann", fallback=lambda request: ["of this call"])
    assert [item.item_id for item in other.items] == ["of this call"]


def test_feedback_to_a_fallback_joins_the_history_and_teaches_of_no_slate(kind: str, http_api: httpx.Client) -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    away = Both(kind, "http://service", transport=httpx.MockTransport(broken), recommend_budget_s=0.05)
    slate = away.recommend("ann", fallback=lambda request: ["film-1"])
    client = Both(kind, str(http_api.base_url), recommend_budget_s=PATIENCE_S, fallback=popular)
    told = client.respond("ann", "film-1", "click", recommendation_id=slate.recommendation_id)
    assert (told.accepted, told.outcomes) == (1, {"unknown": 1})
    served = client.recommend("ann", k=2)
    assert not served.is_fallback and len(served.items) == 2


@pytest.mark.parametrize(("status", "falls_back"), [(503, True), (500, True), (504, True), (429, True)])
@pytest.mark.parametrize("retry_after", [None, "30"])
def test_a_service_that_cannot_answer_is_not_waited_for(
    kind: str, status: int, falls_back: bool, retry_after: str | None
) -> None:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    transport = httpx.MockTransport(lambda request: httpx.Response(status, headers=headers))
    client = Both(kind, "http://service", transport=transport, fallback=popular)
    slate, seconds = timed(lambda: client.recommend("ann"))
    assert slate.is_fallback is falls_back  # type: ignore[attr-defined]
    assert seconds < PATIENCE_S


@pytest.mark.parametrize("status", [400, 401, 403, 422])
def test_a_mistake_of_the_page_is_no_reason_to_fall_back(kind: str, status: int) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(status))
    with pytest.raises(ServiceError, match=str(status)):
        Both(kind, "http://service", transport=transport, fallback=popular).recommend("ann")


def test_within_the_budget_a_slate_is_asked_for_again(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.client.attempts._FIRST_WAIT_S", 0.0)
    body = {
        "recommendation_id": "r",
        "policy_version": 1,
        "arm": "adaptive",
        "items": [],
        "warnings": ["of a newer one"],
    }
    answers = [httpx.Response(503), httpx.Response(429), httpx.Response(200, json=body)]
    transport = httpx.MockTransport(lambda request: answers.pop(0))
    slate = Both(kind, "http://service", transport=transport, recommend_budget_s=PATIENCE_S).recommend("ann")
    assert slate.recommendation_id == "r" and not answers


ITEMS = [BatchItem(item_id=f"film-{n}", text=f"Film {n}") for n in range(4)]


@pytest.fixture
def hanging() -> Iterator[Bad]:
    server = Bad()
    yield server
    server.close()


def test_a_batch_that_the_service_may_be_at_work_on_is_not_sent_again(kind: str, hanging: Bad) -> None:
    with pytest.raises(
        ServiceError, match=r"after 1 attempt\(s\): ReadTimeout; .*may still be working on it"
    ) as caught:
        Both(kind, hanging.url, timeout_s=0.1).put_items(ITEMS)
    assert caught.value.in_doubt and caught.value.status == "no connection"
    assert hanging.requests == ["POST /items:batch HTTP/1.1"]


@pytest.mark.parametrize("error", [httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteTimeout, httpx.ReadTimeout])
def test_a_batch_that_was_sent_is_not_sent_again_however_it_broke(kind: str, error: type[httpx.TransportError]) -> None:
    sent = []

    def broken(request: httpx.Request) -> httpx.Response:
        sent.append(request.content)
        raise error("broken")

    client = Both(kind, "http://service", transport=httpx.MockTransport(broken))
    with pytest.raises(ServiceError, match=r"after 1 attempt.*may still be working on it"):
        client.put_items(ITEMS)
    with pytest.raises(ServiceError, match=r"after 1 attempt.*may still be working on it"):
        client.roll_back()
    assert len(sent) == 2


def test_a_batch_that_was_not_taken_is_sent_again(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.client.attempts._FIRST_WAIT_S", 0.0)
    ends: list[type[httpx.TransportError] | httpx.Response] = [
        httpx.ConnectError,
        httpx.ConnectTimeout,
        httpx.PoolTimeout,
    ]
    ends += [httpx.Response(503), httpx.Response(200, json={"created": 4, "updated": 0})]

    def answer(request: httpx.Request) -> httpx.Response:
        end = ends.pop(0)
        if isinstance(end, httpx.Response):
            return end
        raise end("refused")

    assert Both(kind, "http://service", transport=httpx.MockTransport(answer)).put_items(iter(ITEMS)).created == 4
    assert not ends


def test_a_refused_batch_is_not_in_doubt(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.client.attempts._FIRST_WAIT_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ServiceError, match="after 3 attempt") as caught:
        Both(kind, url, attempts=3).put_items(ITEMS)
    assert not caught.value.in_doubt and "may still be" not in str(caught.value)


def test_a_batch_may_take_as_long_as_its_size_asks_for(kind: str) -> None:
    allowed: list[tuple[float, float]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        given = request.extensions["timeout"]
        allowed.append((given["read"], given["connect"]))
        return httpx.Response(200, json={"created": 0, "updated": 0, **json.loads(ITEMS[0].model_dump_json())})

    client = Both(kind, "http://service", transport=httpx.MockTransport(answer), timeout_s=10.0)
    client.put_items(ITEMS[:1])
    client.put_items([BatchItem(item_id=f"{n}", text="A film") for n in range(1_000)])
    client.item("film-0")
    assert allowed == [(pytest.approx(10.15), 10.0), (pytest.approx(160.0), 10.0), (10.0, 10.0)]
