"""Learners by name, for settings, checkpoints and command lines."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, fields, replace
from typing import Any, TypeVar

from service.policy.a2c import A2C, A2CConfig
from service.policy.boltzmann import Boltzmann, BoltzmannConfig
from service.policy.learner import Learner
from service.policy.networks import ItemScorer
from service.policy.posterior import Evidence
from service.policy.variants import Variant

Config = TypeVar("Config", A2CConfig, BoltzmannConfig)


def configured(config: Config, overrides: Mapping[str, float]) -> Config:
    """`config` with some fields replaced.

    Raises:
        ValueError: a name is not a field of the configuration.
    """
    kinds = {field.name: type(getattr(config, field.name)) for field in fields(config)}
    unknown = sorted(overrides.keys() - kinds.keys())
    if unknown:
        raise ValueError(f"unknown hyper-parameter {', '.join(unknown)}; known are {', '.join(sorted(kinds))}")
    return replace(config, **{name: kinds[name](value) for name, value in overrides.items()})


def builds_on_pretrained(name: str, variant: Variant) -> bool:
    """Is what the learner `name` learns an addition to the frozen policy, and nothing without it?"""
    return name == "boltzmann" and variant == Variant.AP


def make_learner(
    name: str,
    variant: Variant,
    pretrained: ItemScorer,
    learned: ItemScorer,
    critic: ItemScorer,
    overrides: Mapping[str, float],
    evidence: Evidence | None = None,
) -> tuple[Learner, dict[str, Any]]:
    """The learner `name` ("boltzmann" or "a2c") and its full description for manifests.

    It goes on from `learned` and `critic`, which it takes over. In A-iALP_ap boltzmann builds on the frozen
    `pretrained`; `critic`, which may be `learned`, is used by a2c only. `evidence` is the precision that logs gave,
    which boltzmann takes in.

    Raises:
        ValueError: no learner has that name, or an override is no hyper-parameter of it.
    """
    if name == "a2c":
        a2c = configured(A2CConfig(), overrides)
        return A2C(learned, deepcopy(learned) if critic is learned else critic, a2c), {"name": name, **asdict(a2c)}
    if name == "boltzmann":
        config = configured(BoltzmannConfig(), overrides)
        prior = pretrained if builds_on_pretrained(name, variant) else None
        return Boltzmann(learned, config, prior, evidence, pretrained), {"name": name, **asdict(config)}
    raise ValueError(f"learner {name!r} is unknown; known are 'boltzmann' and 'a2c'")
