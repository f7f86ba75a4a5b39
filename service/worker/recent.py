"""The latest responses of users as the log tells them: the state in which an organic like finds its user."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from service.store.sessions import Reaction, joined

History = tuple[tuple[str, float], ...]

_USERS = 10_000


class Past(NamedTuple):
    """A user's responses to an item, combined: 0 if it was shown in vain; and when (unix seconds; 0: not known)."""

    item: str
    reward: float
    at: float = 0.0


class Recent:
    """A history of (item, reward) for each user; responses first, then what was shown in vain (reward 0), as in
    `session_state`. The user unheard of for longest gives way."""

    def __init__(self, n_responses: int, n_shown: int, n_users: int = _USERS) -> None:
        """`n_responses` and `n_shown`: how many are kept of a user with and without a response."""
        self._n_responses, self._n_shown, self._n_users = n_responses, n_shown, n_users
        self._histories: dict[str, tuple[Past, ...]] = {}  # user unheard of for longest first

    def __len__(self) -> int:
        return len(self._histories)

    def of(self, user: str) -> History:
        """Return a user's history, oldest first."""
        return tuple((past.item, past.reward) for past in self._histories.get(user, ()))

    def replace(self, user: str, history: Iterable[tuple[str, float]]) -> None:
        """Take over a history, as an impression of the user has it."""
        times = {past.item: past.at for past in self._histories.get(user, ())}
        self._keep(user, [Past(item, reward, times.get(item, 0.0)) for item, reward in history])

    def reaction(self, user: str, item: str) -> Reaction | None:
        """Return a user's responses to an item, combined; None if there are none."""
        for past in self._histories.get(user, ()):
            if past.item == item and (past.reward != 0 or past.at > 0):
                return Reaction(past.reward, past.at)
        return None

    def add(self, user: str, item: str, reaction: Reaction, explicit: bool = False) -> None:
        """Add a response in its place in time, as a session does; the item is no longer shown in vain."""
        history, previous = self._histories.get(user, ()), self.reaction(user, item)
        reaction = joined(previous, reaction, explicit)
        others = [past for past in history if past.item != item]
        if reaction.reward == 0:
            self._keep(user, [*others, Past(item, *reaction)])
            return
        responses = [past for past in others if past.reward != 0]
        place = len(responses)
        while place > 0 and responses[place - 1].at > reaction.at:
            place -= 1
        responses.insert(place, Past(item, *reaction))
        if len(responses) > self._n_responses:
            responses.remove(min(responses[:-1], key=lambda past: abs(past.reward)))
        self._keep(user, [*responses, *(past for past in others if past.reward == 0)])

    def undo(self, user: str, item: str) -> None:
        """Take back a user's responses to an item."""
        if self.reaction(user, item) is not None:
            others = [past for past in self._histories[user] if past.item != item]
            self._keep(user, [*others, Past(item, 0.0)])

    def join(self, visitor: str, user: str) -> None:
        """Make a visitor's history part of a user's."""
        for past in self._histories.pop(visitor, ()):
            if past.reward != 0 or all(past.item != other for other, _ in self.of(user)):
                self.add(user, past.item, Reaction(past.reward, past.at))

    def _keep(self, user: str, history: Sequence[Past]) -> None:
        responses = [past for past in history if past.reward != 0]
        shown = [past for past in history if past.reward == 0]
        self._histories.pop(user, None)
        self._histories[user] = (
            *responses[max(0, len(responses) - self._n_responses) :],
            *shown[max(0, len(shown) - self._n_shown) :],
        )
        if len(self._histories) > self._n_users:
            del self._histories[next(iter(self._histories))]

    def erase(self, user: str) -> None:
        """Forget a user."""
        self._histories.pop(user, None)

    def dump(self) -> list[tuple[str, tuple[Past, ...]]]:
        """Return everything, for a checkpoint."""
        return list(self._histories.items())

    def restore(self, histories: Iterable[tuple[str, tuple[Past, ...]]]) -> None:
        """Take over what `dump` gave."""
        self._histories = dict(histories)
