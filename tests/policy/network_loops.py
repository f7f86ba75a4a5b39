"""The network once more, written as loops over one session in float64: the oracle of what torch computes in batches."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy.special

from service.policy.networks import ItemScorer
from service.policy.types import Interaction

Array = npt.NDArray[np.float64]
History = tuple[Interaction, ...]


def weights(scorer: ItemScorer) -> dict[str, Array]:
    return {name: t.numpy().astype(np.float64) for name, t in scorer.state_dict().items()}


def vectors_by_loop(scorer: ItemScorer) -> Array:
    w, text = weights(scorer), scorer.text.numpy().astype(np.float64)
    return np.stack([w["project.weight"] @ text[a] + w["id_vectors"][a] for a in range(scorer.n_items)])


def profiles_by_loop(scorer: ItemScorer, history: History) -> Array:
    """Vectors of the liked items, of the last liked one, of the disliked and of the ignored: sums over n + 2, each
    weighted by its strength."""
    vectors = vectors_by_loop(scorer)
    liked = [(i.response, vectors[i.item]) for i in history if i.response > 0]
    disliked = [(-i.response, vectors[i.item]) for i in history if i.response < 0]
    ignored = [(1.0, vectors[i.item]) for i in history if i.response == 0]
    zero = np.zeros(scorer.config.dim)
    return np.stack(
        [
            sum((weight * vector for weight, vector in part), zero) / (sum(weight for weight, _ in part) + 2)
            for part in (liked, liked[-1:], disliked, ignored)
        ]
    )


def hidden_by_loop(scorer: ItemScorer, history: History) -> Array:
    w, profiles = weights(scorer), profiles_by_loop(scorer, history)
    return np.asarray(sum(profiles[c] @ w["mixing"][c] + w["gain"][c] * profiles[c] for c in range(4)))


def closeness_by_loop(scorer: ItemScorer, history: History) -> tuple[Array, Array, Array]:
    """Cosines, [A] each: nearest of the last four liked, nearest of all shown in vain, mean of both."""
    vectors = vectors_by_loop(scorer)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    liked = [(i.item, i.response) for i in history if i.response > 0][-4:]
    in_vain = [(i.item, 1.0) for i in history if i.response == 0]
    to_liked, to_in_vain = (
        [[weight * max(0.0, float(row @ unit[j])) for j, weight in of] for row in unit] for of in (liked, in_vain)
    )
    n = max(1.0, sum(weight for _, weight in liked + in_vain))
    both = [one + other or [0.0] for one, other in zip(to_liked, to_in_vain, strict=True)]
    near_liked, near_in_vain = (np.array([max(row, default=0.0) for row in rows]) for rows in (to_liked, to_in_vain))
    return near_liked, near_in_vain, np.array([sum(row) / n for row in both])


def nearest_by_loop(scorer: ItemScorer, history: History) -> Array:
    """Cosine to the nearest of the latest items, whatever came of them, [A]."""
    liked, in_vain, _ = closeness_by_loop(scorer, history)
    return np.maximum(liked, in_vain)


def bias_by_loop(scorer: ItemScorer) -> Array:
    """What is said of items whoever comes, [A]."""
    w, text = weights(scorer), scorer.text.numpy().astype(np.float64)
    return np.asarray(w["id_bias"] + text @ w["text_bias.weight"][0])


def tastes_by_loop(scorer: ItemScorer) -> Array:
    """x [A, d + 1]: what text and item tell, then the same number for every item."""
    w, text = weights(scorer), scorer.text.numpy().astype(np.float64)
    rows = [w["taste_text.weight"] @ text[a] + w["taste_id"][a] for a in range(scorer.n_items)]
    return np.stack([np.append(row, w["taste_level"]) for row in rows])


def taste_by_loop(scorer: ItemScorer, history: History, prior: ItemScorer | None = None) -> Array:
    """z after three Newton steps from zero, one interaction after the other."""
    w, x, usual = weights(scorer), tastes_by_loop(scorer), bias_by_loop(scorer)
    if prior is not None:
        usual = usual + w["prior_gain"][0] * bias_by_loop(prior)
    z = np.zeros(x.shape[1])
    for _ in range(3):
        slope, curvature = -z, np.eye(len(z))
        for interaction in history:
            of = x[interaction.item]
            weight = abs(interaction.response) or 1.0
            expected = 0.0 if interaction.response < 0 else w["level"][0] + usual[interaction.item]
            p = scipy.special.expit(expected + of @ z)
            slope = slope + weight * (float(interaction.response > 0) - p) * of
            curvature += weight * p * (1 - p) * np.outer(of, of)
        z = z + np.linalg.solve(curvature, slope)
    return z


def personal_by_loop(scorer: ItemScorer, history: History, prior: ItemScorer | None = None) -> Array:
    """What f says of this session alone, [A]."""
    again = weights(scorer)["repeat"] @ np.stack(closeness_by_loop(scorer, history))
    taste = tastes_by_loop(scorer) @ taste_by_loop(scorer, history, prior)
    return np.asarray(vectors_by_loop(scorer) @ hidden_by_loop(scorer, history) + taste + again)


def response_by_loop(scorer: ItemScorer, history: History, prior: ItemScorer | None = None) -> Array:
    """f [A], on a prior or without."""
    w = weights(scorer)
    n_liked, n_ignored = sum(max(0.0, i.response) for i in history), sum(i.response == 0 for i in history)
    level = w["level"] @ np.array([1.0, math.log1p(n_liked), math.log1p(n_ignored)])
    response = level + bias_by_loop(scorer) + personal_by_loop(scorer, history, prior)
    if prior is not None:
        of_item, personal = w["prior_gain"]
        response = response + of_item * bias_by_loop(prior) + personal * personal_by_loop(prior, history)
    return np.asarray(response)


def leaving_by_loop(scorer: ItemScorer, history: History) -> Array:
    """l [A]."""
    w = weights(scorer)
    return np.asarray(w["leave"][0] + w["leave"][1] * nearest_by_loop(scorer, history) ** 2)


def advantage_by_loop(scorer: ItemScorer, history: History, prior: ItemScorer | None = None) -> Array:
    """f - horizon sigmoid(l), [A]."""
    leaving = scipy.special.expit(leaving_by_loop(scorer, history))
    return np.asarray(response_by_loop(scorer, history, prior) - scorer.config.horizon * leaving)


def logits_by_loop(
    scorer: ItemScorer,
    history: History,
    prior: ItemScorer | None = None,
    available: npt.NDArray[np.bool_] | None = None,
) -> Array:
    """The actor's logits [A]: log of a mixture of what looks best and of what may be best, of what is available."""
    config, known = scorer.config, weights(scorer)["information"]
    advantage = advantage_by_loop(scorer, history, prior)
    if available is not None:
        advantage = np.where(available, advantage, -np.inf)
    if not known.any():
        return advantage / config.temperature
    bound = advantage + config.optimism / np.sqrt(2 + known)
    best, maybe = (scipy.special.softmax(score / config.temperature) for score in (advantage, bound))
    mixed = (1 - config.curiosity) * best + config.curiosity * maybe
    return np.asarray([math.log(p) if p > 0 else -math.inf for p in mixed])


def q_by_loop(scorer: ItemScorer, history: History, prior: ItemScorer | None = None) -> Array:
    """Q(s, .) [A]."""
    return np.asarray(scipy.special.expit(advantage_by_loop(scorer, history, prior)))
