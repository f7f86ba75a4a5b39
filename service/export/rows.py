"""The event log as rows: each impression joined with its feedback, by the same code as the worker's.

What could have been shown is kept too. An impression logs what its request took away; which items existed and which
were hidden follows from the catalogue's changes in the same log, and the logged hash of the available items tells
whether the two together are what was served from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np
import redis as syncredis

from service.policy.logged import LoggedSlate
from service.store import event_log, events
from service.store.catalogue import ItemRecord
from service.store.events import Event, EventError, Feedback, Impression, ItemChanged, Mask, UserErased, candidate_hash
from service.store.joiner import Joiner, OpenImpression
from service.store.keys import Keys

_READ_COUNT = 1000
_records = msgspec.msgpack.Decoder(ItemRecord)

EntryId = tuple[int, int]


@dataclass
class Export:
    """Scope of one export. `counts` fills while the rows are read; `on_read` is called with the entries' number."""

    end_ms: int  # the server's clock at the start: later entries are left out, so that a busy log comes to an end
    catalogue: list[str]  # every item there ever was, in catalogue order
    records: dict[str, ItemRecord]
    counts: Counter[str] = field(default_factory=Counter)
    on_read: Callable[[int], None] = lambda n: None  # over the log twice


def open_export(redis: syncredis.Redis, keys: Keys) -> Export:
    """Take the time and the catalogue as they are now."""
    seconds, microseconds = redis.time()
    index = {item.decode(): int(place) for item, place in redis.hgetall(keys.item_index).items()}
    records = {item.decode(): _records.decode(data) for item, data in redis.hgetall(keys.items).items()}
    catalogue = sorted(index, key=index.__getitem__)
    return Export(seconds * 1000 + microseconds // 1000, catalogue, records)


def logged_slates(redis: syncredis.Redis, keys: Keys, export: Export, reward_window_s: float) -> Iterator[LoggedSlate]:
    """All impressions whose reward window is over, in the order they were served.

    A user who was erased is left out up to the erasure. Entries that are no events are counted and passed over.
    """
    erased, changed = _first_pass(redis, keys, export)
    catalogue_history = CatalogueHistory(export, changed)
    joiner = Joiner(reward_window_s)
    available: dict[str, Availability] = {}
    for entry, event in _entries(redis, keys, export):
        yield from _closed(joiner, available, entry[0], export)
        if isinstance(event, Impression):
            if entry <= erased.get(event.user, (0, 0)):
                export.counts["erased"] += 1
            elif joiner.add_impression(event, entry[0]):
                available[event.recommendation_id] = catalogue_history.availability(event)
            else:
                export.counts["repeated"] += 1
        elif isinstance(event, Feedback):
            export.counts[f"feedback_{joiner.add_feedback(event, entry[0])}"] += 1
        elif isinstance(event, ItemChanged):
            catalogue_history.change(event)
    yield from _closed(joiner, available, export.end_ms, export)
    export.counts["open"] = len(joiner)


def _closed(joiner: Joiner, available: dict[str, Availability], now_ms: int, export: Export) -> Iterator[LoggedSlate]:
    for closed in joiner.close(now_ms):
        availability = available.pop(closed.impression.recommendation_id)
        export.counts["slates"] += 1
        export.counts["unverified"] += not availability.verified
        yield _row(closed, availability)


def _first_pass(redis: syncredis.Redis, keys: Keys, export: Export) -> tuple[dict[str, EntryId], frozenset[str]]:
    """Find where each erased user was last erased, and the items that have a change in the log."""
    erased: dict[str, EntryId] = {}
    changed = set()
    for entry, event in _entries(redis, keys, export):
        if isinstance(event, UserErased):
            erased[event.user] = entry
        elif isinstance(event, ItemChanged):
            changed.add(event.item_id)
    export.counts.clear()
    return erased, frozenset(changed)


def _entries(redis: syncredis.Redis, keys: Keys, export: Export) -> Iterator[tuple[EntryId, Event]]:
    cursor = event_log.START
    while entries := event_log.read(redis, keys, cursor, _READ_COUNT, 1):
        for cursor, payload in entries:
            ms, _, number = cursor.partition("-")
            if int(ms) > export.end_ms:
                return
            try:
                yield (int(ms), int(number)), events.decode(payload)
            except EventError:
                export.counts["unreadable"] += 1
        export.on_read(len(entries))


@dataclass(frozen=True)
class Availability:
    """Items that existed and could be shown at one place of the log."""

    n_items: int
    hidden: tuple[str, ...]
    verified: bool


class CatalogueHistory:
    """Follows which items exist and which are hidden or deleted, through the log.

    An item without a change in the log is as its record says. Of the others, those that stand before one of these in
    the catalogue existed from the start (and are taken for visible then); the rest came with their first change.
    """

    def __init__(self, export: Export, changed: frozenset[str]) -> None:
        self._index = {item: place for place, item in enumerate(export.catalogue)}
        unchanged = [item for item in export.catalogue if item not in changed]
        self._n_items = self._index[unchanged[-1]] + 1 if unchanged else 0
        self._hidden = {item for item in unchanged if _is_hidden(export.records.get(item))}
        self._listed = tuple(sorted(self._hidden))

    def change(self, event: ItemChanged) -> None:
        """Take in a change of the catalogue."""
        place = self._index.get(event.item_id)
        if place is None:  # of a catalogue that this Redis no longer holds
            return
        self._n_items = max(self._n_items, place + 1)
        if event.hidden or event.deleted:
            self._hidden.add(event.item_id)
        else:
            self._hidden.discard(event.item_id)
        self._listed = tuple(sorted(self._hidden))

    def availability(self, impression: Impression) -> Availability:
        """Return what exists now, and check that the impression was drawn from it."""
        available = np.ones(self._n_items, np.bool_)
        if impression.candidates is not None:
            available[:] = False
            self._set(available, impression.candidates, True)
        self._set(available, self._listed, False)
        self._set(available, impression.masked, False)
        return Availability(self._n_items, self._listed, candidate_hash(available) == impression.candidate_hash)

    def _set(self, available: Mask, items: Iterable[str], value: bool) -> None:
        places = (self._index.get(item, self._n_items) for item in items)
        available[[place for place in places if place < self._n_items]] = value


def _is_hidden(record: ItemRecord | None) -> bool:
    return record is None or record.hidden or record.deleted


def _row(closed: OpenImpression, availability: Availability) -> LoggedSlate:
    impression = closed.impression
    return LoggedSlate(
        recommendation_id=impression.recommendation_id,
        user=impression.user,
        at_ms=closed.at_ms,
        arm=impression.arm,
        policy_version=impression.policy_version,
        history_items=tuple(item for item, _ in impression.history),
        history_rewards=tuple(reward for _, reward in impression.history),
        items=impression.items,
        propensities=impression.propensities,
        rewards=closed.slot_rewards,
        candidate_hash=impression.candidate_hash,
        masked=impression.masked,
        candidates=impression.candidates,
        n_items=availability.n_items,
        hidden=availability.hidden,
        verified=availability.verified,
        weight=impression.weight,
        entropy=impression.entropy,
    )
