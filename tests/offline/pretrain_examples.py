"""A catalogue of five kinds, judgements of it, and the closed form of what pre-training makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from offline.judgements import Judgement
from offline.preferences import Calibration, Preference, Preferences, Prior
from offline.pretrain import CLOSENESS, DISLIKE, SILENCE, PretrainConfig, Pretrained, pretrain
from service.policy import losses
from service.policy.networks import RARE, NetworkConfig
from service.policy.text import TEXT_DIM
from service.policy.types import Interaction, Response, pack_states
from tests.policy.policy_examples import IGNORED, NEGATIVE, POSITIVE, responses

N_GROUPS, N_ITEMS = 5, 60
CONFIG = PretrainConfig(network=NetworkConfig(dim=8, text_dim=8, max_history=30))
UNCALIBRATED = Calibration(0.5, 0.0, 1.0, 0.0, 1.0)
History = Sequence[tuple[int, Response]]


def names_of(n: int) -> list[str]:
    return [f"item-{k}" for k in range(n)]


@cache
def embeddings(n: int = N_ITEMS, noise: float = 0.7) -> np.ndarray:
    """Item k is of group k % 5; texts of a group are alike."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(N_GROUPS, TEXT_DIM))
    rows = centres[np.arange(n) % N_GROUPS] + noise * rng.normal(size=(n, TEXT_DIM))
    unit: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


NOTHING = Preferences({}, (), UNCALIBRATED)


@cache
def texts(n: int = N_ITEMS, noise: float = 0.7) -> np.ndarray:
    """The texts [A, text_dim] as the network sees them."""
    return pretrain(names_of(n), embeddings(n, noise), NOTHING, CONFIG).actor.text.numpy()


def judged(history: Sequence[int], item: int, z: float, n: int) -> Preference:
    ids = names_of(n)
    shown = tuple((ids[i], 1) for i in history)
    return Preference(Judgement("k", shown, ids[item], "likelihood", "m", "1", 0.0, 1), 0.0, z, 0.0, z)


def closeness(v: np.ndarray, history: Sequence[int], item: int) -> float:
    profile = sum(v[i] for i in history) / (len(history) + 2)
    return float(CLOSENESS[0] * (profile @ v[item]) + CLOSENESS[1] * max(0.0, *(v[i] @ v[item] for i in history[-4:])))


@cache
def preferences(n: int = N_ITEMS, personal: float = 0.3, names: bool = False) -> Preferences:
    """Priors that follow texts, and judgements of 60 states that follow closeness times `personal`; noise on both."""
    rng, v, ids = np.random.default_rng(1), texts(n), names_of(n)
    prior = 2 * v[:, 0] + 0.5 * v[:, 1] + 0.3 * rng.normal(size=n)
    rows = []
    for _ in range(60):
        history = rng.choice(n, 3, replace=False).tolist()
        for item in rng.choice(n, 10, replace=False).tolist():
            rows.append(judged(history, item, personal * closeness(v, history, item) + 0.3 * rng.normal(), n))
    likely = {i: float(rng.normal()) for i in ids} if names else {}
    priors = {i: Prior(float(z), float(z)) for i, z in zip(ids, prior, strict=True)}
    return Preferences(priors, tuple(rows), UNCALIBRATED, likely)


def made(judgements: Preferences, n: int = N_ITEMS, config: PretrainConfig = CONFIG) -> Pretrained:
    return pretrain(names_of(n), embeddings(n), judgements, config)


def f_of(result: Pretrained, *histories: History) -> np.ndarray:
    """f [B, A] in log odds."""
    packed = pack_states([tuple(Interaction(i, r) for i, r in h) for h in histories], result.actor.config.max_history)
    with torch.no_grad():
        return responses(result.actor, packed).numpy()


def policy(result: Pretrained, history: History) -> np.ndarray:
    """pi [A] with what is in the history left out."""
    packed = pack_states([tuple(Interaction(i, r) for i, r in history)], result.actor.config.max_history)
    with torch.no_grad():
        return torch.softmax(losses.mask_history(result.actor(packed), packed), 1)[0].double().numpy()


def said(
    v: np.ndarray, prior: np.ndarray, told: np.ndarray, history: History, config: PretrainConfig = CONFIG
) -> np.ndarray:
    """The closed form, item by item; silence and dislikes count a part of what a like does, the other way."""
    by = {kind: [i for i, r in history if r is kind] for kind in (POSITIVE, NEGATIVE, IGNORED)}
    late_likes = [n for n, (_, r) in enumerate(history) if r is POSITIVE][-4:]
    latest = [n for n, (_, r) in enumerate(history) if r is IGNORED or n in late_likes][-14:]
    near = [[history[n][0] for n in latest if (history[n][1] is POSITIVE) is liked] for liked in (True, False)]
    out = []
    for item in range(len(v)):
        personal = 0.0
        for kind, share in ((POSITIVE, 1.0), (NEGATIVE, -DISLIKE), (IGNORED, -SILENCE)):
            profile = sum((v[i] for i in by[kind]), np.zeros(v.shape[1])) / (len(by[kind]) + 2)
            personal += share * (told[0] * (profile @ v[item]) + (told[2:] * profile * v[item]).sum())
        near_liked, near_vain = (max([0.0, *(v[i] @ v[item] for i in some)]) for some in near)
        personal += told[1] * (near_liked - SILENCE * near_vain)
        out.append(RARE + prior[item] + config.personal_weight * personal)
    return np.array(out)


def standardised(values: np.ndarray) -> np.ndarray:
    """With mean 0 and deviation 1."""
    return np.asarray((values - values.mean()) / values.std(ddof=1))
