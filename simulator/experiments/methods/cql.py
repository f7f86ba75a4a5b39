"""Conservative Q-learning for single items (Kumar et al. 2020, CQL(H) with discrete actions) from a fixed log.

    loss = E[(Q(s, a) - y)^2] / 2 + alpha E[logsumexp_b Q(s, b) - Q(s, a)]
    y    = r + gamma Q_target(s', argmax_b Q(s', b)), b unseen in s'

Each slot of a slate is an action of its own in the state before the slate. (d3rlpy, the usual library, pins another
Gymnasium than ours and knows no slates.)
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from simulator.experiments.methods.logged import FrozenAgent, log_of, scores_by, transitions
from simulator.experiments.seam.agent import Agent, Factory, Setting
from simulator.experiments.seam.item_networks import BagNetwork, seeded
from simulator.experiments.seam.options import read_options
from simulator.experiments.seam.text_profiles import SessionTexts


@dataclass(frozen=True)
class CQLConfig:
    dim: int = 64
    gamma: float = 0.9
    alpha: float = 1.0
    reward_scale: float = 10.0  # rewards are rare; the conservative term counts in units of Q
    steps: int = 1000
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    tau: float = 0.01
    temperature: float = 0.2  # softens the choice, in units of Q


def cql_loss(q: Tensor, actions: Tensor, targets: Tensor, alpha: float) -> Tensor:
    """The loss above, mean over the slots that held an item; `q` [B, A], `actions` and `targets` [B, K] -> []."""
    assert actions.shape == targets.shape and q.shape[0] == actions.shape[0]
    shown = actions >= 0
    chosen = q.gather(1, actions.clamp_min(0))
    error = 0.5 * (chosen - targets).square()
    gap = q.logsumexp(1, keepdim=True) - chosen
    return ((error + alpha * gap) * shown).sum() / shown.sum().clamp_min(1)


@torch.no_grad()
def double_q_targets(
    rewards: Tensor, ended: Tensor, next_q: Tensor, next_q_target: Tensor, next_seen: Tensor, gamma: float
) -> Tensor:
    """y above; `rewards` [B, K], `ended` [B], the rest [B, A] -> [B, K]."""
    best = next_q.masked_fill(next_seen, -torch.inf).argmax(1, keepdim=True)
    following = next_q_target.gather(1, best) * ~ended.unsqueeze(1)
    return rewards + gamma * following


def cql(setting: Setting) -> Agent:
    """Q of the log, frozen."""
    config = read_options(CQLConfig, setting.options, "cql")
    rng = np.random.default_rng(setting.seed)
    data = transitions(log_of(setting), setting.catalogue.n_items)
    with seeded(setting.seed):
        network = BagNetwork(SessionTexts(setting.catalogue, config.dim).items, config.dim, dropout=0.0)
    target = deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    loss = torch.zeros(())
    for _ in range(config.steps):
        batch = data.rows(torch.from_numpy(rng.integers(len(data.ended), size=config.batch)))
        with torch.no_grad():
            next_q, next_q_target = network(batch.next_states), target(batch.next_states)
        rewards = config.reward_scale * batch.rewards
        targets = double_q_targets(rewards, batch.ended, next_q, next_q_target, batch.next_seen, config.gamma)
        loss = cql_loss(network(batch.states), batch.actions, targets, config.alpha)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        torch._foreach_lerp_(list(target.parameters()), list(network.parameters()), config.tau)
    return FrozenAgent(setting, scores_by(network), config.temperature, {"last_loss": loss.item()})


METHODS: Mapping[str, Factory] = {"cql": cql}
