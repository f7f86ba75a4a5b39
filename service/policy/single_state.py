"""A network's scores for one session, as a request needs them: `networks` in NumPy, without what batches cost.

Both give the same numbers up to rounding (float32; tests hold them to 1e-5 for every variant). What dominates is
c(s, a), which takes the cosines of all items to each of the session's latest ones. A row of these depends on the
network alone, so those of items that were asked for lately are kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from service.policy.networks import BIAS_PRECISION, N_LATEST, N_LIKED_LATEST, SHRINKAGE, ItemScorer, ItemTable
from service.policy.sampling import Probs
from service.policy.types import Interaction, Response

Row = npt.NDArray[np.float32]  # [A]
Mask = npt.NDArray[np.bool_]  # [A]

_KEPT_BYTES = 16 * 2**20  # of rows of cosines, for each network


class Scored(NamedTuple):
    """All items in one state."""

    response: Row  # f
    advantage: Row  # f - horizon sigmoid(l)


class SingleStateScorer:
    """The numbers of an `ItemScorer` and its table, which must not change any more."""

    def __init__(self, scorer: ItemScorer, table: ItemTable) -> None:
        self.config = scorer.config
        self._vectors: npt.NDArray[np.float32] = table.vectors.detach().numpy()
        self._directions: npt.NDArray[np.float32] = table.directions.detach().numpy()
        self._bias: Row = table.bias.detach().numpy()
        self._mixing = scorer.mixing.detach().numpy()
        self._gain = scorer.gain.detach().numpy()
        self._repeat: tuple[float, ...] = tuple(scorer.repeat.tolist())
        self._level: tuple[float, ...] = tuple(scorer.level.tolist())
        self._leave: tuple[float, ...] = tuple(scorer.leave.tolist())
        self.prior_gain = scorer.prior_gain.item()
        information = scorer.information.numpy()
        self._bound: Row | None = None
        if self.config.curiosity > 0 and information.any():
            self._bound = (self.config.optimism / np.sqrt(BIAS_PRECISION + information)).astype(np.float32)
        n_items = len(self._bias)
        self._n_kept = min(n_items, max(N_LATEST, _KEPT_BYTES // max(1, self._bias.nbytes)))
        # Once a row was asked for: directions [dim, A], room for what is computed [N_LATEST, A], rows [n_kept, A].
        self._columns = self._computed = self._rows = np.empty((0, 0), np.float32)
        self._row_of: dict[int, int] = {}  # item -> its row; the one asked for last at the end

    def score(self, history: Sequence[Interaction], prior: Row | None = None) -> Scored:
        """Every item in the state `history`, oldest first; `prior` is f of the network that ours builds on."""
        history = history[-self.config.max_history :]
        hidden, level = self._encode(history)
        nearest, mean = self._closeness(history)
        response = self._vectors @ hidden
        response += self._bias
        response += np.float32(level)
        if nearest is None or mean is None:
            leaving: Row | float = 1.0 / (1.0 + math.exp(-self._leave[0]))
        else:
            response += np.float32(self._repeat[0]) * nearest
            response += np.float32(self._repeat[1]) * mean
            leaving = sigmoid(np.float32(self._leave[0]) + np.float32(self._leave[1]) * nearest)
        expected = response if prior is None else response + np.float32(self.prior_gain) * prior
        return Scored(response, expected - np.float32(self.config.horizon) * leaving)

    def policy(self, advantage: Row, available: Mask) -> tuple[Probs, Probs]:
        """The actor's probabilities and those without curiosity; zero where not `available`."""
        scaled = advantage / np.float32(self.config.temperature)
        scaled[~available] = -np.inf
        if self._bound is None:
            known = softmax(scaled)
            return known, known
        curious = softmax(scaled + self._bound / np.float32(self.config.temperature))
        known = softmax(scaled)
        share = self.config.curiosity
        return (1 - share) * known + share * curious, known

    def _encode(self, history: Sequence[Interaction]) -> tuple[Row, float]:
        """h(s) [dim] and the level of all items."""
        by_response = {
            kind: [past.item for past in history if past.response == kind]
            for kind in (Response.POSITIVE, Response.NEGATIVE, Response.IGNORED)
        }
        liked, ignored = by_response[Response.POSITIVE], by_response[Response.IGNORED]
        hidden = np.zeros(self.config.dim, np.float32)
        for c, items in enumerate((liked, liked[-1:], by_response[Response.NEGATIVE], ignored)):
            if items:
                profile = self._vectors[items].sum(0) / np.float32(len(items) + SHRINKAGE)
                hidden += profile @ self._mixing[c] + self._gain[c] * profile
        of_liked, of_ignored = self._level[1] * math.log1p(len(liked)), self._level[2] * math.log1p(len(ignored))
        return hidden, self._level[0] + of_liked + of_ignored

    def _closeness(self, history: Sequence[Interaction]) -> tuple[Row | None, Row | None]:
        """Nearest and mean closeness to the latest items of the session; None where there are none."""
        latest = latest_items(history)
        if not latest:
            return None, None
        first, *others = self._rows_of(latest)
        nearest, total = first.copy(), first.copy()
        for row in others:
            np.maximum(nearest, row, out=nearest)
            np.add(total, row, out=total)
        total /= np.float32(len(latest))
        return nearest, total

    def _rows_of(self, items: Sequence[int]) -> list[Row]:
        """The positive part of the cosines of all items to each of `items`; to be read before the next call."""
        missing = [item for item in dict.fromkeys(items) if item not in self._row_of]
        for item in items:
            if item in self._row_of:
                self._row_of[item] = self._row_of.pop(item)
        if missing:
            if not self._rows.size:
                self._columns = np.ascontiguousarray(self._directions.T)
                self._rows = np.empty((self._n_kept, len(self._bias)), np.float32)
                self._computed = np.empty((N_LATEST, len(self._bias)), np.float32)
            computed = np.matmul(self._directions[missing], self._columns, out=self._computed[: len(missing)])
            for item, cosines in zip(missing, computed, strict=True):
                full = len(self._row_of) == self._n_kept
                row = self._row_of.pop(next(iter(self._row_of))) if full else len(self._row_of)
                np.maximum(cosines, 0.0, out=self._rows[row])
                self._row_of[item] = row
        return [self._rows[self._row_of[item]] for item in items]


def latest_items(history: Sequence[Interaction]) -> list[int]:
    """The last few liked items and the last ones shown in vain, oldest first."""
    liked = [step for step, past in enumerate(history) if past.response == Response.POSITIVE]
    of_liked = set(liked[-N_LIKED_LATEST:])
    others = (Response.NEGATIVE, Response.IGNORED)
    wanted = [past.item for step, past in enumerate(history) if step in of_liked or past.response in others]
    return wanted[-N_LATEST:]


def sigmoid(x: Row) -> Row:
    """1 / (1 + exp(-x)) in float32, without an overflow's warning."""
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)))


def softmax(logits: Row) -> Probs:
    """softmax of `logits`, some of which may be -inf; all zero if all are. Sums to one in float64."""
    peak = logits.max(initial=-np.inf)
    if not np.isfinite(peak):
        return np.zeros(len(logits))
    mass: Probs = np.exp((logits - peak).astype(np.float64))  # float32 has no numbers for the tail
    mass /= mass.sum()
    return mass
