"""`make observability-test`: dashboard and alerts in a real Prometheus, which reads a running service with its own key.

Prometheus comes from the PATH or else, on Debian, from its package, unpacked into runs/observability without installing
it. Grafana is in no package here: its dashboard is asked for expression by expression, as Grafana would.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis as syncredis
import yaml

from service.runtime import embedded
from service.store.keys import Keys
from tests.observability import debian
from tests.observability.test_shipped import ALERTS, EXPRESSIONS, ROOT, SHIPPED, VARIABLES
from tests.service.auth_examples import add_key, bearer
from tests.service.service_examples import (
    learning_settings,
    make_settings,
    make_snapshot,
    serving_http,
    talk,
    until,
    working,
)
from tests.service.test_dev import free_port

UNPACKED = ROOT / "runs" / "observability"


def program(name: str) -> str:
    """Path of `prometheus` or `promtool`."""
    return debian.program(name, ["prometheus"], UNPACKED)


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """What is shipped, with a scrape of an address that is not there yet and a key file beside it."""
    folder = tmp_path / "prometheus"
    shutil.copytree(SHIPPED, folder)
    shutil.copy(ROOT / "tests" / "observability" / "alerts_test.yml", folder)
    (folder / "key").write_text("no key\n")
    configuration = yaml.safe_load((folder / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "200ms", "evaluation_interval": "200ms"}
    configuration["scrape_configs"][0]["authorization"]["credentials_file"] = str(folder / "key")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    return folder


def test_promtool_accepts_configuration_rules_and_the_alerts_unit_tests(shipped: Path) -> None:
    for command in (["check", "config", "prometheus.yml"], ["check", "rules", "alerts.yml"]):
        subprocess.run([program("promtool"), *command], cwd=shipped, check=True)
    subprocess.run([program("promtool"), "test", "rules", "alerts_test.yml"], cwd=shipped, check=True)


@pytest.fixture
def prometheus(shipped: Path, tmp_path: Path) -> Iterator[tuple[httpx.Client, Path]]:
    """A client of one that runs, and its folder."""
    address = f"127.0.0.1:{free_port()}"
    command = [program("prometheus"), "--config.file=prometheus.yml", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address={address}", "--web.enable-lifecycle"], cwd=shipped, stdout=log, stderr=log
        )
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=30) as client:
            until(lambda: "Server is ready to receive web requests" in (tmp_path / "log").read_text(), "Prometheus")
            yield client, shipped
    finally:
        process.terminate()
        process.wait()


def asked(client: httpx.Client, expression: str) -> list[dict[str, object]]:
    """The result of an expression now; it must be a valid one."""
    answer = client.get("/api/v1/query", params={"query": expression})
    assert answer.status_code == 200, answer.text
    result: list[dict[str, object]] = answer.json()["data"]["result"]
    return result


def test_all_of_it_has_values_and_alerts_fire_for_a_service_that_is_gone(
    prometheus: tuple[httpx.Client, Path], tmp_path: Path
) -> None:
    client, folder = prometheus
    with embedded.serving(tmp_path / "redis") as url:
        settings = make_settings(url, make_snapshot(tmp_path / "snapshot"), tmp_path / "service", auth="on")
        settings = learning_settings(settings, gate_min_ess=1.0)
        with syncredis.from_url(url) as redis, serving_http(settings) as api, working(settings):
            api.headers.update(bearer(add_key(redis, Keys(settings.key_prefix), "serve", "feedback")))
            (folder / "key").write_text(add_key(redis, Keys(settings.key_prefix), "metrics") + "\n")
            configuration = yaml.safe_load((folder / "prometheus.yml").read_text())
            target = str(api.base_url).removeprefix("http://").rstrip("/")
            configuration["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
            (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
            assert client.post("/-/reload").status_code == 200
            until(lambda: bool(asked(client, f'up{{instance="{target}"}} == 1')), "a scrape with the key")
            turn = 0

            def empty() -> list[str]:
                nonlocal turn
                talk(api, 20, start=20 * turn)
                api.get("/nowhere")
                turn += 1
                return [name for name, expression in panels().items() if not asked(client, expression)]

            until(lambda: set(empty()) <= MAY_BE_EMPTY, "values in every panel")
            firing = client.get("/api/v1/alerts").json()["data"]["alerts"]
            assert {a["labels"]["alertname"] for a in firing if a["state"] == "firing"} <= {"IalpDown"}, firing
        until(lambda: bool(asked(client, f'ALERTS{{alertname="IalpDown", instance="{target}"}}')), "the alert")
    assert len(client.get("/api/v1/rules").json()["data"]["groups"][0]["rules"]) == len(ALERTS)


# Nothing was refused and nothing rolled back.
MAY_BE_EMPTY = {"Refused by the gate A", "Roll-backs"}


def panels() -> dict[str, str]:
    """The dashboard's expressions with Grafana's variables filled in; short ranges, since the test is."""
    alerts = {rule["alert"] for rule in ALERTS}
    found = {name: expression for name, expression in EXPRESSIONS.items() if name not in alerts}
    for variable, value in {**VARIABLES, "[30m]": "[5s]", "[1m]": "[5s]"}.items():
        found = {name: expression.replace(variable, value) for name, expression in found.items()}
    return found
