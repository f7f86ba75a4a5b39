"""Items that may be shown only from, or until, a time."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Window = tuple[float, float]  # from and until, unix seconds; the end is no part of it


def window_of(first: float | None, end: float | None) -> Window | None:
    """A window of which a side may be open; None if both are."""
    if first is None and end is None:
        return None
    return (-math.inf if first is None else first), (math.inf if end is None else end)


class Schedule:
    """Windows of items by place; shared by the catalogues that follow each other."""

    def __init__(self) -> None:
        self._windows: dict[int, Window] = {}
        self._cached: tuple[Mask, Mask, float, float] | None = None  # what was asked, the answer, and when that holds

    def put(self, place: int, window: Window | None) -> None:
        """Set when an item may be shown; None: always."""
        if window is None:
            self._windows.pop(place, None)
        else:
            self._windows[place] = window

    def apply(self, visible: Mask, now_s: float) -> Mask:
        """`visible` [A] without the items whose window is closed; not to be changed. Asked again of the same items
        before the next window opens or closes, it costs nothing."""
        if not self._windows:
            return visible
        if self._cached is not None and self._cached[0] is visible and self._cached[2] <= now_s < self._cached[3]:
            return self._cached[1]
        places = np.fromiter(self._windows, np.intp, len(self._windows))
        windows = np.array(list(self._windows.values()))
        present = places < len(visible)
        closed = places[present & ~((windows[:, 0] <= now_s) & (now_s < windows[:, 1]))]
        answer = visible.copy()
        answer[closed] = False
        turns = np.unique(windows)
        at = int(np.searchsorted(turns, now_s, side="right"))
        since = float(turns[at - 1]) if at > 0 else -math.inf
        until = float(turns[at]) if at < len(turns) else math.inf
        self._cached = visible, answer, since, until
        return answer
