from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from service.policy.network_types import Prior
from service.policy.networks import ItemScorer
from service.policy.types import Interaction, pack_states, response_of, session_state
from tests.policy.network_loops import (
    advantage_by_loop,
    bias_by_loop,
    closeness_by_loop,
    hidden_by_loop,
    leaving_by_loop,
    logits_by_loop,
    nearest_by_loop,
    personal_by_loop,
    q_by_loop,
    response_by_loop,
    taste_by_loop,
    weights,
)
from tests.policy.policy_examples import (
    CONFIG,
    IGNORED,
    NEGATIVE,
    POSITIVE,
    fresh_scorer,
    leaving,
    liked,
    orthogonal_text,
    random_history,
    random_scorer,
    random_text,
    responses,
)

ITEMS = 9


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(30)


@pytest.fixture
def scorer(rng: np.random.Generator) -> ItemScorer:
    return random_scorer(rng, random_text(rng, ITEMS)).requires_grad_(False)


def histories(rng: np.random.Generator) -> list[tuple[Interaction, ...]]:
    only_disliked = (Interaction(3, NEGATIVE), Interaction(0, NEGATIVE))
    return [(), liked(4), only_disliked, *(random_history(rng, n, ITEMS) for n in (2, 3, 4, 5, 5))]


def test_scores_and_values_equal_a_numpy_loop(scorer: ItemScorer, rng: np.random.Generator) -> None:
    given = histories(rng)
    states, w = pack_states(given, CONFIG.max_history), weights(scorer)
    scores, values, q = scorer(states).numpy(), scorer.state_value(states).numpy(), scorer.q_values(states).numpy()
    for row, history in enumerate(given):
        value = (w["value.weight"] @ hidden_by_loop(scorer, history) + w["value.bias"])[0]
        np.testing.assert_allclose(scores[row], logits_by_loop(scorer, history), atol=2e-5)
        assert values[row] == pytest.approx(value, abs=2e-5)
        np.testing.assert_allclose(q[row], q_by_loop(scorer, history), atol=1e-5)


def test_chosen_actions_score_as_they_do_among_all(scorer: ItemScorer, rng: np.random.Generator) -> None:
    states, table = pack_states(histories(rng), CONFIG.max_history), scorer.table()
    encoded = scorer.encode(states, table)
    actions = torch.from_numpy(rng.integers(ITEMS, size=(len(states.lengths), 3)))
    close, close_to_all = scorer.closeness(encoded, table, actions), scorer.closeness(encoded, table)
    chosen = (*close, scorer.leaving(close), scorer.response(encoded, table, close, actions))
    among_all = (*close_to_all, scorer.leaving(close_to_all), scorer.response(encoded, table, close_to_all))
    for part, whole in zip(chosen, among_all, strict=True):
        torch.testing.assert_close(part, whole.gather(1, actions), atol=1e-5, rtol=0)


def test_closeness_equals_a_numpy_loop(scorer: ItemScorer, rng: np.random.Generator) -> None:
    given, table = histories(rng), scorer.table()
    close = scorer.closeness(scorer.encode(pack_states(given, CONFIG.max_history), table), table)
    for row, history in enumerate(given):
        for part, oracle in zip(close, closeness_by_loop(scorer, history), strict=True):
            np.testing.assert_allclose(part[row].numpy(), oracle, atol=1e-5)
        np.testing.assert_allclose(close.nearest[row].numpy(), nearest_by_loop(scorer, history), atol=1e-5)


def test_response_and_leaving_equal_a_numpy_loop(scorer: ItemScorer, rng: np.random.Generator) -> None:
    given = histories(rng)
    states = pack_states(given, CONFIG.max_history)
    for part, by_loop in ((responses, response_by_loop), (leaving, leaving_by_loop)):
        oracle = np.stack([by_loop(scorer, history) for history in given])
        np.testing.assert_allclose(part(scorer, states).numpy(), oracle, atol=1e-5)


