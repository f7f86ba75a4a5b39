"""Contexts: their features, what is learned of them, and that both scoring paths read them alike."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.policy import context as contexts
from service.policy.adaptive import Query
from service.policy.boltzmann import Boltzmann, BoltzmannConfig
from service.policy.context import (
    MOST_FEATURES,
    N_NAMES,
    N_ROWS,
    ContextFilter,
    context_effect,
    features_of,
    neighbours,
    row_of,
)
from service.policy.exact_policy import ExactPolicy
from service.policy.networks import ItemScorer
from service.policy.replay import Replay
from service.policy.snapshot import Snapshot, SnapshotError
from service.policy.snapshot_files import load_snapshot, save_snapshot
from service.policy.text import TEXT_DIM, TextProjection
from service.policy.types import Interaction, Transition, WithContext, pack_states, unpack_contexts
from service.policy.variants import Arm, ServingConfig, Variant
from tests.policy.policy_examples import CONFIG, WIDE, orthogonal_text, random_scorer, random_text

ITEMS = 9
VALUES = st.one_of(st.text(max_size=5), st.booleans(), st.floats(-1e9, 1e9), st.lists(st.text(max_size=3), max_size=4))


@given(st.floats(-1e300, 1e300))
def test_a_number_lies_between_two_of_one_digit(value: float) -> None:
    below, above, share = neighbours(value)
    assert 0 <= share < 1 + 1e-9
    assert below * (1 - share) + above * share == pytest.approx(value, rel=1e-9, abs=1e-9)
    assert abs(value) < 1 or all(float(f"{n:.0e}") == pytest.approx(n) for n in (below, above))


def test_numbers_that_are_near_share_what_is_learned() -> None:
    assert neighbours(34) == pytest.approx((30, 40, 0.4))
    assert neighbours(0.25) == (0, 1, 0.25) and neighbours(-7) == (-7, -8, 0) and neighbours(0) == (0, 1, 0)
    assert features_of({"age": 30}) == ((row_of("age", "#30"), 1.0),)


@given(st.dictionaries(st.text(min_size=1, max_size=5), VALUES, max_size=40))
def test_features_are_few_and_together_not_stronger_than_some(context: dict[str, contexts.ContextValue]) -> None:
    features = features_of(context)
    assert len(features) <= MOST_FEATURES and all(0 <= row < N_ROWS for row, _ in features)
    assert sum(strength**2 for _, strength in features) <= 4 + 1e-6
    assert features == features_of(dict(context))


def test_a_names_features_have_their_row_modulo_the_names_in_common() -> None:
    assert len({row_of("country", value) % N_NAMES for value in ("at", "de", "fr")}) == 1
    assert len({row_of("country", value) for value in ("at", "de", "fr")}) == 3


def test_true_one_and_their_texts_are_four_things() -> None:
    assert len({features_of({"a": value}) for value in (True, 1, "1", "yes")}) == 4


def test_what_is_learned_is_the_most_likely_given_all_answers() -> None:
    """Against a search over both rows' weights at once."""
    rng = np.random.default_rng(3)
    n, width = 60, 4
    x = torch.tensor(np.column_stack([rng.normal(size=(n, width - 1)), np.ones(n)]))
    rows = torch.tensor(rng.choice([[64, 128], [64, 192]], n))
    strengths = torch.tensor(rng.uniform(0.3, 1.0, (n, 2)), dtype=torch.float32)
    f, counts = torch.tensor(rng.normal(size=n)), torch.tensor(rng.uniform(0.2, 2.0, n))
    targets = torch.tensor(rng.choice([0.0, 0.3, 1.0], n))
    table, learned = torch.zeros(N_ROWS, width, dtype=torch.float64), ContextFilter()
    learned.update(table, x, WithContext(rows, strengths), f, targets, counts)

    deviations = np.array([contexts._DEVIATION] * (width - 1) + [contexts._LEVEL_DEVIATION])
    places = {64: 0, 128: 1, 192: 2}

    def loss(weights: np.ndarray) -> float:
        w = weights.reshape(3, width)
        scores = f.numpy().copy()
        for slot in range(2):
            which = [places[int(row)] for row in rows[:, slot]]
            scores += strengths[:, slot].numpy() * (x.numpy() * w[which]).sum(1)
        t = targets.numpy()
        nats = counts.numpy() * (np.logaddexp(0, scores) - t * scores)
        return float(nats.sum() + 0.5 * ((w / deviations) ** 2).sum())

    best = scipy.optimize.minimize(loss, np.zeros(3 * width), method="BFGS", options={"gtol": 1e-7}).x
    np.testing.assert_allclose(table[[64, 128, 192]].numpy(), best.reshape(3, width), atol=2e-3)


