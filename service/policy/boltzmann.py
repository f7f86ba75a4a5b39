"""The learner we deploy (ours): a critic of what every impression tells exactly, and its Boltzmann policy as the actor.

Every shown item tells two things without delay: was it answered, and did the session go on? The critic learns both by
maximum likelihood from a replay of everything that was shown, whichever policy showed it, so it needs neither
importance ratios nor bootstrapped targets:

    L = BCE(f(s, a_k), reward_k) + leave_weight BCE(l(s, a_k), ended)          mean over filled slots

The actor needs no gradient of its own: the policy that maximises E[Q] + temperature * entropy is
softmax(Q / temperature) (Haarnoja et al. 2017, eq. 6), which `ItemScorer.forward` computes in log odds. Exploration is
its entropy, and every propensity is exact. The price: values are one stay ahead (`horizon`), not discounted sums over
whole sessions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from service.policy import losses
from service.policy.learner import Metrics, load_optimizer_tensors, optimizer_tensors, prefixed, under
from service.policy.networks import ItemScorer
from service.policy.replay import Replay
from service.policy.types import EMPTY_SLOT, Batch


@dataclass(frozen=True)
class BoltzmannConfig:
    """Hyper-parameters. Learning rates differ by what a parameter speaks for: one item, all items, a whole policy."""

    bias_learning_rate: float = 0.05
    vector_learning_rate: float = 0.01
    shared_learning_rate: float = 0.004
    scalar_learning_rate: float = 0.02  # of levels, gains and the leave rule
    weight_decay: float = 1e-4
    batch_size: int = 256
    updates_per_transition: float = 0.02  # gradient steps for each transition that comes in
    leave_weight: float = 0.2
    reward_scale: float = 1.0  # the reward that counts as a full response; less counts in part, more no further


class Boltzmann:
    """One network as critic and actor, learned by maximum likelihood."""

    def __init__(self, actor: ItemScorer, config: BoltzmannConfig, prior: ItemScorer | None = None) -> None:
        """`prior`: the frozen policy whose f the network builds on, by `prior_gain` (A-iALP_ap); not changed."""
        self.actor, self.config, self.prior = actor, config, prior
        self._due = 0.0
        self._make_optimizer()

    @property
    def critic(self) -> ItemScorer:
        """The same network."""
        return self.actor

    def _make_optimizer(self) -> None:
        config, actor = self.config, self.actor
        actor.prior_gain.requires_grad_(self.prior is not None)
        unused = {"value.weight", "value.bias"}
        scalars = dict.fromkeys(("gain", "level", "leave", "prior_gain"), config.scalar_learning_rate)
        by_name = {"id_bias": config.bias_learning_rate, "id_vectors": config.vector_learning_rate, **scalars}
        groups = [
            {"params": [parameter], "lr": by_name.get(name, config.shared_learning_rate)}
            for name, parameter in actor.named_parameters()
            if name not in unused
        ]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)

    def step(self, batch: Batch) -> Metrics:
        """One gradient step."""
        response_loss, leave_loss = self.loss(batch)
        self._optimizer.zero_grad(set_to_none=True)
        (response_loss + self.config.leave_weight * leave_loss).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return {
            "response_loss": response_loss.item(),
            "leave_loss": leave_loss.item(),
            "prior_gain": self.actor.prior_gain.item(),
        }

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both parts of the loss, in nats per filled slot."""
        actions = batch.actions.clamp_min(0)
        table = self.actor.table()
        encoded = self.actor.encode(batch.state, table)
        response = self.actor.response(encoded, table, actions)
        if self.prior is not None:
            with torch.no_grad():
                known = self.prior.table()
                prior = self.prior.response(self.prior.encode(batch.state, known), known, actions)
            response = response + self.actor.prior_gain * prior
        wanted = (batch.rewards / self.config.reward_scale).clamp(0.0, 1.0)
        ended = (batch.discount == 0).to(response.dtype).unsqueeze(1).expand_as(response)
        leaving = self.actor.leaving(encoded, table, actions)
        # Nothing bores at the start of a session.
        continued = batch.actions.masked_fill(~encoded.is_latest.any(1, keepdim=True), EMPTY_SLOT)
        cross_entropy = functional.binary_cross_entropy_with_logits
        return (
            losses.slot_mean(cross_entropy(response, wanted, reduction="none"), batch.actions),
            losses.slot_mean(cross_entropy(leaving, ended, reduction="none"), continued),
        )

    def update(self, replay: Replay, new: int, generator: torch.Generator) -> Metrics:
        """Take `updates_per_transition` steps for each of the `new` transitions, on uniform samples of the replay."""
        self._due += new * self.config.updates_per_transition
        metrics: Metrics = {}
        while self._due >= 1:
            self._due -= 1
            metrics = self.step(replay.sample(self.config.batch_size, generator))
        return metrics

    def grow(self, text: Tensor) -> None:
        """Take in a longer catalogue; see Learner.grow."""
        optimizer = optimizer_tensors(self._optimizer)
        self.actor = self.actor.with_text(text)
        if self.prior is not None:
            self.prior = self.prior.with_text(text).requires_grad_(False)
        self._make_optimizer()
        load_optimizer_tensors(self._optimizer, optimizer)

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, optimiser and the fraction of a step that is due."""
        return {
            "due": torch.tensor(self._due, dtype=torch.float64),
            **prefixed("actor", self.actor.state_dict()),
            **prefixed("optimizer", optimizer_tensors(self._optimizer)),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        self.actor.load_state_dict(under("actor", state))
        self._due = state["due"].item()
        load_optimizer_tensors(self._optimizer, under("optimizer", state))
