"""`distil`: ask a language model about items and user states within a budget; resumable at any moment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from offline.datasets import Dataset
from offline.encoding import embed_items
from offline.errors import OfflineError
from offline.judge import Budget, Judge
from offline.judgements import Question
from offline.preferences import Preferences, decompose
from offline.prompts import PROMPT_VERSION
from offline.states import (
    Embeddings,
    StateConfig,
    sample_candidates,
    sample_states,
    states_from_interactions,
    to_question,
)
from service.durable import whole_file

# A policy that starts without logs lives on the items' priors: they may take this share of the budget. Where it ends
# before all items have both wordings, those with one are noisier and crowd the top.
PRIOR_SHARE = 0.75
_NAME_SHARE = 0.1
# States planned at a time; each batch has a random stream of its own, so that a restart plans the same ones again.
_STATES_A_BATCH = 32


@dataclass(frozen=True)
class DistilConfig:
    """Kind and number of questions to ask. States come from text alone unless `states_from_logs`."""

    seed: int = 0
    n_states: int = 500
    states_from_logs: bool = False
    encoder: str = "minilm"
    states: StateConfig = field(default_factory=StateConfig)


def distil(dataset: Dataset, embeddings: Embeddings, judge: Judge, config: DistilConfig) -> Preferences:
    """Ask about names and priors first (at most PRIOR_SHARE of the budget), then about states; all stays in the cache.

    Args:
        embeddings: unit rows [A, d] of the items' texts.

    Raises:
        OfflineError: there are no items, or no interactions to sample states from, or the model cannot be asked.
    """
    if not dataset.items:
        raise OfflineError(f"data set {dataset.name!r} has no items")
    judge.names(within=judge.budget.part(_NAME_SHARE))
    prior = decompose(judge.priors(within=judge.budget.part(PRIOR_SHARE)), []).priors
    prior_z = np.array([prior[i.item_id].z if i.item_id in prior else 0.0 for i in dataset.items])
    for questions in question_batches(dataset, embeddings, prior_z, config):
        if judge.stopped:
            break
        judge.ask(questions)
    return collect(judge, dataset)


def collect(judge: Judge, dataset: Dataset) -> Preferences:
    """Everything this model has ever judged about these items, from the cache, decomposed and calibrated."""
    item_ids = {item.item_id for item in dataset.items}
    nothing = Budget(max_judgements=0)
    common = [*judge.priors(within=nothing), *judge.names(within=nothing)]
    scorer = judge.scorer
    users = [
        j
        for j in judge.cache.values()
        if j.role == "user"
        and (j.model, j.style, j.prompt_version) == (scorer.model_id, scorer.style, PROMPT_VERSION)
        and j.item_id in item_ids
        and all(item_id in item_ids for item_id, _ in j.history)
    ]
    return decompose(common, users)


def question_batches(
    dataset: Dataset, embeddings: Embeddings, prior_z: np.ndarray[Any, np.dtype[np.float64]], config: DistilConfig
) -> Iterator[list[Question]]:
    """Yield the questions about user states, a batch at a time; the same configuration plans the same questions."""
    for start in range(0, config.n_states, _STATES_A_BATCH):
        rng = np.random.default_rng([config.seed, start])
        n_states = min(_STATES_A_BATCH, config.n_states - start)
        if config.states_from_logs:
            if dataset.interactions is None or not len(dataset.interactions.user):
                raise OfflineError(f"data set {dataset.name!r} has no interactions; leave out --states-from-logs")
            states = states_from_interactions(dataset.interactions, n_states, config.states, rng)
        else:
            states = sample_states(embeddings, prior_z, n_states, config.states, rng)
        candidates = [sample_candidates(state, embeddings, prior_z, config.states, rng) for state in states]
        yield [
            to_question(state, chosen, dataset.items)
            for state, chosen in zip(states, candidates, strict=True)
            if chosen
        ]


def kept_embeddings(dataset: Dataset, folder: Path) -> Embeddings:
    """Embed the items' texts with MiniLM, [A, d], or read what was kept of it in `folder`."""
    path = folder / "embeddings.npy"
    if not path.exists():
        with whole_file(path) as file:
            np.save(file, embed_items(dataset, "minilm"))
    embeddings: Embeddings = np.load(path, allow_pickle=False)
    return embeddings
