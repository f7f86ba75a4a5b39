"""The items: in Redis for all processes, in memory for serving. An item's index never changes, deleted or not.

Every change takes the next number of a sequence; a process that knows number n asks only for what changed after n. Each
/recommend reads the sequence together with the session, so that a change counts from the very next answer on.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import redis as syncredis
import redis.asyncio as aioredis

from service.conditions import CATEGORIES, Compare, Condition
from service.policy.rows import Rows
from service.policy.text import TEXT_DIM, Embeddings
from service.store import events
from service.store.availability import Schedule, Window, window_of
from service.store.events import ItemChanged
from service.store.keys import Keys
from service.store.properties import Columns
from service.store.scripts import script

log = logging.getLogger(__name__)


class ItemRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """An item as it stands in Redis."""

    text: str
    embedding: bytes  # float16 [TEXT_DIM]
    categories: tuple[str, ...] = ()
    hidden: bool = False
    deleted: bool = False
    properties: dict[str, bool | int | float | str | tuple[bool | int | float | str, ...]] = {}
    available_from: float | None = None  # unix seconds
    available_until: float | None = None

    @property
    def window(self) -> Window | None:
        """Time in which it may be shown; None: always."""
        return window_of(self.available_from, self.available_until)


_decoder = msgspec.msgpack.Decoder(ItemRecord)


def decode_record(data: bytes) -> ItemRecord:
    """A record as stored. One that cannot be read counts as deleted: the items after it must still be found."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.error("an item's record cannot be read, so the item counts as deleted: %s", error)
        return ItemRecord("", b"", deleted=True)


_PAGE = 1000  # changes that are read at once
_PART = 16_384  # embeddings that are compared at once
_FIRST = 8  # dimensions that tell nearly all vectors apart
_ROUNDING = 3e-4  # of half precision, in one dimension
_MASKS = 16  # conditions whose answers are kept until the next change
_HOUR_S = 3600
_ARRIVALS = 10_000  # hours in which items came, the latest: of more than a year

PUT = script("put_item")


def pack_embedding(row: Embeddings) -> bytes:
    """One embedding [TEXT_DIM] as it is stored: float16, 768 bytes."""
    return row.astype(np.float16).tobytes()


def unpack_embedding(data: bytes) -> Embeddings:
    """A stored embedding, float32 [TEXT_DIM]; zeros if it is not one."""
    if len(data) != 2 * TEXT_DIM:
        return np.zeros(TEXT_DIM, np.float32)
    row = np.frombuffer(data, np.float16).astype(np.float32)
    return row if np.isfinite(row).all() else np.zeros(TEXT_DIM, np.float32)


def _no_embeddings() -> Rows[np.float16]:
    return Rows(np.zeros((0, TEXT_DIM), np.float16))


