"""What the index finds against a look at all items."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
import torch

from service.policy import fast_scorer
from service.policy.adaptive import Query, ServingPolicy
from service.policy.exact_policy import ExactPolicy
from service.policy.networks import ItemScorer, NetworkConfig
from service.policy.types import Interaction, pack_states
from service.policy.variants import Arm, Mixture, ServingConfig, Variant
from tests.policy.policy_examples import random_response, random_scorer

ITEMS, WANTED = 20_000, 100
NONE = np.empty(0, np.intp)
CONFIG = NetworkConfig(dim=15, text_dim=32)  # with taste, and of both networks, as many directions as are kept
VARIANTS = {
    "frozen": ServingConfig(Variant.FROZEN, candidates=WANTED),
    "ft": ServingConfig(Variant.FT, candidates=WANTED),
    "ap": ServingConfig(Variant.AP, Mixture.ADAPTIVE, candidates=WANTED),
}


@cache
def texts() -> torch.Tensor:
    """In clusters, as real ones are."""
    rng = np.random.default_rng(30)
    rows = rng.normal(size=(40, 32))[rng.integers(40, size=ITEMS)] + rng.normal(size=(ITEMS, 32))
    return torch.nn.functional.normalize(torch.from_numpy(rows).float(), dim=1)


@cache
def networks() -> tuple[ItemScorer, ItemScorer]:
    rng = np.random.default_rng(31)
    pretrained, learned = (random_scorer(rng, texts(), CONFIG, scale=0.2).requires_grad_(False) for _ in range(2))
    pretrained.information.zero_()
    return pretrained, learned


def deployed() -> ServingPolicy:
    """Networks of the usual sizes: the learned one's vectors are those of what it builds on, and a little more."""
    rng, config = np.random.default_rng(34), NetworkConfig()
    text = torch.nn.functional.normalize(torch.cat([texts(), 0.3 * texts().roll(7, 1)], dim=1), dim=1)
    pretrained, more = (random_scorer(rng, text, config, scale=0.05).requires_grad_(False) for _ in range(2))
    pretrained.project.weight.copy_(torch.eye(config.dim))
    for net in (pretrained, learned := pretrained.residual().requires_grad_(False)):
        net.begin_taste(1.0, 0.3)
        net.gain.fill_(0.8)
    learned.id_vectors.add_(more.id_vectors)
    learned.id_bias.copy_(8 * more.id_bias)
    learned.taste_id.copy_(2 * more.taste_id)
    learned.mixing.copy_(more.mixing)
    learned.information.copy_(more.information)
    pretrained.information.zero_()
    return ServingPolicy.of(pretrained, learned, learned, VARIANTS["ap"])


@cache
def policies(name: str) -> tuple[ServingPolicy, ServingPolicy]:
    """One that looks at all items and the same with an index."""
    pretrained, learned = networks()
    policy = ServingPolicy.of(pretrained, learned, learned, VARIANTS[name])
    return policy, policy.indexed(seed=1)


def queries(n: int, share: float = 1.0) -> list[Query]:
    """States of all lengths in both arms, where a share of the items may be shown."""
    rng = np.random.default_rng(32)
    made = []
    for number in range(n):
        items = rng.integers(ITEMS, size=rng.integers(0, 50)).tolist()
        history = [Interaction(item, random_response(rng)) for item in items]
        available = rng.random(ITEMS) < share
        available[items] = False
        made.append(Query(history, available, Arm.CONTROL if number % 3 == 0 else Arm.ADAPTIVE))
    return made


def rows_of(policy: ServingPolicy, asked: list[Query]) -> list[npt.NDArray[np.intp]]:
    found = [served.rows for served in policy.serve(asked)]
    assert all(rows is not None for rows in found)
    return [np.unique(rows) for rows in found if rows is not None]


@pytest.mark.parametrize("share", [1.0, 0.3, 0.06])
@pytest.mark.parametrize("name", VARIANTS)
def test_candidates_are_those_that_a_look_at_all_items_finds(name: str, share: float) -> None:
    scanning, indexed = policies(name)
    assert indexed.is_indexed and not scanning.is_indexed
    asked = queries(60, share)
    shares = []
    for query, mine, all_of_them in zip(asked, rows_of(indexed, asked), rows_of(scanning, asked), strict=True):
        assert query.available[mine].all()
        shares.append(np.isin(all_of_them, mine).mean())
    assert np.mean(shares) > 0.94
    mass = []
    for found, exact in zip(indexed.serve(asked), scanning.serve(asked), strict=True):
        first = np.argsort(exact.probs)[-10:]
        assert exact.rows is not None
        mass.append(np.minimum(found.of_all(ITEMS).probs[exact.rows[first]], exact.probs[first]).sum())
        mass[-1] /= exact.probs[first].sum()
    assert np.mean(mass) > 0.99


def test_of_all_directions_those_are_kept_that_matter() -> None:
    scanning = deployed()
    indexed, asked = scanning.indexed(seed=1), queries(60)
    found = zip(rows_of(indexed, asked), rows_of(scanning, asked), strict=True)
    assert np.mean([np.isin(every, mine).mean() for mine, every in found]) > 0.94


@pytest.mark.parametrize("name", VARIANTS)
def test_among_them_probabilities_are_exact(name: str) -> None:
    indexed = policies(name)[1]
    pretrained, learned = networks()
    exact = ExactPolicy(pretrained, learned, learned, VARIANTS[name])
    asked = queries(4)
    for query, served in zip(asked, indexed.serve(asked), strict=True):
        mask = np.zeros(ITEMS, np.bool_)
        mask[served.rows] = True
        batch = exact.distributions(pack_states([query.history], 50), (mask & query.available)[np.newaxis], query.arm)
        np.testing.assert_allclose(served.of_all(ITEMS).probs, batch.probs[0], atol=1e-5, rtol=1e-3)