def answers(rng: np.random.Generator, truth: torch.Tensor, n: int) -> tuple[torch.Tensor, WithContext, torch.Tensor]:
    """n answers in contexts of one feature of row 5 or 69, [n, width] vectors, and what came back."""
    x = torch.tensor(np.column_stack([rng.normal(size=(n, truth.shape[1] - 1)), np.ones(n)]))
    which = rng.integers(2, size=n)
    context = WithContext(torch.tensor(5 + 64 * which).unsqueeze(1), torch.ones(n, 1))
    chances = torch.sigmoid((x * truth[which]).sum(1)).numpy()
    return x, context, torch.tensor((rng.random(n) < chances).astype(np.float64))


def test_it_finds_what_contexts_say_and_that_others_say_nothing() -> None:
    rng = np.random.default_rng(5)
    truth = torch.tensor([[1.5, -1.0, 0.0, 0.2], [-1.5, 1.0, 0.5, -0.2]], dtype=torch.float64)
    for speaks in (True, False):
        table, learned = torch.zeros(N_ROWS, 4, dtype=torch.float64), ContextFilter()
        for _ in range(40):
            x, context, answered = answers(rng, truth if speaks else 0 * truth, 50)
            f = (x * context_effect(table, context)).sum(1)
            learned.update(table, x, context, f, answered, torch.ones(50))
        error = (table[[5, 69]] - (truth if speaks else 0 * truth)).abs().max().item()
        assert error < (0.3 if speaks else 0.2)


def test_its_state_comes_back_and_goes_on_alike() -> None:
    rng = np.random.default_rng(6)
    truth = torch.tensor([[1.5, -1.0, 0.2], [-1.5, 1.0, -0.2]], dtype=torch.float64)
    table, learned = torch.zeros(N_ROWS, 3, dtype=torch.float64), ContextFilter()
    assert learned.state_dict() == {}
    x, context, answered = answers(rng, truth, 300)
    learned.update(table, x, context, (x * context_effect(table, context)).sum(1), answered, torch.ones(300))
    resumed, copy = ContextFilter(), table.clone()
    resumed.load_state_dict(learned.state_dict())
    for one, of in ((learned, table), (resumed, copy)):
        one.update(of, x, context, (x * context_effect(of, context)).sum(1), answered, torch.ones(300))
    assert torch.equal(table, copy)
    resumed.load_state_dict({})
    assert resumed.state_dict() == {}


def knowing(rng: np.random.Generator, text: torch.Tensor) -> ItemScorer:
    scorer = random_scorer(rng, text)
    scorer.begin_context()
    assert scorer.context is not None
    scorer.context.copy_(torch.from_numpy(rng.normal(size=scorer.context.shape)))
    return scorer


