"""The seams that methods fill: a `Ranker` is fitted to other users' logs or to none, a `Learner` to what comes in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rich.console import Console

from offline.benchmark.data import Ints
from offline.benchmark.metrics import Scores
from offline.benchmark.split import Answer
from offline.datasets import Dataset
from offline.states import Embeddings


class Ranker(Protocol):
    """Ranks items for users of whom it has never heard."""

    def rank(self, histories: Sequence[Sequence[int]]) -> Scores:
        """Scores [B, A] after B histories of liked items, oldest first; higher is better."""


@runtime_checkable
class AnswerRanker(Protocol):
    """A ranker that takes dislikes, too."""

    def rank_answers(self, histories: Sequence[Sequence[Answer]]) -> Scores:
        """Scores [B, A] after B histories of answers, oldest first."""


class Learner(Ranker, Protocol):
    """Learns events as they come, after it has ranked them."""

    def learn(self, users: Sequence[int], items: Sequence[int]) -> None:
        """Take in a block of events in order: user number and liked item of each."""


@dataclass(frozen=True)
class Context:
    """Inputs that methods may use before any log: a data set's texts, and the folder where judgements are kept."""

    dataset: Dataset
    embeddings: Embeddings  # [A, d]
    run: Path
    seed: int
    console: Console
    judge_seconds: float | None = None  # that the language model may take; None: until all is asked
    judge_questions: int | None = None

    @property
    def n_items(self) -> int:
        """Number of items A."""
        return len(self.dataset.items)


Fit = Callable[[Sequence[Ints]], Ranker]  # from other users' likes, oldest first
Opened = Callable[[Context], Fit]
OpenedLearner = Callable[[Context], Learner]


@dataclass(frozen=True)
class Method:
    """A line of the table. A protocol of which a method knows nothing leaves it out."""

    title: str
    group: str  # see `figures.GROUPS`
    open: Opened | None = None
    open_learner: OpenedLearner | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    takes_dislikes: bool = False  # its rankers are `AnswerRanker`s
