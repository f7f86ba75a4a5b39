from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from service.policy import losses
from service.policy.types import EMPTY_SLOT, States

Array = npt.NDArray[np.float64]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(scale=1.5, size=shape))


def softmax(logits: Tensor) -> Array:
    return np.asarray(scipy.special.softmax(logits.detach().numpy(), axis=-1))


def test_entropy_equals_scipys() -> None:
    logits = normal(0, 4, 7)
    torch.testing.assert_close(losses.entropy(logits), torch.from_numpy(scipy.stats.entropy(softmax(logits), axis=-1)))


def test_entropy_of_certainty_is_zero_and_of_ignorance_is_log_n() -> None:
    one_left = torch.full((1, 6), losses.MASKED_LOGIT)
    one_left[0, 2] = 3.0
    assert losses.entropy(one_left).item() == 0.0
    assert losses.entropy(torch.zeros(1, 6)).item() == pytest.approx(math.log(6))


def test_kl_divergence_equals_scipys() -> None:
    p, q = normal(1, 4, 7), normal(2, 4, 7)
    oracle = scipy.stats.entropy(softmax(p), softmax(q), axis=-1)
    torch.testing.assert_close(losses.kl_divergence(p, q), torch.from_numpy(oracle))
    assert losses.kl_divergence(p, p).abs().max().item() < 1e-12


def test_kl_divergence_ignores_items_that_both_mask() -> None:
    p, q = normal(3, 1, 5), normal(4, 1, 5)
    mask = torch.tensor([[False, True, False, False, True]])
    masked = losses.kl_divergence(
        p.masked_fill(mask, losses.MASKED_LOGIT), q.masked_fill(mask, losses.MASKED_LOGIT)
    ).item()
    oracle = scipy.stats.entropy(softmax(p[:, ~mask[0]]), softmax(q[:, ~mask[0]]), axis=-1)[0]
    assert masked == pytest.approx(oracle)


def test_td_target_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0], [0.5, -1.0]])
    target = losses.td_target(rewards, torch.tensor([0.9, 0.0]), torch.tensor([2.0, 100.0]))
    torch.testing.assert_close(target, torch.tensor([[2.8, 1.8], [0.5, -1.0]]))


def test_slot_mean_counts_filled_slots_only() -> None:
    values = torch.tensor([[1.0, 2.0, 50.0], [6.0, 70.0, 80.0]])
    actions = torch.tensor([[0, 3, EMPTY_SLOT], [2, EMPTY_SLOT, EMPTY_SLOT]])
    assert losses.slot_mean(values, actions).item() == 3.0
    assert losses.slot_mean(values, torch.full_like(actions, EMPTY_SLOT)).item() == 0.0


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_slate_log_probs_equal_enumeration_of_every_ordered_slate(k: int) -> None:
    logits = normal(8, 1, 5)
    pi = softmax(logits)[0]
    slates = list(itertools.permutations(range(5), k))
    log_probs = losses.slate_log_probs(logits.expand(len(slates), 5), torch.tensor(slates))
    for slate, row in zip(slates, log_probs, strict=True):
        left = 1.0
        for slot, item in enumerate(slate):
            assert row[slot].exp().item() == pytest.approx(pi[item] / left, rel=1e-9)
            left -= pi[item]
    assert log_probs.sum(1).exp().sum().item() == pytest.approx(1.0, abs=1e-12)


def test_slate_log_probs_of_empty_slots_are_zero() -> None:
    logits = normal(9, 2, 5)
    full = losses.slate_log_probs(logits, torch.tensor([[3, 1], [4, 2]]))
    padded = losses.slate_log_probs(logits, torch.tensor([[3, 1, EMPTY_SLOT], [EMPTY_SLOT, EMPTY_SLOT, EMPTY_SLOT]]))
    torch.testing.assert_close(padded[0, :2], full[0])
    assert padded[0, 2] == 0
    assert torch.equal(padded[1], torch.zeros(3, dtype=torch.float64))


def test_slate_log_probs_gradient_is_finite_with_masked_items() -> None:
    logits = normal(10, 1, 5).masked_fill(torch.tensor([[True, False, False, False, True]]), losses.MASKED_LOGIT)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(losses.slate_log_probs(logits, torch.tensor([[1, 2, 3]])).sum(), logits)
    assert gradient.isfinite().all()
    assert gradient[0, [0, 4]].abs().max() == 0


def test_clipped_importance_ratios_by_hand_and_without_gradient() -> None:
    log_probs = torch.tensor([[0.1, 0.6, 0.5]]).log().requires_grad_()
    propensities = torch.tensor([[0.4, 0.2, 0.5]])
    ratios = losses.clipped_importance_ratios(log_probs, propensities, 2.0)
    torch.testing.assert_close(ratios, torch.tensor([[0.25, 2.0, 1.0]]))
    assert not ratios.requires_grad


def test_policy_gradient_loss_and_its_gradient_by_hand() -> None:
    log_probs = torch.tensor([[-1.0, -2.0], [-0.5, 0.0]], requires_grad=True)
    advantages = torch.tensor([[3.0, -1.0], [2.0, 9.0]], requires_grad=True)
    ratios = torch.tensor([[1.0, 0.5], [0.25, 1.0]])
    actions = torch.tensor([[0, 1], [2, EMPTY_SLOT]])
    loss = losses.policy_gradient_loss(log_probs, advantages, ratios, actions)
    assert loss.item() == pytest.approx(-(-3.0 + 1.0 - 0.25) / 3)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(log_probs.grad, -torch.tensor([[3.0, -0.5], [0.5, 0.0]]) / 3)
    assert advantages.grad is None


def test_mask_history_forbids_the_items_of_the_session_and_no_others() -> None:
    logits = normal(16, 3, 4)
    # Padding repeats item 0 (and, in row 2, a stale 3): it must not be taken for history.
    items = torch.tensor([[1, 1, 0], [0, 0, 0], [2, 3, 3]])
    masked = losses.mask_history(logits, States(items, torch.ones_like(items), torch.tensor([2, 0, 1])))
    forbidden = torch.tensor([[False, True, False, False], [False] * 4, [False, False, True, False]])
    assert torch.equal(masked[~forbidden], logits[~forbidden])
    assert softmax(masked)[forbidden.numpy()].max() == 0


def test_what_could_be_shown_is_what_was_named_or_all_but_the_session() -> None:
    logits = normal(17, 2, 4)
    states = States(torch.tensor([[1], [2]]), torch.ones(2, 1, dtype=torch.int64), torch.tensor([1, 1]))
    only = torch.tensor([[3, 1, EMPTY_SLOT], [EMPTY_SLOT] * 3])  # an empty place is not item 0
    masked = losses.mask_unavailable(logits, states, only)
    assert torch.equal(masked[0, [1, 3]], logits[0, [1, 3]])
    assert softmax(masked)[0, [0, 2]].max() == 0
    assert torch.equal(masked[1], losses.mask_history(logits, states)[1])
    assert torch.equal(losses.mask_unavailable(logits, states, None), losses.mask_history(logits, states))
