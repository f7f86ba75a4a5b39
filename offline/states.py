"""User states worth asking about: plausible histories made from text alone, or taken from observed users if allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offline.datasets import Interactions, Item
from offline.judgements import Question

LIKED, DISLIKED = 1, -1
Embeddings = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StateConfig:
    """Shape of the sampled histories, and choice of the candidates that are judged for each."""

    max_history: int = 10
    two_tastes_prob: float = 0.5
    disliked_prob: float = 0.25  # that a history holds dislikes at all; then one to a third of it
    neighbours: int = 30  # a taste is drawn from this many items next to its anchor
    candidates: int = 32
    similar_share: float = 0.4
    prior_share: float = 0.3  # the rest is uniform
    prior_temperature: float = 1.0


State = tuple[tuple[int, int], ...]  # (item index, response), oldest first


def sample_states(
    embeddings: Embeddings, prior_z: Scores, n_states: int, config: StateConfig, rng: np.random.Generator
) -> list[State]:
    """Histories without logs: one or two tastes, each an anchor and items whose text is close; some dislikes far away.

    Args:
        embeddings: unit rows [A, d].
        prior_z: [A]; anchors are drawn in proportion to exp(prior_z), as people have mostly seen what is well known.
    """
    anchors = _softmax(prior_z / config.prior_temperature)
    return [_sample_state(embeddings, anchors, config, rng) for _ in range(n_states)]


def _sample_state(embeddings: Embeddings, anchor_prob: Scores, config: StateConfig, rng: np.random.Generator) -> State:
    n_items = len(embeddings)
    size = min(int(rng.integers(1, config.max_history + 1)), n_items)
    n_tastes = 2 if size > 2 and rng.random() < config.two_tastes_prob else 1
    n_disliked = int(rng.integers(1, max(2, size // 3 + 1))) if size > 2 and rng.random() < config.disliked_prob else 0
    tastes = rng.choice(n_items, size=n_tastes, p=anchor_prob)
    liked: list[int] = []
    for k, anchor in enumerate(tastes):
        limit = (size - n_disliked) * (k + 1) // n_tastes - len(liked)
        near = np.argsort(-(embeddings @ embeddings[anchor]), kind="stable")[: config.neighbours]
        liked += near[_draw(anchor_prob[near], np.isin(near, liked), limit, rng)].tolist()
    # Dislikes: known items from the half of the catalogue that is farthest from every taste.
    closeness = (embeddings @ embeddings[tastes].T).max(axis=1)
    near_or_liked = (closeness > np.median(closeness)) | np.isin(np.arange(n_items), liked)
    disliked = _draw(anchor_prob, near_or_liked, n_disliked, rng)
    shown = [(item, LIKED) for item in liked] + [(item, DISLIKED) for item in disliked]
    return tuple(shown[i] for i in rng.permutation(len(shown)))


def states_from_interactions(
    interactions: Interactions, n_states: int, config: StateConfig, rng: np.random.Generator
) -> list[State]:
    """Histories of observed users: a stretch of what one of them did, in order, with the responses observed."""
    order = np.lexsort((interactions.time, interactions.user))
    starts = np.searchsorted(interactions.user[order], np.arange(interactions.n_users + 1))
    active = np.flatnonzero(np.diff(starts))
    states: list[State] = []
    while len(active) and len(states) < n_states:
        user = int(rng.choice(active))
        rows = order[starts[user] : starts[user + 1]]
        end = int(rng.integers(1, len(rows) + 1))
        rows = rows[max(0, end - int(rng.integers(1, config.max_history + 1))) : end]
        states.append(tuple((int(interactions.item[r]), LIKED if interactions.liked[r] else DISLIKED) for r in rows))
    return states


def sample_candidates(
    state: State, embeddings: Embeddings, prior_z: Scores, config: StateConfig, rng: np.random.Generator
) -> list[int]:
    """Items to judge for a state, none of its own and no repeats: close to its likes, likely by the prior, uniform."""
    n_items = len(embeddings)
    taken = np.isin(np.arange(n_items), [item for item, _ in state])
    liked = [item for item, response in state if response == LIKED]
    closeness = (embeddings @ embeddings[liked].T).max(axis=1) if liked else np.zeros(n_items)
    near = np.full(n_items, -np.inf)
    nearest = np.argsort(-np.where(taken, -np.inf, closeness), kind="stable")[: 3 * config.candidates]
    near[nearest] = 0.0
    n_similar = round(config.similar_share * config.candidates) if liked else 0
    n_prior = round(config.prior_share * config.candidates)
    parts = (
        (_softmax(near), n_similar),
        (_softmax(prior_z / config.prior_temperature), n_prior),
        (np.full(n_items, 1.0 / n_items), config.candidates - n_similar - n_prior),
    )
    chosen: list[int] = []
    for prob, limit in parts:
        drawn = _draw(prob, taken, limit, rng)
        taken[drawn] = True
        chosen += drawn
    return chosen


def to_question(state: State, candidates: Sequence[int], items: Sequence[Item]) -> Question:
    """The question about a state in terms of item ids."""
    history = tuple((items[index].item_id, response) for index, response in state)
    return Question(history, tuple(items[index].item_id for index in candidates))


def _softmax(logits: Scores) -> Scores:
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


def _draw(prob: Scores, taken: npt.NDArray[np.bool_], limit: int, rng: np.random.Generator) -> list[int]:
    """Draw at most `limit` different indices that are not taken, in proportion to `prob`."""
    weights = np.where(taken, 0.0, prob)
    n = min(limit, int((weights > 0).sum()))
    if n <= 0:
        return []
    drawn: list[int] = rng.choice(len(prob), size=n, replace=False, p=weights / weights.sum()).tolist()
    return drawn
