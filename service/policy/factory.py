"""Learners by name, for settings, checkpoints and command lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any, TypeVar

from service.policy.a2c import A2C, A2CConfig
from service.policy.learner import Learner
from service.policy.mac import MAC, MACConfig
from service.policy.networks import ItemScorer

Config = TypeVar("Config", A2CConfig, MACConfig)


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


def make_learner(
    name: str,
    actor: ItemScorer,
    critic: ItemScorer,
    overrides: Mapping[str, float],
    anchor: ItemScorer | None = None,
) -> tuple[Learner, dict[str, Any]]:
    """The learner `name` ("mac" or "a2c") and its full description for manifests; `anchor` is used by mac only.

    Raises:
        ValueError: no learner has that name, or an override is no hyper-parameter of it.
    """
    if name == "a2c":
        a2c = configured(A2CConfig(), overrides)
        return A2C(actor, critic, a2c), {"name": name, **asdict(a2c)}
    if name == "mac":
        mac = configured(MACConfig(), overrides)
        return MAC(actor, critic, mac, anchor), {"name": name, **asdict(mac)}
    raise ValueError(f"learner {name!r} is unknown; known are 'mac' and 'a2c'")
