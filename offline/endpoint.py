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

from offline.completions import Choice, Completion, answer_logit, bounded, read_completion
from offline.datasets import Scenario
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
        self.calls = self.tokens = self.unclear = 0
        key = os.environ.get(config.api_key_env, "")
        self._secret = key
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=config.timeout_s,
            transport=transport,
        )
        # What this server was found not to accept is not sent again.
        self._chat_options: dict[str, Any] = {"temperature": 0, "max_tokens": 4, "logprobs": True, "top_logprobs": 20}
        self._slots = asyncio.Semaphore(config.concurrency)
        self._runner = asyncio.Runner()

    def __repr__(self) -> str:
        return f"EndpointLLM({self.model_id!r}, {self.style!r})"

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
        results = await asyncio.gather(*(self._logit(m, "yes", "no") for m in messages), return_exceptions=True)
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
        results = await asyncio.gather(*(self._logit(m, "a", "b") for m in messages), return_exceptions=True)
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

    async def _logit(self, messages: list[Message], positive: str, negative: str) -> Score:
        body = {"model": self.config.model, "messages": [m._asdict() for m in messages]}
        choice = (await self._post("/chat/completions", body, self._chat_options)).choices[0]
        listed = (choice.logprobs.content if choice.logprobs else None) or []
        for place in listed[:3]:
            logit = answer_logit(place.top_logprobs or [], positive, negative)
            if logit is not None:
                return Score(logit, 1)
        word = choice.word
        if word not in (positive, negative):
            self.unclear += 1
        return Score({positive: TEXT_LOGIT, negative: -TEXT_LOGIT}.get(word, 0.0), 1)

    async def _likelihood(self, ask: Ask) -> Answer:
        prefix = likelihood_prefix(self.scenario, ask.history, ask.name_only)
        prompts = [prefix + likelihood_continuation(c) for c in ask.candidates]
        body = {"model": self.config.model, "prompt": prompts}
        options = {"temperature": 0, "max_tokens": 1, "echo": True, "logprobs": 1}
        try:
            choices = (await self._post("/completions", body, options)).choices
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

    async def _post(self, path: str, body: dict[str, Any], options: dict[str, Any]) -> Completion:
        estimate = sum(map(len, _texts(body))) // 4 + int(options.get("max_tokens", 4))
        async with self._slots:
            for attempt in range(self.config.max_retries + 1):
                self._reserve(estimate)
                wait_s = self.config.backoff_s * 2**attempt * random.uniform(0.5, 1.5)
                try:
                    reply = await self._client.post(path.lstrip("/"), json=body | options)
                except httpx.RequestError as error:  # DecodingError too: a body that is not what its header says
                    problem = type(error).__name__
                    self.tokens -= estimate
                else:
                    if reply.is_success:
                        return self._read(reply, estimate)
                    self.tokens -= estimate
                    if self._adapt(reply, options):
                        continue
                    problem = self._problem(reply)
                    wait_s = max(wait_s, _retry_after_s(reply))
                if attempt < self.config.max_retries:
                    await asyncio.sleep(wait_s)
        raise OfflineError(
            f"the server at {self.config.base_url} gave no answer in {attempt + 1} tries ({problem}); "
            "what was judged is kept: run the same command again once it answers"
        )

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

    def _adapt(self, reply: httpx.Response, options: dict[str, Any]) -> bool:
        """Drop or rename the option that this server says it does not know; False if it complains of another."""
        if reply.status_code not in (400, 422):
            return False
        if "max_completion_tokens" in reply.text and "max_tokens" in options:
            options["max_completion_tokens"] = options.pop("max_tokens")
            return True
        refused = [name for name in ("top_logprobs", "logprobs", "temperature") if name in reply.text]
        dropped = [options.pop(name) for name in refused if name in options and "echo" not in options]
        return bool(dropped)

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


def _score_or_cap(result: Score | BaseException) -> Score | None:
    if isinstance(result, Score):
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
