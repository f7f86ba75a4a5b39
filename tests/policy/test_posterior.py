"""The filter against a dense posterior that scipy finds, on networks with weights that are known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.policy.network_types import Prior
from service.policy.networks import N_LEADING, ItemScorer, NetworkConfig
from service.policy.posterior import Posterior
from service.policy.types import pack_states
from tests.policy.policy_examples import CONFIG, WIDE, random_history, random_scorer, random_text

ITEMS, SLOTS = 9, 3
# Text, product with the liked profile, gains, repeat, level of a stranger and per log count, the prior's gains.
PRECISIONS = np.repeat([1.0, 0.25, 0.25, 0.25, 0.05, 1.0, 1.0], [24, 24, 4, 3, 1, 2, 2])

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shown:
    """N impressions as the filter takes them."""

    features: Tensor  # [N, P]
    items: Tensor  # [N]
    response: Tensor  # [N]
    n_items: int = ITEMS  # A

    def joint(self) -> Array:
        """What f depends on linearly, [N, P + A]: weights, then biases."""
        return np.hstack([self.features.double().numpy(), np.eye(self.n_items)[self.items.numpy()]])


def network(rng: np.random.Generator, scale: float = 0.3, config: NetworkConfig = WIDE) -> ItemScorer:
    return random_scorer(rng, random_text(rng, ITEMS, config.text_dim), config, scale).requires_grad_(False)


def impressions(
    scorer: ItemScorer,
    rng: np.random.Generator,
    n: int,
    prior: ItemScorer | None = None,
    taste_of: ItemScorer | None = None,
) -> Shown:
    """Slates of `SLOTS` random items in `n` random states, whose taste is what `taste_of` says if not the scorer."""
    histories = [random_history(rng, int(rng.integers(6)), scorer.n_items) for _ in range(n)]
    states = pack_states(histories, scorer.config.max_history)
    actions = torch.from_numpy(rng.integers(scorer.n_items, size=(n, SLOTS)))
    table = scorer.table()
    of_items = None if prior is None else prior.table().bias
    encoded = scorer.encode(states, table, of_items)
    if taste_of is not None:
        encoded = encoded._replace(taste=taste_of.encode(states, taste_of.table(), of_items).taste)
    close = scorer.closeness(encoded, table, actions)
    nothing = Prior(torch.zeros(n, SLOTS), torch.zeros(n, SLOTS))
    known = nothing if prior is None else prior.as_prior(states, prior.table(), actions)
    features = scorer.linear_features(encoded, table, close, actions, known)
    response = scorer.response(encoded, table, close, actions) + scorer.trusted(known)
    return Shown(features.flatten(0, 1), actions.flatten(), response.flatten(), scorer.n_items)


def weights(scorer: ItemScorer) -> Array:
    """All that the filter moves, [P + A]."""
    return torch.cat([*scorer.linear_weights(), scorer.id_bias]).double().numpy()


def update(posterior: Posterior, scorer: ItemScorer, shown: Shown, wanted: Array) -> torch.Tensor:
    return posterior.update(scorer, shown.features, shown.items, shown.response, torch.from_numpy(wanted))


def clicks(rng: np.random.Generator, logits: Array) -> Array:
    clicked: Array = (rng.random(len(logits)) < scipy.special.expit(logits)).astype(np.float64)
    return clicked


def precision(posterior: Posterior, scorer: ItemScorer) -> Array:
    """The posterior's H, [P + A, P + A]."""
    by_item, own = posterior.by_item.numpy(), np.diag(2 + scorer.information.double().numpy())
    return np.block([[posterior.shared.numpy(), by_item.T], [by_item, own]])


