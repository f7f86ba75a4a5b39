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
    wanted = words_of(query)
    if not wanted:
        return []
    ranked = [(_rank(wanted, words_of(text)), place) for place, text in enumerate(texts)]
    return [place for rank, place in sorted(ranked) if rank < _NO_MATCH]


_NO_MATCH = 4


def _rank(wanted: list[str], words: list[str]) -> int:
    if words == wanted:
        return 0
    if words[: len(wanted)] == wanted:
        return 1
    if set(wanted) <= set(words):
        return 2
    return 3 if all(any(word.startswith(part) for word in words) for part in wanted) else _NO_MATCH
