"""Baselines on matrices small enough to work out, and each of them learns what two camps of users like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.nn import functional

from offline.benchmark.baselines.ease import EaseConfig, fit_ease
from offline.benchmark.baselines.ials import IalsConfig, fit_ials
from offline.benchmark.baselines.item_knn import ItemKnn, KnnConfig, fit_item_knn
from offline.benchmark.baselines.popularity import Popularity, fit_popularity
from offline.benchmark.baselines.refit import Refitted
from offline.benchmark.baselines.sasrec import SasRec, SasRecConfig, Training, packed
from offline.benchmark.baselines.text import TextCloseness
from offline.benchmark.data import SOURCES, Ints, liked_matrix, user_logs
from offline.benchmark.live import LiveLearner
from offline.benchmark.methods import METHODS
from offline.benchmark.metrics import Scores
from offline.benchmark.ranker import Context, Ranker
from service.policy.networks import ItemScorer, NetworkConfig
from tests.offline.benchmark.benchmark_examples import camp_embeddings, camps_dataset, two_camps

LOGS = [np.array(items) for items in ([0, 1], [0, 1, 2], [0, 3], [2])]  # 4 users, 4 items


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_popularity_counts() -> None:
    fitted = fit_popularity(LOGS, 4)
    assert fitted.rank([[0], []]).tolist() == [[3.0, 2.0, 2.0, 1.0]] * 2
    learner = Popularity(4)
    learner.learn([0, 1, 2], [3, 3, 0])
    assert learner.rank([[]]).tolist() == [[1.0, 0.0, 0.0, 2.0]]


def test_item_knn_by_hand() -> None:
    similarity = fit_item_knn(LOGS, 4, KnnConfig(shrinkage=1.0)).similarity()
    assert similarity[0, 1] == pytest.approx(2 / (math.sqrt(3 * 2) + 1))
    assert similarity[1, 2] == pytest.approx(1 / (math.sqrt(2 * 2) + 1))
    assert similarity[1, 3] == 0 and (similarity.diagonal() == 0).all()
    scores = fit_item_knn(LOGS, 4, KnnConfig(shrinkage=1.0)).rank([[1, 3]])
    assert scores[0, 0] == pytest.approx(similarity[1, 0] + similarity[3, 0])


def test_item_knn_learns_event_by_event_what_a_fit_knows() -> None:
    logs = [log.likes for log in user_logs(two_camps(), SOURCES["movielens"], seed=0)]
    learner = ItemKnn(20, KnnConfig())
    events = [(user, int(item)) for user, likes in enumerate(logs) for item in likes]
    for number in np.random.default_rng(0).permutation(len(events)):
        user, item = events[number]
        learner.learn([user], [item])
        learner.learn([user], [item])  # a like counts once
    assert np.allclose(learner.similarity(), fit_item_knn(logs, 20, KnnConfig()).similarity())


def test_ease_is_ridge_regression_of_each_item_on_the_others() -> None:
    """The closed form against its definition: min |x_j - X b|^2 + ridge |b|^2 with b_j = 0."""
    rng = np.random.default_rng(0)
    logs = [np.flatnonzero(rng.random(6) < 0.5) for _ in range(30)]
    x = liked_matrix(logs, 6).astype(np.float64)
    weights = fit_ease(logs, 6, EaseConfig(ridge=3.0)).weights
    for j in range(6):
        others = [i for i in range(6) if i != j]
        a = x[:, others]
        solved = np.linalg.solve(a.T @ a + 3.0 * np.eye(5), a.T @ x[:, j])
        assert np.allclose(weights[others, j], solved, atol=1e-5) and weights[j, j] == 0


def test_strangers_get_what_is_popular() -> None:
    for fitted in (fit_item_knn(LOGS, 4, KnnConfig()), fit_ease(LOGS, 4, EaseConfig())):
        assert fitted.rank([[], [1]])[0].tolist() == [3.0, 2.0, 2.0, 1.0]


def test_ials_folds_in_whom_it_never_saw() -> None:
    pytest.importorskip("implicit", reason="needs the extra `benchmark`")
    logs = [log.likes for log in user_logs(two_camps(), SOURCES["movielens"], seed=0)]
    fitted = fit_ials(logs, 20, IalsConfig(factors=4, regularization=1.0), seed=0)
    scores = fitted.rank([[0, 2], [1]])
    assert scores[0, 0::2].min() > scores[0, 1::2].max() and scores[1, 1::2].min() > scores[1, 0::2].max()
    assert np.array_equal(
        fit_ials(logs, 20, IalsConfig(factors=4, regularization=1.0), seed=0).rank([[0, 2], [1]]), scores
    )


def test_closeness_of_texts() -> None:
    angles = np.array([0.0, 0.3, 1.2, 3.0])
    rows = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    plain = TextCloseness(rows, "plain").rank([[0, 2], []])
    assert plain[0] == pytest.approx((np.cos(angles) + np.cos(angles - 1.2)) / 2, abs=1e-6) and not plain[1].any()
    rest = rows - rows.mean(0)
    rest /= np.linalg.norm(rest, axis=1, keepdims=True)
    nearest = TextCloseness(rows, "nearest").rank([[0, 2]])
    assert nearest[0] == pytest.approx(np.maximum(rest @ rest[0], rest @ rest[2]), abs=1e-6)


SMALL = SasRecConfig(
    dim=16, blocks=1, heads=1, dropout=0.0, length=6, batch=8, learning_rate=0.02, epochs=30, held_out=0
)


def test_sasrec_learns_an_order_and_looks_only_back() -> None:
    sequences = [[(start + step) % 8 for step in range(5)] for start in range(8)] * 4
    network = Training(8, SMALL, seed=0).fit(sequences)
    assert network.rank([[2, 3], [6]]).argmax(1).tolist() == [4, 7]
    liked = torch.tensor([[1, 2, 3, 4]])
    changed = torch.tensor([[1, 2, 7, 0]])
    with torch.no_grad():
        assert torch.allclose(network(liked)[:, :3], network(changed)[:, :3], atol=1e-6)
    again = Training(8, SMALL, seed=0).fit(sequences)
    assert np.array_equal(again.rank([[2, 3]]), network.rank([[2, 3]]))


def test_sequences_longer_than_a_row_are_all_used() -> None:
    assert packed([[1, 2, 3, 4, 5], [6]], 3).tolist() == [[1, 2, 3], [4, 5, -100], [6, -100, -100]]


def test_the_loss_of_a_fresh_network_is_that_of_a_uniform_guess() -> None:
    network = SasRec(8, SMALL)
    with torch.no_grad():
        network.items.weight.zero_()
        assert float(network.loss(packed([[1, 2], [3]], 6))) == pytest.approx(math.log(8))


def test_a_refitted_method_learns_after_so_many_blocks() -> None:
    fitted: list[list[list[int]]] = []

    class Last:
        def rank(self, histories: Sequence[Sequence[int]]) -> Scores:
            return np.full((len(histories), 3), float(len(fitted)))

    def fit(logs: Sequence[Ints]) -> Ranker:
        fitted.append([likes.tolist() for likes in logs])
        return Last()

    learner = Refitted(fit, 3, every=2)
    learner.learn([5, 7], [0, 1])
    assert not fitted and learner.rank([[]]).tolist() == [[0.0] * 3]
    learner.learn([5], [2])
    assert fitted == [[[0, 2], [1]]] and learner.rank([[]]).tolist() == [[1.0] * 3]


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("pretrained", "live")])
def test_every_method_ranks_as_its_seam_says(name: str, tmp_path: Path) -> None:
    if name == "ials":
        pytest.importorskip("implicit", reason="needs the extra `benchmark`")
    context = Context(camps_dataset(), camp_embeddings(), tmp_path, 0, Console(quiet=True))
    logs = [log.likes for log in user_logs(two_camps(), SOURCES["movielens"], seed=0)]
    method = METHODS[name]
    assert method.open_learner is not None
    learner = method.open_learner(context)
    assert np.isfinite(learner.rank([[], [3]])).all(), "before anything was learned"
    learner.learn([0, 1], [0, 1])
    fitted = [] if method.open is None else [method.open(context)(logs)]
    assert fitted or method.group == "live"
    for ranker in (*fitted, learner):
        scores = ranker.rank([[0, 2, 4], [], [1]])
        assert scores.shape == (3, 20) and np.isfinite(scores).all()
    if fitted and method.group != "chance" and name not in ("popularity", "sasrec"):
        scores = fitted[0].rank([[0, 2, 4]])[0]
        assert np.delete(scores[0::2], [0, 1, 2]).min() > scores[1::2].max()


@pytest.mark.slow
def test_the_live_learner_learns_who_likes_what() -> None:
    rng, sizes = np.random.default_rng(0), NetworkConfig()
    text = torch.from_numpy(rng.normal(size=(20, sizes.text_dim))).float()  # says nothing of camps
    learner = LiveLearner(ItemScorer(sizes, functional.normalize(text, dim=1)), seed=0)

    def apart() -> float:
        """How much better an item of one's own camp ranks, in log odds."""
        scores = [learner.rank([[camp, camp + 2, camp + 4]])[0] for camp in (0, 1)]
        return float(np.mean([s[camp + 6 :: 2].mean() - s[1 - camp :: 2].mean() for camp, s in enumerate(scores)]))

    before = apart()
    for block in range(40):
        users = [10 * block + n % 10 for n in range(50)]
        learner.learn(users, [2 * int(rng.integers(10)) + user % 2 for user in users])
    assert apart() > before + 0.5
