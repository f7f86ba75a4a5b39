"""When sessions end by themselves: the baseline that tells a slate's part in an end from the session's age.

Late in a session more ends, and everything is close to something that was shown. Were the two not kept apart,
closeness would seem to drive users away. So the hazard of an end is modelled turn by turn (discrete-time proportional
hazards, Cox 1972, section 6):

    logit P(ended | turn t, item a) = logit h_t + leave_1 (c(s, a) - mean c at t)

where h_t is the share of sessions that ended at turn t, counted. At a turn where all sessions end, such as a limit,
nothing is left for closeness to explain. What the policy needs is leave_0 + leave_1 c, the mean over turns, each
weighted by the sessions that went on: where nobody stays, nobody can be lost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from service.policy.networks import RARE

N_TURNS = 32  # that are told apart; later ones count as the last of these


class Hazard:
    """Counts by turn of slots shown, of those after which the session ended, and the sum of their closeness."""

    def __init__(self) -> None:
        self.counts = torch.zeros(N_TURNS, 3, dtype=torch.float64)

    def add(self, turn: Tensor, ended: Tensor, close: Tensor) -> None:
        """Count N slots: turn [N] int64, whether the session ended [N] bool, closeness [N]."""
        rows = torch.stack([torch.ones_like(close), ended, close], dim=1).double()
        self.counts.index_add_(0, turn.clamp_max(N_TURNS - 1), rows)

    def by_turn(self) -> tuple[Tensor, Tensor]:
        """logit h_t and mean closeness, [N_TURNS] each; a turn never seen is as ends are at first."""
        shown, ended, close = self.counts.unbind(1)
        rare = torch.sigmoid(torch.tensor(RARE, dtype=torch.float64))
        return torch.logit((ended + rare) / (shown + 1)), close / shown.clamp_min(1)

    def baseline(self, slope: float) -> float | None:
        """leave_0 for this leave_1: the weighted mean over turns; None before anything was seen."""
        hazard, close = self.by_turn()
        weight = self.counts[:, 0] * (1 - torch.sigmoid(hazard))
        return (weight @ (hazard - slope * close) / weight.sum()).item() if weight.any() else None
