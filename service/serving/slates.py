"""From a session to a slate: who may be shown, with which probability, and what is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from service.conditions import Condition
from service.policy.adaptive import Distribution, Query, ServingPolicy, entropy
from service.policy.sampling import Probs, sample_slates
from service.policy.types import interactions
from service.policy.variants import Arm
from service.serving import rules
from service.serving.loader import LivePolicy, Loaded
from service.serving.rules import Applied, Rules
from service.store.catalogue import Catalogue
from service.store.events import Impression, Mask, Shadow, candidate_hash, encode_mask
from service.store.slate_ids import new_id

History = Sequence[tuple[str, float]]

Repeat = Literal["never", "when_empty", "freely"]
SlateWarning = Literal[  # each with its meaning in `contract.slate_warnings`
    "catalogue_empty",
    "fewer_items_than_k",
    "impression_not_logged",
    "no_items_left",
    "no_policy",
    "pin_not_shown",
    "repeated_items",
    "session_unavailable",
    "unknown_candidates",
    "unknown_category",
    "unknown_feedback_type",
    "unknown_property",
]
Source = Literal["pretrained", "learned", "popularity", "catalogue", "pinned"]


class Slot(msgspec.Struct, frozen=True, omit_defaults=True):
    """The fields of `schemas.RecommendedItem`."""

    item_id: str
    slot: int
    score: float
    propensity: float
    source: Source
    text: str | None = None
    categories: tuple[str, ...] | None = None
    properties: dict[str, Any] | None = None


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


class Restrictions(NamedTuple):
    """Restrictions of a request on the items of its slate."""

    k: int
    only: Sequence[str] | None = None  # item ids
    excluded: Sequence[str] = ()
    categories: Sequence[str] | None = None
    condition: Condition | None = None
    repeat: Repeat = "never"
    rules: Rules | None = None


@dataclass(frozen=True)
class Candidates:
    """The items that this request may show."""

    available: Mask  # [A] without the pinned ones
    masked: tuple[str, ...]  # seen, excluded or pinned, so that no slot is drawn from them
    named: tuple[str, ...] | None  # set when the request named the only ones
    allowed: bytes | None  # instead, when its filters said which, see `encode_mask`
    rules: Applied | None
    warnings: tuple[SlateWarning, ...]


def find_candidates(catalogue: Catalogue, seen: Sequence[str], restrictions: Restrictions, now_s: float) -> Candidates:
    """Hidden, deleted, excluded and filtered items are not available, nor those whose time it is not; with `only`, nor
    are all others. What was `seen`, oldest first, is not either, unless it is to `repeat`: freely, or, when fewer than
    `k` are left, the half of it of which the last sight is the longest ago.
    """
    index = catalogue.index
    open_now = catalogue.available(now_s)
    available = open_now.copy()
    warnings: list[SlateWarning] = [] if available.any() else ["catalogue_empty"]
    warnings += _restrict(available, catalogue, restrictions)
    is_filtered = restrictions.categories is not None or restrictions.condition is not None
    named = allowed = None
    if is_filtered:
        allowed = encode_mask(available)
    elif restrictions.only is not None:
        named = tuple([catalogue.ids[place] for place in np.flatnonzero(available)])
    without = [item for item in dict.fromkeys(restrictions.excluded) if item in index]
    applied = None
    if restrictions.rules is not None:
        applied = rules.apply(restrictions.rules, catalogue, open_now, frozenset(without), restrictions.k, now_s)
        warnings += ["pin_not_shown"] if len(applied.pinned) < len(restrictions.rules.pins) else []
        warnings += ["unknown_property"] if restrictions.rules.unknown_properties(catalogue) else []
        without += [catalogue.ids[place] for place in applied.pinned.values()]
    available[[index[item] for item in without]] = False
    hidden: dict[str, int] = {}  # rows of what was seen, latest first
    if restrictions.repeat != "freely":
        hidden = {item: row for item in reversed(seen) if (row := index.get(item)) is not None}
        rows = np.fromiter(hidden.values(), np.intp, len(hidden))
        was_available = available[rows]
        available[rows] = False
        if restrictions.repeat == "when_empty" and (missing := _missing(available, applied, restrictions.k)) > 0:
            could = [item for item, free in zip(hidden, was_available, strict=True) if free]
            for item in could[::-1][: max(missing, len(could) // 2)]:  # some to choose from
                available[hidden.pop(item)] = True
            warnings += ["repeated_items"] if could else []
    masked = dict.fromkeys((*hidden, *without)) if without else hidden
    if not available.any() and not warnings and not (applied and applied.pinned):
        warnings.append("no_items_left")
    return Candidates(available, tuple(masked), named, allowed, applied, tuple(warnings))


def _missing(available: Mask, applied: Applied | None, k: int) -> int:
    n_pinned = len(applied.pinned) if applied is not None else 0
    return k - n_pinned - int(np.count_nonzero(available))


def _restrict(available: Mask, catalogue: Catalogue, restrictions: Restrictions) -> list[SlateWarning]:
    """Take from `available` what a request's own candidates and filters leave out; warn of what is unknown."""
    warnings: list[SlateWarning] = []
    if restrictions.only is not None:
        named_rows = [catalogue.index[i] for i in restrictions.only if i in catalogue.index]
        if len(named_rows) < len(restrictions.only):
            warnings.append("unknown_candidates")
        named = np.zeros_like(available)
        named[named_rows] = True
        available &= named
    if restrictions.categories is not None:
        if catalogue.unknown_categories(restrictions.categories):
            warnings.append("unknown_category")
        available &= catalogue.in_categories(restrictions.categories)
    if restrictions.condition is not None:
        if rules.unknown_properties([restrictions.condition], catalogue):
            warnings.append("unknown_property")
        available &= catalogue.fits(restrictions.condition)
    return warnings


