"""The learner we deploy (ours): a critic of what every impression shows exactly, and its Boltzmann policy as the actor.

Every slate tells two things without delay: which items were answered, and did the session go on? The critic learns both
by maximum likelihood from a replay of everything that was shown, whichever policy showed it, so it needs neither
importance ratios nor bootstrapped targets:

    L = BCE(f(s, a_k), reward_k)        mean over filled slots, + the prior of items' taste vectors

Of likes that came by themselves it learns which item was liked, among others drawn at random (`organic`).

Sessions' ends have a model of their own (`Hazard`), of which the policy uses the mean over turns.

The actor needs no gradient of its own: the policy that maximises E[Q] + temperature * entropy is
softmax(Q / temperature) (Haarnoja et al. 2017, eq. 6), which `ItemScorer.forward` computes in log odds, with a share of
optimism where the posterior leaves much open. Every propensity is exact. The price: values are one stay ahead
(`horizon`), not discounted sums over whole sessions.

Few weights that speak for all, and each item's bias, are learned exactly (`Posterior`), then what requests' contexts
say (`ContextFilter`); the many others by gradient.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from service.policy import losses, organic
from service.policy.co_likes import LEARNED_SHARE, TEXT_SHARE, co_like_vectors
from service.policy.context import ContextFilter
from service.policy.hazard import Hazard
from service.policy.learner import Metrics, load_optimizer_tensors, optimizer_tensors, prefixed, under
from service.policy.network_types import Closeness, Encoded, ItemTable, Prior
from service.policy.networks import N_LEADING, ItemScorer
from service.policy.posterior import Evidence, Posterior
from service.policy.replay import Replay
from service.policy.types import EMPTY_SLOT, Batch

_FEWEST_LIKES = 500  # between two times that vectors are found anew
_ONCE_PLACED = 0.3  # of the learning rate of items' vectors, once co-likes have placed them
_BESIDE_TASTE = 0.1  # strength that a taste starts with beside the prior's
_LEAST_LIKELY = 0.02  # so that one dislike counts as fifty answers at most


@dataclass(frozen=True)
class BoltzmannConfig:
    """Hyper-parameters. Learning rates differ by what a parameter speaks for: one item, all items, a whole policy."""

    vector_learning_rate: float = 0.001  # of items' own vectors
    shared_learning_rate: float = 0.001  # of matrices
    taste_learning_rate: float = 0.002  # of items' own taste vectors
    taste_text_learning_rate: float = 0.001
    taste_level_learning_rate: float = 0.005
    taste_precision: float = 5.0  # of items' own taste vectors, around what their texts say
    taste_start: float = 1.0  # how far texts tell taste before anything is learned
    taste_level_start: float = 0.3
    weight_decay: float = 1e-4
    batch_size: int = 256
    updates_per_transition: float = 0.02  # gradient steps for each impression that comes in: more would overfit
    updates_per_like: float = 0.05  # for each like without an impression, which stands beside other items each time
    reward_scale: float = 1.0  # the reward that counts as a full response; less counts in part, more no further


class _Seen(NamedTuple):
    """A batch in the network's eyes; [B, K] but for the first two."""

    table: ItemTable
    encoded: Encoded
    close: Closeness
    actions: Tensor  # 0 for an empty slot
    prior: Prior
    response: Tensor
    targets: Tensor
    counts: Tensor  # how much of an answered slot each is


def answer_counts(rewards: Tensor, response: Tensor) -> Tensor:
    """Return the number of unrewarded answers that each answer counts as, given its reward in units of a full response
    and its logit `response`: one, and a negative reward as many more as it takes to lose what it took away.

    The slope of a reward r < 0 is p - r, that of n answers without one n p: n = 1 - r / p. So where likes have the
    probability p, an item whose dislikes cost what its likes earn comes out even, while the odds of what is disliked
    always fall no further than many answers without a reward would take them.
    """
    likely = torch.sigmoid(response).clamp_min(_LEAST_LIKELY)
    return 1 - rewards.clamp(-1.0, 0.0) / likely


