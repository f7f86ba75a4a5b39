"""Bayesian linear regression, by which judgements of some items and sessions speak for all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_PRECISIONS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


@dataclass(frozen=True)
class BayesianRegression:
    """y = w.x + noise with w ~ N(0, 1/precision); the posterior of w (Bishop 2006, section 3.3)."""

    mean: Tensor  # [F]
    covariance: Tensor  # [F, F]
    noise: float  # variance
    precision: float

    @classmethod
    def fit(cls, x: Tensor, y: Tensor) -> BayesianRegression:
        """Fit to x [n, F], y [n] (float64); prior precision and noise by the largest evidence on a small grid."""
        spread = max(float(y.var(unbiased=False)), 1e-6) if len(y) else 1.0
        grid = [(p, spread * share) for p in _PRECISIONS for share in (0.25, 0.5, 0.75, 0.9, 1.0)]
        precision, noise = max(grid, key=lambda pair: log_evidence(x, y, *pair))
        covariance = torch.linalg.inv(precision * torch.eye(x.shape[1], dtype=x.dtype) + x.T @ x / noise)
        return cls(covariance @ (x.T @ y) / noise, covariance, noise, precision)

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (of the mean, without noise) at x [..., F]; both [...]."""
        return x @ self.mean, ((x @ self.covariance) * x).sum(-1)


def log_evidence(x: Tensor, y: Tensor, precision: float, noise: float) -> float:
    """log p(y | x) of Bayesian linear regression (Bishop 2006, eq. 3.86), x [n, F], y [n]."""
    n, f = x.shape
    a = precision * torch.eye(f, dtype=x.dtype) + x.T @ x / noise
    mean = torch.linalg.solve(a, x.T @ y) / noise
    misfit = ((y - x @ mean) ** 2).sum() / noise + precision * (mean**2).sum()
    log_det = torch.linalg.slogdet(a).logabsdet
    constants = f * math.log(precision) - n * math.log(2 * math.pi * noise)
    return float(0.5 * (constants - misfit - log_det))
