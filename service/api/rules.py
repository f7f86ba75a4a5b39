"""Filters, rules and placements as `fast_path` reads them, and what they come to for a slate."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any

import msgspec
import redis.asyncio as aioredis
from msgspec import Meta
from redis.exceptions import RedisError

from service.conditions import CATEGORIES, NAME, Compare, Condition, Every, read_condition
from service.contract.base import MAX_DAYS, MAX_ID_BYTES, MAX_K, MAX_TYPES, TYPE
from service.contract.filters import MOST_BOOST, MOST_BOOSTS, MOST_DAYS, MOST_LIMITS, MOST_PINS
from service.serving.rules import Rules
from service.serving.slates import Repeat
from service.store.keys import Keys

log = logging.getLogger(__name__)

Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_BYTES)]


def exact(pattern: str) -> str:
    """Return a pattern of JSON Schema as Python has it, where `$` also stands before a line's end."""
    return pattern.removesuffix("$") + r"\Z"


Types = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=64, pattern=exact(TYPE))]], Meta(max_length=MAX_TYPES)
]
Days = Annotated[float, Meta(gt=0, le=MAX_DAYS)]


class Where:
    """A condition in a request; no dataclass, which msgspec would read by itself."""

    def __init__(self, condition: Condition) -> None:
        self.condition = condition

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Where) and self.condition == other.condition

    def __hash__(self) -> int:
        return hash(self.condition)


def decode_hook(kind: type, data: object) -> object:
    """Read what msgspec does not know; ValueError if it is not valid."""
    assert kind is Where
    return Where(read_condition(data))


class FilterFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of `filters.Filters`."""

    categories: Annotated[list[Id], Meta(max_length=100)] | None = None
    where: Where | None = None


class PinFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of `filters.Pin`."""

    slot: Annotated[int, Meta(ge=0, lt=MAX_K)]
    item_id: Id


class BoostFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of `filters.Boost`."""

    where: Where
    by: Annotated[float, Meta(ge=-MOST_BOOST, le=MOST_BOOST)]


class LimitFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of `filters.AtMost`."""

    of: Annotated[str, Meta(pattern=exact(NAME))]
    n: Annotated[int, Meta(ge=1, le=MAX_K)]


class NewFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of `filters.NewItems`."""

    share: Annotated[float, Meta(gt=0, le=1)]
    within_days: Annotated[float, Meta(gt=0, le=MOST_DAYS)]


class RuleFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of `filters.Rules`."""

    pins: Annotated[list[PinFields], Meta(max_length=MOST_PINS)] = []
    boosts: Annotated[list[BoostFields], Meta(max_length=MOST_BOOSTS)] = []
    at_most: Annotated[list[LimitFields], Meta(max_length=MOST_LIMITS)] = []
    new_items: NewFields | None = None

    def __post_init__(self) -> None:
        if len({pin.slot for pin in self.pins}) < len(self.pins):
            raise ValueError("two pins are for the same slot")

    def rules(self) -> Rules | None:
        """Return what they say; None if that is nothing."""
        rules = Rules(
            tuple([(pin.slot, pin.item_id) for pin in self.pins]),
            tuple([(boost.where.condition, boost.by) for boost in self.boosts]),
            tuple([(limit.of, limit.n) for limit in self.at_most]),
            None if self.new_items is None else (self.new_items.share, self.new_items.within_days),
        )
        return None if rules == Rules() else rules


class PlacementFields(msgspec.Struct, frozen=True):
    """The fields of `filters.Placement`."""

    k: int | None = None
    filters: FilterFields | None = None
    rules: RuleFields | None = None
    repeat: Repeat | None = None
    repeat_after_days: float | None = None
    exclude_feedback_types: list[str] = []

    def condition(self) -> Condition | None:
        """Return what its filters say."""
        if self.filters is None:
            return None
        parts: list[Condition] = [] if self.filters.where is None else [self.filters.where.condition]
        if self.filters.categories is not None:
            parts.append(Compare(CATEGORIES, "in", tuple(self.filters.categories)))
        return Every(tuple(parts)) if parts else None


def both(first: Condition | None, second: Condition | None) -> Condition | None:
    """Both conditions; the other where one is None."""
    if first is None or second is None:
        return second if first is None else first
    return Every((first, second))


_NOTHING = PlacementFields()
_decoder = msgspec.json.Decoder(PlacementFields, dec_hook=decode_hook)


class Placements:
    """Stored placements in memory, kept as they are in Redis."""

    def __init__(self, redis: aioredis.Redis, keys: Keys, interval_s: float) -> None:
        self._redis, self._name, self._interval_s = redis, keys.placements, interval_s
        self._stored: dict[bytes, bytes] = {}
        self._placements: dict[str, PlacementFields] = {}

    def of(self, name: str | None) -> PlacementFields:
        """Return what a placement says; nothing if it is not stored."""
        return _NOTHING if name is None else self._placements.get(name, _NOTHING)

    def all(self) -> dict[str, Any]:
        """Return all that are stored, as they were put, by name."""
        return {name.decode(): msgspec.json.decode(data) for name, data in sorted(self._stored.items())}

    async def put(self, name: str, settings: bytes) -> bool:
        """Store a placement, JSON; True if it is new. Other processes know of it after their next look."""
        new = await self._redis.hset(self._name, name, settings)
        await self.refresh()
        return bool(new)

    async def delete(self, name: str) -> bool:
        """Forget a placement; False if there is none."""
        found = await self._redis.hdel(self._name, name)
        await self.refresh()
        return bool(found)

    async def refresh(self) -> None:
        """Look once."""
        stored: dict[bytes, bytes] = await self._redis.hgetall(self._name)
        if stored != self._stored:
            placements = {}
            for name, data in stored.items():
                try:
                    placements[name.decode()] = _decoder.decode(data)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    log.error("placement %r says nothing: its settings cannot be read (%s)", name, error)
            self._stored, self._placements = stored, placements

    async def watch(self) -> None:
        """Refresh for ever."""
        while True:
            try:
                await self.refresh()
            except (RedisError, OSError) as error:
                log.debug("placements cannot be read (%s); those in memory stay as they are", type(error).__name__)
            await asyncio.sleep(self._interval_s)
