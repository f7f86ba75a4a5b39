"""A start from logs: what people liked, learned in order of time as the service's own learner would have learned it.

Likes come without what else was shown, so each stands beside items drawn at random (`service.policy.organic`). Where a
log says what was shown, its slates are learned as the service's own are: each slot is a yes or a no, whoever chose it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from offline.benchmark.metrics import NextItem
from offline.logs import Histories, Logs, Slates
from service.policy.boltzmann import Boltzmann, BoltzmannConfig
from service.policy.networks import ItemScorer
from service.policy.organic import organic_batch
from service.policy.posterior import Evidence
from service.policy.replay import Replay
from service.policy.types import EMPTY_SLOT, Batch, Interaction, pack_states

CAPACITY = 50_000  # likes that gradient steps are drawn from, the latest: the service's default
BLOCK = 100  # likes that are learned at once
_TESTED = 2_000  # likes, and slates, at most that are foretold


class LikesLearner:
    """Learns from every like once, and again from the replay; `boltzmann` is what it made of the network."""

    def __init__(
        self, network: ItemScorer, seed: int, config: BoltzmannConfig | None = None, slate_size: int = 1
    ) -> None:
        """`network` is taken over; `slate_size` is that of the longest slate."""
        torch.manual_seed(seed)
        self.boltzmann = Boltzmann(network.requires_grad_(True), config or BoltzmannConfig())
        self.length = network.config.max_history
        self.histories = Histories(self.length)
        self._replay = Replay(CAPACITY, self.length, slate_size)
        self._generator = torch.Generator().manual_seed(seed)

    def history(self, user: int) -> tuple[Interaction, ...]:
        """What is known of a user, as a policy sees it; see `Histories`."""
        return self.histories.of(user)

    def learn(self, users: Sequence[int], items: Sequence[int], strengths: Sequence[float] | None = None) -> None:
        """Take in a block of likes in order: user number, item, and strength in (0, 1] (1 if not given) of each."""
        before = []
        for user, item in zip(users, items, strict=True):
            before.append(self.history(user))
            self.histories.like(user, item)
        self._learn_likes(before, users, items, strengths)

    def learn_logs(self, logs: Logs) -> None:
        """Take in a block of likes and slates in order."""
        before: tuple[list[tuple[Interaction, ...]], list[tuple[Interaction, ...]]] = ([], [])
        likes = zip(*(part.tolist() for part in logs.likes[:2]), strict=True)
        slates = zip(*(part.tolist() for part in logs.slates[:3]), strict=True)
        for is_slate in logs.is_slate.tolist():
            if is_slate:
                user, items, liked = next(slates)
                before[1].append(self.history(user))
                self.histories.show(user, items, liked)
            else:
                user, item = next(likes)
                before[0].append(self.history(user))
                self.histories.like(user, item)
        if before[0]:
            self._learn_likes(before[0], *(part.tolist() for part in logs.likes))
        if before[1]:
            self._learn_slates(before[1], logs.slates)

    def _learn_likes(
        self,
        before: Sequence[Sequence[Interaction]],
        users: Sequence[int],
        items: Sequence[int],
        strengths: Sequence[float] | None,
    ) -> None:
        owners = [user + 1 for user in users]  # 0 is nobody
        self._replay.extend(organic_batch(before, items, self.length, strengths, owners))
        self.boltzmann.update(self._replay, len(items), self._generator)

    def _learn_slates(self, before: Sequence[Sequence[Interaction]], slates: Slates) -> None:
        states, n = pack_states(before, self.length), len(slates.users)
        batch = Batch(
            state=states,
            actions=torch.from_numpy(slates.items),
            rewards=torch.from_numpy(slates.liked.astype(np.float32)),
            propensities=torch.from_numpy(slates.propensities.astype(np.float32)),
            discount=torch.ones(n),  # no log says when a session ended
            next_state=states,
            turn=torch.zeros(n, dtype=torch.int64),
            owner=torch.from_numpy(slates.users + 1),
        )
        self._replay.extend(batch)
        self.boltzmann.update(self._replay, n, self._generator)


class WarmStart(NamedTuple):
    """Result of learning from logs, and how well it foretold the end of them."""

    actor: ItemScorer  # without precision of its biases, which `evidence` has
    evidence: Evidence
    foretold: dict[str, float]  # of the last tenth, before it was learned: NDCG@10 of likes, AUC of slates


def warm_start(
    network: ItemScorer, logs: Logs, seed: int, advance: Callable[[int], None] = lambda n: None
) -> WarmStart:
    """Learn from logs on top of what a network knows already; `advance` hears of the likes and slates learned."""
    learner = LikesLearner(deepcopy(network), seed, slate_size=max(1, logs.slates.items.shape[1]))
    n = len(logs.is_slate)
    tested = n - n // 10
    foretold: dict[str, float] = {}
    for start in [*range(0, tested, BLOCK), *range(tested, n, BLOCK)]:
        if start == tested:
            foretold = _foretold(network, learner, logs.part(0, tested), logs.part(tested, n))
        block = logs.part(start, min(start + BLOCK, tested if start < tested else n))
        learner.learn_logs(block)
        advance(len(block.is_slate))
    actor = learner.boltzmann.actor
    evidence = learner.boltzmann.posterior.evidence(actor)
    actor.information.zero_()
    with torch.no_grad():
        actor.leave.copy_(network.leave)  # nothing was heard of ends
    return WarmStart(actor.requires_grad_(False), evidence, foretold)


@torch.no_grad()
def _foretold(before: ItemScorer, learner: LikesLearner, known: Logs, tested: Logs) -> dict[str, float]:
    """How well `tested` is told by networks and by the number of likes in `known`: NDCG@10 of likes, each ranked after
    all that its user did before, among the other items; and AUC of slates' slots, the liked ones against the others."""
    n_items = before.n_items
    measure, likes = NextItem(n_items), known.likes
    popularity = np.bincount(likes.items, likes.strengths, minlength=n_items)
    popularity = popularity + np.bincount(known.slates.items[known.slates.liked], minlength=n_items)
    rankers = {"pretrained": before, "with_logs": learner.boltzmann.actor}
    tables = {name: network.table() for name, network in rankers.items()}
    chosen = _chosen(tested)
    ndcg: dict[str, list[float]] = {"popularity": [], **{name: [] for name in rankers}}
    slots: dict[str, list[float]] = {name: [] for name in ndcg}
    answers: list[bool] = []
    histories = deepcopy(learner.histories)
    of_likes = zip(*(part.tolist() for part in tested.likes[:2]), strict=True)
    of_slates = zip(*(part.tolist() for part in tested.slates[:3]), strict=True)
    for is_slate, is_chosen in zip(tested.is_slate.tolist(), chosen.tolist(), strict=True):
        user, shown, *rest = next(of_slates) if is_slate else next(of_likes)
        if is_chosen:
            past = histories.of(user)
            state = pack_states([past], learner.length)
            scores = {name: network.scores(state, tables[name])[0].numpy() for name, network in rankers.items()}
            if is_slate:
                filled = [slot for slot, item in enumerate(shown) if item != EMPTY_SLOT]
                answers += [rest[0][slot] for slot in filled]
            candidates = np.ones(n_items, np.bool_)
            candidates[[interaction.item for interaction in past if interaction.response > 0]] = False
            for name, row in (scores | {"popularity": popularity}).items():
                if is_slate:
                    slots[name] += [float(row[shown[slot]]) for slot in filled]
                else:
                    candidates[shown] = True
                    ndcg[name].append(measure.measure(row, shown, candidates)["ndcg"])
        if is_slate:
            histories.show(user, shown, *rest)
        else:
            histories.like(user, shown)
    found = {f"ndcg_{name}": float(np.mean(values)) for name, values in ndcg.items() if values}
    return found | {f"auc_{name}": auc(np.array(values), np.array(answers)) for name, values in slots.items() if values}


def _chosen(logs: Logs) -> npt.NDArray[np.bool_]:
    """[number of events] those that are judged: at most so many likes, and so many slates."""
    chosen, generator = np.zeros(len(logs.is_slate), np.bool_), np.random.default_rng(0)
    for of_kind in (~logs.is_slate, logs.is_slate):
        chosen[generator.permutation(np.flatnonzero(of_kind))[:_TESTED]] = True
    return chosen


def auc(scores: npt.NDArray[np.float64], answers: npt.NDArray[np.bool_]) -> float:
    """Probability that an answered slot scores higher than another, with equal scores by half; 0.5 where either is
    missing."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    yes, no = int(answers.sum()), int((~answers).sum())
    return 0.5 if not yes or not no else float((ranks[answers].sum() - yes * (yes + 1) / 2) / (yes * no))
