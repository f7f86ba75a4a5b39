"""`simulator personas` against real services: one gives what is liked, one withholds it, one does not look."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import redis as syncredis
from typer.testing import CliRunner, Result

from service.client import AsyncClient
from service.policy.snapshot_files import load_catalogue, load_snapshot
from service.policy.types import Interaction, Response
from service.policy.variants import Arm
from service.runtime import embedded
from service.settings import Settings
from service.store.keys import Keys
from simulator.__main__ import app
from simulator.personas.catalogue import Category
from simulator.personas.probe import STRANGER, Probe, Taste
from tests.service.auth_examples import add_key
from tests.service.service_examples import GENRES, logged, make_settings, make_snapshot, serving_http

N_FILMS = 60
GAINS = {"generous": (4.0, 2.0, -6.0, 0.0), "contrary": (-4.0, -2.0, 6.0, 0.0), "blind": (0.0, 0.0, 0.0, 0.0)}


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with embedded.serving(tmp_path_factory.mktemp("redis")) as url:
        yield url


@contextlib.contextmanager
def deployment(redis_url: str, folder: Path, kind: str, **changes: object) -> Iterator[tuple[str, Settings]]:
    """A service whose policy has one of the gains; its URL and settings."""
    snapshot = make_snapshot(folder / "snapshot", N_FILMS, gain=GAINS[kind])
    settings = make_settings(redis_url, snapshot, folder / "deployment", **changes)
    with serving_http(settings) as client:
        yield str(client.base_url).rstrip("/"), settings


@pytest.fixture(scope="module")
def generous(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Settings]]:
    with deployment(redis_url, tmp_path_factory.mktemp("generous"), "generous") as running:
        yield running


def personas(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["personas", *map(str, arguments)], env={"COLUMNS": "100", "IALP_API_KEY": ""})


def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "personas.json").read_text())
    return found


def test_a_policy_that_gives_what_is_liked_passes(
    generous: tuple[str, Settings], redis_url: str, tmp_path: Path
) -> None:
    url, settings = generous
    done = personas("--url", url, "--out", tmp_path, "--require", 3, "--draws", 3)
    assert done.exit_code == 0, done.output
    assert "3 of 3 categories rise with likes, 3 of 3 fall with dislikes, 3 of 3 tell likes from" in done.output
    found = told(tmp_path)
    assert found["versions"] == [1] and found["answered_by"] == ["adaptive"] and found["items"] == N_FILMS
    for effect in found["categories"]:
        assert (effect["likes"], effect["dislikes"], effect["told_apart"]) == ("rises", "falls", True)
        assert [stage["likes"] for stage in effect["stages"]] == [-3, 0, 1, 3, 10]
        means = [stage["mean"] for stage in effect["stages"]]
        assert means == sorted(means) and effect["items"] == 20
    people = {person["name"]: person for person in found["people"]}
    fan, against = people["a fan of Comedy"], people["not a fan of Comedy"]
    assert fan["liked"] == against["disliked"] and len(fan["liked"]) == 3
    assert fan["share"] > fan["stranger_share"] > against["share"]
    assert sum(item["fits"] for item in fan["likeliest"]) > 7 > 1 >= sum(item["fits"] for item in against["likeliest"])
    assert against["from_opposite"] > fan["from_stranger"] > 0.1 and people["a stranger"]["from_stranger"] == 0
    page = (tmp_path / "personas.html").read_text()
    assert page.count("<svg") == 3 and "A fan of Comedy" in page and "src=" not in page
    with syncredis.from_url(redis_url) as redis:
        assert logged(redis, settings) == [], "nothing was shown to anybody"


def test_a_policy_that_withholds_it_is_found_out(redis_url: str, tmp_path: Path) -> None:
    with deployment(redis_url, tmp_path, "contrary") as (url, _):
        done = personas("--url", url, "--out", tmp_path / "out", "--require", 1, "--draws", 3, "--no-lists")
        fine = personas("--url", url, "--draws", 2)
    assert done.exit_code == 1
    assert "0 of 3 categories rise with likes; --require 1" in done.output
    assert {(e["likes"], e["dislikes"], e["told_apart"]) for e in told(tmp_path / "out")["categories"]} == {
        ("falls", "rises", False)
    }
    assert fine.exit_code == 0, "a verdict is no failure"


def test_a_policy_that_does_not_look_is_not_taken_for_a_good_one(redis_url: str, tmp_path: Path) -> None:
    with deployment(redis_url, tmp_path, "blind") as (url, _):
        done = personas("--url", url, "--out", tmp_path / "out", "--draws", 3, "--no-lists")
    assert done.exit_code == 0
    assert not any(effect["likes"] == "rises" for effect in told(tmp_path / "out")["categories"])


@pytest.mark.parametrize("is_listed", [True, False])
@pytest.mark.parametrize("arm", ["control", "adaptive"])
async def test_shares_are_the_policys_probabilities(arm: Any, is_listed: bool, generous: tuple[str, Settings]) -> None:
    url, settings = generous
    assert settings.snapshot is not None
    policy = load_snapshot(settings.snapshot).serving_policy(load_catalogue(settings.snapshot).embeddings)
    comedies = Category(("Comedy",), tuple(f"film-{n}" for n in range(1, N_FILMS, 3)), is_listed)
    liked, excluded = (1, 4, 7), (1, 4, 7, 10)
    available = np.array([n not in excluded for n in range(N_FILMS)])

    def asked(response: Response) -> float:
        past = [Interaction(n, response) for n in liked]
        probs = policy.distribution(past, available, Arm(arm)).probs
        return float(probs[[n for n in range(1, N_FILMS, 3) if n not in excluded]].sum())

    async with AsyncClient(url) as client:
        probe = Probe(client, arm, k=1)
        named = [f"film-{n}" for n in liked]
        ours, theirs = await probe.shares(
            comedies, Taste(tuple(named)), Taste(disliked=tuple(named)), [f"film-{n}" for n in excluded], 0
        )
        alone, none = await probe.shares(comedies, STRANGER, None, [f"film-{n}" for n in excluded], 0)
    assert ours == pytest.approx(asked(Response.POSITIVE), abs=1e-6)
    assert theirs == pytest.approx(asked(Response.NEGATIVE), abs=1e-6)
    assert none is None and 0 < alone < ours
    assert probe.arms == {arm} and probe.versions == {1}


def test_items_may_come_from_a_file(generous: tuple[str, Settings], tmp_path: Path) -> None:
    rows = [
        {"id": f"film-{n}", "text": f"Film number {n}", "categories": [GENRES[n % 3]]} for n in range(0, N_FILMS, 3)
    ]
    rows.append({"id": "elsewhere", "text": "No film of theirs", "categories": ["Drama"]})
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = personas("--url", generous[0], "--items", tmp_path / "items.jsonl", "--out", tmp_path, "--draws", 2)
    assert done.exit_code == 0, done.output
    (drama,) = told(tmp_path)["categories"]
    assert (drama["name"], drama["items"], drama["likes"]) == ("Drama", 21, "rises")
    (tmp_path / "others.jsonl").write_text('{"id": "elsewhere", "text": "x", "categories": ["Drama"]}\n')
    done = personas("--url", generous[0], "--items", tmp_path / "others.jsonl")
    assert "the service has none of its items" in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--least", "21"], "--least 21: no category has so many items; the largest, Drama, has 20"),
        (["--least", "10"], "--least 10: a category needs more items than --most-likes 10"),
        (["--dislike", "0"], "--dislike 0: give one above and one below zero"),
        (["--url", "here"], "--url here: expected http://HOST:PORT"),
    ],
)
def test_a_mistake_is_told(generous: tuple[str, Settings], arguments: list[str], told: str) -> None:
    done = personas("--url", generous[0], *arguments)
    assert told in str(done.exception)


def test_a_service_that_asks_for_a_key(redis_url: str, tmp_path: Path) -> None:
    with deployment(redis_url, tmp_path, "generous", auth="on") as (url, settings), syncredis.from_url(redis_url) as r:
        (tmp_path / "serve").write_text(add_key(r, Keys(settings.key_prefix), "serve"))
        (tmp_path / "admin").write_text(add_key(r, Keys(settings.key_prefix), "admin"))
        no_key = personas("--url", url)
        wrong = personas("--url", url, "--api-key-file", tmp_path / "serve")
        done = personas("--url", url, "--api-key-file", tmp_path / "admin", "--draws", 2, "--out", tmp_path / "out")
    assert "--api-key-file" in str(no_key.exception) and "scope admin" in str(wrong.exception)
    assert done.exit_code == 0
    key = (tmp_path / "admin").read_text()
    assert key not in done.output + "".join(path.read_text() for path in (tmp_path / "out").iterdir())


class _NotOurs(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


def test_what_has_no_previews_is_told() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _NotOurs) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        done = personas("--url", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert "has no /preview" in str(done.exception)
