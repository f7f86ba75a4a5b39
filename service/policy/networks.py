"""One network, used twice: as actor (scores are logits) and as critic (scores and value make Q).

    h(s)    = GRU over the session's interactions, each the item's vector plus its response's embedding
    v(a)    = W text(a) + id(a)
    score   = id_bias(a) + w.text(a) + v(a).U h(s) + sum_c gain_c profile_c(s).text(a)
    Q(s, a) = value(h(s)) + score(s, a)

Items come in through their text, so a new item has a score at once; `id` and `id_bias` start at zero and learn what the
text cannot tell. `profile_c` is the mean text of the session's items by response, plus the last positive one: plain
content similarity that works from the first click (ours; the paper leaves the encoder open). There is no user id: a
user is what happened in the session.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from service.policy.types import Response, States

N_PROFILES = 4


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network; saved in every snapshot."""

    dim: int = 64
    text_dim: int = 64  # after TextProjection
    max_history: int = 30


class Encoded(NamedTuple):
    """States as the network sees them."""

    hidden: Tensor  # [B, dim]
    profiles: Tensor  # [B, 4, text_dim]: mean positive, last positive, mean negative, mean ignored


class ItemTable(NamedTuple):
    """What scoring needs of the catalogue; may be computed once and used for many states."""

    text: Tensor  # [A, text_dim]
    vectors: Tensor  # [A, dim]
    bias: Tensor  # [A]


class ItemScorer(nn.Module):
    """Scores every item of the catalogue for a batch of states."""

    text: Tensor

    def __init__(self, config: NetworkConfig, text: Tensor) -> None:
        """`text`: projected text embeddings [A, text_dim]; given, not learned, and not part of the state dict."""
        super().__init__()
        assert text.ndim == 2 and text.shape[1] == config.text_dim, f"text is {tuple(text.shape)}"
        self.config = config
        self.register_buffer("text", text, persistent=False)
        self.id_vectors = nn.Parameter(torch.zeros(len(text), config.dim))
        self.id_bias = nn.Parameter(torch.zeros(len(text)))
        self.project = nn.Linear(config.text_dim, config.dim, bias=False)
        self.text_bias = nn.Linear(config.text_dim, 1, bias=False)
        self.response = nn.Embedding(len(Response), config.dim)
        self.encoder = nn.GRU(config.dim, config.dim, batch_first=True)
        self.query = nn.Linear(config.dim, config.dim)
        self.value = nn.Linear(config.dim, 1)
        self.profile_gain = nn.Parameter(torch.zeros(N_PROFILES))
        # Scores start near zero: the first policy is uniform and the first Q is flat.
        nn.init.zeros_(self.text_bias.weight)
        for layer in (self.query, self.value):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    @property
    def n_items(self) -> int:
        """Number of items A that have a row."""
        return self.id_vectors.shape[0]

    def table(self) -> ItemTable:
        """Vectors and biases of all items, [A, ...]."""
        return ItemTable(
            text=self.text,
            vectors=self.project(self.text) + self.id_vectors,
            bias=self.text_bias(self.text).squeeze(-1) + self.id_bias,
        )

    def encode(self, states: States, table: ItemTable) -> Encoded:
        """Encode B states; an empty session is the zero vector with zero profiles."""
        items, responses, lengths = states
        steps = torch.arange(items.shape[1], device=items.device)
        present = steps < lengths.unsqueeze(1)  # [B, L]
        inputs = table.vectors[items] + self.response(responses)
        outputs, _ = self.encoder(inputs)
        last = (lengths - 1).clamp_min(0)
        hidden = outputs[torch.arange(len(items)), last] * (lengths > 0).unsqueeze(1)

        text = table.text[items]  # [B, L, text_dim]
        liked = present & (responses == Response.POSITIVE)
        disliked = present & (responses == Response.NEGATIVE)
        ignored = present & (responses == Response.IGNORED)
        is_last = liked & (steps == torch.where(liked, steps, -1).amax(1, keepdim=True))
        weights = torch.stack([liked, is_last, disliked, ignored], dim=1).to(text.dtype)  # [B, 4, L]
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(1.0)
        return Encoded(hidden, weights @ text)

    def scores(self, encoded: Encoded, table: ItemTable) -> Tensor:
        """Score of every item, [B, A]."""
        profile = (encoded.profiles * self.profile_gain.view(1, N_PROFILES, 1)).sum(1)
        scores: Tensor = table.bias + self.query(encoded.hidden) @ table.vectors.T + profile @ table.text.T
        return scores

    def forward(self, states: States) -> Tensor:
        """Scores [B, A]: the actor's logits."""
        table = self.table()
        scores: Tensor = self.scores(self.encode(states, table), table)
        return scores

    def q_values(self, states: States) -> Tensor:
        """Q(s, .) [B, A]."""
        table = self.table()
        encoded = self.encode(states, table)
        q: Tensor = self.value(encoded.hidden) + self.scores(encoded, table)
        return q

    def state_value(self, states: States) -> Tensor:
        """V(s) [B], for critics that do not look at actions."""
        table = self.table()
        value: Tensor = self.value(self.encode(states, table).hidden).squeeze(-1)
        return value

    def with_text(self, text: Tensor) -> ItemScorer:
        """A copy for the catalogue `text` [A', text_dim], A' >= A: the first A rows are ours, the others new items.

        New items have no id row yet (zeros): they are scored by their text alone.
        """
        assert len(text) >= self.n_items, "items may be appended, not removed"
        grown = ItemScorer(self.config, text.to(self.text))
        missing = len(text) - self.n_items
        state = self.state_dict()
        for name in ("id_vectors", "id_bias"):
            state[name] = torch.cat([state[name], state[name].new_zeros(missing, *state[name].shape[1:])])
        grown.load_state_dict(state)
        return grown
