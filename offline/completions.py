"""Answers of an OpenAI-compatible server: the fields that are used, with their types checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import httpx
import msgspec

# Servers write a token that cannot come as -inf, -9999 or null; less than this is all the same, and would not be JSON.
LEAST_LOGPROB = -100.0
MAX_LOGIT = 12.0


class Alternative(msgspec.Struct, frozen=True):
    """A token that could have come, and the logarithm of its probability."""

    token: str
    logprob: float


class _Place(msgspec.Struct, frozen=True):
    top_logprobs: list[Alternative] | None = None


class Logprobs(msgspec.Struct, frozen=True):
    """`content` by chat completions, the others by completions with echo."""

    content: list[_Place] | None = None
    text_offset: list[int] | None = None
    token_logprobs: list[float | None] | None = None


class _Message(msgspec.Struct, frozen=True):
    content: Any = None  # a text, or parts of one


class Choice(msgspec.Struct, frozen=True):
    """One answer."""

    index: int = 0
    logprobs: Logprobs | None = None
    message: _Message | None = None

    @property
    def word(self) -> str:
        """The first word of a chat's answer, in lower case and without marks; empty if there is none."""
        words = str((self.message.content if self.message else None) or "").lower().split()
        return words[0].strip(".,!*'\"") if words else ""


class _Usage(msgspec.Struct, frozen=True):
    total_tokens: Annotated[int, msgspec.Meta(ge=0, le=10**9)] | None = None


class Completion(msgspec.Struct, frozen=True):
    """The body of a reply."""

    choices: Annotated[list[Choice], msgspec.Meta(min_length=1)]
    usage: _Usage | None = None


def read_completion(reply: httpx.Response) -> Completion:
    """The body of a reply.

    Raises:
        ValueError: it is not in OpenAI's form.
    """
    try:
        return msgspec.convert(reply.json(), Completion)  # not msgspec's JSON: some servers write NaN and -Infinity
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a completion: {error}") from None


def bounded(logprob: float) -> float:
    """A log-probability within what can be kept, from LEAST_LOGPROB to 0; not a number is the least."""
    return min(0.0, max(LEAST_LOGPROB, logprob)) if not math.isnan(logprob) else LEAST_LOGPROB


def answer_logit(alternatives: Sequence[Alternative], positive: str, negative: str) -> float | None:
    """log P(positive) - log P(negative) from a token's listed alternatives; None if neither is among them.

    An answer that is not listed is at most as probable as the least one that is.
    """
    mass = {positive: 0.0, negative: 0.0}
    for alternative in alternatives:
        word = alternative.token.strip().lower()
        if word in mass:
            mass[word] += math.exp(bounded(alternative.logprob))
    if not any(mass.values()):
        return None
    floor = min(math.exp(bounded(a.logprob)) for a in alternatives)
    high, low = (math.log(max(mass[word], floor, 1e-9)) for word in (positive, negative))
    return max(-MAX_LOGIT, min(MAX_LOGIT, high - low))