def test_where_few_items_may_be_shown_they_are_all_there() -> None:
    scanning, indexed = policies("ap")
    rng = np.random.default_rng(33)
    asked = []
    for n in (0, 1, 50, 99, 100, 101, 700, 3_000):  # together with one that has enough
        mask = np.zeros(ITEMS, np.bool_)
        mask[rng.permutation(ITEMS)[:n]] = True
        asked.append(Query((), mask))
    for query, mine, exact in zip(asked, indexed.serve(asked), scanning.serve(asked), strict=True):
        np.testing.assert_allclose(mine.of_all(ITEMS).probs, exact.of_all(ITEMS).probs, atol=1e-5, rtol=1e-4)
        assert np.count_nonzero(mine.probs) == min(WANTED, query.available.sum())


def test_the_same_seed_finds_the_same() -> None:
    scanning, indexed = policies("ap")
    again = scanning.indexed(seed=1)
    for one, other in zip(indexed.serve(queries(9)), again.serve(queries(9)), strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)


def test_a_policy_that_tells_nothing_apart_has_an_index() -> None:
    blank = ItemScorer(CONFIG, texts()).requires_grad_(False)
    policy = ServingPolicy.of(blank, blank, blank, VARIANTS["ap"]).indexed()
    probs = policy.serve([Query((), np.ones(ITEMS, np.bool_))])[0].probs
    np.testing.assert_allclose(probs, np.full(WANTED, 1 / WANTED), rtol=1e-5)


def test_new_items_are_looked_at_and_then_taken_into_the_index() -> None:
    policy = policies("ap")[1]
    best = texts()[:3] + 0.01
    made = {net: net.with_items(best) for net in policy.networks}
    grown = policy.replaced(made)
    mask = np.zeros(ITEMS + 3, np.bool_)
    mask[:2000], mask[ITEMS:] = True, True
    assert (grown.serve([Query((), mask)])[0].of_all(ITEMS + 3).probs[ITEMS:] >= 0).all()
    assert grown._index is not None and grown._index is policy._index
    pool = grown._index.pool(
        grown._network_pair(Variant.AP, fast_scorer.pack([()], 30)), [np.ones(ITEMS + 3, np.bool_)], 100, NONE
    )
    assert set(range(ITEMS, ITEMS + 3)) <= set(pool[0].tolist())
    many = texts()[:2000]
    made = {net: net.with_items(many) for net in grown.networks}
    later = grown.replaced(made)
    assert later._index is not None and len(later._index) == later.n_items == ITEMS + 2003
    assert len(policy._index) == ITEMS
    scanning = ServingPolicy(made[grown.pretrained], made[grown.learned], made[grown.critic], grown.config)
    asked = [Query(q.history, np.append(q.available, np.ones(2003, np.bool_)), q.arm) for q in queries(20)]
    shares = [
        np.isin(every, mine).mean() for mine, every in zip(rows_of(later, asked), rows_of(scanning, asked), strict=True)
    ]
    assert np.mean(shares) > 0.94


def test_new_items_are_scored_as_the_networks_say() -> None:
    pretrained, learned = networks()
    more = torch.nn.functional.normalize(torch.randn(5, 32, generator=torch.Generator().manual_seed(3)), dim=1)
    text = torch.cat([texts(), more])
    whole = ServingPolicy.of(
        pretrained.with_text(text), learned.with_text(text), learned.with_text(text), VARIANTS["ap"]
    )
    policy = ServingPolicy.of(pretrained, learned, learned, VARIANTS["ap"])
    grown = policy.replaced({net: net.with_items(more) for net in policy.networks})
    for net, expected in zip(grown.networks, (whole.pretrained, whole.learned), strict=True):
        np.testing.assert_allclose(net.items, expected.items, atol=1e-6)
    assert len(policy.pretrained) == ITEMS


@pytest.mark.parametrize("is_indexed", [False, True], ids=["scan", "index"])
def test_a_new_item_that_nobody_would_choose_gets_its_share_all_the_same(is_indexed: bool) -> None:
    pretrained, learned = networks()
    config = replace(VARIANTS["ap"], first_items=ITEMS - 40, new_items=0.1)
    learned = deepcopy(learned)
    learned.information.fill_(9.0)
    learned.information[-40:] = 0.0
    learned.id_bias[-40:] -= 50.0
    policy = ServingPolicy.of(pretrained, learned, learned, config)
    policy = policy.indexed() if is_indexed else policy
    for query, served in zip(queries(12), policy.serve(queries(12)), strict=True):
        assert served.rows is not None
        share = served.of_all(ITEMS).probs[-40:].sum()
        if query.arm == Arm.ADAPTIVE:
            assert (
                share == pytest.approx(0.1, abs=1e-6) and np.isin(np.arange(ITEMS - 40, ITEMS), served.rows).sum() >= 6
            )
        assert len(np.unique(served.rows)) == WANTED
    hidden = np.ones(ITEMS, np.bool_)
    hidden[-40:] = False
    served = policy.serve([Query((), hidden)])[0]
    assert np.count_nonzero(served.probs) == WANTED, "where none of them may be shown, others take their places"


def test_candidates_are_more_where_more_are_wanted() -> None:
    wide = replace(VARIANTS["ap"], candidates=400)
    pretrained, learned = networks()
    policy = ServingPolicy.of(pretrained, learned, learned, wide).indexed()
    assert {len(rows) for rows in rows_of(policy, queries(5))} == {400}
