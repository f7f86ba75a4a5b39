"""Judges that are no language model: texts alone, a simulated one of known accuracy, and a shuffled one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from offline.distil import DistilConfig
from offline.preferences import Preferences
from simulator.experiments.runs.judges import shuffled, synthetic_preferences, text_preferences
from simulator.world.worlds import build_world
from tests.simulator.experiment_examples import N_TOPICS, toy_dataset, toy_embeddings

DATASET, EMBEDDINGS = toy_dataset(), toy_embeddings()
CONFIG = DistilConfig(n_states=40)
USERS = build_world(DATASET).users
INDEX = {item.item_id: row for row, item in enumerate(DATASET.items)}


def prior_vector(preferences: Preferences) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.array([preferences.priors[item.item_id].z for item in DATASET.items])


def test_texts_say_nothing_of_items_and_prefer_what_reads_like_the_history() -> None:
    preferences = text_preferences(DATASET, EMBEDDINGS, CONFIG)
    assert not prior_vector(preferences).any()
    like: list[float] = []
    unlike: list[float] = []
    for p in preferences.personal:
        liked = {INDEX[i] % N_TOPICS for i, r in p.judgement.history if r > 0}
        (like if INDEX[p.judgement.item_id] % N_TOPICS in liked else unlike).append(p.personal_z)
    assert np.mean(like) > np.mean(unlike) + 1


@pytest.mark.parametrize("accuracy", [0.0, 0.5, 1.0])
def test_a_simulated_judge_knows_as_much_as_its_accuracy_says(accuracy: float) -> None:
    popular = USERS.affinity.mean(axis=0, dtype=np.float64)
    true = np.log(popular) - np.log1p(-popular)
    seeds = [
        synthetic_preferences(DATASET, EMBEDDINGS, USERS, accuracy, DistilConfig(seed=s, n_states=2)) for s in range(30)
    ]
    found = np.mean([np.corrcoef(prior_vector(p), true)[0, 1] for p in seeds])
    assert found == pytest.approx(accuracy, abs=0.1)


def test_of_two_simulated_judges_the_better_one_tells_users_apart() -> None:
    """Candidates of the history's topic against others, in standard deviations of what the judge says."""
    gaps = []
    for accuracy in (0.0, 0.5, 1.0):
        preferences = synthetic_preferences(DATASET, EMBEDDINGS, USERS, accuracy, CONFIG)
        like: list[float] = []
        unlike: list[float] = []
        for p in preferences.personal:
            liked = {INDEX[i] % N_TOPICS for i, r in p.judgement.history if r > 0}
            (like if INDEX[p.judgement.item_id] % N_TOPICS in liked else unlike).append(p.personal_z)
        gaps.append(np.mean(like) - np.mean(unlike))
    assert all(better > worse + 0.3 for worse, better in pairwise(gaps))
    assert abs(gaps[0]) < 0.2


def test_shuffled_judgements_are_the_same_ones_about_other_items() -> None:
    preferences = synthetic_preferences(DATASET, EMBEDDINGS, USERS, 1.0, CONFIG)
    wrong = shuffled(preferences, seed=0)
    assert sorted(prior_vector(wrong)) == sorted(prior_vector(preferences))
    assert abs(np.corrcoef(prior_vector(wrong), prior_vector(preferences))[0, 1]) < 0.4
    assert [p.personal_z for p in wrong.personal] == [p.personal_z for p in preferences.personal]
    renamed = {
        (a.judgement.item_id, b.judgement.item_id) for a, b in zip(preferences.personal, wrong.personal, strict=True)
    }
    assert len({old for old, _ in renamed}) == len({new for _, new in renamed}) == len(renamed)
