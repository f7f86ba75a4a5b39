"""Numbers that say how well scores rank what a user liked. Ties count as the mean over all orders of what is tied."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from offline.benchmark.data import Floats, Ints

CUTOFF = 10
Scores = npt.NDArray[np.floating]


def auc(positives: Scores, negatives: Scores) -> float:
    """Share of (positive [P], negative [N]) pairs in which the positive scores higher, ties half; NaN without pairs."""
    if not positives.size or not negatives.size:
        return float("nan")
    ranked = np.sort(negatives)
    below, not_above = (np.searchsorted(ranked, positives, side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(ranked)))


def paired_auc(positives: Scores, negatives: Scores) -> float:
    """Share of pairs won where each positive [P] meets negatives of its own [P, n]; NaN without pairs."""
    if not negatives.size:
        return float("nan")
    above = positives[:, None] - negatives
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def match_popular(positives: Ints, candidates: Ints, popularity: Floats, n: int, rng: np.random.Generator) -> Ints:
    """Choose for each positive [P] the `n` candidates next to it in the popularity ranking [A]; [P, n'], n' <= n.

    Equally popular items stand in random order in that ranking, so that a tie favours nobody.
    """
    order = np.lexsort((rng.random(len(popularity)), popularity))
    place = np.empty(len(popularity), np.int64)
    place[order] = np.arange(len(popularity))
    candidates = candidates[np.argsort(place[candidates])]
    distance = np.abs(place[candidates][None, :] - place[positives][:, None])
    # Of two at the same distance the one on a random side comes first.
    sides = rng.random((len(positives), 1)) < 0.5
    below = place[candidates][None, :] < place[positives][:, None]
    nearest = np.argsort(2 * distance + (below ^ sides), axis=1, kind="stable")[:, :n]
    chosen: Ints = candidates[nearest]
    return chosen


def place_of(scores: Scores, target: int, candidates: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Count the other candidates [A] that score higher than the target, and those that score the same."""
    others = scores[candidates]
    higher, same = int((others > scores[target]).sum()), int((others == scores[target]).sum())
    return higher, same - int(candidates[target])


def expected_gain(gains: Floats, higher: int, same: int) -> float:
    """Mean of gains[rank] over the ranks `higher` .. `higher + same`, counted from 0; beyond the gains it is 0."""
    return float(gains[higher : higher + same + 1].sum() / (same + 1))


class NextItem:
    """NDCG@10, hit rate@10 and MRR of one relevant item in a ranking of A; NDCG@10 of several."""

    def __init__(self, n_items: int) -> None:
        ranks = np.arange(1, n_items + 1, dtype=np.float64)
        near = ranks <= CUTOFF
        self._ndcg = near / np.log2(ranks + 1)
        self._gains = {"ndcg": self._ndcg, "hit": near.astype(np.float64), "mrr": 1 / ranks}

    def measure(self, scores: Scores, target: int, candidates: npt.NDArray[np.bool_]) -> dict[str, float]:
        """`scores` [A]; `candidates` [A] says what is ranked. With one relevant item the ideal gain is 1."""
        place = place_of(scores, target, candidates)
        return {name: expected_gain(gains, *place) for name, gains in self._gains.items()}

    def ndcg_of_all(self, scores: Scores, targets: Ints, candidates: npt.NDArray[np.bool_]) -> float:
        """NDCG@10 where all targets [P] are relevant."""
        gains = [expected_gain(self._ndcg, *place_of(scores, int(target), candidates)) for target in targets]
        return float(np.sum(gains) / self._ndcg[: len(targets)].sum())


def precision(scores: Scores, liked: npt.NDArray[np.bool_], k: int) -> float:
    """Expected share of liked ones among the first `k` of n items by score [n]; NaN where there are fewer than `k`."""
    if len(scores) < k:
        return float("nan")
    everything = np.ones(len(scores), np.bool_)
    first = np.where(np.arange(len(scores)) < k, 1.0, 0.0)
    gains = [expected_gain(first, *place_of(scores, int(i), everything)) for i in np.flatnonzero(liked)]
    return float(np.sum(gains) / k)
