"""From a session to a slate: who may be shown, with which probability, and what is drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from service.catalogue import Catalogue
from service.events import Impression, Shadow
from service.live import Apprentice, LivePolicy
from service.policy.adaptive import Arm
from service.policy.sampling import sample_slate, slate_propensities
from service.policy.types import Interaction, Response
from service.schemas import RecommendedItem, RecommendRequest

History = Sequence[tuple[str, float]]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Slate:
    """What is answered and what is logged (None when no policy drew it, so nothing can be learned from it)."""

    recommendation_id: str
    policy_version: int
    arm: str
    items: list[RecommendedItem]
    warnings: list[str]
    impression: Impression | None


@dataclass(frozen=True)
class Candidates:
    """The items that this request may show."""

    available: Mask  # [A]
    masked: tuple[str, ...]  # seen or excluded by id
    allowed: tuple[str, ...] | None  # set when the request or its filters named the only ones
    warnings: tuple[str, ...]


def candidates(catalogue: Catalogue, request: RecommendRequest, seen: frozenset[str]) -> Candidates:
    """Seen, hidden, deleted, excluded and filtered items are not available."""
    available = catalogue.available.copy()
    warnings: list[str] = []
    if not available.any():
        warnings.append("catalogue_empty")
    allowed = None
    if request.candidate_item_ids is not None:
        known = [catalogue.index[i] for i in request.candidate_item_ids if i in catalogue.index]
        if len(known) < len(request.candidate_item_ids):
            warnings.append("unknown_candidates")
        only = np.zeros_like(available)
        only[known] = True
        available &= only
    if request.filters is not None and request.filters.categories is not None:
        available &= catalogue.in_categories(request.filters.categories)
    if request.candidate_item_ids is not None or request.filters is not None:
        allowed = tuple(catalogue.ids[i] for i in np.flatnonzero(available))
    masked = tuple(sorted(item for item in seen.union(request.exclude_item_ids) if item in catalogue.index))
    available[[catalogue.index[item] for item in masked]] = False
    if warnings == [] and not available.any():
        warnings.append("no_items_left")
    return Candidates(available, masked, allowed, tuple(warnings))


def candidate_hash(available: Mask) -> str:
    """A name for the set of items that could be shown, `available` [A]."""
    return hashlib.blake2b(np.packbits(available).tobytes(), digest_size=8).hexdigest()


def interactions(history: History, index: dict[str, int]) -> list[Interaction]:
    """History as the policy takes it; items that the policy has no row for are left out."""
    return [Interaction(index[item], Response.of(reward)) for item, reward in history if item in index]


def draw(
    live: LivePolicy,
    catalogue: Catalogue,
    chosen: Candidates,
    history: History,
    *,
    user: str,
    arm: Arm,
    k: int,
    rng: np.random.Generator,
    shadow_rng: np.random.Generator,
) -> Slate:
    """Draw a slate from the live policy; the kill switch turns every arm into the control.

    `shadow_rng` draws for an apprentice, so that what is shown is the same with and without one.
    """
    serving_arm = Arm.CONTROL if live.live.mode == "frozen" else arm
    known = interactions(history, catalogue.index)
    distribution = live.policy.distribution(known, chosen.available, serving_arm)
    slate = sample_slate(distribution.probs, k, rng)
    sources = distribution.sources(slate.items)
    ids = tuple(catalogue.ids[i] for i in slate.items)
    recommendation_id = uuid4().hex
    impression = Impression(
        recommendation_id=recommendation_id,
        user=user,
        arm=str(arm),
        policy_version=live.version,
        history=tuple(history),
        items=ids,
        propensities=tuple(float(p) for p in slate.propensities),
        candidate_hash=candidate_hash(chosen.available),
        masked=chosen.masked,
        candidates=chosen.allowed,
        weight=distribution.weight,
        entropy=distribution.entropy,
        shadow=_shadow(live.apprentice, catalogue, chosen, known, slate.items, k, shadow_rng),
    )
    items = [
        RecommendedItem(
            item_id=item_id,
            slot=slot,
            score=float(distribution.probs[row]),
            propensity=impression.propensities[slot],
            source="learned" if source == "learned" else "pretrained",
        )
        for slot, (item_id, row, source) in enumerate(zip(ids, slate.items, sources, strict=True))
    ]
    return Slate(recommendation_id, live.version, str(arm), items, _with_shortage(chosen, len(items), k), impression)


def _shadow(
    apprentice: Apprentice | None,
    catalogue: Catalogue,
    chosen: Candidates,
    known: Sequence[Interaction],
    shown: npt.NDArray[np.int64],
    k: int,
    rng: np.random.Generator,
) -> Shadow | None:
    """What the apprentice would have shown, and how likely it would have shown what was."""
    if apprentice is None:
        return None
    probs = apprentice.policy.distribution(known, chosen.available).probs
    own = sample_slate(probs, k, rng)
    propensities = slate_propensities(probs, shown)
    return Shadow(apprentice.version, tuple(catalogue.ids[i] for i in own.items), tuple(propensities.tolist()))


def fall_back(catalogue: Catalogue, chosen: Candidates, popular: Sequence[str], k: int) -> Slate:
    """Without a policy: the most popular items, then the catalogue's order."""
    by_popularity = [i for i in popular if i in catalogue.index and chosen.available[catalogue.index[i]]]
    rest = [catalogue.ids[i] for i in np.flatnonzero(chosen.available)]
    ids = list(dict.fromkeys([*by_popularity, *rest]))[:k]
    popular_set = set(by_popularity)
    items = [
        RecommendedItem(
            item_id=item_id,
            slot=slot,
            score=0.0,
            propensity=1.0,
            source="popularity" if item_id in popular_set else "catalogue",
        )
        for slot, item_id in enumerate(ids)
    ]
    warnings = ["no_policy", *_with_shortage(chosen, len(items), k)]
    return Slate(uuid4().hex, 0, "fallback", items, warnings, None)


def _with_shortage(chosen: Candidates, shown: int, k: int) -> list[str]:
    return [*chosen.warnings, *(["fewer_items_than_k"] if shown < k else [])]
