"""Pre-training says what its closed form says, to the letter, and likes more of what was liked."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offline.preferences import Preferences, Prior
from offline.pretrain import CLOSENESS, LEAVE, Pretrained, pretrain
from offline.regression import BayesianRegression
from service.policy.networks import RARE
from service.policy.types import Interaction, pack_states
from simulator.experiments.runs.judges import shuffled
from tests.offline.pretrain_examples import (
    CONFIG,
    N_GROUPS,
    N_ITEMS,
    NOTHING,
    UNCALIBRATED,
    History,
    closeness,
    embeddings,
    f_of,
    judged,
    made,
    names_of,
    policy,
    preferences,
    said,
    standardised,
    texts,
)
from tests.policy.policy_examples import IGNORED, NEGATIVE, POSITIVE, leaving


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


START = np.array([*CLOSENESS, *[0.0] * 8])
histories = st.lists(st.integers(0, N_ITEMS - 1), unique=True, max_size=14).flatmap(
    lambda items: st.tuples(*[st.tuples(st.just(i), st.sampled_from([POSITIVE, NEGATIVE, IGNORED])) for i in items])
)


@cache
def by_closeness() -> Pretrained:
    """Personal judgements are missing: closeness of texts stays as it is."""
    return made(replace(preferences(), personal=()))


@settings(max_examples=40, deadline=None)
@given(history=histories)
def test_the_network_says_the_closed_form(history: History) -> None:
    result = by_closeness()
    z = standardised(np.array([prior.z for prior in preferences().priors.values()]))
    prior = CONFIG.prior_weight * result.alignment.prior_share * z
    expected = said(texts(), prior, START, history)
    np.testing.assert_allclose(f_of(result, history)[0], expected, atol=2e-4)


def regressed() -> np.ndarray:
    """Weights [text_dim + 2] that the personal judgements give, each state's mean taken out."""
    v, ids = texts(), names_of(N_ITEMS)
    states: dict[tuple[int, ...], list[tuple[int, float]]] = {}
    for p in preferences().personal:
        liked = tuple(ids.index(i) for i, _ in p.judgement.history)
        states.setdefault(liked, []).append((ids.index(p.judgement.item_id), p.personal_z))
    x, y = [], []
    for liked, rows in states.items():
        profile = sum(v[i] for i in liked) / (len(liked) + 2)
        nearest = [max(0.0, *(v[i] @ v[a] for i in liked)) for a, _ in rows]
        part = np.array([[profile @ v[a], n, *(profile * v[a])] for (a, _), n in zip(rows, nearest, strict=True)])
        z = np.array([z for _, z in rows])
        x.append((part - part.mean(0)).astype(np.float64))
        y.append(z - z.mean())
    features, rest = np.concatenate(x), np.concatenate(y) - np.concatenate(x) @ START
    found = BayesianRegression.fit(torch.from_numpy(features), torch.from_numpy(rest))
    slope: np.ndarray = START + found.mean.numpy()
    return slope


@cache
def corrected() -> tuple[Pretrained, np.ndarray]:
    """Pre-trained without a prior but with personal judgements, and the weights that it should have."""
    return made(preferences(), config=replace(CONFIG, prior_weight=0.0)), regressed()


@settings(max_examples=20, deadline=None)
@given(history=histories)
def test_personal_judgements_correct_the_closed_form_by_their_regression(history: History) -> None:
    result, told = corrected()
    assert result.alignment.uses_personal
    assert told[0] < 0.7 * CLOSENESS[0]  # these judgements follow closeness, but by less
    np.testing.assert_allclose(f_of(result, history)[0], said(texts(), np.zeros(N_ITEMS), told, history), atol=5e-4)


