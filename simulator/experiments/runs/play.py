"""Play a method in a world: the protocol of every experiment, and what happened."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from simulator.experiments.seam.agent import Agent, Outcome, Sessions
from simulator.world.environment import SessionBatch, World
from simulator.world.rollout import PolicyFn, session_diversity

STREAMS = 2  # another number whenever the same seed brings other users or other luck
Progress = Callable[[int], None]  # called with the number of sessions just ended
PlayWave = Callable[[SessionBatch], None]  # takes sessions that just began to their ends


@dataclass(frozen=True)
class Played:
    """n sessions in order of their beginning."""

    reward: npt.NDArray[np.float32]  # [n] positive responses
    length: npt.NDArray[np.int64]  # [n] turns
    bored: npt.NDArray[np.bool_]  # [n] the user left because of a slate, be it the last one
    diversity: npt.NDArray[np.float32]  # [n] mean of 1 - cos over pairs of items shown; NaN with fewer than two
    novelty: npt.NDArray[np.float32]  # [n] mean of -log2 of the items' true popularity share, before any drift
    counts: npt.NDArray[np.int64]  # [A] how often each item was shown
    counts_last: npt.NDArray[np.int64]  # [A] the same over the last 1,000 sessions
    seconds: float  # of CPU, the environment's own included


def play(
    world: World,
    play_wave: PlayWave,
    seed: int,
    n_sessions: int,
    concurrent: int = 100,
    progress: Progress = lambda n: None,
) -> Played:
    """`n_sessions` sessions of users drawn at random, `concurrent` at a time.

    The same seed brings the same users with the same luck to every agent, so that runs can be compared in pairs.
    """
    assert n_sessions > 0 and concurrent > 0
    started = time.process_time()
    # Streams of their own: neither how many sessions there are nor what an agent draws from its seed touches the luck.
    users = np.random.default_rng([seed, 0]).integers(world.n_users, size=n_sessions)
    batch = SessionBatch(world, np.random.default_rng([seed, 1]))
    surprise = -np.log2(world.popularity / world.popularity.sum())
    counts, counts_last = np.zeros(world.n_items, np.int64), np.zeros(world.n_items, np.int64)
    rows = []
    for start in range(0, n_sessions, concurrent):
        batch.reset(users[start : start + concurrent], first=start)
        play_wave(batch)
        shown = batch.shown.reshape(len(batch.users), -1)
        present = shown >= 0
        counted = np.bincount(shown[present], minlength=world.n_items)
        counts += counted
        if start >= n_sessions - 1000:
            counts_last += counted
        novelty = (surprise[shown] * present).sum(1) / np.maximum(present.sum(1), 1)
        diversity = session_diversity(shown, world.users.item_vectors)
        rows.append((batch.responses.sum((1, 2)), batch.turn.copy(), batch.left.copy(), diversity, novelty))
        progress(len(shown))
    reward, length, bored, diversity, novelty = (np.concatenate(column) for column in zip(*rows, strict=True))
    return Played(
        reward.astype(np.float32),
        length,
        bored,
        diversity,
        novelty.astype(np.float32),
        counts,
        counts_last,
        time.process_time() - started,
    )


def play_agent(
    world: World, agent: Agent, seed: int, n_sessions: int, concurrent: int = 100, progress: Progress = lambda n: None
) -> Played:
    """`play` with a method, which sees sessions and never the world."""
    return play(world, partial(_agent_wave, agent), seed, n_sessions, concurrent, progress)


def play_policy(world: World, policy: PolicyFn, seed: int, n_sessions: int, concurrent: int = 100) -> Played:
    """`play` with a policy that may look at the world: ceilings such as the oracle."""

    def wave(batch: SessionBatch) -> None:
        while not batch.done.all():
            batch.show(policy(batch))

    return play(world, wave, seed, n_sessions, concurrent)


def _agent_wave(agent: Agent, batch: SessionBatch) -> None:
    live = np.arange(len(batch.users))
    for turn in range(batch.world.config.max_turn):
        # Indexing copies: an agent that wrote into what it sees would not change the world.
        sessions = Sessions(batch.shown[live, :turn], batch.responses[live, :turn], batch.seen[live])
        slates = agent.act(sessions)
        rewards, done = batch.show(slates.items, live)
        agent.observe(sessions, slates, Outcome(rewards, done))
        live = live[~done]
        if not len(live):
            return
