"""Finds every method by its kind, in the files of `methods/`."""

from __future__ import annotations

import importlib
import pkgutil

from simulator.errors import SimulatorError
from simulator.experiments import methods
from simulator.experiments.seam.agent import Factory


def method_kinds() -> dict[str, Factory]:
    """Collect all factories of the modules in `methods`, by kind.

    Raises:
        SimulatorError: two files use the same name.
    """
    kinds: dict[str, Factory] = {}
    for module in pkgutil.iter_modules(methods.__path__):
        found: dict[str, Factory] = importlib.import_module(f"{methods.__name__}.{module.name}").METHODS
        if twice := kinds.keys() & found.keys():
            raise SimulatorError(
                f"methods/{module.name}.py: {', '.join(sorted(twice))} is defined in another file, too"
            )
        kinds |= found
    return kinds
