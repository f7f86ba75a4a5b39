"""What the networks compute on their way to a score (`networks`)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

N_LIKED_LATEST, N_LATEST = 4, 14


class ItemTable(NamedTuple):
    """Numbers of the catalogue that scoring needs; may be computed once and used for many states."""

    vectors: Tensor  # [A, dim]
    directions: Tensor  # [A, dim] the same with length one
    bias: Tensor  # [A]
    tastes: Tensor  # [A, TASTE_DIM + 1]


class Encoded(NamedTuple):
    """States as the network sees them."""

    hidden: Tensor  # [B, dim]
    level: Tensor  # [B, 1]
    latest: Tensor  # [B, M] items liked or shown lately
    weight: Tensor  # [B, M] of the latest, 1 for a full like and what was shown in vain; 0 where padded
    was_liked: Tensor  # [B, M] bool, of the latest
    taste: Tensor  # [B, TASTE_DIM + 1]
    profiles: Tensor  # [B, N_PROFILES, dim]
    seen: Tensor  # [B, 2] log(1 + liked), log(1 + ignored); a weak like counts in part


class Closeness(NamedTuple):
    """Closeness of items to the latest ones of their session, 0 where there are none; [B, A] or [B, K] each."""

    liked: Tensor  # to the nearest of the last liked ones
    in_vain: Tensor  # to the nearest of those last shown in vain; what was disliked is neither
    mean: Tensor

    @property
    def nearest(self) -> Tensor:
        """Closeness to the nearest of all of them."""
        return torch.maximum(self.liked, self.in_vain)


class Prior(NamedTuple):
    """The frozen policy's f without its level, in parts that are trusted apart."""

    item: Tensor  # [A], or [B, K] of the actions asked about
    personal: Tensor  # [B, A] or [B, K]


def latest_items(items: Tensor, liked: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The last few liked items and the last ones shown in vain, [B, M] each, with their weights, `liked` and `others`
    [B, L], and what was liked."""
    is_liked = liked > 0
    from_end = is_liked.flip(1).cumsum(1).flip(1)
    weight = torch.where(is_liked & (from_end <= N_LIKED_LATEST), liked, others)
    is_kept = weight > 0
    steps = torch.arange(items.shape[1])
    places = torch.where(is_kept, steps, steps - len(steps)).topk(min(N_LATEST, items.shape[1]), dim=1).indices
    weight = weight.gather(1, places)
    return items.gather(1, places), weight, (weight > 0) & is_liked.gather(1, places)
