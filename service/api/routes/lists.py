"""GET /similar/{item_id}, /bought-together/{item_id}, /popular, /trending and /new: the same lists for everybody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Path, Query

from service.api.errors import Problem, invalid
from service.api.guard import needs
from service.api.openapi import problems
from service.api.state import Shared, State
from service.conditions import Condition, read_condition
from service.contract.base import MAX_ID_BYTES, MAX_K, Id
from service.contract.lists import ListedItem, ListResponse
from service.policy.variants import Arm
from service.store.popularity import MOST_DAYS, Counts, Popularity
from service.store.together import FEWEST_USERS, Together, ending_types

router = APIRouter(tags=["lists"], route_class=needs("serve"))
_READ = 1_000  # most popular items that are looked at

Count = Annotated[int, Query(ge=1, le=MAX_K, description="Number of items.")]
Categories = Annotated[
    list[Annotated[str, Query(min_length=1, max_length=MAX_ID_BYTES)]],
    Query(max_length=100, description="Only items with any of these categories; may be repeated."),
]

WhereText = Annotated[
    str | None,
    Query(
        max_length=2_000,
        description='Only items whose properties fit, JSON as in `filters.where`: `{"price": {"<": 9}}`.',
    ),
]


def _condition(where: str | None) -> Condition | None:
    if where is None:
        return None
    try:
        return read_condition(msgspec.json.decode(where))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise invalid([{"field": "where", "code": "invalid_condition", "message": str(error)}]) from None


@router.get("/similar/{item_id:opaque}", responses=problems(404))
async def similar(
    item_id: Annotated[Id, Path(description="Opaque, any Unicode, at most 256 bytes.")],
    state: Shared,
    count: Count = 10,
    category: Categories = [],  # noqa: B006  FastAPI copies it
    where: WhereText = None,
) -> ListResponse:
    """Items like one: by what the policy has learned of both and by their texts, closest first."""
    place = await _place(item_id, state)
    live, catalogue = state.watch.current, state.watch.catalogue
    shown = _shown(state, category, _condition(where))
    shown[place] = False
    rows = np.flatnonzero(shown)

    def closeness() -> npt.NDArray[np.floating]:
        if live is not None:
            arm = Arm.CONTROL if live.is_frozen else Arm.ADAPTIVE
            return live.policy.closeness(rows, np.array([place]), arm)[:, 0]
        texts = catalogue.embeddings.array
        return np.asarray(texts[rows].astype(np.float32) @ texts[place].astype(np.float32))

    close = await asyncio.to_thread(closeness)
    best = np.argsort(-close, kind="stable")[:count]
    return await _listed(state, rows[best].tolist(), [float(score) for score in close[best]])


@router.get("/bought-together/{item_id:opaque}", responses=problems(404))
async def bought_together(
    item_id: Annotated[Id, Path(description="Opaque, any Unicode, at most 256 bytes.")],
    state: Shared,
    count: Count = 10,
    category: Categories = [],  # noqa: B006
    where: WhereText = None,
) -> ListResponse:
    """Items that users who bought this one bought, too: with feedback of a type that ends a visit (`purchase`, or
    `IALP_ENDING_TYPES`). At least two users must have both."""
    place = await _place(item_id, state)
    beside = await Together(state.redis, state.keys).beside(place)
    shown = _shown(state, category, _condition(where))
    kept = [(other, score) for other, score in beside if other < len(shown) and shown[other]][:count]
    listed = await _listed(state, [other for other, _ in kept], [score for _, score in kept])
    if beside:
        return listed
    types = ", ".join(ending_types(state.settings)) or "none is set (IALP_ENDING_TYPES)"
    waits_for = f"{FEWEST_USERS} users with feedback about this item and another; of types that end a visit: {types}"
    return listed.model_copy(update={"waits_for": waits_for})


async def _place(item_id: str, state: State) -> int:
    """Place of an item that is there, in a catalogue that is up to date."""
    await _catch_up(state)
    catalogue = state.watch.catalogue
    place = catalogue.index.get(item_id, len(catalogue))
    if place >= len(catalogue) or await state.watch.store.get(item_id) is None:
        raise Problem(HTTPStatus.NOT_FOUND, "unknown_item", "There is no such item.")
    return place


@router.get("/popular")
async def popular(
    state: Shared,
    count: Count = 10,
    category: Categories = [],  # noqa: B006
    where: WhereText = None,
    days: Annotated[int | None, Query(ge=1, le=MOST_DAYS, description="Of the last days (UTC); since ever.")] = None,
) -> ListResponse:
    """Items that earned the most responses, first the one with most, among the 1,000 that earned most of all."""
    ranked = await Popularity(state.redis, state.keys).most(_READ, days)
    return await _of_ranked(state, ranked, count, category, where)


@router.get("/trending")
async def trending(
    state: Shared,
    count: Count = 10,
    category: Categories = [],  # noqa: B006
    where: WhereText = None,
    days: Annotated[int, Query(ge=1, le=MOST_DAYS // 4, description="What counts as now, days (UTC).")] = 1,
) -> ListResponse:
    """Items that earn more responses now than before: as many days are compared with the four times as many before
    them. `score` is the difference in standard deviations of what chance would do."""
    ranked = await Popularity(state.redis, state.keys).trending(_READ, days)
    return await _of_ranked(state, ranked, count, category, where)


async def _of_ranked(
    state: State, ranked: Counts, count: int, categories: Iterable[str], where: str | None
) -> ListResponse:
    """List the first `count` of `ranked` that may be listed."""
    await _catch_up(state)
    catalogue, shown = state.watch.catalogue, _shown(state, categories, _condition(where))
    found = [(catalogue.index.get(item, len(catalogue)), score) for item, score in ranked]
    kept = [(place, score) for place, score in found if place < len(catalogue) and shown[place]][:count]
    return await _listed(state, [place for place, _ in kept], [score for _, score in kept])


@router.get("/new")
async def newest(state: Shared, count: Count = 10, category: Categories = [], where: WhereText = None) -> ListResponse:  # noqa: B006
    """Items in the order in which they came into the catalogue, the latest first."""
    await _catch_up(state)
    places = np.flatnonzero(_shown(state, category, _condition(where)))[::-1][:count].tolist()
    return await _listed(state, places, None)


async def _catch_up(state: State) -> None:
    """Take in the catalogue's changes, so that what was hidden is not listed any more."""
    await state.watch.sync_catalogue(int(await state.redis.get(state.keys.item_seq) or 0))


def _shown(state: State, categories: Iterable[str], where: Condition | None) -> npt.NDArray[np.bool_]:
    """[A] whether an item may be listed."""
    catalogue = state.watch.catalogue
    shown = catalogue.available(time.time()).copy()
    if chosen := list(categories):
        shown &= catalogue.in_categories(chosen)
    if where is not None:
        shown &= catalogue.fits(where)
    return shown


async def _listed(state: State, places: list[int], scores: list[float] | None) -> ListResponse:
    ids = [state.watch.catalogue.ids[place] for place in places]
    records = await state.watch.store.get_many(ids)
    items = [
        ListedItem(
            item_id=ids[n],
            text=record.text,
            categories=list(record.categories),
            properties=record.properties,
            score=None if scores is None else scores[n],
        )
        for n, record in enumerate(records)
    ]
    live = state.watch.current
    return ListResponse(items=items, policy_version=live.version if live is not None else 0)
