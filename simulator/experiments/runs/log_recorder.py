"""Records a log: the sessions of a policy of popularity that serves a world, for methods that learn from logs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from simulator.experiments.methods.simple import PopularityAgent
from simulator.experiments.runs.play import play_agent
from simulator.experiments.seam.agent import Agent, Catalogue, Outcome, Sessions, Setting, Slates
from simulator.experiments.seam.logs import Log, save_log
from simulator.world.environment import World


def record_log(
    world: World,
    catalogue: Catalogue,
    path: Path,
    seed: int,
    n_sessions: int = 2000,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Play the method `popularity`, which learns as it serves, and write its sessions to `path` (.npz).

    The log holds what was shown and answered, nothing of the truth. `options` are the method's.
    """
    recorder = _Recorder(PopularityAgent(Setting(catalogue, seed, options or {})), catalogue)
    play_agent(world, recorder, seed, n_sessions)
    save_log(recorder.log(), path)


class _Recorder:
    """An agent that answers like another and remembers all of it."""

    def __init__(self, agent: Agent, catalogue: Catalogue) -> None:
        self._agent, self._catalogue = agent, catalogue
        self._waves: list[Log] = []
        self._rows = np.zeros(0, np.int64)  # of the wave, one for each live session

    def act(self, sessions: Sessions) -> Slates:
        return self._agent.act(sessions)

    def observe(self, sessions: Sessions, slates: Slates, outcome: Outcome) -> None:
        turn, n = sessions.shown.shape[1], len(sessions.shown)
        if turn == 0:
            shape = (n, self._catalogue.max_turn, self._catalogue.slate_size)
            self._waves.append(Log(np.full(shape, -1, np.int32), np.zeros(shape, np.bool_), np.zeros(n, np.int32)))
            self._rows = np.arange(n)
        wave = self._waves[-1]
        wave.shown[self._rows, turn], wave.responses[self._rows, turn] = slates.items, outcome.rewards > 0
        wave.lengths[self._rows] += 1
        self._rows = self._rows[~outcome.ended]
        self._agent.observe(sessions, slates, outcome)

    def diagnostics(self) -> dict[str, float]:
        return self._agent.diagnostics()

    def log(self) -> Log:
        return Log(
            np.concatenate([wave.shown for wave in self._waves]),
            np.concatenate([wave.responses for wave in self._waves]),
            np.concatenate([wave.lengths for wave in self._waves]),
        )
