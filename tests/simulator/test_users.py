"""User truth: the fit finds planted taste, is calibrated, repeatable and kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from offline.datasets import Dataset, Interactions, Item, Scenario
from simulator.errors import SimulatorError
from simulator.world.users import UserModel, UserModelConfig, fit_users, mean_user_auc, sigmoid
from simulator.world.worlds import build_world

CONFIG = UserModelConfig(dim=2, epochs=30, batch_users=16, learning_rate=0.05, l2=1.0)


def two_tastes(n_users: int = 60, n_items: int = 40, *, dislikes: bool = False, seed: int = 0) -> Interactions:
    """Even users like even items with probability 0.4, odd users odd ones; `dislikes`: half of the rest is seen."""
    rng = np.random.default_rng(seed)
    alike = (np.arange(n_users)[:, None] + np.arange(n_items)) % 2 == 0
    liked = alike & (rng.random(alike.shape) < 0.4)
    observed = liked | (dislikes & (rng.random(alike.shape) < 0.5))
    user, item = np.nonzero(observed)
    return Interactions(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        value=np.ones(len(user), np.float32),
        liked=liked[user, item],
        time=np.arange(len(user)),
        n_users=n_users,
    )


def test_auc_counts_pairs_won_and_half_of_ties() -> None:
    scores = np.array([[3.0, 1.0, 2.0, 2.0], [1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    positives = np.array([[0, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]], bool)
    negatives = np.array([[1, 1, 0, 1], [1, 1, 0, 0], [1, 1, 1, 1]], bool)
    # First user: wins over 1, ties with 2, loses to 3; second: all won; third: no positive, does not count.
    assert mean_user_auc(scores, positives, negatives) == pytest.approx((0.5 + 1.0) / 2)


def test_sigmoid_does_not_overflow() -> None:
    np.testing.assert_allclose(sigmoid(np.array([-500.0, 0.0, 1.0, 500.0])), [0, 0.5, 1 / (1 + np.exp(-1)), 1])


@pytest.mark.parametrize("feedback", ["implicit", "explicit"])
def test_planted_taste_is_found(feedback: Literal["implicit", "explicit"]) -> None:
    config = replace(CONFIG, feedback=feedback)
    interactions = two_tastes(dislikes=feedback == "explicit")
    users = fit_users(interactions, 40, config, seed=0)
    assert users.auc > 0.7  # about 0.8 is all there is to know: which of the alike are liked is chance
    alike = (np.arange(60)[:, None] + np.arange(40)) % 2 == 0
    assert users.affinity[alike].mean() > 3 * users.affinity[~alike].mean()
    similarity = users.item_vectors @ users.item_vectors.T
    assert similarity[0, 2::2].mean() > 0.5 > similarity[0, 1::2].mean()
    np.testing.assert_allclose(np.linalg.norm(users.item_vectors, axis=1), 1, atol=1e-5)


def test_probabilities_are_calibrated() -> None:
    interactions = two_tastes()
    rate = interactions.liked.sum() / (60 * 40)
    observed = fit_users(interactions, 40, CONFIG, seed=0)
    assert observed.affinity.mean() == pytest.approx(rate, rel=0.01)
    asked = fit_users(interactions, 40, replace(CONFIG, mean_affinity=0.3, activity=0.0), seed=0)
    np.testing.assert_allclose(asked.affinity.mean(axis=1), 0.3, rtol=0.01)
    assert asked.affinity.dtype == np.float32
    own = np.bincount(interactions.user, minlength=60) / 40
    active = fit_users(interactions, 40, replace(CONFIG, activity=1.0), seed=0)
    assert np.corrcoef(active.affinity.mean(axis=1), own)[0, 1] > 0.99


def test_the_held_out_positives_do_not_help_the_check() -> None:
    """Likes without any pattern cannot be predicted: the AUC must stay at chance although the final fit knows them."""
    rng = np.random.default_rng(3)
    interactions = two_tastes(n_users=200)
    interactions = replace(interactions, item=rng.integers(40, size=len(interactions.item)).astype(np.int32))
    assert fit_users(interactions, 40, CONFIG, seed=0).auc == pytest.approx(0.5, abs=0.05)


def test_the_same_seed_gives_the_same_users() -> None:
    one, same, other = (fit_users(two_tastes(), 40, CONFIG, seed).affinity for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other, atol=1e-4)


def test_users_without_likes_cannot_be_fitted() -> None:
    interactions = two_tastes()
    nobody = replace(interactions, liked=np.zeros_like(interactions.liked))
    with pytest.raises(SimulatorError, match="no interaction is liked"):
        fit_users(nobody, 40, CONFIG, seed=0)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    users = fit_users(two_tastes(), 40, CONFIG, seed=0)
    users.save(tmp_path / "users.safetensors")
    loaded = UserModel.load(tmp_path / "users.safetensors")
    np.testing.assert_array_equal(loaded.affinity, users.affinity)
    np.testing.assert_array_equal(loaded.item_vectors, users.item_vectors)
    assert (loaded.auc, loaded.config) == (users.auc, users.config)


@pytest.mark.parametrize("content", [None, b"", b"not safetensors at all"])
def test_a_file_that_is_no_user_model_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "users.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SimulatorError, match="not a user model"):
        UserModel.load(path)


def test_a_world_is_fitted_once_and_again_when_the_data_change(tmp_path: Path) -> None:
    items = tuple(Item(str(i), str(i)) for i in range(40))
    dataset = Dataset("mine", Scenario(), items, two_tastes())
    world = build_world(dataset, cache=tmp_path)
    (kept,) = tmp_path.iterdir()
    modified = kept.stat().st_mtime_ns
    again = build_world(dataset, cache=tmp_path)
    np.testing.assert_array_equal(again.users.affinity, world.users.affinity)
    assert kept.stat().st_mtime_ns == modified
    build_world(replace(dataset, interactions=two_tastes(seed=1)), cache=tmp_path)
    build_world(dataset, seed=1, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_world_needs_interactions() -> None:
    with pytest.raises(SimulatorError, match="no interactions"):
        build_world(Dataset("mine", Scenario(), (Item("1", "One"),), None))
