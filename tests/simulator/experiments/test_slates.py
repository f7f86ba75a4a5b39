"""Slates from scores, and sessions as texts."""

from __future__ import annotations

import numpy as np

from simulator.experiments.seam.agent import Outcome, Sessions, Slates
from simulator.experiments.seam.slates import best_unseen, following, left_early, softened
from simulator.experiments.seam.text_profiles import SessionTexts, recent_items
from tests.simulator.baseline_examples import make_catalogue
from tests.simulator.world_examples import make_world


def test_best_unseen_items_come_in_order_and_slots_stay_empty() -> None:
    scores = np.array([[0.1, 0.9, 0.5, 0.7]])
    np.testing.assert_array_equal(best_unseen(scores, np.array([[False, True, False, False]]), 2), [[3, 2]])
    np.testing.assert_array_equal(best_unseen(scores, np.array([[True, True, False, True]]), 2), [[2, -1]])
    np.testing.assert_array_equal(best_unseen(scores, np.zeros((1, 4), np.bool_), 5), [[1, 3, 2, 0, -1]])


def test_softened_scores_draw_from_the_softmax() -> None:
    rng = np.random.default_rng(0)
    scores, temperature = np.array([0.0, 0.1, 0.3]), 0.2
    first = softened(np.broadcast_to(scores, (40_000, 3)), temperature, rng).argmax(axis=1)
    expected = np.exp(scores / temperature) / np.exp(scores / temperature).sum()
    np.testing.assert_allclose(np.bincount(first) / len(first), expected, atol=0.01)
    assert softened(scores[None], 0.0, rng).tolist() == [scores.tolist()]


def test_a_turn_later_all_of_it_is_known() -> None:
    sessions = Sessions(np.array([[[1, 2]]]), np.array([[[True, False]]]), np.array([[False, True, True, False]]))
    outcome = Outcome(np.array([[0.0, 1.0]], np.float32), np.array([True]))
    after = following(sessions, Slates(np.array([[0, -1]])), outcome)
    assert after.shown.tolist() == [[[1, 2], [0, -1]]]
    assert after.responses.tolist() == [[[True, False], [False, True]]]
    assert after.seen.tolist() == [[True, True, True, False]] and not sessions.seen[0, 0]
    assert left_early(sessions, outcome, max_turn=3).tolist() == [True]
    assert left_early(sessions, outcome, max_turn=2).tolist() == [False]


def test_profiles_are_means_of_the_right_items() -> None:
    texts = SessionTexts(make_catalogue(make_world()), 3)
    shown = np.array([[[4, 5, 6], [7, 8, -1], [9, 10, 11]]])
    positive = np.array([[[True, False, False], [True, False, False], [False, True, False]]])
    sessions = Sessions(shown, positive, np.zeros((1, 60), np.bool_))
    profiles = texts.profiles(sessions)
    for found, items in zip(profiles, ([4, 7, 10], [10], [5, 6, 8, 9, 11], [7, 8, 9, 10, 11]), strict=True):
        np.testing.assert_allclose(found[0], texts.items[items].mean(axis=0), atol=1e-6)
    observed = texts.observations(sessions)
    assert observed.shape == (1, texts.observation_dim)
    np.testing.assert_allclose(observed[0, -3:], [0.3, 3 / 8, 1.0], atol=1e-6)


def test_a_stranger_has_empty_profiles() -> None:
    texts = SessionTexts(make_catalogue(make_world()), 3)
    stranger = Sessions(np.zeros((2, 0, 3), np.int64), np.zeros((2, 0, 3), np.bool_), np.zeros((2, 60), np.bool_))
    assert not texts.observations(stranger).any()


def test_recent_items_are_the_last_chosen() -> None:
    shown = np.array([[[4, 5], [6, -1]], [[7, 8], [9, 10]]])
    chosen = np.array([[[True, True], [True, True]], [[True, False], [False, False]]])
    assert recent_items(shown, chosen, 2).tolist() == [[6, 5], [7, -1]]
