"""Closeness of texts to what was liked; no logs of other users, and no judgements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from offline.benchmark.metrics import Scores
from offline.benchmark.ranker import Context, Fit, Method
from offline.states import Embeddings

Kind = Literal["mean", "nearest", "plain"]


def centred(embeddings: Embeddings) -> Embeddings:
    """Rows [A, d] without the catalogue's mean, of unit length: what all items share tells nothing about taste."""
    rest = embeddings - embeddings.mean(0)
    unit: Embeddings = rest / np.maximum(np.linalg.norm(rest, axis=1, keepdims=True), np.float32(1e-9))
    return unit


class TextCloseness:
    """Cosine of an item's text with those of the history: their mean, or the nearest; "plain" is not centred."""

    def __init__(self, embeddings: Embeddings, kind: Kind) -> None:
        """`embeddings` [A, d], unit rows."""
        rows = embeddings if kind == "plain" else centred(embeddings)
        self._cosine, self._kind = rows @ rows.T, kind

    def rank(self, histories: Sequence[Sequence[int]]) -> Scores:
        scores = np.zeros((len(histories), len(self._cosine)), np.float32)
        for row, history in zip(scores, histories, strict=True):
            if history:
                close = self._cosine[list(history)]
                row[:] = close.max(0) if self._kind == "nearest" else close.mean(0)
        return scores

    def learn(self, users: Sequence[int], items: Sequence[int]) -> None:
        """Nothing."""


def _method(title: str, kind: Kind) -> Method:
    def open_text(context: Context) -> TextCloseness:
        return TextCloseness(context.embeddings, kind)

    def open_fit(context: Context) -> Fit:
        closeness = open_text(context)
        return lambda logs: closeness

    return Method(title, "texts", open_fit, open_text, {"encoder": "minilm", "kind": kind})


METHODS: Mapping[str, Method] = {
    "text_mean": _method("Closeness of texts, mean", "mean"),
    "text_nearest": _method("Closeness of texts, nearest", "nearest"),
    "text_plain": _method("Closeness of texts, not centred", "plain"),
}
