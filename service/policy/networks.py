"""One network, used twice: as critic (will this item be answered, and will the user stay?) and as the actor it implies.

    v(a)      = W text(a) + id(a)
    h(s)      = sum_c (M_c + g_c I) profile_c(s)
    f(s, a)   = level(s) + bias(a) + v(a).h(s) + prior_gain f_prior(s, a)         logit of a positive response
    l(s, a)   = leave_0 + leave_1 max_j cos(v(a), v(j)), j among the latest items   logit of the session's end
    logits    = (f - horizon sigmoid(l)) / temperature                          the actor
    Q(s, a)   = sigmoid(f - horizon sigmoid(l))                                     the critic

Profiles are means of the session's item vectors by response, plus the last positive one, shrunk where there are few: a
linear view of the session, as a factor model would take it. No recurrent encoder: on the simulated worlds one learned
less per impression and cost several times as much (docs/decisions.md). `horizon` is what a stay is worth, in further
items shown: to first order sigmoid(f - horizon p) is the response minus the answers that leaving forgoes.

Items come in through their text, so a new item has a score at once; `id` and `bias` start at zero and learn what the
text cannot tell. There is no user id: a user is what happened in the session (ours; the paper leaves the encoder open).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.policy.types import Response, States

N_PROFILES = 4
# A profile of n items weighs n / (n + SHRINKAGE): one click is a hint, not a taste.
SHRINKAGE = 2.0
N_LIKED_LATEST, N_LATEST = 4, 14
RARE = -3.0  # logit of a response, and of an end, before anything is known: some 5%


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network and how its policy follows from its scores; saved in every snapshot."""

    dim: int = 64
    text_dim: int = 64  # after TextProjection
    max_history: int = 30
    temperature: float = 0.3  # of the policy, in units of log odds
    horizon: float = 25.0  # what a stay is worth, in items shown


class ItemTable(NamedTuple):
    """What scoring needs of the catalogue; may be computed once and used for many states."""

    vectors: Tensor  # [A, dim]
    directions: Tensor  # [A, dim] the same with length one
    bias: Tensor  # [A]


