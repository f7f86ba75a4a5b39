"""Sentence encoders of BERT's form on torch's own encoder layer, so that the service starts without slow imports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from service.policy.text import Embeddings

MAX_TOKENS = 128
_HEADS = 12
_AT_ONCE = 32  # texts


class Bert(nn.Module):
    """BERT's layers, mean pooling over tokens, unit length; weights by the names that Transformers gives them."""

    def __init__(self, weights: Mapping[str, Tensor], n_layers: int) -> None:
        super().__init__()
        places = (
            weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
        )
        self._places = places[:MAX_TOKENS]
        self.dim = places.shape[1]
        self.norm = nn.LayerNorm(self.dim, eps=1e-12)
        _copy(self.norm, weights, "embeddings.LayerNorm")
        self.layers = nn.ModuleList(_layer(weights, f"encoder.layer.{i}", self.dim) for i in range(n_layers))
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def encode(
        self, texts: Sequence[Sequence[int]], vectors: Callable[[Tensor], Tensor], padding: int = 0
    ) -> Embeddings:
        """Embed texts, given as the numbers of their tokens, as rows of unit length [n, dim].

        Args:
            vectors: from numbers of tokens [n, T] to their vectors [n, T, dim].
            padding: a number that fills texts up to the longest one in company; it is not looked at.
        """
        rows = np.zeros((len(texts), self.dim), dtype=np.float32)
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(texts), _AT_ONCE):
            chosen = by_length[start : start + _AT_ONCE]
            longest = len(texts[chosen[-1]])
            ids = torch.tensor([[*texts[i], *[padding] * (longest - len(texts[i]))] for i in chosen])
            kept = torch.arange(longest) < torch.tensor([len(texts[i]) for i in chosen])[:, None]
            rows[chosen] = self._pooled(vectors(ids), kept).numpy()
        return rows

    def _pooled(self, words: Tensor, kept: Tensor) -> Tensor:
        hidden = self.norm(words + self._places[: words.shape[1]])
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=~kept)
        weight = kept.unsqueeze(-1).float()
        return nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1).clamp_min(1.0), dim=1)


def _copy(module: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    module.load_state_dict({"weight": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]})


def _layer(weights: Mapping[str, Tensor], name: str, dim: int) -> nn.TransformerEncoderLayer:
    layer = nn.TransformerEncoderLayer(
        dim,
        nhead=_HEADS,
        dim_feedforward=4 * dim,
        dropout=0.0,
        activation="gelu",
        layer_norm_eps=1e-12,
        batch_first=True,
    )
    attention = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
    with torch.no_grad():
        layer.self_attn.in_proj_weight.copy_(torch.cat([weights[f"{part}.weight"] for part in attention]))
        layer.self_attn.in_proj_bias.copy_(torch.cat([weights[f"{part}.bias"] for part in attention]))
    _copy(layer.self_attn.out_proj, weights, f"{name}.attention.output.dense")
    _copy(layer.norm1, weights, f"{name}.attention.output.LayerNorm")
    _copy(layer.linear1, weights, f"{name}.intermediate.dense")
    _copy(layer.linear2, weights, f"{name}.output.dense")
    _copy(layer.norm2, weights, f"{name}.output.LayerNorm")
    return layer