def minimise(x: Array, offset: Array, wanted: Array, centre: Array, h: Array) -> Array:
    """argmin over v of (v - centre)' h (v - centre) / 2 + cross entropy of offset + x v."""

    def loss(v: Array) -> float:
        f = offset + x @ v
        return float((v - centre) @ h @ (v - centre) / 2 + (np.logaddexp(0, f) - wanted * f).sum())

    def slope(v: Array) -> Array:
        return np.asarray(h @ (v - centre) + x.T @ (scipy.special.expit(offset + x @ v) - wanted))

    found = scipy.optimize.minimize(loss, centre, jac=slope, method="BFGS", options={"gtol": 1e-6, "maxiter": 5000})
    assert np.abs(slope(found.x)).max() < 1e-4
    return np.asarray(found.x)


def test_the_mode_and_the_precision_are_those_that_scipy_finds() -> None:
    rng = np.random.default_rng(80)
    scorer = network(rng)
    prior = random_scorer(rng, scorer.text, WIDE, scale=0.3).requires_grad_(False)
    posterior = Posterior(scorer)
    before = start = weights(scorer)
    batches = [(impressions(scorer, rng, n, prior), rng.random(n * SLOTS)) for n in (12, 1, 30, 12)]
    h = np.diag(np.append(PRECISIONS, 2 + scorer.information.double().numpy()))
    mode = start
    for shown, wanted in batches:
        x, f = shown.joint(), shown.response.double().numpy()
        mode = minimise(x, f - x @ start, wanted, mode, h)
        p = scipy.special.expit(f + x @ (mode - start))
        h = h + x.T @ (x * (p * (1 - p))[:, np.newaxis])
        # f as the network has it by now.
        moved = replace(shown, response=torch.from_numpy(f + x @ (weights(scorer) - start)))
        update(posterior, scorer, moved, wanted)
        np.testing.assert_allclose(weights(scorer), mode, atol=1e-4)
        np.testing.assert_allclose(precision(posterior, scorer), h, atol=1e-4)
        assert np.abs(weights(scorer) - before).max() > 0.01  # or there was nothing to find
        before = weights(scorer)


def test_weights_and_biases_of_a_logistic_model_are_recovered() -> None:
    rng = np.random.default_rng(81)
    text = 4 * random_text(rng, 80, WIDE.text_dim)  # long vectors: every weight matters
    scorer, prior = (random_scorer(rng, text, WIDE, scale=0.1).requires_grad_(False) for _ in range(2))
    scorer.information.zero_()
    posterior, start = Posterior(scorer), weights(scorer)
    spread = 1 / np.sqrt(np.append(PRECISIONS, np.full(80, 2.0)))  # before anything is known
    truth = start + rng.normal(size=len(start)) * spread.clip(max=0.4)
    shown = impressions(scorer, rng, 6000, prior)
    x = shown.joint()
    update(posterior, scorer, shown, clicks(rng, shown.response.double().numpy() + x @ (truth - start)))
    error, h, n_shared = weights(scorer) - truth, precision(posterior, scorer), len(PRECISIONS)
    deviation = np.sqrt(np.diag(np.linalg.inv(h)))
    # The truth is likely under the posterior as a whole, and weight by weight.
    assert error @ h @ error < scipy.stats.chi2.ppf(1 - 1e-4, len(truth))
    assert np.abs(error / deviation).max() < 4.5
    # That says something: weights are known much better than before, and so are the items themselves; which part of
    # an item is its bias and which its text's, 80 items cannot tell for sure.
    assert np.median((deviation / spread)[:n_shared]) < 0.25
    items = np.hstack([text[:, :N_LEADING].numpy(), np.zeros((80, n_shared - N_LEADING)), np.eye(80)])
    assert rms(items @ error) < 0.2 * rms(items @ (truth - start))


def rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))


