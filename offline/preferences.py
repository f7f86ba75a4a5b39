"""From raw scores to preferences: the item's prior and the personal part, kept apart, calibrated apart, exported.

For a user state h and an item a, g being the raw score (see `evidence`):

    prior(a)       = g of a user of whom nothing is known (for likelihoods: the mean of that and the baseline)
    personal(h, a) = g(h, a) - baseline(a)     for likelihoods, the pointwise mutual information of h and a

For likelihoods the baseline is g after a typical history: a sentence with any history at all makes names more probable
than the generic one does. For logits, and where no baseline was judged, it is the prior (plus the median difference).
Each part becomes a z-score: robust centre and scale (median, interquartile range / 1.349) of all that was judged; from
the personal part the state's own mean goes first, since a long history makes everything more or less probable.
"""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from offline.datasets import import_pyarrow
from offline.judgements import Judgement
from service.durable import write_file

JUDGEMENTS_FILE = "judgements.parquet"
PRIORS_FILE = "priors.parquet"

# Evidence of a name of n tokens: mean log-probability * n ** LENGTH_WEIGHT (0: the mean per token, 1: the whole name).
# The mean makes long names look likely, the sum short ones; what is between told liked films from random ones as well
# as the sum did, and still tells long product titles apart.
LENGTH_WEIGHT = 0.5
MAX_Z = 4.0
# A state's mean counts as much as its judgements against this many at the common mean.
STATE_SHRINKAGE = 4.0
_SMALLEST_SCALE = 1e-6


class Prior(NamedTuple):
    """Liking of an item that all people share: raw (as `evidence`) and as a z-score."""

    value: float
    z: float


class Preference(NamedTuple):
    """One judgement taken apart: what is the item's, what is this user's, raw and as z-scores."""

    judgement: Judgement
    prior: float
    personal: float
    prior_z: float
    personal_z: float


@dataclass(frozen=True)
class Calibration:
    """The constants behind the z-scores; recorded in the manifest."""

    length_weight: float
    prior_center: float
    prior_scale: float
    personal_center: float
    personal_scale: float


@dataclass(frozen=True)
class Preferences:
    """All that was learned from the model: priors by item id, personal preferences, and their calibration."""

    priors: Mapping[str, Prior]
    personal: tuple[Preference, ...]
    calibration: Calibration
    names: Mapping[str, float] = field(default_factory=dict)  # as `evidence`: how likely items' mere names are


def evidence(judgement: Judgement) -> float:
    """The raw score g: a logit as it is; for likelihoods the log-probability of the name, in nats."""
    if judgement.style != "likelihood":
        return judgement.score
    return judgement.score * math.pow(judgement.n_tokens, LENGTH_WEIGHT)


def decompose(common: Sequence[Judgement], users: Sequence[Judgement]) -> Preferences:
    """Take judgements apart into priors and personal preferences; one of an item without a prior is left out.

    Args:
        common: judgements of roles "prior", "baseline" (`Judge.priors`) and "name" (`Judge.names`).
        users: judgements of role "user".
    """
    alone = {j.item_id: evidence(j) for j in common if j.role == "prior"}
    judged = {j.item_id: evidence(j) for j in common if j.role == "baseline"}
    shift = float(np.median([judged[i] - alone[i] for i in judged if i in alone] or [0.0]))
    baseline = {i: judged.get(i, value + shift) for i, value in alone.items()}
    # Two wordings err differently: their mean follows true popularity better than either. Where one is missing, what it
    # would say is predicted from the other; its value alone would be more extreme than a mean, and crowd the top.
    second = _regressed(alone, judged)
    names = {j.item_id: evidence(j) for j in common if j.role == "name"}
    raw = {i: (value + judged.get(i, second(value)) - shift) / 2 for i, value in alone.items()}
    prior_center, prior_scale = robust_center_scale(np.array(list(raw.values())))
    priors = {i: Prior(value, _z(value, prior_center, prior_scale)) for i, value in raw.items()}
    kept = [judgement for judgement in users if judgement.item_id in baseline]
    personal = np.array([evidence(judgement) - baseline[judgement.item_id] for judgement in kept])
    centred, center = _remove_state_means(personal, kept)
    _, scale = robust_center_scale(centred)
    preferences = tuple(
        Preference(j, raw[j.item_id], float(value), priors[j.item_id].z, _z(float(rest), 0.0, scale))
        for j, value, rest in zip(kept, personal, centred, strict=True)
    )
    calibration = Calibration(LENGTH_WEIGHT, prior_center, prior_scale, center, scale)
    return Preferences(priors, preferences, calibration, names)


