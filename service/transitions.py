"""Joins impressions with the feedback they got, and closes them into transitions when the reward window is over.

Time is the log's own (the stream ids' clock), so that the result is a function of the log alone. An impression closes
when the log has moved on by a reward window: then silence means no reward. It also closes after so many further
entries, since the ids of a server whose clock jumped ahead and back stand still until it has caught up. Its next state
is the history of the same user's next impression, if that came within the window; otherwise the session ended there.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum

import msgspec

from service.events import Feedback, Impression
from service.policy.organic import organic_transition
from service.policy.types import MAX_NAMED, Interaction, Response, Transition
from service.recent import History
from service.sessions import joined


class Joined(StrEnum):
    """What became of a feedback event."""

    JOINED = "joined"  # rewards a slot of an open impression
    ORGANIC = "organic"  # names no impression
    LATE = "late"  # its impression is closed: the reward window was over
    ORPHAN = "orphan"  # its impression is unknown, or closed so long ago that it is forgotten
    MISMATCHED = "mismatched"  # its impression was another user's, or did not show this item


_REMEMBERED = 10_000  # closed impressions whose ids are known


class OpenImpression(msgspec.Struct):
    """An impression that still waits for feedback."""

    impression: Impression
    at_ms: int
    place: int  # how many entries of the log came before
    rewards: dict[str, float] = {}  # best reward by item
    next_history: tuple[tuple[str, float], ...] | None = None
    turn: int = 0  # how many impressions of the session came before

    @property
    def slot_rewards(self) -> tuple[float, ...]:
        """Reward of each slot; silence is 0."""
        return tuple(self.rewards.get(item, 0.0) for item in self.impression.items)


class Joiner:
    """All open impressions, oldest first."""

    def __init__(self, reward_window_s: float, reward_window_entries: int = 2**62) -> None:
        self._window_ms, self._window_entries = int(reward_window_s * 1000), reward_window_entries
        self._open: dict[str, OpenImpression] = {}
        self._latest: dict[str, str] = {}  # user -> their latest open impression
        self._closed: dict[str, None] = {}  # ids, oldest first

    def __len__(self) -> int:
        return len(self._open)

    def add_impression(self, impression: Impression, at_ms: int, place: int = 0) -> bool:
        """Open an impression; it is the next state of the user's previous one. False, and nothing happens, if the log
        had it before (an entry that was set aside and replayed twice)."""
        if impression.recommendation_id in self._open or impression.recommendation_id in self._closed:
            return False
        previous = self._open.get(self._latest.get(impression.user, ""))
        turn = 0
        if previous is not None:
            previous.next_history = impression.history
            turn = previous.turn + 1
        self._open[impression.recommendation_id] = OpenImpression(impression, at_ms, place, turn=turn)
        self._latest[impression.user] = impression.recommendation_id
        return True

    def add_feedback(self, feedback: Feedback) -> Joined:
        """Credit a slot; of several responses to one item, see `joined`."""
        if feedback.recommendation_id is None:
            return Joined.ORGANIC
        waiting = self._open.get(feedback.recommendation_id)
        if waiting is None:
            return Joined.LATE if feedback.recommendation_id in self._closed else Joined.ORPHAN
        if waiting.impression.user != feedback.user or feedback.item_id not in waiting.impression.items:
            return Joined.MISMATCHED
        known = waiting.rewards.get(feedback.item_id)
        waiting.rewards[feedback.item_id] = joined(known, feedback.reward)
        return Joined.JOINED

    def erase(self, user: str) -> None:
        """Drop what is open of a user; nothing is learned from it."""
        for recommendation_id in [key for key, o in self._open.items() if o.impression.user == user]:
            del self._open[recommendation_id]
        self._latest.pop(user, None)

    def close(self, now_ms: int, place: int = 0) -> list[OpenImpression]:
        """Take out the impressions whose window is over at `now_ms`, `place` entries into the log, oldest first."""
        closed = []
        for recommendation_id, waiting in self._open.items():
            if waiting.at_ms + self._window_ms > now_ms and waiting.place + self._window_entries > place:
                break
            closed.append(waiting)
            if self._latest.get(waiting.impression.user) == recommendation_id:
                del self._latest[waiting.impression.user]
        for waiting in closed:
            del self._open[waiting.impression.recommendation_id]
            self._closed[waiting.impression.recommendation_id] = None
        while len(self._closed) > _REMEMBERED:
            del self._closed[next(iter(self._closed))]
        return closed

    def dump(self) -> tuple[list[OpenImpression], list[str]]:
        """What is open, and the ids of what was closed, for a checkpoint."""
        return list(self._open.values()), list(self._closed)

    def restore(self, waiting: list[OpenImpression], closed: list[str]) -> None:
        """Take over what `dump` gave."""
        self._open = {o.impression.recommendation_id: o for o in waiting}
        self._latest = {o.impression.user: o.impression.recommendation_id for o in waiting}
        self._closed = dict.fromkeys(closed)


def transition_of(closed: OpenImpression, index: dict[str, int], gamma: float) -> Transition:
    """A closed impression as the learner takes it; items without a row are left out."""
    impression = closed.impression
    kept = [slot for slot, item in enumerate(impression.items) if item in index]
    rewards = closed.slot_rewards
    return Transition(
        history=_history(impression.history, index),
        actions=tuple(index[impression.items[slot]] for slot in kept),
        rewards=tuple(rewards[slot] for slot in kept),
        propensities=tuple(impression.propensities[slot] for slot in kept),
        discount=0.0 if closed.next_history is None else gamma,
        next_history=_history(closed.next_history or (), index),
        turn=closed.turn,
        owner=owner_of(impression.user),
        only=_only(impression, index),
    )


def organic_of(like: Feedback, history: History, index: dict[str, int]) -> Transition | None:
    """A like that came by itself, after its user's `history`, as the learner takes it; None if it teaches nothing: its
    reward is not positive, its item has no row, or the history has it as liked already. Rewards above 0 count alike."""
    item = index.get(like.item_id)
    if like.reward <= 0 or item is None or any(past == like.item_id and reward > 0 for past, reward in history):
        return None
    before = _history(tuple(past for past in history if past[0] != like.item_id), index)
    return organic_transition(before, item, owner_of(like.user))


def _only(impression: Impression, index: dict[str, int]) -> tuple[int, ...]:
    """What could be shown, if the request or its filters named it and it is not too much to keep."""
    if impression.candidates is None or len(impression.candidates) > MAX_NAMED:
        return ()
    masked = set(impression.masked)
    return tuple(index[item] for item in impression.candidates if item in index and item not in masked)


def owner_of(user: str) -> int:
    """A number that stands for a user in the replay, so that what is theirs can be found and erased."""
    return int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8).digest(), "big", signed=True)


def _history(history: History, index: dict[str, int]) -> tuple[Interaction, ...]:
    return tuple(Interaction(index[item], Response.of(reward)) for item, reward in history if item in index)
