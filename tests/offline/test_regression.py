"""Bayesian regression: closed forms against plain numpy and scipy, and that it finds what was planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from offline.regression import BayesianRegression, log_evidence


def test_log_evidence_is_the_density_of_the_marginal_normal() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=7)
    marginal = multivariate_normal(np.zeros(7), 0.3 * np.eye(7) + x @ x.T / 2.0)
    got = log_evidence(torch.from_numpy(x), torch.from_numpy(y), precision=2.0, noise=0.3)
    assert got == pytest.approx(marginal.logpdf(y), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 12), f=st.integers(1, 5))
def test_the_posterior_is_that_of_the_joint_normal(seed: int, n: int, f: int) -> None:
    """Of w and y together, conditioned on y: another way than the one in the code."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, f)), rng.normal(size=n)
    fitted = BayesianRegression.fit(torch.from_numpy(x), torch.from_numpy(y))
    gain = x.T / fitted.precision @ np.linalg.inv(fitted.noise * np.eye(n) + x @ x.T / fitted.precision)
    np.testing.assert_allclose(fitted.mean.numpy(), gain @ y, atol=1e-8)
    covariance = np.eye(f) / fitted.precision - gain @ x / fitted.precision
    np.testing.assert_allclose(fitted.covariance.numpy(), covariance, atol=1e-8)
    mean, variance = fitted.predict(torch.from_numpy(x))
    np.testing.assert_allclose(mean.numpy(), x @ gain @ y, atol=1e-8)
    np.testing.assert_allclose(variance.numpy(), np.diag(x @ covariance @ x.T), atol=1e-8)


def test_no_point_of_the_grid_has_more_evidence() -> None:
    rng = np.random.default_rng(3)
    x = torch.from_numpy(rng.normal(size=(50, 4)))
    y = x @ torch.tensor([0.5, -0.2, 0.0, 0.1], dtype=torch.float64) + torch.from_numpy(rng.normal(size=50))
    fitted = BayesianRegression.fit(x, y)
    best = log_evidence(x, y, fitted.precision, fitted.noise)
    spread = float(y.var(unbiased=False))
    for precision in (1.0, 3.0, 10.0, 30.0, 100.0, 300.0):
        for share in (0.25, 0.5, 0.75, 0.9, 1.0):
            assert log_evidence(x, y, precision, spread * share) <= best + 1e-9


def test_regression_recovers_planted_weights_and_is_unsure_where_it_saw_nothing() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 3))
    x[:, 2] = 0.0
    y = x @ np.array([1.0, -2.0, 5.0]) + 0.1 * rng.normal(size=400)
    fitted = BayesianRegression.fit(torch.from_numpy(x), torch.from_numpy(y))
    assert fitted.mean.numpy() == pytest.approx([1.0, -2.0, 0.0], abs=0.1)
    _, variance = fitted.predict(torch.eye(3, dtype=torch.float64))
    assert variance[2] > 20 * variance[0]


@pytest.mark.parametrize("y", [[0.0] * 6, [2.0] * 6, [1e6, -1e6, 0.0, 0.0, 0.0, 0.0]])
def test_noise_and_constants_are_shrunk_and_finite(y: list[float]) -> None:
    x = torch.from_numpy(np.random.default_rng(5).normal(size=(6, 3)))
    fitted = BayesianRegression.fit(x, torch.tensor(y, dtype=torch.float64))
    assert torch.isfinite(fitted.mean).all() and torch.isfinite(fitted.covariance).all()
    assert fitted.noise > 0
    if not any(y):
        assert not fitted.mean.any()


def test_of_nothing_it_is_the_prior() -> None:
    fitted = BayesianRegression.fit(torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, dtype=torch.float64))
    assert not fitted.mean.any()
    np.testing.assert_allclose(fitted.covariance.numpy(), np.eye(3) / fitted.precision)
