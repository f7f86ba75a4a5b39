"""Finding items by the words of their texts."""

from __future__ import annotations

import math
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


def closest(query: str, texts: Sequence[str]) -> list[int]:
    """Places of all texts, which come closest in meaning first; those that have rare words of the query are put before.

    Each counts with the square of its share of the query's words, as rare as these are (inverse document frequency;
    Spärck Jones 1972), so that common ones hardly do, and with a quarter of the reciprocal of its rank by meaning. The
    mixture is ours.
    """
    words = [set(words_of(text)) for text in texts]
    having = {word: {n for n, theirs in enumerate(words) if word in theirs} for word in dict.fromkeys(words_of(query))}
    rarity = {word: math.log((1 + len(texts)) / (1 + len(found))) for word, found in having.items() if found}
    total = sum(rarity.values()) or 1.0

    def worth(place: int) -> float:
        share = sum(weight for word, weight in rarity.items() if place in having[word]) / total
        return share**2 + 0.25 / (1 + place)

    return sorted(range(len(texts)), key=worth, reverse=True)
