"""`python -m service export`: what the service logged, joined as the worker joins it, and evaluated from the file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis as syncredis
from typer.testing import CliRunner

from offline.__main__ import app as offline_app
from offline.errors import OfflineError
from offline.ope.log import Log, read_items, read_log
from service.export.files import ExportError, write_log
from service.export.rows import logged_slates, open_export
from service.policy.logged import LoggedSlate
from service.settings import Settings
from service.store import events
from service.store.events import Feedback, Impression, ItemChanged, UserErased
from service.store.keys import Keys
from service.store.registry import folder_of
from tests.service.export_examples import PATIENT, click, export, impression, let_an_hour_pass, put
from tests.service.service_examples import N_ITEMS, logged, make_settings, recommend, respond, serving, shown, talk

WINDOW_S = 10.0


def exported(redis: syncredis.Redis, keys: Keys) -> tuple[list[LoggedSlate], dict[str, int]]:
    export = open_export(redis, keys)
    return list(logged_slates(redis, keys, export, WINDOW_S)), dict(export.counts)


def evaluate(*arguments: str | Path) -> dict[str, Any]:
    """The results of `offline evaluate` on the exported log."""
    out = Path(arguments[1]).parent / "results"
    command = ["evaluate", *map(str, arguments), "--out", str(out)]
    result = CliRunner().invoke(offline_app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    results: dict[str, Any] = json.loads((out / "results.json").read_text())
    return results


def test_rewards_join_as_the_worker_joins_them(redis: syncredis.Redis, keys: Keys) -> None:
    put(redis, keys, 1_000, impression(0, "u:ann", "a", "b"))
    put(redis, keys, 2_000, click(0, "u:ann", "b", 0.2))
    put(redis, keys, 3_000, click(0, "u:ann", "b", 1.0))  # the largest counts
    put(redis, keys, 4_000, click(0, "u:eve", "a"))  # not her impression
    put(redis, keys, 5_000, Feedback("organic", "u:ann", "a", 1.0))
    put(redis, keys, 6_000, impression(1, "u:ann", "c"))
    redis.xadd(keys.events, {events.FIELD: b"junk"}, id="6500-0")
    put(redis, keys, 7_000, impression(0, "u:ann", "a", "b"))  # replayed though it was no poison
    put(redis, keys, 11_000, click(0, "u:ann", "a"))  # too late: the window is [1000, 11000)
    put(redis, keys, 12_000, click(1, "u:ann", "c", -1.0))
    put(redis, keys, 13_000, impression(2, "u:bob"))
    slates, counts = exported(redis, keys)
    assert [(s.recommendation_id, s.at_ms, s.items, s.rewards) for s in slates] == [
        ("r0", 1_000, ("a", "b"), (0.0, 1.0)),
        ("r1", 6_000, ("c",), (-1.0,)),
        ("r2", 13_000, (), ()),
    ]
    expected = {"slates": 3, "unverified": 3, "open": 0, "unreadable": 1, "repeated": 1}
    feedback = {"joined": 3, "mismatched": 1, "late": 1, "organic": 1}
    assert counts == expected | {f"feedback_{kind}": n for kind, n in feedback.items()}


def test_what_may_still_earn_is_left_out(redis: syncredis.Redis, keys: Keys) -> None:
    put(redis, keys, 1_000, impression(0, "u:ann", "a"))
    put(redis, keys, 5_000, impression(1, "u:ann", "a"))
    put(redis, keys, 6_000, click(1, "u:ann", "a"))
    put(redis, keys, 99_000, impression(2, "u:ann", "a"))
    export = open_export(redis, keys)
    export.end_ms = 14_999
    assert [slate.recommendation_id for slate in logged_slates(redis, keys, export, WINDOW_S)] == ["r0"]
    assert (export.counts["slates"], export.counts["open"]) == (1, 1)


def test_an_erased_user_is_not_exported(redis: syncredis.Redis, keys: Keys) -> None:
    put(redis, keys, 1_000, impression(0, "u:ann", "a"))
    put(redis, keys, 2_000, impression(1, "u:bob", "a"))
    put(redis, keys, 50_000, impression(2, "u:ann", "a"))
    put(redis, keys, 51_000, UserErased("u:ann"))
    put(redis, keys, 52_000, impression(3, "u:ann", "a"))
    slates, counts = exported(redis, keys)
    assert [slate.recommendation_id for slate in slates] == ["r1", "r3"]
    assert (counts["erased"], counts["slates"], counts["open"]) == (2, 2, 0)


def test_a_change_of_an_item_this_redis_never_had_is_passed_over(redis: syncredis.Redis, keys: Keys) -> None:
    put(redis, keys, 1_000, ItemChanged("ghost", b""))
    put(redis, keys, 2_000, impression(0, "u:ann", "a"))
    slates, _ = exported(redis, keys)
    assert (slates[0].n_items, slates[0].hidden) == (0, ())


def busy_service(settings: Settings) -> None:
    """Every kind of request, while items come, hide, return and go."""
    with serving(settings) as client:
        talk(client, 20)
        client.put("/items/new-1", json={"text": "A new film", "categories": ["Comedy"]}).raise_for_status()
        client.put("/items/film-5", json={"text": "Film number 5", "categories": ["Western"], "hidden": True})
        talk(client, 20, start=20)
        for number in range(10):
            recommend(client, f"picky-{number}", k=3, filters={"categories": ["Drama", "Comedy"]})
            recommend(client, f"narrow-{number}", k=3, candidate_item_ids=["film-1", "new-1", "film-5", "film-9"])
            recommend(client, f"user-{number}", k=4, exclude_item_ids=["film-2", "film-3"])
        client.put("/items/film-5", json={"text": "Film number 5", "categories": ["Western"]}).raise_for_status()
        client.delete("/items/film-6").raise_for_status()
        client.put("/items/new-2", json={"text": "Another", "categories": ["Drama"], "hidden": True}).raise_for_status()
        talk(client, 20, start=40, k=5)


Served = tuple[Settings, Path, Path, str]


@pytest.fixture(scope="module")
def served(redis_url: str, snapshot_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A busy service's settings, its exported log and catalogue, and what the command said."""
    folder = tmp_path_factory.mktemp("served")
    settings = make_settings(redis_url, snapshot_folder, folder, **PATIENT)
    busy_service(settings)
    with syncredis.from_url(redis_url) as client, pytest.MonkeyPatch.context() as patch:
        let_an_hour_pass(client, Keys(settings.key_prefix))
        patch.setenv("REDIS_URL", redis_url)
        patch.setenv("IALP_KEY_PREFIX", settings.key_prefix)
        said = export("--out", folder / "log.parquet", "--items", folder / "items.parquet")
    return settings, folder / "log.parquet", folder / "items.parquet", said


