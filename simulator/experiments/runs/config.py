"""The declarative file: protocol, environments, judges, priors and methods; every table is checked before any run."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from offline.defaults import PERSONAL_WEIGHT, PRIOR_WEIGHT
from offline.sources import FOLDER_SOURCES
from simulator.errors import SimulatorError
from simulator.experiments.runs.files import EXPERIMENTS_FILE
from simulator.experiments.seam.options import read_options
from simulator.world.kinds import BOREDOM, WORLDS, WorldName
from simulator.world.rollout import CEILINGS

T = TypeVar("T")


@dataclass(frozen=True)
class Protocol:
    """Length and seeds of every run, unless a method says otherwise."""

    sessions: int = 10_000
    seeds: int = 10
    first_seed: int = 0
    concurrent: int = 100  # users at a time; a method learns after each of their turns


@dataclass(frozen=True)
class EnvironmentSpec:
    """Data set of an environment, and the rules that its users follow.

    An environment with a `base` is another world of that environment's data set: it takes all that it
    does not set itself from there, and shares what is prepared (fitted users, judgements, pre-trained policies).
    """

    title: str
    source: str  # of `offline datasets`
    folder: str | None = None  # below the data folder
    rules: Mapping[str, Any] = field(default_factory=dict)  # overrides of EnvironmentConfig
    world: WorldName = BOREDOM
    base: str | None = None


@dataclass(frozen=True)
class JudgeSpec:
    """Kind of judge: a language model (packaged Gemma, or a GGUF file), texts alone, or a simulated judge."""

    kind: str = "gguf"  # gguf | text | synthetic
    gguf: str | None = None  # a packaged model's name, or a file; the packaged Gemma if not given
    states: int = 150  # user states that are judged
    accuracy: float = 1.0  # of a synthetic judge: correlation of its judgements with the truth


@dataclass(frozen=True)
class PriorSpec:
    """A pre-trained policy: whose judgements, what is done to them, and how they are weighed."""

    title: str
    judge: str
    shuffled: bool = False  # judgements of one item go to another: a compromised prior
    prior_weight: float = PRIOR_WEIGHT
    personal_weight: float = PERSONAL_WEIGHT


@dataclass(frozen=True)
class MethodSpec:
    """A method: its kind (see `methods/`), options, and what it may use besides the catalogue."""

    title: str
    kind: str
    group: str  # baseline | logs | learner | ialp | control | ceiling
    options: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # options by environment
    prior: str | None = None
    logs: bool = False  # learned from the fixed log of a popularity policy
    environments: tuple[str, ...] | None = None
    worlds: bool = True  # also played in the environments that have a base
    seeds: int | None = None
    sessions: int | None = None


@dataclass(frozen=True)
class Experiments:
    """The whole file."""

    protocol: Protocol
    environments: Mapping[str, EnvironmentSpec]
    judges: Mapping[str, JudgeSpec]
    priors: Mapping[str, PriorSpec]
    methods: Mapping[str, MethodSpec]

    def data_set(self, environment: str) -> str:
        """The environment's base, or itself: what all worlds of one data set have in common."""
        return self.environments[environment].base or environment

    def options(self, method: str, environment: str) -> dict[str, Any]:
        """A method's options in an environment: the same in all worlds of a data set."""
        spec = self.methods[method]
        return {**spec.options, **spec.tuned.get(self.data_set(environment), {})}

    def plays(self, method: str, environment: str) -> bool:
        """Is the method played there?"""
        spec = self.methods[method]
        if self.environments[environment].base is not None and not spec.worlds:
            return False
        return spec.environments is None or self.data_set(environment) in spec.environments


def read_experiments(path: Path = EXPERIMENTS_FILE) -> Experiments:
    """Read and check the file.

    Raises:
        SimulatorError: it is missing, not TOML, or a table names something unknown; the message says where.
    """
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as error:
        raise SimulatorError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except ValueError as error:
        raise SimulatorError(f"{path}: is not TOML: {error}") from None
    sections = {"protocol", "environments", "judges", "priors", "methods"}
    if unknown := sorted(raw.keys() - sections):
        raise SimulatorError(f"{path}: unknown section {', '.join(unknown)}; known are {', '.join(sorted(sections))}")
    experiments = Experiments(
        protocol=read_options(Protocol, raw.get("protocol", {}), f"{path}: protocol"),
        environments=_tables(EnvironmentSpec, {"environments": _with_bases(raw, path)}, "environments", path),
        judges=_tables(JudgeSpec, raw, "judges", path),
        priors=_tables(PriorSpec, raw, "priors", path),
        methods=_tables(MethodSpec, raw, "methods", path),
    )
    _check(experiments, path)
    return experiments


def _with_bases(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The tables of the environments; those with a base have what it says, but for what they say themselves."""
    tables: Mapping[str, Any] = raw.get("environments", {})
    found = {}
    for name, table in tables.items():
        where, world, base = f"{path}: environments.{name}", table.get("world", BOREDOM), table.get("base")
        if world not in WORLDS:
            raise SimulatorError(f"{where}.world: expected one of {', '.join(WORLDS)}")
        if base is None:
            found[name] = table
            continue
        own = tables.get(base)
        if own is None or "base" in own:
            raise SimulatorError(f"{where}.base: expected an environment without a base")
        found[name] = {**own, "title": f"{own.get('title')}, {WORLDS[world].title}", **table}
    return found


def _tables(kind: type[T], raw: Mapping[str, Any], section: str, path: Path) -> dict[str, T]:
    return {
        name: read_options(kind, table, f"{path}: {section}.{name}") for name, table in raw.get(section, {}).items()
    }


def _check(experiments: Experiments, path: Path) -> None:
    """References between the tables."""
    from simulator.experiments.runs.method_kinds import method_kinds

    kinds = {*method_kinds(), *CEILINGS}
    sources = {"movielens", *FOLDER_SOURCES}
    for name, environment in experiments.environments.items():
        if environment.source not in sources:
            raise SimulatorError(f"{path}: environments.{name}.source: expected one of {', '.join(sorted(sources))}")
    for name, prior in experiments.priors.items():
        if prior.judge not in experiments.judges:
            raise SimulatorError(f"{path}: priors.{name}.judge: there is no judges.{prior.judge}")
    for name, method in experiments.methods.items():
        if method.kind not in kinds:
            raise SimulatorError(f"{path}: methods.{name}.kind: expected one of {', '.join(sorted(kinds))}")
        if method.prior is not None and method.prior not in experiments.priors:
            raise SimulatorError(f"{path}: methods.{name}.prior: there is no priors.{method.prior}")
        for environment_name in (*(method.environments or ()), *method.tuned):
            if environment_name not in experiments.environments:
                raise SimulatorError(f"{path}: methods.{name}: there is no environments.{environment_name}")
