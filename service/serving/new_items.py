"""A least share of every slot for items that came lately, as probabilities: propensities stay exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.policy.adaptive import Distribution, Query, ServingPolicy
from service.policy.sampling import Probs


@dataclass(frozen=True)
class NewItems:
    """The items from place `first` of a catalogue on are new, and get at least a `share` of each slot."""

    share: float
    first: int

    def lifted(self, mass: Probs, rows: npt.NDArray[np.intp] | None) -> Probs:
        """Give new items their share of `mass` [R], of items `rows` or of all, where there are any that are possible
        and they have less: both kinds keep their proportions among themselves. Of all distributions with that share
        it is the closest one (the least Kullback-Leibler divergence). Sums to one if anything is lifted."""
        is_new = (np.arange(len(mass)) if rows is None else rows) >= self.first
        new, others = float(mass[is_new].sum()), float(mass[~is_new].sum())
        if new <= 0 or others <= 0 or new >= self.share * (new + others):
            return mass
        return np.asarray(mass * np.where(is_new, self.share / new, (1 - self.share) / others))

    def among(self, policy: ServingPolicy, query: Query, served: Distribution) -> Distribution:
        """In a large catalogue a policy chooses among candidates, which new items may not be: then among both, with as
        many of the latest new ones as there are candidates at most."""
        if served.rows is None:
            return served
        new = self.first + np.flatnonzero(query.available[self.first :])[-policy.config.candidates :]
        both = np.union1d(served.rows, new).astype(np.intp)
        return policy.serve([query], both[np.newaxis])[0] if len(new) else served