def test_each_impression_is_a_row_and_its_candidates_are_known(served: Served, redis: syncredis.Redis) -> None:
    settings, path, _, said = served
    log: Log = read_log(path)
    impressions = [event for event in logged(redis, settings) if isinstance(event, Impression)]
    assert len(log.slates) == len(impressions) == 90
    assert all(slate.verified for slate in log.slates)
    assert log.metadata["counts"]["slates"] == 90
    assert "slates 90" in said and "unverified 0" in said
    assert log.catalogue == (*(f"film-{n}" for n in range(N_ITEMS)), "new-1", "new-2")
    assert {slate.n_items for slate in log.slates} == {N_ITEMS, N_ITEMS + 1, N_ITEMS + 2}
    assert {slate.hidden for slate in log.slates} == {(), ("film-5",), ("film-6", "new-2")}
    for slate, event in zip(log.slates, impressions, strict=True):
        assert (slate.items, slate.propensities, slate.masked) == (event.items, event.propensities, event.masked)
        assert tuple(zip(slate.history_items, slate.history_rewards, strict=True)) == event.history
        if slate.user.startswith("u:user-") and event.candidates is None and "film-2" not in event.masked:
            clicks = [float(i.startswith("film-") and int(i[5:]) % 3 == 1) for i in slate.items]
            assert list(slate.rewards) in (clicks, [0.0] * len(clicks))
    assert sum(sum(slate.rewards) for slate in log.slates) > 20


