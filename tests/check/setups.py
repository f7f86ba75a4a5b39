"""Random small set-ups: shops with a few tastes, and what somebody who knows them, but no visitor, would earn there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from deployment import Deployment, untaught

from service.events import Impression
from service.policy.text import HashingEncoder
from service.settings import Settings

KINDS = ("Drama", "Comedy", "Western", "Horror")


@dataclass(frozen=True)
class Setup:
    """A shop whose visitors have one taste each: they take what is of it at `rate`, and other things hardly."""

    seed: int
    n_items: int
    k: int
    n_tastes: int
    rate: float
    other_rate: float
    scale: float  # of a reward
    tells: bool  # whether texts tell an item's kind
    named: int | None  # so many candidates are named by each request, and may be shown again
    users: int | None  # who return; None: everybody is new
    slates: int  # of a visit

    @classmethod
    def drawn(cls, seed: int) -> Setup:
        """Draw one."""
        rng = np.random.default_rng([7, seed])
        n_items = int(np.exp(rng.uniform(np.log(2), np.log(200))))
        k = int(rng.integers(1, min(5, n_items) + 1))
        rate = float(np.exp(rng.uniform(np.log(0.01), 0)))
        named = int(rng.integers(max(2, k), min(20, n_items) + 1)) if rng.random() < 0.4 and n_items > k else None
        return cls(
            seed=seed,
            n_items=n_items,
            k=k,
            n_tastes=int(rng.integers(1, min(4, n_items) + 1)),
            rate=rate,
            other_rate=rate * float(rng.uniform(0, 0.4)),
            scale=float(rng.choice([0.01, 1.0, 10.0, 1000.0])),
            tells=bool(rng.random() < 0.5),
            named=named if n_items > 2 else n_items,
            users=int(rng.integers(20, 300)) if rng.random() < 0.5 else None,
            slates=int(rng.integers(1, 6)),
        )

    @property
    def ids(self) -> list[str]:
        """All items."""
        return [f"item-{n}" for n in range(self.n_items)]

    def rates(self) -> npt.NDArray[np.float64]:
        """[tastes, items] how likely each is taken by whom; items differ within a kind, too."""
        rng = np.random.default_rng([8, self.seed])
        kind = np.arange(self.n_items) % self.n_tastes
        own = kind == np.arange(self.n_tastes)[:, np.newaxis]
        return np.where(own, self.rate, self.other_rate) * rng.uniform(0.5, 1.0, self.n_items)

    def settings(self) -> Settings:
        """A deployment's."""
        rewards = {"like": self.scale}
        return Settings.model_validate(
            {"auth": "off", "reward_window_s": 2.0, "rewards": rewards, "control_share": 0.2}
        )

    def embeddings(self) -> npt.NDArray[np.float32]:
        """Of the items' texts."""
        texts = [f"{KINDS[n % self.n_tastes] if self.tells else 'Thing'} number {n}" for n in range(self.n_items)]
        return HashingEncoder().encode(texts).astype(np.float32)

    def deployment(self) -> Deployment:
        """It, untaught."""
        embeddings = self.embeddings()
        snapshot = untaught(self.ids, embeddings)
        return Deployment(snapshot, embeddings, self.settings(), self.seed, repeats=self.named is not None)


@dataclass
class Day:
    """What was earned by slate, in rewards of one."""

    adaptive: list[float]
    control: list[float]
    known: list[float]  # by one who knows the tastes, and finds out whose a visitor has


def live(setup: Setup, deployment: Deployment, n_slates: int, first: int = 0) -> Day:
    """Let visitors come; `first` is the number of the first."""
    rng = np.random.default_rng([9, setup.seed, first])
    rates, ids = setup.rates(), setup.ids
    index = {item: row for row, item in enumerate(ids)}
    day, visit = Day([], [], []), first
    while len(day.known) < n_slates:
        number = int(rng.integers(setup.users)) if setup.users is not None else visit
        user, taste = f"u:{number}", number % setup.n_tastes
        believed, seen = np.full(setup.n_tastes, 1 / setup.n_tastes), np.zeros(setup.n_items, np.bool_)
        past = deployment.users.get(user)
        for item, reward in ({} if past is None else past.history).items():
            believed *= rates[:, index[item]] if reward > 0 else 1.0
        believed /= believed.sum()
        for _ in range(setup.slates):
            only = None if setup.named is None else [ids[row] for row in rng.choice(setup.n_items, setup.named, False)]
            impression = deployment.recommend(user, setup.k, only)
            taken = [item for item in impression.items if rng.random() < rates[taste, index[item]]]
            deployment.reward(impression, dict.fromkeys(taken, setup.scale))
            if len(impression.items) < setup.k:
                continue  # the shelves ran dry
            (day.adaptive if impression.arm == "adaptive" else day.control).append(len(taken))
            day.known.append(_known(setup, rates, believed, seen, taste, only and [index[item] for item in only]))
        visit += 1
    return day


def _known(
    setup: Setup,
    rates: npt.NDArray[np.float64],
    believed: npt.NDArray[np.float64],
    seen: npt.NDArray[np.bool_],
    taste: int,
    only: Sequence[int] | None,
) -> float:
    """Expected rewards of the best slate for what is believed of the visitor; then more is believed."""
    worth = believed @ rates
    if setup.named is None and (~seen).sum() >= setup.k:
        worth = np.where(seen, -1.0, worth)
    rows = np.arange(setup.n_items) if only is None else np.array(only)
    shown = rows[np.argsort(-worth[rows], kind="stable")[: setup.k]]
    seen[shown] = True
    # What answers tell on average: the likelihood of those that are to be expected.
    expected = rates[taste, shown]
    log_likelihood = (
        expected * np.log(rates[:, shown] + 1e-9) + (1 - expected) * np.log1p(-rates[:, shown] + 1e-9)
    ).sum(1)
    believed *= np.exp(log_likelihood - log_likelihood.max())
    believed /= believed.sum()
    return float(expected.sum())


def mean(values: Sequence[float], share: float = 0.25) -> float:
    """Of the last ones."""
    return float(np.mean(values[-max(1, int(share * len(values))) :]))


Rewards = Mapping[str, float]
__all__ = ["Day", "Impression", "Setup", "live", "mean"]
