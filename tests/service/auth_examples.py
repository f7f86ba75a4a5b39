"""API keys for tests: stored as the command stores them, without its process."""

from __future__ import annotations

import time
from typing import Any

import redis as syncredis

from service.store import api_keys
from service.store.api_keys import KeyRecord, StoredSecret
from service.store.keys import Keys


def add_key(redis: syncredis.Redis, keys: Keys, *scopes: api_keys.Scope, **fields: Any) -> str:
    """A token of a new key."""
    key_id, secret = api_keys.new_key_id(), api_keys.new_secret()
    stored = (StoredSecret(api_keys.digest(secret)),)
    record = KeyRecord(key_id=key_id, name="test", scopes=scopes, secrets=stored, created_at=time.time(), **fields)
    redis.hset(keys.api_keys, key_id, api_keys.encode(record))
    return api_keys.token(key_id, secret)


def id_of(token: str) -> str:
    """The key's id."""
    return token.split("_")[1]


def bearer(token: str) -> dict[str, str]:
    """The header that carries a token."""
    return {"authorization": f"Bearer {token}"}
