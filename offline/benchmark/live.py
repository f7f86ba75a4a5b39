"""The service's learner on likes that come by themselves: from the pre-trained policy on, as A-iALP_ft goes on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from offline.benchmark.judged import judgements, pretrain
from offline.benchmark.metrics import Scores
from offline.benchmark.ranker import Context, Learner, Method
from service.policy.boltzmann import Boltzmann, BoltzmannConfig
from service.policy.organic import N_OTHERS, TRUST, organic_batch
from service.policy.replay import Replay
from service.policy.types import Interaction, Response, pack_states

if TYPE_CHECKING:
    from service.policy.networks import ItemScorer

_CAPACITY = 50_000  # the service's default


class LiveLearner:
    """Ranks by the actor's scores, without curiosity, and learns from every like once, and again from the replay."""

    def __init__(self, network: ItemScorer, seed: int) -> None:
        torch.manual_seed(seed)
        self._boltzmann = Boltzmann(network.requires_grad_(True), BoltzmannConfig())
        self._length = network.config.max_history
        self._replay = Replay(_CAPACITY, self._length, 1)
        self._generator = torch.Generator().manual_seed(seed)
        self._histories: defaultdict[int, list[Interaction]] = defaultdict(list)

    @torch.no_grad()
    def rank(self, histories: Sequence[Sequence[int]]) -> Scores:
        """Scores [B, A] after B histories of liked items, oldest first."""
        actor = self._boltzmann.actor
        states = pack_states([[Interaction(i, Response.POSITIVE) for i in past] for past in histories], self._length)
        scores: Scores = actor.scores(states, actor.table()).numpy()
        return scores

    def learn(self, users: Sequence[int], items: Sequence[int]) -> None:
        """Take in a block of likes in order: user number and item of each."""
        before = []
        for user, item in zip(users, items, strict=True):
            past = self._histories[user]
            before.append(tuple(past[-self._length :]))
            past.append(Interaction(item, Response.POSITIVE))
        self._replay.extend(organic_batch(before, items, self._length))
        self._boltzmann.update(self._replay, len(items), self._generator)


def _open(context: Context) -> Learner:
    return LiveLearner(pretrain(context.dataset, context.embeddings, judgements(context)), context.seed)


METHODS: Mapping[str, Method] = {
    "live": Method(
        "A-iALP_ft, learning from likes",
        "live",
        open_learner=_open,
        config={**asdict(BoltzmannConfig()), "others": N_OTHERS, "trust": TRUST},
    )
}
