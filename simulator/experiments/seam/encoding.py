"""Sessions of the simulator as the service would log them, n at a time."""

from __future__ import annotations

import numpy as np
import torch

from service.policy.types import Response, States
from simulator.experiments.seam.agent import Bools, Floats, Ints, Sessions

N_RESPONSES, N_SHOWN = 20, 30  # of a session that a policy sees: the service's defaults


def states_of(sessions: Sessions, n_responses: int = N_RESPONSES, n_shown: int = N_SHOWN) -> States:
    """The last `n_responses` positive responses, then the last `n_shown` items shown in vain, padded on the right.

    What `session_state` makes of one session, for all at once.
    """
    n = len(sessions.shown)
    shown, positive = sessions.shown.reshape(n, -1), sessions.responses.reshape(n, -1)
    items = np.zeros((n, n_responses + n_shown), np.int64)
    responses = np.zeros(items.shape, np.float32)
    lengths = np.zeros(n, np.int64)
    parts = ((positive, n_responses, Response.POSITIVE), (~positive, n_shown, Response.IGNORED))
    for chosen, limit, response in parts:
        _append(items, responses, lengths, shown, chosen & (shown >= 0), limit, response)
    return States(torch.from_numpy(items), torch.from_numpy(responses), torch.from_numpy(lengths))


def _append(
    items: Ints, responses: Floats, lengths: Ints, shown: Ints, chosen: Bools, limit: int, response: Response
) -> None:
    """Put the last `limit` chosen places of each row behind what the row holds, in place."""
    if not shown.shape[1]:
        return
    from_end = np.cumsum(chosen[:, ::-1], axis=1)[:, ::-1]  # 1 for the last chosen place of a row
    row, column = np.nonzero(chosen & (from_end <= limit))
    kept = np.minimum(chosen.sum(axis=1), limit)
    place = lengths[row] + kept[row] - from_end[row, column]
    items[row, place], responses[row, place] = shown[row, column], response
    lengths += kept
