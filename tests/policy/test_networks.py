from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import scipy.special
import torch
from policy_examples import (
    CONFIG,
    IGNORED,
    NEGATIVE,
    POSITIVE,
    RESPONSES,
    fresh_scorer,
    liked,
    random_history,
    random_scorer,
    random_text,
)

from service.policy.networks import ItemScorer
from service.policy.types import Interaction, Response, pack_states, session_state

Array = npt.NDArray[np.float64]
ITEMS = 9


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(30)


@pytest.fixture
def scorer(rng: np.random.Generator) -> ItemScorer:
    return random_scorer(rng, random_text(rng, ITEMS)).requires_grad_(False)


def weights(scorer: ItemScorer) -> dict[str, Array]:
    return {name: t.numpy().astype(np.float64) for name, t in scorer.state_dict().items()}


def hidden_by_loop(scorer: ItemScorer, history: tuple[Interaction, ...]) -> Array:
    """The GRU's equations (Cho et al. 2014, as torch documents them), one interaction at a time."""
    w, text = weights(scorer), scorer.text.numpy()
    h = np.zeros(CONFIG.dim)
    for interaction in history:
        vector = w["project.weight"] @ text[interaction.item] + w["id_vectors"][interaction.item]
        x = vector + w["response.weight"][interaction.response]
        from_x = np.split(w["encoder.weight_ih_l0"] @ x + w["encoder.bias_ih_l0"], 3)
        from_h = np.split(w["encoder.weight_hh_l0"] @ h + w["encoder.bias_hh_l0"], 3)
        r, z = (scipy.special.expit(from_x[i] + from_h[i]) for i in (0, 1))
        n = np.tanh(from_x[2] + r * from_h[2])
        h = (1 - z) * n + z * h
    return h


def profiles_by_loop(scorer: ItemScorer, history: tuple[Interaction, ...]) -> Array:
    """Mean text of the liked items, text of the last liked one, mean text of the disliked, mean text of the ignored."""
    text = scorer.text.numpy().astype(np.float64)
    rows: dict[Response, list[Array]] = {response: [] for response in RESPONSES}
    for interaction in history:
        rows[interaction.response].append(text[interaction.item])
    zero = np.zeros(CONFIG.text_dim)
    mean = {response: sum(found, zero) / max(1, len(found)) for response, found in rows.items()}
    return np.stack([mean[POSITIVE], rows[POSITIVE][-1] if rows[POSITIVE] else zero, mean[NEGATIVE], mean[IGNORED]])


def scores_by_loop(scorer: ItemScorer, history: tuple[Interaction, ...]) -> Array:
    w, text = weights(scorer), scorer.text.numpy()
    query = w["query.weight"] @ hidden_by_loop(scorer, history) + w["query.bias"]
    profiles = profiles_by_loop(scorer, history)
    scores = []
    for a in range(scorer.n_items):
        vector = w["project.weight"] @ text[a] + w["id_vectors"][a]
        likeness = sum(w["profile_gain"][c] * (profiles[c] @ text[a]) for c in range(4))
        scores.append(w["id_bias"][a] + w["text_bias.weight"][0] @ text[a] + vector @ query + likeness)
    return np.array(scores)


def histories(rng: np.random.Generator) -> list[tuple[Interaction, ...]]:
    only_disliked = (Interaction(3, NEGATIVE), Interaction(0, NEGATIVE))
    return [(), liked(4), only_disliked, *(random_history(rng, n, ITEMS) for n in (2, 3, 4, 5, 5))]


def test_scores_and_values_equal_a_numpy_loop(scorer: ItemScorer, rng: np.random.Generator) -> None:
    given = histories(rng)
    states, w = pack_states(given, CONFIG.max_history), weights(scorer)
    scores, values, q = scorer(states).numpy(), scorer.state_value(states).numpy(), scorer.q_values(states).numpy()
    for row, history in enumerate(given):
        oracle = scores_by_loop(scorer, history)
        value = (w["value.weight"] @ hidden_by_loop(scorer, history) + w["value.bias"])[0]
        np.testing.assert_allclose(scores[row], oracle, atol=2e-5)
        assert values[row] == pytest.approx(value, abs=2e-5)
        np.testing.assert_allclose(q[row], value + oracle, atol=2e-5)


