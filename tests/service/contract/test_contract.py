"""The whole OpenAPI document against a running service: schemathesis makes the requests and holds the answers to it.

The short form is part of `make test`; IALP_LONG=1 (`make security`) asks for the number of cases of the long one. Both
are repeatable. What it found and what it may not be strict about stands in schemathesis.toml and contract_checks.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest
import redis as syncredis

from service.settings import Settings
from service.store.api_keys import SCOPES
from service.store.keys import Keys
from tests.service.auth_examples import add_key, bearer
from tests.service.service_examples import learning_settings, recommend, serving_http, shown, talk, working

HERE = Path(__file__).parent
LONG = bool(os.environ.get("IALP_LONG"))
EXAMPLES, CASES = (2_600, 20_000) if LONG else (120, 1_400)
ANSWERS = re.compile(r'http_server_request_duration_seconds_count\{.*http_response_status_code="(\d+)".*\} (\S+)')


def asked(url: str, token: str, settings_file: Path) -> subprocess.CompletedProcess[str]:
    """schemathesis, with every check it knows and ours; it leaves the key out or spoils it now and then."""
    program = str(Path(sys.executable).with_name("schemathesis"))
    options = [f"--max-examples={EXAMPLES}", "--checks=all", "--no-color", f"--header=Authorization: Bearer {token}"]
    command = [program, "--config-file", str(settings_file), "run", f"{url}/openapi.json", *options]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)


def answers(client: httpx.Client) -> Counter[str]:
    """How often the service answered with each status, by its own count."""
    counted: Counter[str] = Counter()
    for status, count in ANSWERS.findall(client.get("/metrics").text):
        counted[status] += int(float(count))
    return counted


@pytest.mark.timeout(3_600)
def test_the_service_does_what_its_document_says(settings: Settings, redis: syncredis.Redis) -> None:
    # A 503 would be one of Redis's outages, which a busy machine is not meant to look like.
    settings = learning_settings(settings, redis_timeout_s=60.0, auth="on")
    token = add_key(redis, Keys(settings.key_prefix), *SCOPES)
    with serving_http(settings) as client, working(settings):
        client.headers.update(bearer(token))
        # State piles up from here on: users, items, and versions that the worker publishes meanwhile.
        talk(client, 60)
        recommend(client, "ann")
        ranked = {"actions": [{"id": "film-1"}], "eventId": "event-1"}
        assert client.post("/personalizer/v1.0/rank", json=ranked).status_code == 201
        redis.persist(Keys(settings.key_prefix).ranked("event-1"))  # the reward window is short here
        before = answers(client)  # waiting for readiness, among others
        outcome = asked(str(client.base_url).rstrip("/"), token, HERE / "schemathesis.toml")
        got = answers(client) - before
        versions = len(client.get("/policies").json()["policies"])
    assert outcome.returncode == 0, outcome.stdout[-20_000:] + outcome.stderr
    generated = re.search(r"^ *(\d+) generated", outcome.stdout, re.MULTILINE)
    assert generated is not None and int(generated[1]) >= CASES, outcome.stdout[-2_000:]
    assert got.total() >= CASES
    assert {"200", "202", "204", "401", "404", "422"} <= got.keys() and max(got) < "500", got
    assert versions > 1


def test_an_id_may_hold_and_end_in_a_line_feed(api: httpx.Client) -> None:
    """With Starlette's own `path`, "ann%0A" was ann: somebody else was shown, and erased."""
    assert api.put("/items/film-1%0A", json={"text": "Another film"}).status_code == 201
    assert api.get("/items/film-1").json()["text"] == "Film number 1"
    assert api.get("/items/film-1%0A").json()["item_id"] == "film-1\n"
    assert api.put("/items/a%0Ab", json={"text": "Two lines"}).status_code == 201
    recommend(api, "ann")
    assert api.delete("/users/ann%0A").status_code == 200
    assert api.get("/users/ann").status_code == 200
    assert api.get("/users/ann%0A").status_code == 404


def test_a_method_that_is_not_allowed_is_told_all_that_are(api: httpx.Client) -> None:
    for path in ("/items/film-1", "/v1/items/film-1"):
        assert api.post(path).headers["allow"] == "DELETE, GET, HEAD, PATCH, PUT"
    assert api.get("/recommend").headers["allow"] == "POST"


def test_a_whole_number_may_be_written_with_a_point(api: httpx.Client) -> None:
    assert len(shown(recommend(api, "ann", k=3.0))) == 3
    assert api.post("/recommend", json={"user_id": "ann", "k": 3.5}).status_code == 422


def test_problems_are_documented_as_what_they_are(api: httpx.Client) -> None:
    document = api.get("/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(operations) >= 16
    for operation in operations:
        for status, response in operation["responses"].items():
            if int(status) >= 400 and operation["operationId"].partition("_")[0] != "readyz":
                assert list(response["content"]) == ["application/problem+json"]
    assert set(document["components"]["schemas"]["ProblemDocument"]["required"]) >= {"type", "status", "code", "errors"}
