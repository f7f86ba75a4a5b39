"""The service's learner on likes that come by themselves: from the pre-trained policy on, as A-iALP_ft goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch

from offline.benchmark.judged import judgements, pretrain
from offline.benchmark.metrics import Scores
from offline.benchmark.ranker import Context, Learner, Method
from offline.preferences import decompose
from offline.warm_start import LikesLearner
from service.policy.boltzmann import BoltzmannConfig
from service.policy.organic import N_OTHERS, TRUST
from service.policy.types import Interaction, Response, pack_states


class LiveLearner(LikesLearner):
    """Ranks by the actor's scores, without curiosity."""

    @torch.no_grad()
    def rank(self, histories: Sequence[Sequence[int]]) -> Scores:
        """Scores [B, A] after B histories of liked items, oldest first."""
        actor = self.boltzmann.actor
        states = pack_states([[Interaction(i, Response.POSITIVE) for i in past] for past in histories], self.length)
        scores: Scores = actor.scores(states, actor.table()).numpy()
        return scores


def _open(context: Context) -> Learner:
    return LiveLearner(pretrain(context.dataset, context.embeddings, judgements(context)), context.seed)


def _open_without_judgements(context: Context) -> Learner:
    return LiveLearner(pretrain(context.dataset, context.embeddings, decompose([], [])), context.seed)


_CONFIG = {**asdict(BoltzmannConfig()), "likes": "softmax", "others": N_OTHERS, "trust": TRUST}

METHODS: Mapping[str, Method] = {
    "live": Method("A-iALP_ft, learning from likes", "live", open_learner=_open, config=_CONFIG),
    "live_texts": Method(
        "the same without a language model",
        "live",
        open_learner=_open_without_judgements,
        config={**_CONFIG, "judge": "none"},
    ),
}
