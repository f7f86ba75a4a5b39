"""Item vectors in closed form: items are close if their texts are, or if the same people like them.

    N[u, a]  = n_u^-1/4 / sqrt(m_a + shrinkage)    where user u liked item a, else 0      (a shrunk cosine: N'N)
    K        = N'N + share T T'                                  T [A, d] what was known before: projected texts
    V        = argmin |K - V V'|  of rank d,  rotated to be as near as possible to T

n_u is how many items u liked, m_a the sum of squares in a's column before it is scaled. Of users with many likes each
pair says less, of items with few likes a cosine says less. V comes from K's leading eigenvectors, found by subspace
iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4) which never forms K; the rotation (orthogonal Procrustes;
Schönemann 1966) keeps the meaning of directions, so that what was learned of them stands when V is found anew. PureSVD
(Cremonesi, Koren & Turrin 2010) with texts as further "users", so that an item without likes stands where its text is.

On real logs this tells more, and at once, than gradient steps on the same vectors (docs/decisions.md). It is for likes
that people found by themselves: which items are liked together in slates is what a policy chose to show together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

TEXT_SHARE = 0.1  # of texts in K
LEARNED_SHARE = 1.0  # of vectors that logs taught: as long as a cosine of items with many likes makes them
SHRINKAGE = 10.0  # likes
USER_POWER = 0.25
_ITERATIONS = 6

Floats = npt.NDArray[np.float64]


class Likes(NamedTuple):
    """N likes."""

    users: npt.NDArray[np.int64]  # [N] any numbers
    items: npt.NDArray[np.int64]  # [N] rows of the catalogue
    strengths: Floats  # [N] in (0, 1]


def co_like_vectors(likes: Likes, before: Tensor, share: float, start: Tensor | None = None) -> Tensor:
    """V [A, d], as long as `before` is on average, computed for the items that were liked; the others stay where they
    were, shortened to what `share` is worth.

    Args:
        likes: of several by one user of one item the strongest counts.
        before: T [A, d].
        share: weight of what was known before.
        start: V as it was last found; a good guess, which changes little of the result.
    """
    if not len(likes.users):
        return before.clone()
    liked, columns = np.unique(likes.items, return_inverse=True)
    given = before[liked].double()
    times = _Product(likes._replace(items=columns), given, share)
    basis = _orthonormal(given if start is None else start[liked].double())
    for _ in range(_ITERATIONS):
        basis = _orthonormal(times(basis))
    values, turned = torch.linalg.eigh(basis.T @ times(basis))
    vectors = (basis @ turned) * values.clamp_min(0).sqrt()
    left, _, right = torch.linalg.svd(vectors.T @ given, full_matrices=False)
    vectors = vectors @ (left @ right)
    length = given.norm(dim=1).mean() / vectors.norm(dim=1).mean().clamp_min(1e-9)
    placed: Tensor = before * (share**0.5 * length).clamp_max(1.0).to(before.dtype)
    placed[liked] = (vectors * length).to(before.dtype)
    return placed


class _Product:
    """K basis, [A, d] -> [A, d]."""

    def __init__(self, likes: Likes, given: Tensor, share: float) -> None:
        _, users = np.unique(likes.users, return_inverse=True)
        order = np.lexsort((-likes.strengths, likes.items, users))  # the strongest of each pair comes first
        pairs = np.stack([users[order], likes.items[order]])
        kept = order[np.append(True, (pairs[:, 1:] != pairs[:, :-1]).any(0))]
        self._users, self._items = torch.from_numpy(users[kept]), torch.from_numpy(likes.items[kept])
        weights = torch.from_numpy(likes.strengths[kept])
        weights *= torch.bincount(self._users, weights).clamp_min(1.0)[self._users] ** -USER_POWER
        squares = weights**2
        by_item = torch.bincount(self._items, squares)
        self._weights = (weights * (by_item + SHRINKAGE * squares.mean())[self._items] ** -0.5).unsqueeze(1)
        self._given, self._share = given, share

    def __call__(self, basis: Tensor) -> Tensor:
        by_user = basis.new_zeros(int(self._users.max()) + 1, basis.shape[1])
        by_user.index_add_(0, self._users, self._weights * basis[self._items])
        product = self._share * (self._given @ (self._given.T @ basis))
        return product.index_add_(0, self._items, self._weights * by_user[self._users])


def _orthonormal(basis: Tensor) -> Tensor:
    columns: Tensor = torch.linalg.qr(basis)[0]
    return columns