class Draw(NamedTuple):
    """A slate of `k` items to be drawn by `rng` from a policy in a state."""

    policy: ServingPolicy
    query: Query
    k: int
    rng: np.random.Generator
    rules: Applied | None = None


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
    draws = [Draw(live.policy, Query(past, chosen.available, serving_arm), k, rng, chosen.rules)]
    if live.shadow is not None:  # under the same rules, so that both are compared in what they chose
        draws.append(Draw(live.shadow.policy, Query(past, chosen.available), k, shadow_rng, chosen.rules))
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


def _drawn(draws: Sequence[Draw]) -> list[Drawn]:
    """Draw slates of one policy with one generator."""
    distributions = draws[0].policy.serve([one.query for one in draws])
    plain = [n for n, one in enumerate(draws) if one.rules is None]
    drawn = {
        n: _drawn_by(one.rules, one, distribution)
        for n, (one, distribution) in enumerate(zip(draws, distributions, strict=True))
        if one.rules is not None
    }
    if plain:
        drawn.update(zip(plain, _without_rules([(draws[n], distributions[n]) for n in plain]), strict=True))
    return [drawn[n] for n in range(len(draws))]


def _without_rules(draws: Sequence[tuple[Draw, Distribution]]) -> Iterator[Drawn]:
    # Slots above it are all that a slot depends on, so shorter slates are the beginnings of longer ones.
    probs = np.array([distribution.probs for _, distribution in draws])
    entropies = entropy(probs)
    slates = sample_slates(probs, min(max(one.k for one, _ in draws), probs.shape[1]), draws[0][0].rng)
    rows = zip(draws, probs, entropies.tolist(), slates.items, slates.propensities, strict=True)
    for (one, distribution), mass, nats, places, propensities in rows:
        n = min(one.k, int(np.count_nonzero(places >= 0)))
        yield _of(distribution, places[:n], propensities[:n].tolist(), mass, nats)