def test_the_served_policy_has_ratio_one(served: Served) -> None:
    """The sharpest check of the whole way: masks, histories, new items and propensities, from the files alone."""
    settings, path, items, _ = served
    snapshot = folder_of(settings.data_dir, 1)
    for arm in ("control", "adaptive"):  # nothing was learned yet; new items have a share in the adaptive arm alone
        results = evaluate("--log", path, "--snapshot", snapshot, "--items", items, "--arm", arm, "--logged-arm", arm)
        assert results["counts"]["slots_without_row"] == 0
        assert results["diagnostics"]["max_ratio_slots"] == pytest.approx(1.0, rel=1e-4)
        assert results["diagnostics"]["ess_slots"] == pytest.approx(results["counts"]["slots"], rel=1e-4)
        for unit in ("per_slot", "per_slate"):
            logged_value = results[unit]["logged"]["value"]
            assert results[unit]["ips"]["value"] == pytest.approx(logged_value, rel=1e-4)
            assert results[unit]["snips"]["value"] == pytest.approx(logged_value, rel=1e-4)
        assert results["per_slot"]["dr"]["value"] == pytest.approx(results["per_slot"]["logged"]["value"], abs=0.2)


def test_the_pretrained_snapshot_does_without_the_items(served: Served, snapshot_folder: Path) -> None:
    _, path, items, _ = served
    results = evaluate("--log", path, "--snapshot", snapshot_folder)
    shown_new = sum(item.startswith("new-") for slate in read_log(path).slates for item in slate.items)
    assert shown_new > 0
    assert results["counts"]["slots_without_row"] == shown_new
    ids, embeddings = read_items(items)
    assert (len(ids), len(embeddings)) == (N_ITEMS + 2, N_ITEMS + 2)
    assert np.linalg.norm(np.array(embeddings), axis=1) == pytest.approx(1.0, abs=1e-2)


def test_a_version_without_its_catalogue_says_what_is_missing(served: Served) -> None:
    settings, path, _, _ = served
    with pytest.raises(OfflineError, match=r"00000001: carries no text embeddings; .*--items"):
        evaluate("--log", path, "--snapshot", folder_of(settings.data_dir, 1))


def test_feedback_over_http_is_in_the_file(
    api: httpx.Client, settings: Settings, redis: syncredis.Redis, keys: Keys, tmp_path: Path
) -> None:
    slate = recommend(api, "ann", k=3)
    sent = {"event_id": "1", "recommendation_id": slate["recommendation_id"], "user_id": "ann"}
    respond(api, sent | {"item_id": shown(slate)[1], "type": "click"})
    let_an_hour_pass(redis, keys)
    write_log(tmp_path / "log.parquet", redis, keys, WINDOW_S)
    (row,) = read_log(tmp_path / "log.parquet").slates
    assert (row.user, row.items, row.rewards) == ("u:ann", tuple(shown(slate)), (0.0, 1.0, 0.0))


@pytest.mark.usefixtures("environment")
def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    said = export("--out", tmp_path / "file" / "log.parquet", code=2)
    assert said.startswith(f"error: {tmp_path / 'file' / 'log.parquet'}: cannot be written (") and said.count("\n") == 1
    assert export("--out", tmp_path, code=2).startswith(f"error: {tmp_path}: cannot be written (")
    monkeypatch.setenv("REDIS_URL", f"unix://{tmp_path / 'nothing.sock'}")
    said = export("--out", tmp_path / "log.parquet", code=2)
    assert said.startswith("error: Redis does not answer") and said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".parquet") == []


@pytest.mark.usefixtures("environment")
def test_an_empty_log_is_a_file_without_rows(tmp_path: Path, snapshot_folder: Path) -> None:
    export("--out", tmp_path / "log.parquet")
    assert read_log(tmp_path / "log.parquet").slates == ()
    with pytest.raises(OfflineError, match="no slate is left of the log's 0"):
        evaluate("--log", tmp_path / "log.parquet", "--snapshot", snapshot_folder)


def test_without_pyarrow_the_message_says_what_to_install(
    redis: syncredis.Redis, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ExportError, match=r"pip install 'ialp\[offline\]'"):
        write_log(tmp_path / "log.parquet", redis, keys, WINDOW_S)
