"""Every method by name; a new one is a new file here with a `METHODS` of its own, and an entry in the configuration."""

from __future__ import annotations

import importlib
import pkgutil

from simulator.errors import SimulatorError
from simulator.experiments.agent import Factory


def method_kinds() -> dict[str, Factory]:
    """All factories of the modules in this package, by kind.

    Raises:
        SimulatorError: two files use the same name.
    """
    kinds: dict[str, Factory] = {}
    for module in pkgutil.iter_modules(__path__):
        found: dict[str, Factory] = importlib.import_module(f"{__name__}.{module.name}").METHODS
        if twice := kinds.keys() & found.keys():
            raise SimulatorError(
                f"methods/{module.name}.py: {', '.join(sorted(twice))} is defined in another file, too"
            )
        kinds |= found
    return kinds
