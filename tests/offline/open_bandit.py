"""The Open Bandit Pipeline, as the tests use it."""

from __future__ import annotations

import logging
import warnings
from typing import Any


def imported() -> Any:
    """The package; importing it configures logging, and old strings in it warn when they are first compiled."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import obp
        import obp.ope
        import obp.utils
    root.handlers[:] = handlers
    root.setLevel(level)
    return obp
