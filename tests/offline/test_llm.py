"""The endpoint backend against a scripted HTTP server."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Iterator
from typing import Any

import httpx
import pytest

from offline.completions import Alternative, answer_logit
from offline.endpoint import TEXT_LOGIT, EndpointConfig, EndpointLLM
from offline.errors import OfflineError
from offline.llm import Answer, Ask
from offline.prompts import Shown
from tests.offline.fake_llm import MOVIES

KEY = "sk-very-secret"
ASK = Ask((Shown("Alien", 1),), ("Heat", "Jaws", "Rocky"))
Reply = Callable[[dict[str, Any]], httpx.Response]


class Server:
    """Answers by a function of the request's body and keeps what it got."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.bodies.append(body)
        self.keys.append(request.headers.get("Authorization"))
        return (self.replies.pop(0) if len(self.replies) > 1 else self.replies[0])(body)


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., EndpointLLM]]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    opened: list[EndpointLLM] = []

    def make(server: Callable[[httpx.Request], httpx.Response], **options: Any) -> EndpointLLM:
        config = EndpointConfig("http://llm.test/v1", "big", **{"backoff_s": 0.0, **options})
        opened.append(EndpointLLM(config, MOVIES, transport=httpx.MockTransport(server)))
        return opened[-1]

    yield make
    for scorer in opened:
        scorer.close()


def _text(answer: str, tokens: int = 30) -> Reply:
    choice = {"index": 0, "message": {"content": answer}}
    return lambda body: httpx.Response(200, json={"choices": [choice], "usage": {"total_tokens": tokens}})


def _error(status: int, text: str = "", **headers: str) -> Reply:
    return lambda body: httpx.Response(status, text=text, headers=headers)


def _values(answer: Answer) -> list[float | None]:
    return [None if score is None else score.value for score in answer]


def _one(scorer: EndpointLLM, ask: Ask = ASK) -> list[float | None]:
    ((index, answer),) = scorer.score([ask])
    assert index == 0
    return _values(answer)