@dataclass(frozen=True)
class Catalogue:
    """A process's copy of the items as of change number `seq`; their order is the order of the policies' rows.

    What only ever grows is shared by the catalogues that follow each other, so that one with a million items costs
    little to change: `ids`, `index`, `embeddings`, `columns` and `schedule` may know of later items, too.
    """

    seq: int = 0
    texts: int = 0  # how often the text of an item that was there has changed
    ids: list[str] = field(default_factory=list)
    index: dict[str, int] = field(default_factory=dict)  # of the items that are in the newest catalogue in use
    embeddings: Rows[np.float16] = field(default_factory=_no_embeddings)  # [A or more, TEXT_DIM]
    columns: Columns = field(default_factory=Columns)  # properties, and the categories
    schedule: Schedule = field(default_factory=Schedule)  # of the items that are not always there
    visible: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))  # [A] not hidden or deleted
    arrivals: tuple[tuple[int, int], ...] = ()  # (hour since 1970, place of the first item that came in it), ascending
    _masks: dict[Condition, npt.NDArray[np.bool_]] = field(default_factory=dict, compare=False)  # as asked for lately

    @classmethod
    def kept_in(cls, folder: Path | None) -> Catalogue:
        """An empty one, whose embeddings are in a file in the folder once they are many."""
        return cls(embeddings=Rows(np.zeros((0, TEXT_DIM), np.float16), folder=folder))

    def emptied(self) -> Catalogue:
        """An empty one that keeps its embeddings at the same place."""
        return self.kept_in(self.embeddings.folder)

    def __len__(self) -> int:
        return len(self.visible)

    def available(self, now_s: float) -> npt.NDArray[np.bool_]:
        """[A] whether an item may be shown at a time (unix seconds); not to be changed."""
        return self.schedule.apply(self.visible, now_s)

    def first_since(self, since_s: float) -> int:
        """Place of the first item that came at a time (unix seconds, to the hour) or later, as all after it did; A if
        there is none. Those that a deployment began with, or that came before this was kept, are never among them."""
        after = bisect_left(self.arrivals, int(since_s // _HOUR_S), key=lambda arrival: arrival[0])
        return min(self.arrivals[after][1], len(self)) if after < len(self.arrivals) else len(self)

    def fits(self, condition: Condition) -> npt.NDArray[np.bool_]:
        """[A] whether an item fits; not to be changed."""
        mask = self._masks.get(condition)
        if mask is None:
            if len(self._masks) >= _MASKS:
                self._masks.clear()
            mask = self._masks[condition] = self.columns.fits(condition, len(self))
        return mask

    def in_categories(self, categories: Iterable[str]) -> npt.NDArray[np.bool_]:
        """[A] whether an item has any of the categories; not to be changed."""
        return self.fits(Compare(CATEGORIES, "in", tuple(categories)))

    def unknown_categories(self, categories: Iterable[str]) -> set[str]:
        """Return those of the categories that no item has, or had while this process knew it."""
        return {category for category in categories if not self.columns[CATEGORIES].holding([category])}

    def nearest(self, embedding: Embeddings, n: int, hidden: bool = False) -> list[int]:
        """Places of the `n` visible items whose texts are closest to one [TEXT_DIM], closest first; with `hidden` of
        all that there are, or were."""
        closeness = np.empty(len(self), np.float32)
        for start in range(0, len(self), _PART):
            part = self.embeddings.array[start : min(len(self), start + _PART)].astype(np.float32)
            closeness[start : start + len(part)] = part @ embedding
        if not hidden:
            closeness[~self.visible] = -np.inf
        n = min(n, len(self) if hidden else int(np.count_nonzero(self.visible)))
        if n == 0:
            return []
        best = np.argpartition(closeness, len(self) - n)[len(self) - n :]
        self.embeddings.forget()
        return [int(place) for place in best[np.argsort(-closeness[best])]]

    def same(self, embedding: npt.NDArray[np.float16], besides: str) -> int | None:
        """Place of a visible item, other than `besides`, whose text has this vector [TEXT_DIM] within rounding."""
        own, found = self.index.get(besides), None
        for start in range(0, len(self), _PART):
            part = self.embeddings.array[start : min(len(self), start + _PART)]
            near = np.abs(part[:, :_FIRST] - embedding[:_FIRST]).max(1) <= _ROUNDING
            near &= self.visible[start : start + len(part)]
            places = start + np.flatnonzero(near)
            places = places[places != own] if own is not None else places
            equal = np.abs(self.embeddings.array[places] - embedding).max(1, initial=0) <= _ROUNDING
            if equal.any():
                found = int(places[equal][0])
                break
        self.embeddings.forget()
        return found

    def adopt(self) -> None:
        """This is the catalogue in use from now on: its ids are found, too."""
        for place in range(len(self.index), len(self)):
            self.index[self.ids[place]] = place


class _Reading:
    """A catalogue while changes are read into it, in any order; the one before stays as it was."""

    def __init__(self, base: Catalogue) -> None:
        self._base = base
        self._visible: dict[int, bool] = {}
        self._changed_texts: dict[int, npt.NDArray[np.float16]] = {}
        self._n_items = len(base)

    def add(self, place: int, item_id: str, record: ItemRecord) -> None:
        base = self._base
        if place >= self._n_items:
            missing = place + 1 - len(base.embeddings)
            if missing > 0:
                base.embeddings.append(np.zeros((missing, TEXT_DIM), np.float16))
                base.ids.extend([""] * missing)
            self._n_items = place + 1
        row = unpack_embedding(record.embedding).astype(np.float16)
        if place >= len(base):
            base.ids[place] = item_id
            base.embeddings.array[place] = row
        elif row.tobytes() != base.embeddings.array[place].tobytes():
            self._changed_texts[place] = row
        base.columns.put(place, {**record.properties, CATEGORIES: record.categories})
        base.schedule.put(place, record.window)
        self._visible[place] = not (record.hidden or record.deleted)

    @property
    def has_more(self) -> bool:
        """True if items came that were not there before."""
        return self._n_items > len(self._base)

    def done(self, seq: int, arrivals: tuple[tuple[int, int], ...]) -> Catalogue:
        visible = np.zeros(self._n_items, np.bool_)
        visible[: len(self._base)] = self._base.visible
        places = np.fromiter(self._visible, np.intp, len(self._visible))
        visible[places] = np.fromiter(self._visible.values(), np.bool_, len(self._visible))
        base = self._base
        assert "" not in base.ids[len(base) : self._n_items], "a place has no item"
        for place, row in self._changed_texts.items():
            base.embeddings.array[place] = row
        base.embeddings.forget()
        texts = base.texts + len(self._changed_texts)
        return replace(base, seq=seq, texts=texts, visible=visible, arrivals=arrivals, _masks={})


class CatalogueStore:
    """The items in Redis."""

    def __init__(self, redis: aioredis.Redis, keys: Keys) -> None:
        self._redis, self._keys = redis, keys
        self._put = redis.register_script(PUT)

    async def put(self, items: Sequence[tuple[str, ItemRecord]], log: bool = True, replace: bool = True) -> list[bool]:
        """Store items in order, each logged for the worker unless `log` is off; True where the item is new.

        Without `replace` an item that exists, or was deleted, stays as it is.
        """
        keys = self._keys
        names = [keys.items, keys.item_index, keys.item_changes, keys.item_seq, keys.events, keys.item_arrivals]
        pipe = self._redis.pipeline(transaction=True)
        for item_id, record in items:
            event = ItemChanged(
                item_id=item_id,
                embedding=record.embedding,
                hidden=record.hidden,
                deleted=record.deleted,
                available_from=record.available_from,
                available_until=record.available_until,
            )
            payload = events.encode(event) if log else b""
            args = [item_id, msgspec.msgpack.encode(record), payload, int(replace), _ARRIVALS]
            await self._put(keys=names, args=args, client=pipe)
        return [bool(new) for new in await pipe.execute()]

    async def get_many(self, item_ids: Sequence[str]) -> list[ItemRecord]:
        """Items as stored, in their order; one that is unknown as a deleted one without a text."""
        if not item_ids:
            return []
        stored = await self._redis.hmget(self._keys.items, list(item_ids))
        return [decode_record(data) if data else ItemRecord("", b"", deleted=True) for data in stored]

    async def get(self, item_id: str) -> ItemRecord | None:
        """An item as stored, None if unknown or deleted."""
        data = await self._redis.hget(self._keys.items, item_id)
        record = decode_record(data) if data else None
        return None if record is None or record.deleted else record

    async def sync(self, current: Catalogue) -> Catalogue:
        """The catalogue as it is now: `current` itself if nothing changed, an empty one if all was forgotten.

        Raises:
            OSError: there is no room for the embeddings.
        """
        seq = int(await self._redis.get(self._keys.item_seq) or 0)
        if seq < current.seq:  # another, or an emptied, Redis: what we know is of the old one
            current = current.emptied()
        reading, read = _Reading(current), current.seq
        while True:
            # What changes meanwhile moves to the list's end, so that nothing is missing when that is reached.
            scored = await self._redis.zrangebyscore(
                self._keys.item_changes, read + 1, "+inf", 0, _PAGE, withscores=True, score_cast_func=int
            )
            if scored:
                changed, read = [item_id for item_id, _ in scored], scored[-1][1]
                pipe = self._redis.pipeline(transaction=True)
                pipe.hmget(self._keys.items, changed)
                pipe.hmget(self._keys.item_index, changed)
                records, indices = await pipe.execute()
                if None in records or None in indices:  # Redis is being emptied right now
                    return current.emptied()
                # There may be hundreds of megabytes to move; requests go on meanwhile.
                await asyncio.to_thread(current.embeddings.reserve, max(map(int, indices)) + 1)
                for item_id, data, index in zip(changed, records, indices, strict=True):
                    reading.add(int(index), item_id.decode(), decode_record(data))
            if len(scored) < _PAGE:
                if read == current.seq:
                    return current
                return reading.done(read, await self._arrivals() if reading.has_more else current.arrivals)
            current.embeddings.forget()
            n_items = await self._redis.hlen(self._keys.item_index)
            await asyncio.to_thread(current.embeddings.reserve, n_items)

    async def _arrivals(self) -> tuple[tuple[int, int], ...]:
        found = await self._redis.zrange(self._keys.item_arrivals, 0, -1, withscores=True, score_cast_func=int)
        return tuple(sorted((int(hour), place) for hour, place in found))


def embeddings_of(redis: syncredis.Redis, keys: Keys, item_ids: Sequence[str]) -> Embeddings:
    """Stored embeddings of items, [n, TEXT_DIM]; zeros where an item is unknown."""
    if not item_ids:
        return np.zeros((0, TEXT_DIM), np.float32)
    stored = redis.hmget(keys.items, list(item_ids))
    return np.stack([unpack_embedding(decode_record(data).embedding if data else b"") for data in stored])
