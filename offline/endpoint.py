"""Any OpenAI-compatible HTTP server as a `Scorer`."""

from __future__ import annotations

import asyncio
import math
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from offline.completions import NO, YES, Choice, Completion, answer_logit, bounded, read_completion
from offline.datasets import Scenario
from offline.dialect import Dialect
from offline.errors import OfflineError
from offline.llm import Answer, Ask, Score
from offline.prompts import (
    Message,
    Style,
    choose_messages,
    judge_messages,
    likelihood_continuation,
    likelihood_prefix,
)

# The logit of an answer that came without probabilities: 9 to 1.
TEXT_LOGIT = math.log(9.0)
_RATE_LIMITED = 429
_MOST_RATE_LIMITS = 30  # in a row, for one question: with waits of a minute at most, a quarter of an hour
_LONGEST_WAIT_S = 60.0
_UNUSABLE = 36  # answers that are no answer, of which nine in ten may be no more
_FEW = 0.1
_RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_FATAL = {
    401: "refused the key",
    403: "refused the key",
    404: "does not know this model or path; check --model, and whether --endpoint ends in /v1",
}


@dataclass(frozen=True)
class EndpointConfig:
    """Server, model, and limits on its use. The key is not here, only the name of the variable that holds it."""

    base_url: str
    model: str
    style: Style = "judge"
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 8
    max_calls: int | None = None
    max_tokens: int | None = None
    timeout_s: float = 60.0
    max_retries: int = 5
    backoff_s: float = 1.0


class _CapReachedError(Exception):
    pass


