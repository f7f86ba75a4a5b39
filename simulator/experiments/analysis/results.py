"""The records that count: by environment and method, one configuration each, and what is left out."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from simulator.experiments.analysis.comparison import Floats
from simulator.experiments.runs.config import Protocol
from simulator.experiments.runs.files import PUBLISHED
from simulator.experiments.runs.record import BIN, EARLY, Record
from simulator.world.kinds import BOREDOM

PROTOCOL = Protocol()
ENVIRONMENTS = PUBLISHED
CEILING, LOGS = "ceiling", "logs"
CONSTANT = (CEILING, LOGS)  # groups that do not learn: any of their sessions tell what all would


@dataclass(frozen=True)
class Measure:
    """A number of a run, and how many sessions a run needs to have it."""

    name: str
    sessions: int
    of: Callable[[Record], float]


def metric(name: str, sessions: int = PROTOCOL.sessions) -> Measure:
    """One of the record's metrics; NaN where an older record lacks it."""
    return Measure(name, sessions, lambda record: record.metrics.get(name, math.nan))


def first(sessions: int) -> Measure:
    """Reward per session over the first sessions."""
    return Measure(
        f"first {sessions:,}", sessions, lambda record: float(np.mean(record.curves["reward"][: sessions // BIN]))
    )


ALL = metric("reward")
LAST = metric("reward_last_1000")
FIRST = metric("reward_first_1000", EARLY)


@dataclass(frozen=True)
class Runs:
    """One method in one environment: runs alike in all but the seed."""

    environment: str
    method: str
    configuration: Mapping[str, Any]
    records: Mapping[int, Record]  # by seed, ascending

    @property
    def title(self) -> str:
        return str(self.configuration["method"]["title"])

    @property
    def group(self) -> str:
        return str(self.configuration["method"]["group"])

    @property
    def sessions(self) -> int:
        return min(record.sessions for record in self.records.values())

    @property
    def uses_llm(self) -> bool:
        return bool(self.configuration.get("judge", {}).get("kind") == "gguf")

    def has(self, measure: Measure) -> bool:
        """Is there enough of it to tell the measure?"""
        return self.group in CONSTANT or self.sessions >= measure.sessions

    def values(self, measure: Measure) -> Floats:
        """[S] by seed."""
        return np.array([measure.of(record) for record in self.records.values()], np.float64)

    def curves(self, name: str = "reward", seeds: Sequence[int] | None = None) -> Floats:
        """[S, P]: points of BIN sessions."""
        records = self.records.values() if seeds is None else [self.records[seed] for seed in seeds]
        points = min(len(record.curves[name]) for record in records)
        return np.array([record.curves[name][:points] for record in records], np.float64)


class Code(NamedTuple):
    """The state of the code that a run was made with."""

    version: str
    commit: str
    sources: str  # hash


def code_of(record: Record) -> Code:
    return Code(*(str(record.code.get(name, "unknown")) for name in Code._fields))


class Pair(NamedTuple):
    """Values of two methods by common seed; `missing` says why there are none."""

    a: Floats
    b: Floats
    seeds: tuple[int, ...] = ()
    missing: str = ""


@dataclass(frozen=True)
class Results:
    """All that the page is made from."""

    cells: Mapping[str, Mapping[str, Runs]]  # environment -> method
    left_out: tuple[str, ...] = ()  # a sentence each
    code: Mapping[Code, int] = field(default_factory=dict)  # -> runs

    @property
    def data_sets(self) -> list[str]:
        """The environments that are not another world of one that is here, too."""
        return [environment for environment in self.cells if self._base(environment) not in self.cells]

    def worlds(self, data_set: str) -> dict[str, str]:
        """World -> environment of a data set: its own world first, the others by name."""
        others = {self.world(e): e for e in sorted(self.cells) if self._base(e) == data_set}
        return {self.world(data_set): data_set, **others}

    def world(self, environment: str) -> str:
        """In which world an environment is; records from before there were several say nothing."""
        return str(self._facts(environment).get("world", BOREDOM))

    def _base(self, environment: str) -> str | None:
        base = self._facts(environment).get("base")
        return None if base is None else str(base)

    def _facts(self, environment: str) -> Mapping[str, Any]:
        facts: Mapping[str, Any] = next(iter(self.cells[environment].values())).configuration["environment"]
        return facts

    def runs(self, environment: str, method: str) -> Runs | None:
        return self.cells.get(environment, {}).get(method)

    def environment_title(self, environment: str) -> str:
        return str(self._facts(environment)["title"]) if self.cells.get(environment) else environment

    def pair(self, environment: str, a: str, b: str, measure: Measure) -> Pair:
        """Both methods' values on the seeds that both have; none unless both ran as many sessions as it takes."""
        empty = np.zeros(0)
        cells = []
        for method in (a, b):
            runs = self.runs(environment, method)
            if runs is None:
                return Pair(empty, empty, missing=f"no runs of `{method}`")
            if not runs.has(measure):
                return Pair(empty, empty, missing=f"`{method}` has {runs.sessions:,} of {measure.sessions:,} sessions")
            cells.append(runs)
        seeds = tuple(seed for seed in cells[0].records if seed in cells[1].records)
        if len(seeds) < 2:
            few = "one seed" if seeds else "no seed"
            return Pair(empty, empty, missing=f"{few} in common of `{a}` and `{b}`, two are needed")
        left, right = (np.array([measure.of(runs.records[s]) for s in seeds], np.float64) for runs in cells)
        if not np.isfinite([left, right]).all():
            return Pair(empty, empty, missing=f"no `{measure.name}` in some runs of `{a}` or `{b}`")
        return Pair(left, right, seeds)

    def strongest(
        self,
        environment: str,
        groups: Sequence[str],
        measure: Measure = ALL,
        prefix: str = "",
        kinds: Sequence[str] = (),
    ) -> Runs | None:
        """The method without a language model that has the highest mean, of those with all the sessions.

        `prefix`: only methods whose names start so. `kinds`: only methods of these kinds.
        """
        rivals = [
            runs
            for runs in self.cells.get(environment, {}).values()
            if runs.group in groups
            and runs.method.startswith(prefix)
            and not runs.uses_llm
            and runs.has(measure)
            and (not kinds or runs.configuration["method"]["kind"] in kinds)
        ]
        return max(rivals, key=lambda runs: (float(runs.values(measure).mean()), runs.method), default=None)


def collect(records: Iterable[Record]) -> Results:
    """Group records, which are in the order of their files: in each, what was appended last is what counts.

    A method is shown with one configuration, the last one in the file, in one version of its environment, likewise;
    records of others would not be comparable. They are counted in `left_out`.
    """
    by_environment: dict[str, list[Record]] = {}
    for record in records:
        by_environment.setdefault(record.environment, []).append(record)
    cells: dict[str, dict[str, Runs]] = {}
    left_out: list[str] = []
    for environment in sorted(by_environment, key=_place):
        newest = _text(by_environment[environment][-1].configuration["environment"])
        by_method: dict[str, list[Record]] = {}
        elsewhere = 0
        for record in by_environment[environment]:
            if _text(record.configuration["environment"]) == newest:
                by_method.setdefault(record.method, []).append(record)
            else:
                elsewhere += 1
        if elsewhere:
            left_out.append(f"{elsewhere} runs in an older version of the environment `{environment}`")
        cells[environment] = {}
        for method, own in sorted(by_method.items()):
            last = own[-1].configuration
            same = {record.seed: record for record in own if _settings_of(record.configuration) == _settings_of(last)}
            if len(same) < len(own):
                left_out.append(f"{len(own) - len(same)} older runs of `{method}` in `{environment}`")
            cells[environment][method] = Runs(environment, method, last, dict(sorted(same.items())))
    kept = [record for methods in cells.values() for runs in methods.values() for record in runs.records.values()]
    return Results(cells, tuple(left_out), dict(sorted(Counter(map(code_of, kept)).items())))


def _place(environment: str) -> tuple[int, str]:
    return (ENVIRONMENTS.index(environment) if environment in ENVIRONMENTS else len(ENVIRONMENTS), environment)


def _settings_of(configuration: Mapping[str, Any]) -> str:
    """Write a run's settings without names of prepared files, which change with the code."""
    prior = configuration.get("prior") or {}
    prior_settings = {name: value for name, value in prior.items() if name != "snapshot"}
    return _text({**configuration, "prior": prior_settings, "log": None})


def _text(configuration: Any) -> str:
    return json.dumps(configuration, sort_keys=True)
