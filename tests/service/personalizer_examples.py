"""Requests of Azure Personalizer's, and what they leave behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import redis as syncredis

from service.api.app import create_app
from service.api.state import State
from service.settings import Settings
from service.store.events import Feedback, Impression
from tests.service.service_examples import logged, make_settings

FILMS = ["film-3", "film-1", "film-2", "film-7"]
BASES = ["/personalizer/v1.0", "/personalizer/v1.1", "/personalizer/v1.1-preview.3", "/personalizer"]

# As the documentation of Rank has it, but for the event's id, which is cut short there.
DOCUMENTED = {
    "contextFeatures": [{"timeOfDay": "Morning"}],
    "actions": [
        {"id": "NewsArticle", "features": [{"type": "News"}]},
        {"id": "SportsArticle", "features": [{"type": "Sports"}]},
        {"id": "EntertainmentArticle", "features": [{"type": "Entertainment"}]},
    ],
    "excludedActions": ["SportsArticle"],
    "eventId": "75269AD0-BFEE-4598-8196-C57383D38E10",
    "deferActivation": False,
}


def lasting_settings(redis_url: str, snapshot_folder: Path, folder: Path) -> Settings:
    """With a reward window that outlasts a test, and the memory of event ids; a busy machine is no outage."""
    changes = {"reward_window_s": 90.5, "dedupe_ttl_s": 5, "recommend_redis_timeout_s": 30.0}
    return make_settings(redis_url, snapshot_folder, folder, **changes)


def body_of(*items: str, **fields: Any) -> dict[str, Any]:
    return {"actions": [{"id": item, "features": [{}]} for item in items], **fields}


def rank(client: httpx.Client, *items: str, base: str = BASES[0], **fields: Any) -> dict[str, Any]:
    answer = client.post(f"{base}/rank", json=body_of(*items, **fields))
    assert answer.status_code == 201, answer.text
    ranked: dict[str, Any] = answer.json()
    assert set(ranked) == {"ranking", "eventId", "rewardActionId"}
    return ranked


def reward(client: httpx.Client, event: str, value: float = 1.0, base: str = BASES[0]) -> int:
    return client.post(f"{base}/events/{event}/reward", json={"value": value}).status_code


def activate(client: httpx.Client, event: str, base: str = BASES[0]) -> int:
    return client.post(f"{base}/events/{event}/activate").status_code


def probabilities(ranked: dict[str, Any]) -> dict[str, float]:
    return {action["id"]: action["probability"] for action in ranked["ranking"]}


def impressions(redis: syncredis.Redis, settings: Settings) -> list[Impression]:
    return [event for event in logged(redis, settings) if isinstance(event, Impression)]


def rewards(redis: syncredis.Redis, settings: Settings) -> list[Feedback]:
    return [event for event in logged(redis, settings) if isinstance(event, Feedback)]


@asynccontextmanager
async def in_process(settings: Settings) -> AsyncIterator[State]:
    """The state of a running application, for what would take too many requests."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        state: State = app.state.ialp
        while state.watch.current is None:
            await asyncio.sleep(0.01)
        yield state
