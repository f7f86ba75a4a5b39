"""One network, used twice: as critic (will this item be answered, and will the user stay?) and as the actor it implies.

    v(a)      = W text(a) + id(a)
    h(s)      = sum_c (M_c + g_c I) profile_c(s) + what the request's context says                    (`context`)
    x(a)      = [T text(a) + taste_id(a), taste_level],  z(s) the session's most probable taste      (`taste`)
    c(s, a)   = max_j, max_j, mean_j of w_j times the positive part of cos(v(a), v(j)), j among the last liked items,
                among those last shown in vain, among both
    f(s, a)   = level(s) + bias(a) + v(a).h(s) + repeat.c(s, a) + x(a).z(s) + gain.prior(s, a)  logit of a response
    l(s, a)   = leave_0 + leave_1 max_j cos(v(a), v(j))^2                           logit of the session's end
    Q(s, a)   = sigmoid(f - horizon sigmoid(l))                                     the critic
    pi(u)     = softmax((f - horizon sigmoid(l) + u d(a)) / temperature)
    pi        = (1 - curiosity) pi(0) + curiosity pi(optimism)                      the actor

What a session holds counts as its response says, w_j: a like of full strength, and silence, as one, a weaker like or no
in part. Profiles are means of the session's item vectors by response, plus the last positive one, shrunk where there
are few: a linear view of the session, as a factor model would take it. Taste is the Bayesian view of the same: an item
pulls by as much as its response was not expected. No recurrent encoder: one learned less per impression and cost
several times as much (docs/decisions.md). `horizon` is what a stay is worth, in further items shown: to first order
sigmoid(f - horizon p) is the response minus the answers that leaving forgoes. d(a) is the standard deviation of the
item's own bias, given all else: a share of what is shown goes to the upper confidence bound, where items that were
hardly shown come first, and the rest to what is best as far as is known. `prior` is the frozen policy that ours builds
on in A-iALP_ap, in two parts, what it says of the item and what it says of this session, each with a gain of its own.

Items come in through their text, so a new item has a score at once; `id` and `bias` start at zero and learn what the
text cannot tell. There is no user id: a user is what happened in the session (ours; the paper leaves the encoder open).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional

from service.policy.context import LEADING, N_ROWS, context_effect
from service.policy.network_types import Closeness, Encoded, ItemTable, Prior, latest_items
from service.policy.taste import TASTE_DIM, most_likely
from service.policy.types import States

N_PROFILES = 4
# A profile of n items weighs n / (n + SHRINKAGE): one click is a hint, not a taste.
SHRINKAGE = 2.0
N_LEADING = 24  # directions of the projected texts, which come by variance, that have weights of their own
BIAS_PRECISION = 2.0  # of an item's own bias before anything is known of the item
FEW_ANSWERS = 1.0  # of information: some twenty answers at odds of 5 %, four at even odds
ITEM_STATE = ("id_vectors", "id_bias", "taste_id", "information")  # of the state dict what has a row for each item
RARE = -3.0  # logit of a response, and of an end, before anything is known: some 5%


Size = Annotated[int, Meta(ge=1, le=4096)]
Strength = Annotated[float, Meta(ge=0, le=1e6)]


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network and how its policy follows from its scores; saved in every snapshot, where bounds hold."""

    dim: Size = 64
    text_dim: Size = 64  # after TextProjection
    max_history: Size = 50
    temperature: Annotated[float, Meta(ge=1e-6, le=1e6)] = 0.1  # of the policy, in units of log odds
    curiosity: Annotated[float, Meta(ge=0, le=1)] = 0.2  # share of the optimistic policy
    optimism: Strength = 1.5  # in standard deviations of an item's own bias
    horizon: Strength = 25.0  # what a stay is worth, in items shown


