"""The latest responses of users as the log tells them: the state in which an organic like finds its user."""

from __future__ import annotations

from collections.abc import Iterable

from service.sessions import joined

History = tuple[tuple[str, float], ...]

_USERS = 10_000


class Recent:
    """A history of (item, reward) for each user; responses first, then what was shown in vain (reward 0), as in
    `session_state`. The user unheard of for longest gives way."""

    def __init__(self, n_responses: int, n_shown: int, n_users: int = _USERS) -> None:
        """`n_responses` and `n_shown`: how many are kept of a user with and without a response."""
        self._n_responses, self._n_shown, self._n_users = n_responses, n_shown, n_users
        self._histories: dict[str, History] = {}  # user unheard of for longest first

    def __len__(self) -> int:
        return len(self._histories)

    def of(self, user: str) -> History:
        """Return a user's history, oldest first."""
        return self._histories.get(user, ())

    def replace(self, user: str, history: Iterable[tuple[str, float]]) -> None:
        """Take over a history, as an impression of the user has it."""
        history = tuple(history)
        responses = [past for past in history if past[1] != 0]
        shown = [past for past in history if past[1] == 0]
        self._histories.pop(user, None)
        self._histories[user] = (
            *responses[max(0, len(responses) - self._n_responses) :],
            *shown[max(0, len(shown) - self._n_shown) :],
        )
        if len(self._histories) > self._n_users:
            del self._histories[next(iter(self._histories))]

    def add(self, user: str, item: str, reward: float) -> None:
        """Append a response as a session does; the item is no longer shown in vain."""
        known = {past: before for past, before in self.of(user) if before != 0}
        history = [past for past in self.of(user) if past[0] != item]
        history.append((item, joined(known.get(item), reward)))
        responses = [past for past in history[:-1] if past[1] != 0]
        if reward != 0 and len(responses) >= self._n_responses:
            history.remove(min(responses, key=lambda past: abs(past[1])))
        self.replace(user, history)

    def erase(self, user: str) -> None:
        """Forget a user."""
        self._histories.pop(user, None)

    def dump(self) -> list[tuple[str, History]]:
        """Return everything, for a checkpoint."""
        return list(self._histories.items())

    def restore(self, histories: Iterable[tuple[str, History]]) -> None:
        """Take over what `dump` gave."""
        self._histories = dict(histories)
