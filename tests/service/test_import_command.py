"""`python -m service import`: users who come back are known, and the report says what was left out and why."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis as syncredis
from typer.testing import CliRunner, Result

from service.__main__ import app, main
from service.runtime import embedded
from service.settings import Settings
from service.store import import_reports
from service.store.imports import Importer, Past
from service.store.keys import Keys
from tests.service.service_examples import recommend, serving, shown

Command = Callable[..., Result]
pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "bought.csv"


@pytest.fixture
def run(file: Path) -> Command:
    """`import` of the file."""

    def ended(content: str, *arguments: object) -> Result:
        file.write_text(content)
        return again(file, *arguments)

    return ended


def again(file: Path, *arguments: object) -> Result:
    return CliRunner().invoke(app, ["import", "--interactions", str(file), *map(str, arguments)])


def refusal(result: Result) -> str:
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    return " ".join(result.stderr.split())


def iso(ago_s: float) -> str:
    return datetime.fromtimestamp(time.time() - ago_s, UTC).isoformat()


def remembered(api: httpx.Client, user: str) -> list[tuple[str, float]]:
    found = api.get(f"/users/{user}").json()
    return [(entry["item_id"], entry["reward"]) for entry in found["history"]]


def test_a_user_who_comes_back_is_known(
    run: Command, file: Path, api: httpx.Client, redis: syncredis.Redis, keys: Keys
) -> None:
    day = 86_400
    rows = [("ann", "film-3", iso(2 * day)), ("ann", "film-9", iso(day)), ("bob", "film-1", iso(day))]
    rows += [("ann", "film-0", iso(80 * day)), ("ann", "lost", iso(day)), ("bob", "gone", iso(day))]
    logged = redis.xlen(keys.events)
    done = run("user,item,time\n" + "".join(f"{','.join(row)}\n" for row in rows))
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines() == [
        "import: 3 interactions of 2 users; 2 histories changed, 0 had them already",
        "left out: 2 with 2 unknown items ('lost', 'gone')",
        "left out: 1 before an absence of 30 days (IALP_SESSION_TTL_S, --however-old)",
    ]
    assert remembered(api, "ann") == [("film-3", 1.0), ("film-9", 1.0)]
    assert redis.xlen(keys.events) == logged, "the worker hears nothing of it"
    slate = recommend(api, "ann", k=20)
    assert slate["warnings"] == [] and not {"film-3", "film-9"} & set(shown(slate)), "what she had is not shown again"
    assert {item.decode() for item in redis.zrange(keys.popularity, 0, -1)} == {"film-1", "film-3", "film-9"}
    before = {key: redis.dump(key) for key in redis.scan_iter(f"{keys.prefix}:u:*")}
    once_more = again(file)
    assert "0 histories changed, 2 had them already" in once_more.stderr
    assert {key: redis.dump(key) for key in redis.scan_iter(f"{keys.prefix}:u:*")} == before


def test_types_of_the_file_have_rewards(run: Command, api: httpx.Client, tmp_path: Path) -> None:
    events = [("star", "film-1"), ("read", "film-2"), ("hate", "film-3"), ("open", "film-4"), ("purchase", "film-5")]
    export = tmp_path / "gorse.json"
    rows = [
        {"FeedbackType": kind, "UserId": "bob", "ItemId": item, "Timestamp": iso(100 - n)}
        for n, (kind, item) in enumerate(events)
    ]
    export.write_text(json.dumps({"Cursor": "", "Feedback": rows}))
    done = again(export, "--types", "star=like,read=0.4,hate=dislike")
    assert done.exit_code == 0, done.output
    assert "left out: 1 of type 'open', which has no reward (IALP_REWARDS, --types)" in done.stderr
    assert "gorse.json: the list 'Feedback'" in done.stderr
    assert remembered(api, "bob") == [("film-1", 1.0), ("film-2", 0.4), ("film-3", -1.0), ("film-5", 1.0)]
    by_type = {"like": ["film-1"], "dislike": ["film-3"], "purchase": ["film-5"]}
    assert api.get("/users/bob").json()["items_by_feedback_type"] == by_type


def test_ratings_and_what_was_seen_and_not_liked(run: Command, api: httpx.Client) -> None:
    ratings = f"ann,film-1,5,{iso(9)}\nann,film-2,2,{iso(8)}\nann,film-3,,{iso(7)}\n"
    done = run("user,item,rating,time\n" + ratings, "--liked-at", 4)
    assert done.exit_code == 0, done.output
    assert remembered(api, "ann") == [("film-1", 1.0)]
    assert not {"film-1", "film-2", "film-3"} & set(shown(recommend(api, "ann", k=20)))


def test_without_times_the_order_of_the_file_counts(run: Command, file: Path, api: httpx.Client) -> None:
    content = "user,item\nann,film-2\nann,film-1\nbob,film-2\n"
    done = run(content)
    assert "no times: their order is the file's, and they were when it was last changed" in done.stderr
    assert remembered(api, "ann") == [("film-2", 1.0), ("film-1", 1.0)]
    assert "0 histories changed, 2 had them already" in again(file).stderr
    os.utime(file, (1e9, 1e9))
    assert "nothing of it can be taken" in refusal(again(file))
    assert "0 histories changed, 2 had them already" in again(file, "--however-old").stderr
    mixed = run(f"user,item,time\nann,film-7,{iso(9)}\nann,film-8,\n")
    assert "left out: 1 without a time" in mixed.stderr


def test_events_of_metarank(tmp_path: Path, api: httpx.Client) -> None:
    """What was shown to somebody without an answer is not shown to them again."""
    now = round(time.time() * 1_000)
    shown_items = [{"id": "film-1"}, {"id": "film-2"}]
    events: list[dict[str, Any]] = [
        {"event": "ranking", "id": "r1", "timestamp": str(now - 9_000), "user": "ann", "items": shown_items},
        {"event": "interaction", "id": "i1", "timestamp": str(now - 8_000), "user": "ann", "ranking": "r1"},
    ]
    events[1] |= {"type": "click", "item": "film-2"}
    log = tmp_path / "events.jsonl"
    log.write_text("".join(json.dumps(event) + "\n" for event in events))
    done = again(log)
    assert done.exit_code == 0 and "events.jsonl: events of Metarank" in done.stderr, done.output
    assert remembered(api, "ann") == [("film-2", 1.0)]
    assert not {"film-1", "film-2"} & set(shown(recommend(api, "ann", k=20)))


def test_a_bad_row_stops_it_before_anything_is_written(
    run: Command, api: httpx.Client, redis: syncredis.Redis, keys: Keys
) -> None:
    content = f"user,item,time\nann,film-1,{iso(9)}\n,film-2,{iso(9)}\nann,film-3,soon\n"
    said = refusal(run(content))
    assert (
        "bought.csv:3: user: must be 1 to 256 bytes long" in said and "bought.csv:4: time: 'soon' is not a time" in said
    )
    assert "error: 2 rows cannot be used; correct them, or leave them out with --skip-bad-rows" in said
    assert not list(redis.scan_iter(f"{keys.prefix}:u:*"))
    done = run(content, "--skip-bad-rows")
    assert done.exit_code == 0 and "left out: 2 rows that cannot be used" in done.stderr
    assert remembered(api, "ann") == [("film-1", 1.0)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--types", "star=fave"), "--types star=fave: is neither a type of IALP_REWARDS (click, dislike"),
        (("--types", "star=3"), "--types star=3: a reward is from -1 to 1"),
        (("--types", "star"), "--types: 'star' needs a value; write it as star=VALUE,..."),
        (("--interaction-columns", "who=x"), "--interaction-columns: 'who' is not one of user, item"),
        (("--interactions", "none.csv"), "none.csv: not found"),
        (("--interaction-columns", "user=x"), "--interaction-columns user=x: its columns are 'user', 'item'"),
    ],
)
def test_mistakes_name_the_option(arguments: tuple[str, ...], told: str, run: Command, api: httpx.Client) -> None:
    assert told in refusal(run("user,item\nann,film-1\n", *arguments))


def test_what_has_no_catalogue_or_no_redis(run: Command, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no catalogue at the key prefix 'test:" in refusal(run("user,item\nann,film-1\n"))
    monkeypatch.setenv("REDIS_URL", "redis://:s3cret@127.0.0.1:1")
    said = refusal(again(file))
    assert "Redis does not answer" in said and "s3cret" not in said


def test_interrupted_it_goes_on(
    run: Command, api: httpx.Client, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add, calls = Importer.add, []

    def stopped(importer: Importer, pasts: list[Past]) -> list[bool]:
        calls.append(len(pasts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return add(importer, pasts)

    monkeypatch.setattr(Importer, "add", stopped)
    file.write_text("user,item\n" + "".join(f"user-{n},film-{n % 9}\n" for n in range(250)))
    monkeypatch.setattr("sys.argv", ["ialp-service", "import", "--interactions", str(file)])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr().err
    assert end.value.code == 130 and "interrupted; histories of some users are in and stay" in told
    done = again(file)
    assert "import: 250 interactions of 250 users; 150 histories changed, 100 had them already" in done.stderr
    assert remembered(api, "user-249") == [("film-6", 1.0)]


def imports(api: httpx.Client) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = api.get("/imports").raise_for_status().json()["imports"]
    return told


def test_an_operator_sees_what_imports_did(run: Command, file: Path, api: httpx.Client) -> None:
    assert imports(api) == []
    run("user,item\nann,film-1\nann,lost\nbob,film-2\n")
    (one,) = imports(api)
    assert (one["file"], one["state"], one["problem"]) == ("bought.csv", "done", "")
    assert (one["rows"], one["users"], one["interactions"], one["changed"], one["same"]) == (3, 2, 2, 2, 0)
    assert one["left_out"] == ["1 with 1 unknown items ('lost')"]
    assert any(note.startswith("no times") for note in one["notes"])
    assert 0 <= one["told_at"] - one["started_at"] < 60 and abs(time.time() - one["started_at"]) < 60
    run("user,item,time\nann,film-1,soon\n")
    run("who,what\nann,film-1\n")
    run("user,item\nann,lost\n")
    failed = imports(api)[:3]
    assert [one["state"] for one in failed] == ["failed"] * 3 and imports(api)[3] == one
    nothing, unread, bad = (one["problem"] for one in failed)
    assert nothing == "nothing of it can be taken" and "bought.csv" in unread and "1 rows cannot be used" in bad


def test_an_operator_sees_an_import_while_it_runs(
    run: Command, api: httpx.Client, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.import_reports._EVERY_S", 0.0)
    monkeypatch.setattr("service.histories.reading._EVERY", 100)
    add, seen = Importer.add, []

    def watched(importer: Importer, pasts: list[Past]) -> list[bool]:
        seen.extend(imports(api))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return add(importer, pasts)

    monkeypatch.setattr(Importer, "add", watched)
    rows = "".join(f"user-{n},film-{n % 9}\n" for n in range(250))
    done = run(f"user,item\n{rows}")
    assert done.exit_code != 0
    told = [(one["state"], one["rows"], one["users"], one["changed"]) for one in seen]
    assert told == [("writing", 250, 250, changed) for changed in (0, 100, 200)]
    (one,) = imports(api)
    assert (one["state"], one["changed"], one["problem"]) == ("stopped", 200, "")


def test_the_latest_fifty_imports_are_kept(api: httpx.Client, redis: syncredis.Redis, keys: Keys) -> None:
    redis.hset(keys.imports, "damaged", b"\xc1")
    for n in range(55):
        with import_reports.reported(redis, keys, f"{n}.csv"):
            pass
    assert redis.hlen(keys.imports) == 50
    assert {one["file"] for one in imports(api)} >= {f"{n}.csv" for n in range(6, 55)}


def test_a_deployment_that_does_not_run(
    run: Command, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a `service dev`: its server runs meanwhile, and what it took is there at the next start."""
    folder = tmp_path / "own"
    own = settings.model_copy(update={"data_dir": folder})
    with embedded.serving(folder / "redis") as url, serving(own.model_copy(update={"redis_url": url})):
        pass
    monkeypatch.delenv("REDIS_URL")
    monkeypatch.setenv("IALP_DATA_DIR", str(folder))
    done = run("user,item\nann,film-1\n")
    assert done.exit_code == 0, done.output
    assert "its service does not run; its data are opened for this command" in done.stderr
    assert embedded.found(folder / "redis") is None
    with embedded.serving(folder / "redis") as url, serving(own.model_copy(update={"redis_url": url})) as client:
        assert remembered(client, "ann") == [("film-1", 1.0)]
