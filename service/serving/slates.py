"""From a session to a slate: who may be shown, with which probability, and what is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from service.policy.adaptive import Distribution, Query, ServingPolicy, entropy
from service.policy.sampling import sample_slates
from service.policy.types import interactions
from service.policy.variants import Arm
from service.serving.loader import LivePolicy, Loaded
from service.store.catalogue import Catalogue
from service.store.events import Impression, Mask, Shadow, candidate_hash
from service.store.slate_ids import new_id, unlogged_id

History = Sequence[tuple[str, float]]

Repeat = Literal["never", "when_empty", "freely"]
SlateWarning = Literal[  # each with its meaning in `contract.slate_warnings`
    "catalogue_empty",
    "fewer_items_than_k",
    "impression_not_logged",
    "no_items_left",
    "no_policy",
    "repeated_items",
    "session_unavailable",
    "unknown_candidates",
    "unknown_category",
]


class Slot(msgspec.Struct, frozen=True):
    """The fields of `schemas.RecommendedItem`."""

    item_id: str
    slot: int
    score: float
    propensity: float
    source: Literal["pretrained", "learned", "popularity", "catalogue"]


@dataclass(frozen=True)
class Slate:
    """An answer, and the impression to log (None when no policy drew it, so nothing can be learned from it)."""

    recommendation_id: str
    policy_version: int
    arm: str
    items: list[Slot]
    warnings: list[SlateWarning]
    impression: Impression | None
    places: Sequence[int] = ()  # of the items in the catalogue


@dataclass(frozen=True)
class Candidates:
    """The items that this request may show."""

    available: Mask  # [A]
    masked: tuple[str, ...]  # seen or excluded by id
    allowed: tuple[str, ...] | None  # set when the request or its filters named the only ones
    warnings: tuple[SlateWarning, ...]


def candidates(
    catalogue: Catalogue,
    seen: Sequence[str],
    only: Sequence[str] | None = None,
    excluded: Iterable[str] = (),
    categories: Sequence[str] | None = None,
    repeat: Repeat = "never",
    k: int = 0,
) -> Candidates:
    """Hidden, deleted, excluded and filtered items are not available; with `only`, nor are all others. What was `seen`,
    oldest first, is not either, unless it is to `repeat`: freely, or, when fewer than `k` are left, the half of it of
    which the last sight is the longest ago.
    """
    index, ids = catalogue.index, catalogue.ids
    available = catalogue.available.copy()
    warnings: list[SlateWarning] = []
    if not available.any():
        warnings.append("catalogue_empty")
    allowed = None
    warnings += _restrict(available, catalogue, only, categories)
    if only is not None or categories is not None:
        allowed = tuple([ids[i] for i in np.flatnonzero(available)])
    excluded = [item for item in dict.fromkeys(excluded) if item in index]
    available[[index[item] for item in excluded]] = False
    hidden: dict[str, int] = {}  # rows of what was seen, latest first
    if repeat != "freely":
        hidden = {item: row for item in reversed(seen) if (row := index.get(item)) is not None}
        rows = np.fromiter(hidden.values(), np.intp, len(hidden))
        was_available = available[rows]
        available[rows] = False
        if repeat == "when_empty" and (missing := k - int(np.count_nonzero(available))) > 0 and was_available.any():
            could = [item for item, free in zip(hidden, was_available, strict=True) if free]
            for item in could[::-1][: max(missing, len(could) // 2)]:  # some to choose from
                available[hidden.pop(item)] = True
            warnings.append("repeated_items")
    masked = dict.fromkeys((*hidden, *excluded)) if excluded else hidden
    if not available.any() and not warnings:
        warnings.append("no_items_left")
    return Candidates(available, tuple(masked), allowed, tuple(warnings))


def _restrict(
    available: Mask, catalogue: Catalogue, only: Sequence[str] | None, categories: Sequence[str] | None
) -> list[SlateWarning]:
    """Take from `available` what a request's own candidates and categories leave out; warn of those unknown."""
    warnings: list[SlateWarning] = []
    if only is not None:
        named_rows = [catalogue.index[i] for i in only if i in catalogue.index]
        if len(named_rows) < len(only):
            warnings.append("unknown_candidates")
        named = np.zeros_like(available)
        named[named_rows] = True
        available &= named
    if categories is not None:
        if catalogue.unknown_categories(categories):
            warnings.append("unknown_category")
        available &= catalogue.in_categories(categories)
    return warnings


class Draw(NamedTuple):
    """A slate of `k` items to be drawn by `rng` from a policy in a state."""

    policy: ServingPolicy
    query: Query
    k: int
    rng: np.random.Generator


class Drawn(NamedTuple):
    """k' <= k items in slot order, by their place in the catalogue, and where they come from."""

    items: list[int]
    propensities: list[float]  # each given the slots above it
    scores: list[float]  # the policy's probabilities
    from_learned: list[bool]
    entropy: float
    distribution: Distribution


