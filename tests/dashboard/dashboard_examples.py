"""What the dashboard's tests share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import httpx
import redis as syncredis

from service.settings import Settings

PLANTED = "<script>document.title='planted'</script><b>Bold & 'quoted'</b>"

Scheme = Literal["light", "dark"]  # what a reader's screen prefers


@dataclass(frozen=True)
class Site:
    """A running service with a worker."""

    url: str
    client: httpx.Client
    settings: Settings
    redis: syncredis.Redis
