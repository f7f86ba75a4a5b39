"""Text embeddings of items: what lets a policy say something about an item that nobody has clicked yet.

`encoders.py` says which encoders there are. Here is the one that needs no weights, and what is done with vectors.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Embeddings = npt.NDArray[np.float32]

TEXT_DIM = 384
_ROUNDING = 1e-5  # between vectors of one text, embedded in different company


def item_text(text: str, categories: Sequence[str]) -> str:
    """The one text that stands for an item: its own words, then its categories."""
    return f"{text} | {', '.join(categories)}" if categories else text


class TextEncoder(Protocol):
    """Turns texts into unit vectors; deterministic."""

    name: str

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Embed `texts` as rows of unit length, shape [n, TEXT_DIM]."""

    def unknown(self, texts: Sequence[str]) -> list[float]:
        """Return the share of each text that the encoder cannot read, 0 to 1."""


class HashingEncoder:
    """Words and character trigrams, hashed into TEXT_DIM signed buckets (Weinberger et al. 2009)."""

    name = "hashing"

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Embed `texts` as rows of unit length, shape [n, TEXT_DIM]; a text without words is the zero row."""
        rows = np.zeros((len(texts), TEXT_DIM), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                padded = f"<{word}>"
                for feature in (word, *(padded[i : i + 3] for i in range(len(padded) - 2))):
                    digest = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "little")
                    row[digest % TEXT_DIM] += 1.0 if digest >> 63 else -1.0
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(np.divide(rows, norms, out=rows, where=norms > 0))

    def unknown(self, texts: Sequence[str]) -> list[float]:
        """Return 1 for each text without words, else 0."""
        return [0.0 if re.search(r"\w", text) else 1.0 for text in texts]


@dataclass(frozen=True)
class TextProjection:
    """Centred principal components of a catalogue's embeddings: what tells its items apart, in fewer dimensions.

    Sentences of one catalogue share a large common part ("a film of ..."); without it similarities spread. Fitted once
    at pre-training and kept in every snapshot, so that a new item is projected like the old ones.
    """

    mean: Tensor  # [TEXT_DIM]
    components: Tensor  # [TEXT_DIM, dim]

    @classmethod
    def fit(cls, embeddings: Tensor, dim: int) -> TextProjection:
        """Fit to `embeddings` [n, TEXT_DIM]; with fewer than `dim` distinct directions the rest are zero."""
        mean = embeddings.mean(0)
        _, spread, v_t = torch.linalg.svd(embeddings - mean, full_matrices=False)
        components = torch.zeros(embeddings.shape[1], dim)
        # Beyond the rank the decomposition returns arbitrary directions, in which only new items would differ.
        rounding = torch.finfo(embeddings.dtype).eps * embeddings.shape[1] * torch.linalg.norm(embeddings)
        kept = v_t[:dim][spread[:dim] > rounding].T
        components[:, : kept.shape[1]] = kept
        return cls(mean, components)

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Project [n, TEXT_DIM] to unit rows [n, dim]."""
        return nn.functional.normalize((embeddings.float() - self.mean) @ self.components, dim=1)


def twins(embeddings: Embeddings) -> npt.NDArray[np.int64]:
    """Return for each row [n] the place of another one that is the same within rounding, or -1."""
    found = np.full(len(embeddings), -1)
    direction = np.random.default_rng(0).normal(size=(embeddings.shape[1], 1)).astype(np.float32)
    along = (embeddings @ (direction / np.linalg.norm(direction)))[:, 0]
    order = np.argsort(along)
    # What is the same lies side by side along any direction: neighbours are compared, then those two apart, and so on,
    # as long as one of them has no twin yet.
    for apart in range(1, len(order)):
        first, second = order[:-apart], order[apart:]
        close = (along[second] - along[first] <= _ROUNDING) & ((found[first] < 0) | (found[second] < 0))
        if not close.any():
            break
        first, second = first[close], second[close]
        same = np.linalg.norm(embeddings[first] - embeddings[second], axis=1) <= _ROUNDING
        found[first[same]], found[second[same]] = second[same], first[same]
    return found
