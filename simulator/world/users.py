"""User truth: how likely each user likes each item, fitted on real data and hidden from everything that recommends.

Logistic matrix factorisation (C. C. Johnson, 2014): logit p[u, a] = <x_u, y_a> + b_u + b_a, fitted by Adam over rows of
users, then shifted per user so that the probabilities have a given mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch.nn import functional

from offline.datasets import Interactions
from service.durable import write_file
from simulator.errors import SimulatorError

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
_TENSORS = ("user_factors", "user_bias", "item_factors", "item_bias")


@dataclass(frozen=True)
class UserModelConfig:
    """Settings for fitting user truth.

    `implicit`: every cell that was not liked is a negative (nobody knows who saw what). `explicit`: only the responses
    that were observed count, liked or not.
    """

    feedback: Literal["implicit", "explicit"] = "implicit"
    dim: int = 16
    epochs: int = 60
    batch_users: int = 64
    learning_rate: float = 0.02
    l2: float = 2.0  # per factor and user or item, against the sum of the cells' losses
    holdout: float = 0.2  # share of each user's positives that the check fit does not see
    mean_affinity: float | None = None  # None: the observed positive rate
    # Activity in a log says how long someone stayed more than how much they like what they are shown. 1 keeps each
    # user's own positive rate, 0 gives everyone the same, between them the geometric mean.
    activity: float = 0.5


@dataclass(frozen=True)
class UserModel:
    """Fitted truth of U users about A items."""

    user_factors: Floats  # [U, d]
    user_bias: Floats  # [U]
    item_factors: Floats  # [A, d]
    item_bias: Floats  # [A]
    auc: float  # mean per-user AUC of held-out positives, measured on a fit that did not see them
    config: UserModelConfig

    @cached_property
    def affinity(self) -> Floats:
        """[U, A] probability of a positive response to a fresh item, 0 < p < 1."""
        logits = self.user_factors @ self.item_factors.T + self.user_bias[:, None] + self.item_bias
        return sigmoid(logits)

    @cached_property
    def popularity(self) -> Floats:
        """[A] mean affinity over all users."""
        return np.asarray(self.affinity.mean(axis=0), np.float32)

    @cached_property
    def logits_by_item(self) -> Floats:
        """[A, U] log odds of the affinity, one item's users side by side."""
        return np.ascontiguousarray((np.log(self.affinity) - np.log1p(-self.affinity)).T)

    @cached_property
    def item_vectors(self) -> Floats:
        """[A, d] unit vectors of the items in the truth's own space, for similarity."""
        norms = np.linalg.norm(self.item_factors, axis=1, keepdims=True)
        return np.asarray(self.item_factors / np.maximum(norms, 1e-12), np.float32)

    def save(self, path: Path) -> None:
        """Write the model as one safetensors file, whole or not at all."""
        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in _TENSORS}
        metadata = {"format": "ialp-user-model-1", "auc": repr(self.auc), "config": json.dumps(asdict(self.config))}
        write_file(path, save(tensors, metadata))

    @classmethod
    def load(cls, path: Path) -> UserModel:
        """Read what `save` wrote.

        Raises:
            SimulatorError: the file is missing or is not a user model.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
            return cls(**tensors, auc=float(metadata["auc"]), config=UserModelConfig(**json.loads(metadata["config"])))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise SimulatorError(f"{path}: not a user model ({error}); delete it, it is fitted again") from None


Progress = Callable[[int, int], None]  # epochs that are over, and of how many


def fit_users(
    interactions: Interactions,
    n_items: int,
    config: UserModelConfig,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> UserModel:
    """Fit user truth twice: without the held-out positives for the AUC, then on everything.

    The AUC ranks held-out positives against cells never observed (implicit) or against held-out dislikes (explicit).

    Raises:
        SimulatorError: no positive response among the interactions.
    """
    shape = (interactions.n_users, n_items)
    liked, observed = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    observed[interactions.user, interactions.item] = True
    liked[interactions.user[interactions.liked], interactions.item[interactions.liked]] = True
    if not liked.any():
        raise SimulatorError("no interaction is liked, so no user can be simulated; check the column 'liked'")
    explicit = config.feedback == "explicit"
    rng = np.random.default_rng(seed)
    chosen = (observed if explicit else liked) & (rng.random(shape, np.float32) < config.holdout)
    with _one_thread():
        total = 2 * config.epochs
        check = _fit(liked & ~chosen, observed & ~chosen, config, seed, lambda n: progress(n, total))
        parameters = _fit(liked, observed, config, seed, lambda n: progress(config.epochs + n, total))
    auc = mean_user_auc(_logits(check), liked & chosen, ~liked & (chosen if explicit else ~observed))
    shift = _calibrating_shift(_logits(parameters), _target_means(liked, observed, config))
    x, b_u, y, b_a = parameters
    return UserModel(x, b_u + shift, y, b_a, auc, config)


def sigmoid(logits: npt.NDArray[np.floating]) -> Floats:
    """1 / (1 + exp(-logits)), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)), np.float32)


