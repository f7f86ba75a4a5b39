"""The event log as rows: each impression joined with its feedback, by the same code as the worker's.

What could have been shown is kept too. An impression logs what its request took away; which items existed and which
were hidden follows from the catalogue's changes in the same log, and the logged hash of the available items tells
whether the two together are what was served from.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np
import redis as syncredis

from service.policy.logged import LoggedSlate
from service.store import event_log, events
from service.store.availability import window_of
from service.store.catalogue import ItemRecord
from service.store.events import (
    Event,
    EventError,
    Feedback,
    Impression,
    ItemChanged,
    Mask,
    UserErased,
    candidate_hash,
    decode_mask,
)
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
                available[event.recommendation_id] = catalogue_history.availability(event, entry[0] / 1000)
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
    named: tuple[str, ...] | None  # the only ones that were allowed
    verified: bool


class CatalogueHistory:
    """Follows which items exist and which are hidden, deleted or not in their time, through the log.

    An item without a change in the log is as its record says. Of the others, those that stand before one of these in
    the catalogue existed from the start (and are taken for visible then); the rest came with their first change.
    """

    def __init__(self, export: Export, changed: frozenset[str]) -> None:
        self._index = {item: place for place, item in enumerate(export.catalogue)}
        self._ids = export.catalogue
        unchanged = [item for item in export.catalogue if item not in changed]
        self._n_items = self._index[unchanged[-1]] + 1 if unchanged else 0
        self._hidden = {item for item in unchanged if _is_hidden(export.records.get(item))}
        records = {item: export.records[item] for item in unchanged if item in export.records}
        self._windows = {item: record.window for item, record in records.items() if record.window is not None}
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
        self._windows.pop(event.item_id, None)
        window = window_of(event.available_from, event.available_until)
        if window is not None:
            self._windows[event.item_id] = window
        self._listed = tuple(sorted(self._hidden))

    def availability(self, impression: Impression, at_s: float) -> Availability:
        """Return what exists now, and check that the impression was drawn from it. An item whose time comes or ends
        while the impression is on its way is taken for what it was not; then the check fails."""
        closed = {item for item, (first, end) in self._windows.items() if not first <= at_s < end}
        hidden = tuple(sorted(self._hidden | closed)) if closed else self._listed
        available = np.ones(self._n_items, np.bool_)
        named = self.named(impression)
        if named is not None:
            available[:] = False
            self._set(available, named, True)
        self._set(available, hidden, False)
        self._set(available, impression.masked, False)
        return Availability(self._n_items, hidden, named, candidate_hash(available) == impression.candidate_hash)

    def named(self, impression: Impression) -> tuple[str, ...] | None:
        """Return the only items that were allowed, if the request or its filters said so."""
        if impression.allowed is None:
            return impression.candidates
        places = np.flatnonzero(decode_mask(impression.allowed, len(self._ids)))
        return tuple([self._ids[place] for place in places])

    def _set(self, available: Mask, items: Iterable[str], value: bool) -> None:
        places = (self._index.get(item, self._n_items) for item in items)
        available[[place for place in places if place < self._n_items]] = value


def _is_hidden(record: ItemRecord | None) -> bool:
    return record is None or record.hidden or record.deleted


def _row(closed: OpenImpression, availability: Availability) -> LoggedSlate:
    """Make the row of a slate, without the slots that a rule filled."""
    impression = closed.impression
    drawn = [slot for slot in range(len(impression.items)) if slot not in impression.pinned]
    return LoggedSlate(
        recommendation_id=impression.recommendation_id,
        user=impression.user,
        at_ms=closed.at_ms,
        arm=impression.arm,
        policy_version=impression.policy_version,
        history_items=tuple(item for item, _ in impression.history),
        history_rewards=tuple(reward for _, reward in impression.history),
        items=tuple(impression.items[slot] for slot in drawn),
        propensities=tuple(impression.propensities[slot] for slot in drawn),
        rewards=tuple(closed.slot_rewards[slot] for slot in drawn),
        candidate_hash=impression.candidate_hash,
        masked=impression.masked,
        candidates=availability.named,
        n_items=availability.n_items,
        hidden=availability.hidden,
        verified=availability.verified,
        weight=impression.weight,
        entropy=impression.entropy,
        context=json.dumps(impression.context),
    )
