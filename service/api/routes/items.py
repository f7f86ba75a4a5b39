"""GET /items, PUT, GET and DELETE /items/{item_id}, POST /items:batch"""

from __future__ import annotations

import asyncio
from collections import Counter
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from service.api import items
from service.api.errors import Problem, invalid
from service.api.guard import needs
from service.api.openapi import problems
from service.api.search import closest, matching
from service.api.state import Shared, State
from service.contract.base import Id
from service.contract.items import (
    ItemBatch,
    ItemBatchResponse,
    ItemBody,
    ItemPatch,
    ItemResponse,
    PutItemResponse,
)
from service.contract.operator import ItemsResponse
from service.store.catalogue import ItemRecord

router = APIRouter(tags=["items"], route_class=needs("admin"))
_SEARCHED = 2_000  # items
ItemId = Annotated[Id, Path(description="Opaque, any Unicode, at most 256 bytes.")]


@router.put("/items/{item_id:opaque}", responses={201: {"description": "Created", "model": PutItemResponse}})
async def put_item(item_id: ItemId, item: ItemBody, response: Response, state: Shared) -> PutItemResponse:
    """Create or replace an item. It can be recommended, or is hidden, from the very next answer on."""
    (put,) = await items.put([(item_id, item)], state)
    response.status_code = HTTPStatus.CREATED if put.created else HTTPStatus.OK
    return PutItemResponse(item_id=item_id, warnings=put.warnings, **item.model_dump())


@router.post("/items:batch")
async def put_items(batch: ItemBatch, state: Shared) -> ItemBatchResponse:
    """Create or replace many items, all or none."""
    ids = [item.item_id for item in batch.items]
    if len(set(ids)) < len(ids):
        repeated = next(n for n, item_id in enumerate(ids) if item_id in ids[:n])
        raise invalid([{"field": f"items.{repeated}.item_id", "code": "repeated_id", "message": "comes twice"}])
    put = await items.put([(item.item_id, item) for item in batch.items], state)
    created = sum(one.created for one in put)
    warnings = Counter(code for one in put for code in one.warnings)
    return ItemBatchResponse(created=created, updated=len(put) - created, warnings=warnings)


@router.get("/items")
async def list_items(
    state: Shared,
    search: Annotated[
        str | None,
        Query(
            max_length=200,
            description="Items whose texts have all of these words; if there are none, those that have some of them or "
            "are close in meaning.",
        ),
    ] = None,
    hidden: Annotated[bool, Query(description="With `search`: hidden items, too. Without it they always are.")] = False,
    after: Annotated[
        Id | None, Query(description="Only later items; the last page's `next`. Not with `search`.")
    ] = None,
    count: Annotated[int, Query(ge=1, le=100)] = 20,
) -> ItemsResponse:
    """Items in the catalogue's order, or best match first.

    A large catalogue is searched for words among the 2,000 items that are closest in meaning.
    """
    if search is not None:
        return await _found(search, count, hidden, state)
    catalogue = state.watch.catalogue
    start = catalogue.index.get(after, len(catalogue)) + 1 if after is not None else 0
    ids = catalogue.ids[start : min(len(catalogue), start + count)]
    following = ids[-1] if ids and start + len(ids) < len(catalogue) else None
    records = zip(ids, await state.watch.store.get_many(ids), strict=True)
    return ItemsResponse(
        items=[items.response(i, record) for i, record in records if not record.deleted], next=following
    )


async def _found(text: str, count: int, hidden: bool, state: State) -> ItemsResponse:
    live, catalogue = state.watch.current, state.watch.catalogue
    if live is None:
        return ItemsResponse(items=[], next=None)
    encoded = await state.encoder.encode(live.snapshot.manifest.text_encoder, [text])
    rows = await asyncio.to_thread(catalogue.nearest, encoded[0], max(count, _SEARCHED), hidden)
    ids = [catalogue.ids[row] for row in rows]
    records = await state.watch.store.get_many(ids)
    texts = [record.text for record in records]
    by_words = matching(text, texts)
    places = by_words or closest(text, texts)
    found = [items.response(ids[n], records[n]) for n in places if not records[n].deleted]
    return ItemsResponse(items=found[:count], next=None, found_by="words" if by_words else "meaning")


@router.get("/items/{item_id:opaque}", responses=problems(404))
async def get_item(item_id: ItemId, state: Shared) -> ItemResponse:
    """An item as stored."""
    return items.response(item_id, await _existing(item_id, state))


@router.patch("/items/{item_id:opaque}", responses=problems(404))
async def patch_item(item_id: ItemId, patch: ItemPatch, state: Shared) -> PutItemResponse:
    """Change some of an item, such as its price or stock: what is not given stays, a property that is null goes.

    Of two patches of one item at the same time one may be lost; an item has one writer.
    """
    body = items.patched(await _existing(item_id, state), patch)
    (put,) = await items.put([(item_id, body)], state)
    stored = items.response(item_id, await _existing(item_id, state))
    return PutItemResponse(warnings=put.warnings, **stored.model_dump())


@router.delete("/items/{item_id:opaque}", status_code=HTTPStatus.NO_CONTENT, responses=problems(404))
async def delete_item(item_id: ItemId, state: Shared) -> None:
    """Remove an item: it is not shown any more. Its id keeps its place, so that what was learned of it stays valid."""
    record = await _existing(item_id, state)
    await state.watch.store.put([(item_id, ItemRecord("", record.embedding, deleted=True))])
    await state.watch.sync_catalogue()


async def _existing(item_id: str, state: State) -> ItemRecord:
    record = await state.watch.store.get(item_id)
    if record is None:
        raise Problem(HTTPStatus.NOT_FOUND, "unknown_item", "There is no such item.")
    return record
