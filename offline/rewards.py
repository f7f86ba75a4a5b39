"""The reward model r(s, a): what the judgements say, generalised through text, with its uncertainty.

Two parts, as in the judgements. The prior of an item is its judged z-score where it was judged, and a Bayesian linear
regression on text features elsewhere. The personal part is a Bayesian linear regression (Bishop 2006, section 3.3) on
how the item's text relates to the texts of the session. Most pre-training steps ask the language model for nothing,
since this answers.

    logit r(s, a) = offset + prior_weight z_prior(a) + personal_weight z_personal(s, a) - caution sd(s, a)

The offset makes the mean reward of a stranger over the catalogue equal to `base_rate`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from offline.defaults import PERSONAL_WEIGHT, PRIOR_WEIGHT
from offline.preferences import Preference, Prior
from service.policy.types import Interaction, Response, States, pack_states

_PRECISIONS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_JUDGED_VARIANCE = 0.05  # of a judged prior, in squared z


@dataclass(frozen=True)
class RewardConfig:
    """How the two parts are weighed."""

    prior_weight: float = PRIOR_WEIGHT
    personal_weight: float = PERSONAL_WEIGHT
    caution: float = 0.5  # standard deviations taken off where the model does not know
    base_rate: float = 0.1  # mean reward of an item to a stranger
    max_history: int = 20


@dataclass(frozen=True)
class BayesianRegression:
    """y = w.x + noise with w ~ N(0, 1/precision); the posterior of w."""

    mean: Tensor  # [F]
    covariance: Tensor  # [F, F]
    noise: float  # variance
    precision: float

    @classmethod
    def fit(cls, x: Tensor, y: Tensor) -> BayesianRegression:
        """Fit to x [n, F], y [n] (float64); prior precision and noise by the largest evidence on a small grid."""
        spread = max(float(y.var(unbiased=False)), 1e-6) if len(y) else 1.0
        grid = [(p, spread * share) for p in _PRECISIONS for share in (0.25, 0.5, 0.75, 0.9, 1.0)]
        precision, noise = max(grid, key=lambda pair: log_evidence(x, y, *pair))
        covariance = torch.linalg.inv(precision * torch.eye(x.shape[1], dtype=x.dtype) + x.T @ x / noise)
        return cls(covariance @ (x.T @ y) / noise, covariance, noise, precision)

    def single(self) -> BayesianRegression:
        """The same in float32: fitting needs double precision, predicting does not."""
        return BayesianRegression(self.mean.float(), self.covariance.float(), self.noise, self.precision)

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (of the mean, without noise) at x [..., F]; both [...]."""
        return x @ self.mean, ((x @ self.covariance) * x).sum(-1)


def log_evidence(x: Tensor, y: Tensor, precision: float, noise: float) -> float:
    """log p(y | x) of Bayesian linear regression (Bishop 2006, eq. 3.86), x [n, F], y [n]."""
    n, f = x.shape
    a = precision * torch.eye(f, dtype=x.dtype) + x.T @ x / noise
    mean = torch.linalg.solve(a, x.T @ y) / noise
    misfit = ((y - x @ mean) ** 2).sum() / noise + precision * (mean**2).sum()
    log_det = torch.linalg.slogdet(a).logabsdet
    constants = f * math.log(precision) - n * math.log(2 * math.pi * noise)
    return float(0.5 * (constants - misfit - log_det))


def personal_features(states: States, text: Tensor) -> Tensor:
    """How each item relates to each session, [B, A, F]; `text` [A, d] are unit rows, F = d + 4.

    Constant, closeness to the mean and to the nearest liked item, closeness to the mean disliked one, and the product
    of the mean liked text with the item's, coordinate by coordinate (which learns the directions that matter).
    """
    items, responses, lengths = states
    present = torch.arange(items.shape[1]) < lengths.unsqueeze(1)
    liked = (present & (responses == Response.POSITIVE)).to(text.dtype)
    disliked = (present & (responses == Response.NEGATIVE)).to(text.dtype)
    shown = text[items]  # [B, L, d]
    closeness = shown @ text.T  # [B, L, A]
    count = liked.sum(1, keepdim=True)
    mean_liked = (liked.unsqueeze(-1) * shown).sum(1) / count.clamp_min(1)
    nearest = closeness.masked_fill(liked.unsqueeze(-1) == 0, -1.0).amax(1).masked_fill(count == 0, 0.0)
    mean_disliked = (disliked.unsqueeze(-1) * closeness).sum(1) / disliked.sum(1, keepdim=True).clamp_min(1)
    product = mean_liked.unsqueeze(1) * text  # [B, A, d]
    columns = [torch.ones_like(nearest), product.sum(-1), nearest, mean_disliked]
    return torch.cat([torch.stack(columns, -1), product], -1)


