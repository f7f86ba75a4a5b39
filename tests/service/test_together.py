"""What the same users bought: counted as it happens, in bounded memory, and told from two users on."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import httpx
import pytest
import redis as syncredis
import redis.asyncio as aioredis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.client import Client, ServiceError
from service.settings import Settings
from service.store.event_log import EventLog
from service.store.events import Feedback
from service.store.imports import Importer, Past
from service.store.keys import Keys
from service.store.together import Together
from tests.service.service_examples import problem_of, respond, serving

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", "eve"]), st.integers(0, 5), st.sampled_from(["purchase", "view", "like", None])
    ),
    max_size=30,
)


def buy(api: httpx.Client, user: str, *items: str) -> None:
    for item in items:
        event = {"event_id": f"{user}-{item}", "user_id": user, "item_id": item, "type": "purchase"}
        respond(api, event)


def listed(api: httpx.Client, item: str, **parameters: str | int) -> list[tuple[str, float]]:
    answer = api.get(f"/bought-together/{item}", params=parameters)
    assert answer.status_code == 200, answer.text
    return [(one["item_id"], one["score"]) for one in answer.json()["items"]]


def counts(redis: syncredis.Redis, keys: Keys) -> tuple[Counter[tuple[int, int]], Counter[int]]:
    """Users by pair of items and by item, as they are stored."""
    pairs, users = Counter[tuple[int, int]](), Counter[int]()
    for name in redis.scan_iter(f"{keys.together}*"):
        item = name.decode().removeprefix(keys.together)
        if item == "users":
            users.update({int(place): int(n) for place, n in redis.hgetall(name).items() if int(n)})
        else:
            pairs.update({(int(item), int(other)): int(n) for other, n in redis.zrange(name, 0, -1, withscores=True)})
    return pairs, users


def test_what_users_have_in_common(api: httpx.Client) -> None:
    empty = api.get("/bought-together/film-1").json()
    assert empty["items"] == [] and "2 users" in empty["waits_for"] and "purchase" in empty["waits_for"]
    buy(api, "ann", "film-1", "film-2", "film-3")
    assert listed(api, "film-1") == [], "one user's purchases are nobody else's business"
    buy(api, "bob", "film-2", "film-1", "film-4")
    buy(api, "eve", "film-1", "film-2")
    buy(api, "pat", "film-1", "film-3")
    found = listed(api, "film-1")
    assert [item for item, _ in found] == ["film-2", "film-3"]
    assert [score for _, score in found] == pytest.approx([3 / (14 * 13) ** 0.5, 2 / (14 * 12) ** 0.5])
    assert api.get("/bought-together/film-1").json()["waits_for"] is None
    assert [item for item, _ in listed(api, "film-2")] == ["film-1"]
    assert [item for item, _ in listed(api, "film-1", count=1)] == ["film-2"]
    assert [item for item, _ in listed(api, "film-1", category="Drama")] == ["film-3"]
    assert listed(api, "film-1", where='{"price": 5}') == []
    respond(api, {"event_id": "undo", "user_id": "eve", "item_id": "film-2", "undo": True})
    assert dict(listed(api, "film-1"))["film-2"] == pytest.approx(2 / (14 * 12) ** 0.5)
    api.patch("/items/film-2", json={"hidden": True}).raise_for_status()
    assert [item for item, _ in listed(api, "film-1")] == ["film-3"]
    api.delete("/users/pat").raise_for_status()
    assert [item for item, _ in listed(api, "film-1")] == ["film-3"], "counts name nobody, and stay"
    assert problem_of(api.get("/bought-together/nothing"), 404)["code"] == "unknown_item"
    problem_of(api.get("/bought-together/film-1", params={"count": 0}), 422)


def test_the_client_has_it(http_api: httpx.Client) -> None:
    http_api.put("/items/a%2Fb", json={"text": "A and b"}).raise_for_status()
    buy(http_api, "ann", "a/b", "film-2")
    buy(http_api, "bob", "a/b", "film-2")
    with Client(str(http_api.base_url)) as client:
        assert [item.item_id for item in client.bought_together("a/b", count=3).items] == ["film-2"]
        assert client.bought_together("a/b", categories=["Nothing"]).items == []
        with pytest.raises(ServiceError, match="404"):
            client.bought_together("nobody")


def test_types_of_a_deployment_count(settings: Settings) -> None:
    for ending, n in ((["like"], 1), ([], 0)):
        name = f"{settings.key_prefix}:{n}"
        changed = settings.model_copy(
            update={"ending_types": ending, "key_prefix": name, "data_dir": settings.data_dir / str(n)}
        )
        with serving(changed) as api:
            for user in ("ann", "bob"):
                buy(api, user, "film-1", "film-2")
                for item in ("film-3", "film-4"):
                    event = {"event_id": f"{user}-{item}", "user_id": user, "item_id": item, "type": "like"}
                    respond(api, event)
            assert listed(api, "film-1") == [] and len(listed(api, "film-3")) == n
            assert ("IALP_ENDING_TYPES" in (api.get("/bought-together/film-1").json()["waits_for"])) == (n == 0)


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_counts_are_those_of_the_users_items(
    settings: Settings, redis: syncredis.Redis, keys: Keys, steps: list[tuple[str, int, str | None]]
) -> None:
    """None takes back. In the end each user counts once for each pair of what they have bought."""
    redis.flushdb()
    bought: dict[str, set[int]] = {}
    async with aioredis.from_url(settings.redis_url) as client:
        log = EventLog(client, client, keys, settings)
        for number, (user, item, kind) in enumerate(steps):
            event = Feedback(str(number), f"u:{user}", str(item), 1.0, type=kind, undo=kind is None)
            await log.append_feedback([event, event], [item, item])
            if kind is None:
                bought.get(user, set()).discard(item)
            elif kind == "purchase":
                bought.setdefault(user, set()).add(item)
    pairs = Counter(pair for items in bought.values() for pair in permutations(sorted(items), 2))
    assert counts(redis, keys) == (pairs, Counter(item for items in bought.values() for item in items))


async def test_an_import_counts_once(settings: Settings, redis: syncredis.Redis, keys: Keys) -> None:
    importer = Importer(redis, keys, settings)
    pasts = [Past(f"u:{user}", (), (), {"purchase": [1, 2, 3], "view": [4, 5]}) for user in ("ann", "bob")]
    assert importer.add(pasts) == [True, True] and importer.add(pasts) == [False, False]
    assert counts(redis, keys) == (
        Counter(dict.fromkeys(permutations((1, 2, 3), 2), 2)),
        Counter({1: 2, 2: 2, 3: 2}),
    )
    async with aioredis.from_url(settings.redis_url) as client:
        beside = await Together(client, keys).beside(1)
        assert [place for place, _ in beside] == [2, 3] and await Together(client, keys).beside(4) == []


async def test_memory_is_bounded_and_a_newer_pair_can_grow(
    settings: Settings, redis: syncredis.Redis, keys: Keys
) -> None:
    async with aioredis.from_url(settings.redis_url) as client:
        log = EventLog(client, client, keys, settings)

        async def bought(user: str, *places: int) -> None:
            events = [Feedback(f"{user}-{n}", f"u:{user}", str(n), 1.0, type="purchase") for n in places]
            await log.append_feedback(events, places)

        for n in range(1, 201):
            for user in range(2 if n <= 60 else 1):
                await bought(f"{n}-{user}", 0, n)
            assert redis.zcard(f"{keys.together}0") <= 120
        for user in range(5):
            await bought(f"late-{user}", 0, 999)
        beside = dict(await Together(client, keys).beside(0))
        assert max(beside, key=lambda place: beside[place]) == 999 and set(range(1, 61)) < set(beside)
        await bought("many", *range(2_000, 2_100))
        assert redis.zcard(f"{keys.together}2099") == 30, "the latest thirty of a user"
        assert redis.memory_usage(f"{keys.together}0") < 2_500