def test_the_last_four_liked_items_bore_and_the_fifth_does_not(rng: np.random.Generator) -> None:
    scorer = fresh_scorer(32, orthogonal_text(rng, CONFIG.text_dim)).requires_grad_(False)
    risen = leaving(scorer, pack_states([liked(2, 0, 1, 3, 4)], CONFIG.max_history))[0] - scorer.leave[0]
    torch.testing.assert_close(risen, scorer.leave[1] * torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0]), atol=1e-5, rtol=0)


def test_of_many_items_shown_in_vain_the_last_fourteen_bore(rng: np.random.Generator) -> None:
    config = replace(CONFIG, dim=20, text_dim=20, max_history=18)
    scorer = fresh_scorer(33, orthogonal_text(rng, 20), config).requires_grad_(False)
    history = tuple(Interaction(item, IGNORED) for item in range(16))
    risen = leaving(scorer, pack_states([history], config.max_history))[0] - scorer.leave[0]
    oracle = torch.tensor([float(2 <= item < 16) for item in range(20)])
    torch.testing.assert_close(risen, scorer.leave[1] * oracle, atol=1e-5, rtol=0)


@pytest.fixture
def prior(scorer: ItemScorer, rng: np.random.Generator) -> ItemScorer:
    return random_scorer(rng, scorer.text).requires_grad_(False)


def test_taste_equals_a_numpy_loop(scorer: ItemScorer, prior: ItemScorer, rng: np.random.Generator) -> None:
    given, table = histories(rng), scorer.table()
    states = pack_states(given, CONFIG.max_history)
    for below, bias in ((None, None), (prior, prior.table().bias)):
        taste = scorer.encode(states, table, bias).taste
        for row, history in enumerate(given):
            np.testing.assert_allclose(taste[row].numpy(), taste_by_loop(scorer, history, below), atol=1e-5)


def test_what_a_prior_says_equals_a_numpy_loop(prior: ItemScorer, rng: np.random.Generator) -> None:
    given, table = histories(rng), prior.table()
    states = pack_states(given, CONFIG.max_history)
    item, personal = prior.as_prior(states, table)
    np.testing.assert_allclose(item.numpy(), bias_by_loop(prior), atol=1e-5)
    for row, history in enumerate(given):
        np.testing.assert_allclose(personal[row].numpy(), personal_by_loop(prior, history), atol=1e-5)
    actions = torch.from_numpy(rng.integers(ITEMS, size=(len(given), 3)))
    chosen = prior.as_prior(states, table, actions)
    torch.testing.assert_close(chosen.item, item[actions], atol=1e-5, rtol=0)
    torch.testing.assert_close(chosen.personal, personal.gather(1, actions), atol=1e-5, rtol=0)


def test_scores_on_a_prior_equal_a_numpy_loop(scorer: ItemScorer, prior: ItemScorer, rng: np.random.Generator) -> None:
    given = histories(rng)
    states = pack_states(given, CONFIG.max_history)
    scores = scorer.scores(states, scorer.table(), prior.as_prior(states, prior.table()))
    for row, history in enumerate(given):
        np.testing.assert_allclose(scores[row].numpy(), advantage_by_loop(scorer, history, prior), atol=2e-5)


def test_what_a_prior_says_of_a_session_counts_times_its_gain(scorer: ItemScorer, rng: np.random.Generator) -> None:
    given, table = histories(rng), scorer.table()
    states = pack_states(given, CONFIG.max_history)
    of_session = torch.from_numpy(rng.normal(size=(len(given), ITEMS))).float()
    gained = scorer.scores(states, table, Prior(torch.zeros(ITEMS), of_session)) - scorer.scores(states, table)
    torch.testing.assert_close(gained, scorer.prior_gain[1] * of_session, atol=1e-5, rtol=0)


def test_a_residual_network_on_its_prior_scores_as_the_prior_does(scorer: ItemScorer, rng: np.random.Generator) -> None:
    states = pack_states(histories(rng), CONFIG.max_history)
    residual = scorer.residual().requires_grad_(False)
    on_its_prior = residual.scores(states, residual.table(), scorer.as_prior(states, scorer.table()))
    torch.testing.assert_close(on_its_prior, scorer.scores(states, scorer.table()), atol=1e-5, rtol=0)
    assert residual.information.abs().max() == 0  # all that it may learn is still to be found out


