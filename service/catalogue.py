"""The items: in Redis for all processes, in memory for serving. An item's index never changes, deleted or not.

Every change takes the next number of a sequence; a process that knows number n asks only for what changed after n. Each
/recommend reads the sequence together with the session, so that a change counts from the very next answer on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt
import redis as syncredis
import redis.asyncio as aioredis

from service import events
from service.events import ItemChanged
from service.keys import Keys
from service.policy.text import TEXT_DIM, Embeddings

log = logging.getLogger(__name__)


class ItemRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """An item as it stands in Redis."""

    text: str
    embedding: bytes  # float16 [TEXT_DIM]
    categories: tuple[str, ...] = ()
    hidden: bool = False
    deleted: bool = False


_decoder = msgspec.msgpack.Decoder(ItemRecord)


def decode_record(data: bytes) -> ItemRecord:
    """A record as stored. One that cannot be read counts as deleted: the items after it must still be found."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.error("an item's record cannot be read, so the item counts as deleted: %s", error)
        return ItemRecord("", b"", deleted=True)


# KEYS: items, index, changes, seq, events. ARGV: id, record, event payload ("" logs nothing). Returns 1 for a new item.
_PUT = """
local new = redis.call('HSETNX', KEYS[2], ARGV[1], redis.call('HLEN', KEYS[2]))
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[3], redis.call('INCR', KEYS[4]), ARGV[1])
if ARGV[3] ~= '' then redis.call('XADD', KEYS[5], '*', 'e', ARGV[3]) end
return new
"""


def pack_embedding(row: Embeddings) -> bytes:
    """One embedding [TEXT_DIM] as it is stored: float16, 768 bytes."""
    return row.astype(np.float16).tobytes()


def unpack_embedding(data: bytes) -> Embeddings:
    """A stored embedding, float32 [TEXT_DIM]; zeros if it is not one."""
    if len(data) != 2 * TEXT_DIM:
        return np.zeros(TEXT_DIM, np.float32)
    row = np.frombuffer(data, np.float16).astype(np.float32)
    return row if np.isfinite(row).all() else np.zeros(TEXT_DIM, np.float32)


@dataclass(frozen=True)
class Catalogue:
    """A process's copy of the items as of change number `seq`; `index` order is the order of the policies' rows."""

    seq: int = 0
    ids: list[str] = field(default_factory=list)
    index: dict[str, int] = field(default_factory=dict)
    records: list[ItemRecord] = field(default_factory=list)
    embeddings: Embeddings = field(default_factory=lambda: np.zeros((0, TEXT_DIM), np.float32))  # [A, TEXT_DIM]
    available: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))  # [A]

    def __len__(self) -> int:
        return len(self.ids)

    def record(self, item_id: str) -> ItemRecord | None:
        """The item, unless it is unknown or deleted."""
        index = self.index.get(item_id)
        record = self.records[index] if index is not None else None
        return None if record is None or record.deleted else record

    def in_categories(self, categories: Iterable[str]) -> npt.NDArray[np.bool_]:
        """[A] whether an item has any of the categories."""
        wanted = frozenset(categories)
        return np.fromiter((not wanted.isdisjoint(r.categories) for r in self.records), np.bool_, len(self.records))

    def changed(self, changes: Sequence[tuple[int, str, ItemRecord]], seq: int) -> Catalogue:
        """With items as (index, id, record) taken in. `embeddings` stays the same array if no text is new."""
        ids, index, records = list(self.ids), dict(self.index), list(self.records)
        new_texts: list[int] = []
        for place, item_id, record in sorted(changes, key=lambda change: change[0]):
            if place >= len(ids):
                assert place == len(ids), f"item {item_id!r} has index {place}, expected {len(ids)}"
                ids.append(item_id)
                index[item_id] = place
                records.append(record)
                new_texts.append(place)
            else:
                if record.embedding != records[place].embedding:
                    new_texts.append(place)
                records[place] = record
        embeddings = self.embeddings
        if new_texts:
            embeddings = np.zeros((len(ids), TEXT_DIM), np.float32)
            embeddings[: len(self)] = self.embeddings
            for place in new_texts:
                embeddings[place] = unpack_embedding(records[place].embedding)
        available = np.array([not (r.hidden or r.deleted) for r in records], np.bool_)
        return Catalogue(seq, ids, index, records, embeddings, available)


class CatalogueStore:
    """The items in Redis."""

    def __init__(self, redis: aioredis.Redis, keys: Keys) -> None:
        self._redis, self._keys = redis, keys
        self._put = redis.register_script(_PUT)

    async def put(self, items: Sequence[tuple[str, ItemRecord]], log: bool = True) -> list[bool]:
        """Store items in order, each logged for the worker unless `log` is off; True where the item is new."""
        keys = self._keys
        names = [keys.items, keys.item_index, keys.item_changes, keys.item_seq, keys.events]
        pipe = self._redis.pipeline(transaction=True)
        for item_id, record in items:
            event = ItemChanged(
                item_id=item_id, embedding=record.embedding, hidden=record.hidden, deleted=record.deleted
            )
            payload = events.encode(event) if log else b""
            await self._put(keys=names, args=[item_id, msgspec.msgpack.encode(record), payload], client=pipe)
        return [bool(new) for new in await pipe.execute()]

    async def get(self, item_id: str) -> ItemRecord | None:
        """An item as stored, None if unknown or deleted."""
        data = await self._redis.hget(self._keys.items, item_id)
        record = decode_record(data) if data else None
        return None if record is None or record.deleted else record

    async def sync(self, known: Catalogue) -> Catalogue:
        """The catalogue as it is now: `known` itself if nothing changed, an empty one if all was forgotten."""
        seq = int(await self._redis.get(self._keys.item_seq) or 0)
        if seq < known.seq:  # another, or an emptied, Redis: what we know is of the old one
            known = Catalogue()
        # One atomic read of the change list, so that the indices of new items have no gap.
        scored = await self._redis.zrangebyscore(
            self._keys.item_changes, known.seq + 1, "+inf", withscores=True, score_cast_func=int
        )
        if not scored:
            return known
        changed = [item_id for item_id, _ in scored]
        changes: list[tuple[int, str, ItemRecord]] = []
        for start in range(0, len(changed), 1000):
            part = changed[start : start + 1000]
            pipe = self._redis.pipeline(transaction=True)
            pipe.hmget(self._keys.items, part)
            pipe.hmget(self._keys.item_index, part)
            records, indices = await pipe.execute()
            if None in records or None in indices:  # Redis is being emptied right now
                return Catalogue()
            for item_id, data, index in zip(part, records, indices, strict=True):
                changes.append((int(index), item_id.decode(), decode_record(data)))
        return await asyncio.to_thread(known.changed, changes, scored[-1][1])


def embeddings_of(redis: syncredis.Redis, keys: Keys, item_ids: Sequence[str]) -> Embeddings:
    """Stored embeddings of items, [n, TEXT_DIM]; zeros where an item is unknown."""
    if not item_ids:
        return np.zeros((0, TEXT_DIM), np.float32)
    stored = redis.hmget(keys.items, list(item_ids))
    return np.stack([unpack_embedding(decode_record(data).embedding if data else b"") for data in stored])
