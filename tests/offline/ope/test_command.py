"""`python -m offline evaluate --log`: results, manifest, table, and one-line refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from offline.__main__ import app
from offline.artefacts import read_manifest, sha256_file
from offline.errors import OfflineError
from offline.ope.feedback import load_bandit_feedback
from offline.ope.log import Log
from tests.offline.ope_examples import write_log
from tests.service.service_examples import make_snapshot


def invoke(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def path(log: Log, tmp_path: Path) -> Path:
    return write_log(log, tmp_path / "log.parquet")


def test_results_manifest_and_table(path: Path, target_folder: Path, tmp_path: Path) -> None:
    feedback = tmp_path / "feedback.npz"
    arguments = ("--log", path, "--snapshot", target_folder, "--bootstrap", "50", "--obp-out", feedback)
    output = invoke(*arguments)
    for word in ("IPS", "SNIPS", "DR", "switch-DR", "logged policies", "bootstrap", "effective sample size"):
        assert word in output
    folder = path.parent / "off_policy"
    results = json.loads((folder / "results.json").read_text())
    assert set(results["per_slot"]) == {"logged", "dm", "ips", "snips", "dr", "switch_dr"}
    assert set(results["per_slate"]) == {"logged", "ips", "snips", "rips"}
    for rows in (results["per_slot"], results["per_slate"]):
        for row in rows.values():
            assert row["low"] <= row["value"] <= row["high"]
            assert row["bootstrap_low"] <= row["bootstrap_high"]
    assert results["target"] == {"version": 1, "arm": "adaptive"}
    assert results["counts"]["slates"] == results["counts"]["logged"] == 900
    assert results["diagnostics"]["switch_tau"] == pytest.approx(math.sqrt(results["counts"]["slots"]))
    manifest = read_manifest(folder, "evaluate")
    assert manifest["inputs"] == {
        "log": sha256_file(path),
        "snapshot/manifest.json": sha256_file(target_folder / "manifest.json"),
    }
    assert manifest["config"]["bootstrap"] == 50
    assert manifest["files"] == {"results.json": sha256_file(folder / "results.json")}
    assert load_bandit_feedback(feedback)["n_rounds"] == results["counts"]["slots"]
    invoke(*arguments, "--out", tmp_path / "again")
    assert (tmp_path / "again" / "results.json").read_bytes() == (folder / "results.json").read_bytes()


def test_options_reach_the_estimates(path: Path, target_folder: Path) -> None:
    invoke(
        "--log", path, "--snapshot", target_folder, "--arm", "control", "--logged-arm", "control", "--switch-tau", "0"
    )
    results = json.loads((path.parent / "off_policy" / "results.json").read_text())
    assert results["target"]["arm"] == "control"
    assert results["counts"]["other_arm"] > 0
    assert results["per_slot"]["switch_dr"]["value"] == results["per_slot"]["dm"]["value"]
    assert results["per_slot"]["ips"]["bootstrap_low"] is None


def test_mistakes_are_named(path: Path, target_folder: Path, tmp_path: Path) -> None:
    for arguments, said in (
        (("--log", path, "--snapshot", tmp_path / "none"), "none/manifest.json: not found"),
        (("--log", tmp_path / "none", "--snapshot", target_folder), "none: not found"),
        (("--log", path, "--snapshot", target_folder, "--items", path), "log.parquet: Parquet, but not .* items"),
    ):
        with pytest.raises(OfflineError, match=said):
            invoke(*arguments)


def test_a_snapshot_without_its_catalogue_needs_the_items(path: Path, tmp_path: Path) -> None:
    folder = make_snapshot(tmp_path / "bare")
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("items.jsonl", "embeddings.safetensors"):
        (folder / name).unlink()
        del manifest["files"][name]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(OfflineError, match=r"carries no text embeddings; .*--items"):
        invoke("--log", path, "--snapshot", folder)