@dataclass(frozen=True)
class RewardModel:
    """Expected reward of every item in a state."""

    config: RewardConfig
    text: Tensor  # [A, d]
    prior: Tensor  # [A] z-scores
    prior_variance: Tensor  # [A]
    personal: BayesianRegression
    offset: float

    @classmethod
    def fit(
        cls,
        priors: Mapping[str, Prior],
        preferences: Sequence[Preference],
        item_ids: Sequence[str],
        text: Tensor,
        config: RewardConfig,
    ) -> RewardModel:
        """Fit both parts; `text` [A, d] are projected unit rows in the order of `item_ids`."""
        index = {item_id: row for row, item_id in enumerate(item_ids)}
        judged = [index[item_id] for item_id in priors]
        z = torch.tensor([prior.z for prior in priors.values()])
        features = torch.cat([torch.ones(len(text), 1), text], 1).double()
        by_text = BayesianRegression.fit(features[judged], z.double())
        prior, variance = (part.float() for part in by_text.predict(features))
        variance += by_text.noise  # an item is more than its text tells
        prior[judged], variance[judged] = z, _JUDGED_VARIANCE
        personal = BayesianRegression.fit(*personal_data(preferences, index, text, config.max_history))
        model = cls(config, text, prior, variance, personal, 0.0)
        stranger, _ = model.logits(pack_states([()], 1))
        return cls(config, text, prior, variance, personal, calibrating_offset(stranger[0], config.base_rate))

    def logits(self, states: States) -> tuple[Tensor, Tensor]:
        """logit r and its standard deviation, [B, A] each."""
        config = self.config
        mean, variance = self.personal.single().predict(personal_features(states, self.text))
        known = (states.lengths > 0).unsqueeze(1)  # nothing is personal about a stranger
        mean, variance = mean * known, variance * known
        spread = (config.prior_weight**2 * self.prior_variance + config.personal_weight**2 * variance).sqrt()
        logits = self.offset + config.prior_weight * self.prior + config.personal_weight * mean
        return logits - config.caution * spread, spread

    def expected(self, states: States) -> Tensor:
        """r(s, a) in (0, 1), [B, A]."""
        return torch.sigmoid(self.logits(states)[0])


def personal_data(
    preferences: Sequence[Preference], index: Mapping[str, int], text: Tensor, max_history: int
) -> tuple[Tensor, Tensor]:
    """Features [n, F] and z-scores [n] of the personal judgements, float64."""
    rows: dict[tuple[tuple[str, int], ...], list[Preference]] = {}
    for preference in preferences:
        rows.setdefault(preference.judgement.history, []).append(preference)
    features, targets = [torch.zeros(0, text.shape[1] + 4)], []
    for history, judged in rows.items():
        of_state = personal_features(pack_states([interactions(history, index)], max_history), text)[0]
        features.append(of_state[[index[p.judgement.item_id] for p in judged]])
        targets += [p.personal_z for p in judged]
    return torch.cat(features).double(), torch.tensor(targets, dtype=torch.float64)


def interactions(history: Sequence[tuple[str, int]], index: Mapping[str, int]) -> tuple[Interaction, ...]:
    """A judged history (item id, +1 or -1) as the policy takes it."""
    return tuple(Interaction(index[item_id], Response.of(response)) for item_id, response in history)


def calibrating_offset(logits: Tensor, mean: float) -> float:
    """What to add to `logits` so that their sigmoids have this mean; bisection."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        if float(torch.sigmoid(logits + middle).mean()) > mean:
            high = middle
        else:
            low = middle
    return (low + high) / 2
