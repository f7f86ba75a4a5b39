"""Slates of a page's own, for when the service does not answer in time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from uuid import uuid4

from service.client.calls import NO_CONNECTION, ServiceError, Slate
from service.contract.base import DEFAULT_K
from service.contract.schemas import RecommendedItem, RecommendRequest

PAGE_S = 1.0  # that a page may wait for a slate
_NO_ANSWER = (NO_CONNECTION, "429")  # and what begins with a 5

Fallback = Callable[[RecommendRequest], Iterable[str]]  # ids of the items to show instead, best first


def instead(request: RecommendRequest, fallback: Fallback | None, error: ServiceError) -> Slate:
    """Make a slate of the fallback's items, without those that the request excludes.

    Feedback may name it: it joins the user's history, as feedback to any slate that no policy drew.

    Raises:
        ServiceError: there is no fallback, or the service answered: the request is wrong, or its API key.
    """
    if fallback is None or not (error.status in _NO_ANSWER or error.status.startswith("5")):
        raise error
    excluded = set(request.exclude_item_ids)
    ids = (item_id for item_id in dict.fromkeys(fallback(request)) if item_id not in excluded)
    return Slate(
        recommendation_id=f"{'f' * 11}{uuid4().hex[:21]}",  # as the service calls those that no policy drew
        policy_version=0,
        arm="fallback",
        items=[
            RecommendedItem(item_id=item_id, slot=slot, score=0.0, propensity=1.0, source="catalogue")
            for slot, item_id in enumerate(itertools.islice(ids, request.k or DEFAULT_K))
        ],
        warnings=[],
        fallback_reason=str(error),
    )