@pytest.mark.parametrize("config", [WIDE, CONFIG], ids=["wide", "narrow"])
def test_f_moves_with_its_linear_weights_as_the_features_say(config: NetworkConfig) -> None:
    """Sessions' taste held: of biases, the level and the prior's gain it has a part that is not linear."""
    rng = np.random.default_rng(82)
    scorer = network(rng, 0.7, config)
    prior = random_scorer(rng, scorer.text, config).requires_grad_(False)
    before = impressions(scorer, np.random.default_rng(83), 20, prior)
    as_before = scorer.with_text(scorer.text).requires_grad_(False)
    parts, leading = scorer.linear_weights(), (min(N_LEADING, config.text_dim), min(N_LEADING, config.dim))
    assert sum(map(len, parts)) == before.features.shape[1] == sum(leading) + 12
    # One weight after the other, so that no two can stand in for each other.
    places = [(part, i) for part in parts for i in range(len(part))]
    for (part, i), feature in zip(places, before.features.T, strict=True):
        part[i] += 0.5
        after = impressions(scorer, np.random.default_rng(83), 20, prior, as_before)
        part[i] -= 0.5
        torch.testing.assert_close(after.features, before.features)  # they do not depend on the weights
        torch.testing.assert_close(after.response - before.response, 0.5 * feature, atol=1e-5, rtol=1e-5)
    scorer.id_bias[4] += 0.5
    after = impressions(scorer, np.random.default_rng(83), 20, prior, as_before)
    torch.testing.assert_close(after.response - before.response, 0.5 * (before.items == 4).float(), atol=1e-5, rtol=0)


def test_what_is_known_only_grows() -> None:
    rng = np.random.default_rng(84)
    scorer = network(rng)
    posterior = Posterior(scorer)
    for _ in range(5):
        information, h = scorer.information.clone(), precision(posterior, scorer)
        shown = impressions(scorer, rng, 2)
        update(posterior, scorer, shown, clicks(rng, shown.response.double().numpy()))
        is_shown = torch.zeros(ITEMS, dtype=torch.bool).index_fill(0, shown.items, True)
        assert not is_shown.all()
        assert (scorer.information[is_shown] > information[is_shown]).all()
        assert torch.equal(scorer.information[~is_shown], information[~is_shown])
        assert np.linalg.eigvalsh(precision(posterior, scorer) - h).min() > -1e-5


def test_each_impression_tells_at_most_a_quarter() -> None:
    rng = np.random.default_rng(85)
    scorer = network(rng)
    scorer.information.zero_()
    shown = impressions(scorer, rng, 100)
    update(Posterior(scorer), scorer, shown, rng.random(100 * SLOTS))
    times = torch.bincount(shown.items, minlength=ITEMS)
    assert (scorer.information <= times / 4).all()
    assert (scorer.information > 0).all()


def learned(rng: np.random.Generator) -> tuple[ItemScorer, Posterior]:
    scorer = network(rng)
    posterior = Posterior(scorer)
    shown = impressions(scorer, rng, 20)
    update(posterior, scorer, shown, clicks(rng, shown.response.double().numpy()))
    return scorer, posterior


def test_of_new_items_nothing_is_known_and_of_old_ones_nothing_is_lost() -> None:
    rng = np.random.default_rng(86)
    scorer, posterior = learned(rng)
    shared, by_item, information = posterior.shared.clone(), posterior.by_item.clone(), scorer.information.clone()
    grown = scorer.with_text(torch.cat([scorer.text, random_text(rng, 4, WIDE.text_dim)]))
    posterior.grow(ITEMS + 4)
    assert torch.equal(posterior.shared, shared)
    assert torch.equal(posterior.by_item[:ITEMS], by_item) and torch.equal(grown.information[:ITEMS], information)
    assert posterior.by_item.shape == (ITEMS + 4, len(PRECISIONS)) and not posterior.by_item[ITEMS:].any()
    assert grown.information.shape == (ITEMS + 4,) and not grown.information[ITEMS:].any()


