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
    assert answer_logit(listed, {"yes"}, {"no"}) == pytest.approx(math.log(0.9 / 0.05))
    assert answer_logit(listed[1:], {"yes"}, {"no"}) is None
    assert answer_logit([Alternative("Yes", 0.0)], {"yes"}, {"no"}) == 0.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Yes", TEXT_LOGIT),
        (" no.", -TEXT_LOGIT),
        ("**Yes**!", TEXT_LOGIT),
        ("Ja.", TEXT_LOGIT),
        ("Nein", -TEXT_LOGIT),
        ("\u306f\u3044\u3002", TEXT_LOGIT),
        ("<think>No, wait.</think>\n\nYes", TEXT_LOGIT),
        ("I refuse", None),
        ("", None),
        ("<think>Yes, the person", None),
    ],
)
def test_judge_falls_back_to_the_text(connect: Callable[..., EndpointLLM], text: str, value: float | None) -> None:
    scorer = connect(Server(_text(text)))
    assert _one(scorer) == [value] * 3
    assert scorer.unclear == (3 if value is None else 0)
    assert any(("could not be read" if value is None else "9 to 1") in note for note in scorer.given_up)


def test_a_model_that_never_answers_is_told_after_a_few_dozen(connect: Callable[..., EndpointLLM]) -> None:
    server = Server(_text("Well, that depends"))
    with pytest.raises(OfflineError, match=r"36 of the first 36 answers of big are neither Yes nor No.*'Well, that"):
        list(connect(server, concurrency=4).score([ASK] * 100))
    assert len(server.bodies) < 36 + 3 * 4


def test_a_few_unreadable_answers_do_not_end_the_run(connect: Callable[..., EndpointLLM]) -> None:
    answers = iter(["Yes"] * 10 + ["Hm"] * 50)
    scorer = connect(Server(lambda body: _text(next(answers))(body)), concurrency=1)
    found = [value for _, answer in scorer.score([ASK] * 20) for value in _values(answer)]
    assert found.count(None) == 50
    assert scorer.given_up[-1] == "50 of 60 answers could not be read, and are not kept"


def test_a_model_that_thinks_aloud_gets_longer_answers(connect: Callable[..., EndpointLLM]) -> None:
    def reply(body: dict[str, Any]) -> httpx.Response:
        if body["max_tokens"] < 100:
            choice: dict[str, Any] = {"message": {"content": "<think>The person"}, "finish_reason": "length"}
        else:
            tokens = [("<think>", -0.1), ("Yes", -0.1), ("</think>", -0.1), ("\n\n", -0.1), ("No", math.log(0.8))]
            content: list[dict[str, Any]] = [
                {"token": t, "top_logprobs": [{"token": t, "logprob": p}]} for t, p in tokens
            ]
            content[-1]["top_logprobs"].append({"token": "Yes", "logprob": math.log(0.1)})
            choice = {"message": {"content": "<think>Yes</think>\n\nNo"}, "logprobs": {"content": content}}
        return httpx.Response(200, json={"choices": [choice]})

    server = Server(reply)
    scorer = connect(server)
    assert _one(scorer) == pytest.approx([-math.log(8)] * 3)
    assert {body["max_tokens"] for body in server.bodies} == {4, 64, 512}
    assert scorer.given_up == ["the model thinks aloud: up to 512 tokens an answer"]


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
    assert 0.5 <= waits[1] <= 1.5 and 1.0 <= waits[2] <= 3.0


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


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize(
    ("refuses", "complaint", "left"),
    [
        (lambda b: "logprobs" in b, "unsupported parameter: logprobs, top_logprobs", {"logprobs": None}),
        (lambda b: "logprobs" in b, "logprobs are not available on this model", {"top_logprobs": None}),
        (lambda b: "max_tokens" in b, "Use 'max_completion_tokens' instead.", {"max_completion_tokens": 4}),
        (lambda b: b.get("temperature") == 0, "temperature does not support 0.0, only 1 is", {"temperature": None}),
        (lambda b: b.get("top_logprobs", 0) > 5, "cannot request more than 5 logprobs", {"top_logprobs": 5}),
        (lambda b: b.get("top_logprobs", 0) > 11, "top_logprobs: must be at most 11, was 20", {"top_logprobs": 11}),
    ],
)
def test_options_a_server_refuses_are_sent_otherwise_at_any_concurrency(
    connect: Callable[..., EndpointLLM],
    refuses: Callable[[dict[str, Any]], bool],
    complaint: str,
    left: dict[str, Any],
    concurrency: int,
) -> None:
    server = Server(lambda body: (_error(400, complaint) if refuses(body) else _text("Yes"))(body))
    scorer = connect(server, concurrency=concurrency)
    found = [value for _, answer in scorer.score([ASK] * 5) for value in _values(answer)]
    assert found == [TEXT_LOGIT] * 15
    assert {name: server.bodies[-1].get(name) for name in left} == left
    assert sum(map(refuses, server.bodies)) <= concurrency
    assert len(scorer.given_up) > ("max_completion_tokens" not in left)


def test_a_server_without_system_messages_gets_one_message(connect: Callable[..., EndpointLLM]) -> None:
    def reply(body: dict[str, Any]) -> httpx.Response:
        if body["messages"][0]["role"] == "system":
            return _error(400, "System role not supported")(body)
        return _text("Yes")(body)

    server = Server(reply)
    assert _one(connect(server)) == [TEXT_LOGIT] * 3
    (message,) = server.bodies[-1]["messages"]
    assert message["content"].startswith("You predict") and "Answer Yes or No." in message["content"]


def test_a_rate_limit_is_waited_out(connect: Callable[..., EndpointLLM], monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("offline.endpoint.asyncio.sleep", note)
    server = Server(*[_error(429)] * 12, _text("Yes"))
    assert _one(connect(server, backoff_s=1.0, max_retries=2), ASK._replace(candidates=("Heat",))) == [TEXT_LOGIT]
    assert sum(waits) > 60 and max(waits) <= 60


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
