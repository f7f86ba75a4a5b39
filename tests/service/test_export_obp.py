"""The log in Open Bandit Pipeline's form: from the command and over HTTP, as obp itself and our own reader take it."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import redis as syncredis
from typer.testing import CliRunner

from offline.__main__ import app as offline_app
from offline.ope.feedback import load_bandit_feedback
from service.api.routes import log as log_route
from service.export.files import ExportError
from service.export.obp import Limits, TooLarge, obp_file, write_obp
from service.policy.text import TEXT_DIM, HashingEncoder, item_text
from service.settings import Settings
from service.store.keys import Keys
from service.store.registry import folder_of
from tests.offline import open_bandit
from tests.service.export_examples import PATIENT, click, export, impression, let_an_hour_pass, put
from tests.service.service_examples import N_ITEMS, make_settings, problem_of, recommend, talk

WINDOW_S = 10.0
GENRES = ("Drama", "Comedy", "Western")


@pytest.fixture
def settings(redis_url: str, snapshot_folder: Path, tmp_path: Path) -> Settings:
    """Of a deployment that loses nothing."""
    return make_settings(redis_url, snapshot_folder, tmp_path, **PATIENT)


@pytest.fixture
def busy(api: httpx.Client, redis: syncredis.Redis, keys: Keys) -> httpx.Client:
    """After some slates and a new item, whose reward windows are over."""
    talk(api, 20)
    api.put("/items/new-1", json={"text": "A new film", "categories": ["Comedy"]}).raise_for_status()
    for number in range(20):  # of users who come again, so that their sessions hold something
        recommend(api, f"user-{number}", k=4)
    recommend(api, "narrow", k=1, candidate_item_ids=["new-1"])
    let_an_hour_pass(redis, keys)
    return api


def downloaded(client: httpx.Client) -> dict[str, npt.NDArray[Any]]:
    answer = client.get("/log:export", params={"form": "obp"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"] == 'attachment; filename="bandit_feedback.npz"'
    assert answer.headers["content-type"] == "application/octet-stream"
    with np.load(io.BytesIO(answer.content), allow_pickle=False) as file:
        return dict(file)


def test_obp_takes_it_and_finds_what_was_earned(busy: httpx.Client) -> None:
    obp = open_bandit.imported()
    found = downloaded(busy)
    n, n_actions = int(found["n_rounds"]), int(found["n_actions"])
    assert (n, n_actions) == (20 * 3 + 20 * 4 + 1, N_ITEMS + 1)
    given = {name: found[name] for name in ("context", "action", "reward", "position", "pscore", "action_context")}
    obp.utils.check_bandit_feedback_inputs(**given)
    # A target with the logged probabilities has earned what was earned.
    rows, dist = np.arange(n), np.full((n, n_actions, 4), 1 / n_actions)
    dist[rows, :, found["position"]] = 0.0
    dist[rows, found["action"], found["position"]] = found["pscore"]
    dist[rows, (found["action"] + 1) % n_actions, found["position"]] = 1 - found["pscore"]
    taken = {name: found[name] for name in ("action", "reward", "position", "pscore")}
    value = obp.ope.InverseProbabilityWeighting().estimate_policy_value(action_dist=dist, **taken)
    assert value == pytest.approx(found["reward"].mean()) and value > 0.1


def test_contexts_are_means_of_the_texts_as_they_are_stored(busy: httpx.Client) -> None:
    found = downloaded(busy)
    ids = found["item_ids"].tolist()
    assert ids == [*(f"film-{n}" for n in range(N_ITEMS)), "new-1"]
    texts = [item_text(f"Film number {n}", (GENRES[n % 3],)) for n in range(N_ITEMS)]
    text = HashingEncoder().encode([*texts, item_text("A new film", ("Comedy",))]).astype(np.float16)
    np.testing.assert_array_equal(found["action_context"], text.astype(np.float32))
    assert found["context"].shape == (141, 3 * TEXT_DIM) and found["context"].dtype == np.float32
    assert found["action"][-1] == ids.index("new-1") and not found["context"][:60].any(), (
        "the first slates are to strangers"
    )
    again = found["context"][60:140:4].reshape(20, 3, TEXT_DIM)
    liked = [sorted(f for f in found["action"][3 * u : 3 * u + 3] if f % 3 == 1) for u in range(20)]
    assert sum(map(len, liked)) > 10
    for user in range(20):
        expected = text[liked[user]].astype(np.float32).mean(0) if liked[user] else np.zeros(TEXT_DIM)
        np.testing.assert_allclose(again[user, 0], expected, atol=1e-6)


@pytest.mark.usefixtures("environment", "busy")
def test_offline_makes_the_same_rounds_from_the_parquet_files(settings: Settings, tmp_path: Path) -> None:
    log, items, ours, theirs = (tmp_path / name for name in ("log.parquet", "items.parquet", "ours.npz", "theirs.npz"))
    said = export("--out", log, "--items", items, "--obp", ours)
    assert [line.partition(":")[0] for line in said.splitlines()] == [str(log), str(ours)]
    assert "rounds 141, slates 41" in said
    snapshot = folder_of(settings.data_dir, 1)
    command = ["evaluate", "--log", log, "--snapshot", snapshot, "--items", items, "--obp-out", theirs]
    CliRunner().invoke(offline_app, [*map(str, command), "--out", str(tmp_path / "results")], catch_exceptions=False)
    mine, other = load_bandit_feedback(ours), load_bandit_feedback(theirs)
    assert (mine["n_rounds"], mine["n_actions"]) == (other["n_rounds"], other["n_actions"]) == (141, N_ITEMS + 1)
    for name in ("action", "position", "reward", "pscore"):
        np.testing.assert_array_equal(mine[name], other[name])


def test_empty_slates_and_unknown_items_are_no_rounds(redis: syncredis.Redis, keys: Keys, tmp_path: Path) -> None:
    redis.hset(keys.item_index, mapping={"b": 1, "a": 0})
    put(redis, keys, 1_000, impression(0, "u:ann"))
    put(redis, keys, 2_000, impression(1, "u:ann", "ghost", "b", history=(("ghost", 1.0),)))
    put(redis, keys, 3_000, click(1, "u:ann", "b"))
    counts = write_obp(tmp_path / "obp.npz", redis, keys, WINDOW_S)
    assert (counts["slates"], counts["rounds"]) == (2, 1)
    found = load_bandit_feedback(tmp_path / "obp.npz")
    assert (found["action"].tolist(), found["position"].tolist(), found["reward"].tolist()) == ([1], [1], [1.0])
    assert not found["action_context"].any(), "nothing is known of these items"


def test_an_empty_log_is_a_file_without_rounds(redis: syncredis.Redis, keys: Keys, tmp_path: Path) -> None:
    write_obp(tmp_path / "obp.npz", redis, keys, WINDOW_S)
    assert load_bandit_feedback(tmp_path / "obp.npz")["n_rounds"] == 0


def test_limits_are_of_slots_and_items(redis: syncredis.Redis, keys: Keys) -> None:
    for number in range(3):
        redis.hset(keys.item_index, str(number), str(number))
        put(redis, keys, 1_000 + number, impression(number, "u:ann", "0", "1"))
    counts, _ = obp_file(redis, keys, WINDOW_S, Limits(rounds=6, items=3))
    assert counts["rounds"] == 6
    for limits, told in ((Limits(rounds=5), "5 logged slots"), (Limits(items=2), "2 items")):
        with pytest.raises(TooLarge, match=f"more than {told}; `python -m service export --obp FILE.npz`"):
            obp_file(redis, keys, WINDOW_S, limits)


def test_a_log_that_is_too_large_is_left_to_the_command(busy: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_route, "OBP_LIMITS", Limits(rounds=140))
    problem = problem_of(busy.get("/log:export?form=obp"), 507)
    assert problem["code"] == "log_too_large"
    assert problem["detail"].startswith(
        "There are more than 140 logged slots; `python -m service export --obp FILE.npz`"
    )
    assert busy.get("/log:export?form=parquet").content[:4] == b"PAR1", "which has no such limit"


def test_another_form_is_refused(api: httpx.Client) -> None:
    (error,) = problem_of(api.get("/log:export?form=csv"), 422)["errors"]
    assert error["field"] == "query.form"


def test_it_does_without_pyarrow(busy: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert downloaded(busy)["n_rounds"] == 141
    problem_of(busy.get("/log:export"), 501)


@pytest.mark.usefixtures("environment")
def test_mistakes_of_the_command_are_one_line(
    redis: syncredis.Redis, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given in (
        (),
        ("--items", tmp_path / "items.parquet"),
        ("--obp", tmp_path / "o.npz", "--items", tmp_path / "i"),
    ):
        said = export(*given, code=2)
        assert said.startswith("error: give --out FILE.parquet, --obp FILE.npz or both") and said.count("\n") == 1
    assert export("--obp", tmp_path, code=2).startswith(f"error: {tmp_path}: cannot be written (")
    assert list(tmp_path.glob("**/*.npz")) == [] and list(tmp_path.glob("**/.*.npz*")) == []
    monkeypatch.setattr("service.export.obp.npz", _broken)
    with pytest.raises(ExportError, match="cannot be written"):
        write_obp(tmp_path / "obp.npz", redis, keys, WINDOW_S)
    assert list(tmp_path.glob("*obp.npz*")) == [], "whole or not at all"


def _broken(_: object) -> Any:
    yield b"half of it"
    raise OSError(28, "No space left on device")
