"""Facts about a request and its user as features: what networks read of a `context`.

A fact is a name and a value. A text, and true or false, is a feature of its own; a list is all of its texts, together
as strong as one. A number lies between two numbers of one significant digit, and is both in part: 34 is 30 by .6 and 40
by .4, so that what is learned of one number holds for those near it, whatever the scale. Names of features are hashed
to rows of a table, which has no list of them (the hashing trick; Weinberger et al. 2009): two that share a row are one.

What a feature says of an item is linear in the leading coordinates of the item's vector, so that it holds for kinds,
for new items too, and for few enough items for each. `ContextFilter` learns it: for each row a Gaussian of its own
over what it says, with all covariances; rows are taken to be independent (assumed-density filtering, as Graepel et al.
2010 have it), and a batch's answers are explained by all of its rows together.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from functools import lru_cache

import msgspec
import torch
from torch import Tensor

from service.policy.types import Features, WithContext

ContextValue = bool | int | float | str | list[str]

N_NAMES, N_VALUES = 64, 128  # that are told apart, of names and of each name's values, as long as they share no row
N_ROWS = N_NAMES * N_VALUES
MOST_FEATURES = 128  # of one request
LEADING = 24  # coordinates of an item's vector that a feature speaks of; one more is for all items alike
WIDTH = LEADING + 1
_USUAL = 4  # features of a request; more are weaker each, so that together they say no more
_DEVIATION, _LEVEL_DEVIATION = 0.3, 0.5  # of what a feature says before anything is known, per unit of a vector
_SURE = 30.0  # coordinates that the first guess of a deviation counts as
_AGAIN, _FIRST = 1.1, 200  # answers by how much, and from how many on, deviations are found again
_AT_ONCE = 128  # answers that are explained together
_NEWTON_STEPS, _CLOSE = 10, 1e-3


def read_context(data: str | bytes) -> dict[str, ContextValue] | None:
    """Decode a context from JSON; None if it is none."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


_decoder = msgspec.json.Decoder(dict[str, ContextValue])


def features_of(context: Mapping[str, ContextValue]) -> Features:
    """Features (row, strength) of a context, at most MOST_FEATURES: of squares that sum to no more than a few usual
    ones', however many there are."""
    found: dict[int, float] = {}
    for name, value in context.items():
        for row, strength in _features(name, value):
            found[row] = found.get(row, 0.0) + strength
    kept = list(found.items())[:MOST_FEATURES]
    scale = min(1.0, math.sqrt(_USUAL / max(1.0, sum(strength**2 for _, strength in kept))))
    return tuple((row, strength * scale) for row, strength in kept)


def _features(name: str, value: ContextValue) -> list[tuple[int, float]]:
    if isinstance(value, bool):
        return [(row_of(name, "true" if value else "false"), 1.0)]
    if isinstance(value, str):
        return [(row_of(name, value), 1.0)]
    if isinstance(value, list):
        return [(row_of(name, text), len(value) ** -0.5) for text in value]
    below, above, share = neighbours(value)
    return [(row_of(name, f"#{number:g}"), part) for number, part in ((below, 1 - share), (above, share)) if part > 0]


def neighbours(value: float) -> tuple[float, float, float]:
    """Numbers of one significant digit around a finite one, and how far it is from the first to the second, [0, 1)."""
    size, sign = abs(value), math.copysign(1.0, value)
    unit = 10.0 ** math.floor(math.log10(size)) if size >= 1 else 1.0  # all below 1 lies between 0 and 1
    digit = math.floor(size / unit)
    return sign * digit * unit + 0.0, sign * (digit + 1) * unit, size / unit - digit  # no -0.0


@lru_cache(16_384)
def row_of(name: str, value: str) -> int:
    """Row of a feature in the table: of all its name's features it is the same, modulo N_NAMES."""
    return _hash(name) % N_NAMES + N_NAMES * (_hash(f"{name}\0{value}") % N_VALUES)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def context_effect(table: Tensor, context: WithContext) -> Tensor:
    """[B, WIDTH] what the features of B requests say together, of the `table` [N_ROWS, WIDTH]."""
    return (table[context.rows] * context.strengths.unsqueeze(2)).sum(1)


