"""Putting items: their texts are embedded as the policy in service reads texts, stored, and known here when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from service.api.errors import invalid, no_policy
from service.api.item_texts import warnings_of
from service.api.state import State
from service.contract.base import MAX_FIELDS
from service.contract.items import ItemBody, ItemPatch, ItemResponse
from service.policy.text import item_text
from service.store.catalogue import ItemRecord, pack_embedding
from service.store.properties import stored_properties


class Put(NamedTuple):
    """What became of an item that was put."""

    created: bool
    warnings: list[str]


async def put(items: Sequence[tuple[str, ItemBody]], state: State, replace: bool = True) -> list[Put]:
    """Store items by their ids, all or none. Without `replace` those that are there stay as they are.

    A text is embedded only if it is not what is stored already.

    Raises:
        Problem: 503, texts cannot be embedded: no policy is loaded yet, or its encoder is not installed.
    """
    live = state.watch.current
    if live is None:
        raise no_policy()
    stored = await state.watch.store.get_many([item_id for item_id, _ in items])
    texts = [item_text(item.text, item.categories) for _, item in items]
    embeddings = [
        one.embedding if not one.deleted and item_text(one.text, one.categories) == text else b""
        for one, text in zip(stored, texts, strict=True)
    ]
    missing = [n for n, embedding in enumerate(embeddings) if not embedding]
    warnings: list[list[str]] = [[] for _ in items]
    if missing:
        new = [texts[n] for n in missing]
        encoder = live.snapshot.manifest.text_encoder
        rows = await state.encoder.encode(encoder, new)
        told = await warnings_of(encoder, [items[n][0] for n in missing], new, rows, state)
        for n, row, codes in zip(missing, rows, told, strict=True):
            embeddings[n], warnings[n] = pack_embedding(row), codes
    records = [
        (item_id, _record(item, embedding)) for (item_id, item), embedding in zip(items, embeddings, strict=True)
    ]
    created = await state.watch.store.put(records, replace=replace)
    await state.watch.sync_catalogue()
    return [Put(*one) for one in zip(created, warnings, strict=True)]


def _record(item: ItemBody, embedding: bytes) -> ItemRecord:
    return ItemRecord(
        item.text,
        embedding,
        tuple(item.categories),
        item.hidden,
        properties=stored_properties(item.properties),
        available_from=item.available_from,
        available_until=item.available_until,
    )


def patched(record: ItemRecord, patch: ItemPatch) -> ItemBody:
    """Return an item with what a patch changes.

    Raises:
        Problem: 422, it would have too many properties.
    """
    given = patch.model_dump(exclude_unset=True)
    merged = {**record.properties, **given.pop("properties", {})}
    properties = {name: value for name, value in merged.items() if value is not None}
    if len(properties) > MAX_FIELDS:
        raise invalid([{"field": "properties", "code": "too_many", "message": f"would be more than {MAX_FIELDS}"}])
    kept = {name: list(value) if isinstance(value, tuple) else value for name, value in properties.items()}
    body = {
        "text": record.text,
        "categories": list(record.categories),
        "hidden": record.hidden,
        "available_from": record.available_from,
        "available_until": record.available_until,
        **{name: value for name, value in given.items() if value is not None or name.startswith("available")},
        "properties": kept,
    }
    return ItemBody.model_validate(body)


def response(item_id: str, record: ItemRecord) -> ItemResponse:
    """An item as it is answered."""
    return ItemResponse(
        item_id=item_id,
        text=record.text,
        categories=list(record.categories),
        hidden=record.hidden,
        properties=record.properties,
        available_from=record.available_from,
        available_until=record.available_until,
    )