def test_what_is_better_known_is_drawn_less_all_else_equal(rng: np.random.Generator) -> None:
    scorer = fresh_scorer(34, random_text(rng, ITEMS)).requires_grad_(False)
    scorer.information.copy_(torch.arange(ITEMS) ** 2)
    probs = torch.softmax(scorer(pack_states([()], CONFIG.max_history))[0], 0)
    assert (probs.diff() < 0).all()
    assert probs.min() > (1 - CONFIG.curiosity) / ITEMS  # the rest of the traffic does not mind


def test_the_bound_is_so_many_standard_deviations_above(rng: np.random.Generator) -> None:
    scorer = fresh_scorer(34, random_text(rng, ITEMS), replace(CONFIG, curiosity=1 - 1e-6)).requires_grad_(False)
    scorer.information.copy_(torch.tensor([0.0, 2.0] + [1e9] * (ITEMS - 2)))
    logits = scorer(pack_states([()], CONFIG.max_history))[0]
    for item, precision in ((0, 2.0), (1, 4.0)):
        above = CONFIG.optimism / math.sqrt(precision) / CONFIG.temperature
        assert logits[item] - logits[2] == pytest.approx(above, rel=1e-3)


def test_before_anything_is_known_nobody_is_curious(rng: np.random.Generator) -> None:
    scorer = random_scorer(rng, random_text(rng, ITEMS)).requires_grad_(False)
    scorer.information.zero_()
    states = pack_states(histories(rng), CONFIG.max_history)
    oracle = scorer.scores(states, scorer.table()) / CONFIG.temperature
    torch.testing.assert_close(scorer(states), oracle, atol=1e-5, rtol=0)


def test_the_critic_knows_no_optimism(scorer: ItemScorer, rng: np.random.Generator) -> None:
    states = pack_states(histories(rng), CONFIG.max_history)
    q, scores, logits = scorer.q_values(states), scorer.scores(states, scorer.table()), scorer(states)
    scorer.information.mul_(10.0).add_(1.0)
    assert torch.equal(scorer.q_values(states), q)
    assert torch.equal(scorer.scores(states, scorer.table()), scores)
    assert not torch.equal(scorer(states), logits)


def test_without_curiosity_what_is_known_does_not_matter(rng: np.random.Generator) -> None:
    scorer = random_scorer(rng, random_text(rng, ITEMS), replace(CONFIG, curiosity=0.0)).requires_grad_(False)
    states = pack_states(histories(rng), CONFIG.max_history)
    oracle = scorer.scores(states, scorer.table()) / CONFIG.temperature
    torch.testing.assert_close(scorer(states), oracle, atol=1e-5, rtol=0)


def test_an_empty_session_is_the_zero_vector_that_nothing_bores(scorer: ItemScorer) -> None:
    encoded = scorer.encode(pack_states([()], CONFIG.max_history), scorer.table())
    assert encoded.hidden.abs().max() == 0
    assert encoded.level.item() == scorer.level[0].item()
    assert encoded.taste.abs().max() == 0
    assert not encoded.weight.any()


def test_a_fresh_network_scores_all_items_alike_but_for_what_was_just_shown(rng: np.random.Generator) -> None:
    scorer = fresh_scorer(31, random_text(rng, ITEMS)).requires_grad_(False)
    assert scorer(pack_states([()], CONFIG.max_history)).std() < 1e-6
    shown = scorer(pack_states([(Interaction(3, IGNORED),)], CONFIG.max_history))[0]
    assert shown.argmin() == 3


@pytest.mark.parametrize("padded_to", [3, 4, 5, 17])
def test_padding_does_not_change_scores(scorer: ItemScorer, rng: np.random.Generator, padded_to: int) -> None:
    history = random_history(rng, 3, ITEMS)
    tight, padded = pack_states([history], 3), pack_states([history], padded_to)
    torch.testing.assert_close(scorer.q_values(padded), scorer.q_values(tight), atol=1e-5, rtol=0)


