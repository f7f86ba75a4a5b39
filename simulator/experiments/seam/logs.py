"""A fixed log: what a service that ran before would have kept of its sessions, for methods that learn from logs."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.durable import write_file
from simulator.errors import SimulatorError
from simulator.experiments.seam.agent import Bools, Catalogue, Ints, Sessions

_ARRAYS = ("shown", "responses", "lengths")


@dataclass(frozen=True)
class Log:
    """n finished sessions of at most T turns."""

    shown: Ints  # [n, T, K] item index, -1 where nothing was shown
    responses: Bools  # [n, T, K]
    lengths: Ints  # [n] turns

    def split(self, share: float, rng: np.random.Generator) -> tuple[Log, Log]:
        """All but a share of the sessions, drawn at random, and that share (one session or more each)."""
        order = rng.permutation(len(self.lengths))
        cut = min(max(1, round(share * len(order))), len(order) - 1)
        parts = (order[cut:], order[:cut])
        first, second = (Log(self.shown[rows], self.responses[rows], self.lengths[rows]) for rows in parts)
        return first, second

    def waves(self, n: int) -> Iterator[Log]:
        """The sessions in order, `n` at a time."""
        for start in range(0, len(self.lengths), n):
            part = slice(start, start + n)
            yield Log(self.shown[part], self.responses[part], self.lengths[part])

    def turns(self, n_items: int) -> Iterator[tuple[Sessions, Ints, Bools, Bools]]:
        """Yield by turn, of sessions that reached it: the session so far, the slate, the responses, was it the last?"""
        seen = np.zeros((len(self.lengths), n_items), np.bool_)
        for turn in range(self.shown.shape[1]):
            live = self.lengths > turn
            if not live.any():
                return
            before = Sessions(self.shown[live, :turn], self.responses[live, :turn], seen[live])
            yield before, self.shown[live, turn], self.responses[live, turn], self.lengths[live] == turn + 1
            session, slot = np.nonzero(self.shown[:, turn] >= 0)
            seen[session, self.shown[session, turn, slot]] = True


def save_log(log: Log, path: Path) -> None:
    """Write a log to `path` (.npz), whole or not at all."""
    file = io.BytesIO()
    np.savez_compressed(file, **{name: getattr(log, name) for name in _ARRAYS})
    write_file(path, file.getvalue())


def read_log(path: Path, catalogue: Catalogue) -> Log:
    """Read what `save_log` wrote.

    Raises:
        SimulatorError: the file is missing, is not a log, or is one of another catalogue.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            log = Log(*(arrays[name] for name in _ARRAYS))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise SimulatorError(f"{path}: not a log of sessions ({error}); delete it, it is recorded again") from None
    n = len(log.lengths)
    shape = (n, catalogue.max_turn, catalogue.slate_size)
    if n < 2 or log.shown.shape != shape or log.responses.shape != shape or log.shown.max() >= catalogue.n_items:
        raise SimulatorError(f"{path}: not a log of {catalogue.name!r}; delete it, it is recorded again")
    return log
