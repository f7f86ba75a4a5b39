"""Interface of every learner for the worker and pre-training, and how its optimiser is stored in a checkpoint."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from service.policy.networks import ItemScorer
from service.policy.replay import Replay

Metrics = dict[str, float]


class Learner(Protocol):
    """An actor and a critic that improve from closed transitions.

    Learning is deterministic: the same weights, replay and generator give the same result on the CPU.
    """

    @property
    def actor(self) -> ItemScorer: ...

    @property
    def critic(self) -> ItemScorer:
        """May be the actor itself."""

    def update(self, replay: Replay, new: int, generator: torch.Generator) -> Metrics:
        """Learn after `new` transitions came into `replay`; returns losses and entropy of the last step."""

    def grow(self, text: Tensor) -> None:
        """Take in a longer catalogue: `text` [A', text_dim] repeats the rows known so far and appends new ones."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that learning depends on: weights, targets, optimiser."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave, for a catalogue of the same length."""


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under `prefix.name`."""
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name starts with `prefix.`, without it."""
    return {name.removeprefix(f"{prefix}."): t for name, t in state.items() if name.startswith(f"{prefix}.")}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An Adam-like optimiser's state as flat tensors `<parameter index>.<name>` (no pickle in checkpoints)."""
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore `optimizer_tensors`; rows that the parameters gained since (new items) start at zero."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        missing = len(parameters[int(index)]) - len(tensor) if tensor.ndim else 0
        padded = torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])]) if missing else tensor.clone()
        state.setdefault(int(index), {})[name] = padded
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