@pytest.mark.parametrize("group", range(N_GROUPS))
@pytest.mark.parametrize("judgements", [NOTHING, preferences()], ids=["none", "judged"])
def test_liking_a_kind_raises_it_and_disliking_it_lowers_it(judgements: Preferences, group: int) -> None:
    """With one like, with three and with ten, of any kind: the more, the more."""
    result = made(judgements)
    members = [i for i in range(N_ITEMS) if i % N_GROUPS == group]
    rest, others = members[10:], [i for i in range(N_ITEMS) if i % N_GROUPS != group]
    changes = {}
    for kind in (POSITIVE, NEGATIVE, IGNORED):
        f = f_of(result, *[[(i, kind) for i in members[:k]] for k in (0, 1, 3, 10)])
        changes[kind] = f[:, rest].mean(1) - f[:, others].mean(1)
        changes[kind] -= changes[kind][0]
    assert (np.diff(changes[POSITIVE]) > 0.1).all()
    assert (np.diff(changes[NEGATIVE]) < -0.05).all()
    assert (np.diff(changes[IGNORED]) < -0.02).all()
    assert (changes[IGNORED][1:] > changes[NEGATIVE][1:]).all()  # silence is a weak no
    stranger, liked = policy(result, []), policy(result, [(i, POSITIVE) for i in members[:3]])
    assert liked[rest].sum() > stranger[rest].sum()


def test_a_dislike_is_not_a_like() -> None:
    result = made(preferences())
    for item in range(N_ITEMS):
        liked, disliked, ignored = (policy(result, [(item, kind)]) for kind in (POSITIVE, NEGATIVE, IGNORED))
        assert 0.5 * np.abs(liked - disliked).sum() > 0.2
        assert 0.5 * np.abs(liked - ignored).sum() > 0.1
        assert 0.5 * np.abs(disliked - ignored).sum() > 0.002


def test_a_stranger_gets_the_priors_order_and_nothing_shown_ends_a_session_sooner() -> None:
    judgements = preferences()
    result = made(judgements)
    order = np.argsort([-prior.z for prior in judgements.priors.values()])
    assert np.argsort(-f_of(result, [])[0], kind="stable").tolist() == order.tolist()
    packed = pack_states([(), (Interaction(3, POSITIVE), Interaction(4, IGNORED))], 30)
    with torch.no_grad():
        torch.testing.assert_close(leaving(result.actor, packed), torch.full((2, N_ITEMS), LEAVE[0]))


def test_without_any_judgement_what_reads_like_the_liked_is_liked() -> None:
    result = made(NOTHING)
    assert np.ptp(f_of(result, [])) < 1e-5
    v = result.actor.text.numpy()
    for history in ([3], [3, 9, 21, 40, 58]):
        expected = [RARE + CONFIG.personal_weight * closeness(v, history, item) for item in range(N_ITEMS)]
        np.testing.assert_allclose(f_of(result, [(i, POSITIVE) for i in history])[0], expected, atol=1e-4)
    assert result.alignment.warnings == ()
    assert result.report == {"alignment_prior_share": 1.0, "alignment_uses_personal": 0.0}


def test_shuffled_judgements_are_told_and_count_little() -> None:
    n = 1000
    sound = made(preferences(n, names=True), n)
    wrong = made(shuffled(preferences(n, names=True), seed=0), n)
    assert sound.alignment.prior_share == 1.0 and sound.alignment.uses_personal
    assert sound.alignment.warnings == ()
    assert wrong.alignment.prior_share < 0.6 and not wrong.alignment.uses_personal
    told = " / ".join(wrong.alignment.warnings)
    assert "little to do with the items' texts" in told and "closeness of texts is used instead" in told
    spread = [f_of(result, [])[0].std() for result in (sound, wrong)]
    assert spread[1] == pytest.approx(spread[0] * wrong.alignment.prior_share, rel=1e-3)


def test_personal_judgements_that_contradict_closeness_are_not_used() -> None:
    judgements = preferences(personal=-0.3)
    result = made(judgements)
    assert not result.alignment.uses_personal and result.alignment.personal.value < 0
    without = made(replace(judgements, personal=()))
    history = [(3, POSITIVE), (8, NEGATIVE), (12, IGNORED)]
    np.testing.assert_array_equal(f_of(result, history), f_of(without, history))


