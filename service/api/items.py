"""Putting items: their texts are embedded as the policy in service reads texts, stored, and known here when it ends."""

from __future__ import annotations

from collections.abc import Sequence

from service.api.errors import no_policy
from service.api.state import State
from service.contract.schemas import ItemBody
from service.policy.text import item_text
from service.store.catalogue import ItemRecord, pack_embedding


async def put(items: Sequence[tuple[str, ItemBody]], state: State, replace: bool = True) -> list[bool]:
    """Store items by their ids, all or none; True where one is new. Without `replace` the others stay as they are.

    Raises:
        Problem: 503, no policy is loaded, so texts cannot be embedded yet.
    """
    live = state.watch.current
    if live is None:
        raise no_policy()
    texts = [item_text(item.text, item.categories) for _, item in items]
    embeddings = await state.encoder.encode(live.snapshot.manifest.text_encoder, texts)
    records = [
        (item_id, ItemRecord(item.text, pack_embedding(row), tuple(item.categories), item.hidden))
        for (item_id, item), row in zip(items, embeddings, strict=True)
    ]
    created = await state.watch.store.put(records, replace=replace)
    await state.watch.sync_catalogue()
    return created
