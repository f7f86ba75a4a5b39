"""The declarative files that come with the experiments, and the names in them, for shells that complete options."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

_FOLDER = Path(__file__).parents[1]
EXPERIMENTS_FILE, TUNING_FILE = _FOLDER / "experiments.toml", _FOLDER / "tuning.toml"
PUBLISHED = ("lfm", "industry", "coat")  # environments on which goals are judged
ALL_PUBLISHED = ",".join(PUBLISHED)
ALL_WORLDS = ",".join(f"{name}*" for name in PUBLISHED)  # of their data sets


def names_of(section: str) -> Callable[[str], list[str]]:
    """Completes the last of a list with commas by the names of a section of the experiments' file."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        names = tomllib.loads(EXPERIMENTS_FILE.read_text())[section]
        return [f"{before}{comma}{name}" for name in names if name.startswith(last)]

    return complete