def plan_draws(
    live: LivePolicy,
    catalogue: Catalogue,
    chosen: Candidates,
    history: History,
    arm: Arm,
    k: int,
    rng: np.random.Generator,
    shadow_rng: np.random.Generator,
) -> list[Draw]:
    """List the draws of one slate: that of the policy in service and, if there is a shadow version, its own.

    The kill switch turns every arm into the control. `shadow_rng` draws for the shadow version, so that what is shown
    is the same with and without one.
    """
    past = interactions(history, catalogue.index, live.policy.config.largest_reward)
    serving_arm = Arm.CONTROL if live.is_frozen else arm
    draws = [Draw(live.policy, Query(past, chosen.available, serving_arm), k, rng)]
    if live.shadow is not None:
        draws.append(Draw(live.shadow.policy, Query(past, chosen.available), k, shadow_rng))
    return draws


def draw_all(draws: Sequence[Draw]) -> list[Drawn]:
    """Draw each, in their order; those of the same policy cost less together than one by one."""
    places: dict[tuple[int, int], list[int]] = {}
    for n, one in enumerate(draws):
        places.setdefault((id(one.policy), id(one.rng)), []).append(n)
    drawn: dict[int, Drawn] = {}
    for group in places.values():
        drawn.update(zip(group, _drawn([draws[n] for n in group]), strict=True))
    return [drawn[n] for n in range(len(draws))]


def _drawn(draws: Sequence[Draw]) -> Iterator[Drawn]:
    """Draw slates of one policy with one generator."""
    distributions = draws[0].policy.serve([one.query for one in draws])
    # Slots above it are all that a slot depends on, so shorter slates are the beginnings of longer ones.
    probs = np.array([distribution.probs for distribution in distributions])
    entropies = entropy(probs)
    slates = sample_slates(probs, min(max(one.k for one in draws), probs.shape[1]), draws[0].rng)
    rows = zip(draws, distributions, probs, entropies.tolist(), slates.items, slates.propensities, strict=True)
    for one, distribution, mass, nats, places, propensities in rows:
        shown = places[: min(one.k, int(np.count_nonzero(places >= 0)))]
        yield Drawn(
            items=distribution.items(shown).tolist(),
            propensities=propensities[: len(shown)].tolist(),
            scores=mass[shown].tolist(),
            from_learned=distribution.from_learned(shown).tolist(),
            entropy=nats,
            distribution=distribution,
        )


def build_slate(
    live: LivePolicy,
    catalogue: Catalogue,
    chosen: Candidates,
    history: History,
    drawn: Sequence[Drawn],
    *,
    user: str,
    arm: Arm,
    k: int,
) -> Slate:
    """Make the slate of what was `drawn` by its draws, and what is logged of it."""
    slate, *others = drawn
    ids = tuple([catalogue.ids[item] for item in slate.items])
    impression = Impression(
        recommendation_id=new_id(user),
        user=user,
        arm=str(arm),
        policy_version=live.version,
        history=tuple(history),
        items=ids,
        propensities=tuple(slate.propensities),
        candidate_hash=candidate_hash(chosen.available),
        masked=chosen.masked,
        candidates=chosen.allowed,
        weight=slate.distribution.weight,
        entropy=slate.entropy,
        shadow=_shadow(live.shadow, others[0], catalogue, slate.items) if live.shadow else None,
    )
    items = [
        Slot(item_id, slot, score, propensity, "learned" if learned else "pretrained")
        for slot, (item_id, score, propensity, learned) in enumerate(
            zip(ids, slate.scores, slate.propensities, slate.from_learned, strict=True)
        )
    ]
    warnings = _with_shortage(chosen, len(items), k)
    return Slate(impression.recommendation_id, live.version, impression.arm, items, warnings, impression, slate.items)


def _shadow(loaded: Loaded, own: Drawn, catalogue: Catalogue, shown: Sequence[int]) -> Shadow:
    """Return what the shadow version would have shown, and how likely it would have shown what was."""
    propensities = own.distribution.propensities(np.array(shown, np.int64))
    return Shadow(loaded.version, tuple(catalogue.ids[item] for item in own.items), tuple(propensities.tolist()))


def fall_back(catalogue: Catalogue, chosen: Candidates, popular: Sequence[str], k: int) -> Slate:
    """Build a slate without a policy: the most popular items, then the others in the catalogue's order."""
    places = {item: catalogue.index.get(item, len(catalogue)) for item in popular}  # later ones may be known meanwhile
    by_popularity = [item for item, place in places.items() if place < len(catalogue) and chosen.available[place]]
    rest = [catalogue.ids[i] for i in np.flatnonzero(chosen.available)]
    ids = list(dict.fromkeys([*by_popularity, *rest]))[:k]
    popular_set = set(by_popularity)
    items = [
        Slot(
            item_id=item_id,
            slot=slot,
            score=0.0,
            propensity=1.0,
            source="popularity" if item_id in popular_set else "catalogue",
        )
        for slot, item_id in enumerate(ids)
    ]
    warnings: list[SlateWarning] = ["no_policy", *_with_shortage(chosen, len(items), k)]
    return Slate(unlogged_id(), 0, "fallback", items, warnings, None)


def _with_shortage(chosen: Candidates, shown: int, k: int) -> list[SlateWarning]:
    return [*chosen.warnings, "fewer_items_than_k"] if shown < k else list(chosen.warnings)
