"""SASRec (Kang & McAuley 2018, "Self-attentive sequential recommendation"): the next liked item, learned from a log.

The sequence is a start token and the items liked so far, oldest first; each place predicts the next one with a softmax
over all items (the original samples one negative; the full softmax is stronger and cheap here). A stranger gets what
follows the start token. Where the original normalises, blocks here are PyTorch's pre-norm encoder layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from simulator.experiments.methods.logged import HELD_OUT, FrozenAgent, log_of
from simulator.experiments.seam.agent import Agent, Factory, Floats, Sessions, Setting
from simulator.experiments.seam.encoding import states_of
from simulator.experiments.seam.item_networks import FitConfig, fit, seeded
from simulator.experiments.seam.logs import Log
from simulator.experiments.seam.options import read_options

_NO_TARGET = -100


@dataclass(frozen=True)
class SASRecConfig:
    dim: int = 64
    blocks: int = 2
    heads: int = 2
    dropout: float = 0.2
    max_liked: int = 20
    epochs: int = 30
    batch: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    temperature: float = 0.7


class SASRec(nn.Module):
    """Transformer over a sequence of liked items that predicts the next one after every position."""

    causal: Tensor

    def __init__(self, n_items: int, config: SASRecConfig) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items, config.dim)
        self.bias = nn.Parameter(torch.zeros(n_items))
        self.start = nn.Parameter(torch.zeros(config.dim))
        self.places = nn.Embedding(config.max_liked + 1, config.dim)
        layer = nn.TransformerEncoderLayer(
            config.dim, config.heads, config.dim, config.dropout, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, config.blocks, enable_nested_tensor=False)
        self.norm, self.dropout = nn.LayerNorm(config.dim), nn.Dropout(config.dropout)
        for embedding in (self.items, self.places):
            nn.init.normal_(embedding.weight, std=0.02)
        length = config.max_liked + 1
        self.register_buffer("causal", torch.triu(torch.ones(length, length, dtype=torch.bool), 1))

    def forward(self, liked: Tensor) -> Tensor:
        """`liked` [B, L], padded on the right with any item; [B, L + 1, dim]: place i has seen the first i items."""
        length = liked.shape[1] + 1
        vectors = torch.cat([self.start.expand(len(liked), 1, -1), self.items(liked)], dim=1)
        hidden = self.dropout(vectors * self.items.embedding_dim**0.5 + self.places.weight[:length])
        encoded: Tensor = self.norm(self.blocks(hidden, mask=self.causal[:length, :length]))
        return encoded

    def logits(self, encoded: Tensor) -> Tensor:
        """Compute the logits of the next item, [..., dim] -> [..., A]."""
        return encoded @ self.items.weight.T + self.bias


def sequences(log: Log, max_liked: int) -> tuple[Tensor, Tensor]:
    """Liked items [n, L] and the targets [n, L] that follow the places before them; L <= `max_liked`, the last ones."""
    sessions = Sessions(log.shown, log.responses, np.zeros((len(log.shown), 0), np.bool_))
    states = states_of(sessions, n_responses=max_liked, n_shown=0)
    longest = max(1, int(states.lengths.max()))
    liked = states.items[:, :longest]
    present = torch.arange(longest) < states.lengths.unsqueeze(1)
    return liked, liked.masked_fill(~present, _NO_TARGET)


def sasrec(setting: Setting) -> Agent:
    """The next liked item of the log's users, frozen."""
    config = read_options(SASRecConfig, setting.options, "sasrec")
    rng = np.random.default_rng(setting.seed)
    (liked, targets), held_out = (sequences(part, config.max_liked) for part in log_of(setting).split(HELD_OUT, rng))
    with seeded(setting.seed):
        network = SASRec(setting.catalogue.n_items, config)

        def loss(liked: Tensor, targets: Tensor) -> Tensor:
            followed = targets != _NO_TARGET
            logits = network.logits(network(liked)[:, :-1][followed])
            return functional.cross_entropy(logits, targets[followed], reduction="sum") / followed.sum().clamp_min(1)

        best = fit(
            network,
            lambda rows: loss(liked[rows], targets[rows]),
            len(liked),
            lambda: loss(*held_out),
            FitConfig(config.epochs, config.batch, config.learning_rate, config.weight_decay),
            rng,
        )

    @torch.inference_mode()
    def scores(sessions: Sessions) -> Floats:
        states = states_of(sessions, n_responses=config.max_liked, n_shown=0)
        encoded = network(states.items)[torch.arange(len(states.items)), states.lengths]
        values: Floats = network.logits(encoded).numpy()
        return values

    return FrozenAgent(setting, scores, config.temperature, {"held_out_loss": best})


METHODS: Mapping[str, Factory] = {"sasrec": sasrec}
