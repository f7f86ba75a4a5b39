"""Small networks, histories and policies with random weights, all drawn from the generator that is passed in."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from service.policy.networks import ItemScorer, NetworkConfig
from service.policy.types import Interaction, Response, States

NEGATIVE, IGNORED, POSITIVE = Response.NEGATIVE, Response.IGNORED, Response.POSITIVE
RESPONSES = (NEGATIVE, IGNORED, POSITIVE, 0.25, -0.5)
CONFIG = NetworkConfig(dim=6, text_dim=5, max_history=5, temperature=0.8, horizon=1.5)
# Wide enough for all weights of the posterior, and a little more.
WIDE = NetworkConfig(dim=26, text_dim=25, max_history=6, temperature=0.8, horizon=1.5)


def random_text(rng: np.random.Generator, n_items: int, text_dim: int = CONFIG.text_dim) -> Tensor:
    """Unit rows [n_items, text_dim]."""
    rows = rng.normal(size=(n_items, text_dim))
    return torch.tensor(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=torch.float32)


def orthogonal_text(rng: np.random.Generator, n_items: int) -> Tensor:
    """Random orthonormal rows [n_items, n_items]: texts that have nothing in common."""
    return torch.tensor(np.linalg.qr(rng.normal(size=(n_items, n_items)))[0], dtype=torch.float32)


def random_scorer(
    rng: np.random.Generator, text: Tensor, config: NetworkConfig = CONFIG, scale: float = 0.7
) -> ItemScorer:
    """A network whose every parameter is N(0, scale^2), the id rows too, and that knows some items well."""
    scorer = ItemScorer(config, text)
    with torch.no_grad():
        for parameter in scorer.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(scale=scale, size=parameter.shape)))
        scorer.information.copy_(torch.from_numpy(rng.exponential(3.0, size=len(text))))
    return scorer


def fresh_scorer(seed: int, text: Tensor, config: NetworkConfig = CONFIG) -> ItemScorer:
    """A network as pre-training starts it, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ItemScorer(config, text)


def responses(scorer: ItemScorer, states: States) -> Tensor:
    """f [B, A] without a prior."""
    table = scorer.table()
    encoded = scorer.encode(states, table)
    return scorer.response(encoded, table, scorer.closeness(encoded, table))


def leaving(scorer: ItemScorer, states: States) -> Tensor:
    """l [B, A]."""
    table = scorer.table()
    return scorer.leaving(scorer.closeness(scorer.encode(states, table), table))


def liked(*items: int) -> tuple[Interaction, ...]:
    """A history of items that the user liked."""
    return tuple(Interaction(item, POSITIVE) for item in items)


def random_response(rng: np.random.Generator) -> float:
    """A full one or a weaker one, or none."""
    return float(rng.choice(RESPONSES))


def random_history(rng: np.random.Generator, length: int, n_items: int) -> tuple[Interaction, ...]:
    """Distinct items with random responses."""
    items = rng.permutation(n_items)[:length]
    return tuple(Interaction(int(i), random_response(rng)) for i in items)


def as_checkpoint(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Through bytes, as a checkpoint travels."""
    return load(save({name: tensor.contiguous() for name, tensor in state.items()}))


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert not [name for name in one if one[name].dtype != other[name].dtype]
    assert not [name for name in one if not torch.equal(one[name], other[name])]