def mean_user_auc(scores: Floats, positives: Bools, negatives: Bools) -> float:
    """Mean over users of P(score of a positive > score of a negative), ties half; users without both do not count."""
    aucs = []
    for score, positive, negative in zip(scores, positives, negatives, strict=True):
        if positive.any() and negative.any():
            below = np.sort(score[negative])
            wins = np.searchsorted(below, score[positive], "left") + np.searchsorted(below, score[positive], "right")
            aucs.append(float(wins.mean()) / (2 * len(below)))
    return float(np.mean(aucs)) if aucs else float("nan")


Parameters = tuple[Floats, Floats, Floats, Floats]  # x [U, d], b_u [U], y [A, d], b_a [A]


def _logits(parameters: Parameters) -> Floats:
    x, b_u, y, b_a = parameters
    return np.asarray(x @ y.T + b_u[:, None] + b_a, np.float32)


def _target_means(liked: Bools, observed: Bools, config: UserModelConfig) -> Floats:
    """[U] the mean probability each user shall have; their mean is `mean_affinity` or the observed positive rate."""
    seen = observed if config.feedback == "explicit" else np.ones_like(observed)
    overall = liked.sum() / seen.sum()
    # One pseudo-response at the overall rate keeps users without positives (or with nothing else) off 0 and 1.
    own = (liked.sum(axis=1) + overall) / (seen.sum(axis=1) + 1.0)
    relative = own**config.activity / np.mean(own**config.activity)
    target = (overall if config.mean_affinity is None else config.mean_affinity) * relative
    return np.asarray(np.clip(target, 1e-5, 0.95), np.float32)


def _calibrating_shift(logits: Floats, target: Floats) -> Floats:
    """[U] what to add to each row of `logits` [U, A] so that the row's mean probability is `target` [U]; bisection."""
    low, high = np.full(len(target), -20.0, np.float32), np.full(len(target), 20.0, np.float32)
    for _ in range(25):
        middle = (low + high) / 2
        above = sigmoid(logits + middle[:, None]).mean(axis=1) > target
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.asarray((low + high) / 2, np.float32)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small steps on several threads are slower than on one, and next to a busy neighbour a hundred times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fit(
    liked: Bools, observed: Bools, config: UserModelConfig, seed: int, progress: Callable[[int], None]
) -> Parameters:
    n_users, n_items = liked.shape
    explicit = config.feedback == "explicit"
    generator = torch.Generator().manual_seed(seed)
    rate = min(max(liked.sum() / (observed.sum() if explicit else liked.size), 1e-6), 1 - 1e-6)
    # x and b_u side by side, sparse: a plain Adam would keep moving, by its momentum, users who are not in the batch.
    users = torch.nn.Embedding(n_users, config.dim + 1, sparse=True)
    y = torch.nn.Parameter(0.1 * torch.randn(n_items, config.dim, generator=generator))
    b_a = torch.nn.Parameter(torch.full((n_items,), float(np.log(rate / (1 - rate)))))
    with torch.no_grad():
        users.weight.copy_(0.1 * torch.randn(n_users, config.dim + 1, generator=generator))
    optimizers: tuple[torch.optim.Optimizer, ...] = (
        torch.optim.SparseAdam(list(users.parameters()), lr=config.learning_rate),
        torch.optim.Adam([y, b_a], lr=config.learning_rate),
    )
    targets, mask = torch.from_numpy(liked), torch.from_numpy(observed)
    for epoch in range(config.epochs):
        for rows in torch.split(torch.randperm(n_users, generator=generator), config.batch_users):
            own = users(rows)
            logits = own[:, :-1] @ y.T + own[:, -1:] + b_a
            weight = mask[rows].float() if explicit else None
            loss = functional.binary_cross_entropy_with_logits(logits, targets[rows].float(), weight, reduction="sum")
            penalty = own.square().sum() + len(rows) / n_users * (y.square().sum() + (b_a - b_a.mean()).square().sum())
            for optimizer in optimizers:
                optimizer.zero_grad()
            ((loss + config.l2 * penalty) / len(rows)).backward()
            for optimizer in optimizers:
                optimizer.step()
        progress(epoch + 1)
    table = users.weight.detach().numpy()
    return table[:, :-1].copy(), table[:, -1].copy(), y.detach().numpy(), b_a.detach().numpy()
