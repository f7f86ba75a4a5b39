"""Joins impressions with the feedback they got, and closes them into transitions when the reward window is over.

Time is the log's own (the stream ids' clock), so that the result is a function of the log alone. An impression closes
when the log has moved on by a reward window: then silence means no reward. It also closes after so many further
entries, since the ids of a server whose clock jumped ahead and back stand still until it has caught up. Its next state
is the history of the same user's next impression, if that came within the window; otherwise the session ended there.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from service.store.events import Feedback, Impression
from service.store.sessions import Reaction, is_visitor, joined


class Joined(StrEnum):
    """Outcome of a feedback event."""

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
    reactions: dict[str, Reaction] = msgspec.field(default_factory=dict, name="said")  # by item
    next_history: tuple[tuple[str, float], ...] | None = None
    turn: int = 0  # how many impressions of the session came before
    user: str = ""  # whose it is by now, if a visitor turned out to be a user
    ended_by: list[str] = []  # items with a response that ends a visit: nobody is to blame if nothing follows

    @property
    def whose(self) -> str:
        """The user key that it belongs to."""
        return self.user or self.impression.user

    def undo(self, item: str, at: float) -> None:
        """Take back the reaction to an item, if it is not later than a time, unix seconds."""
        if item in self.reactions and self.reactions[item].at <= at:
            del self.reactions[item]
            self.ended_by = [other for other in self.ended_by if other != item]

    @property
    def slot_rewards(self) -> tuple[float, ...]:
        """Reward of each slot; silence is 0."""
        return tuple(self.reactions[item].reward if item in self.reactions else 0.0 for item in self.impression.items)


class Joiner:
    """All open impressions, oldest first."""

    def __init__(self, reward_window_s: float, reward_window_entries: int = 2**62) -> None:
        self._window_ms, self._window_entries = int(reward_window_s * 1000), reward_window_entries
        self._open: dict[str, OpenImpression] = {}
        self._of: dict[str, list[str]] = {}  # user -> their open impressions, oldest first
        self._closed: dict[str, None] = {}  # ids, oldest first

    def __len__(self) -> int:
        return len(self._open)

    def add_impression(self, impression: Impression, at_ms: int, place: int = 0) -> bool:
        """Open an impression; it is the next state of the user's previous one. False, and nothing happens, if the log
        had it before (an entry that was set aside and replayed twice)."""
        if impression.recommendation_id in self._open or impression.recommendation_id in self._closed:
            return False
        theirs, turn = self._of.setdefault(impression.user, []), 0
        if theirs:
            previous = self._open[theirs[-1]]
            previous.next_history = impression.history
            turn = 0 if previous.ended_by else previous.turn + 1
        self._open[impression.recommendation_id] = OpenImpression(impression, at_ms, place, turn=turn)
        theirs.append(impression.recommendation_id)
        return True

    def add_feedback(self, feedback: Feedback, at_ms: int) -> Joined:
        """Credit a slot with what was heard of at a time; of several responses to one item, see `joined`. A user may
        answer a slate that was shown to a visitor without an account: who logs in is the same person. What is taken
        back is so in all that is open of the user's."""
        reaction = Reaction(feedback.reward, feedback.at(at_ms / 1000))
        if feedback.undo:
            for recommendation_id in self._of.get(feedback.user, ()):
                self._open[recommendation_id].undo(feedback.item_id, reaction.at)
        if feedback.recommendation_id is None:
            return Joined.ORGANIC
        waiting = self._open.get(feedback.recommendation_id)
        if waiting is None:
            return Joined.LATE if feedback.recommendation_id in self._closed else Joined.ORPHAN
        item, user, whose = feedback.item_id, feedback.user, waiting.impression.user
        is_theirs = user in (whose, waiting.whose) or (is_visitor(waiting.whose) and not is_visitor(user))
        if not is_theirs or item not in waiting.impression.items:
            return Joined.MISMATCHED
        if feedback.undo:
            waiting.undo(item, reaction.at)
        else:
            waiting.reactions[item] = joined(waiting.reactions.get(item), reaction, feedback.explicit)
            if feedback.ends and item not in waiting.ended_by:
                waiting.ended_by.append(item)
        return Joined.JOINED

    def join(self, visitor: str, user: str) -> None:
        """Give a visitor's open impressions to the user they turned out to be; the next one follows the latest."""
        theirs = self._of.pop(visitor, [])
        for recommendation_id in theirs:
            self._open[recommendation_id].user = user
        if theirs:
            both = [*theirs, *self._of.get(user, ())]
            self._of[user] = sorted(both, key=lambda name: (self._open[name].at_ms, self._open[name].place))

    def erase(self, user: str) -> None:
        """Drop what is open of a user; nothing is learned from it."""
        for recommendation_id in self._of.pop(user, ()):
            del self._open[recommendation_id]

    def close(self, now_ms: int, place: int = 0) -> list[OpenImpression]:
        """Take out the impressions whose window is over at `now_ms`, `place` entries into the log, oldest first."""
        closed = []
        for recommendation_id, waiting in self._open.items():
            if waiting.at_ms + self._window_ms > now_ms and waiting.place + self._window_entries > place:
                break
            closed.append(waiting)
            theirs = self._of[waiting.whose]
            theirs.remove(recommendation_id)
            if not theirs:
                del self._of[waiting.whose]
        for waiting in closed:
            del self._open[waiting.impression.recommendation_id]
            self._closed[waiting.impression.recommendation_id] = None
        while len(self._closed) > _REMEMBERED:
            del self._closed[next(iter(self._closed))]
        return closed

    def dump(self) -> tuple[list[OpenImpression], list[str]]:
        """Return what is open, and the ids of what was closed, for a checkpoint."""
        return list(self._open.values()), list(self._closed)

    def restore(self, waiting: list[OpenImpression], closed: list[str]) -> None:
        """Take over what `dump` gave."""
        self._open = {o.impression.recommendation_id: o for o in waiting}
        self._of = {}
        for one in waiting:
            self._of.setdefault(one.whose, []).append(one.impression.recommendation_id)
        self._closed = dict.fromkeys(closed)