class EndpointLLM:
    """An OpenAI-compatible HTTP server as a `Scorer`; bounded concurrency, retries, caps on calls and tokens.

    Args:
        transport: replaces the network in tests.

    Raises:
        OfflineError: the URL carries credentials or is no HTTP address.
    """

    def __init__(
        self, config: EndpointConfig, scenario: Scenario, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        try:
            url = httpx.URL(config.base_url)
        except httpx.InvalidURL as error:
            raise OfflineError(f"--endpoint: {error}; expected an address such as http://127.0.0.1:8000/v1") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise OfflineError("--endpoint: expected an address such as http://127.0.0.1:8000/v1")
        if url.userinfo or url.query:
            raise OfflineError(f"--endpoint: put no credentials in the address; set ${config.api_key_env} instead")
        self.config, self.scenario, self.style = config, scenario, config.style
        self.model_id = f"{config.model}@{url.host}:{url.port or url.scheme}{url.path.rstrip('/')}"
        self.exhausted: str | None = None
        self.calls = self.tokens = self.clear = self.unclear = 0
        key = os.environ.get(config.api_key_env, "")
        self._secret = key
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=config.timeout_s,
            transport=transport,
        )
        self._dialect = Dialect()
        self._slots = asyncio.Semaphore(config.concurrency)
        self._runner = asyncio.Runner()

    def __repr__(self) -> str:
        return f"EndpointLLM({self.model_id!r}, {self.style!r})"

    @property
    def given_up(self) -> list[str]:
        """See `Scorer.given_up`."""
        unclear = f"{self.unclear:,} of {self.clear + self.unclear:,} answers could not be read, and are not kept"
        return [*self._dialect.given_up.values(), *([unclear] if self.unclear else [])]

    def close(self) -> None:
        """Close the connections."""
        self._runner.run(self._client.aclose())
        self._runner.close()

    def score(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        """See `Scorer.score`."""
        running: dict[asyncio.Task[Answer], int] = {}
        waiting = iter(enumerate(asks))

        async def advance() -> set[asyncio.Task[Answer]]:
            while len(running) < self.config.concurrency and self.exhausted is None:
                try:
                    index, ask = next(waiting)
                except StopIteration:
                    break
                running[asyncio.get_running_loop().create_task(self._answer(ask))] = index
            return (await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))[0] if running else set()

        async def cancel() -> None:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

        try:
            while done := self._runner.run(advance()):
                for task in done:
                    yield running.pop(task), task.result()
        finally:
            self._runner.run(cancel())

    async def _answer(self, ask: Ask) -> Answer:
        if self.style == "likelihood":
            return await self._likelihood(ask)
        if self.style == "choose":
            return await self._choose(ask)
        messages = [judge_messages(self.scenario, ask.history, c) for c in ask.candidates]
        results = await asyncio.gather(*(self._logit(m, YES, NO) for m in messages), return_exceptions=True)
        return [_score_or_cap(result) for result in results]

    async def _choose(self, ask: Ask) -> Answer:
        """Each candidate meets the next round a ring, in both orders; Bradley-Terry strengths by least squares."""
        n = len(ask.candidates)
        if n < 2:
            raise OfflineError("style choose compares two or more candidates; a question had fewer")
        pairs = [(i, (i + 1) % n) for i in range(n if n > 2 else 1)]
        orders = [order for i, j in pairs for order in ((i, j), (j, i))]
        texts = [(ask.candidates[i], ask.candidates[j]) for i, j in orders]
        messages = [choose_messages(self.scenario, ask.history, a, b) for a, b in texts]
        a, b = frozenset("a"), frozenset("b")
        results = await asyncio.gather(*(self._logit(m, a, b) for m in messages), return_exceptions=True)
        scores = [_score_or_cap(result) for result in results]
        if any(score is None for score in scores):
            return [None] * n
        value = {order: score.value for order, score in zip(orders, scores, strict=True) if score is not None}
        design = np.zeros((len(pairs), n))
        design[np.arange(len(pairs)), [i for i, _ in pairs]] = 1.0
        design[np.arange(len(pairs)), [j for _, j in pairs]] = -1.0
        margins = np.array([(value[i, j] - value[j, i]) / 2 for i, j in pairs])
        strengths = np.linalg.lstsq(design, margins, rcond=None)[0]
        return [Score(float(s), 1) for s in strengths]

    async def _logit(self, messages: list[Message], positive: frozenset[str], negative: frozenset[str]) -> Score | None:
        """The logit of a chat's answer; None if it is neither."""
        dialect = self._dialect
        while True:
            body = {"model": self.config.model, "messages": dialect.messages(messages)} | dialect.options
            choice = (await self._post("/chat/completions", body)).choices[0]
            logits = (answer_logit(place.top_logprobs or [], positive, negative) for place in choice.places)
            logit = next((logit for logit in logits if logit is not None), None)
            if logit is None and choice.word in positive | negative:
                logit = TEXT_LOGIT if choice.word in positive else -TEXT_LOGIT
                dialect.given_up.setdefault("text", "without log-probabilities, an answer counts as 9 to 1")
            if logit is not None:
                self.clear += 1
                return Score(logit, 1)
            if not dialect.lengthen(choice, body):
                self._note_unclear(choice)
                return None

    def _note_unclear(self, choice: Choice) -> None:
        """Count an answer that cannot be read.

        Raises:
            OfflineError: nearly none can.
        """
        self.unclear += 1
        if self.unclear >= _UNUSABLE and self.clear < _FEW * (self.clear + self.unclear):
            text = str((choice.message.content if choice.message else None) or "")
            words = "A nor B" if self.style == "choose" else "Yes nor No"
            raise OfflineError(
                f"{self.unclear} of the first {self.clear + self.unclear} answers of {self.config.model} are neither"
                f" {words}, the last one {text[:80]!r}; none of these is kept. Use a model that follows instructions,"
                " or --style likelihood with a server that echoes"
            )

    async def _likelihood(self, ask: Ask) -> Answer:
        prefix = likelihood_prefix(self.scenario, ask.history, ask.name_only)
        prompts = [prefix + likelihood_continuation(c) for c in ask.candidates]
        options = {"temperature": 0, "max_tokens": 1, "echo": True, "logprobs": 1}
        body = {"model": self.config.model, "prompt": prompts} | options
        try:
            choices = (await self._post("/completions", body)).choices
        except _CapReachedError:
            return [None] * len(prompts)
        by_index = {choice.index: choice for choice in choices}
        return [self._echoed(by_index.get(i), len(prefix), len(prompt)) for i, prompt in enumerate(prompts)]

    def _echoed(self, choice: Choice | None, start: int, end: int) -> Score:
        logprobs = choice.logprobs if choice is not None else None
        offsets, values = (logprobs.text_offset, logprobs.token_logprobs) if logprobs is not None else (None, None)
        places = zip(offsets or [], values or [], strict=False)
        kept = [bounded(p) for offset, p in places if start <= offset < end and p is not None]
        if not kept:
            raise OfflineError(
                f"the server at {self.config.base_url} does not return log-probabilities of the prompt (echo);"
                " use --style judge, or a server that does"
            )
        return Score(sum(kept) / len(kept), len(kept))

    async def _post(self, path: str, body: dict[str, Any]) -> Completion:
        """The answer to a body; with chat options that the server refuses, to one with others."""
        estimate = sum(map(len, _texts(body))) // 4 + int(body.get("max_tokens", body.get("max_completion_tokens", 4)))
        attempt = limited = 0
        async with self._slots:
            while True:
                self._reserve(estimate)
                wait_s = self.config.backoff_s * 2**attempt * random.uniform(0.5, 1.5)
                try:
                    reply = await self._client.post(path.lstrip("/"), json=body)
                except httpx.RequestError as error:  # DecodingError too: a body that is not what its header says
                    problem = type(error).__name__
                    self.tokens -= estimate
                else:
                    if reply.is_success:
                        return self._read(reply, estimate)
                    self.tokens -= estimate
                    if "messages" in body and self._dialect.adapt(reply, body):
                        body = self._adapted(body)
                        continue
                    problem = self._problem(reply)
                    wait_s = max(min(wait_s, _LONGEST_WAIT_S), _retry_after_s(reply))
                if problem == f"HTTP {_RATE_LIMITED}" and limited < _MOST_RATE_LIMITS:
                    limited += 1  # it answers, and says when; to wait is what it asks for
                    wait_s = max(wait_s, min(_LONGEST_WAIT_S, self.config.backoff_s * 2**limited))
                elif attempt < self.config.max_retries:
                    attempt += 1
                else:
                    break
                await asyncio.sleep(wait_s)
        raise OfflineError(
            f"the server at {self.config.base_url} gave no answer in {attempt + limited + 1} tries ({problem}); "
            "what was judged is kept: run the same command again once it answers"
        )

    def _adapted(self, body: dict[str, Any]) -> dict[str, Any]:
        """Build the same question with the options that are left."""
        messages = [Message(message["role"], message["content"]) for message in body["messages"]]
        return {"model": body["model"], "messages": self._dialect.messages(messages)} | self._dialect.options

    def _reserve(self, estimate: int) -> None:
        """Count a call before it is made: with many in flight a cap checked afterwards would be overrun."""
        if self.config.max_calls is not None and self.calls >= self.config.max_calls:
            self.exhausted = f"the cap of {self.config.max_calls} calls is reached"
        if self.config.max_tokens is not None and self.tokens + estimate > self.config.max_tokens:
            self.exhausted = f"the cap of {self.config.max_tokens} tokens is reached"
        if self.exhausted is not None:
            raise _CapReachedError
        self.calls += 1
        self.tokens += estimate

    def _read(self, reply: httpx.Response, estimate: int) -> Completion:
        try:
            answer = read_completion(reply)
        except ValueError:
            raise OfflineError(f"the server at {self.config.base_url} does not answer in OpenAI's form") from None
        used = answer.usage.total_tokens if answer.usage is not None else None
        self.tokens += used - estimate if used is not None else 0
        return answer

    def _problem(self, reply: httpx.Response) -> str:
        if reply.status_code in _RETRIED:
            return f"HTTP {reply.status_code}"
        reason = _FATAL.get(reply.status_code)
        message = reason or " ".join(reply.text[:300].split())
        if self._secret:
            message = message.replace(self._secret, "***")
        hint = f" in ${self.config.api_key_env}; put a key of this server there" if reason == _FATAL[401] else ""
        raise OfflineError(f"the server at {self.config.base_url} answered HTTP {reply.status_code}: {message}{hint}")


def require_server(base_url: str) -> None:
    """Check that a server answers, before any work is done for it; any answer will do.

    Raises:
        OfflineError: nobody listens at this address.
    """
    try:
        httpx.get(base_url, timeout=5.0)
    except httpx.ConnectError:
        raise OfflineError(f"no server answers at --endpoint {base_url}; start it, or check the address") from None
    except (httpx.HTTPError, httpx.InvalidURL):  # the first question reports it
        pass


def _score_or_cap(result: Score | BaseException | None) -> Score | None:
    if result is None or isinstance(result, Score):
        return result
    if isinstance(result, _CapReachedError):
        return None
    raise result


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value if isinstance(value, list) else value.values():
            yield from _texts(part)


def _retry_after_s(reply: httpx.Response) -> float:
    try:
        return max(0.0, min(120.0, float(reply.headers.get("Retry-After", "0"))))  # NaN is 120
    except ValueError:
        return 0.0
