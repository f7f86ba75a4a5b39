"""A2C: on-policy advantage actor-critic with an entropy bonus (Mnih et al. 2016), the paper's kind of learner.

Every transition is used once, when it closes; serving lags learning by a version or so, which the V-trace-style clipped
ratio corrects (Espeholt et al. 2018). This is the faithful reference; `boltzmann` is the learner that we deploy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from service.policy import losses
from service.policy.learner import Metrics, load_optimizer_tensors, optimizer_tensors, prefixed, under
from service.policy.networks import ItemScorer
from service.policy.replay import Replay
from service.policy.types import Batch


@dataclass(frozen=True)
class A2CConfig:
    """Hyper-parameters of A2C."""

    learning_rate: float = 1e-3
    entropy_weight: float = 0.003
    value_weight: float = 0.5
    ratio_clip: float = 1.0
    gradient_clip: float = 1.0
    batch_size: int = 128


class A2C:
    """Advantage actor-critic over the items that were shown."""

    def __init__(self, actor: ItemScorer, critic: ItemScorer, config: A2CConfig) -> None:
        self.actor, self.critic, self.config = actor, critic, config
        self._make_optimizer()

    def _make_optimizer(self) -> None:
        parameters = [*self.actor.parameters(), *self.critic.parameters()]
        self._optimizer = torch.optim.Adam(parameters, lr=self.config.learning_rate)

    def step(self, batch: Batch) -> Metrics:
        """One gradient step on transitions that the current policy, or a recent version, produced."""
        config = self.config
        logits = losses.mask_unavailable(self.actor(batch.state), batch.state, batch.only)
        log_probs = losses.slate_log_probs(logits, batch.actions)
        ratios = losses.clipped_importance_ratios(log_probs, batch.propensities, config.ratio_clip)
        with torch.no_grad():
            next_value = self.critic.state_value(batch.next_state)
            target = losses.td_target(batch.rewards, batch.discount, next_value)
        value = self.critic.state_value(batch.state).unsqueeze(1)
        policy_loss = losses.policy_gradient_loss(log_probs, target - value, ratios, batch.actions)
        value_loss = losses.slot_mean(ratios * (target - value).square(), batch.actions)
        policy_entropy = losses.entropy(logits).mean()
        loss = policy_loss + config.value_weight * value_loss - config.entropy_weight * policy_entropy
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [*self.actor.parameters(), *self.critic.parameters()]
        torch.nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
        self._optimizer.step()
        return {
            "policy_loss": policy_loss.item(),
            "value_loss": value_loss.item(),
            "entropy": policy_entropy.item(),
        }

    def update(self, replay: Replay, new: int, generator: torch.Generator) -> Metrics:
        """Learn from the `new` latest transitions, each once, oldest first."""
        latest = replay.latest(new)
        metrics: Metrics = {}
        for start in range(0, len(latest.actions), self.config.batch_size):
            part = slice(start, start + self.config.batch_size)
            state, next_state = (s.at(part) for s in (latest.state, latest.next_state))
            slots = (latest.actions[part], latest.rewards[part], latest.propensities[part], latest.discount[part])
            only = latest.only[part] if latest.only is not None else None
            metrics = self.step(Batch(state, *slots, next_state, latest.turn[part], only))
        return metrics

    def grow(self, text: Tensor) -> None:
        """Take in a longer catalogue; see Learner.grow."""
        optimizer = optimizer_tensors(self._optimizer)
        self.actor, self.critic = self.actor.with_text(text), self.critic.with_text(text)
        self._make_optimizer()
        load_optimizer_tensors(self._optimizer, optimizer)

    def state_dict(self) -> dict[str, Tensor]:
        """Weights and optimiser."""
        return {
            **prefixed("actor", self.actor.state_dict()),
            **prefixed("critic", self.critic.state_dict()),
            **prefixed("optimizer", optimizer_tensors(self._optimizer)),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        self.actor.load_state_dict(under("actor", state))
        self.critic.load_state_dict(under("critic", state))
        load_optimizer_tensors(self._optimizer, under("optimizer", state))
