"""A small world whose items' texts tell what they are like, and what baselines are built from in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from offline.datasets import Item, Scenario
from simulator.experiments.runs.method_kinds import method_kinds
from simulator.experiments.seam.agent import Agent, Catalogue, Outcome, Sessions, Setting, Slates
from simulator.world.environment import EnvironmentConfig, World
from tests.simulator.world_examples import make_world

KINDS = method_kinds()


def make_toy_world() -> World:
    """Users who do not tire: more of what they like is what they like."""
    return make_world(EnvironmentConfig(slate_size=3, leave_quantile=0.01, satiation=0.0), n_users=40)


def make_catalogue(world: World) -> Catalogue:
    rng = np.random.default_rng(1)
    texts = world.users.item_factors @ rng.normal(size=(3, 384)) + 0.1 * rng.normal(size=(world.n_items, 384))
    embeddings = (texts / np.linalg.norm(texts, axis=1, keepdims=True)).astype(np.float32)
    items = tuple(Item(str(i), f"thing {i}") for i in range(world.n_items))
    return Catalogue("toy", Scenario(), items, embeddings, world.config.slate_size, world.config.max_turn)


def make_agent(kind: str, options: Mapping[str, Any], seed: int = 3, log: Path | None = None) -> Agent:
    catalogue = make_catalogue(make_toy_world())
    return KINDS[kind](Setting(catalogue, seed, options, {"log": log} if log else {}))


class Watched:
    """Lets an agent play and checks every slate: items of the catalogue, none seen, none twice."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.slates: list[np.ndarray[Any, Any]] = []

    def act(self, sessions: Sessions) -> Slates:
        slates = self.agent.act(sessions)
        items = slates.items
        assert items.shape == (len(sessions.shown), 3) and items.min() >= 0
        assert not np.take_along_axis(sessions.seen, items, axis=1).any()
        assert all(len(set(row)) == len(row) for row in items.tolist())
        self.slates.append(items)
        return slates

    def observe(self, sessions: Sessions, slates: Slates, outcome: Outcome) -> None:
        self.agent.observe(sessions, slates, outcome)

    def diagnostics(self) -> dict[str, float]:
        return self.agent.diagnostics()


torch.set_num_threads(1)
