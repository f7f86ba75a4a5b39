"""A service in memory that speaks the real contract, as slow or as broken as a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx
import msgspec
import numpy as np

from simulator.load.client import ServiceClient


class FakeService:
    """Shows the unseen items in catalogue order; answers one request at a time, each after `service_s`."""

    def __init__(self, item_ids: Sequence[str], service_s: float = 0.0) -> None:
        self.item_ids, self.service_s = list(item_ids), service_s
        self.seen: dict[str, list[str]] = {}
        self.events: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.headers: list[httpx.Headers] = []
        self.broken: list[httpx.Response | httpx.TransportError] = []  # what the next POSTs get instead
        self.known_users: set[str] = set()
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            known = request.url.path == "/readyz" or request.url.path.split("/")[-1] in self.known_users
            return httpx.Response(200 if known else 404)
        async with self._one_at_a_time:
            await asyncio.sleep(self.service_s)
        self.bodies.append(request.content)
        self.headers.append(request.headers)
        if self.broken:
            answer = self.broken.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        body = msgspec.json.decode(request.content)
        if request.url.path == "/feedback":
            self.events.extend(body)
            return httpx.Response(202, json={"accepted": len(body), "duplicates": 0, "rejected": []})
        seen = self.seen.setdefault(body["user_id"], [])
        slate = [item for item in self.item_ids if item not in seen][: body["k"]]
        seen.extend(slate)
        items = [
            {"item_id": item, "slot": slot, "score": 0.1, "propensity": 0.1, "source": "learned"}
            for slot, item in enumerate(slate)
        ]
        arm = "control" if int(body["user_id"].split("-")[-1]) % 4 == 0 else "adaptive"
        recommendation = {"recommendation_id": f"r{len(self.bodies)}", "policy_version": 1 + len(self.seen) // 10}
        return httpx.Response(200, json={**recommendation, "arm": arm, "items": items, "warnings": []})

    def client(self, connections: int = 1_000, attempts: int = 3, api_key: str | None = None) -> ServiceClient:
        return ServiceClient(
            "http://fake",
            connections=connections,
            rng=np.random.default_rng(0),
            api_key=api_key,
            attempts=attempts,
            transport=httpx.MockTransport(self),
        )
