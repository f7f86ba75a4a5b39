"""Settings of methods, as many of each, and those that earned most over all worlds, on seeds that no result reports."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from simulator.errors import SimulatorError
from simulator.experiments.runs.config import Experiments, MethodSpec, Protocol
from simulator.experiments.runs.files import TUNING_FILE
from simulator.experiments.runs.record import Record
from simulator.experiments.seam.options import read_options

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Tuning:
    """The file: what every method tries, on which sessions."""

    protocol: Protocol
    settings: Mapping[str, Sequence[Options]]  # of every method; the first is what it has by default
    one_for_all: Sequence[str] = ()  # methods that get one setting for all environments


def read_tuning(experiments: Experiments, path: Path = TUNING_FILE) -> Tuning:
    """Read and check the file.

    Raises:
        SimulatorError: it is missing, not TOML, names an unknown method, overlaps the reported seeds, or gives one
            method more settings than another; the message says where.
    """
    try:
        raw = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        problem = f"cannot be read ({error.strerror}); check the path" if isinstance(error, OSError) else f"{error}"
        raise SimulatorError(f"{path}: {problem}") from None
    protocol = read_options(Protocol, raw.get("protocol", {}), f"{path}: protocol")
    tuning = read_options(Tuning, {**raw, "protocol": protocol}, str(path))
    for method in (*tuning.settings, *tuning.one_for_all):
        if method not in experiments.methods or method not in tuning.settings:
            raise SimulatorError(
                f"{path}: settings.{method}: expected settings of one of {', '.join(experiments.methods)}"
            )
    for method, settings in tuning.settings.items():
        if settings[:1] != [{}] or any(setting in settings[:i] for i, setting in enumerate(settings)):
            raise SimulatorError(
                f"{path}: settings.{method}: expected {{}} first, for the defaults, and no setting twice"
            )
    numbers = {method: len(settings) for method, settings in tuning.settings.items()}
    if len(set(numbers.values())) > 1:
        raise SimulatorError(f"{path}: settings: every method needs as many as any other, found {numbers}")
    ours, reported = _seeds(tuning.protocol), _seeds(experiments.protocol)
    if shared := sorted(ours & reported):
        raise SimulatorError(f"{path}: protocol: seeds {shared} are reported, too")
    return tuning


def _seeds(protocol: Protocol) -> set[int]:
    return set(range(protocol.first_seed, protocol.first_seed + protocol.seeds))


def candidates(experiments: Experiments, tuning: Tuning) -> Experiments:
    """Experiments whose methods are all settings: `linucb.0`, `linucb.1`, ...

    A method that plays fewer sessions than others in the experiments, since it learns nothing in them, does so here.
    """
    sessions = tuning.protocol.sessions
    methods = {
        f"{name}.{place}": replace(
            spec,
            options=_options(spec, setting),
            tuned={},
            seeds=None,
            sessions=min(sessions, spec.sessions or sessions),
        )
        for name, settings in tuning.settings.items()
        for spec in (experiments.methods[name],)
        for place, setting in enumerate(settings)
    }
    return replace(experiments, protocol=tuning.protocol, methods=methods)


def _options(spec: MethodSpec, setting: Options) -> dict[str, Any]:
    return {**spec.options, **setting}


@dataclass(frozen=True)
class Tried:
    """Reward per session of a method's settings in an environment, by seed."""

    method: str
    environment: str
    settings: Sequence[Options]
    rewards: Sequence[Sequence[float]]  # of each setting

    @property
    def means(self) -> list[float]:
        """Mean of each setting, over seeds."""
        return [float(np.mean(values)) for values in self.rewards]

    @property
    def relative(self) -> list[float]:
        """The means over that of the first setting."""
        return [mean / self.means[0] for mean in self.means]


def tried(experiments: Experiments, tuning: Tuning, records: Iterable[Record]) -> list[Tried]:
    """Collect the rewards by method and environment, where every setting and seed has a record."""
    seeds = _seeds(tuning.protocol)
    specs = candidates(experiments, tuning).methods
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for record in records:
        spec = specs.get(record.method)
        if spec is not None and record.seed in seeds and record.sessions == spec.sessions:
            method, _, _ = record.method.rpartition(".")
            of = (method, record.environment, _text(record.configuration["method"]["options"]))
            found.setdefault(of, {})[record.seed] = record.metrics["reward"]
    out = []
    for method, settings in tuning.settings.items():
        spec = experiments.methods[method]
        for environment in experiments.environments:
            by_setting = [found.get((method, environment, _text(_options(spec, s))), {}) for s in settings]
            if all(rewards.keys() == seeds for rewards in by_setting):
                rewards = [[rewards[seed] for seed in sorted(seeds)] for rewards in by_setting]
                out.append(Tried(method, environment, settings, rewards))
    return out


def winners(experiments: Experiments, tuning: Tuning, found: Iterable[Tried]) -> dict[tuple[str, str], Options]:
    """Choose by method and data set the setting with the highest mean over worlds; of equal ones, the first.

    Never on part of the worlds: without what it earned in all that the method is played in, nothing is chosen. A method
    of `one_for_all` has the highest mean over the worlds of all its data sets.
    """
    by_place = {(one.method, one.environment): one for one in found}
    pools: dict[tuple[str, str], list[Tried]] = {}
    members: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for method in tuning.settings:
        for data_set in dict.fromkeys(map(experiments.data_set, experiments.environments)):
            needed = worlds_of(experiments, method, data_set)
            own = [by_place[method, e] for e in needed if (method, e) in by_place]
            if own and len(own) == len(needed):
                pool = (method, "" if method in tuning.one_for_all else data_set)
                pools.setdefault(pool, []).extend(own)
                members.setdefault(pool, []).append((method, data_set))
    chosen: dict[tuple[str, str], Options] = {}
    for pool, ones in pools.items():
        relative = np.mean([one.relative for one in ones], axis=0)
        chosen |= dict.fromkeys(members[pool], ones[0].settings[int(np.argmax(relative))])
    return chosen


def worlds_of(experiments: Experiments, method: str, data_set: str) -> list[str]:
    """The environments of a data set in which a method is played."""
    return [e for e in experiments.environments if experiments.data_set(e) == data_set and experiments.plays(method, e)]


def _text(options: Options) -> str:
    return json.dumps(options, sort_keys=True)
