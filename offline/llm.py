"""The seam to language models: a `Scorer` says how much each candidate suits a user.

Two exist: any OpenAI-compatible server (`offline.endpoint`) and an embedded model (`offline.gguf`). They yield answers
as these come, so that every one can be kept at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from offline.datasets import Scenario
from offline.prompts import Shown, Style


class Ask(NamedTuple):
    """One user state, oldest first, and n candidate texts. No history: a user of whom nothing is known."""

    history: tuple[Shown, ...]
    candidates: tuple[str, ...]
    name_only: bool = False  # how likely is the mere name? Likelihoods only


class Score(NamedTuple):
    """Score of a candidate for the user: mean log-probability per token (likelihood) or a logit (judge, choose)."""

    value: float
    n_tokens: int


Answer = list[Score | None]


class Scorer(Protocol):
    """A language model that scores candidates. `model_id` names the model, weights included, in cache keys."""

    @property
    def model_id(self) -> str: ...

    @property
    def style(self) -> Style: ...

    @property
    def scenario(self) -> Scenario: ...

    @property
    def exhausted(self) -> str | None:
        """Why no more will be asked (a cap is reached), or None."""

    @property
    def given_up(self) -> Sequence[str]:
        """List what the model or its server could not do, and what was done instead."""

    def score(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        """Yield (index of the ask, one score per candidate) in order of completion; None where the cap was
        reached or the answer could not be read.

        Raises:
            OfflineError: the model cannot be asked.
        """

    def close(self) -> None: ...
