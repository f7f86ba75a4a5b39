"""`python -m simulator experiment` on a small world: resumable, parallel, and blind to the truth before it starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from offline.artefacts import sha256_file
from offline.datasets import Scenario
from offline.scorers import ScorerConfig
from simulator.__main__ import main
from simulator.errors import SimulatorError
from simulator.experiments.runs import preparation
from simulator.experiments.runs.config import Experiments, read_experiments
from simulator.experiments.runs.method_kinds import method_kinds
from simulator.experiments.runs.preparation import Prepared
from simulator.experiments.runs.record import read_records
from simulator.experiments.seam.agent import Sessions, Setting
from simulator.world.kinds import WORLDS
from tests.offline.fake_llm import FakeScorer
from tests.simulator.experiment_examples import FAST_METHODS, LEARNING_METHODS, experiments_file, prepare

CONSOLE = Console(quiet=True)
Command = Callable[..., None]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    def run(config: Path, *options: str) -> None:
        folders = ["--work", tmp_path / "work", "--results", tmp_path / "results", "--data", tmp_path]
        arguments = ["experiment", "--config", config, *folders, *options]
        monkeypatch.setattr(sys, "argv", ["simulator", *map(str, arguments)])
        try:
            main()
        except SystemExit as stop:
            assert not stop.code, f"exit code {stop.code}"

    return run


def lines(results: Path) -> dict[tuple[str, int], str]:
    """Each record's line, without what differs between two runs of the same thing."""
    found = {}
    for line in (results / "toy.jsonl").read_text().splitlines():
        record = json.loads(line)
        record["metrics"].pop("cpu_seconds")
        found[record["method"], record["seed"]] = json.dumps(record, sort_keys=True)
    return found


