"""Closeness of items: exposure to what was shown, the leave rule's window, and the distance that is too close.

Vectors are unit vectors in the truth's own space.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from simulator.world.users import Floats

Indices = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]
LeaveWindow = Literal["corrected", "upstream"]


def exposure_to(candidates: Floats, shown: Floats, weights: Floats) -> Floats:
    """[B, M]: sum over shown items j of weights[j] * max(0, cos(candidate, j)).

    `candidates` [B, M, d] (or [1, M, d]: the same for all), `shown` [B, W, d], unit vectors; `weights` [B, W].
    """
    similarity = candidates @ shown.transpose(0, 2, 1)
    return np.asarray((np.maximum(similarity, 0.0) @ weights[:, :, None])[:, :, 0], np.float32)


def leave_window_length(turn: Indices, n: int, window: LeaveWindow) -> Indices:
    """Count the turns back from turn t (0-based, elementwise) that the leave rule looks at.

    `corrected`: seq[max(0, t-n):t]. `upstream`: EasyRL4Rec's slice seq[t-n:t] of a list of length t, whose negative
    start counts from the end: seq[max(0, 2t-n):t] for 0 < t < n, so that it sees little or nothing early on.
    """
    if window == "corrected":
        return np.minimum(turn, n)
    return np.where(turn >= n, n, np.minimum(turn, n - turn))


def too_close(candidates: Floats, shown: Floats, counted: Bools, threshold: float) -> Bools:
    """[B, M]: is the candidate at a distance below `threshold` from any counted shown item?

    `candidates` [B, M, d] or [1, M, d], `shown` [B, W, d], unit vectors; `counted` [B, W]. Source: EasyRL4Rec (Yu et
    al. 2024), the environments with an item distance matrix.
    """
    # Between unit vectors, distance < threshold exactly where cos > 1 - threshold^2 / 2.
    near = candidates @ shown.transpose(0, 2, 1) > 1.0 - 0.5 * threshold * threshold
    return np.asarray((near & counted[:, None, :]).any(axis=2))


def distance_quantile(item_vectors: Floats, quantile: float) -> float:
    """The quantile of the distances between all pairs of different items; `item_vectors` [A, d] are unit vectors."""
    assert len(item_vectors) > 1
    rows, columns = np.triu_indices(len(item_vectors), k=1)
    cosines = (item_vectors @ item_vectors.T)[rows, columns]
    return float(np.sqrt(max(0.0, 2.0 - 2.0 * np.quantile(cosines, 1.0 - quantile))))
