"""Names of the keys in Redis, in one place; API and worker meet here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Keys:
    """All keys under one prefix."""

    prefix: str

    @property
    def events(self) -> str:
        """Stream: the event log."""
        return f"{self.prefix}:events"

    @property
    def dead(self) -> str:
        """Stream: entries that could not be read, with the reason."""
        return f"{self.prefix}:dead"

    def session(self, user: str) -> str:
        """String: a user's recent interactions and seen items, see `sessions`."""
        return f"{self.prefix}:u:{user}"

    def visitors(self, user: str) -> str:
        """Set: visitors without an account who turned out to be this user."""
        return f"{self.prefix}:visitors:{user}"

    def features(self, user: str) -> str:
        """String: facts about a user, JSON; stay until they are erased."""
        return f"{self.prefix}:features:{user}"

    def event(self, user: str, event_id: str) -> str:
        """String: this feedback event was accepted. Each user has event ids of their own, and the key does not name
        them."""
        name = f"{len(user)}:{user}{event_id}".encode()
        return f"{self.prefix}:e:{hashlib.blake2b(name, digest_size=16).hexdigest()}"

    def ranked(self, event_id: str) -> str:
        """String: what an event of Personalizer's was answered, see `ranked`."""
        return f"{self.prefix}:ranked:{event_id}"

    def ranked_of(self, user: str) -> str:
        """Sorted set: ids of such events of a user, by when (unix seconds) they are forgotten at the latest."""
        return f"{self.prefix}:ranked-of:{user}"

    def rewarded(self, recommendation_id: str) -> str:
        """String: the reward of such an event was accepted. Apart from `event`, whose ids are chosen by clients."""
        return f"{self.prefix}:rewarded:{recommendation_id}"

    @property
    def items(self) -> str:
        """Hash: item id -> record."""
        return f"{self.prefix}:items"

    @property
    def item_index(self) -> str:
        """Hash: item id -> its place in the catalogue; append-only."""
        return f"{self.prefix}:items:index"

    @property
    def item_changes(self) -> str:
        """Sorted set: item id -> sequence number of its last change."""
        return f"{self.prefix}:items:changes"

    @property
    def item_seq(self) -> str:
        """Counter: the catalogue's last change."""
        return f"{self.prefix}:items:seq"

    @property
    def item_arrivals(self) -> str:
        """Sorted set: hour since 1970 -> place in the catalogue of the first item that came in it."""
        return f"{self.prefix}:items:arrivals"

    @property
    def placements(self) -> str:
        """Hash: name of a placement -> its settings, JSON."""
        return f"{self.prefix}:placements"

    @property
    def imports(self) -> str:
        """Hash: id of an import -> its report, JSON; see `import_reports`."""
        return f"{self.prefix}:imports"

    @property
    def popularity(self) -> str:
        """Sorted set: item id -> number of positive responses."""
        return f"{self.prefix}:popularity"

    def popularity_of(self, day: int) -> str:
        """Sorted set: the same of one day, by its number since 1970; expires."""
        return f"{self.prefix}:popularity:{day}"

    @property
    def together(self) -> str:
        """Beginning of names. With an item's place: sorted set of other places -> users who bought both; with `users`:
        hash of places -> users who bought the item."""
        return f"{self.prefix}:together:"

    @property
    def policies(self) -> str:
        """Hash: version -> record (manifest and gate results)."""
        return f"{self.prefix}:policies"

    @property
    def live(self) -> str:
        """String: which version serves and in which mode."""
        return f"{self.prefix}:live"

    @property
    def activations(self) -> str:
        """List: versions that served, newest last; what roll-back walks down."""
        return f"{self.prefix}:live:stack"

    @property
    def roll_backs(self) -> str:
        """List: automatic roll-backs, newest first."""
        return f"{self.prefix}:live:retreats"

    @property
    def worker(self) -> str:
        """String: what the worker last reported of itself."""
        return f"{self.prefix}:worker"

    @property
    def history(self) -> str:
        """Stream: what the worker had counted from time to time, for the dashboard's curves."""
        return f"{self.prefix}:worker:history"

    @property
    def lease(self) -> str:
        """String: token of the worker that learns; expires unless renewed."""
        return f"{self.prefix}:worker:lease"

    @property
    def fence(self) -> str:
        """Counter: the highest token given to a worker."""
        return f"{self.prefix}:worker:fence"

    @property
    def api_keys(self) -> str:
        """Hash: key id -> record of an API key; hashes of secrets, no secret."""
        return f"{self.prefix}:auth:keys"

    def bucket(self, key_id: str) -> str:
        """String: when the rate limit's bucket of an API key is full again."""
        return f"{self.prefix}:auth:bucket:{key_id}"

    @property
    def bootstrap(self) -> str:
        """Lock: somebody is loading the first snapshot."""
        return f"{self.prefix}:bootstrap"