def test_an_experiment_goes_on_where_it_was_cut_off(command: Command, tmp_path: Path) -> None:
    config = experiments_file(tmp_path / "experiments.toml", FAST_METHODS)
    prepare(tmp_path / "work")
    command(config, "--processes", "2")
    whole = lines(tmp_path / "results")
    assert set(whole) == {(m, s) for m in ("random", "popularity", "oracle") for s in (0, 1)}

    # A kill in the middle of a line, two runs before the end.
    path = tmp_path / "results" / "toy.jsonl"
    written = path.read_text().splitlines(keepends=True)
    path.write_text("".join(written[:-2]) + written[-2][:50])
    kept = {line: json.loads(line)["metrics"]["cpu_seconds"] for line in written[:-2]}
    command(config, "--processes", "1")
    assert lines(tmp_path / "results") == whole
    again = path.read_text().splitlines(keepends=True)
    assert again[: len(kept)] == list(kept)  # what was over was not played again

    command(config)
    assert path.read_text().splitlines(keepends=True) == again


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_an_experiment(how: signal.Signals, tmp_path: Path) -> None:
    config = experiments_file(tmp_path / "experiments.toml", FAST_METHODS)
    prepare(tmp_path / "work")
    folders = ["--work", tmp_path / "work", "--results", tmp_path / "results", "--data", tmp_path]
    options = ["--config", config, "--seeds", "1000", "--processes", "2", *folders]
    process = subprocess.Popen(
        [sys.executable, "-m", "simulator", "experiment", *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        assert any("toy random 0:" in line for line in process.stdout)
        # Ctrl-C reaches the whole group, a kill one process.
        (os.killpg if how is signal.SIGINT else os.kill)(process.pid, how)
        # The workers inherited the pipe: it ends only when the last of them has.
        said = process.stdout.read()
    assert process.returncode == (130 if how is signal.SIGINT else -how)
    assert "Traceback" not in said
    if how is signal.SIGINT:
        assert said.splitlines()[-1] == ("interrupted; runs that are over are kept; the same command plays the rest.")
    assert len(list(read_records(tmp_path / "results"))) < 1000


def test_records_tell_what_was_run(command: Command, tmp_path: Path) -> None:
    config = experiments_file(tmp_path / "experiments.toml", FAST_METHODS)
    prepare(tmp_path / "work")
    command(config, "--methods", "pop*,oracle", "--seeds", "1")
    records = {record.method: record for record in read_records(tmp_path / "results")}
    assert set(records) == {"popularity", "oracle"}
    popularity = records["popularity"]
    assert (popularity.environment, popularity.seed, popularity.sessions) == ("toy", 0, 200)
    assert records["oracle"].sessions == 100
    assert popularity.configuration["environment"]["rules"]["max_turn"] == 4
    assert popularity.configuration["protocol"] == {"sessions": 200, "concurrent": 50}
    assert set(popularity.code) == {"version", "commit", "sources"}
    assert len(popularity.curves["reward"]) == 2
    assert 0.5 < popularity.configuration["environment"]["held_out_auc"] <= 1


def test_worlds_share_what_is_prepared_and_say_which_they_are(command: Command, tmp_path: Path) -> None:
    worlds = "".join(f'[environments.toy_{w}]\nbase = "toy"\nworld = "{w}"\n' for w in ("calm", "more", "drift"))
    config = experiments_file(tmp_path / "experiments.toml", FAST_METHODS + worlds)
    prepare(tmp_path / "work")
    command(config, "--seeds", "1")
    records = {(r.environment, r.method): r for r in read_records(tmp_path / "results")}
    assert len(records) == 4 * 3
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["toy"]
    assert len(list((tmp_path / "work" / "toy").glob("users-*"))) == 1
    places = {place: records[place, "random"].configuration["environment"] for place, _ in records}
    assert "world" not in places["toy"] and "hazard" not in places["toy"]["rules"]
    for name in ("calm", "more", "drift"):
        place = places[f"toy_{name}"]
        assert (place["world"], place["base"], place["title"]) == (name, "toy", f"Toy, {WORLDS[name].title}")
        assert place["rules"]["max_turn"] == 4 and place["rules"]["hazard"] == 0.02
        assert {**places["toy"], "rules": {}} == {
            **{key: value for key, value in place.items() if key not in ("world", "base")},
            "title": "Toy",
            "rules": {},
        }
    calm, more = (records[f"toy_{name}", "oracle"].metrics["reward"] for name in ("calm", "more"))
    assert records["toy", "oracle"].metrics["reward"] < calm < more


def test_a_mistake_in_a_pattern_is_named(command: Command, tmp_path: Path) -> None:
    config = experiments_file(tmp_path / "experiments.toml", FAST_METHODS)
    with pytest.raises(AssertionError, match="exit code 2"):
        command(config, "--methods", "nothing*")


def test_a_damaged_result_file_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "toy.jsonl").write_text('{"environment": "toy"}\n')
    with pytest.raises(SimulatorError, match=r"toy\.jsonl:1"):
        list(read_records(tmp_path))


# -- nobody sees the truth ---------------------------------------------------------------------------------------------


def opened(config: Path, work: Path) -> tuple[Experiments, Prepared]:
    experiments = read_experiments(config)
    return experiments, Prepared("toy", experiments.environments["toy"], work, work)


def test_changing_the_truth_changes_nothing_before_the_first_interaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two worlds with the same texts and different users: judgements, policies and first slates are the same bits."""
    asked: list[FakeScorer] = []

    def open_fake(model: ScorerConfig, scenario: Scenario) -> FakeScorer:
        asked.append(FakeScorer())
        return asked[-1]

    monkeypatch.setattr(preparation, "open_scorer", open_fake)
    # Distilling embeds the texts itself; the toy's stand in for a language model's.
    monkeypatch.setattr("offline.distil_command.embed_items", lambda dataset, encoder: np.load(tmp_path / "texts.npy"))
    config = experiments_file(tmp_path / "experiments.toml", LEARNING_METHODS)
    slates: list[dict[str, list[list[int]]]] = []
    snapshots: list[dict[str, str]] = []
    worlds = []
    for truth in (1, 2):
        work = prepare(tmp_path / f"truth{truth}", truth)
        np.save(tmp_path / "texts.npy", np.load(work / "toy" / "embeddings.npy"))
        experiments, prepared = opened(config, work)
        worlds.append(prepared.world)
        priors = {name: prepared.prior(experiments, name, CONSOLE) for name in experiments.priors}
        snapshots.append(
            {f"{n}/{p.name}": sha256_file(p) for n, f in priors.items() for p in sorted(f.glob("*.safetensors"))}
        )
        slates.append(first_slates(experiments, prepared, priors))
    assert not np.array_equal(worlds[0].users.affinity, worlds[1].users.affinity)
    assert asked[0].asked == asked[1].asked and len(asked[0].asked) > 40
    assert snapshots[0] == snapshots[1] and len(snapshots[0]) >= 2
    assert slates[0] == slates[1] and set(slates[0]) == set(experiments.methods)


def first_slates(experiments: Experiments, prepared: Prepared, priors: dict[str, Path]) -> dict[str, list[list[int]]]:
    """What every method shows to ten strangers."""
    n, catalogue = 10, prepared.catalogue
    nothing = Sessions(
        np.zeros((n, 0, catalogue.slate_size), np.int64),
        np.zeros((n, 0, catalogue.slate_size), np.bool_),
        np.zeros((n, catalogue.n_items), np.bool_),
    )
    found = {}
    for name, spec in experiments.methods.items():
        artefacts = {"prior": priors[spec.prior]} if spec.prior is not None else {}
        agent = method_kinds()[spec.kind](Setting(catalogue, 5, experiments.options(name, "toy"), artefacts))
        found[name] = agent.act(nothing).items.tolist()
    return found
