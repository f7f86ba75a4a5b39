"""The maths of learning, as pure functions of tensors; each has a numeric oracle in the tests.

Shapes: B transitions, K slots, A items. All losses are means over what is present, in units of reward.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from service.policy.types import EMPTY_SLOT, States

# Finite, so that 0 * log 0 is 0 and not NaN, yet exp() of it is exactly 0.
MASKED_LOGIT = -1e9


def mask_history(logits: Tensor, states: States) -> Tensor:
    """Logits [B, A] with the items of each session made impossible: a policy never shows an item again."""
    present = torch.arange(states.items.shape[1], device=logits.device) < states.lengths.unsqueeze(1)
    counts = torch.zeros_like(logits).scatter_add(1, states.items, present.to(logits.dtype))
    return logits.masked_fill(counts > 0, MASKED_LOGIT)


def mask_unavailable(logits: Tensor, states: States, only: Tensor | None) -> Tensor:
    """Logits [B, A] with what could not be shown made impossible: all but `only` [B, C] in the rows that have any (the
    rest is EMPTY_SLOT), and in the others the items of the session."""
    masked = mask_history(logits, states)
    if only is None:
        return masked
    named = torch.zeros_like(logits, dtype=torch.bool)
    rows, places = torch.nonzero(only != EMPTY_SLOT, as_tuple=True)
    named[rows, only[rows, places]] = True
    return torch.where(named.any(1, keepdim=True), logits.masked_fill(~named, MASKED_LOGIT), masked)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) in nats, [B, A] -> [B]."""
    log_pi = functional.log_softmax(logits, dim=-1)
    return -(log_pi.exp() * log_pi).sum(-1)


def kl_divergence(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """KL(p || q) in nats of two softmax policies, [B, A], [B, A] -> [B]."""
    log_p, log_q = functional.log_softmax(logits_p, dim=-1), functional.log_softmax(logits_q, dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def td_target(rewards: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    """One-step target r + gamma V(s'), [B, K], [B], [B] -> [B, K]; a slate's slots share the next state."""
    assert rewards.ndim == 2 and discount.shape == next_value.shape == rewards.shape[:1]
    return rewards + (discount * next_value).unsqueeze(1)


def slot_mean(values: Tensor, actions: Tensor) -> Tensor:
    """Mean of [B, K] values over the slots that hold an item; 0 if none does."""
    present = actions != EMPTY_SLOT
    return (values * present).sum() / present.sum().clamp_min(1)


def slate_log_probs(logits: Tensor, actions: Tensor) -> Tensor:
    """log p(a_k | a_1 .. a_{k-1}) of a slate drawn without replacement from softmax(logits) (Plackett-Luce).

    [B, A], [B, K] -> [B, K]; empty slots give 0. Slot k's item is drawn from what the slots above left over.
    """
    present = actions != EMPTY_SLOT
    log_probs = []
    left = logits
    for k in range(actions.shape[1]):
        chosen = actions[:, k : k + 1].clamp_min(0)
        log_probs.append(functional.log_softmax(left, dim=-1).gather(1, chosen).squeeze(1))
        taken = torch.zeros_like(left, dtype=torch.bool).scatter(1, chosen, present[:, k : k + 1])
        left = left.masked_fill(taken, MASKED_LOGIT)
    return torch.stack(log_probs, dim=1).masked_fill(~present, 0.0)


def clipped_importance_ratios(log_probs: Tensor, propensities: Tensor, clip: float) -> Tensor:
    """rho = min(clip, pi(a_k) / mu(a_k)), [B, K] -> [B, K] (V-trace's rho-bar, Espeholt et al. 2018, eq. 1)."""
    return (log_probs.detach().exp() / propensities).clamp_max(clip)


def policy_gradient_loss(log_probs: Tensor, advantages: Tensor, ratios: Tensor, actions: Tensor) -> Tensor:
    """-mean of rho_k log pi(a_k|s) A_k over filled slots (A2C, Mnih et al. 2016; rho corrects for stale behaviour)."""
    return -slot_mean(log_probs * (advantages * ratios).detach(), actions)
