"""POST /preview"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np
from fastapi import APIRouter

from service.api.errors import no_policy
from service.api.guard import needs
from service.api.openapi import problems
from service.api.state import Shared, State
from service.conditions import read_condition
from service.contract.filters import Filters
from service.contract.preview import Comparison, PreviewedCategory, PreviewedItem, PreviewRequest, PreviewResponse
from service.contract.schemas import StoredInteraction
from service.policy.adaptive import Query
from service.policy.types import interactions, session_state
from service.policy.variants import Arm
from service.serving import preview as previews
from service.serving.loader import LivePolicy
from service.serving.preview import Preview
from service.serving.recommender import done_before, recently_seen
from service.serving.slates import History, Restrictions, SlateWarning, find_candidates
from service.store import sessions
from service.store.catalogue import Catalogue, ItemRecord
from service.store.events import Mask
from service.store.sessions import Session

router = APIRouter(tags=["serve"], route_class=needs("admin"))


@router.post("/preview", responses=problems(503))
async def preview(request: PreviewRequest, state: Shared) -> PreviewResponse:
    """Show what a user would be shown and how likely items and categories are. Nothing is logged or remembered."""
    user, session, history, seen = await _session(request, state)
    live, catalogue = state.watch.current, state.watch.catalogue
    if live is None:
        raise no_policy()
    baseline = [] if request.baseline is None else [state.history_of(request.baseline)]
    seen = [*seen, *(item_id for past in baseline for item_id, _ in past)]
    filters = request.filters or Filters()
    condition = read_condition(filters.where) if filters.where is not None else None
    restrictions = Restrictions(
        request.k,
        request.candidate_item_ids,
        [*request.exclude_item_ids, *done_before(session, catalogue, request.exclude_feedback_types)],
        filters.categories,
        condition,
        state.settings.repeat,
    )
    chosen = find_candidates(catalogue, seen, restrictions, time.time())
    arm = _arm(request, user, live, state)
    largest = live.policy.config.largest_reward
    queries = [
        Query(interactions(past, catalogue.index, largest), chosen.available, arm) for past in (history, *baseline)
    ]
    served, seed = live.policy.serve(queries), np.random.SeedSequence(request.seed)
    found = [await asyncio.to_thread(previews.preview, one, len(catalogue), request.k, seed) for one in served]
    rows = _rows(request, found, catalogue)
    every = sorted({row for some in rows.values() for row in some})
    records = await state.watch.store.get_many([catalogue.ids[row] for row in every])
    items = _items(dict(zip(every, records, strict=True)), found, catalogue)
    lists = {name: [items[row] for row in some] for name, some in rows.items()}
    more: list[SlateWarning] = ["fewer_items_than_k"] if len(lists["slate"]) < request.k else []
    unknown = set(request.exclude_feedback_types) - state.settings.rewards.keys()
    more += ["unknown_feedback_type"] if unknown else []
    return PreviewResponse(
        arm=arm.value,
        policy_version=live.version,
        history=[StoredInteraction(item_id=item_id, reward=reward) for item_id, reward in history],
        **{name: lists[name] for name in ("slate", "likeliest", "items")},
        categories=_categories(found, catalogue, chosen.available),
        comparison=_comparison(found, lists["more"], lists["less"]),
        warnings=[*chosen.warnings, *more],
    )


def _arm(request: PreviewRequest, user: str | None, live: LivePolicy, state: State) -> Arm:
    if live.is_frozen:
        return Arm.CONTROL
    if request.arm is not None:
        return Arm(request.arm)
    return Arm.ADAPTIVE if user is None else state.recommender.arm_of(user)


async def _session(request: PreviewRequest, state: State) -> tuple[str | None, Session, History, list[str]]:
    """Load who asks (None: a stranger), their session, their history as a policy sees it, and the items that are hidden
    since they have seen them."""
    user, session = None, Session((), (), 0)
    if request.user_id is not None or request.session_id is not None:
        user = sessions.user_key(request.user_id, request.session_id)
        session = await state.session(user)
    else:
        await state.watch.sync_catalogue()
    catalogue = state.watch.catalogue
    stored, seen = session.named(catalogue.ids)
    hidden = recently_seen(session, seen, catalogue, request.repeat_after_days, time.time())
    if request.history is None:
        return user, session, session_state(stored, seen, state.settings.shown_length), hidden
    return (
        user,
        session,
        state.history_of(request.history),
        [*hidden, *(past.item_id for past in request.history)],
    )


def _rows(request: PreviewRequest, found: Sequence[Preview], catalogue: Catalogue) -> dict[str, list[int]]:
    """Rows of the items of each list of the answer."""
    ours, baseline = found[0].in_slate, found[-1].in_slate
    return {
        "slate": found[0].slate,
        "likeliest": previews.largest(ours, request.k),
        "items": [catalogue.index[item] for item in dict.fromkeys(request.item_ids) if item in catalogue.index],
        "more": previews.largest(ours - baseline, request.k),
        "less": previews.largest(baseline - ours, request.k),
    }


def _items(records: dict[int, ItemRecord], found: Sequence[Preview], catalogue: Catalogue) -> dict[int, PreviewedItem]:
    return {
        row: PreviewedItem(
            item_id=catalogue.ids[row],
            text=record.text,
            categories=list(record.categories),
            probability=float(found[0].probs[row]),
            in_slate=float(found[0].in_slate[row]),
            baseline_in_slate=float(found[1].in_slate[row]) if len(found) > 1 else None,
        )
        for row, record in records.items()
    }


def _categories(found: Sequence[Preview], catalogue: Catalogue, available: Mask) -> list[PreviewedCategory]:
    return [
        PreviewedCategory(
            category=category, items=count, share=sums[0], baseline_share=sums[1] if len(sums) > 1 else None
        )
        for category, count, sums in previews.by_category(catalogue, available, [one.shares for one in found])
    ]


def _comparison(found: Sequence[Preview], more: list[PreviewedItem], less: list[PreviewedItem]) -> Comparison | None:
    if len(found) == 1:
        return None
    distance = previews.total_variation(found[0].shares, found[1].shares)
    return Comparison(total_variation=distance, more_likely=more, less_likely=less)
