"""SASRec (Kang & McAuley, "Self-attentive sequential recommendation", ICDM 2018): the next liked item, by attention.

The sequence is a start token and the items liked so far; each place predicts the next one with a softmax over all items
(the original samples one negative; Klenitskiy & Vasilev, RecSys 2023, find the full softmax much stronger). A stranger
gets what follows the start token. Blocks are PyTorch's pre-norm encoder layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from offline.benchmark.data import Ints
from offline.benchmark.metrics import Scores
from offline.benchmark.ranker import Context, Method

_NO_TARGET = -100


@dataclass(frozen=True)
class SasRecConfig:
    dim: int = 64
    blocks: int = 1
    heads: int = 2
    dropout: float = 0.3
    length: int = 30  # liked items that a place may look back to
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    epochs: int = 25
    patience: int = 3  # epochs without a better held-out loss
    held_out: float = 0.1  # of the training users, who choose the epoch
    every: int = 40  # blocks between refreshes, prequential
    epochs_a_refresh: int = 4


class SasRec(nn.Module):
    """Transformer over a sequence of liked items that predicts the next one after every position."""

    causal: Tensor

    def __init__(self, n_items: int, config: SasRecConfig) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(n_items, config.dim)
        self.bias = nn.Parameter(torch.zeros(n_items))
        self.start = nn.Parameter(torch.zeros(config.dim))
        self.places = nn.Embedding(config.length + 1, config.dim)
        layer = nn.TransformerEncoderLayer(
            config.dim, config.heads, config.dim, config.dropout, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, config.blocks, enable_nested_tensor=False)
        self.norm, self.dropout = nn.LayerNorm(config.dim), nn.Dropout(config.dropout)
        for embedding in (self.items, self.places):
            nn.init.normal_(embedding.weight, std=0.02)
        length = config.length + 1
        self.register_buffer("causal", torch.triu(torch.ones(length, length, dtype=torch.bool), 1))

    def forward(self, liked: Tensor) -> Tensor:
        """`liked` [B, L], padded on the right with any item; [B, L + 1, dim]: place i has seen the first i items."""
        length = liked.shape[1] + 1
        vectors = torch.cat([self.start.expand(len(liked), 1, -1), self.items(liked)], dim=1)
        hidden = self.dropout(vectors * self.items.embedding_dim**0.5 + self.places.weight[:length])
        encoded: Tensor = self.norm(self.blocks(hidden, mask=self.causal[:length, :length]))
        return encoded

    def logits(self, encoded: Tensor) -> Tensor:
        """Logits of the next item, [..., dim] -> [..., A]."""
        return encoded @ self.items.weight.T + self.bias

    def loss(self, targets: Tensor) -> Tensor:
        """Mean of -log p(next item) over all places of `targets` [B, L] (the sequences themselves)."""
        followed = targets != _NO_TARGET
        logits = self.logits(self(targets.clamp_min(0))[:, :-1][followed])
        return functional.cross_entropy(logits, targets[followed])

    @torch.inference_mode()
    def rank(self, histories: Sequence[Sequence[int]]) -> Scores:
        liked = packed([history[-self.config.length :] for history in histories], self.config.length)
        lengths = (liked != _NO_TARGET).sum(1)
        encoded = self(liked.clamp_min(0))[torch.arange(len(liked)), lengths]
        scores: Scores = self.logits(encoded).numpy()
        return scores


def packed(sequences: Sequence[Sequence[int]], length: int) -> Tensor:
    """Sequences as rows [n, L], padded on the right; longer ones become several rows of at most `length`."""
    rows = [s[start : start + length] for s in sequences for start in range(0, max(1, len(s)), length)]
    longest = max((len(row) for row in rows), default=0)
    table = torch.full((len(rows), max(1, longest)), _NO_TARGET, dtype=torch.int64)
    for place, row in zip(table, rows, strict=True):
        place[: len(row)] = torch.tensor(row, dtype=torch.int64)
    return table


class Training:
    """A network with its optimizer; epochs can be added as sequences come in."""

    def __init__(self, n_items: int, config: SasRecConfig, seed: int) -> None:
        self._rng, self.config = np.random.default_rng(seed), config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = SasRec(n_items, config)
        self._optimizer = torch.optim.AdamW(
            self.network.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )

    def epoch(self, sequences: Tensor) -> None:
        """Go through all sequences once, in random order."""
        self.network.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self._rng.integers(2**31)))
            for rows in torch.split(torch.from_numpy(self._rng.permutation(len(sequences))), self.config.batch):
                self._optimizer.zero_grad()
                self.network.loss(sequences[rows]).backward()  # type: ignore[no-untyped-call]
                self._optimizer.step()
        self.network.eval()

    def fit(self, sequences: Sequence[Sequence[int]]) -> SasRec:
        """Train until some of the users, held out for that, are predicted no better; the best epoch is kept."""
        chosen = self._rng.permutation(len(sequences))
        n_held_out = round(self.config.held_out * len(sequences))
        parts = [[sequences[i] for i in part] for part in (chosen[:n_held_out], chosen[n_held_out:])]
        held_out, training = (packed(part, self.config.length) for part in parts)
        best, kept, waited = float("inf"), deepcopy(self.network.state_dict()), 0
        for _ in range(self.config.epochs):
            self.epoch(training)
            with torch.no_grad():
                loss = float(self.network.loss(held_out)) if n_held_out else -1.0
            waited = 0 if loss < best else waited + 1
            if waited == 0:
                best, kept = loss, deepcopy(self.network.state_dict())
            if waited == self.config.patience:
                break
        self.network.load_state_dict(kept)
        return self.network


class Refreshed:
    """Trains on from where it was, on all sequences so far, after every `every` blocks."""

    def __init__(self, n_items: int, config: SasRecConfig, seed: int) -> None:
        self._training, self._config = Training(n_items, config, seed), config
        self._likes: dict[int, list[int]] = {}
        self._blocks = 0
        self._training.network.eval()

    def rank(self, histories: Sequence[Sequence[int]]) -> Scores:
        return self._training.network.rank(histories)

    def learn(self, users: Sequence[int], items: Sequence[int]) -> None:
        for user, item in zip(users, items, strict=True):
            self._likes.setdefault(user, []).append(item)
        self._blocks += 1
        if self._blocks % self._config.every == 0:
            sequences = packed(list(self._likes.values()), self._config.length)
            for _ in range(self._config.epochs_a_refresh):
                self._training.epoch(sequences)


def _fit(logs: Sequence[Ints], context: Context) -> SasRec:
    return Training(context.n_items, CONFIG, context.seed).fit([likes.tolist() for likes in logs if len(likes)])


CONFIG = SasRecConfig()
METHODS: Mapping[str, Method] = {
    "sasrec": Method(
        "SASRec",
        "logs",
        lambda context: lambda logs: _fit(logs, context),
        lambda context: Refreshed(context.n_items, CONFIG, context.seed),
        asdict(CONFIG),
    )
}
