"""Does what is served happen as often as its logged propensity says? 100,000 slates for each way of serving.

Slates are grouped by (state, items of the slots above, slot). Within a group the next item is one draw of a multinomial
whose probabilities were logged, so Pearson's statistic is exact up to the pooling of rare cells; groups are independent
given the slots above, so their statistics and degrees of freedom add up.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import chi2

from service.policy import adaptive
from service.policy.adaptive import Distribution, ServingPolicy
from service.policy.sampling import sample_slate, slate_propensities
from service.policy.types import Interaction
from service.policy.variants import Arm, Mixture, ServingConfig, Variant
from tests.policy.policy_examples import liked, random_history, random_scorer, random_text

ITEMS, SLOTS, SLATES = 7, 3, 100_000
MIN_EXPECTED = 5.0
MIN_P = 1e-4

Probs = npt.NDArray[np.float64]
Slates = npt.NDArray[np.int64]
Logged = dict[tuple[int, ...], list[Probs]]
Recompute = Callable[[Distribution, Slates], Probs]

SERVED = {
    "ft": ServingConfig(Variant.FT),
    "ap fixed": ServingConfig(Variant.AP, Mixture.FIXED, fixed_weight=0.35),
    "ap adaptive": ServingConfig(Variant.AP, Mixture.ADAPTIVE, temperature=1.5),
    "ap among candidates": ServingConfig(Variant.AP, Mixture.ADAPTIVE, temperature=1.5, candidates=5),
    "ap through an index": ServingConfig(Variant.AP, Mixture.ADAPTIVE, temperature=1.5, candidates=5),
}
N_ITEMS = {"ap through an index": 300}  # ITEMS where nothing is said


@pytest.fixture(autouse=True, scope="module")
def _no_catalogue_is_small() -> Iterator[None]:
    """Seven items are more than five candidates."""
    with mock.patch.object(adaptive, "FEW", 1):
        yield


def serving_policy(name: str) -> ServingPolicy:
    """Three networks whose policies are soft: with most of the mass on one item there would be little to test."""
    rng = np.random.default_rng(23)
    text = random_text(rng, N_ITEMS.get(name, ITEMS))
    pretrained, learned, critic = (random_scorer(rng, text, scale=0.4) for _ in range(3))
    policy = ServingPolicy.of(pretrained, learned, critic, SERVED[name])
    return policy.indexed() if name == "ap through an index" else policy


def states(n_items: int = ITEMS) -> list[tuple[tuple[Interaction, ...], npt.NDArray[np.bool_]]]:
    """Histories of 0 to 3 items with what may be shown: not the history and, in two of them, not a hidden item."""
    rng = np.random.default_rng(21)
    given = []
    for history, hidden in (((), None), (liked(2), 5), (random_history(rng, 3, ITEMS), None), (liked(6, 0), 3)):
        available = np.ones(n_items, dtype=bool)
        available[[i.item for i in history]] = False
        if hidden is not None:
            available[hidden] = False
        given.append((history, available))
    return given


@functools.cache
def serve(name: str) -> Logged:
    """SLATES slates, as {(state, *items): [propensities, ...]}."""
    policy, rng, logged = serving_policy(name), np.random.default_rng(22), defaultdict(list)
    for number, (history, available) in enumerate(states(policy.n_items)):
        probs = policy.distribution(history, available, Arm.ADAPTIVE).probs
        for _ in range(SLATES // len(states())):
            slate = sample_slate(probs, SLOTS, rng)
            assert available[slate.items].all()
            logged[number, *slate.items.tolist()].append(slate.propensities)
    return dict(logged)


def logged_wrongly(name: str, recompute: Recompute) -> Logged:
    """The same slates with other propensities than those they were drawn with."""
    policy = serving_policy(name)
    distributions = [policy.distribution(history, available) for history, available in states()]
    return {
        key: [recompute(distributions[key[0]], np.array(key[1:]))] * len(given) for key, given in serve(name).items()
    }


def pearson(counts: Probs, expected: Probs) -> tuple[float, int]:
    """Statistic and degrees of freedom of one multinomial; cells expected below MIN_EXPECTED are pooled."""
    rare = expected < MIN_EXPECTED
    cells = list(zip(counts[~rare], expected[~rare], strict=True))
    pooled = (counts[rare].sum(), expected[rare].sum())
    if pooled[1] < MIN_EXPECTED and cells:
        smallest = cells.pop(int(np.argmin([e for _, e in cells])))
        pooled = (pooled[0] + smallest[0], pooled[1] + smallest[1])
    cells.append(pooled)
    return sum((float(c) - float(e)) ** 2 / float(e) for c, e in cells if e > 0), len(cells) - 1


def p_value(logged: Logged, slot: int) -> float:
    """Of the hypothesis that items come to `slot` as often as logged."""
    groups: dict[tuple[int, ...], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for key, propensities in logged.items():
        groups[key[: 1 + slot]][key[1 + slot]].extend(p[slot] for p in propensities)
    statistic, freedom = 0.0, 0
    for group in groups.values():
        counts = np.array([len(given) for given in group.values()], dtype=np.float64)
        probs = np.array([given[0] for given in group.values()])
        assert all(np.ptp(given) < 1e-12 for given in group.values()), "one item, one state, two propensities"
        # What was never drawn has the probability that those drawn leave over.
        unseen = max(0.0, 1.0 - probs.sum())
        one, degrees = pearson(np.append(counts, 0.0), counts.sum() * np.append(probs, unseen))
        statistic, freedom = statistic + one, freedom + degrees
    assert freedom >= 10, "nothing left to test"
    return float(chi2.sf(statistic, freedom))


def test_the_policies_differ_enough_to_be_told_apart() -> None:
    policy = serving_policy("ap adaptive")
    for history, available in states():
        distribution = policy.distribution(history, available)
        assert 0.05 < distribution.weight < 0.95
        assert np.abs(distribution.pretrained - distribution.learned).sum() > 0.2


@pytest.mark.parametrize("name", SERVED)
def test_every_slot_shows_items_as_often_as_logged(name: str) -> None:
    logged = serve(name)
    assert sum(map(len, logged.values())) == SLATES
    for slot in range(SLOTS):
        assert p_value(logged, slot) > MIN_P, f"{name}, slot {slot}"


def not_renormalised(distribution: Distribution, items: Slates) -> Probs:
    return distribution.probs[items]


def of_the_pretrained(distribution: Distribution, items: Slates) -> Probs:
    return slate_propensities(distribution.pretrained, items)


def mixed_after_the_slots_above(distribution: Distribution, items: Slates) -> Probs:
    """As if each policy had been renormalised on its own: right for slot 0, subtly wrong below."""
    old, new = (slate_propensities(p, items) for p in (distribution.pretrained, distribution.learned))
    return np.asarray((1 - distribution.weight) * old + distribution.weight * new)


@pytest.mark.parametrize(
    ("wrong", "right_slots"), [(not_renormalised, {0}), (of_the_pretrained, set()), (mixed_after_the_slots_above, {0})]
)
def test_wrong_propensities_are_found_out(wrong: Recompute, right_slots: set[int]) -> None:
    logged = logged_wrongly("ap fixed", wrong)
    for slot in range(SLOTS):
        assert (p_value(logged, slot) > MIN_P) == (slot in right_slots), f"slot {slot}"
