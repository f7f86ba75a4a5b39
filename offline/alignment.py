"""Checks of how far a language model's judgements can be trusted before any user has come.

Two checks of the item prior. *Names*: where asking what is popular ranks items as asking for nothing at all does, the
prior tells how names are written and not what people like; the share of it that names do not explain is 1 - rho^2, rho
being the correlation of the prior with the likelihood of the same names after a sentence that asks for nothing.
*Texts*: items that read alike are liked by about as many people, so a prior of which texts predict nothing, in items
that were held out, is likely no prior at all (judgements that went to the wrong items look so).

One of the personal part: its correlation with closeness of texts to what was liked, which orders what real users like
next (docs/people.md); in states, which are drawn again for the interval.

All three are measured on judgements alone. From the first feedback on `prior_gain_item` and `prior_gain_personal` of
the learner say the same with real users' answers: 1 means as good as claimed, 0 worth nothing, below 0 the opposite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offline.regression import BayesianRegression

UNEXPLAINED = 0.313  # 1 - rho^2 of a prior that is known to tell something: Gemma's on MovieLens latest-small
# Correlation with what texts predict, up to which a prior is not believed, and from which on nothing is held against it
# (Gemma's on MovieLens: 0.39).
UNRELATED, CONSISTENT = 0.1, 0.2
_FOLDS = 5
_DRAWS = 200
_Z95 = 1.96

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trust:
    """A measure of one part of the judgements with its 95 % interval, of `n` items or states; NaN if unmeasured."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def unmeasured(cls) -> Trust:
        """Nothing that could be measured."""
        return cls(math.nan, math.nan, math.nan, 0)

    @classmethod
    def of_correlation(cls, r: float, n: int) -> Trust:
        """A correlation of n pairs, its interval by Fisher's z."""
        if n < 4 or not math.isfinite(r):
            return cls.unmeasured()
        z, width = math.atanh(min(max(r, -0.999999), 0.999999)), _Z95 / math.sqrt(n - 3)
        return cls(r, math.tanh(z - width), math.tanh(z + width), n)

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})" if self.n else "not measured"


@dataclass(frozen=True)
class Alignment:
    """Results of the checks; `prior_share` and `uses_personal` say how far the judgements are believed."""

    names: Trust  # correlation of the prior with the mere likelihood of names
    texts: Trust  # of the prior with what texts predict for held-out items
    personal: Trust  # of personal judgements with closeness of texts

    @property
    def prior_share(self) -> float:
        """Share of its full weight that the item prior gets, 0 to 1.

        A check that was not measured does not lower the share. Of the texts' correlation the upper end counts, so that
        a small catalogue's prior is not discarded by chance.
        """
        names = min(1.0, (1 - self.names.value**2) / UNEXPLAINED) if self.names.n else 1.0
        unrelated = (CONSISTENT - self.texts.high) / (CONSISTENT - UNRELATED) if self.texts.n else 0.0
        return names * (1.0 - min(max(unrelated, 0.0), 1.0))

    @property
    def uses_personal(self) -> bool:
        """True where personal judgements correct closeness of texts: their correlation with it is surely above 0."""
        return bool(self.personal.n) and self.personal.low > 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """List the reasons to distrust the judge, one sentence each."""
        found = []
        if self.names.n and (1 - self.names.value**2) / UNEXPLAINED < 0.5:
            found.append(
                f"the item prior mostly reflects how names are written (correlation {self.names}), so it counts little"
            )
        if self.texts.n and self.texts.high < CONSISTENT:
            found.append(f"the item prior has little to do with the items' texts (correlation {self.texts})")
        if self.personal.n and not self.uses_personal:
            found.append(
                f"the personal judgements do not follow what users liked (correlation {self.personal}); "
                "closeness of texts is used instead"
            )
        return tuple(found)

    def report(self) -> dict[str, float]:
        """Numbers by name, for manifests; what was not measured is left out."""
        parts = {"names": self.names, "texts": self.texts, "personal": self.personal}
        measured = {
            f"alignment_{name}{end}": value
            for name, trust in parts.items()
            if trust.n
            for end, value in (("", trust.value), ("_low", trust.low), ("_high", trust.high))
        }
        shares = {"prior_share": self.prior_share, "uses_personal": float(self.uses_personal)}
        return measured | {f"alignment_{name}": value for name, value in shares.items()}


def correlation(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Pearson's correlation of two vectors [n]; NaN where one is constant or there are fewer than four."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if len(x) < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def with_names(prior: Sequence[float], names: Sequence[float]) -> Trust:
    """Correlate priors [n] with the likelihood of the same items' names [n]."""
    return Trust.of_correlation(correlation(prior, names), len(prior))


def with_texts(z: Tensor, features: Tensor, seed: int) -> Trust:
    """Correlate priors z [n] with the predictions of a regression on `features` [n, F] of other items (float64)."""
    if len(z) < 2 * _FOLDS:
        return Trust.unmeasured()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(z)))
    predicted = torch.zeros_like(z)
    for fold in range(_FOLDS):
        held_out = torch.zeros(len(z), dtype=torch.bool)
        held_out[order[fold::_FOLDS]] = True
        fitted = BayesianRegression.fit(features[~held_out], z[~held_out] - z[~held_out].mean())
        predicted[held_out] = fitted.predict(features[held_out])[0]
    return Trust.of_correlation(correlation(predicted.numpy(), z.numpy()), len(z))


def with_closeness(judged: Sequence[Floats], close: Sequence[Floats], seed: int) -> Trust:
    """Correlate personal judgements with closeness, each by state [S][n]; both are centred in every state."""
    pairs = [np.stack([j - j.mean(), c - c.mean()]) for j, c in zip(judged, close, strict=True) if len(j) > 1]
    if len(pairs) < 4:
        return Trust.unmeasured()
    sums = np.array([[a @ a, b @ b, a @ b] for a, b in pairs])  # of each state
    rng = np.random.default_rng(seed)
    drawn = sums[rng.integers(len(sums), size=(_DRAWS, len(sums)))].sum(1)

    def of(totals: Floats) -> Floats:
        return np.asarray(totals[..., 2] / np.sqrt(np.maximum(totals[..., 0] * totals[..., 1], 1e-300)))

    low, high = np.percentile(of(drawn), [2.5, 97.5])
    return Trust(float(of(sums.sum(0))), float(low), float(high), len(pairs))
