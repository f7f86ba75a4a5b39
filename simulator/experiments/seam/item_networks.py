"""Small networks that the learning baselines share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from service.policy.types import States
from simulator.experiments.seam.agent import Floats


class ItemHead(nn.Module):
    """Scores of all items from a hidden state: a vector and a bias per item, and a part that all items share.

    score(h, a) = v_a . h + b_a + text_a . W h
    """

    texts: Tensor

    def __init__(self, dim: int, texts: Tensor) -> None:
        super().__init__()
        self.register_buffer("texts", texts)
        self.own, self.shared = nn.Linear(dim, len(texts)), nn.Linear(dim, texts.shape[1])
        # Near zero: the first policy is uniform and the first Q is flat.
        for layer in (self.own, self.shared):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, dim] -> [B, A]"""
        scores: Tensor = self.own(hidden) + self.shared(hidden) @ self.texts.T
        return scores


class BagNetwork(nn.Module):
    """Scores of all items from what a session liked and ignored, in any order: an MLP over means of item vectors.

    v(a) = W text(a) + id(a); the means over what was liked and what was ignored go in, and how many there were.
    """

    texts: Tensor

    def __init__(self, texts: Floats, dim: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("texts", torch.from_numpy(texts))
        self.project, self.own = nn.Linear(texts.shape[1], dim, bias=False), nn.Embedding(len(texts), dim)
        nn.init.normal_(self.own.weight, std=0.01)
        self.body = nn.Sequential(
            nn.Linear(2 * dim + 2, 2 * dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(2 * dim, dim), nn.ReLU()
        )
        self.head = ItemHead(dim, self.texts)

    def forward(self, states: States) -> Tensor:
        """[B, A]"""
        vectors = self.project(self.texts[states.items]) + self.own(states.items)
        present = torch.arange(states.items.shape[1]) < states.lengths.unsqueeze(1)
        liked = present & (states.responses > 0)
        chosen = torch.stack([liked, present & ~liked], dim=1).float()  # [B, 2, L]
        counts = chosen.sum(2)
        means = (chosen @ vectors) / counts.unsqueeze(2).clamp_min(1)
        scores: Tensor = self.head(self.body(torch.cat([means.flatten(1), counts / 10], dim=1)))
        return scores


@dataclass(frozen=True)
class FitConfig:
    """Settings for fitting a network to a log; the epoch that does best on held-out sessions is kept."""

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float


def fit(
    network: nn.Module,
    loss: Callable[[Tensor], Tensor],
    n_rows: int,
    held_out_loss: Callable[[], Tensor],
    config: FitConfig,
    rng: np.random.Generator,
) -> float:
    """Minimise `loss` (of a minibatch of row numbers below `n_rows`) by AdamW; returns the best held-out loss."""
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    best, kept = float("inf"), deepcopy(network.state_dict())
    for _ in range(config.epochs):
        network.train()
        for rows in torch.split(torch.from_numpy(rng.permutation(n_rows)), config.batch):
            optimizer.zero_grad()
            loss(rows).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        network.eval()
        with torch.no_grad():
            value = float(held_out_loss())
        if value < best:
            best, kept = value, deepcopy(network.state_dict())
    network.load_state_dict(kept)
    network.eval()
    return best


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's own chance in here depends on `seed` alone, and chance elsewhere does not notice."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
