"""MAC: an off-policy, all-action actor-critic (ours, after mean actor-critic, Allen et al. 2017).

The critic learns Q(s, .) over the whole catalogue by one-step TD on a replay of everything that was shown, whichever
policy showed it; its target is an expectation over the actor (expected SARSA) with a slowly following target network.
So no importance ratio is needed. The actor's gradient sums over all items instead of using the few that were shown:

    J = E_s [ sum_a pi(a|s) (Q(s, a) - V(s)) + alpha H(pi(.|s)) - beta KL(pi(.|s) || anchor(.|s)) ]

alpha is adapted so that the entropy keeps to a target (Haarnoja et al. 2018), which frees it from the reward's scale.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from service.policy import losses
from service.policy.learner import Metrics, load_optimizer_tensors, optimizer_tensors, prefixed, under
from service.policy.networks import ItemScorer
from service.policy.replay import Replay
from service.policy.types import Batch

_ALPHA_MIN = 1e-4


@dataclass(frozen=True)
class MACConfig:
    """Hyper-parameters of MAC."""

    actor_learning_rate: float = 1e-3
    critic_learning_rate: float = 2e-3
    batch_size: int = 128
    updates_per_transition: float = 0.1  # gradient steps for each transition that comes in
    target_rate: float = 0.02  # share of the critic that the target network takes over at each step
    target_entropy: float = 0.45  # of the policy, as a share of log(number of items)
    alpha_init: float = 0.05
    alpha_max: float = 1.0  # entropy comes back slowly from a collapse; without a bound alpha winds up meanwhile
    alpha_learning_rate: float = 3e-3
    anchor_weight: float = 0.0  # beta, in units of reward
    gradient_clip: float = 1.0


class MAC:
    """All-action actor-critic with replay, target network and adaptive entropy weight."""

    def __init__(
        self, actor: ItemScorer, critic: ItemScorer, config: MACConfig, anchor: ItemScorer | None = None
    ) -> None:
        """`anchor`: the policy that `anchor_weight` ties the actor to; it is not changed."""
        self.actor, self.critic, self.config, self.anchor = actor, critic, config, anchor
        self.target = copy.deepcopy(critic).requires_grad_(False)
        self.log_alpha = torch.tensor(math.log(config.alpha_init), requires_grad=True)
        self._due = 0.0
        self._make_optimizers()

    def _make_optimizers(self) -> None:
        config = self.config
        self._optimizers = {
            "actor": torch.optim.Adam(self.actor.parameters(), lr=config.actor_learning_rate),
            "critic": torch.optim.Adam(self.critic.parameters(), lr=config.critic_learning_rate),
            "alpha": torch.optim.Adam([self.log_alpha], lr=config.alpha_learning_rate),
        }

    def step(self, batch: Batch) -> Metrics:
        """One gradient step of critic, actor and alpha."""
        critic_loss = self._step_critic(batch)
        actor_loss, policy_entropy = self._step_actor(batch)
        self._step_alpha(policy_entropy)
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.critic.parameters(), strict=True):
                slow.lerp_(fast, self.config.target_rate)
        return {
            "critic_loss": critic_loss.item(),
            "actor_loss": actor_loss.item(),
            "entropy": policy_entropy.item(),
            "alpha": self.log_alpha.exp().item(),
        }

    def _apply(self, name: str, loss: Tensor) -> None:
        optimizer = self._optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip)
        optimizer.step()

    def _step_critic(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            next_logits = losses.mask_history(self.actor(batch.next_state), batch.next_state)
            next_value = losses.expected_value(next_logits, self.target.q_values(batch.next_state))
            target = losses.td_target(batch.rewards, batch.discount, next_value)
        q = losses.gather_slots(self.critic.q_values(batch.state), batch.actions)
        loss = losses.slot_mean((q - target).square(), batch.actions)
        self._apply("critic", loss)
        return loss

    def _step_actor(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = losses.mask_history(self.actor(batch.state), batch.state)
        with torch.no_grad():
            q = self.critic.q_values(batch.state)
        policy_entropy = losses.entropy(logits).mean()
        loss = losses.mean_actor_critic_loss(logits, q) - self.log_alpha.exp().detach() * policy_entropy
        if self.anchor is not None and self.config.anchor_weight > 0:
            with torch.no_grad():
                anchor_logits = losses.mask_history(self.anchor(batch.state), batch.state)
            loss = loss + self.config.anchor_weight * losses.kl_divergence(logits, anchor_logits).mean()
        # The gradient is in units of reward times probability; dividing by alpha makes the step independent of them.
        self._apply("actor", loss / self.log_alpha.exp().detach())
        return loss, policy_entropy.detach()

    def _step_alpha(self, policy_entropy: Tensor) -> None:
        target = self.config.target_entropy * math.log(self.actor.n_items)
        self._apply("alpha", self.log_alpha * (policy_entropy - target))
        with torch.no_grad():
            self.log_alpha.clamp_(math.log(_ALPHA_MIN), math.log(self.config.alpha_max))

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
        tensors = {name: optimizer_tensors(optimizer) for name, optimizer in self._optimizers.items()}
        self.actor, self.critic = self.actor.with_text(text), self.critic.with_text(text)
        self.target = self.target.with_text(text).requires_grad_(False)
        if self.anchor is not None:
            self.anchor = self.anchor.with_text(text).requires_grad_(False)
        self._make_optimizers()
        for name, optimizer in self._optimizers.items():
            load_optimizer_tensors(optimizer, tensors[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, target network, alpha, optimisers and the fraction of a step that is due."""
        state = {"log_alpha": self.log_alpha.detach(), "due": torch.tensor(self._due, dtype=torch.float64)}
        for name in ("actor", "critic", "target"):
            state |= prefixed(name, getattr(self, name).state_dict())
        for name, optimizer in self._optimizers.items():
            state |= prefixed(f"optimizer.{name}", optimizer_tensors(optimizer))
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        for name in ("actor", "critic", "target"):
            getattr(self, name).load_state_dict(under(name, state))
        with torch.no_grad():
            self.log_alpha.copy_(state["log_alpha"])
        self._due = state["due"].item()
        for name, optimizer in self._optimizers.items():
            load_optimizer_tensors(optimizer, under(f"optimizer.{name}", state))