class ContextFilter:
    """Covariances of what is known of each row that was seen; the means are in the network's `context` table."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._of: dict[int, Tensor] = {}  # row -> [WIDTH, WIDTH], float64
        self._variance = torch.full((N_NAMES,), _DEVIATION**2, dtype=torch.float64)  # of what a name's features say
        self._answers = self._due = 0

    def update(
        self,
        table: Tensor,
        vectors: Tensor,
        context: WithContext,
        response: Tensor,
        targets: Tensor,
        counts: Tensor,
    ) -> None:
        """Learn from N answers, in their order, what they tell of the context that they were given in.

        Args:
            table: [N_ROWS, width], changed in place.
            vectors: [N, width] leading coordinates of the items' vectors, and a one.
            context: features of each answer, N of them.
            response: f [N] that the network has for them, with what the table says.
            targets: [N] in [0, 1], what came back.
            counts: [N] how many answers each counts as.
        """
        known = torch.nonzero(context.strengths.any(1)).squeeze(1)
        before = table.clone()
        for start in range(0, len(known), _AT_ONCE):
            rows = known[start : start + _AT_ONCE]
            x, here = vectors[rows].double(), context.at(rows)
            by_earlier = context_effect(table, here) - context_effect(before, here)  # answers of this batch
            now = response[rows].double() + (x * by_earlier.double()).sum(1)
            self._explain(table, x, here, now, targets[rows].double(), counts[rows].double())
        self._answers += len(known)
        if self._answers >= max(self._due, _FIRST):
            self._due = math.ceil(_AGAIN * self._answers)
            self._find_variances(table)

    def _explain(
        self, table: Tensor, x: Tensor, context: WithContext, response: Tensor, targets: Tensor, counts: Tensor
    ) -> None:
        parts = []
        cover = x.new_zeros(len(x), len(x))  # of what all rows together say of each pair of answers
        for row in sorted({*context.rows[context.strengths != 0].tolist()}):
            strength = (context.strengths * (context.rows == row)).sum(1).double()
            at = torch.nonzero(strength).squeeze(1)
            here = x[at] * strength[at].unsqueeze(1)
            spread = here @ self._covariance(row, x.shape[1])
            cover[at.unsqueeze(1), at] += spread @ here.T
            parts.append((row, at, spread))
        pull, precision = _mode(cover, response, targets, counts)
        for row, at, spread in parts:
            table[row] += (spread.T @ pull[at]).to(table.dtype)
            self._of[row] = self._covariance(row, x.shape[1]) - spread.T @ precision[at.unsqueeze(1), at] @ spread

    def _covariance(self, row: int, width: int) -> Tensor:
        known = self._of.get(row)
        if known is not None:
            return known
        variances = self._variance[row % N_NAMES].repeat(width)
        variances[-1] = _LEVEL_DEVIATION**2
        return torch.diag(variances)

    def _find_variances(self, table: Tensor) -> None:
        """Find anew how much each name's features say: of one that says nothing they are soon silent (automatic
        relevance determination; MacKay 1992)."""
        for name in {row % N_NAMES for row in self._of}:
            rows = [row for row in self._of if row % N_NAMES == name]
            covariance, mean = torch.stack([self._of[row] for row in rows]), table[rows].double()
            before, n = self._variance[name].clone(), covariance.shape[1] - 1
            known = n * len(rows) - covariance.diagonal(dim1=1, dim2=2)[:, :n].sum() / before
            after = (mean[:, :n].square().sum() + _SURE * _DEVIATION**2) / (known + _SURE)
            precision = torch.linalg.inv(covariance)
            pulled = (precision @ mean.unsqueeze(2)).squeeze(2)
            precision.diagonal(dim1=1, dim2=2)[:, :n] += 1 / after - 1 / before
            covariance = torch.linalg.inv(precision).contiguous()  # as it comes back from a checkpoint
            table[rows] = (covariance @ pulled.unsqueeze(2)).squeeze(2).to(table.dtype)
            self._variance[name] = after
            self._of.update(zip(rows, covariance.unbind(), strict=True))

    def state_dict(self) -> dict[str, Tensor]:
        """Rows that were seen, and their covariances; nothing before the first."""
        if not self._of:
            return {}
        return {
            "rows": torch.tensor(list(self._of)),
            "covariances": torch.stack(list(self._of.values())),
            "variance": self._variance.clone(),
            "answers": torch.tensor([self._answers, self._due]),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        self._forget()
        if state:
            self._variance = state["variance"].clone()
            self._answers, self._due = map(int, state["answers"].tolist())
            rows, covariances = state["rows"].tolist(), state["covariances"].clone()
            self._of = dict(zip(rows, covariances.unbind(), strict=True))


def _mode(cover: Tensor, response: Tensor, targets: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Laplace's approximation of a Gaussian process on N answers (Rasmussen & Williams 2006, algorithm 3.1).

    Returns [N] the pull a, of which K a is the most likely change of f, and [N, N] (K + W^-1)^-1, for the prior
    covariance `cover` K [N, N] and W the curvature of the answers.
    """
    eye = torch.eye(len(cover), dtype=cover.dtype)
    change, pull = torch.zeros_like(response), torch.zeros_like(response)
    for _ in range(_NEWTON_STEPS):
        likely = torch.sigmoid(response + change)
        root = (counts * likely * (1 - likely)).clamp_min(1e-12).sqrt()
        inner = eye + root.unsqueeze(1) * cover * root
        target = root.square() * change + counts * (targets - likely)
        pull = target - root * torch.linalg.solve(inner, root * (cover @ target))
        step = cover @ pull - change
        change = change + step * min(1.0, 2.0 / max(step.abs().max().item(), 1e-12))
        if step.abs().max().item() < _CLOSE:
            break
    precision = root.unsqueeze(1) * torch.linalg.solve(inner, torch.diag(root))
    return pull, precision
