"""Records as the runner would write them, with numbers that a test chooses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from simulator.experiments.runs.record import BIN, Record, run_key

SESSIONS = 10_000
TITLES = {"lfm": "LFM", "industry": "Industry", "coat": "Coat", "movielens": "MovieLens"}
"""Of data sets; `lfm_calm` is the world `calm` of the first, and says so in its records."""
GROUPS = {
    "oracle": "ceiling",
    "population_oracle": "ceiling",
    "a2c": "learner",
    "boltzmann": "learner",
    "random": "baseline",
    "popularity": "baseline",
}


def record(
    method: str,
    seed: int = 0,
    environment: str = "lfm",
    level: float = 10.0,
    start: float | None = None,
    pace: float = 1500.0,
    noise: float = 0.1,
    sessions: int = SESSIONS,
    **changes: object,
) -> Record:
    """A run whose reward goes from `start` (default: `level`, no learning) to `level`, with noise of users and luck.

    The noise of users is the same for all methods of a seed. `changes` replace metrics of the same name.
    """
    points = sessions // BIN
    at = (np.arange(points) + 0.5) * BIN
    curve = level + ((start if start is not None else level) - level) * np.exp(-at / pace)
    shared = np.random.default_rng([seed, 1]).normal(0.0, 0.3, points)
    own = np.random.default_rng([seed, *method.encode(), *environment.encode()]).normal(0.0, noise, points)
    reward = np.round(np.maximum(curve + shared + own, 0.0), 4)
    first, last = reward[: 1000 // BIN].mean(), reward[-1000 // BIN :].mean()
    jitter = 1.0 + 0.01 * np.random.default_rng([seed, *method.encode()]).normal()
    metrics = {
        "reward": reward.mean(),
        "reward_first_1000": first,
        "reward_last_1000": last,
        "cumulative_reward": reward.sum() * BIN,
        "reward_per_turn": reward.mean() / 8,
        "reward_per_turn_last_1000": last / 8,
        "length": 8.0,
        "length_last_1000": 8.5,
        "bored": 0.2,
        "coverage": min(0.5 * jitter, 1.0),
        "coverage_last_1000": 0.3 * jitter,
        "effective_coverage_last_1000": 0.1 * jitter,
        "diversity": 0.7 * jitter,
        "diversity_last_1000": 0.7 * jitter,
        "novelty": 9.0 * jitter,
        "novelty_last_1000": 9.0 * jitter,
        "cpu_seconds": 100.0 * jitter,
    }
    metrics |= {name: value for name, value in changes.items() if name in metrics}
    configuration = configuration_of(method, environment, sessions)
    return Record(
        environment=environment,
        method=method,
        seed=seed,
        sessions=sessions,
        key=run_key(environment, method, seed, configuration),
        configuration=configuration,
        code={"version": "0.1.0", "commit": "abc", "sources": "def"},
        metrics={name: float(value) for name, value in metrics.items()},
        curves={"reward": [float(v) for v in reward], "length": [8.0] * points},
    )


def configuration_of(method: str, environment: str, sessions: int) -> dict[str, dict[str, object]]:
    prefix, _, variant = method.partition("_")
    kind = method if GROUPS.get(method) or method.startswith("lin") else "learned"
    group = GROUPS.get(method) or ("ialp" if prefix == "ialp" else "control" if variant in _VARIANTS else "baseline")
    base, _, world = environment.partition("_")
    place: dict[str, object] = {"title": TITLES[base], "n_items": 1000, "rules": {"slate_size": 5, "max_turn": 10}}
    if world:
        place |= {"title": f"{TITLES[base]}, {world}", "world": world, "base": base}
    configuration: dict[str, dict[str, object]] = {
        "environment": place,
        "method": {"title": method.replace("_", " ").title(), "kind": kind, "group": group, "options": {}},
        "protocol": {"sessions": sessions, "concurrent": 100},
    }
    if prefix == "synthetic":
        accuracy = int(variant.partition("_")[0]) / 100
        configuration["judge"] = {"kind": "synthetic", "accuracy": accuracy}
        configuration["method"] |= {"group": "control"}
    elif prefix in ("ialp", "item", "shuffled"):
        configuration["judge"] = {"kind": "gguf", "accuracy": 1.0}
    return configuration


_VARIANTS = ("frozen", "ft", "ap")


def experiment(
    levels: dict[str, dict[str, object]],
    environments: Iterable[str] = ("lfm", "industry", "coat"),
    seeds: int = 5,
) -> list[Record]:
    """Every method with every seed in every environment; `levels` are arguments of `record`."""
    return [
        record(method, seed, environment, **arguments)  # type: ignore[arg-type]
        for environment in environments
        for seed in range(seeds)
        for method, arguments in levels.items()
    ]


# What the goals ask for, all of it.
GOOD: dict[str, dict[str, object]] = {
    "oracle": {"level": 30.0, "sessions": 1000},
    "population_oracle": {"level": 24.0, "sessions": 1000},
    "random": {"level": 4.0},
    "popularity": {"level": 8.0, "start": 6.0},
    "linucb": {"level": 12.0, "start": 4.0, "pace": 3000.0},
    "sb3_a2c": {"level": 9.0, "start": 4.0, "coverage_last_1000": 0.02, "effective_coverage_last_1000": 0.005},
    "a2c": {"level": 9.0, "start": 4.0, "coverage_last_1000": 0.02, "effective_coverage_last_1000": 0.005},
    "boltzmann": {"level": 13.0, "start": 4.0},
    "ialp_frozen": {"level": 10.0},
    "ialp_ft": {"level": 18.0, "start": 10.0},
    "ialp_ap": {"level": 18.5, "start": 10.5, "diversity_last_1000": 0.8},
    "ialp_ap_fixed": {"level": 17.0, "start": 10.0},
    "text_frozen": {"level": 7.0},
    "text_ft": {"level": 14.0, "start": 7.0},
    "item_frozen": {"level": 8.0},
    "item_ft": {"level": 15.0, "start": 8.0},
    "smollm2_frozen": {"level": 8.5},
    "smollm2_ft": {"level": 14.5, "start": 8.0},
    "shuffled_ft": {"level": 12.0, "start": 2.0, "pace": 3000.0},
    "shuffled_ap": {"level": 13.0, "start": 4.0},
    "synthetic_00_ft": {"level": 13.0, "start": 3.5},
    "synthetic_25_ft": {"level": 14.0, "start": 6.0},
    "synthetic_50_ft": {"level": 15.0, "start": 9.0},
    "synthetic_75_ft": {"level": 17.0, "start": 12.0},
    "synthetic_100_ft": {"level": 20.0, "start": 16.0},
}


def write(folder: Path, records: Iterable[Record]) -> Path:
    """One file an environment, as the runner does."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in records:
        with (folder / f"{one.environment}.jsonl").open("a") as file:
            file.write(one.to_line())
    return folder


def changed(records: Iterable[Record], method: str, **arguments: object) -> list[Record]:
    """The same records, but with other arguments for one method; none of it where `missing=True`."""
    out = []
    for one in records:
        if one.method != method:
            out.append(one)
        elif not arguments.get("missing"):
            kept = {**GOOD.get(method, {}), **arguments}
            out.append(record(method, one.seed, one.environment, **kept))  # type: ignore[arg-type]
    return out


def with_code(one: Record, sources: str) -> Record:
    return replace(one, code={**one.code, "sources": sources})
