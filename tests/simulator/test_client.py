"""The client against a service that breaks on purpose, in virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from service.contract.schemas import FeedbackEvent, RecommendRequest
from simulator.errors import SimulatorError
from simulator.load.client import API_KEY_VARIABLE, ServiceClient, ServiceError, check_url, read_api_key
from tests.simulator.fake_service import FakeService
from tests.simulator.virtual_time import run

EVENT = FeedbackEvent(event_id="e-1", user_id="ann-0", item_id="a", type="click")


async def send_feedback(service: FakeService, client: ServiceClient) -> float:
    """Seconds it took."""
    clock = asyncio.get_running_loop().time
    began = clock()
    async with client:
        await client.feedback([EVENT])
    return clock() - began


def test_a_slate_arrives_typed() -> None:
    async def ask() -> list[str]:
        async with FakeService(["a", "b", "c"]).client() as client:
            slate = await client.recommend(RecommendRequest(user_id="ann-1", k=2))
        assert slate.arm == "adaptive" and client.statuses == {("/recommend", "200"): 1}
        return [item.item_id for item in slate.items]

    assert run(ask()) == ["a", "b"]


@pytest.mark.parametrize("status", [429, 503])
def test_waits_as_long_as_retry_after_says_and_sends_the_same_bytes(status: int) -> None:
    service = FakeService(["a"])
    service.broken = [httpx.Response(status, headers={"Retry-After": "2"})]
    client = service.client()
    assert run(send_feedback(service, client)) == pytest.approx(2.0)
    assert service.bodies[0] == service.bodies[1]
    assert [event["event_id"] for event in service.events] == ["e-1"]
    assert client.statuses == {("/feedback", str(status)): 1, ("/feedback", "202"): 1}


def test_a_broken_connection_is_tried_again_after_growing_random_waits() -> None:
    service = FakeService(["a"])
    service.broken = [httpx.ConnectError("refused"), httpx.ReadError("reset")]
    client = service.client()
    assert 0.5 * (0.2 + 0.4) <= run(send_feedback(service, client)) <= 0.2 + 0.4
    assert client.statuses["/feedback", "no connection"] == 2


def test_gives_up_after_the_attempts_allowed() -> None:
    service = FakeService(["a"])
    service.broken = [httpx.Response(503) for _ in range(3)]
    with pytest.raises(ServiceError, match=r"503 after 3 attempt") as caught:
        run(send_feedback(service, service.client(attempts=3)))
    assert caught.value.status == "503" and not service.broken


def test_other_problems_are_not_tried_again() -> None:
    service = FakeService(["a"])
    service.broken = [httpx.Response(422, text="no such field"), httpx.Response(500)]
    with pytest.raises(ServiceError, match=r"422 after 1 attempt.*no such field"):
        run(send_feedback(service, service.client()))
    assert len(service.broken) == 1


def test_an_answer_outside_the_contract_names_the_field() -> None:
    service = FakeService(["a"])
    service.broken = [httpx.Response(202, json={"accepted": 1})]
    with pytest.raises(ServiceError, match="FeedbackResponse: duplicates"):
        run(send_feedback(service, service.client()))


def test_the_key_goes_in_a_header_and_in_no_message() -> None:
    service = FakeService(["a"])
    service.broken = [httpx.Response(401, text="no")]
    with pytest.raises(ServiceError) as caught:
        run(send_feedback(service, service.client(api_key="s3cret")))
    assert service.headers[0]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in str(caught.value)


def test_a_key_is_read_from_a_file_or_else_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("from-file\n")
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)
    assert read_api_key(None) is None
    monkeypatch.setenv(API_KEY_VARIABLE, "from-environment")
    assert read_api_key(None) == "from-environment"
    assert read_api_key(tmp_path / "key") == "from-file"


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"s3cret\r\nX-Other: s3cret", b"s3cret s3cret", b"s3cret\xff", "s3crét".encode()]
)
def test_what_cannot_be_a_key_is_not_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(SimulatorError, match=r"--api-key-file .*key: ") as caught:
        read_api_key(tmp_path / "key")
    assert "s3cr" not in str(caught.value) and caught.value.__cause__ is None
    with pytest.raises(SimulatorError, match="FileNotFoundError"):
        read_api_key(tmp_path / "none")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000", "http://localhost:8000", "http://[::1]:8000", "https://127.3.2.1"]
)
def test_loopback_is_welcome(url: str) -> None:
    check_url(url, allow_remote=False)


def test_other_machines_only_if_meant() -> None:
    for url in ("http://10.0.0.1:8000", "http://example.org", "http://localhost.example.org"):
        with pytest.raises(SimulatorError, match="--allow-remote"):
            check_url(url, allow_remote=False)
        check_url(url, allow_remote=True)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "127.0.0.1:8000", "http://", "http://127.0.0.1:x"])
def test_not_a_url(url: str) -> None:
    with pytest.raises(SimulatorError, match="--url"):
        check_url(url, allow_remote=True)
