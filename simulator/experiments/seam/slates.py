"""From scores to slates, n sessions at a time."""

from __future__ import annotations

import numpy as np

from simulator.experiments.seam.agent import Bools, Floats, Ints, Outcome, Sessions, Slates


def best_unseen(scores: Floats, seen: Bools, k: int) -> Ints:
    """[n, k] the unseen items with the highest scores [n, A], best first; -1 where too few are unseen."""
    assert scores.shape == seen.shape
    masked = np.where(seen, -np.inf, scores)
    width = min(k, masked.shape[1])
    top = np.argpartition(masked, masked.shape[1] - width, axis=1)[:, masked.shape[1] - width :]
    values = np.take_along_axis(masked, top, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    ranked = np.where(
        np.isneginf(np.take_along_axis(values, order, axis=1)), -1, np.take_along_axis(top, order, axis=1)
    )
    return np.pad(ranked, ((0, 0), (0, k - width)), constant_values=-1)


def softened(scores: Floats, temperature: float, rng: np.random.Generator) -> Floats:
    """Scores [n, A] whose best k are a draw without replacement from softmax(scores / temperature).

    Gumbel noise makes it so (Kool et al. 2019); at temperature 0 the scores stay as they are.
    """
    if temperature == 0:
        return scores
    # Float32 noise may be 0; the smallest positive number keeps its logarithm finite.
    uniform = np.maximum(rng.random(scores.shape, np.float32), np.finfo(np.float32).tiny)
    with np.errstate(divide="ignore"):
        return np.asarray(scores - temperature * np.log(-np.log(uniform)))


def left_early(sessions: Sessions, outcome: Outcome, max_turn: int) -> Bools:
    """[n] did the user leave before the last turn, once it was this turn's?"""
    return np.asarray(outcome.ended & (sessions.shown.shape[1] + 1 < max_turn))


def following(sessions: Sessions, slates: Slates, outcome: Outcome) -> Sessions:
    """Return the sessions a turn later."""
    seen = sessions.seen.copy()
    session, slot = np.nonzero(slates.items >= 0)
    seen[session, slates.items[session, slot]] = True
    return Sessions(
        np.concatenate([sessions.shown, slates.items[:, None]], axis=1),
        np.concatenate([sessions.responses, outcome.rewards[:, None] > 0], axis=1),
        seen,
    )
