"""One GGUF model in this process, by the C interface of ik_llama.cpp: how probable is each name after a prefix?

The prefix is decoded once; the names are decoded together as a tree, so that those with a common beginning share it.
A name of n tokens needs n - 1 decoded ones: its first is judged by the prefix's end.

The runtime computes SmolLM2 in Q4_1 wrongly (rank agreement 0.5 with the reference); its flash attention is wrong when
many sequences share a batch, so it stays off.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from offline.errors import OfflineError
from offline.llm import Score

MAX_NAME_TOKENS = 32
_N_CTX = 1024
_N_SEQUENCES = 64
# Each decoded position holds a row of logits (1 MB with Gemma's 262,144 words), so a batch is kept small.
_MAX_BATCH = 96


class _Batch(NamedTuple):
    """Tokens to decode together: a forest of continuations below the prefix."""

    tokens: list[int]
    positions: list[int]
    sequences: list[list[int]]  # which candidates (1 ..) pass through each token
    targets: list[tuple[int, int, int]]  # candidate, next token, the place in the batch that predicts it


class GgufEngine:
    """One model in this process, on one thread. `score` is all it does.

    Raises:
        OfflineError: the runtime cannot load the file.
    """

    def __init__(self, path: str, *, verbose: bool = False) -> None:
        from ik_llama_cpp import _ctypes_api as api

        self._api, self._lib = api, _bind(api)
        if not verbose:
            self._lib.llama_log_set(_silent, None)
        api.llama_backend_init()
        model_params = api.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self._model = api.llama_model_load_from_file(path.encode(), model_params)
        if not self._model:
            raise OfflineError(f"{path}: not a GGUF model this runtime can load")
        self.n_vocab = int(api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model)))
        params = api.llama_context_default_params()
        params.n_ctx = params.n_batch = _N_CTX
        params.n_ubatch = 512
        params.n_seq_max = _N_SEQUENCES + 1
        params.n_threads = params.n_threads_batch = 1
        params.flash_attn = False
        self._context = api.llama_init_from_model(self._model, params)
        if not self._context:
            raise OfflineError(f"{path}: no memory for a context of {_N_CTX} tokens")

    def close(self) -> None:
        """Free the model's memory."""
        self._api.llama_free(self._context)
        self._api.llama_free_model(self._model)

    def tokenize(self, text: str, *, begin: bool) -> list[int]:
        """Token ids of `text`; special tokens written in it stay plain text. `begin` puts the start token first."""
        data = text.encode()
        room = (ctypes.c_int32 * (len(data) + 2))()
        n = self._api.llama_tokenize(self._model, data, len(data), room, len(room), begin, False)
        assert n >= 0, "a token is at least one byte"
        return list(room[:n])

    def score(self, prefix: str, continuations: Sequence[str]) -> list[Score]:
        """Mean log-probability per token (nats) of each continuation right after the prefix, [n].

        Of a prefix that does not fit, the most recent part counts; of a continuation its first MAX_NAME_TOKENS tokens.
        """
        titles = [self.tokenize(text, begin=False)[:MAX_NAME_TOKENS] for text in continuations]
        before = self.tokenize(prefix, begin=True)
        room = _N_CTX - _MAX_BATCH - 8
        before = before if len(before) <= room else before[:1] + before[-room + 1 :]
        self._api.llama_kv_cache_clear(self._context)
        last = len(before) - 1
        self._decode(before, range(len(before)), [[0]] * len(before), [False] * last + [True])
        row = self._row(last)
        normaliser = _log_sum_exp(row)
        sums = [float(row[title[0]]) - normaliser if title else 0.0 for title in titles]
        for batch in _batches(titles, start=len(before)):
            self._add(batch, sums)
        return [Score(total / max(1, len(title)), len(title)) for total, title in zip(sums, titles, strict=True)]

    def _add(self, batch: _Batch, sums: list[float]) -> None:
        used = {sequence for passing in batch.sequences for sequence in passing}
        for sequence in used:
            self._lib.llama_kv_cache_seq_cp(self._context, 0, sequence, -1, -1)
        self._decode(batch.tokens, batch.positions, batch.sequences, [True] * len(batch.tokens))
        normalisers: dict[int, float] = {}
        for candidate, token, place in batch.targets:
            row = self._row(place)
            if place not in normalisers:
                normalisers[place] = _log_sum_exp(row)
            sums[candidate] += float(row[token]) - normalisers[place]
        for sequence in used:
            self._lib.llama_kv_cache_seq_rm(self._context, sequence, -1, -1)

    def _decode(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[list[int]],
        needed: Sequence[bool],
    ) -> None:
        batch = self._api.llama_batch_init(len(tokens), 0, _N_SEQUENCES + 1)
        try:
            batch.n_tokens = len(tokens)
            for i, (token, position, passing, has_logits) in enumerate(
                zip(tokens, positions, sequences, needed, strict=True)
            ):
                batch.token[i], batch.pos[i], batch.logits[i] = token, position, has_logits
                batch.n_seq_id[i] = len(passing)
                for j, sequence in enumerate(passing):
                    batch.seq_id[i][j] = sequence
            code = self._api.llama_decode(self._context, batch)
        finally:
            self._api.llama_batch_free(batch)
        if code != 0:
            raise OfflineError(f"the language model could not decode {len(tokens)} tokens (code {code})")

    def _row(self, place: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The logits [n_vocab] at a place of the last batch: a view that the next decode overwrites."""
        return np.ctypeslib.as_array(self._api.llama_get_logits_ith(self._context, place), (self.n_vocab,))


def _batches(titles: Sequence[Sequence[int]], start: int) -> Iterator[_Batch]:
    """Pack titles, in sorted order so that common beginnings meet, into batches of at most _MAX_BATCH new tokens."""
    order = sorted((i for i, title in enumerate(titles) if len(title) > 1), key=lambda i: tuple(titles[i]))
    batch = _Batch([], [], [], [])
    places: dict[tuple[int, ...], int] = {}
    n_sequences = 0
    for candidate in order:
        title = tuple(titles[candidate])
        if n_sequences == _N_SEQUENCES or len(batch.tokens) + len(title) > _MAX_BATCH:
            yield batch
            batch, places, n_sequences = _Batch([], [], [], []), {}, 0
        n_sequences += 1
        for depth in range(1, len(title)):
            place = places.get(title[:depth])
            if place is None:
                place = places[title[:depth]] = len(batch.tokens)
                batch.tokens.append(title[depth - 1])
                batch.positions.append(start + depth - 1)
                batch.sequences.append([])
            batch.sequences[place].append(n_sequences)
            batch.targets.append((candidate, title[depth], place))
    if batch.tokens:
        yield batch


def _log_sum_exp(row: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    top = float(row.max())
    return top + float(np.log(np.exp(row - top).sum(dtype=np.float64)))


_LOG_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_silent = _LOG_CALLBACK(lambda level, text, data: None)


def _bind(api: Any) -> Any:
    """Declare the C functions that the Python package leaves out."""
    lib = api._lib
    lib.llama_kv_cache_seq_cp.argtypes = [ctypes.c_void_p, *[ctypes.c_int32] * 4]
    lib.llama_kv_cache_seq_cp.restype = None
    lib.llama_kv_cache_seq_rm.argtypes = [ctypes.c_void_p, *[ctypes.c_int32] * 3]
    lib.llama_kv_cache_seq_rm.restype = ctypes.c_bool
    lib.llama_log_set.argtypes = [_LOG_CALLBACK, ctypes.c_void_p]
    lib.llama_log_set.restype = None
    return lib