class Boltzmann:
    """One network as critic and actor, learned by maximum likelihood."""

    def __init__(
        self,
        actor: ItemScorer,
        config: BoltzmannConfig,
        prior: ItemScorer | None = None,
        evidence: Evidence | None = None,
        origin: ItemScorer | None = None,
    ) -> None:
        """Start to learn from a network on.

        Args:
            prior: the frozen policy whose f the network builds on, by `prior_gain` (A-iALP_ap); not changed.
            evidence: precision that logs gave, of the network or, in A-iALP_ap, of its prior with the same features.
            origin: the pre-trained policy, of whose vectors co-likes make new ones; not changed. A copy of `actor` if
                not given.
        """
        self.actor, self.config, self.prior = actor, config, prior
        # A network comes without the weights' precision, so that of its biases would say too much.
        actor.information.zero_()
        if evidence is not None:
            actor.information.copy_(evidence.information)
        if not actor.taste_level.detach().any():
            # A prior that logs taught has a taste of its own: to start a second one would count each answer twice.
            share = 1.0 if prior is None or not prior.taste_level.any() else _BESIDE_TASTE
            actor.begin_taste(share * config.taste_start, share * config.taste_level_start)
        self.posterior, self.hazard, self._context = Posterior(actor, evidence), Hazard(), ContextFilter()
        self._prior_table: ItemTable | None = None  # it does not change
        self._origin = deepcopy(actor).requires_grad_(False) if origin is None else origin
        self._due = 0.0
        self._likes = self._likes_due = 0  # organic ones so far, and until when vectors wait
        self._placed: Tensor | None = None  # [A, d] vectors as last found
        self._make_optimizer()

    @property
    def critic(self) -> ItemScorer:
        """The actor's network: critic and actor are one."""
        return self.actor

    def _make_optimizer(self) -> None:
        config, actor = self.config, self.actor
        groups = [
            {"params": [actor.id_vectors], "lr": self._vector_rate},
            {"params": [actor.project.weight], "lr": config.shared_learning_rate},
            # No decay: part of it is the posterior's.
            {"params": [actor.mixing], "lr": config.shared_learning_rate, "weight_decay": 0.0},
            {"params": [actor.taste_id], "lr": config.taste_learning_rate, "weight_decay": 0.0},
            {"params": [actor.taste_text.weight], "lr": config.taste_text_learning_rate, "weight_decay": 0.0},
            {"params": [actor.taste_level], "lr": config.taste_level_learning_rate, "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)

    @property
    def _vector_rate(self) -> float:
        """Learning rate of items' own vectors: lower where co-likes have placed these."""
        return self.config.vector_learning_rate * (1.0 if self._placed is None else _ONCE_PLACED)

    def step(self, batch: Batch, n_transitions: int) -> Metrics:
        """One gradient step, on a batch of the `n_transitions` that are kept."""
        loss = self.loss(batch)
        own = 0.5 * self.config.taste_precision * self.actor.taste_id.square().sum()
        self._optimizer.zero_grad(set_to_none=True)
        slots = (batch.actions != EMPTY_SLOT).sum().item() / len(batch.actions)
        (loss + own / (n_transitions * max(slots, 1.0))).backward()  # type: ignore[no-untyped-call]
        if self.actor.mixing.grad is not None:
            self.actor.mixing.grad[0].diagonal()[:N_LEADING].zero_()
        self._optimizer.step()
        return {"response_loss": loss.item()}

    def _seen(self, batch: Batch) -> _Seen:
        actions = batch.actions.clamp_min(0)
        table = self.actor.table()
        prior = None
        if self.prior is not None:
            with torch.no_grad():
                if self._prior_table is None:
                    self._prior_table = self.prior.table()
                prior = self.prior.as_prior(batch.state, self._prior_table, actions)
        of_items = None if self._prior_table is None else self._prior_table.bias
        encoded = self.actor.encode(batch.state, table, of_items)
        close = self.actor.closeness(encoded, table, actions)
        response = self.actor.response(encoded, table, close, actions)
        if prior is None:
            prior = Prior(torch.zeros_like(response), torch.zeros_like(response))
        else:
            response = response + self.actor.trusted(prior)
        rewards = batch.rewards / self.config.reward_scale
        targets = rewards.clamp(0.0, 1.0)
        counts = organic.trust(batch) * answer_counts(rewards, response.detach())
        if batch.organic is not None:
            by_itself = batch.organic.unsqueeze(1)
            response = torch.where(by_itself, organic.against_others(response, batch), response)
            targets = torch.where(by_itself, (batch.rewards > 0).to(targets.dtype), targets)
        return _Seen(table, encoded, close, actions, prior, response, targets, counts)

    def loss(self, batch: Batch) -> Tensor:
        """Cross entropy of the responses, in nats per filled slot; of a like by itself that of which item it was."""
        seen = self._seen(batch)
        cross_entropy = functional.binary_cross_entropy_with_logits(seen.response, seen.targets, reduction="none")
        if batch.organic is not None:  # the like's own slot has the softmax's
            cross_entropy = torch.where(batch.organic.unsqueeze(1), cross_entropy * seen.targets, cross_entropy)
        return losses.slot_mean(cross_entropy * seen.counts, batch.actions)

    def _filter(self, batch: Batch, seen: _Seen) -> None:
        """Take the posterior from before to after these transitions."""
        features = self.actor.linear_features(seen.encoded, seen.table, seen.close, seen.actions, seen.prior)
        shown = batch.actions != EMPTY_SLOT
        if (rows := batch.organic) is not None:
            compared = organic.centred(features[rows], seen.response[rows], shown[rows])
            features[rows] = compared * self.actor.without_level()
        response = self.posterior.update(
            self.actor,
            features[shown],
            seen.actions[shown],
            seen.response[shown],
            seen.targets[shown],
            seen.counts[shown],
        )
        if batch.state.context is not None:
            self._learn_context(batch, seen, shown, response)

    def _learn_context(self, batch: Batch, seen: _Seen, shown: Tensor, response: Tensor) -> None:
        """Learn what contexts tell beyond what holds for all; `response` [N] is f of the slots `shown` [B, K]."""
        actor, context = self.actor, batch.state.context
        assert context is not None
        actor.begin_context()
        assert actor.context is not None
        slate_of, _ = torch.nonzero(shown, as_tuple=True)
        leading = seen.table.vectors[seen.actions[shown]][:, : actor.leading]
        vectors = torch.cat([leading, torch.ones(len(leading), 1)], 1)
        targets, counts = seen.targets[shown], seen.counts[shown]
        rows = torch.arange(len(response))
        if batch.organic is not None:
            rows = rows[~batch.organic[slate_of]]
        self._context.update(
            actor.context, vectors[rows], context.at(slate_of[rows]), response[rows], targets[rows], counts[rows]
        )

    def _learn_leaving(self, batch: Batch, seen: _Seen) -> None:
        """Count after which slates sessions ended, and learn what closeness had to do with it."""
        shown = batch.actions != EMPTY_SLOT
        counted = seen.encoded.weight.any(1) & shown.any(1)  # nothing bores at the start of a session
        if batch.organic is not None:
            counted &= ~batch.organic
        close = (seen.close.nearest.square() * shown).sum(1) / shown.sum(1).clamp_min(1)
        turn, ended, close = (part[counted] for part in (batch.turn, batch.discount == 0, close))
        self.hazard.add(turn, ended, close)
        self.actor.leave[1] = self.hazard.better_slope(turn, ended, close, self.actor.leave[1].item())
        if (baseline := self.hazard.baseline(self.actor.leave[1].item())) is not None:
            self.actor.leave[0] = baseline

    @torch.no_grad()
    def _take_in(self, latest: Batch) -> None:
        """Learn what is learned from each transition only once."""
        seen = self._seen(latest)
        self._learn_leaving(latest, seen)
        self._filter(latest, seen)

    def update(self, replay: Replay, new: int, generator: torch.Generator) -> Metrics:
        """Learn once from each of the `new` transitions, then take the gradient steps that they make due."""
        n_items = self.actor.n_items
        if new > 0:
            latest = replay.latest(new)
            likes = 0 if latest.organic is None else int(latest.organic.sum())
            self._due += (new - likes) * self.config.updates_per_transition + likes * self.config.updates_per_like
            self._take_in(organic.with_others(latest, n_items, generator))
            self._likes += likes
            if self._likes >= max(self._likes_due, _FEWEST_LIKES):
                self._likes_due = self._likes + max(_FEWEST_LIKES, self._likes // 50)
                self._find_vectors(replay)
        metrics: Metrics = {}
        while self._due >= 1:
            self._due -= 1
            batch = organic.with_others(replay.sample(self.config.batch_size, generator), n_items, generator)
            metrics = self.step(batch, len(replay))
        if metrics and self.prior is not None:
            metrics |= self.posterior.gains(self.actor)
        return metrics

    @torch.no_grad()
    def _find_vectors(self, replay: Replay) -> None:
        """Move items to where those who liked them of their own accord place them (`co_likes`), each by as much as that
        place has moved; what gradient steps have learned of them stays."""
        start = self._origin_vectors()
        before = start if self._placed is None else self._placed
        share = LEARNED_SHARE if self._origin.id_vectors.any() else TEXT_SHARE
        self._placed = co_like_vectors(replay.likes(), start, share, before)
        self.actor.id_vectors.add_(self._placed - before)
        self._optimizer.param_groups[0]["lr"] = self._vector_rate

    def _origin_vectors(self) -> Tensor:
        origin = self._origin
        vectors: Tensor = origin.project(origin.text) + origin.id_vectors
        return vectors

    def grow(self, text: Tensor) -> None:
        """Take in a longer catalogue; see Learner.grow."""
        optimizer = optimizer_tensors(self._optimizer)
        self.actor = self.actor.with_text(text)
        with torch.no_grad():
            before = self._origin_vectors()
            self._origin = self._origin.with_text(text).requires_grad_(False)
            if self._placed is not None:  # a new text moves an item already, by itself; a new item is where its text is
                after, n = self._origin_vectors(), len(before)
                self._placed = torch.cat([self._placed + after[:n] - before, after[n:]])
        self.posterior.grow(len(text))
        if self.prior is not None:
            self.prior, self._prior_table = self.prior.with_text(text).requires_grad_(False), None
        self._make_optimizer()
        load_optimizer_tensors(self._optimizer, optimizer)

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, optimiser and the fraction of a step that is due."""
        return {
            "due": torch.tensor(self._due, dtype=torch.float64),
            "likes": torch.tensor([self._likes, self._likes_due]),
            "placed": torch.zeros(0, 0) if self._placed is None else self._placed.clone(),
            "hazard.counts": self.hazard.counts.clone(),
            "hazard.curvature": self.hazard.curvature.clone(),
            **prefixed("actor", self.actor.state_dict()),
            **prefixed("posterior", self.posterior.state_dict()),
            **prefixed("context", self._context.state_dict()),
            **prefixed("optimizer", optimizer_tensors(self._optimizer)),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        self.actor.load_state_dict(under("actor", state))
        self.posterior.load_state_dict(under("posterior", state))
        self._context.load_state_dict(under("context", state))
        self._due = state["due"].item()
        self._likes, self._likes_due = map(int, state["likes"].tolist())
        self._placed = state["placed"].clone() if len(state["placed"]) else None
        self._optimizer.param_groups[0]["lr"] = self._vector_rate
        self.hazard.counts = state["hazard.counts"].clone()
        self.hazard.curvature = state["hazard.curvature"].clone()
        load_optimizer_tensors(self._optimizer, under("optimizer", state))
