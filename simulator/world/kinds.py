"""The kinds of worlds: in each, users of the same taste take what they are shown in another way.

docs/experiments.md has the equations. Nothing heavy is imported here: commands list the names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

WorldName = Literal["boredom", "calm", "more", "drift"]
BOREDOM: WorldName = "boredom"

DEFAULT_WORLD: WorldName = "more"
"""The world of the demo, of `simulator load` and of callers that name none; docs/experiments.md gives the reasons."""


@dataclass(frozen=True)
class WorldKind:
    """Behaviour of users in such a world, its short title, and the rules that replace boredom's."""

    users: str
    title: str
    rules: Mapping[str, Any]


WORLDS: Mapping[WorldName, WorldKind] = MappingProxyType(
    {
        "boredom": WorldKind("users tire of what is alike", "boredom", {}),
        # Users stay for 9.15 of 10 turns on average: as long as those whom a sensible policy serves in boredom.
        "calm": WorldKind("users take each slate by itself", "calm", {"satiation": 0.0, "hazard": 0.02}),
        "more": WorldKind(
            "users want more of the same",
            "more of the same",
            {
                "satiation": 0.0,
                "satiation_window": 10,
                "satiation_decay": 0.8,
                "attraction": 0.25,
                "aversion": 0.05,
                "hazard": 0.02,
                "frustration": 2.0,
            },
        ),
        "drift": WorldKind(
            "tastes drift", "drifting tastes", {"satiation": 0.0, "hazard": 0.02, "drift_period": 4_000}
        ),
    }
)
