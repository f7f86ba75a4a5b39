from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from offline.datasets import Interactions
from offline.states import (
    DISLIKED,
    LIKED,
    StateConfig,
    sample_candidates,
    sample_states,
    states_from_interactions,
    to_question,
)
from tests.offline.fake_llm import make_items


def _clusters(n_clusters: int, size: int) -> npt.NDArray[np.float32]:
    """Unit rows: items of a cluster point nearly the same way."""
    rng = np.random.default_rng(0)
    centres = np.eye(n_clusters, 16)
    rows = np.repeat(centres, size, axis=0) + 0.01 * rng.normal(size=(n_clusters * size, 16))
    unit: npt.NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


CONFIG = StateConfig(neighbours=20)
EMBEDDINGS = _clusters(8, 20)
PRIOR_Z = np.random.default_rng(1).normal(size=160)


def test_histories_have_one_or_two_tastes_and_dislikes_far_away() -> None:
    states = sample_states(EMBEDDINGS, PRIOR_Z, 300, CONFIG, np.random.default_rng(0))
    assert {len(state) for state in states} == set(range(1, 11))
    n_disliked = 0
    for state in states:
        items = [item for item, _ in state]
        assert len(set(items)) == len(items)
        tastes = {item // 20 for item, response in state if response == LIKED}
        assert 1 <= len(tastes) <= 2
        disliked = {item // 20 for item, response in state if response == DISLIKED}
        assert not disliked & tastes
        n_disliked += bool(disliked)
    assert 20 < n_disliked < 150


def test_the_same_seed_gives_the_same_states() -> None:
    first, again, other = (
        sample_states(EMBEDDINGS, PRIOR_Z, 20, CONFIG, np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    assert first == again != other


def test_well_known_items_are_met_more_often() -> None:
    prior_z = np.zeros(160)
    prior_z[::2] = 3.0
    states = sample_states(EMBEDDINGS, prior_z, 200, CONFIG, np.random.default_rng(0))
    items = np.array([item for state in states for item, _ in state])
    assert (items % 2 == 0).mean() > 0.7


@pytest.mark.parametrize("n_items", [1, 2, 3, 5])
def test_tiny_catalogues_work(n_items: int) -> None:
    rng = np.random.default_rng(0)
    embeddings = EMBEDDINGS[:n_items]
    for state in sample_states(embeddings, np.zeros(n_items), 50, CONFIG, rng):
        assert 1 <= len(state) <= n_items
        candidates = sample_candidates(state, embeddings, np.zeros(n_items), CONFIG, rng)
        assert sorted(candidates + [item for item, _ in state]) == list(range(n_items))


def test_candidates_are_new_different_and_mixed() -> None:
    state = ((0, LIKED), (1, LIKED), (40, DISLIKED))
    candidates = sample_candidates(state, EMBEDDINGS, PRIOR_Z, StateConfig(), np.random.default_rng(0))
    assert len(set(candidates)) == len(candidates) == 32
    assert not {0, 1, 40} & set(candidates)
    # The 18 unseen items of its cluster are among the 96 nearest; 13 are drawn from these, the rest from everywhere.
    assert len({item // 20 for item in candidates}) > 4


def test_states_of_observed_users_are_stretches_of_what_they_did() -> None:
    interactions = Interactions(
        user=np.array([0, 0, 0, 2, 2], np.int32),
        item=np.array([5, 6, 7, 8, 9], np.int32),
        value=np.ones(5, np.float32),
        liked=np.array([True, False, True, True, True]),
        time=np.array([30, 20, 10, 1, 2], np.int64),
        n_users=3,
    )
    states = states_from_interactions(interactions, 200, CONFIG, np.random.default_rng(0))
    whole = {((7, 1), (6, -1), (5, 1)), ((8, 1), (9, 1))}
    stretches = {w[i:j] for w in whole for i in range(len(w)) for j in range(i + 1, len(w) + 1)}
    assert set(states) == stretches


def test_a_question_speaks_of_ids() -> None:
    question = to_question(((2, LIKED), (0, DISLIKED)), [1], make_items(3))
    assert question.history == (("m2", 1), ("m0", -1))
    assert question.candidates == ("m1",)
