"""One finished run as a line of JSON: what was run, with which code, and what came out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simulator.errors import SimulatorError
from simulator.experiments.runs.play import Played
from simulator.world.environment import World

BIN = 100  # sessions in one point of a curve
EARLY, LATE = 1000, 1000  # sessions of the first and the last stretch


@dataclass(frozen=True)
class Record:
    """A run of one method in one environment with one seed."""

    environment: str
    method: str
    seed: int
    sessions: int
    key: str  # hash of all that the run depends on but the code
    configuration: Mapping[str, Any]  # of environment, method, prior and protocol, in full
    code: Mapping[str, str]  # version, commit, and the hash of the sources
    metrics: Mapping[str, float]
    curves: Mapping[str, list[float]]  # "reward" and "length": means over BIN sessions
    diagnostics: Mapping[str, float] = field(default_factory=dict)

    def to_line(self) -> str:
        return json.dumps(asdict(self), sort_keys=True) + "\n"


def run_key(environment: str, method: str, seed: int, configuration: Mapping[str, Any]) -> str:
    """Hash all that a run's result depends on except the code."""
    inputs = json.dumps([environment, method, seed, configuration], sort_keys=True)
    return hashlib.sha256(inputs.encode()).hexdigest()[:20]


def metrics_of(played: Played, world: World) -> dict[str, float]:
    """Means over sessions (rewards, turns) and over the catalogue (coverage); see docs/experiments.md for each name."""
    reward, length = played.reward, played.length
    numbers = {
        "reward": reward.mean(),
        "reward_first_1000": reward[:EARLY].mean(),
        "reward_last_1000": reward[-LATE:].mean(),
        "cumulative_reward": reward.sum(),
        "reward_per_turn": reward.sum() / length.sum(),
        "reward_per_turn_last_1000": reward[-LATE:].sum() / length[-LATE:].sum(),
        "length": length.mean(),
        "length_last_1000": length[-LATE:].mean(),
        "bored": played.bored.mean(),
        "coverage": (played.counts > 0).mean(),
        "coverage_last_1000": (played.counts_last > 0).mean(),
        # A single curious slate covers an item: this counts items as if all were shown equally often.
        "effective_coverage_last_1000": _effective_number(played.counts_last) / world.n_items,
        "diversity": np.nanmean(played.diversity),
        "diversity_last_1000": np.nanmean(played.diversity[-LATE:]),
        "novelty": played.novelty.mean(),
        "novelty_last_1000": played.novelty[-LATE:].mean(),
        "cpu_seconds": played.seconds,
    }
    return {name: float(value) for name, value in numbers.items()}


def curves_of(played: Played) -> dict[str, list[float]]:
    """Means over consecutive bins of BIN sessions; sessions beyond the last whole bin are left out."""

    def binned(values: Any) -> list[float]:
        whole = len(values) // BIN * BIN
        means = np.asarray(values[:whole], np.float64).reshape(-1, BIN).mean(axis=1)
        return [round(float(mean), 4) for mean in means]

    return {"reward": binned(played.reward), "length": binned(played.length)}


def _effective_number(counts: Any) -> float:
    """exp(entropy) of the shares."""
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def read_records(folder: Path) -> Iterator[Record]:
    """All records of the `*.jsonl` files in a folder; a line torn by a kill at the end of a file is left out.

    Raises:
        SimulatorError: another line is not a record; the message names file and line.
    """
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines[:-1], 1):  # what follows the last newline was never finished
            try:
                yield Record(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise SimulatorError(f"{path}:{number}: not a record ({error}); remove that line") from None
