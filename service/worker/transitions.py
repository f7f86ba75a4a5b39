"""Turn what was logged into what the learner takes: closed impressions, and likes that came by themselves."""

from __future__ import annotations

import hashlib

import numpy as np

from service.policy.context import features_of
from service.policy.organic import organic_transition
from service.policy.types import MAX_NAMED, Transition, interactions, response_of
from service.store.events import Feedback, Impression, decode_mask
from service.store.joiner import OpenImpression
from service.worker.recent import History


def transition_of(closed: OpenImpression, index: dict[str, int], gamma: float, largest: float) -> Transition:
    """A closed impression as the learner takes it; items without a row are left out. `largest` is the reward of a full
    response."""
    impression = closed.impression
    history = tuple(interactions(impression.history, index, largest))
    kept = [slot for slot, item in enumerate(impression.items) if item in index and slot not in impression.pinned]
    rewards, went_on = closed.slot_rewards, closed.next_history
    return Transition(
        history=history,
        actions=tuple(index[impression.items[slot]] for slot in kept),
        rewards=tuple(rewards[slot] for slot in kept),
        propensities=tuple(impression.propensities[slot] for slot in kept),
        discount=0.0 if closed.next_history is None and not closed.ended_by else gamma,
        next_history=history if went_on is None else tuple(interactions(went_on, index, largest)),
        turn=closed.turn,
        owner=owner_of(closed.whose),
        only=_only(impression, index),
        context=features_of(impression.context),
    )


def organic_of(like: Feedback, history: History, index: dict[str, int], largest: float) -> Transition | None:
    """A like that came by itself, after its user's `history`, as the learner takes it; None if it teaches nothing: its
    reward is not positive, its item has no row, or the history has it as liked as much already."""
    item = index.get(like.item_id)
    if like.reward <= 0 or item is None or dict(history).get(like.item_id, 0.0) >= like.reward:
        return None
    before = interactions([past for past in history if past[0] != like.item_id], index, largest)
    return organic_transition(tuple(before), item, owner_of(like.user), response_of(like.reward, largest))


def _only(impression: Impression, index: dict[str, int]) -> tuple[int, ...]:
    """Return what could be shown, if the request or its filters named it and it is not too much to keep."""
    masked = {index[item] for item in impression.masked if item in index}
    if impression.allowed is not None:  # places in the catalogue are the learner's rows
        rows = np.flatnonzero(decode_mask(impression.allowed, len(index))).tolist()
    elif impression.candidates is not None:
        rows = [index[item] for item in impression.candidates if item in index]
    else:
        return ()
    return tuple(row for row in rows if row not in masked) if len(rows) <= MAX_NAMED else ()


def owner_of(user: str) -> int:
    """A number that stands for a user in the replay, so that what is theirs can be found and erased."""
    return int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8).digest(), "big", signed=True)
