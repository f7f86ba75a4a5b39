"""The network once more, written as loops over one session in float64: the oracle of what torch computes in batches."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy.special
from policy_examples import IGNORED, NEGATIVE, POSITIVE, RESPONSES

from service.policy.networks import ItemScorer
from service.policy.types import Interaction, Response

Array = npt.NDArray[np.float64]
History = tuple[Interaction, ...]


def weights(scorer: ItemScorer) -> dict[str, Array]:
    return {name: t.numpy().astype(np.float64) for name, t in scorer.state_dict().items()}


def vectors_by_loop(scorer: ItemScorer) -> Array:
    w, text = weights(scorer), scorer.text.numpy().astype(np.float64)
    return np.stack([w["project.weight"] @ text[a] + w["id_vectors"][a] for a in range(scorer.n_items)])


def profiles_by_loop(scorer: ItemScorer, history: History) -> Array:
    """Vectors of the liked items, of the last liked one, of the disliked and of the ignored: sums over n + 2."""
    vectors = vectors_by_loop(scorer)
    rows: dict[Response, list[Array]] = {response: [] for response in RESPONSES}
    for interaction in history:
        rows[interaction.response].append(vectors[interaction.item])
    parts = (rows[POSITIVE], rows[POSITIVE][-1:], rows[NEGATIVE], rows[IGNORED])
    return np.stack([sum(part, np.zeros(scorer.config.dim)) / (len(part) + 2) for part in parts])


def hidden_by_loop(scorer: ItemScorer, history: History) -> Array:
    w, profiles = weights(scorer), profiles_by_loop(scorer, history)
    return np.asarray(sum(profiles[c] @ w["mixing"][c] + w["gain"][c] * profiles[c] for c in range(4)))


def closeness_by_loop(scorer: ItemScorer, history: History) -> tuple[Array, Array]:
    """Nearest and mean cosine, [A] each, to the last four liked items and all that were shown in vain or disliked."""
    vectors = vectors_by_loop(scorer)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    latest = [i.item for i in history if i.response == POSITIVE][-4:]
    latest += [i.item for i in history if i.response != POSITIVE]
    close = [[max(0.0, float(unit[a] @ unit[j])) for j in latest] or [0.0] for a in range(len(unit))]
    return np.array([max(row) for row in close]), np.array([sum(row) / len(row) for row in close])


def response_by_loop(scorer: ItemScorer, history: History) -> Array:
    """f [A] without a prior."""
    w, text, vectors = weights(scorer), scorer.text.numpy(), vectors_by_loop(scorer)
    n_liked, n_ignored = (sum(i.response == kind for i in history) for kind in (POSITIVE, IGNORED))
    level = w["level"] @ np.array([1.0, math.log1p(n_liked), math.log1p(n_ignored)])
    bias = w["id_bias"] + text @ w["text_bias.weight"][0]
    nearest, mean = closeness_by_loop(scorer, history)
    again = w["repeat"][0] * nearest + w["repeat"][1] * mean
    return np.asarray(level + bias + vectors @ hidden_by_loop(scorer, history) + again)


def leaving_by_loop(scorer: ItemScorer, history: History) -> Array:
    """l [A]."""
    w = weights(scorer)
    return np.asarray(w["leave"][0] + w["leave"][1] * closeness_by_loop(scorer, history)[0])


def advantage_by_loop(scorer: ItemScorer, history: History, prior: ItemScorer | None = None) -> Array:
    """f + prior_gain f_prior - horizon sigmoid(l), [A]."""
    response = response_by_loop(scorer, history)
    if prior is not None:
        response = response + weights(scorer)["prior_gain"] * response_by_loop(prior, history)
    return np.asarray(response - scorer.config.horizon * scipy.special.expit(leaving_by_loop(scorer, history)))


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