def _regressed(first: Mapping[str, float], second: Mapping[str, float]) -> Callable[[float], float]:
    """Predicts an item's second value from its first, by least squares over the items that have both."""
    both = [(first[i], second[i]) for i in second if i in first]
    x, y = np.array(both).T if both else (np.zeros(0), np.zeros(0))
    spread = float(x.var()) if len(both) > 2 else 0.0
    if spread == 0.0:
        return lambda value: value
    slope = float(np.cov(x, y, bias=True)[0, 1]) / spread
    center = float(y.mean()) - slope * float(x.mean())
    return lambda value: center + slope * value


def robust_center_scale(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Median and interquartile range / 1.349 (the normal's standard deviation); (0, 1) of nothing."""
    if not len(values):
        return 0.0, 1.0
    low, center, high = np.percentile(values, [25, 50, 75])
    scale = float(high - low) / 1.349 or float(values.std())
    return float(center), scale if scale > _SMALLEST_SCALE else 1.0


def _remove_state_means(
    personal: npt.NDArray[np.float64], judgements: Sequence[Judgement]
) -> tuple[npt.NDArray[np.float64], float]:
    center = float(np.median(personal)) if len(personal) else 0.0
    states: dict[tuple[tuple[str, int], ...], list[int]] = defaultdict(list)
    for row, judgement in enumerate(judgements):
        states[judgement.history].append(row)
    centred = personal - center
    for rows in states.values():
        centred[rows] -= centred[rows].sum() / (len(rows) + STATE_SHRINKAGE)
    return centred, center


def _z(value: float, center: float, scale: float) -> float:
    return float(np.clip((value - center) / scale, -MAX_Z, MAX_Z))


def export(preferences: Preferences, folder: Path) -> None:
    """Write `judgements.parquet` (a row per personal judgement) and `priors.parquet` (a row per item)."""
    rows = preferences.personal
    judgements = {
        "key": [p.judgement.key for p in rows],
        "history_items": [[item_id for item_id, _ in p.judgement.history] for p in rows],
        "history_responses": [[response for _, response in p.judgement.history] for p in rows],
        "item_id": [p.judgement.item_id for p in rows],
        "score": [p.judgement.score for p in rows],
        "n_tokens": [p.judgement.n_tokens for p in rows],
        "prior": [p.prior for p in rows],
        "personal": [p.personal for p in rows],
        "prior_z": [p.prior_z for p in rows],
        "personal_z": [p.personal_z for p in rows],
        "style": [p.judgement.style for p in rows],
        "model": [p.judgement.model for p in rows],
        "prompt_version": [p.judgement.prompt_version for p in rows],
    }
    priors = {
        "item_id": list(preferences.priors),
        "prior": [prior.value for prior in preferences.priors.values()],
        "prior_z": [prior.z for prior in preferences.priors.values()],
    }
    arrow, _ = import_pyarrow()
    text, number, count = arrow.string(), arrow.float64(), arrow.int32()
    texts = {"key", "item_id", "style", "model", "prompt_version"}
    types = {"history_items": arrow.list_(text), "history_responses": arrow.list_(arrow.int8()), "n_tokens": count}
    for name, columns in ((JUDGEMENTS_FILE, judgements), (PRIORS_FILE, priors)):
        schema = arrow.schema([(c, types.get(c, text if c in texts else number)) for c in columns])
        _write_parquet(folder / name, arrow.table(columns, schema=schema))


def _write_parquet(path: Path, table: object) -> None:
    _, parquet = import_pyarrow()
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    write_file(path, buffer.getvalue())