def test_judge_reads_the_first_tokens_alternatives(connect: Callable[..., EndpointLLM]) -> None:
    top = [("Yes", 0.5), (" yes", 0.1), ("No", 0.2), ("Maybe", 0.05)]
    place = {"top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in top]}
    choice = {"index": 0, "message": {"content": "Yes"}, "logprobs": {"content": [place]}}
    server = Server(lambda body: httpx.Response(200, json={"choices": [choice]}))
    assert _one(connect(server)) == pytest.approx([math.log(0.6 / 0.2)] * 3)
    body = server.bodies[0]
    assert body["logprobs"] is True and body["temperature"] == 0
    assert server.keys[0] == f"Bearer {KEY}"


def test_an_unlisted_answer_is_at_most_as_likely_as_the_least_listed() -> None:
    listed = [Alternative("Yes", math.log(0.9)), Alternative("Sure", math.log(0.05))]
    assert answer_logit(listed, "yes", "no") == pytest.approx(math.log(0.9 / 0.05))
    assert answer_logit(listed[1:], "yes", "no") is None
    assert answer_logit([Alternative("Yes", 0.0)], "yes", "no") == 0.0


@pytest.mark.parametrize(
    ("text", "value"),
    [("Yes", TEXT_LOGIT), (" no.", -TEXT_LOGIT), ("**Yes**!", TEXT_LOGIT), ("I refuse", 0.0), ("", 0.0)],
)
def test_judge_falls_back_to_the_text(connect: Callable[..., EndpointLLM], text: str, value: float) -> None:
    scorer = connect(Server(_text(text)))
    assert _one(scorer) == [value] * 3
    assert scorer.unclear == (3 if value == 0.0 else 0)


def test_busy_servers_are_asked_again(connect: Callable[..., EndpointLLM]) -> None:
    busy = _error(429, **{"Retry-After": "0"})

    def broken(body: dict[str, Any]) -> httpx.Response:
        raise httpx.ReadTimeout("slow")

    server = Server(busy, _error(503), broken, _text("Yes"))
    assert _one(connect(server, concurrency=1), ASK._replace(candidates=("Heat",))) == [TEXT_LOGIT]
    assert len(server.bodies) == 4


def test_retry_after_is_waited_for(connect: Callable[..., EndpointLLM], monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("offline.endpoint.asyncio.sleep", note)
    server = Server(_error(429, **{"Retry-After": "7"}), _error(500), _error(500), _text("No"))
    _one(connect(server, backoff_s=1.0), ASK._replace(candidates=("Heat",)))
    assert waits[0] == 7.0
    assert 1.0 <= waits[1] <= 3.0 and 2.0 <= waits[2] <= 6.0


def test_a_server_that_stays_away_is_an_error_without_the_key(connect: Callable[..., EndpointLLM]) -> None:
    with pytest.raises(OfflineError, match=r"no answer in 3 tries \(HTTP 503\)"):
        _one(connect(Server(_error(503)), max_retries=2))


@pytest.mark.parametrize(
    ("status", "expected"),
    [(401, "refused the key in \\$OPENAI_API_KEY"), (404, "does not know this model"), (400, "bad thing")],
)
def test_refusals_are_told_at_once_and_never_show_the_key(
    connect: Callable[..., EndpointLLM], status: int, expected: str
) -> None:
    server = Server(_error(status, f"bad thing: your key {KEY}"))
    scorer = connect(server, concurrency=1)
    with pytest.raises(OfflineError, match=expected) as caught:
        _one(scorer)
    assert KEY not in str(caught.value) + repr(scorer) + repr(scorer.config) + scorer.model_id
    assert len(server.bodies) <= 3


def test_the_cap_on_calls_is_exact_and_clean(connect: Callable[..., EndpointLLM]) -> None:
    server = Server(_text("Yes"))
    scorer = connect(server, max_calls=4)
    answers = dict(scorer.score([ASK, ASK, ASK]))
    given = [v for answer in answers.values() for v in _values(answer) if v is not None]
    assert given == [TEXT_LOGIT] * 4
    assert len(server.bodies) == 4
    assert scorer.exhausted == "the cap of 4 calls is reached"
    assert list(scorer.score([ASK])) == []


def test_the_cap_on_tokens_holds_with_many_in_flight(connect: Callable[..., EndpointLLM]) -> None:
    server = Server(_text("Yes", tokens=100))
    scorer = connect(server, max_tokens=1000, concurrency=8)
    list(scorer.score([ASK] * 50))
    assert 0 < scorer.tokens <= 1000 + 8 * 100
    assert scorer.exhausted == "the cap of 1000 tokens is reached"


def test_options_a_server_does_not_know_are_left_out(connect: Callable[..., EndpointLLM]) -> None:
    server = Server(
        _error(400, "unsupported parameter: logprobs, top_logprobs"),
        _error(400, "use max_completion_tokens instead of max_tokens"),
        _text("Yes"),
    )
    assert _one(connect(server, concurrency=1)) == [TEXT_LOGIT] * 3
    last = server.bodies[-1]
    assert "logprobs" not in last and "max_tokens" not in last and last["max_completion_tokens"] == 4


def test_choose_cancels_a_bias_for_the_first_place(connect: Callable[..., EndpointLLM]) -> None:
    strength = {"Heat": 0.5, "Jaws": -0.5, "Rocky": 1.5}

    def reply(body: dict[str, Any]) -> httpx.Response:
        facts = json.loads(body["messages"][1]["content"].split("\n")[0])
        margin = strength[facts["A"]] - strength[facts["B"]] + 2.0
        probs = {"A": 1 / (1 + math.exp(-margin)), "B": 1 / (1 + math.exp(margin))}
        top = [{"token": t, "logprob": math.log(p)} for t, p in probs.items()]
        return httpx.Response(200, json={"choices": [{"index": 0, "logprobs": {"content": [{"top_logprobs": top}]}}]})

    server = Server(reply)
    assert _one(connect(server, style="choose")) == pytest.approx([0.0, -1.0, 1.0])
    assert len(server.bodies) == 6
    assert _one(connect(server, style="choose"), ASK._replace(candidates=("Heat", "Jaws"))) == pytest.approx(
        [0.5, -0.5]
    )


def test_likelihood_reads_the_echoed_name_only(connect: Callable[..., EndpointLLM]) -> None:
    def reply(body: dict[str, Any]) -> httpx.Response:
        choices = []
        for index, prompt in enumerate(body["prompt"]):
            start = prompt.rindex(' "') + 2 if not prompt.endswith('"') else prompt[:-1].rindex('"') + 1
            offsets = [0, start, start + 2, len(prompt)]  # the last token is the answer's
            logprobs = {"text_offset": offsets, "token_logprobs": [None, -1.0 - index, -3.0, -9.0]}
            choices.append({"index": index, "logprobs": logprobs})
        return httpx.Response(200, json={"choices": choices[::-1]})

    server = Server(reply)
    assert _one(connect(server, style="likelihood")) == [-2.0, -2.5, -3.0]
    assert len(server.bodies) == 1
    assert server.bodies[0]["echo"] is True
    assert _one(connect(server, style="likelihood"), Ask((), ("Heat", "Jaws"), name_only=True)) == [-2.0, -2.5]
    assert server.bodies[1]["prompt"] == ['The name is "Heat"', 'The name is "Jaws"']


def test_likelihood_needs_echo(connect: Callable[..., EndpointLLM]) -> None:
    server = Server(lambda body: httpx.Response(200, json={"choices": [{"index": 0, "text": "x", "logprobs": None}]}))
    with pytest.raises(OfflineError, match="does not return log-probabilities of the prompt"):
        _one(connect(server, style="likelihood"))


@pytest.mark.parametrize("reply", ["<html>", "[]", "{}", '{"choices": []}', "3"])
def test_another_kind_of_server_is_told(connect: Callable[..., EndpointLLM], reply: str) -> None:
    with pytest.raises(OfflineError, match="does not answer in OpenAI's form"):
        _one(connect(Server(_error(200, reply))))


@pytest.mark.parametrize("url", ["ftp://x/v1", "llm.test", "http://user:pw@llm.test/v1", "http://llm.test/v1?key=1"])
def test_addresses_that_do_not_do(url: str) -> None:
    with pytest.raises(OfflineError, match="--endpoint") as caught:
        EndpointLLM(EndpointConfig(url, "big"), MOVIES)
    assert "pw" not in str(caught.value)


def test_leaving_early_cancels_what_is_in_flight(connect: Callable[..., EndpointLLM]) -> None:
    scorer = connect(Server(_text("Yes")), concurrency=2)
    scoring = scorer.score([ASK] * 10)
    next(scoring)
    assert isinstance(scoring, Generator)
    scoring.close()
    assert _one(scorer) == [TEXT_LOGIT] * 3
