"""A start from logs: what people liked, learned in order of time as the service's own learner would have learned it.

Likes come without what else was shown, so each stands beside items drawn at random (`service.policy.organic`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import torch

from offline.benchmark.metrics import NextItem
from offline.datasets import Interactions
from service.policy.boltzmann import Boltzmann, BoltzmannConfig
from service.policy.co_likes import Likes
from service.policy.networks import ItemScorer
from service.policy.organic import organic_batch
from service.policy.posterior import Evidence
from service.policy.replay import Replay
from service.policy.types import Interaction, Response, pack_states

CAPACITY = 50_000  # likes that gradient steps are drawn from, the latest: the service's default
BLOCK = 100  # likes that are learned at once
_LEAST_STRENGTH = 0.05  # of an old like
_TESTED = 2_000  # likes at most that are foretold


class LikesLearner:
    """Learns from every like once, and again from the replay; `boltzmann` is what it made of the network."""

    def __init__(self, network: ItemScorer, seed: int, config: BoltzmannConfig | None = None) -> None:
        """`network` is taken over."""
        torch.manual_seed(seed)
        self.boltzmann = Boltzmann(network.requires_grad_(True), config or BoltzmannConfig())
        self.length = network.config.max_history
        self._replay = Replay(CAPACITY, self.length, 1)
        self._generator = torch.Generator().manual_seed(seed)
        self._histories: defaultdict[int, list[Interaction]] = defaultdict(list)

    def history(self, user: int) -> tuple[Interaction, ...]:
        """The latest likes of a user, oldest first."""
        return tuple(self._histories.get(user, ())[-self.length :])

    def learn(self, users: Sequence[int], items: Sequence[int], strengths: Sequence[float] | None = None) -> None:
        """Take in a block of likes in order: user number, item, and strength in (0, 1] (1 if not given) of each."""
        before = []
        for user, item in zip(users, items, strict=True):
            past = self._histories[user]
            before.append(tuple(past[-self.length :]))
            past.append(Interaction(item, Response.POSITIVE))
        owners = [user + 1 for user in users]  # 0 is nobody
        self._replay.extend(organic_batch(before, items, self.length, strengths, owners))
        self.boltzmann.update(self._replay, len(items), self._generator)


def likes_of(interactions: Interactions, half_life_s: float | None, most: int) -> Likes:
    """Take the likes of a data set, oldest first, the latest `most` of them. One as old as `half_life_s` counts by
    half, the latest of all in full; those that would count next to nothing are left out."""
    rows = np.flatnonzero(interactions.liked)
    rows = rows[np.argsort(interactions.time[rows], kind="stable")]
    times = interactions.time[rows].astype(np.float64)
    strengths = np.ones(len(rows)) if half_life_s is None else 0.5 ** ((times[-1:] - times) / half_life_s)
    kept = np.flatnonzero(strengths >= _LEAST_STRENGTH)[-most:]
    rows = rows[kept]
    return Likes(interactions.user[rows].astype(np.int64), interactions.item[rows].astype(np.int64), strengths[kept])


class WarmStart(NamedTuple):
    """Result of learning from logs, and how well it foretold the end of them."""

    actor: ItemScorer  # without precision of its biases, which `evidence` has
    evidence: Evidence
    foretold: dict[str, float]  # NDCG@10 of the last tenth of the likes, before they were learned


def warm_start(
    network: ItemScorer, likes: Likes, seed: int, advance: Callable[[int], None] = lambda n: None
) -> WarmStart:
    """Learn from likes on top of what a network knows already; `advance` hears of the likes learned."""
    learner = LikesLearner(deepcopy(network), seed)
    n = len(likes.users)
    tested = n - n // 10
    foretold: dict[str, float] = {}
    for start in [*range(0, tested, BLOCK), *range(tested, n, BLOCK)]:
        if start == tested:
            foretold = _foretold(network, learner, likes, tested)
        block = slice(start, min(start + BLOCK, tested if start < tested else n))
        users, items, strengths = (part[block].tolist() for part in likes)
        learner.learn(users, items, strengths)
        advance(len(users))
    actor = learner.boltzmann.actor
    evidence = learner.boltzmann.posterior.evidence(actor)
    actor.information.zero_()
    return WarmStart(actor.requires_grad_(False), evidence, foretold)


@torch.no_grad()
def _foretold(before: ItemScorer, learner: LikesLearner, likes: Likes, start: int) -> dict[str, float]:
    """NDCG@10 of likes from `start` on, each ranked after all that its user liked before, among the other items."""
    measure = NextItem(before.n_items)
    popularity = np.bincount(likes.items[:start], likes.strengths[:start], minlength=before.n_items)
    chosen = set(np.random.default_rng(0).permutation(np.arange(start, len(likes.users)))[:_TESTED].tolist())
    rankers = {"pretrained": before, "with_logs": learner.boltzmann.actor}
    tables = {name: network.table() for name, network in rankers.items()}
    found: dict[str, list[float]] = {"popularity": [], **{name: [] for name in rankers}}
    past = {user: list(learner.history(user)) for user in set(likes.users[start:].tolist())}
    for place in range(start, len(likes.users)):
        history, item = past[int(likes.users[place])], int(likes.items[place])
        if place in chosen:
            candidates = np.ones(before.n_items, np.bool_)
            candidates[[interaction.item for interaction in history]] = False
            state = pack_states([history], learner.length)
            scores = {name: network.scores(state, tables[name])[0].numpy() for name, network in rankers.items()}
            for name, row in (scores | {"popularity": popularity}).items():
                found[name].append(measure.measure(row, item, candidates)["ndcg"])
        history.append(Interaction(item, Response.POSITIVE))
    return {f"ndcg_{name}": float(np.mean(values)) for name, values in found.items() if values}
