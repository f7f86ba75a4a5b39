"""Names of slates, which tell when a slate was made and for whom: so an answer to it can be told at once what it is
worth, with nothing looked up.

32 hexadecimal digits: the time in unix milliseconds (11), a hash of the user (8), and chance (13). The hash is even for
a visitor without an account, odd for others.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import Literal

from service.store.sessions import is_visitor

Outcome = Literal["teaches", "organic", "late", "foreign", "unknown"]
_SKEW_MS = 60_000  # by which another process's clock may be ahead


def new_id(user: str) -> str:
    """Name a slate for a user."""
    return f"{int(time.time() * 1000):011x}{_tag(user)}{secrets.randbits(52):013x}"


def unlogged_id() -> str:
    """Name a slate that no policy drew: its answers teach nothing, as of one that nobody knows."""
    return f"{'f' * 11}{secrets.randbits(84):021x}"


def outcome(recommendation_id: str | None, user: str, window_s: float) -> Outcome:
    """Tell what feedback of a user that arrives now will do: it teaches of its slate; it is organic, where a like
    teaches less; it is too late for the slate's reward window; the slate was another user's (but who logs in is the
    visitor that it was shown to); or nobody knows it."""
    if recommendation_id is None:
        return "organic"
    try:
        created_ms = int(recommendation_id[:11], 16)
        of_visitor = int(recommendation_id[11:19], 16) % 2 == 0
    except ValueError:
        return "unknown"
    age_ms = time.time() * 1000 - created_ms
    if len(recommendation_id) != 32 or age_ms < -_SKEW_MS:
        return "unknown"
    if recommendation_id[11:19] != _tag(user) and (is_visitor(user) or not of_visitor):
        return "foreign"
    return "late" if age_ms > 1000 * window_s else "teaches"


def _tag(user: str) -> str:
    digest = int(hashlib.blake2b(user.encode(), digest_size=4).hexdigest(), 16)
    return f"{digest & ~1 | (not is_visitor(user)):08x}"
