"""Finding items by the words of their texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """Split a text into words, without case, accents and punctuation."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return _WORD.findall(plain.casefold())


def matching(query: str, texts: Sequence[str]) -> list[int]:
    """Places of the texts that have all words of the query, or words that begin with them; best match first.

    Best are texts that are the query, then those that begin with it, then those with its very words. Equally good ones
    keep their order.
    """
    sought = words_of(query)
    if not sought:
        return []
    ranked = [(_rank(sought, words_of(text)), place) for place, text in enumerate(texts)]
    return [place for rank, place in sorted(ranked) if rank < _NO_MATCH]


_NO_MATCH = 4


def _rank(sought: list[str], words: list[str]) -> int:
    if words == sought:
        return 0
    if words[: len(sought)] == sought:
        return 1
    if set(sought) <= set(words):
        return 2
    return 3 if all(any(word.startswith(part) for word in words) for part in sought) else _NO_MATCH
