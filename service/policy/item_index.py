"""An index that finds the items of a very large catalogue which a policy may want, without a look at all of them.

Every score by which candidates are chosen (`NetworkPair.best`) is an inner product of a query, which is a state's, with
an item: the vectors of all networks side by side, then their biases and what optimism adds. faiss' inverted file
with product quantisation in four bits (Jégou, Douze and Schmid 2011; André, Kermarrec and Le Scouarnec 2015) finds
those whose approximate product is largest; they are ranked again by their exact scores. Two things make so coarse a
code good enough. Vectors are turned by the covariance of the queries, so that an error weighs by what it does to
scores (Guo et al. 2020 learn the same), and cut to the leading directions. A bias, which has most of the spread and
counts for every state, is coded by two numbers of our own: its step of sixteen, and what is left of it in sixteen more.

The package is optional (extra `index`); without it a large catalogue is ranked by a scan.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from service.policy.candidates import NetworkPair, absent_at
from service.policy.fast_scorer import FastScorer, Floats, Mask, Places

FEW = 8  # times as many items as are needed: so few are all looked at
_KEPT = 64  # directions of the vectors
_STEPS = 16  # that four bits tell apart
_EACH_LIST = 1_000  # items
_MOST_LISTS = 4_096
_LISTS_READ, _FEWEST_READ = 4, 64  # one list in so many, and so many in any case
_EXAMPLES, _FEWEST = 40, 4_096  # items to learn codes and lists from: for each list, and in any case
_FOUND = 3  # times as many items as are needed of a view, since their order is not exact
_AT_ONCE = 8_192


def is_installed() -> bool:
    """Check that faiss, which the index needs, is installed."""
    return importlib.util.find_spec("faiss") is not None


def _faiss() -> Any:
    """The package, with one thread for who asks; its types are those of C++, not of what its Python layer takes."""
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(1)  # it comes after `one_thread`, with a pool of its own
    return faiss


class ItemIndex:
    """Finds the items that score high in given states; does not change any more."""

    def __init__(self, nets: Sequence[FastScorer], examples: Sequence[NetworkPair], seed: int = 0) -> None:
        """Index all items of `nets`, the pre-trained and perhaps the learned one; `examples`: states to expect."""
        faiss = _faiss()
        self._dims = [net.width for net in nets]
        self._are_curious = [net.is_curious for net in nets]
        queries = np.concatenate([self._views(example).reshape(-1, self._query_dim) for example in examples])
        n_items, rng = len(nets[0]), np.random.default_rng(seed)
        n_lists = int(np.clip(n_items // _EACH_LIST, 1, _MOST_LISTS))
        sample = np.sort(rng.choice(n_items, min(n_items, max(_EXAMPLES * n_lists, _FEWEST)), replace=False))
        vectors, biases = _parts(nets, sample)
        self._turn, self._turn_query = _turned(vectors, queries[:, : vectors.shape[1]])
        self._low = biases.min(0)
        self._step = np.maximum((biases.max(0) - self._low) / _STEPS, 1e-6).astype(np.float32)
        kept, n_biases = self._turn.shape[1], biases.shape[1]
        dim = kept + 4 * n_biases  # two places for each code; a bias has two codes and leaves their second places empty
        self._quantizer = faiss.IndexFlatIP(dim)  # which faiss does not keep alive
        self._index = faiss.IndexIVFPQFastScan(self._quantizer, dim, n_lists, dim // 2, 4, faiss.METRIC_INNER_PRODUCT)
        self._index.by_residual = False
        self._index.cp.niter = 8
        self._index.cp.seed = self._index.pq.cp.seed = seed + 1
        self._index.train(self._coded(vectors, biases))
        codes = faiss.vector_to_array(self._index.pq.centroids).reshape(dim // 2, _STEPS, 2).copy()
        within = (np.arange(_STEPS) + 0.5) / _STEPS
        codes[kept // 2 :] = 0.0
        codes[kept // 2 :: 2, :, 0] = self._low[:, np.newaxis] + self._step[:, np.newaxis] * _STEPS * within
        codes[kept // 2 + 1 :: 2, :, 0] = self._step[:, np.newaxis] * (within - 0.5)
        faiss.copy_array_to_vector(codes.ravel(), self._index.pq.centroids)
        self._add(nets, 0)

    def __len__(self) -> int:
        """Items that are in the index, the first ones of the catalogue."""
        return int(self._index.ntotal)

    def with_items(self, nets: Sequence[FastScorer]) -> ItemIndex:
        """A copy that also has what `nets` have more."""
        faiss = _faiss()
        more = object.__new__(ItemIndex)
        more.__dict__.update(self.__dict__)
        more._index = faiss.clone_index(self._index)
        more._add(nets, len(self))
        return more

    def pool(self, pair: NetworkPair, available: Sequence[Mask], n_wanted: int, also: Places) -> Places:
        """[B, R] items in ascending order, repeated where they are few, among which the `n_wanted` that come first are.

        They are what the index finds for each view, all that are too new for it, and those `also` named [n]. Where too
        few of them are `available` [A] in their state, the index looks for such alone, in all its lists; where there
        are no more than `FEW` times `n_wanted` such items they are all of these. A look at all items is the last
        resort.
        """
        views = self._views(pair)
        n_states, n_items = len(available), len(available[0])
        n_each = _FOUND * n_wanted // views.shape[1]
        found = self._search(views.reshape(-1, self._query_dim), n_each).reshape(n_states, -1)
        unindexed = np.union1d(np.arange(len(self), n_items), also)
        new = np.broadcast_to(unindexed, (n_states, len(unindexed)))
        pool = np.concatenate([np.maximum(found, 0), new], axis=1)
        pool.sort(axis=1)
        usable = ~absent_at(available, pool)
        others: dict[int, Places] = {}
        for state in np.flatnonzero(usable.sum(1) < n_wanted).tolist():
            rows = np.flatnonzero(available[state])
            if len(rows) > FEW * n_wanted:
                own = self._search(views[state], n_each, available[state])
                rows = np.union1d(own[own >= 0], new[state])
                if np.count_nonzero(available[state][rows]) < n_wanted:  # as where all items are alike
                    one = pair.of(state)
                    best = one.best(one.plain(None), None, ~available[state][np.newaxis], n_wanted)[0]
                    rows = np.union1d(best, new[state])
            others[state] = rows
        if not others:
            return pool
        wide = np.zeros((n_states, max(pool.shape[1], n_wanted, *map(len, others.values()))), np.intp)
        for state in range(n_states):
            rows = others.get(state, pool[state])
            wide[state, : len(rows)] = rows
            wide[state, len(rows) :] = rows[-1] if len(rows) else 0
        return wide

    @property
    def _query_dim(self) -> int:
        return sum(self._dims) + len(self._dims) + sum(self._are_curious)

    def _views(self, pair: NetworkPair) -> Floats:
        """Weights [B, V, D] of an item's parts in each of the V scores by which candidates are chosen."""
        after = pair.after
        builds = after is not None and pair.before is not None
        of_item, personal = after.net.prior_gain.tolist() if after is not None and builds else (0.0, 0.0)
        alone = ((1.0, 0.0), (personal, 1.0))  # shares of both networks' vectors in either view
        views = []
        for place, (part, shares) in enumerate(zip(pair, alone, strict=True)):
            if part is None:
                continue
            vectors = [
                np.zeros((len(part.hidden.level), dim), np.float32) if of is None else share * of.hidden.item[:, :dim]
                for dim, of, share in zip(self._dims, pair, shares, strict=False)
            ]
            for optimistic in (False, True)[: 1 + part.net.is_curious]:
                optimism = [optimistic and net == place for net, curious in enumerate(self._are_curious) if curious]
                of_biases = (of_item, 1.0) if place else shares
                biases = np.array([*of_biases[: len(self._dims)], *optimism], np.float32)
                views.append(np.concatenate([*vectors, np.tile(biases, (len(vectors[0]), 1))], axis=1))
        return np.stack(views, axis=1)

    def _search(self, queries: Floats, k: int, among: Mask | None = None) -> Places:
        """[Q, k] items whose products with `queries` [Q, D] are about the largest; -1 where no more are found.

        `among` [A]: the only ones, which are then looked for everywhere.
        """
        faiss = _faiss()
        n_vectors, kept = sum(self._dims), self._turn.shape[1]
        query = np.zeros((len(queries), self._index.d), np.float32)
        query[:, :kept] = queries[:, :n_vectors] @ self._turn_query
        query[:, kept::2] = np.repeat(queries[:, n_vectors:], 2, axis=1)
        parameters = faiss.SearchParametersIVF(nprobe=max(_FEWEST_READ, self._index.nlist // _LISTS_READ))
        if among is not None:
            bits = np.packbits(among, bitorder="little")
            parameters = faiss.SearchParametersIVF(sel=faiss.IDSelectorBitmap(bits), nprobe=self._index.nlist)
        found: Places = self._index.search(query, k, params=parameters)[1].astype(np.intp, copy=False)
        return found

    def _add(self, nets: Sequence[FastScorer], start: int) -> None:
        for first in range(start, len(nets[0]), _AT_ONCE):
            self._index.add(self._coded(*_parts(nets, slice(first, first + _AT_ONCE))))

    def _coded(self, vectors: Floats, biases: Floats) -> Floats:
        """[n, dim] what faiss encodes."""
        kept = self._turn.shape[1]
        coded = np.zeros((len(vectors), kept + 4 * biases.shape[1]), np.float32)
        coded[:, :kept] = vectors @ self._turn
        step = np.clip(np.floor((biases - self._low) / self._step), 0, _STEPS - 1) + np.float32(0.5)
        coded[:, kept::4] = self._low + self._step * step
        coded[:, kept + 2 :: 4] = biases - coded[:, kept::4]
        return coded


def _parts(nets: Sequence[FastScorer], rows: slice | Places) -> tuple[Floats, Floats]:
    """Return some items' vectors [n, sum of dims], and what is added to their scores: biases, then optimism."""
    items = [net.items[rows] for net in nets]
    vectors = np.concatenate([of[:, : net.width] for net, of in zip(nets, items, strict=True)], axis=1)
    biases = [of[:, net.width] for net, of in zip(nets, items, strict=True)]
    optimism = [of[:, net.width + 1] for net, of in zip(nets, items, strict=True) if net.is_curious]
    return vectors, np.stack([*biases, *optimism], axis=1)


def _turned(vectors: Floats, queries: Floats) -> tuple[Floats, Floats]:
    """Matrices T, S [D, kept] such that (v T).(q S) is about v.q, best for the q that come.

    T = R P and S = R^-1 P with R the root of the covariance C of what is asked and P the leading directions of the
    vectors turned by R: of all ways to keep so many numbers the one with the least E[((v - v') . q)^2].
    """
    covariance = queries.T.astype(np.float64) @ queries / len(queries)
    spread, axes = np.linalg.eigh(covariance)
    # A policy that knows no difference asks nothing; then all directions are alike.
    spread = np.maximum(spread, 1e-6 * spread.max()) if spread.max() > 0 else np.ones_like(spread)
    root, inverse = (axes * np.sqrt(spread)) @ axes.T, (axes / np.sqrt(spread)) @ axes.T
    turned = vectors @ root
    leading = np.linalg.eigh(turned.T @ turned)[1][:, ::-1][:, :_KEPT]
    half = leading.shape[1] // 2  # codes are of two numbers: the first with the last, so that all tell about as much
    leading = leading[:, np.column_stack([np.arange(half), 2 * half - 1 - np.arange(half)]).ravel()]
    return (root @ leading).astype(np.float32), (inverse @ leading).astype(np.float32)
