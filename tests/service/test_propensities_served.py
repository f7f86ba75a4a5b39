"""What is answered, what is logged and what a reader of the log recomputes are the same probabilities."""

from __future__ import annotations

import asyncio

import httpx
import numpy as np
import pytest
import redis as syncredis

from service.api.app import create_app
from service.policy.adaptive import ServingPolicy
from service.policy.sampling import Probs, slate_propensities
from service.policy.snapshot_files import load_catalogue, load_snapshot
from service.policy.types import Interaction
from service.policy.variants import Arm, Mixture, Variant
from service.settings import Settings
from service.store.events import Impression, decode_mask
from service.store.registry import folder_of
from tests.service.service_examples import logged

N_REQUESTS = 3_000
_AT_ONCE = 30


def request(number: int, rng: np.random.Generator) -> dict[str, object]:
    """One of many kinds of request."""
    user = f"u{rng.integers(60)}" if number % 2 else f"fresh-{number}"
    body: dict[str, object] = {"user_id": user, "k": int(rng.integers(1, 6))}
    if number % 5 == 0:
        body["filters"] = {"categories": ["Drama", "Comedy"]}
    if number % 7 == 0:
        body["exclude_item_ids"] = [f"film-{rng.integers(30)}"]
    if number % 13 == 0:
        body["rules"] = {"pins": [{"slot": int(rng.integers(3)), "item_id": f"film-{rng.integers(30)}"}]}
    if number % 11 == 0:
        body["history"] = [{"item_id": f"film-{rng.integers(30)}", "reward": float(rng.integers(-1, 2))}]
    return body


async def serve(settings: Settings, n: int) -> dict[str, list[float]]:
    """Propensities as answered, by recommendation id, of `n` varied requests."""
    rng = np.random.default_rng(0)
    app = create_app(settings)
    answered: dict[str, list[float]] = {}
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            while (await client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.01)
            for start in range(0, n, _AT_ONCE):
                numbers = range(start, min(n, start + _AT_ONCE))
                bodies = [request(number, rng) for number in numbers]
                slates = await asyncio.gather(*(client.post("/recommend", json=body) for body in bodies))
                events = []
                for number, body, answer in zip(numbers, bodies, slates, strict=True):
                    slate = answer.json()
                    answered[slate["recommendation_id"]] = [item["propensity"] for item in slate["items"]]
                    if slate["items"] and number % 3 == 0:
                        shown = slate["items"][0]["item_id"]
                        event = {"event_id": f"{number}", "user_id": body["user_id"], "item_id": shown}
                        events.append(event | {"reward": float(rng.integers(-1, 2))})
                await client.post("/feedback", json=events)
    return answered


def recomputed(impression: Impression, policy: ServingPolicy, ids: tuple[str, ...]) -> Probs:
    """Slot propensities from the log and the snapshot alone."""
    index = {item: row for row, item in enumerate(ids)}
    available = np.ones(len(ids), np.bool_)
    if impression.allowed is not None:
        available = decode_mask(impression.allowed, len(ids))
    elif impression.candidates is not None:
        available[:] = False
        available[[index[item] for item in impression.candidates]] = True
    available[[index[item] for item in impression.masked]] = False
    history = [Interaction(index[item], reward) for item, reward in impression.history]
    distribution = policy.distribution(history, available, Arm(impression.arm))
    drawn = [slot for slot in range(len(impression.items)) if slot not in impression.pinned]
    rows = np.array([index[impression.items[slot]] for slot in drawn], np.int64)
    propensities = np.ones(len(impression.items))
    propensities[drawn] = slate_propensities(distribution.probs, rows)
    return propensities


@pytest.mark.parametrize(
    ("n", "variant", "mixture"),
    [(N_REQUESTS, Variant.AP, Mixture.ADAPTIVE), (300, Variant.AP, Mixture.FIXED), (300, Variant.FT, Mixture.FIXED)],
)
async def test_the_log_alone_gives_the_served_propensities(
    settings: Settings, redis: syncredis.Redis, n: int, variant: Variant, mixture: Mixture
) -> None:
    settings = settings.model_copy(update={"variant": variant, "mixture": mixture, "refresh_interval_s": 1.0})
    answered = await serve(settings, n)
    snapshot = load_snapshot(folder_of(settings.data_dir, 1))
    assert settings.snapshot is not None
    embeddings = load_catalogue(settings.snapshot).embeddings
    policy = snapshot.serving_policy(embeddings)
    impressions = [event for event in logged(redis, settings) if isinstance(event, Impression)]
    assert len(impressions) == len(answered) == n
    compared = 0
    for impression in impressions:
        assert list(impression.propensities) == answered[impression.recommendation_id]
        if impression.items:
            np.testing.assert_allclose(
                # Requests that come together are computed together, which rounds otherwise.
                impression.propensities,
                recomputed(impression, policy, snapshot.item_ids),
                rtol=1e-5,
            )
            compared += len(impression.items)
    assert compared > n
