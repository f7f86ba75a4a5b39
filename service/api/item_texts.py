"""What is told of the texts of put items: what the policy's encoder cannot read, or cannot tell apart."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from service.api.state import State
from service.policy.text import Embeddings, item_text, twins

UNREAD, SAME = "unread_text", "same_vector"
_COMPARED = 100  # items of a batch that are compared with the whole catalogue, at most


async def warnings_of(
    name: str, ids: Sequence[str], texts: Sequence[str], rows: Embeddings, state: State
) -> list[list[str]]:
    """Return the warnings of texts that the encoder `name` has just embedded as `rows` [n, TEXT_DIM], and count them.

    Only a text with something unknown is compared with others: one that is known is like another for a reason.
    """
    unknown = await state.encoder.unknown(name, texts)
    found: list[list[str]] = [[UNREAD] if share > 0.5 else [] for share in unknown]
    doubtful = [n for n, share in enumerate(unknown) if share > 0]
    if doubtful:
        same = _same_in_batch([texts[n] for n in doubtful], rows[doubtful])
        others = [n for n, twin in zip(doubtful, same, strict=True) if not twin][:_COMPARED]
        stored = await _same_as_stored([(ids[n], texts[n], rows[n]) for n in others], state)
        twinned = {n for n, twin in zip(doubtful, same, strict=True) if twin}
        for n in sorted(twinned.union(n for n, twin in zip(others, stored, strict=True) if twin)):
            found[n].append(SAME)
    for code in (UNREAD, SAME):
        if count := sum(code in codes for codes in found):
            state.metrics.item_warnings.labels(code).inc(count)
    return found


def _same_in_batch(texts: Sequence[str], rows: Embeddings) -> list[bool]:
    """Whether a different text of the batch has the same row."""
    first = {text: n for n, text in reversed(list(enumerate(texts)))}
    twinned = twins(rows[list(first.values())]) >= 0
    by_text = dict(zip(first, twinned.tolist(), strict=True))
    return [by_text[text] for text in texts]


async def _same_as_stored(items: Sequence[tuple[str, str, Embeddings]], state: State) -> list[bool]:
    """Whether another item that is shown has a different text and the same row; `items` are ids, texts and rows."""
    catalogue = state.watch.catalogue

    def compare() -> list[int | None]:
        return [catalogue.same(row.astype(np.float16), besides=item_id) for item_id, _, row in items]

    places = await asyncio.to_thread(compare)
    found = {place: catalogue.ids[place] for place in places if place is not None}
    records = dict(zip(found, await state.watch.store.get_many(list(found.values())), strict=True))
    texts = {place: item_text(record.text, record.categories) for place, record in records.items()}
    return [place is not None and texts[place] != text for place, (_, text, _) in zip(places, items, strict=True)]
