"""The log in Open Bandit Pipeline's `bandit_feedback` form: a target's rows and text, written and read again."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from offline.errors import OfflineError
from offline.ope.target import Target
from service.durable import write_file
from service.policy import bandit_feedback as core
from service.policy.indexed_log import IndexedLog

_DIMENSIONS = {"action": 1, "position": 1, "reward": 1, "pscore": 1, "context": 2, "action_context": 2}
_COUNTS = ("n_rounds", "n_actions")


def bandit_feedback(indexed: IndexedLog, target: Target) -> dict[str, Any]:
    """Run `service.policy.bandit_feedback` with the target's text, and join its context into one array.

    An action is a row of `target.item_ids`.
    """
    feedback = core.bandit_feedback([indexed], target.text.numpy().astype(np.float64))
    return feedback | {"context": feedback["context"].whole()}


def save_bandit_feedback(feedback: dict[str, Any], path: Path) -> None:
    """Write what `bandit_feedback` gave, whole or not at all."""
    write_file(path, b"".join(core.npz(feedback)))


def load_bandit_feedback(path: Path) -> dict[str, Any]:
    """Read what `save_bandit_feedback` wrote: the dict that `obp` takes as `bandit_feedback`.

    Raises:
        OfflineError: there is no such file, or it is not one of these; the message names the field.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            loaded: dict[str, Any] = {name: file[name] for name in (*_COUNTS, *_DIMENSIONS)}
    except FileNotFoundError:
        raise OfflineError(f"{path}: not found; write it with `python -m offline evaluate --obp-out`") from None
    except KeyError as error:
        raise OfflineError(f"{path}: {error.args[0]}") from None
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zlib.error, zipfile.BadZipFile) as error:
        raise OfflineError(f"{path}: not bandit feedback, or cut short ({error})") from None
    for name in _COUNTS:
        if loaded[name].shape != () or loaded[name].dtype.kind not in "iu":
            raise OfflineError(f"{path}: {name}: not a whole number")
        loaded[name] = int(loaded[name])
    for name, dimensions in _DIMENSIONS.items():
        rows = loaded["n_actions" if name == "action_context" else "n_rounds"]
        if loaded[name].ndim != dimensions or len(loaded[name]) != rows:
            raise OfflineError(f"{path}: {name}: shape {loaded[name].shape} does not fit {rows} rows")
    return loaded
