"""Model when sessions end by themselves, and what a slate has to do with it.

Late in a session more ends, and everything is close to something that was shown. Were the two not kept apart,
closeness would seem to drive users away. So the hazard of an end is modelled turn by turn (discrete-time proportional
hazards, Cox 1972, section 6). A slate ends a session or not as a whole:

    logit P(ended | turn t, slate) = logit h_t + leave_1 (x - mean x at t),   x = mean over its items of nearest^2

where h_t is the share of sessions that ended at turn t, counted, and `nearest` how close an item is to what the session
saw last (`Closeness`). At a turn where all sessions end, such as a limit, nothing is left for closeness to explain.
leave_1 follows the evidence by one Newton step a batch, with the curvature of all batches before (an online Laplace
filter; Chapelle & Li 2011), which fades: what drives users away may change. What the policy needs is leave_0 + leave_1
x, the mean over turns, each weighted by the sessions that went on: where nobody stays, nobody can be lost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from service.policy.networks import RARE

N_TURNS = 32  # that are told apart; later ones count as the last of these
_FEW = 30  # slates at a turn, before which its mean is too uncertain to compare with
_PRECISION = 0.5  # of leave_1 before anything is seen
_KEPT = 0.9995**0.01  # of the curvature, for each slate
_LARGEST_STEP = 0.5


class Hazard:
    """Counts by turn of slates, of those after which the session ended, and the sum of their closeness."""

    def __init__(self) -> None:
        self.counts = torch.zeros(N_TURNS, 3, dtype=torch.float64)
        self.curvature = torch.tensor(_PRECISION, dtype=torch.float64)  # of the evidence in leave_1

    def add(self, turn: Tensor, ended: Tensor, close: Tensor) -> None:
        """Count N slates: turn [N] int64, whether the session ended [N] bool, x [N]."""
        rows = torch.stack([torch.ones_like(close), ended, close], dim=1).double()
        self.counts.index_add_(0, turn.clamp_max(N_TURNS - 1), rows)

    def by_turn(self) -> tuple[Tensor, Tensor]:
        """logit h_t and mean x, [N_TURNS] each; a turn never seen is as ends are at first."""
        shown, ended, close = self.counts.unbind(1)
        rare = torch.sigmoid(torch.tensor(RARE, dtype=torch.float64))
        return torch.logit((ended + rare) / (shown + 1)), close / shown.clamp_min(1)

    def better_slope(self, turn: Tensor, ended: Tensor, close: Tensor, slope: float) -> float:
        """leave_1 after N slates that were just counted (see `add`), from what it was."""
        turn = turn.clamp_max(N_TURNS - 1)
        is_common = self.counts[turn, 0] >= _FEW
        if not is_common.any():
            return slope
        by_itself, usual = (part[turn[is_common]] for part in self.by_turn())
        x = close[is_common].double() - usual
        probability = torch.sigmoid(by_itself + slope * x)
        self.curvature = self.curvature * _KEPT ** len(x) + (x.square() * probability * (1 - probability)).sum()
        step = (x @ (ended[is_common].double() - probability)) / self.curvature
        return slope + float(step.clamp(-_LARGEST_STEP, _LARGEST_STEP))

    def baseline(self, slope: float) -> float | None:
        """leave_0 for this leave_1: the weighted mean over turns; None before anything was seen."""
        hazard, close = self.by_turn()
        weight = self.counts[:, 0] * (1 - torch.sigmoid(hazard))
        return (weight @ (hazard - slope * close) / weight.sum()).item() if weight.any() else None
