"""Logged slates in Open Bandit Pipeline's `bandit_feedback` form, and as .npz without pickle (Saito et al. 2021).

One round is one slot. obp takes rounds for independent; the slots of a slate are not, so its intervals are too narrow.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from service.policy.indexed_log import IndexedLog
from service.policy.profiles import PROFILES, session_profiles
from service.policy.types import EMPTY_SLOT

Array = npt.NDArray[Any]
_BLOCK = 2048  # rounds, roughly, whose contexts are made at once


class Blocks(NamedTuple):
    """An array that comes some rows at a time, since the whole may be too much to hold."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    rows: Iterable[Array]

    def whole(self) -> Array:
        """The array."""
        return np.concatenate([np.zeros((0, *self.shape[1:]), self.dtype), *self.rows])


def bandit_feedback(logs: Sequence[IndexedLog], text: npt.NDArray[np.floating[Any]]) -> dict[str, Any]:
    """n rounds over A actions: n_rounds, n_actions, and as arrays action [n] int64, position [n] int64 (slot from 0),
    reward [n], pscore [n] (given the slots above), context [n, 3 d] (mean text of the session's liked, disliked and
    ignored items; as `Blocks`) and action_context [A, d] (`text` itself).

    An action is a row of `text`; slots whose item has none are left out. There is no `pi_b`: the log keeps the
    behaviour policy's probability of what was shown, not of all items.
    """
    shown = [log.shown != EMPTY_SLOT for log in logs]
    n_rounds = sum(int(filled.sum()) for filled in shown)

    def column(parts: Iterable[Array], dtype: type[np.generic]) -> Array:
        return np.concatenate([np.zeros(0, dtype), *parts])

    return {
        "n_rounds": n_rounds,
        "n_actions": len(text),
        "action": column((log.shown[filled] for log, filled in zip(logs, shown, strict=True)), np.int64),
        "position": column((np.nonzero(filled)[1] for filled in shown), np.int64),
        "reward": column((log.rewards[filled] for log, filled in zip(logs, shown, strict=True)), np.float64),
        "pscore": column((log.propensities[filled] for log, filled in zip(logs, shown, strict=True)), np.float64),
        "context": Blocks((n_rounds, len(PROFILES) * text.shape[1]), text.dtype, _contexts(logs, text)),
        "action_context": text,
    }


def _contexts(logs: Sequence[IndexedLog], text: npt.NDArray[np.floating[Any]]) -> Iterator[Array]:
    for log in logs:
        slates = max(1, _BLOCK // max(1, log.shown.shape[1]))
        for start in range(0, len(log.shown), slates):
            rows = slice(start, start + slates)
            profiles = session_profiles(log.states.at(rows), text)
            slate, _ = np.nonzero(log.shown[rows] != EMPTY_SLOT)
            yield profiles.reshape(len(profiles), -1)[slate]


class _Written:
    """A file that cannot be sought in and gives back what was written."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes, /) -> int:
        self._parts.append(data)
        return len(data)

    def flush(self) -> None:
        """All of it is here already."""

    def close(self) -> None:
        """Do nothing: what was written can still be taken."""

    def taken(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _pieces(array: Array) -> Iterator[Array]:
    if array.ndim == 0:
        yield array
    else:
        yield from (array[start : start + _BLOCK] for start in range(0, len(array), _BLOCK))


def npz(arrays: Mapping[str, Any]) -> Iterator[bytes]:
    """The bytes of an .npz file of arrays, numbers and `Blocks`, compressed, as they are made."""
    written = _Written()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, given in arrays.items():
            array = given if isinstance(given, Blocks) else np.asarray(given)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False}
                np.lib.format.write_array_header_1_0(member, header | {"shape": array.shape})
                for block in array.rows if isinstance(array, Blocks) else _pieces(array):
                    member.write(np.ascontiguousarray(block).tobytes())
                    yield written.taken()
            yield written.taken()
    yield written.taken()
