"""Posterior of the linear part of f, which says how sure it is, updated impression by impression.

In its few shared weights w (`ItemScorer.linear_weights`) and the items' own biases b, f is linear, and a positive
response is a logistic regression on it. Assumed-density filtering with Laplace's approximation (Spiegelhalter &
Lauritzen 1990; Chapelle & Li 2011, algorithm 3, with full covariances) takes each batch of impressions once: the new
mode minimises

    1/2 (w - w0, b - b0)' H (w - w0, b - b0) + sum_i BCE(f_i, r_i),     H = [[S, B'], [B, D]]

by Newton's method, and the curvature there is added to H. D is diagonal, so the A biases are eliminated: a batch costs
A P^2 once and A P for each step, for P shared weights, whatever the log's length. The hybrid model of LinUCB (Li et al.
2010) with a logistic response; unlike gradient steps it needs no learning rate, and a first click moves as much as it
tells.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from service.policy.networks import BIAS_PRECISION, ItemScorer

# Prior precision of what each part of `ItemScorer.linear_weights` is: text, product with the liked profile, gains,
# repeat, level of a stranger and with what was seen, the prior's gains.
_PRECISIONS: tuple[float | tuple[float, ...], ...] = (1.0, 0.25, 0.25, 0.25, (0.05, 1.0, 1.0), 1.0)
_NEWTON_STEPS = 20
_LARGEST_STEP = 1.0  # of any weight in one Newton step, in log odds: far from the mode the curvature says little
_CLOSE = 1e-4  # a step below this is the last


class Evidence(NamedTuple):
    """Precision that logs gave the weights before the first impression; the mode is in the network."""

    shared: Tensor  # S [P, P], float64
    by_item: Tensor  # B [A, P], float64
    information: Tensor  # [A] of `ItemScorer`

    def grown(self, n_items: int) -> Evidence:
        """Return the same with rows for appended items, of which nothing is known."""
        more = n_items - len(self.by_item)
        by_item = torch.cat([self.by_item, self.by_item.new_zeros(more, len(self.shared))])
        return Evidence(self.shared, by_item, torch.cat([self.information, self.information.new_zeros(more)]))


class Posterior:
    """Gaussian over (w, b): its mode is in the network's parameters, its precision here and in `information`."""

    def __init__(self, network: ItemScorer, evidence: Evidence | None = None) -> None:
        """Start from what is known before the first impression, beside the `information` of the network."""
        if evidence is not None:
            self.shared, self.by_item = evidence.shared.clone(), evidence.by_item.clone()
            return
        weights = network.linear_weights()
        parts = [
            torch.tensor(precision, dtype=torch.float64).expand(len(part))
            for precision, part in zip(_PRECISIONS, weights, strict=True)
        ]
        self.shared = torch.diag(torch.cat(parts))  # S [P, P]
        self.by_item = torch.zeros(network.n_items, len(self.shared), dtype=torch.float64)  # B [A, P]

    @torch.no_grad()
    def update(
        self,
        network: ItemScorer,
        features: Tensor,
        items: Tensor,
        response: Tensor,
        targets: Tensor,
        trust: Tensor | None = None,
    ) -> Tensor:
        """Learn from N impressions; returns the f [N] that the network has for them afterwards.

        `features` [N, P] of the items [N] that were shown, `response` [N] the f that the network has for them,
        `targets` [N] in [0, 1] what came back, `trust` [N] how much of an impression each counts as, 1 if not given.
        Moves the network's weights and biases to the new mode.
        """
        x, f0, targets = features.double(), response.double(), targets.double()
        counts = torch.ones_like(targets) if trust is None else trust.double()
        shown, slot_of = torch.unique(items, return_inverse=True)
        diagonal = BIAS_PRECISION + network.information.double()
        b_prior, d_prior = self.by_item[shown], diagonal[shown]
        # An item that was not shown goes where w takes it, b_i = -B_i.w / D_i, whatever w is: what all of them add to
        # the steps below is one matrix, made once.
        follows = self.by_item / diagonal.unsqueeze(1)  # [A, P]
        others = self.by_item.T @ follows - b_prior.T @ (b_prior / d_prior.unsqueeze(1))
        follows[shown] = 0.0
        w, b = x.new_zeros(len(self.shared)), x.new_zeros(len(shown))
        for _ in range(_NEWTON_STEPS):
            probability = torch.sigmoid(f0 + x @ w + b[slot_of])
            shared, by_item, precision = self._curvature(x, slot_of, probability, counts, b_prior, d_prior)
            error = counts * (probability - targets)
            slope_w = (self.shared - others) @ w + b_prior.T @ b + x.T @ error
            slope_b = (b_prior @ w + d_prior * b).index_add(0, slot_of, error)
            scaled = by_item / precision.unsqueeze(1)
            step_w = torch.linalg.solve(shared - others - by_item.T @ scaled, slope_w - scaled.T @ slope_b)
            step_b = slope_b / precision - scaled @ step_w
            largest = max(step.abs().max().item() for step in (step_w, step_b, follows @ step_w))
            share = min(1.0, _LARGEST_STEP / max(largest, _LARGEST_STEP))
            w -= share * step_w
            b -= share * step_b
            if largest < _CLOSE:
                break
        probability = torch.sigmoid(f0 + x @ w + b[slot_of])
        self.shared, by_item, precision = self._curvature(x, slot_of, probability, counts, b_prior, d_prior)
        self.by_item[shown] = by_item
        network.information[shown] = (precision - BIAS_PRECISION).to(network.information.dtype)
        moved = -(follows @ w)
        moved[shown] = b
        network.id_bias.add_(moved.to(network.id_bias.dtype))
        weights = network.linear_weights()
        ends = torch.tensor([0, *(len(part) for part in weights)]).cumsum(0).tolist()
        for part, (start, end) in zip(weights, pairwise(ends), strict=True):
            part.add_(w[start:end].to(part.dtype))
        return (f0 + x @ w + b[slot_of]).to(response.dtype)

    def _curvature(
        self, x: Tensor, slot_of: Tensor, probability: Tensor, counts: Tensor, b_prior: Tensor, d_prior: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """S, and of the items that were shown B and the diagonal of D, with what the impressions add."""
        weight = counts * probability * (1 - probability)
        weighted = x * weight.unsqueeze(1)
        return (
            self.shared + x.T @ weighted,
            b_prior.index_add(0, slot_of, weighted),
            d_prior.index_add(0, slot_of, weight),
        )

    def gains(self, network: ItemScorer) -> dict[str, float]:
        """Return how far the prior can be trusted, by part: the gain and its 95 % interval.

        1 means as far as it claims, 0 not at all; below 0 it says the opposite of what people do.
        """
        gains = network.prior_gain.tolist()
        diagonal = (BIAS_PRECISION + network.information.double()).unsqueeze(1)
        covariance = torch.linalg.inv(self.shared - self.by_item.T @ (self.by_item / diagonal))
        numbers: dict[str, float] = {}
        for part, gain, variance in zip(("item", "personal"), gains, covariance.diagonal()[-2:].tolist(), strict=True):
            half = 1.96 * max(variance, 0.0) ** 0.5
            name = f"prior_gain_{part}"
            numbers |= {name: gain, f"{name}_low": gain - half, f"{name}_high": gain + half}
        return numbers

    def evidence(self, network: ItemScorer) -> Evidence:
        """Precision for a learner that starts from this network."""
        return Evidence(self.shared.clone(), self.by_item.clone(), network.information.clone())

    def grow(self, n_items: int) -> None:
        """Add rows for appended items, of which nothing is known."""
        missing = n_items - len(self.by_item)
        self.by_item = torch.cat([self.by_item, self.by_item.new_zeros(missing, len(self.shared))])

    def state_dict(self) -> dict[str, Tensor]:
        """The precision, without the part that the network keeps."""
        return {"shared": self.shared.clone(), "by_item": self.by_item.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        self.shared, self.by_item = state["shared"].clone(), state["by_item"].clone()
