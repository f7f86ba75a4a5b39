"""The command line, and all of it against the real service: API, worker and storage as processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from offline.datasets import Dataset, Interactions, Item, Scenario, save_dataset
from service.runtime import embedded
from simulator.world.kinds import WORLDS
from simulator.world.users import UserModel
from tests.service.service_examples import N_ITEMS, make_snapshot, until

N_SESSIONS = 24


def simulator(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulator", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The films of `make_snapshot`, with users who each like one genre."""
    folder = tmp_path_factory.mktemp("run") / "dataset"
    user, item = (np.array(side, np.int32) for side in np.divmod(np.arange(40 * N_ITEMS), N_ITEMS))
    liked = (item % 3 == user % 3) & (np.random.default_rng(0).random(len(user)) < 0.6)
    shape = {"value": liked.astype(np.float32), "liked": liked, "time": item.astype(np.int64)}
    items = tuple(Item(f"film-{n}", f"Film number {n}") for n in range(N_ITEMS))
    save_dataset(Dataset("films", Scenario(), items, Interactions(user, item, n_users=40, **shape)), folder)
    return folder


@contextlib.contextmanager
def service(folder: Path, **settings: str) -> Iterator[str]:
    """`python -m service dev`, ready; its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ours = {"IALP_DATA_DIR": str(folder / "data"), "IALP_CONTROL_SHARE": "0.4", "OMP_NUM_THREADS": "1"}
    given = {name: value for name, value in os.environ.items() if name != "REDIS_URL" and not name.startswith("IALP_")}
    command = [sys.executable, "-m", "service", "dev", "--snapshot", str(make_snapshot(folder / "snapshot"))]
    with (folder / "service.log").open("wb") as log:
        process = subprocess.Popen([*command, "--port", str(port)], env=given | ours | settings, stderr=log)
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert process.poll() is None, (folder / "service.log").read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
        return False

    try:
        until(ready, "the service")
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def test_a_run_against_the_real_service(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "load"
    arguments = ("--dataset", dataset, "--sessions", N_SESSIONS, "--concurrency", 4, "--baseline-sessions", 50)
    with service(tmp_path) as url:
        done = simulator("load", "--url", url, *arguments, "--out", out)
        assert done.returncode == 0, done.stderr
        again = simulator("load", "--url", url, *arguments, "--out", out)
        users = [httpx.get(f"{url}/users/sim-0-{n}", trust_env=False).json() for n in range(N_SESSIONS)]
        options = ("--rate", 50, "--think-seconds", 0, "--seed", 1, "--world", "more", "--out", out / "open")
        open_loop = simulator("load", "--url", url, *arguments, *options)
    assert open_loop.returncode == 0, open_loop.stderr
    assert "in the world `more`: users want more of the same" in open_loop.stdout
    settings = json.loads((out / "open" / "results.json").read_text())["settings"]
    assert settings["world"] == "more" and settings["attraction"] == WORLDS["more"].rules["attraction"]
    assert "In this world users want more of the same." in (out / "open" / "report.html").read_text()
    assert again.returncode == 2 and "another seed" in again.stderr and "Traceback" not in again.stderr
    results = json.loads((out / "results.json").read_text())
    assert results["sessions"] == N_SESSIONS and results["incomplete"] == {}
    assert set(results["arms"]) == {"adaptive", "control"} and set(results["baselines"]) == {
        "random",
        "popularity",
        "oracle",
    }
    assert set(results["statuses"]["/recommend"]) == {"200"} and set(results["statuses"]["/feedback"]) == {"202"}
    assert 0 < results["latency_ms"]["/recommend"]["p50"] <= results["latency_ms"]["/recommend"]["max"]
    assert (out / "plot.png").stat().st_size > 10_000 and "film" in (out / "report.html").read_text()
    assert str(out / "report.html") in done.stdout.replace("\n", "")
    for line, user in zip(_by_number(out / "sessions.jsonl"), users, strict=True):
        shown = [f"film-{item}" for slate in line["shown"] for item in slate]
        assert sorted(user["seen_item_ids"]) == sorted(set(shown)) and user["arm"] == line["arm"]
        assert len(user["history"]) == sum(line["rewards"])


def test_a_service_that_asks_for_a_key(dataset: Path, tmp_path: Path) -> None:
    key_file, out = tmp_path / "key", tmp_path / "load"
    arguments = ("--dataset", dataset, "--sessions", 2, "--baseline-sessions", 2, "--out", out)
    create = [sys.executable, "-m", "service", "keys", "create", "--name", "load", "--scopes", "serve,feedback"]
    with service(tmp_path, IALP_AUTH="on") as url:
        refused = simulator("load", "--url", url, *arguments)
        redis = {"REDIS_URL": f"unix://{embedded._socket_path(tmp_path / 'data' / 'redis')}"}
        subprocess.run([*create, "--out", str(key_file)], env=os.environ | redis, check=True)
        done = simulator("load", "--url", url, *arguments, "--api-key-file", key_file)
    assert refused.returncode == 2 and "--api-key-file" in refused.stderr and "Traceback" not in refused.stderr
    assert done.returncode == 0, done.stderr
    key = key_file.read_text().strip()
    said = done.stdout + done.stderr + (tmp_path / "service.log").read_text()
    assert key not in said + "".join(path.read_text() for path in out.iterdir() if path.suffix != ".png")


def _by_number(path: Path) -> list[dict[str, Any]]:
    return sorted(map(json.loads, path.read_text().splitlines()), key=lambda line: line["n"])


def test_ctrl_c_still_writes_the_report(dataset: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "simulator", "load", "--dataset", str(dataset), "--out", str(tmp_path / "load")]
    with service(tmp_path) as url:
        options = ["--url", url, "--max-seconds", "200", "--baseline-sessions", "50"]
        process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
        until(lambda: httpx.get(f"{url}/users/sim-0-30", trust_env=False).status_code == 200, "the thirtieth user")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("interrupted; the report of the sessions so far is written")
    assert "Traceback" not in said
    assert json.loads((tmp_path / "load" / "results.json").read_text())["sessions"] >= 1


def test_users_are_fitted_once_and_kept(dataset: Path, tmp_path: Path) -> None:
    done = simulator("users", "--dataset", dataset, "--out", tmp_path / "users.safetensors")
    assert done.returncode == 0 and "AUC" in done.stdout
    assert UserModel.load(tmp_path / "users.safetensors").item_factors.shape[0] == N_ITEMS


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--url", "http://10.0.0.1:8000", "--sessions", "1"], "--allow-remote"),
        ([], "--sessions"),
        (["--sessions", "1", "--dataset", "nowhere"], "nowhere"),
        (["--sessions", "1", "--baseline-sessions", "2", "--url", "http://127.0.0.1:1"], "python -m service dev"),
    ],
)
def test_a_mistake_is_one_line(dataset: Path, tmp_path: Path, arguments: list[str], told: str) -> None:
    done = simulator("load", "--dataset", dataset, "--out", tmp_path / "out", *arguments)
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert told in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
