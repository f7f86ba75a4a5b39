"""API keys: the record of one, and the ring of all keys that a process verifies tokens with.

A token is `ialp_<key id>_<secret>`. Redis holds the SHA-256 of the secret only. A fast hash is the right one here: a
secret is 32 random bytes, which nobody guesses at any speed, and a slow hash would be paid for by every request.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
from collections.abc import Mapping
from typing import Literal, get_args

import msgspec
import redis.asyncio as aioredis
from redis.exceptions import RedisError

from service.store.keys import Keys

log = logging.getLogger(__name__)

Scope = Literal["serve", "feedback", "admin", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

_PREFIX = "ialp"
_SECRET_BYTES = 32


class StoredSecret(msgspec.Struct, frozen=True):
    """Hash of a secret; `expires_at` (unix seconds) is set once the secret was replaced."""

    sha256: bytes
    expires_at: float | None = None


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A key as stored; times are unix seconds, `rate` is requests per second and None is no limit."""

    key_id: str
    name: str
    scopes: tuple[Scope, ...]
    secrets: tuple[StoredSecret, ...]  # newest last; older ones are in their period of grace
    created_at: float
    expires_at: float | None = None
    rate: float | None = None
    burst: int = 1


_decoder = msgspec.json.Decoder(KeyRecord)


def encode(record: KeyRecord) -> bytes:
    """The record as JSON."""
    return msgspec.json.encode(record)


def decode(data: bytes) -> KeyRecord:
    """Inverse of `encode`; raises msgspec.DecodeError for anything else."""
    return _decoder.decode(data)


def new_key_id() -> str:
    """An id that no other key has; not a secret."""
    return secrets.token_hex(6)


def new_secret() -> str:
    """32 random bytes, base64url."""
    return secrets.token_urlsafe(_SECRET_BYTES)


def token(key_id: str, secret: str) -> str:
    """Build the token that a client sends."""
    return f"{_PREFIX}_{key_id}_{secret}"


def digest(secret: str) -> bytes:
    """Hash a secret; the hash is what is stored and compared."""
    return hashlib.sha256(secret.encode()).digest()


def _is_over(expires_at: float | None, now: float) -> bool:
    return expires_at is not None and expires_at <= now


def rotated(record: KeyRecord, secret: str, now: float, grace_s: float) -> KeyRecord:
    """The key with a new secret; those before it end after `grace_s`, or earlier if they were to end earlier."""
    end = now + grace_s
    ends = [end if old.expires_at is None else min(end, old.expires_at) for old in record.secrets]
    older = [StoredSecret(old.sha256, at) for old, at in zip(record.secrets, ends, strict=True) if at > now]
    return msgspec.structs.replace(record, secrets=(*older, StoredSecret(digest(secret))))


# Compared with where there is no such key, so that the time of an answer does not tell which ids there are.
_NOBODY = KeyRecord(
    key_id="", name="", scopes=(), secrets=(StoredSecret(secrets.token_bytes(32), 0.0),), created_at=0.0
)


def verified(records: Mapping[str, KeyRecord], token: str, now: float) -> KeyRecord | None:
    """The key that a token is of, among `records` by id; None if it is of none, or of one that is over."""
    prefix, _, rest = token.partition("_")
    key_id, _, secret = rest.partition("_")
    given = digest(secret)
    record = records.get(key_id, _NOBODY)
    matches = [
        hmac.compare_digest(stored.sha256, given) and not _is_over(stored.expires_at, now) for stored in record.secrets
    ]
    if prefix != _PREFIX or not any(matches) or _is_over(record.expires_at, now):
        return None
    return record


class KeyRing:
    """All keys in memory, kept equal to what Redis says: verifying asks nobody, and keys work while Redis is away."""

    def __init__(self, redis: aioredis.Redis, keys: Keys, interval_s: float) -> None:
        self.loaded = False  # whether Redis ever told which keys there are
        self._redis, self._name, self._interval_s = redis, keys.api_keys, interval_s
        self._stored: dict[bytes, bytes] = {}
        self._records: dict[str, KeyRecord] = {}

    def verify(self, token: str, now: float) -> KeyRecord | None:
        """The key that a token is of; None if it is of none, or of one that is over."""
        return verified(self._records, token, now)

    async def refresh(self) -> None:
        """Look once. The hash is small, so it is read whole: there is no second thing to keep in step with it."""
        stored: dict[bytes, bytes] = await self._redis.hgetall(self._name)
        if stored != self._stored or not self.loaded:
            records = {}
            for name, data in stored.items():
                key_id = name.decode(errors="replace")
                try:
                    records[key_id] = decode(data)
                except msgspec.DecodeError:
                    log.error("API key %r is refused: its record cannot be read", key_id)
            self._stored, self._records, self.loaded = stored, records, True

    async def watch(self) -> None:
        """Refresh for ever, apart from the policy's watch: a revoked key does not outlive the loading of a snapshot."""
        failed = False
        while True:
            try:
                await self.refresh()
                failed = False
            except (RedisError, OSError) as error:
                if not failed:
                    log.warning("API keys cannot be read (%s); those in memory stay as they are", type(error).__name__)
                failed = True
            await asyncio.sleep(self._interval_s)
