"""Report of a run: per arm what sessions earned, early and late, what was shown, how fast the service was."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from service.durable import write_file
from simulator.load.load import SessionRecord
from simulator.statistics import Interval, mean_interval, percentiles, welch_difference
from simulator.world.environment import World
from simulator.world.rollout import oracle_slate, popularity_policy, random_policy, rollout, session_diversity

CONTROL, ADAPTIVE = "control", "adaptive"
RESULTS_FILE, SESSIONS_FILE, PLOT_FILE, PAGE_FILE = "results.json", "sessions.jsonl", "plot.png", "report.html"
_BINS, _LEAST_PER_BIN = 20, 20


@dataclass(frozen=True)
class ArmSummary:
    """One arm's complete sessions. Rewards are positive responses; quarters are of the whole run, by start."""

    reward: Interval  # per session
    first_quarter: Interval
    last_quarter: Interval
    reward_per_item: float
    turns: float  # mean per session
    bored: float  # share of sessions that ended before the last turn's limit
    coverage: float  # share of the catalogue shown at least once
    diversity: float  # mean over sessions of 1 - cos over pairs of items shown, in the truth's space


@dataclass(frozen=True)
class Curve:
    """Reward per session over the run: `at[i]` is the middle of the i-th bin, in sessions started before it."""

    at: list[float]
    reward: list[Interval]


@dataclass(frozen=True)
class Report:
    """Everything the pages and plots show."""

    arms: dict[str, ArmSummary]
    curves: dict[str, Curve]
    gain: Interval | None  # adaptive - control in the last quarter; None unless both arms were met
    baselines: dict[str, Interval]  # reward per session of policies that the truth's own simulator played
    versions: list[tuple[int, int]]  # (session that met it first, policy version)
    sessions: int  # complete ones
    incomplete: dict[str, int]  # by outcome
    seconds: float
    requests: int
    statuses: dict[str, dict[str, int]]  # route -> status -> attempts
    warnings: dict[str, int]
    latency_ms: dict[str, dict[str, float]]  # route -> percentile, from the intended start
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def requests_per_s(self) -> float:
        """Attempts a second over the whole run."""
        return self.requests / self.seconds if self.seconds > 0 else math.nan


def baselines(
    world: World, seed: int, n_sessions: int, progress: Callable[[int], None] = lambda n: None
) -> dict[str, Interval]:
    """Reward per session of random, of true popularity and of the oracle, on users of the same world.

    `progress` is called with the number of sessions just ended, of `n_sessions` for each of the three.
    """
    policies = {"random": random_policy(seed), "popularity": popularity_policy, "oracle": oracle_slate}
    return {name: mean_interval(rollout(world, p, seed, n_sessions, progress).reward) for name, p in policies.items()}


def summarise(
    records: Sequence[SessionRecord],
    world: World,
    *,
    seconds: float,
    statuses: Mapping[tuple[str, str], int],
    baselines: Mapping[str, Interval],
    settings: Mapping[str, Any],
) -> Report:
    """The report of a run's records, which are in the order of starting."""
    complete = [record for record in records if record.complete]
    places = {record.n: place for place, record in enumerate(complete)}
    names = sorted({record.arm for record in complete}, key=lambda name: (name != ADAPTIVE, name))
    by_arm = {name: [record for record in complete if record.arm == name] for name in names}
    quarter = len(complete) / 4
    late = {name: [r.reward for r in own if places[r.n] >= 3 * quarter] for name, own in by_arm.items()}
    early = {name: [r.reward for r in own if places[r.n] < quarter] for name, own in by_arm.items()}
    routes: dict[str, dict[str, int]] = {}
    for (route, status), count in sorted(statuses.items()):
        routes.setdefault(route, {})[status] = count
    edges = _edges(len(complete), min((len(own) for own in by_arm.values()), default=0))
    return Report(
        arms={name: _arm(own, early[name], late[name], world) for name, own in by_arm.items()},
        curves={name: _curve(own, places, edges) for name, own in by_arm.items()},
        gain=welch_difference(late[ADAPTIVE], late[CONTROL]) if ADAPTIVE in late and CONTROL in late else None,
        baselines=dict(baselines),
        versions=_versions(complete),
        sessions=len(complete),
        incomplete=dict(Counter(record.outcome for record in records if not record.complete)),
        seconds=seconds,
        requests=sum(statuses.values()),
        statuses=routes,
        warnings=dict(Counter(warning for record in records for warning in record.warnings).most_common()),
        latency_ms={
            "/recommend": percentiles([ms for record in records for ms in record.recommend_ms]),
            "/feedback": percentiles([ms for record in records for ms in record.feedback_ms]),
        },
        settings=dict(settings),
    )


def _arm(own: Sequence[SessionRecord], early: list[int], late: list[int], world: World) -> ArmSummary:
    shown = [[item for slate in record.shown for item in slate if item >= 0] for record in own]
    padded = np.full((len(own), max(map(len, shown))), -1)
    for row, items in zip(padded, shown, strict=True):
        row[: len(items)] = items
    diversities = session_diversity(padded, world.users.item_vectors)
    n_shown = sum(map(len, shown))
    return ArmSummary(
        reward=mean_interval([record.reward for record in own]),
        first_quarter=mean_interval(early),
        last_quarter=mean_interval(late),
        reward_per_item=sum(record.reward for record in own) / n_shown if n_shown else math.nan,
        turns=float(np.mean([len(record.shown) for record in own])),
        bored=float(np.mean([record.outcome == "bored" for record in own])),
        coverage=len({item for items in shown for item in items}) / world.n_items,
        diversity=float(np.nanmean(diversities)) if np.isfinite(diversities).any() else math.nan,
    )


def _edges(n_complete: int, smallest_arm: int) -> list[float]:
    """Borders of the curve's bins, few enough that the smallest arm has some sessions in each."""
    n_bins = int(np.clip(smallest_arm // _LEAST_PER_BIN, 1, _BINS))
    return [float(edge) for edge in np.linspace(0, n_complete, n_bins + 1)]


def _curve(own: Sequence[SessionRecord], places: Mapping[int, int], edges: Sequence[float]) -> Curve:
    bins: list[list[int]] = [[] for _ in edges[1:]]
    for record in own:
        bins[int(np.searchsorted(edges[1:-1], places[record.n], side="right"))].append(record.reward)
    kept = [(low, high, rewards) for low, high, rewards in zip(edges, edges[1:], bins, strict=False) if rewards]
    return Curve([(low + high) / 2 for low, high, _ in kept], [mean_interval(rewards) for *_, rewards in kept])


def _versions(complete: Sequence[SessionRecord]) -> list[tuple[int, int]]:
    """List where each newer version was met first, as (session, version): its publication, up to a session."""
    newest, met = -1, []
    for place, record in enumerate(complete):
        version = max(record.versions)
        if version > newest:
            newest = version
            met.append((place, version))
    return met


def write_results(report: Report, records: Sequence[SessionRecord], folder: Path) -> None:
    """`results.json` and `sessions.jsonl` in `folder`; what is not known (NaN) is null."""
    # msgspec writes NaN as null, which the json module does not.
    plain = json.loads(msgspec.json.encode(asdict(report) | {"requests_per_s": report.requests_per_s}))
    write_file(folder / RESULTS_FILE, json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False).encode())
    write_file(folder / SESSIONS_FILE, b"".join(msgspec.json.encode(record) + b"\n" for record in records))
