"""The log in Open Bandit Pipeline's `bandit_feedback` form, as an .npz file without pickle (Saito et al. 2021).

One round is one slot. obp takes rounds for independent; the slots of a slate are not, so take intervals from here.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from offline.artefacts import write_atomic
from offline.errors import OfflineError
from offline.ope.reward_model import session_profiles
from offline.ope.target import IndexedLog, Target
from service.policy.types import EMPTY_SLOT

_DIMENSIONS = {"action": 1, "position": 1, "reward": 1, "pscore": 1, "context": 2, "action_context": 2}
_COUNTS = ("n_rounds", "n_actions")


def bandit_feedback(indexed: IndexedLog, target: Target) -> dict[str, Any]:
    """n rounds over A actions: n_rounds, n_actions, and as arrays action [n] int64, position [n] int64 (slot from 0),
    reward [n], pscore [n] (given the slots above), context [n, 3 d] (mean text of the session's liked, disliked and
    ignored items) and action_context [A, d] (text).

    An action is a row of `target.item_ids`; slots whose item has none are left out. There is no `pi_b`: the log keeps
    the behaviour policy's probability of what was shown, not of all items.
    """
    slate, slot = np.nonzero(indexed.filled & (indexed.shown != EMPTY_SLOT))
    text = target.text.numpy().astype(np.float64)
    profiles = session_profiles(indexed.states, text)
    return {
        "n_rounds": len(slate),
        "n_actions": len(text),
        "action": indexed.shown[slate, slot],
        "position": slot.astype(np.int64),
        "reward": indexed.rewards[slate, slot],
        "pscore": indexed.propensities[slate, slot],
        "context": profiles.reshape(len(profiles), -1)[slate],
        "action_context": text,
    }


def save_bandit_feedback(feedback: dict[str, Any], path: Path) -> None:
    """Write what `bandit_feedback` gave, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **feedback)
    write_atomic(path, buffer.getvalue())


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