class Encoded(NamedTuple):
    """States as the network sees them."""

    hidden: Tensor  # [B, dim]
    level: Tensor  # [B, 1]
    latest: Tensor  # [B, M] items shown lately
    is_latest: Tensor  # [B, M] bool, False where padded


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
        self.mixing = nn.Parameter(torch.zeros(N_PROFILES, config.dim, config.dim))
        self.gain = nn.Parameter(torch.zeros(N_PROFILES))
        self.level = nn.Parameter(torch.tensor([RARE, 0.0, 0.0]))  # of a stranger, per log(1 + liked), log(1 + ignored)
        self.leave = nn.Parameter(torch.tensor([RARE, 1.0]))
        self.prior_gain = nn.Parameter(torch.zeros(()))
        self.value = nn.Linear(config.dim, 1)
        # All items score alike: the first policy is uniform. Vectors start as the texts themselves.
        nn.init.eye_(self.project.weight)
        for layer in (self.text_bias, self.value):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.value.bias)

    @property
    def n_items(self) -> int:
        """Number of items A that have a row."""
        return self.id_vectors.shape[0]

    def table(self) -> ItemTable:
        """Vectors and biases of all items, [A, ...]."""
        vectors = self.project(self.text) + self.id_vectors
        bias = self.text_bias(self.text).squeeze(-1) + self.id_bias
        return ItemTable(vectors, functional.normalize(vectors, dim=1), bias)

    def encode(self, states: States, table: ItemTable) -> Encoded:
        """Encode B states; an empty session is the zero vector at the stranger's level."""
        items, responses, lengths = states
        steps = torch.arange(items.shape[1])
        present = steps < lengths.unsqueeze(1)  # [B, L]
        liked, disliked, ignored = (
            present & (responses == kind) for kind in (Response.POSITIVE, Response.NEGATIVE, Response.IGNORED)
        )
        is_last = liked & (steps == torch.where(liked, steps, -1).amax(1, keepdim=True))
        weights = torch.stack([liked, is_last, disliked, ignored], dim=1).to(table.vectors.dtype)  # [B, 4, L]
        count = weights.sum(-1, keepdim=True)
        profiles = (weights @ table.vectors[items]) / (count + SHRINKAGE)
        hidden = torch.einsum("bcd,cde->be", profiles, self.mixing) + torch.einsum("bcd,c->bd", profiles, self.gain)
        seen = torch.log1p(count[:, [0, 3], 0])
        level = self.level[0] + (seen * self.level[1:]).sum(1, keepdim=True)
        latest, is_latest = _latest(items, liked, ignored | disliked)
        return Encoded(hidden, level, latest, is_latest)

    def response(self, encoded: Encoded, table: ItemTable, actions: Tensor | None = None) -> Tensor:
        """f without the prior: logit of a positive response to `actions` [B, K], or to every item [B, A]."""
        if actions is None:
            return encoded.level + encoded.hidden @ table.vectors.T + table.bias
        chosen = (table.vectors[actions] @ encoded.hidden.unsqueeze(2)).squeeze(2)
        return encoded.level + chosen + table.bias[actions]

    def leaving(self, encoded: Encoded, table: ItemTable, actions: Tensor | None = None) -> Tensor:
        """l: logit of the session's end once the item was shown, for `actions` [B, K] or every item [B, A]."""
        latest = table.directions[encoded.latest]  # [B, M, dim]
        if actions is not None:
            close = (table.directions[actions] @ latest.transpose(1, 2)).clamp_min(0.0)
            nearest = (close * encoded.is_latest.unsqueeze(1)).amax(-1)
        else:
            nearest = latest.new_zeros(len(latest), len(table.bias))
            for j in range(latest.shape[1]):  # one at a time: [B, M, A] at once is slower and large
                nearest = torch.maximum(nearest, (latest[:, j] @ table.directions.T) * encoded.is_latest[:, j : j + 1])
        return self.leave[0] + self.leave[1] * nearest

    def advantage(self, encoded: Encoded, table: ItemTable, response: Tensor) -> Tensor:
        """f - horizon sigmoid(l) [B, A] in log odds, for the f that is given."""
        return response - self.config.horizon * torch.sigmoid(self.leaving(encoded, table))

    def scores(self, states: States, table: ItemTable, prior: Tensor | None = None) -> Tensor:
        """The advantage [B, A] of every item; `prior` [B, A] is f of the network that ours builds on."""
        encoded = self.encode(states, table)
        response = self.response(encoded, table)
        return self.advantage(encoded, table, response if prior is None else response + self.prior_gain * prior)

    def forward(self, states: States) -> Tensor:
        """The actor's logits [B, A], without a prior."""
        return self.scores(states, self.table()) / self.config.temperature

    def q_values(self, states: States) -> Tensor:
        """Q(s, .) [B, A] in units of reward, without a prior."""
        return torch.sigmoid(self.scores(states, self.table()))

    def state_value(self, states: States) -> Tensor:
        """V(s) [B], for critics that do not look at actions."""
        value: Tensor = self.value(self.encode(states, self.table()).hidden).squeeze(-1)
        return value

    def residual(self) -> ItemScorer:
        """A network that has learned nothing yet but, given our f as its prior, scores as we do (A-iALP_ap starts so).

        What it learns later leaves our f as it is; `prior_gain` tells how far that can be trusted.
        """
        fresh = ItemScorer(self.config, self.text)
        with torch.no_grad():
            fresh.project.weight.copy_(self.project.weight)
            fresh.id_vectors.copy_(self.id_vectors)
            fresh.leave.copy_(self.leave)
            fresh.level.zero_()
            fresh.prior_gain.fill_(1.0)
        return fresh

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


def _latest(items: Tensor, liked: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """The last few liked items and the last ones shown in vain, [B, M] each with what is real."""
    from_end = liked.flip(1).cumsum(1).flip(1)
    wanted = (liked & (from_end <= N_LIKED_LATEST)) | others
    steps = torch.arange(items.shape[1])
    places = torch.where(wanted, steps, steps - len(steps)).topk(min(N_LATEST, items.shape[1]), dim=1).indices
    return items.gather(1, places), wanted.gather(1, places)
