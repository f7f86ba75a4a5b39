"""Vectors from who liked what: against a dense oracle, and what they mean for the learner."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from service.policy.boltzmann import Boltzmann, BoltzmannConfig
from service.policy.co_likes import SHRINKAGE, TEXT_SHARE, USER_POWER, Likes, co_like_vectors
from service.policy.networks import NetworkConfig
from service.policy.organic import organic_batch, organic_transition
from service.policy.replay import Replay
from tests.policy.policy_examples import fresh_scorer

A, D, USERS = 40, 8, 60


def texts(seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(A, D, generator=torch.Generator().manual_seed(seed)), dim=1)


def likes(seed: int = 1, n: int = 900) -> Likes:
    """Users of D / 2 kinds, each of whom likes one kind of items most of the time."""
    rng = np.random.default_rng(seed)
    users = rng.integers(USERS, size=n)
    own = (users + (D // 2) * rng.integers(A // (D // 2), size=n)) % A
    items = np.where(rng.random(n) < 0.8, own, rng.integers(A, size=n))
    return Likes(users, items, rng.choice([0.25, 1.0], n))


def dense(found: Likes, before: Tensor, share: float) -> np.ndarray:
    """V V' by eigenvectors of K itself, up to length."""
    x = np.zeros((USERS, A))
    np.maximum.at(x, (found.users, found.items), found.strengths)
    n = x * np.maximum(x.sum(1, keepdims=True), 1.0) ** -USER_POWER
    n /= np.sqrt((n**2).sum(0) + SHRINKAGE * (n[n > 0] ** 2).mean())
    known = before.double().numpy()
    values, vectors = np.linalg.eigh(n.T @ n + share * known @ known.T)
    best = vectors[:, -D:] * np.sqrt(values[-D:])
    length = np.linalg.norm(known, axis=1).mean() / np.linalg.norm(best, axis=1).mean()
    return np.asarray(length**2 * best @ best.T)


@pytest.mark.parametrize("share", [0.05, 0.2, 1.0])
def test_they_are_the_best_of_their_rank(share: float) -> None:
    found = co_like_vectors(likes(), texts(), share).double().numpy()
    best = dense(likes(), texts(), share)
    assert np.linalg.norm(found @ found.T - best) < 0.25 * np.linalg.norm(best)
    for _ in range(20):  # further iterations
        found = co_like_vectors(likes(), texts(), share, torch.from_numpy(found)).double().numpy()
    np.testing.assert_allclose(found @ found.T, best, atol=0.03)


def test_they_are_turned_to_where_the_texts_are() -> None:
    before = texts()
    assert torch.equal(co_like_vectors(Likes(*(np.zeros(0, kind) for kind in (int, int, float))), before, 0.2), before)
    nearly = co_like_vectors(likes(), before, 1e4)
    torch.testing.assert_close(nearly, before, atol=1e-3, rtol=0)
    found = co_like_vectors(likes(), before, 0.2).double()
    left, _, right = torch.linalg.svd(found.T @ before.double())
    torch.testing.assert_close(left @ right, torch.eye(D, dtype=torch.float64), atol=1e-5, rtol=0)


def test_items_that_the_same_people_like_come_together() -> None:
    rng = np.random.default_rng(2)
    users = np.repeat(np.arange(USERS), 8)
    items = np.concatenate([rng.choice(np.arange(u % 2, 20, 2), 8, replace=False) for u in range(USERS)])
    before = texts()
    found = co_like_vectors(Likes(users, items, np.ones(len(users))), before, 0.2)
    cosine = torch.nn.functional.normalize(found, dim=1) @ torch.nn.functional.normalize(found, dim=1).T
    same = torch.arange(20) % 2 == (torch.arange(20) % 2).unsqueeze(1)
    assert cosine[:20, :20][same].mean() > cosine[:20, :20][~same].mean() + 0.3
    # What nobody liked stays where its text is.
    directions = torch.nn.functional.normalize(found[20:], dim=1)
    torch.testing.assert_close(directions, before[20:], atol=1e-5, rtol=0)


def test_a_repeated_like_counts_once() -> None:
    found = likes()
    twice = Likes(*(np.concatenate([part, part]) for part in found))
    torch.testing.assert_close(co_like_vectors(twice, texts(), 0.2), co_like_vectors(found, texts(), 0.2))


def test_a_replay_tells_the_likes_that_stand() -> None:
    replay = Replay(10, 4, 2)
    for owner, item, strength in ((1, 3, 1.0), (2, 4, 0.5), (1, 5, 1.0), (0, 6, 1.0), (3, 7, 1.0)):
        replay.add(organic_transition((), item, owner, strength))
    replay.add(replace(organic_transition((), 8, 4), organic=False))
    replay.take_back(1, 5)
    replay.forget(3)
    assert [part.tolist() for part in replay.likes()] == [[1, 2], [3, 4], [1.0, 0.5]]
    replay.extend(organic_batch([(), ()], [1, 2], 4, [1.0, 0.25], [9, 8]))
    assert [part.tolist() for part in replay.likes()] == [[1, 2, 9, 8], [3, 4, 1, 2], [1.0, 0.5, 1.0, 0.25]]


def test_the_learner_finds_vectors_as_likes_come_and_new_items_follow_their_texts() -> None:
    text = texts()
    config = NetworkConfig(dim=D, text_dim=D, max_history=6)
    learner = Boltzmann(fresh_scorer(3, text, config).requires_grad_(True), BoltzmannConfig(updates_per_like=0.0))
    replay, generator = Replay(2_000, 6, 1), torch.Generator().manual_seed(0)
    found = likes(n=1_200)

    def learn(part: slice) -> None:
        users, items, strengths = (column[part].tolist() for column in found)
        owners = [user + 1 for user in users]
        replay.extend(organic_batch([()] * len(items), items, 6, strengths, owners))
        learner.update(replay, len(items), generator)

    def vectors() -> Tensor:
        return learner.actor.table().vectors.detach()

    start = vectors()
    learn(slice(0, 400))
    assert torch.equal(vectors(), start)
    learn(slice(400, 600))
    placed = vectors()
    expected = co_like_vectors(replay.likes(), start, TEXT_SHARE, start)
    torch.testing.assert_close(placed, expected, atol=1e-5, rtol=1e-4)
    learn(slice(600, 700))
    assert torch.equal(vectors(), placed)  # not so soon again
    with torch.no_grad():
        learner.actor.id_vectors.add_(1.0)  # as if gradient steps had
    learn(slice(700, 1_200))
    expected = co_like_vectors(replay.likes(), start, TEXT_SHARE, expected)
    torch.testing.assert_close(vectors(), expected + 1, atol=1e-5, rtol=1e-4)
    # A text that changes moves its item once, and not again when vectors are found anew.
    changed = text.clone()
    changed[0] = -text[0]
    before = vectors()
    learner.grow(changed)
    assert torch.allclose(vectors()[1:], before[1:], atol=1e-6)
    moved = vectors()[0] - before[0]
    learn(slice(0, 600))
    assert (vectors()[0] - before[0] - moved).norm() < 0.5 * moved.norm()
    learner.grow(torch.cat([text, text[:1]]))
    assert torch.equal(learner.actor.id_vectors[-1], torch.zeros(D))
    learner.update(replay, 0, generator)