@pytest.mark.parametrize("candidates", [512, 4], ids=["all items", "candidates"])
def test_both_paths_read_contexts_alike(candidates: int) -> None:
    rng = np.random.default_rng(7)
    text = random_text(rng, 40)
    pretrained, learned = random_scorer(rng, text), knowing(rng, text)
    serving = ServingConfig(variant=Variant.FT, candidates=candidates)
    policy = ExactPolicy(pretrained, learned, learned, serving)
    facts = [features_of({"country": "at", "age": 34}), (), features_of({"tags": ["a", "b"], "new": True})]
    history, mask = [Interaction(2, 1.0), Interaction(3, 0.0)], np.ones(40, np.bool_)
    served = policy.serving.serve([Query(history, mask, Arm.ADAPTIVE, one) for one in facts])
    states = pack_states([history] * 3, CONFIG.max_history, facts)
    if candidates == 512:
        exact = policy.distributions(states, np.stack([mask] * 3)).probs
        np.testing.assert_allclose([one.of_all(40).probs for one in served], exact, atol=1e-5)
    alone = [policy.serving.distribution(history, mask, Arm.ADAPTIVE, one).probs for one in facts]
    np.testing.assert_allclose([one.of_all(40).probs for one in served], alone, atol=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 0.01
    frozen = [policy.serving.distribution(history, mask, Arm.CONTROL, one).probs for one in facts]
    np.testing.assert_array_equal(frozen[0], frozen[1])


def test_a_context_without_anything_known_changes_nothing() -> None:
    rng = np.random.default_rng(8)
    text = random_text(rng, ITEMS)
    policy = ExactPolicy(random_scorer(rng, text), random_scorer(rng, text), random_scorer(rng, text), ServingConfig())
    one, other = (
        policy.serving.distribution((), np.ones(ITEMS, np.bool_), Arm.ADAPTIVE, facts).probs
        for facts in ((), features_of({"country": "at"}))
    )
    np.testing.assert_array_equal(one, other)


def test_the_learner_learns_a_taste_that_depends_on_the_context_and_comes_back_from_its_state() -> None:
    rng, generator = np.random.default_rng(9), torch.Generator().manual_seed(9)
    text = orthogonal_text(rng, 26)[:, :25]
    learner, replay = Boltzmann(ItemScorer(WIDE, text), BoltzmannConfig()), Replay(2_000, WIDE.max_history, 2)
    facts = {place: features_of({"place": place}) for place in ("home", "work")}
    for n in range(1_200):
        place = "home" if rng.random() < 0.5 else "work"
        shown = tuple(rng.choice(26, 2, replace=False).tolist())
        liked = tuple(float(rng.random() < (0.8 if (item < 13) == (place == "home") else 0.1)) for item in shown)
        replay.add(Transition((), shown, liked, (0.1, 0.1), 0.9, (), context=facts[place]))
        if n % 40 == 39:
            learner.update(replay, 40, generator)
    scores = learner.actor.scores(pack_states([()] * 2, 6, list(facts.values())), learner.actor.table())
    assert scores[0, :13].mean() - scores[0, 13:].mean() > 1.0 < scores[1, 13:].mean() - scores[1, :13].mean()
    resumed = Boltzmann(ItemScorer(WIDE, text), BoltzmannConfig())
    resumed.load_state_dict(learner.state_dict())
    for one in (learner, resumed):
        one.update(replay, 40, torch.Generator().manual_seed(1))
    for name, tensor in learner.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    assert learner.actor.with_text(torch.cat([text, text[:2]])).context is not None


def test_a_snapshot_keeps_what_contexts_say(tmp_path: Path) -> None:
    """And what is served from it is what the networks say; a table of another shape is refused."""
    rng = np.random.default_rng(10)
    embeddings = rng.normal(size=(40, TEXT_DIM)).astype(np.float32)
    projection = TextProjection.fit(torch.from_numpy(embeddings), CONFIG.text_dim)
    text = projection(torch.from_numpy(embeddings))
    pretrained, learned = random_scorer(rng, text), knowing(rng, text)
    snapshot = Snapshot.of(
        version=2,
        parent=1,
        created_at=0.0,
        item_ids=tuple(map(str, range(40))),
        text_encoder="hashing",
        projection=projection,
        serving=ServingConfig(variant=Variant.FT),
        pretrained=pretrained,
        learned=learned,
        critic=learned,
        learner={},
        lineage={},
        metrics={},
    )
    save_snapshot(snapshot, tmp_path / "2")
    loaded = load_snapshot(tmp_path / "2")
    facts, mask = features_of({"country": "at"}), np.ones(40, np.bool_)
    policy = ExactPolicy(pretrained, learned, learned, snapshot.manifest.serving).serving
    expected = policy.distribution((), mask, Arm.ADAPTIVE, facts).probs
    for served in (loaded.serving_policy(embeddings), loaded.exact_policy(text).serving):
        np.testing.assert_allclose(served.distribution((), mask, Arm.ADAPTIVE, facts).probs, expected, atol=1e-5)
    snapshot.tensors["learned.context"] = torch.zeros(3, 7)
    save_snapshot(snapshot, tmp_path / "3")
    with pytest.raises(SnapshotError, match=r"learned\.context"):
        load_snapshot(tmp_path / "3")


def test_a_replay_keeps_contexts_and_forgets_those_of_who_is_forgotten() -> None:
    replay = Replay(4, 3, 2)
    several = [features_of({"a": "b"}), (), features_of({str(n): "x" for n in range(20)}), features_of({"n": 3.5}), ()]
    for number, facts in enumerate(several):
        replay.add(Transition((), (number,), (1.0,), (1.0,), 0.9, (), owner=number + 1, context=facts))
    kept = unpack_contexts(replay.latest(4).state)
    for found, given_ in zip(kept, several[1:], strict=True):
        assert [row for row, _ in found] == [row for row, _ in given_]
        assert [by for _, by in found] == pytest.approx([by for _, by in given_])
    other = Replay(4, 3, 2)
    other.load_state_dict(replay.state_dict())
    assert unpack_contexts(other.latest(4).state) == kept
    replay.forget(3)
    assert unpack_contexts(replay.latest(4).state)[1] == () and unpack_contexts(replay.latest(4).state)[2] == kept[2]
    other.load_state_dict(Replay(4, 3, 2).state_dict())
    assert other.latest(1).state.context is None and math.isfinite(len(other))
