"""What Dockerfile and compose file promise of every container of ours; `make container-test` runs them for real."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if "build" in service}


def stages() -> dict[str, tuple[str, str]]:
    """Parent and text of each stage of the Dockerfile."""
    found = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    heads = [text.split("\n", 1) for text in found]
    return {head.split(" AS ")[1]: (head.split(" AS ")[0], text) for head, text in heads}


def test_these_services_are_ours() -> None:
    assert set(OURS) == {"api", "keys", "worker", "pretrain", "simulator", "metrics-key"}
    assert set(COMPOSE["services"]) - set(OURS) == {"redis", "prometheus", "grafana"}


@pytest.mark.parametrize("name", list(OURS))
def test_a_container_can_do_no_more_than_it_must(name: str) -> None:
    service = OURS[name]
    assert service["read_only"] is True
    assert "/tmp" in service["tmpfs"]  # noqa: S108 - inside of the container
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert 0 < service["pids_limit"] <= 512
    assert re.fullmatch(r"\$\{\w+:-\d+g\}", service["mem_limit"])
    assert not service.keys() & {"privileged", "pid", "ipc", "network_mode", "devices", "user", "userns_mode"}
    assert not any("docker.sock" in volume or volume.startswith((".", "/")) for volume in service["volumes"])
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_what_observes_can_do_no_more_either(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["profiles"] == ["observability"]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"] and "mem_limit" in service
    assert all(volume.endswith(":ro") for volume in service["volumes"] if volume.startswith("./"))
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert re.fullmatch(r"\$\{\w+_IMAGE:-\S+:v?\d+\.\d+\.\d+\}", service["image"])


@pytest.mark.parametrize("name", list(COMPOSE["services"]))
def test_commands_and_health_checks_need_no_shell(name: str) -> None:
    service = COMPOSE["services"][name]
    check = service.get("healthcheck", {}).get("test", ["CMD"])
    assert isinstance(check, list) and check[0] == "CMD" and "curl" not in check
    assert not any(" " in part for part in check)  # podman's Docker API would cut them
    assert name not in OURS or isinstance(service["command"], list)


def test_the_health_check_is_python_that_asks_readyz() -> None:
    program = OURS["api"]["healthcheck"]["test"][-1]
    compile(program, "healthcheck", "eval")
    assert "/readyz" in program


@pytest.mark.parametrize("target", sorted({service["build"]["target"] for service in OURS.values()}))
def test_an_image_runs_as_nobody_in_particular(target: str) -> None:
    parent, text = stages()[target]
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE) == ["10001"]
    assert text.index("USER") > max(text.rfind("RUN"), text.rfind("COPY"))
    assert re.search(r'^CMD \["python"', text, re.MULTILINE)
    assert "useradd --uid 10001" in stages()[parent][1]


def test_bases_can_be_pinned_by_digest() -> None:
    bases = [parent for parent, _ in stages().values() if parent not in stages()]
    assert set(bases) == {"${PYTHON_IMAGE}"}
    assert re.search(r"^ARG PYTHON_IMAGE=\S+:3\.11-\S+$", DOCKERFILE, re.MULTILINE)
    assert all(s["build"]["args"]["PYTHON_IMAGE"].startswith("${PYTHON_IMAGE:-") for s in OURS.values())
    assert COMPOSE["services"]["redis"]["image"].startswith("${REDIS_IMAGE:-")


def test_nothing_is_fetched_by_the_images_but_packages() -> None:
    assert not re.search(r"^ADD |curl|wget|git clone|--trusted-host|:latest", DOCKERFILE, re.MULTILINE)


def test_no_secret_stands_in_either_file() -> None:
    for text in (DOCKERFILE, (ROOT / "docker-compose.yml").read_text()):
        assert not re.search(r"(?i)(password|secret|token|api_key)\s*[:=]\s*[^\s$]", text)
