"""A session's taste against the mode that scipy finds, in NumPy as in torch, and what likes and dislikes do to it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import scipy.optimize
import torch

from service.policy.taste import TASTE_DIM, most_likely, most_likely_np

DIM, LENGTH = TASTE_DIM + 1, 50  # as deployed
Floats = npt.NDArray[np.float32]
Sessions = tuple[Floats, Floats, Floats, Floats]


def sessions(seed: int, n: int, norm: float) -> Sessions:
    """x [n, L, d] of about this norm, what is usual, liked and present: sessions of all lengths, 0 among them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(scale=norm / np.sqrt(DIM), size=(n, LENGTH, DIM))
    usual = rng.normal(-2.0, 1.0, size=(n, LENGTH))
    liked = rng.random((n, LENGTH)) < 0.3
    lengths = np.append(0, rng.integers(1, LENGTH + 1, size=n - 1))
    present = np.arange(LENGTH) < lengths[:, np.newaxis]
    return (
        x.astype(np.float32),
        usual.astype(np.float32),
        (liked & present).astype(np.float32),
        present.astype(np.float32),
    )


def mode_by_scipy(x: Floats, usual: Floats, liked: Floats) -> npt.NDArray[np.float64]:
    """argmax of log N(z; 0, I) + sum of log P(response j | z), for the items x [L, d] of one session."""

    def loss(z: npt.NDArray[np.float64]) -> float:
        f = usual + x @ z
        return float(z @ z / 2 + (np.logaddexp(0, f) - liked * f).sum())

    found = scipy.optimize.minimize(loss, np.zeros(x.shape[1]), method="BFGS", options={"gtol": 1e-6})
    return np.asarray(found.x)


def in_torch(given: Sessions) -> Floats:
    return np.asarray(most_likely(*map(torch.from_numpy, given)).numpy())


@pytest.mark.parametrize("norm", [0.0, 0.3, 1.0, 3.0])
def test_numpy_and_torch_agree(norm: float) -> None:
    given = sessions(1, 40, norm)
    np.testing.assert_allclose(most_likely_np(*given), in_torch(given), atol=2e-5)


@pytest.mark.parametrize("norm", [0.3, 0.6, 1.0])
def test_three_steps_reach_the_mode_that_scipy_finds(norm: float) -> None:
    given = sessions(2, 25, norm)
    for row, z in enumerate(most_likely_np(*given)):
        x, usual, liked, present = (part[row].astype(np.float64) for part in given)
        there = present > 0
        np.testing.assert_allclose(z, mode_by_scipy(x[there], usual[there], liked[there]), atol=1e-3)


def test_an_empty_session_has_no_taste() -> None:
    given = sessions(3, 4, 1.0)
    for z in (most_likely_np(*given), in_torch(given)):
        assert not z[0].any()
        assert z[1:].any(1).all()


def test_what_lies_in_the_padding_does_not_matter() -> None:
    x, usual, liked, present = sessions(4, 20, 1.0)
    away = present == 0
    spoilt = (x + 5 * away[:, :, np.newaxis], usual + 5 * away, np.where(away, 1.0, liked), present)
    dirty = tuple(part.astype(np.float32) for part in spoilt)
    for of in (most_likely_np, in_torch_of):
        np.testing.assert_allclose(of(*dirty), of(x, usual, liked, present), atol=1e-5)
    longest = int(present.sum(1).max())
    cut = (x[:, :longest], usual[:, :longest], liked[:, :longest], present[:, :longest])
    np.testing.assert_allclose(most_likely_np(*cut), most_likely_np(x, usual, liked, present), atol=1e-5)


def in_torch_of(x: Floats, usual: Floats, liked: Floats, present: Floats) -> Floats:
    return in_torch((x, usual, liked, present))


def scores_of_a_kind(n_liked: int, n_disliked: int) -> tuple[float, float]:
    """x.z of a kind of item, of which some were liked and others not, and of another kind at right angles."""
    n = n_liked + n_disliked
    kind, other = np.eye(DIM, dtype=np.float32)[:2]
    x = np.broadcast_to(kind, (1, n, DIM)).astype(np.float32)
    liked = (np.arange(n) < n_liked).astype(np.float32)[np.newaxis]
    z = most_likely_np(x, np.full((1, n), -2.0, np.float32), liked, np.ones((1, n), np.float32))[0]
    return float(z @ kind), float(z @ other)


def test_each_like_of_a_kind_raises_it_and_each_dislike_lowers_it() -> None:
    raised = [scores_of_a_kind(n, 0)[0] for n in range(12)]
    lowered = [scores_of_a_kind(0, n)[0] for n in range(12)]
    mixed = [scores_of_a_kind(4, n)[0] for n in range(12)]
    assert raised[0] == lowered[0] == 0
    assert (np.diff(raised) > 0).all()
    assert (np.diff(lowered) < 0).all()
    assert (np.diff(mixed) < 0).all()
    assert scores_of_a_kind(6, 3)[1] == pytest.approx(0.0, abs=1e-6)


def test_what_was_expected_tells_less() -> None:
    """A like of what everybody likes, and a dislike of what nobody does, pull less than their opposites."""
    x = np.eye(DIM, dtype=np.float32)[np.newaxis, :1]
    one = np.ones((1, 1), np.float32)
    pulls = {
        (usual, liked): abs(float(most_likely_np(x, usual * one, liked * one, one)[0, 0]))
        for usual in (-3.0, 3.0)
        for liked in (0.0, 1.0)
    }
    assert pulls[3.0, 1.0] < 0.1 * pulls[-3.0, 1.0]
    assert pulls[-3.0, 0.0] < 0.1 * pulls[3.0, 0.0]


def test_torch_learns_through_it() -> None:
    """Gradients of the mode with respect to the items' vectors are those of finite differences."""
    given = [torch.from_numpy(part).double()[:4, :6] for part in sessions(5, 6, 1.0)]
    x = given[0].requires_grad_(True)
    assert torch.autograd.gradcheck(lambda of: most_likely(of, *given[1:]), (x,))