class ItemScorer(nn.Module):
    """Scores every item of the catalogue for a batch of states."""

    text: Tensor
    information: Tensor
    context: Tensor | None  # [N_ROWS, `leading` + 1] what each feature says; None until one was seen

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
        self.repeat = nn.Parameter(torch.zeros(3))
        self.level = nn.Parameter(torch.tensor([RARE, 0.0, 0.0]))  # of a stranger, per log(1 + liked), log(1 + ignored)
        self.leave = nn.Parameter(torch.tensor([RARE, 1.0]))
        self.prior_gain = nn.Parameter(torch.zeros(2))  # of the item's part and of the personal one
        self.taste_id = nn.Parameter(torch.zeros(len(text), TASTE_DIM))
        self.taste_text = nn.Linear(config.text_dim, TASTE_DIM, bias=False)
        self.taste_level = nn.Parameter(torch.zeros(()))  # deviation of how much sessions like whatever they are shown
        self.value = nn.Linear(config.dim, 1)
        # What is known of each item's own bias, in impressions that could have gone either way times 1/4.
        self.register_buffer("information", torch.zeros(len(text)))
        self.register_buffer("context", None)
        # All items score alike: the first policy is uniform. Vectors start as the texts themselves.
        with torch.no_grad():
            self.project.weight.zero_().fill_diagonal_(1.0)  # not eye_, which on "meta" imports half of torch: a second
        for layer in (self.text_bias, self.value, self.taste_text):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.value.bias)

    @property
    def n_items(self) -> int:
        """Number of items A that have a row."""
        return self.id_vectors.shape[0]

    @property
    def leading(self) -> int:
        """Coordinates of an item's vector that a context speaks of."""
        return min(LEADING, self.config.dim)

    def begin_context(self) -> None:
        """Have a table for what contexts say, of which nothing is known so far."""
        if self.context is None:
            self.context = torch.zeros(N_ROWS, self.leading + 1)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take over a state; it may have a table for contexts, or none, whatever we have."""
        self.context = None
        if "context" in state_dict:
            self.begin_context()
        return super().load_state_dict(state_dict, strict, assign)

    def table(self) -> ItemTable:
        """Vectors and biases of all items, [A, ...]."""
        vectors = self.project(self.text) + self.id_vectors
        bias = self.text_bias(self.text).squeeze(-1) + self.id_bias
        tastes = torch.cat([self.taste_text(self.text) + self.taste_id, self.taste_level.expand(self.n_items, 1)], 1)
        return ItemTable(vectors, functional.normalize(vectors, dim=1), bias, tastes)

    def encode(self, states: States, table: ItemTable, prior: Tensor | None = None) -> Encoded:
        """Encode B states; an empty session is the zero vector at the stranger's level.

        `prior` [A] is what the network that ours builds on says of the items (`Prior.item`).
        """
        items, _, lengths, context = states
        steps = torch.arange(items.shape[1])
        present = steps < lengths.unsqueeze(1)  # [B, L]
        responses = torch.where(present, states.responses, 0).to(table.vectors.dtype)
        liked, disliked = responses.clamp_min(0), (-responses).clamp_min(0)
        ignored = (present & (responses == 0)).to(responses.dtype)
        is_last = liked * (steps == torch.where(liked > 0, steps, -1).amax(1, keepdim=True))
        weights = torch.stack([liked, is_last, disliked, ignored], dim=1)  # [B, 4, L]
        count = weights.sum(-1, keepdim=True)
        profiles = (weights @ table.vectors[items]) / (count + SHRINKAGE)
        hidden = torch.einsum("bcd,cde->be", profiles, self.mixing) + torch.einsum("bcd,c->bd", profiles, self.gain)
        seen = torch.log1p(count[:, [0, 3], 0])
        level = self.level[0] + (seen * self.level[1:]).sum(1, keepdim=True)
        if context is not None and self.context is not None:
            adds = context_effect(self.context, context)
            hidden = hidden + functional.pad(adds[:, :-1], (0, self.config.dim - self.leading))
            level = level + adds[:, -1:]
        latest, weight, was_liked = latest_items(items, liked, ignored)
        bias = table.bias if prior is None else table.bias + self.prior_gain[0] * prior
        # Who says no could have said yes: of what was disliked, even odds were to be expected, and not the usual ones.
        usual = (self.level[0] + bias)[items].masked_fill(disliked > 0, 0.0)
        taste = most_likely(table.tastes[items], usual, (liked > 0).to(usual.dtype), liked + disliked + ignored)
        return Encoded(hidden, level, latest, weight, was_liked, taste, profiles, seen)

    def closeness(self, encoded: Encoded, table: ItemTable, actions: Tensor | None = None) -> Closeness:
        """Measure how much `actions` [B, K], or every item [B, A], are like the session's latest items."""
        latest = table.directions[encoded.latest]  # [B, M, dim]
        counts = encoded.weight.sum(1, keepdim=True).clamp_min(1)
        weights = torch.stack([encoded.weight * encoded.was_liked, encoded.weight * ~encoded.was_liked])  # [2, B, M]
        if actions is not None:
            close = (table.directions[actions] @ latest.transpose(1, 2)).clamp_min(0.0)  # [B, K, M]
            liked, in_vain = ((close * weight.unsqueeze(1)).amax(-1) for weight in weights)
            return Closeness(liked, in_vain, (close @ weights.sum(0).unsqueeze(2)).squeeze(2) / counts)
        liked = in_vain = total = latest.new_zeros(len(latest), len(table.bias))
        for j in range(latest.shape[1]):  # one at a time: [B, M, A] at once is slower and large
            close = (latest[:, j] @ table.directions.T).clamp_min(0.0)
            was_liked, was_in_vain = (close * weights[:, :, j : j + 1]).unbind()
            liked, in_vain = torch.maximum(liked, was_liked), torch.maximum(in_vain, was_in_vain)
            total = total + was_liked + was_in_vain
        return Closeness(liked, in_vain, total / counts)

    def personal(self, encoded: Encoded, table: ItemTable, close: Closeness, actions: Tensor | None = None) -> Tensor:
        """The part of f that is this session's, without the prior: of `actions` [B, K], or of every item [B, A]."""
        again = self.repeat[0] * close.liked + self.repeat[1] * close.in_vain + self.repeat[2] * close.mean
        if actions is None:
            return encoded.hidden @ table.vectors.T + encoded.taste @ table.tastes.T + again
        own = (table.vectors[actions] @ encoded.hidden.unsqueeze(2)).squeeze(2)
        return own + (table.tastes[actions] @ encoded.taste.unsqueeze(2)).squeeze(2) + again

    def response(self, encoded: Encoded, table: ItemTable, close: Closeness, actions: Tensor | None = None) -> Tensor:
        """f without the prior: logit of a positive response to `actions` [B, K], or to every item [B, A]."""
        bias = table.bias if actions is None else table.bias[actions]
        return encoded.level + bias + self.personal(encoded, table, close, actions)

    def as_prior(self, states: States, table: ItemTable, actions: Tensor | None = None) -> Prior:
        """Return what a network that builds on this one takes from it, for `actions` [B, K] or for every item."""
        encoded = self.encode(states, table)
        close = self.closeness(encoded, table, actions)
        item = table.bias if actions is None else table.bias[actions]
        return Prior(item, self.personal(encoded, table, close, actions))

    def trusted(self, prior: Prior) -> Tensor:
        """Return what the prior adds to f."""
        return self.prior_gain[0] * prior.item + self.prior_gain[1] * prior.personal

    def linear_features(
        self, encoded: Encoded, table: ItemTable, close: Closeness, actions: Tensor, prior: Prior
    ) -> Tensor:
        """x [B, K, P]: f depends on `linear_weights` w as w.x, taste as it is; `prior` is of the actions, [B, K]."""
        vectors = table.vectors[actions]
        liked = encoded.profiles[:, 0, :N_LEADING]
        ones = torch.ones_like(close.mean).unsqueeze(2)
        parts = (
            self.text[actions][:, :, :N_LEADING],
            liked.unsqueeze(1) * vectors[:, :, :N_LEADING],
            vectors @ encoded.profiles.transpose(1, 2),
            torch.stack(close, dim=2),
            ones,
            ones * encoded.seen.unsqueeze(1),
            torch.stack(prior, dim=2),
        )
        return torch.cat(parts, dim=2)

    def linear_weights(self) -> list[Tensor]:
        """Views of the parameters that `linear_features` speak of, in its order: to write to them changes us."""
        mixing = self.mixing.detach()[0].diagonal()
        text_bias = self.text_bias.weight.detach()[0]
        own = (self.gain.detach(), self.repeat.detach(), self.level.detach(), self.prior_gain.detach())
        return [text_bias[:N_LEADING], mixing[:N_LEADING], *own]

    def without_level(self) -> Tensor:
        """[P] 1 for each of `linear_features` but those of the level, 0 for these."""
        parts = [torch.ones(len(part)) for part in self.linear_weights()]
        parts[4].zero_()
        return torch.cat(parts)

    def leaving(self, close: Closeness) -> Tensor:
        """l: logit of the session's end once the item was shown, of the shape of `close`."""
        return self.leave[0] + self.leave[1] * close.nearest.square()

    def advantage(self, close: Closeness, response: Tensor) -> Tensor:
        """f - horizon sigmoid(l) [B, A] in log odds, for the f that is given."""
        return response - self.config.horizon * torch.sigmoid(self.leaving(close))

    def scores(self, states: States, table: ItemTable, prior: Prior | None = None) -> Tensor:
        """The advantage [B, A] of every item; `prior` is of the network that ours builds on."""
        encoded = self.encode(states, table, None if prior is None else prior.item)
        close = self.closeness(encoded, table)
        response = self.response(encoded, table, close)
        return self.advantage(close, response if prior is None else response + self.trusted(prior))

    def logits(self, advantage: Tensor) -> Tensor:
        """The actor's logits [B, A] for the advantage that is given, -inf where an item is not available.

        They are log pi up to a constant.
        """
        config = self.config
        if config.curiosity == 0 or not self.information.any():  # every item is as good a guess
            return advantage / config.temperature
        bound = advantage + config.optimism * (BIAS_PRECISION + self.information).rsqrt()
        settled, curious = (torch.log_softmax(score / config.temperature, dim=-1) for score in (advantage, bound))
        return torch.logaddexp(settled + math.log1p(-config.curiosity), curious + math.log(config.curiosity))

    def forward(self, states: States) -> Tensor:
        """The actor's logits [B, A], without a prior."""
        return self.logits(self.scores(states, self.table()))

    def q_values(self, states: States) -> Tensor:
        """Q(s, .) [B, A] in units of reward, without a prior."""
        return torch.sigmoid(self.scores(states, self.table()))

    def state_value(self, states: States) -> Tensor:
        """V(s) [B], for critics that do not look at actions."""
        value: Tensor = self.value(self.encode(states, self.table()).hidden).squeeze(-1)
        return value

    @torch.no_grad()
    def begin_taste(self, text: float, level: float) -> None:
        """Let taste be what texts say, `text` times their leading directions, before anything is learned of it."""
        weight = self.taste_text.weight[:TASTE_DIM, :TASTE_DIM]
        weight.zero_().fill_diagonal_(text)
        self.taste_level.fill_(level)

    def residual(self) -> ItemScorer:
        """A network that has learned nothing yet but, given us as its prior, scores as we do (A-iALP_ap starts so).

        What it learns later leaves our f as it is; `prior_gain` tells how far each part of that can be trusted.
        """
        fresh = ItemScorer(self.config, self.text)
        with torch.no_grad():
            fresh.project.weight.copy_(self.project.weight)
            fresh.id_vectors.copy_(self.id_vectors)
            fresh.leave.copy_(self.leave)
            fresh.level.copy_(self.level)
            fresh.prior_gain.fill_(1.0)
        return fresh

    def without_items(self) -> ItemScorer:
        """A copy that knows no item: what it would say of new ones."""
        bare = ItemScorer(self.config, self.text[:0])
        state = self.state_dict()
        bare.load_state_dict(state | {name: state[name][:0] for name in ITEM_STATE})
        return bare.requires_grad_(False)

    def with_text(self, text: Tensor) -> ItemScorer:
        """A copy for the catalogue `text` [A', text_dim], A' >= A: the first A rows are ours, the others new items.

        New items have no id row yet (zeros): they are scored by their text, and tried because little is known of them.
        """
        assert len(text) >= self.n_items, "items may be appended, not removed"
        grown = ItemScorer(self.config, text.to(self.text))
        missing = len(text) - self.n_items
        state = self.state_dict()
        for name in ITEM_STATE:
            state[name] = torch.cat([state[name], state[name].new_zeros(missing, *state[name].shape[1:])])
        grown.load_state_dict(state)
        return grown
