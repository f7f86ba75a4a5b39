"""The reward model: closed forms against plain numpy, and that it finds what was planted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from offline.rewards import (
    BayesianRegression,
    RewardConfig,
    RewardModel,
    calibrating_offset,
    log_evidence,
    personal_features,
)
from scipy.stats import multivariate_normal

from offline.judgements import Judgement
from offline.preferences import Preference, Prior
from service.policy.types import Interaction, Response, pack_states


def unit(rng: np.random.Generator, n: int, d: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(n, d))).float(), dim=1)


def preference(history: tuple[tuple[str, int], ...], item: str, z: float) -> Preference:
    judgement = Judgement("key", history, item, "likelihood", "model", "1", 0.0, 1)
    return Preference(judgement, 0.0, 0.0, 0.0, z)


def test_log_evidence_is_the_density_of_the_marginal_normal() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=7)
    marginal = multivariate_normal(np.zeros(7), 0.3 * np.eye(7) + x @ x.T / 2.0)
    got = log_evidence(torch.from_numpy(x), torch.from_numpy(y), precision=2.0, noise=0.3)
    assert got == pytest.approx(marginal.logpdf(y), abs=1e-9)


def test_regression_recovers_planted_weights_and_is_unsure_where_it_saw_nothing() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 3))
    x[:, 2] = 0.0
    y = x @ np.array([1.0, -2.0, 5.0]) + 0.1 * rng.normal(size=400)
    fitted = BayesianRegression.fit(torch.from_numpy(x), torch.from_numpy(y))
    assert fitted.mean.numpy() == pytest.approx([1.0, -2.0, 0.0], abs=0.1)
    _, variance = fitted.predict(torch.eye(3, dtype=torch.float64))
    assert variance[2] > 20 * variance[0]


def test_features_against_a_plain_loop() -> None:
    rng = np.random.default_rng(2)
    text = unit(rng, 6, 4)
    history = [
        Interaction(0, Response.POSITIVE),
        Interaction(1, Response.NEGATIVE),
        Interaction(2, Response.POSITIVE),
        Interaction(3, Response.IGNORED),
    ]
    got = personal_features(pack_states([history, []], 8), text)
    t = text.numpy()
    liked = (t[0] + t[2]) / 2
    for item in range(6):
        expected = [1.0, liked @ t[item], max(t[0] @ t[item], t[2] @ t[item]), t[1] @ t[item], *(liked * t[item])]
        assert got[0, item].numpy() == pytest.approx(expected, abs=1e-6)
        assert got[1, item].numpy() == pytest.approx([1.0, *[0.0] * 7], abs=1e-6)


def test_judged_priors_stand_and_unjudged_ones_follow_their_text() -> None:
    rng = np.random.default_rng(3)
    text = unit(rng, 300, 5)
    truth = 3 * text[:, 0]
    ids = [str(n) for n in range(300)]
    priors = {ids[n]: Prior(0.0, float(truth[n])) for n in range(200)}
    model = RewardModel.fit(priors, [], ids, text, RewardConfig(caution=0.0))
    assert model.prior[:200].numpy() == pytest.approx(truth[:200].numpy(), abs=1e-6)
    assert np.corrcoef(model.prior[200:].numpy(), truth[200:].numpy())[0, 1] > 0.95


def test_a_stranger_expects_the_base_rate_and_liking_something_moves_what_is_like_it() -> None:
    rng = np.random.default_rng(4)
    text = unit(rng, 60, 5)
    ids = [str(n) for n in range(60)]
    closeness = (text @ text.T).numpy()
    judged = [
        preference(((ids[a], 1),), ids[b], float(2 * closeness[a, b])) for a in range(60) for b in range(60) if a != b
    ]
    config = RewardConfig(personal_weight=1.0, caution=0.0, base_rate=0.1)
    model = RewardModel.fit({i: Prior(0.0, 0.0) for i in ids}, judged, ids, text, config)
    states = pack_states([(), (Interaction(7, Response.POSITIVE),)], 5)
    expected = model.expected(states)
    assert expected[0].mean().item() == pytest.approx(0.1, abs=1e-4)
    order = np.argsort(-closeness[7])
    assert expected[1, order[1]] > expected[0, order[1]]
    assert expected[1, order[-1]] < expected[0, order[-1]]
    assert np.corrcoef(torch.logit(expected[1]).numpy(), closeness[7])[0, 1] > 0.95


def test_caution_lowers_what_is_uncertain() -> None:
    rng = np.random.default_rng(5)
    text = unit(rng, 40, 5)
    ids = [str(n) for n in range(40)]
    priors = {i: Prior(0.0, float(rng.normal())) for i in ids[:20]}
    bold = RewardModel.fit(priors, [], ids, text, RewardConfig(caution=0.0))
    states = pack_states([()], 1)
    cautious = RewardModel(RewardConfig(caution=1.0), text, bold.prior, bold.prior_variance, bold.personal, bold.offset)
    lowered = (bold.logits(states)[0] - cautious.logits(states)[0])[0]
    assert lowered.min() > 0
    assert lowered[20:].min() > lowered[:20].max()


@pytest.mark.parametrize("mean", [0.01, 0.1, 0.7])
def test_offset_gives_the_mean(mean: float) -> None:
    logits = torch.linspace(-5, 5, 101)
    offset = calibrating_offset(logits, mean)
    got = sum(1 / (1 + math.exp(-(x + offset))) for x in logits.tolist()) / 101
    assert got == pytest.approx(mean, abs=1e-5)