def _drawn_by(applied: Applied, one: Draw, distribution: Distribution) -> Drawn:
    """Draw a slate under rules; the pinned slots are left for `build_slate`."""
    if applied.new is not None:
        distribution = applied.new.among(one.policy, one.query, distribution)
    boosted = replace(distribution, probs=applied.weighed(distribution.probs, distribution.rows))
    slate, probs = applied.draw(boosted.probs, boosted.rows, len(one.query.available), one.k, one.rng)
    return _of(boosted, slate.items, slate.propensities.tolist(), probs, float(entropy(probs)))


def _of(
    distribution: Distribution, shown: npt.NDArray[np.int64], propensities: list[float], mass: Probs, nats: float
) -> Drawn:
    return Drawn(
        items=distribution.items(shown).tolist(),
        propensities=propensities,
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
    placement: str | None = None,
) -> Slate:
    """Make the slate of what was `drawn` by its draws, and what is logged of it."""
    slate, *others = drawn
    items = _slots(slate, chosen.rules, catalogue)
    pinned = tuple([item.slot for item in items if item.source == "pinned"])
    impression = Impression(
        recommendation_id=new_id(user),
        user=user,
        arm=str(arm),
        policy_version=live.version,
        history=tuple(history),
        items=tuple([item.item_id for item in items]),
        propensities=tuple([item.propensity for item in items]),
        candidate_hash=candidate_hash(chosen.available),
        masked=chosen.masked,
        candidates=chosen.named,
        weight=slate.distribution.weight,
        entropy=slate.entropy,
        shadow=_shadow(live.shadow, others[0], catalogue, slate, pinned, chosen.rules) if live.shadow else None,
        allowed=chosen.allowed,
        pinned=pinned,
        placement=placement,
    )
    places = [catalogue.index[item.item_id] for item in items] if pinned else slate.items
    warnings = with_shortage(chosen, len(items), k)
    return Slate(impression.recommendation_id, live.version, impression.arm, items, warnings, impression, places)


def _slots(drawn: Drawn, applied: Applied | None, catalogue: Catalogue) -> list[Slot]:
    """Fill the slots: pinned items in theirs, what was drawn in the others."""
    slots: list[Slot] = []
    pinned = dict(applied.pinned) if applied is not None else {}
    rows = zip(drawn.items, drawn.scores, drawn.propensities, drawn.from_learned, strict=True)
    for place, score, propensity, learned in rows:
        while len(slots) in pinned:
            slots.append(_pinned(catalogue.ids[pinned.pop(len(slots))], len(slots)))
        source: Source = "learned" if learned else "pretrained"
        slots.append(Slot(catalogue.ids[place], len(slots), score, propensity, source))
    for _, place in sorted(pinned.items()):  # nothing else is left to show above them
        slots.append(_pinned(catalogue.ids[place], len(slots)))
    return slots


def _pinned(item_id: str, slot: int) -> Slot:
    return Slot(item_id, slot, 0.0, 1.0, "pinned")


def _shadow(
    loaded: Loaded, own: Drawn, catalogue: Catalogue, shown: Drawn, pinned: Sequence[int], applied: Applied | None
) -> Shadow:
    """Return what the shadow version would have shown, and how likely it would have shown what was; zero for what a
    rule showed, so that it counts for nothing."""
    places = np.array(shown.items, np.int64)
    if applied is None or not (applied.limits or applied.new):
        propensities = own.distribution.propensities(places).tolist()
    else:
        everything = own.distribution.of_all(len(catalogue))
        propensities = applied.propensities(everything.probs, places).tolist()
    for slot in pinned:
        propensities.insert(slot, 0.0)
    return Shadow(loaded.version, tuple(catalogue.ids[item] for item in own.items), tuple(propensities))


def with_shortage(chosen: Candidates, shown: int, k: int) -> list[SlateWarning]:
    """Return the warnings of a slate with so many items shown."""
    return [*chosen.warnings, "fewer_items_than_k"] if shown < k else list(chosen.warnings)
