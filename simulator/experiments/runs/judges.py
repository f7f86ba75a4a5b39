"""Preferences without a language model, for controls: from texts alone, from a simulated judge, and shuffled ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain

import msgspec
import numpy as np
import numpy.typing as npt

from offline.datasets import Dataset
from offline.distil import DistilConfig, question_batches
from offline.judgements import Judgement, Question
from offline.preferences import Calibration, Preference, Preferences, Prior
from offline.states import Embeddings
from simulator.world.users import UserModel

Scores = npt.NDArray[np.float64]
Personal = Callable[[list[int], list[int], list[int]], Scores]
"""(liked, disliked, candidates) as item indices -> a score for each candidate."""

_UNCALIBRATED = Calibration(0.0, 0.0, 1.0, 0.0, 1.0)


def text_preferences(dataset: Dataset, embeddings: Embeddings, config: DistilConfig) -> Preferences:
    """Judge by closeness of texts alone: no item is better than another, users like what reads like their history."""
    centred = embeddings - embeddings.mean(axis=0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)

    def personal(liked: list[int], disliked: list[int], candidates: list[int]) -> Scores:
        taste = unit[liked].sum(axis=0) - unit[disliked].sum(axis=0)
        return np.asarray(unit[candidates] @ taste / max(1, len(liked) + len(disliked)), np.float64)

    return _preferences(dataset, embeddings, np.zeros(len(dataset.items)), personal, config, "text")


def synthetic_preferences(
    dataset: Dataset, embeddings: Embeddings, users: UserModel, accuracy: float, config: DistilConfig
) -> Preferences:
    """A judge that knows the truth to a degree: its z-scores correlate with the true ones by `accuracy`.

    True are the logit of an item's mean affinity and, for a history, closeness in the truth's own space. Only for the
    curve of benefit against a judge's quality; no honest judge can see this.
    """
    rng = np.random.default_rng([config.seed, round(1000 * accuracy)])
    popular = users.affinity.mean(axis=0, dtype=np.float64)
    prior = _blurred(_standardised(np.log(popular) - np.log1p(-popular)), accuracy, rng)

    def personal(liked: list[int], disliked: list[int], candidates: list[int]) -> Scores:
        vectors = users.item_vectors
        taste = vectors[liked].sum(axis=0) - vectors[disliked].sum(axis=0)
        true = _standardised(np.asarray(vectors[candidates] @ taste, np.float64))
        return _blurred(true, accuracy, rng)

    return _preferences(dataset, embeddings, prior, personal, config, "synthetic")


def shuffled(preferences: Preferences, seed: int) -> Preferences:
    """Hand each judgement to another item: a judge that is sure of itself and wrong."""
    rng = np.random.default_rng(seed)
    ids = sorted(preferences.priors)
    other = dict(zip(ids, rng.permutation(ids).tolist(), strict=True))
    personal = tuple(
        p._replace(judgement=msgspec.structs.replace(p.judgement, item_id=other[p.judgement.item_id]))
        for p in preferences.personal
    )
    return replace(preferences, priors={other[i]: prior for i, prior in preferences.priors.items()}, personal=personal)


def _preferences(
    dataset: Dataset, embeddings: Embeddings, prior_z: Scores, personal: Personal, config: DistilConfig, judge: str
) -> Preferences:
    """Preferences of a judge that is a function, on the states that a language model would be asked about."""
    index = {item.item_id: row for row, item in enumerate(dataset.items)}
    questions: Sequence[Question] = list(chain.from_iterable(question_batches(dataset, embeddings, prior_z, config)))
    rows: list[Preference] = []
    for question in questions:
        liked, disliked = ([index[i] for i, r in question.history if (r > 0) == is_liked] for is_liked in (True, False))
        candidates = [index[i] for i in question.candidates]
        scores = personal(liked, disliked, candidates)
        for item_id, row, z in zip(question.candidates, candidates, _standardised(scores), strict=True):
            judgement = Judgement(
                key="",
                history=question.history,
                item_id=item_id,
                style="judge",
                model=judge,
                prompt_version="",
                score=float(z),
                n_tokens=0,
            )
            rows.append(Preference(judgement, float(prior_z[row]), float(z), float(prior_z[row]), float(z)))
    priors = {item.item_id: Prior(float(z), float(z)) for item, z in zip(dataset.items, prior_z, strict=True)}
    return Preferences(priors, tuple(rows), _UNCALIBRATED)


def _standardised(values: Scores) -> Scores:
    spread = values.std()
    return np.asarray((values - values.mean()) / (spread if spread > 0 else 1.0))


def _blurred(true: Scores, accuracy: float, rng: np.random.Generator) -> Scores:
    return np.asarray(accuracy * true + np.sqrt(1 - accuracy**2) * rng.standard_normal(len(true)))
