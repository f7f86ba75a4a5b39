"""A session's taste: the most probable vector z, given what was liked and what was not.

    logit P(item j is liked) = f0_j + x_j . z,      z ~ N(0, I)

for the items j of the session, f0_j being what is known of an item whoever comes, or even odds where somebody said no:
they could have said yes. The posterior's mode is found by a
few Newton steps from zero (Laplace's approximation; MacKay 2003, chapter 27): a session has few items and z few
coordinates, so a step is one small linear system. What was liked pulls z towards an item's x by as much as it was not
expected, and what was shown in vain pushes it away by as much as it was.

`most_likely` is in torch, for learning through it; `most_likely_np` the same in NumPy, for requests.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

TASTE_DIM = 16
STEPS = 3  # further ones change scores by less than the rounding of float32 serving


def most_likely(x: Tensor, usual: Tensor, liked: Tensor, present: Tensor) -> Tensor:
    """z [B, d] for B sessions of at most L items.

    Args:
        x: item vectors [B, L, d].
        usual: f0 [B, L], in log odds.
        liked: 1 for a liked item, 0 for another [B, L].
        present: how much each item counts, 1 in full; 0 for padding [B, L].
    """
    z = x.new_zeros(len(x), x.shape[2])
    eye = torch.eye(x.shape[2], dtype=x.dtype)
    for _ in range(STEPS):
        probability = torch.sigmoid(usual + (x @ z.unsqueeze(2)).squeeze(2))
        weighted = x * (probability * (1 - probability) * present).unsqueeze(2)
        slope = (x.transpose(1, 2) @ ((liked - probability) * present).unsqueeze(2)).squeeze(2) - z
        z = z + torch.linalg.solve(eye + weighted.transpose(1, 2) @ x, slope)
    return z


Floats = npt.NDArray[np.float32]


def most_likely_np(x: Floats, usual: Floats, liked: Floats, present: Floats) -> Floats:
    """`most_likely` in NumPy: x [B, L, d], usual, liked and present [B, L]; returns [B, d]."""
    z = np.zeros((len(x), x.shape[2]), np.float32)
    eye = np.eye(x.shape[2], dtype=np.float32)
    turned = x.transpose(0, 2, 1)
    for _ in range(STEPS):
        with np.errstate(over="ignore"):
            probability = 1 / (1 + np.exp(-(usual + (x @ z[:, :, np.newaxis])[:, :, 0])))
        curvature = eye + (turned * (probability * (1 - probability) * present)[:, np.newaxis]) @ x
        slope = (turned @ ((liked - probability) * present)[:, :, np.newaxis])[:, :, 0] - z
        z += np.linalg.solve(curvature, slope[:, :, np.newaxis])[:, :, 0]
    return z