def test_personal_judgements_say_which_likeness_counts() -> None:
    """A judge for whom likeness counts in one direction of the texts alone moves the policy there."""
    rng, v = np.random.default_rng(2), texts(noise=2.0)
    personal = []
    for _ in range(200):
        (liked, *items) = rng.choice(N_ITEMS, 12, replace=False).tolist()
        personal += [judged([liked], item, 6 * v[liked, 0] * v[item, 0], N_ITEMS) for item in items]
    judgements = Preferences({}, tuple(personal), UNCALIBRATED)
    result = pretrain(names_of(N_ITEMS), embeddings(noise=2.0), judgements, CONFIG)
    plain = pretrain(names_of(N_ITEMS), embeddings(noise=2.0), replace(judgements, personal=()), CONFIG)
    liked = int(np.abs(v[:, 0]).argmax())
    truth = np.delete(v[liked, 0] * v[:, 0], liked)
    found, before = (
        np.corrcoef(np.delete(f_of(r, [(liked, POSITIVE)])[0], liked), truth)[0, 1] for r in (result, plain)
    )
    assert found > 0.9 and found > before + 0.1


def test_items_without_a_prior_get_one_by_their_text() -> None:
    n = 300
    v, ids = texts(n), names_of(n)
    truth = standardised(2 * v[:, 0] - v[:, 1])
    known = range(0, n, 2)
    result = made(Preferences({ids[k]: Prior(float(truth[k]), float(truth[k])) for k in known}, (), UNCALIBRATED), n)
    f = f_of(result, [])[0]
    unknown = np.arange(1, n, 2)
    assert np.corrcoef(f[unknown], truth[unknown])[0, 1] > 0.95
    assert np.argsort(f[::2]).tolist() == np.argsort(truth[::2]).tolist()
    assert f.mean() == pytest.approx(RARE, abs=1e-4)
    assert f.std(ddof=1) == pytest.approx(CONFIG.prior_weight, rel=1e-3)


def test_judgements_of_items_that_are_gone_are_left_out() -> None:
    judgements = preferences()
    gone = replace(
        judgements,
        priors={**judgements.priors, "gone": Prior(9.0, 9.0)},
        personal=(*judgements.personal, judged([70], 71, 4.0, 80), judged([70], 3, 4.0, 80)),
        names={"gone": 1.0},
    )
    for name, tensor in made(judgements).actor.state_dict().items():
        assert torch.equal(tensor, made(gone).actor.state_dict()[name]), name


def test_the_same_seed_gives_the_same_policy_bit_for_bit() -> None:
    results = [made(preferences(names=True)) for _ in range(2)]
    for name, tensor in results[0].actor.state_dict().items():
        assert torch.equal(tensor, results[1].actor.state_dict()[name]), name
    assert results[0].report == results[1].report


@pytest.mark.parametrize("dim", [4, 8, 12])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 30])
@pytest.mark.parametrize("alike", [False, True])
def test_small_catalogues_and_texts_that_are_all_alike(n: int, alike: bool, dim: int) -> None:
    rows = np.repeat(embeddings(1), n, 0) if alike else embeddings(n)
    ids = names_of(n)
    config = replace(CONFIG, network=replace(CONFIG.network, dim=dim))
    priors = {i: Prior(-float(k), -float(k)) for k, i in enumerate(ids)}
    personal = tuple(judged([k], (k + 1) % n, 1.0, n) for k in range(n))
    names = {i: float(k % 3) for k, i in enumerate(ids)}
    for judgements in (
        NOTHING,
        Preferences(priors, personal, UNCALIBRATED, names),
        Preferences({ids[0]: Prior(0.0, 0.0)}, personal[:1], UNCALIBRATED),
    ):
        result = pretrain(ids, rows, judgements, config)
        histories = [[], [(0, POSITIVE)], [(k, IGNORED) for k in range(n)]]
        assert np.isfinite(f_of(result, *histories)).all()
        assert 0 <= result.alignment.prior_share <= 1
        np.testing.assert_allclose(policy(result, []).sum(), 1, atol=1e-5)
    full = pretrain(ids, rows, Preferences(priors, personal, UNCALIBRATED), config)
    assert (np.diff(f_of(full, [])[0]) < 0).all() or full.alignment.prior_share == 0
