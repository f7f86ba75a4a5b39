"""Random small set-ups: shops with a few tastes, and what somebody who knows them, but no visitor, would earn there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.policy.text import HashingEncoder
from service.settings import Settings
from tests.check.in_process import Deployment, User, kept_back, untaught

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
    shown_by_knower: dict[str, dict[str, None]] = {}
    while len(day.known) < n_slates:
        number = int(rng.integers(setup.users)) if setup.users is not None else visit
        user, taste = f"u:{number}", number % setup.n_tastes
        past = deployment.users.get(user, User())
        believed = np.full(setup.n_tastes, 1 / setup.n_tastes)
        for item in past.history:
            believed = believed * rates[:, index[item]] / (believed @ rates[:, index[item]])
        for _ in range(setup.slates):
            only = None if setup.named is None else [ids[row] for row in rng.choice(setup.n_items, setup.named, False)]
            impression = deployment.recommend(user, setup.k, only)
            taken = [item for item in impression.items if rng.random() < rates[taste, index[item]]]
            deployment.reward(impression, dict.fromkeys(taken, setup.scale))
            (day.adaptive if impression.arm == "adaptive" else day.control).append(len(taken))
            free = only
            if free is None:
                seen = shown_by_knower.setdefault(user, {})
                back = set(kept_back(seen, setup.n_items, setup.k))
                free = [item for item in ids if item not in back]
            rows = np.array([index[item] for item in free])
            best = rows[np.argsort(-(believed @ rates)[rows], kind="stable")[: setup.k]]
            for item in (ids[row] for row in best) if only is None else ():
                seen.pop(item, None)
                seen[item] = None
            day.known.append(float(rates[taste, best].sum()))
            # Then more is believed, as answers tell on average.
            expected = rates[taste, best]
            told = expected * np.log(rates[:, best] + 1e-9) + (1 - expected) * np.log1p(1e-9 - rates[:, best])
            believed = believed * np.exp(told.sum(1) - told.sum(1).max())
            believed /= believed.sum()
        visit += 1
    return day


def n_slates(setup: Setup) -> int:
    """As many as it takes to learn something where rewards are rare, within reason."""
    return int(np.clip(3_000 * (0.1 / setup.rate) ** 0.5, 3_000, 8_000))


def mean(values: Sequence[float], share: float = 0.25) -> float:
    """Of the last ones."""
    return float(np.mean(values[-max(1, int(share * len(values))) :]))
