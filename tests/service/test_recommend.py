"""POST /recommend over real HTTP and a real Redis-protocol server."""

from __future__ import annotations

import httpx


def test_a_user_never_seen_gets_a_slate(api: httpx.Client) -> None:
    answer = api.post("/recommend", json={"user_id": "ann", "k": 5})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["policy_version"] == 1
    assert [item["slot"] for item in body["items"]] == [0, 1, 2, 3, 4]
    assert len({item["item_id"] for item in body["items"]}) == 5
    assert all(0 < item["propensity"] <= 1 for item in body["items"])
    assert body["warnings"] == []
    assert answer.headers["x-request-id"]