def test_profiles_equal_a_numpy_loop(scorer: ItemScorer, rng: np.random.Generator) -> None:
    given = histories(rng)
    profiles = scorer.encode(pack_states(given, CONFIG.max_history), scorer.table()).profiles.numpy()
    np.testing.assert_allclose(profiles, np.stack([profiles_by_loop(scorer, h) for h in given]), atol=1e-6)


def test_an_empty_session_is_the_zero_vector(scorer: ItemScorer) -> None:
    encoded = scorer.encode(pack_states([()], CONFIG.max_history), scorer.table())
    assert encoded.hidden.abs().max() == 0
    assert encoded.profiles.abs().max() == 0


def test_a_fresh_network_scores_all_items_about_equally(rng: np.random.Generator) -> None:
    scorer = fresh_scorer(31, random_text(rng, ITEMS)).requires_grad_(False)
    scores = scorer(pack_states(histories(rng), CONFIG.max_history))
    assert scores.abs().max() < 0.1


@pytest.mark.parametrize("padded_to", [3, 4, 5, 17])
def test_padding_does_not_change_scores(scorer: ItemScorer, rng: np.random.Generator, padded_to: int) -> None:
    history = random_history(rng, 3, ITEMS)
    tight, padded = pack_states([history], 3), pack_states([history], padded_to)
    torch.testing.assert_close(scorer.q_values(padded), scorer.q_values(tight), atol=1e-6, rtol=0)


def test_what_lies_in_the_padding_does_not_matter(scorer: ItemScorer, rng: np.random.Generator) -> None:
    clean = pack_states([random_history(rng, 2, ITEMS)], 5)
    dirty = clean._replace(items=clean.items.clone(), responses=clean.responses.clone())
    dirty.items[0, 2:], dirty.responses[0, 2:] = 7, int(POSITIVE)
    torch.testing.assert_close(scorer.q_values(dirty), scorer.q_values(clean), atol=1e-6, rtol=0)


def test_company_in_the_batch_does_not_change_scores(scorer: ItemScorer, rng: np.random.Generator) -> None:
    given = histories(rng)
    together = scorer(pack_states(given, CONFIG.max_history))
    for row, history in enumerate(given):
        alone = scorer(pack_states([history], CONFIG.max_history))[0]
        torch.testing.assert_close(together[row], alone, atol=1e-6, rtol=0)


def test_of_a_long_history_the_most_recent_interactions_stay() -> None:
    history = tuple(Interaction(i, POSITIVE if i % 2 else NEGATIVE) for i in range(8))
    states = pack_states([history, history[:2], ()], 5)
    assert states.items.tolist() == [[3, 4, 5, 6, 7], [0, 1, 0, 0, 0], [0] * 5]
    assert states.responses.tolist() == [[3, 1, 3, 1, 3], [1, 3, 0, 0, 0], [0] * 5]
    assert states.lengths.tolist() == [5, 2, 0]


@pytest.mark.parametrize(("reward", "response"), [(1.0, POSITIVE), (0.1, POSITIVE), (0.0, IGNORED), (-1.0, NEGATIVE)])
def test_response_of_a_reward(reward: float, response: Response) -> None:
    assert Response.of(reward) is response


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
    torch.testing.assert_close(grown(states)[:, :ITEMS], scorer(states), atol=1e-6, rtol=0)
    # The oracle of the grown network reads its id rows: that these are zero makes the score one of text alone.
    assert grown.id_vectors[ITEMS:].abs().max() == grown.id_bias[ITEMS:].abs().max() == 0
    for row, history in enumerate(given):
        np.testing.assert_allclose(grown(states)[row].numpy(), scores_by_loop(grown, history), atol=2e-5)


def test_a_new_item_with_an_old_items_text_scores_like_it(scorer: ItemScorer, rng: np.random.Generator) -> None:
    scorer.id_vectors.zero_()
    scorer.id_bias.zero_()
    grown = scorer.with_text(torch.cat([scorer.text, scorer.text[4:5]])).requires_grad_(False)
    scores = grown(pack_states(histories(rng), CONFIG.max_history))
    torch.testing.assert_close(scores[:, ITEMS], scores[:, 4], atol=1e-6, rtol=0)


def test_growing_leaves_the_original_alone(scorer: ItemScorer, rng: np.random.Generator) -> None:
    before = {name: t.clone() for name, t in scorer.state_dict().items()}
    grown = scorer.with_text(torch.cat([scorer.text, random_text(rng, 1)]))
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(t, before[name]) for name, t in scorer.state_dict().items())
