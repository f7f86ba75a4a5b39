"""Answers of an OpenAI-compatible server: the fields that are used, with their types checked."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from typing import Annotated, Any

import httpx
import msgspec

# Servers write a token that cannot come as -inf, -9999 or null; less than this is all the same, and would not be JSON.
LEAST_LOGPROB = -100.0
MAX_LOGIT = 12.0
YES = frozenset("yes y ja oui sí si sim tak evet да はい 是 会 네 예 نعم हाँ".split())  # noqa: SIM905
NO = frozenset("no n nein nee nej non não nie hayır нет いいえ 否 不 不是 不会 아니요 아니오 لا नहीं".split())  # noqa: SIM905
"""Words by which models agree and disagree; asked in English, some answer in the language of the items."""

_THINKS, _THOUGHT = "<think>", "</think>"
_MARKS = ".,:;!?*'\"\u3002\uff01\uff0c"
_FIRST_TOKENS = 3  # of an answer, among which its word is looked for: marks and blanks may come before it


class Alternative(msgspec.Struct, frozen=True):
    """A token that could have come, and the logarithm of its probability."""

    token: str
    logprob: float


class Place(msgspec.Struct, frozen=True):
    """A token of an answer, and what else could have come there."""

    token: str = ""
    top_logprobs: list[Alternative] | None = None


class Logprobs(msgspec.Struct, frozen=True):
    """`content` by chat completions, the others by completions with echo."""

    content: list[Place] | None = None
    text_offset: list[int] | None = None
    token_logprobs: list[float | None] | None = None


class _Message(msgspec.Struct, frozen=True):
    content: Any = None  # a text, or parts of one


class Choice(msgspec.Struct, frozen=True):
    """One answer."""

    index: int = 0
    logprobs: Logprobs | None = None
    message: _Message | None = None
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        """A chat's answer after what the model thought aloud; empty if it only thought."""
        text = str((self.message.content if self.message else None) or "")
        return text.rpartition(_THOUGHT)[2] if _THOUGHT in text else "" if _THINKS in text else text

    @property
    def word(self) -> str:
        """The first word of a chat's answer, in lower case and without marks; empty if there is none."""
        words = self.text.lower().split()
        return words[0].strip(_MARKS) if words else ""

    @property
    def places(self) -> list[Place]:
        """Tokens of a chat's answer after what the model thought aloud, the first few."""
        listed = (self.logprobs.content if self.logprobs else None) or []
        ends = [n for n, place in enumerate(listed) if _THOUGHT in place.token]
        start = ends[-1] + 1 if ends else 0
        return listed[start : start + _FIRST_TOKENS] if self.text or not self.message else []


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


def answer_logit(alternatives: Sequence[Alternative], positive: Set[str], negative: Set[str]) -> float | None:
    """log P(positive) - log P(negative) from a token's listed alternatives; None if no word of either is among them.

    An answer that is not listed is at most as probable as the least one that is.
    """
    high = low = 0.0
    for alternative in alternatives:
        word, mass = alternative.token.strip().lower(), math.exp(bounded(alternative.logprob))
        high += mass * (word in positive)
        low += mass * (word in negative)
    if not high and not low:
        return None
    floor = max(min(math.exp(bounded(a.logprob)) for a in alternatives), 1e-9)
    return max(-MAX_LOGIT, min(MAX_LOGIT, math.log(max(high, floor)) - math.log(max(low, floor))))
