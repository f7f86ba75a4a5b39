"""The held-out protocol: after a user's history, are what they liked next and later ranked above the rest?

Strong generalisation: whoever is judged is in no log that a method was fitted to; their history is input only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from offline.benchmark.data import Floats, Ints, Source, UserLog
from offline.benchmark.metrics import NextItem, Scores, auc, match_popular, paired_auc, precision
from offline.benchmark.ranker import AnswerRanker, Fit, Ranker
from offline.benchmark.split import (
    FOLDS,
    Answer,
    Case,
    UnbiasedCase,
    folds_of_users,
    split_users,
    unbiased_cases,
    without_random,
)

MATCHED = 5  # equally popular items for each held-out one
MATCHED_STREAM = 5
TOP_OF_FEW = 3
_BATCH = 100

PerUser = dict[str, Floats]  # metric -> [cases], NaN where it is not defined


class AnyCase(Protocol):
    """Fields of a case, of either kind, that a method may read."""

    @property
    def user(self) -> int: ...
    @property
    def likes(self) -> tuple[int, ...]: ...
    @property
    def answers(self) -> tuple[Answer, ...]: ...


@dataclass(frozen=True)
class Trial:
    """A data set ready to judge: its cases, what methods are fitted to, and the measure of a case's scores [A]."""

    cases: Sequence[AnyCase]
    logs: Sequence[UserLog]  # of all users, without what a deployment would not have
    folds: Ints  # [all users]
    measures: Sequence[Callable[[Scores], dict[str, float]]]  # one a case

    @property
    def users(self) -> Ints:
        """The user of each case."""
        return np.array([case.user for case in self.cases], np.int64)


def prepare(logs: Sequence[UserLog], n_items: int, source: Source, seed: int) -> Trial:
    """Cases, folds and measures of a data set; the same for every method."""
    folds = folds_of_users(len(logs), seed)
    if source.unbiased:
        unbiased = unbiased_cases(logs, source)
        return Trial(unbiased, [without_random(log) for log in logs], folds, [_measure_unbiased(c) for c in unbiased])
    cases = split_users(logs, source, seed)
    popularity = np.bincount(np.concatenate([log.likes for log in logs]), minlength=n_items).astype(np.float64)
    next_item = NextItem(n_items)
    measures = []
    for case in cases:
        rng = np.random.default_rng([seed, MATCHED_STREAM, case.user])
        others = popularity.copy()
        others[logs[case.user].likes] -= 1
        measures.append(_measure_held_out(case, others, next_item, rng))
    return Trial(cases, logs, folds, measures)


def _measure_held_out(
    case: Case, popularity: Floats, next_item: NextItem, rng: np.random.Generator
) -> Callable[[Scores], dict[str, float]]:
    """`popularity` [A] among the other users."""
    never = np.ones(len(popularity), np.bool_)
    never[case.answered] = False
    unrated = np.flatnonzero(never)
    held_out = np.array(case.held_out)
    matched = match_popular(held_out, unrated, popularity, MATCHED, rng)
    # What was answered before the cut can be nobody's next item, and no service would show it again.
    possible = np.ones(len(popularity), np.bool_)
    possible[case.before] = False

    def measure(scores: Scores) -> dict[str, float]:
        return {
            "auc": auc(scores[held_out], scores[unrated]),
            "auc_matched": paired_auc(scores[held_out], scores[matched]),
            **next_item.measure(scores, case.held_out[0], possible),
            "ndcg_all": next_item.ndcg_of_all(scores, held_out, possible),
        }

    return measure


def _measure_unbiased(case: UnbiasedCase) -> Callable[[Scores], dict[str, float]]:
    liked = np.array(case.liked)

    def measure(scores: Scores) -> dict[str, float]:
        drawn = scores[case.items]
        return {"auc": auc(drawn[liked], drawn[~liked]), "precision": precision(drawn, liked, TOP_OF_FEW)}

    return measure


def evaluate(
    trial: Trial, fit: Fit, *, dislikes: bool = False, progress: Callable[[int], None] = lambda n: None
) -> PerUser:
    """Metrics of each case. `fit` is called once a fold, with the likes of all users of the other folds.

    `dislikes`: histories hold them too; the ranker must be an `AnswerRanker`.
    """
    rows: list[dict[str, float]] = [{}] * len(trial.cases)
    fold_of_case = trial.folds[trial.users]
    for fold in range(FOLDS):
        chosen = np.flatnonzero(fold_of_case == fold)
        if len(chosen):
            ranker = fit([log.likes for user, log in enumerate(trial.logs) if trial.folds[user] != fold])
            for start in range(0, len(chosen), _BATCH):
                batch = chosen[start : start + _BATCH].tolist()
                scores = _scores(ranker, [trial.cases[i] for i in batch], dislikes)
                assert np.isfinite(scores).all(), "scores must be numbers"
                for i, row in zip(batch, scores, strict=True):
                    rows[i] = trial.measures[i](row)
        progress(len(chosen))
    return {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else ())}


def _scores(ranker: Ranker, cases: Sequence[AnyCase], dislikes: bool) -> Scores:
    if not dislikes:
        return ranker.rank([case.likes for case in cases])
    assert isinstance(ranker, AnswerRanker)
    return ranker.rank_answers([case.answers for case in cases])