def test_the_state_comes_back_bit_for_bit_and_goes_on_alike() -> None:
    rng = np.random.default_rng(87)
    scorer, posterior = learned(rng)
    resumed = Posterior(scorer)
    resumed.load_state_dict(posterior.state_dict())
    copy = scorer.with_text(scorer.text).requires_grad_(False)
    shown = impressions(scorer, rng, 20)
    wanted = clicks(rng, shown.response.double().numpy())
    assert torch.equal(update(posterior, scorer, shown, wanted), update(resumed, copy, shown, wanted))
    for name, tensor in posterior.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor)
    assert all(torch.equal(copy.state_dict()[name], tensor) for name, tensor in scorer.state_dict().items())


def test_one_batch_or_two_make_little_difference() -> None:
    """Two stop at the first half's curvature; a tenth of a deviation is what that may cost on an easy problem."""
    n = 200
    modes, precisions = [], []
    for sizes in ((2 * n,), (n, n)):
        rng = np.random.default_rng(88)
        scorer = network(rng)
        posterior = Posterior(scorer)
        start, shown = weights(scorer), impressions(scorer, rng, 2 * n)
        x, f = shown.joint(), shown.response.double().numpy()
        wanted = clicks(rng, f + 0.5)
        rows = np.split(np.arange(len(f)), np.cumsum(sizes)[:-1] * SLOTS)
        for part in rows:
            now = torch.from_numpy(f[part] + x[part] @ (weights(scorer) - start))
            update(posterior, scorer, Shown(shown.features[part], shown.items[part], now), wanted[part])
        modes.append(weights(scorer))
        precisions.append(precision(posterior, scorer))
    deviation = np.sqrt(np.diag(np.linalg.inv(precisions[0])))
    assert np.abs(modes[0] - start).max() > 0.5
    assert np.abs((modes[1] - modes[0]) / deviation).max() < 0.1
    np.testing.assert_allclose(np.diag(precisions[1]), np.diag(precisions[0]), rtol=0.1)


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
def test_an_update_never_ends_worse_than_it_began(scale: float) -> None:
    """Networks that are far off: a Newton step is shortened as a whole, not weight by weight."""
    for seed in range(20):
        rng = np.random.default_rng([93, seed])
        scorer = network(rng, scale)
        posterior, shown = Posterior(scorer), impressions(scorer, rng, 30)
        f = shown.response.double().numpy()
        wanted, start, h = clicks(rng, -f), weights(scorer), precision(posterior, scorer)
        update(posterior, scorer, shown, wanted)
        moved = weights(scorer) - start
        after = f + shown.joint() @ moved
        ends = moved @ h @ moved / 2 + (np.logaddexp(0, after) - wanted * after).sum()
        assert ends < (np.logaddexp(0, f) - wanted * f).sum()


def test_what_is_returned_is_what_the_network_says_afterwards() -> None:
    rng = np.random.default_rng(89)
    scorer = network(rng)
    before, shown = [part.clone() for part in scorer.linear_weights()], impressions(scorer, rng, 10)
    biases = scorer.id_bias.detach().clone()
    after = update(Posterior(scorer), scorer, shown, rng.random(10 * SLOTS))
    moved = torch.cat([now - then for now, then in zip(scorer.linear_weights(), before, strict=True)])
    by_item = (scorer.id_bias.detach() - biases)[shown.items]
    torch.testing.assert_close(after, shown.response + shown.features @ moved + by_item, atol=1e-4, rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.floats(-60, 60), st.sampled_from([0.0, 0.5, 1.0]))
def test_whatever_surprises_it_stays_finite(seed: int, f: float, wanted: float) -> None:
    rng = np.random.default_rng(seed)
    scorer = network(rng)
    posterior = Posterior(scorer)
    start = weights(scorer)
    for _ in range(3):
        shown = impressions(scorer, rng, 5)
        update(posterior, scorer, replace(shown, response=torch.full_like(shown.response, f)), np.full(15, wanted))
    assert np.isfinite(weights(scorer)).all() and np.isfinite(precision(posterior, scorer)).all()
    assert np.abs(weights(scorer) - start).max() <= 3 * 20 * 1.0 + 1e-3  # Newton steps of at most 1
