"""The seam between a method and an environment: all that a method may see. User truth is on the other side of it.

Sessions are played in waves of concurrent users, all at the same turn: a method answers for n users at once (arrays, no
Python per user) and learns from their n responses before the next turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from offline.datasets import Dataset, Item, Scenario
from offline.states import Embeddings

Ints = npt.NDArray[np.integer]
Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Catalogue:
    """Facts known before the first user comes: A items with texts, the length of a slate and of a session."""

    name: str
    scenario: Scenario
    items: tuple[Item, ...]
    embeddings: Embeddings  # [A, TEXT_DIM], unit rows
    slate_size: int
    max_turn: int

    @property
    def n_items(self) -> int:
        return len(self.items)

    @classmethod
    def of(cls, dataset: Dataset, embeddings: Embeddings, slate_size: int, max_turn: int) -> Catalogue:
        """The public part of a data set: its interactions stay behind."""
        return cls(dataset.name, dataset.scenario, dataset.items, embeddings, slate_size, max_turn)


class Sessions(NamedTuple):
    """n live sessions before turn t (0-based): what was shown so far, and the responses."""

    shown: Ints  # [n, t, K] item index, -1 where a slot was empty
    responses: Bools  # [n, t, K] positive?
    seen: Bools  # [n, A] shown in this session, so worth nothing again


class Slates(NamedTuple):
    """An answer for n sessions."""

    items: Ints  # [n, K] in slot order, -1 for an empty slot
    propensities: Floats | None = None  # [n, K] given the slots above; None where the method has none


class Outcome(NamedTuple):
    """Result of a turn."""

    rewards: Floats  # [n, K] 0 or 1
    ended: Bools  # [n] no further turn: the user left, or the session was at its last turn


class Agent(Protocol):
    """A method at work: it answers, then hears what happened; one seed, one run."""

    def act(self, sessions: Sessions) -> Slates:
        """Choose slates for these sessions."""

    def observe(self, sessions: Sessions, slates: Slates, outcome: Outcome) -> None:
        """Learn from what `slates` led to; called once after every `act`, with its sessions."""

    def diagnostics(self) -> dict[str, float]:
        """Numbers worth keeping of the finished run."""


@dataclass(frozen=True)
class Setting:
    """All that a method is built from. `artefacts` holds what was prepared without any user: see `preparation`."""

    catalogue: Catalogue
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    artefacts: Mapping[str, Path] = field(default_factory=dict)


Factory = Callable[[Setting], Agent]