def test_what_lies_in_the_padding_does_not_matter(scorer: ItemScorer, rng: np.random.Generator) -> None:
    clean = pack_states([random_history(rng, 2, ITEMS)], 5)
    dirty = clean._replace(items=clean.items.clone(), responses=clean.responses.clone())
    dirty.items[0, 2:], dirty.responses[0, 2:] = 7, int(POSITIVE)
    torch.testing.assert_close(scorer.q_values(dirty), scorer.q_values(clean), atol=1e-5, rtol=0)


def test_company_in_the_batch_does_not_change_scores(scorer: ItemScorer, rng: np.random.Generator) -> None:
    given = histories(rng)
    together = scorer(pack_states(given, CONFIG.max_history))
    for row, history in enumerate(given):
        alone = scorer(pack_states([history], CONFIG.max_history))[0]
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=0)


def test_of_a_long_history_the_most_recent_interactions_stay() -> None:
    history = tuple(Interaction(i, POSITIVE if i % 2 else NEGATIVE) for i in range(8))
    states = pack_states([history, history[:2], ()], 5)
    assert states.items.tolist() == [[3, 4, 5, 6, 7], [0, 1, 0, 0, 0], [0] * 5]
    assert states.responses.tolist() == [[1, -1, 1, -1, 1], [-1, 1, 0, 0, 0], [0] * 5]
    assert states.lengths.tolist() == [5, 2, 0]


@pytest.mark.parametrize(("reward", "response"), [(10.0, 1.0), (1.0, 0.1), (0.0, 0.0), (-5.0, -0.5), (99.0, 1.0)])
def test_response_of_a_reward_where_the_largest_is_10(reward: float, response: float) -> None:
    assert response_of(reward, 10.0) == response


@pytest.mark.parametrize(
    ("shown", "n_shown", "ignored"),
    [("", 9, ""), ("cd", 9, "cd"), ("acbd", 9, "cd"), ("cdef", 2, "ef"), ("aeb", 1, "e"), ("cd", 0, ""), ("ab", 5, "")],
)
def test_a_session_ends_with_the_last_items_shown_in_vain(shown: str, n_shown: int, ignored: str) -> None:
    history = (("a", 1.0), ("b", -1.0))
    assert session_state(history, shown, n_shown) == (*history, *((item, 0.0) for item in ignored))


def test_a_longer_catalogue_keeps_old_scores_and_scores_new_items_by_text(
    scorer: ItemScorer, rng: np.random.Generator
) -> None:
    grown = scorer.with_text(torch.cat([scorer.text, random_text(rng, 3)])).requires_grad_(False)
    given = histories(rng)
    states = pack_states(given, CONFIG.max_history)
    assert grown.n_items == ITEMS + 3
    old, new = scorer.scores(states, scorer.table()), grown.scores(states, grown.table())
    torch.testing.assert_close(new[:, :ITEMS], old, atol=1e-5, rtol=0)
    # The oracle of the grown network reads its id rows: that these are zero makes the score one of text alone.
    for rows in (grown.id_vectors, grown.id_bias, grown.taste_id, grown.information):
        assert rows[ITEMS:].abs().max() == 0
    for row, history in enumerate(given):
        np.testing.assert_allclose(grown(states)[row].numpy(), logits_by_loop(grown, history), atol=2e-5)


def test_a_new_item_with_an_old_items_text_scores_like_it(scorer: ItemScorer, rng: np.random.Generator) -> None:
    for own in (scorer.id_vectors, scorer.id_bias, scorer.taste_id):
        own.zero_()
    scorer.information.zero_()
    grown = scorer.with_text(torch.cat([scorer.text, scorer.text[4:5]])).requires_grad_(False)
    scores = grown(pack_states(histories(rng), CONFIG.max_history))
    torch.testing.assert_close(scores[:, ITEMS], scores[:, 4], atol=1e-5, rtol=0)


def test_growing_leaves_the_original_alone(scorer: ItemScorer, rng: np.random.Generator) -> None:
    before = {name: t.clone() for name, t in scorer.state_dict().items()}
    grown = scorer.with_text(torch.cat([scorer.text, random_text(rng, 1)]))
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(t, before[name]) for name, t in scorer.state_dict().items())
