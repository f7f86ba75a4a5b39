"""`python -m simulator tune`: every method has the same budget, and what earned most is what the experiments use."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simulator.__main__ import main
from simulator.errors import SimulatorError
from simulator.experiments.analysis.results import ENVIRONMENTS
from simulator.experiments.commands.tune import tuning_page
from simulator.experiments.runs.config import Protocol, read_experiments
from simulator.experiments.runs.record import Record, read_records
from simulator.experiments.runs.tuning import Options, Tuning, candidates, read_tuning, tried, winners
from simulator.experiments.seam.agent import Setting
from tests.simulator.baseline_examples import KINDS, make_catalogue, make_toy_world
from tests.simulator.experiment_examples import FAST_METHODS, experiments_file, prepare
from tests.simulator.record_examples import record

SHIPPED = read_experiments()
TUNING = read_tuning(SHIPPED)
RESULTS = Path(__file__).parents[3] / "docs" / "results" / "tuning"
STARTS_WITH_NOTHING = [name for name in TUNING.settings if not SHIPPED.methods[name].logs]
SMALL = """
[protocol]
sessions = 1_000
seeds = 2
first_seed = 100
concurrent = 100
[settings]
popularity = [{}, { variety = 0.0 }]
text_similarity = [{}, { temperature = 0.0 }]
"""
SIMILARITY = """
[methods.text_similarity]
title = "Texts"
kind = "text_similarity"
group = "baseline"
"""


def test_what_is_used_is_what_earned_most() -> None:
    found = tried(SHIPPED, TUNING, read_records(RESULTS))
    chosen = winners(SHIPPED, TUNING, found)
    in_one_world = {method for method in TUNING.settings if not SHIPPED.methods[method].worlds}
    assert set(chosen) >= {(method, environment) for method in in_one_world for environment in ENVIRONMENTS}
    assert {(one.method, one.environment) for one in found} >= {(m, e) for m in TUNING.settings for e in ENVIRONMENTS}
    for (method, environment), setting in chosen.items():
        spec = SHIPPED.methods[method]
        assert SHIPPED.options(method, environment) == {**spec.options, **setting}, (method, environment)


def test_no_method_has_options_that_were_not_tuned() -> None:
    assert all(name in TUNING.settings for name, spec in SHIPPED.methods.items() if spec.tuned)


@pytest.mark.parametrize("method", STARTS_WITH_NOTHING)
def test_methods_take_every_setting(method: str) -> None:
    for setting in TUNING.settings[method]:
        options: dict[str, Any] = {**SHIPPED.methods[method].options, **setting}
        if "dim" in options:
            options["dim"] = 3  # the toy's texts have no more
        KINDS[SHIPPED.methods[method].kind](Setting(make_catalogue(make_toy_world()), 0, options))


WORLDS = ("calm", "more", "drift")


def played(tuning: Tuning, rewards: dict[str, dict[str, list[float]]]) -> list[Record]:
    """A record of each setting and seed; a setting earns the same with every seed and in every world."""
    out = []
    for name, spec in candidates(SHIPPED, tuning).methods.items():
        method, _, place = name.rpartition(".")
        for environment in [f"{base}{world}" for base in ("lfm", "coat") for world in ("", *(f"_{w}" for w in WORLDS))]:
            for seed in (100, 101):
                of_world = rewards[method].get(environment) or rewards[method][environment.partition("_")[0]]
                one = record(name, seed, environment, sessions=1000, reward=of_world[int(place)])
                changed = {**one.configuration, "method": {**one.configuration["method"], "options": spec.options}}
                out.append(replace(one, configuration=changed))
    return out


def test_the_best_by_environment_or_one_for_all() -> None:
    settings: tuple[Options, ...] = ({}, {"variety": 1.0}, {"variety": 2.0})
    protocol = Protocol(sessions=1000, seeds=2, first_seed=100)
    tuning = Tuning(protocol, {"popularity": settings, "linucb": ({}, {"dim": 8}, {"dim": 9})}, ("popularity",))
    # Relative to the first: 1, 1.5, 1 in one environment, and 1, 0.9, 1.2 in the other; on average 1, 1.2, 1.1.
    rewards = {
        "popularity": {"lfm": [2.0, 3.0, 2.0], "coat": [10.0, 9.0, 12.0]},
        "linucb": {"lfm": [5.0, 5.0, 4.0], "coat": [1.0, 1.0, 2.0]},
    }
    records = played(tuning, rewards)
    assert winners(SHIPPED, tuning, tried(SHIPPED, tuning, records)) == {
        ("popularity", "lfm"): {"variety": 1.0},
        ("popularity", "coat"): {"variety": 1.0},
        ("linucb", "lfm"): {},
        ("linucb", "coat"): {"dim": 9},
    }
    # A method of which something is missing is not chosen from, nor are seeds counted that were not asked for.
    other_seed = [replace(one, seed=7) for one in records[-2:]]
    found = winners(SHIPPED, tuning, tried(SHIPPED, tuning, [*records[:-1], *other_seed]))
    assert ("linucb", "coat") not in found and ("linucb", "lfm") in found


def test_a_setting_is_chosen_on_the_mean_of_worlds_and_never_on_some_of_them() -> None:
    protocol = Protocol(sessions=1000, seeds=2, first_seed=100)
    tuning = Tuning(protocol, {"linucb": ({}, {"dim": 8}, {"dim": 9})})
    # The second is far ahead in one world and behind in three; the third a little ahead in each.
    rewards = {"linucb": {"lfm": [2.0, 3.0, 2.2], "coat": [1.0, 1.0, 1.0]}}
    rewards["linucb"] |= {f"lfm_{world}": [4.0, 3.0, 4.4] for world in WORLDS}
    records = played(tuning, rewards)
    chosen = winners(SHIPPED, tuning, tried(SHIPPED, tuning, records))
    assert chosen["linucb", "lfm"] == {"dim": 9}
    page = tuning_page(SHIPPED, tuning, records)
    assert '| `{"dim": 9}` | **2.200** | **4.400** | **4.400** | **4.400** | **+10.0%** |' in page
    assert "Not chosen yet" not in page
    without = [one for one in records if one.environment != "lfm_drift"]
    chosen = winners(SHIPPED, tuning, tried(SHIPPED, tuning, without))
    assert ("linucb", "lfm") not in chosen and ("linucb", "coat") in chosen
    page = tuning_page(SHIPPED, tuning, without)
    assert (
        "**Not chosen yet**, because other worlds are missing: `linucb` in LFM." in page and "| 2.200 | 4.400 |" in page
    )


MISTAKES = {
    "linucb = [{}]": "as many as any other",
    "nobody = [{}, {}]": "settings.nobody: expected settings of one of",
    "[protocol.x]": "protocol: 'x' is unknown",
    "linucb = 3": "settings = {",
    "linucb = [{}, {}]": "no setting twice",
    "linucb = [{ dim = 8 }, {}]": "expected {} first",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(mistake: str, tmp_path: Path) -> None:
    path = tmp_path / "tuning.toml"
    path.write_text(SMALL.replace("text_similarity = [{}, { temperature = 0.0 }]", mistake))
    with pytest.raises(SimulatorError) as caught:
        read_tuning(SHIPPED, path)
    assert MISTAKES[mistake] in str(caught.value) and str(path) in str(caught.value)


def test_seeds_that_are_reported_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tuning.toml"
    path.write_text(SMALL.replace("first_seed = 100", "first_seed = 9"))
    with pytest.raises(SimulatorError, match=r"seeds \[9\] are reported"):
        read_tuning(SHIPPED, path)


def test_the_command_plays_what_is_missing_and_writes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = experiments_file(tmp_path / "experiments.toml", FAST_METHODS + SIMILARITY)
    settings = tmp_path / "tuning.toml"
    settings.write_text(SMALL)
    prepare(tmp_path / "work")
    options = {
        "config": config,
        "settings": settings,
        "work": tmp_path / "work",
        "data": tmp_path,
        "results": tmp_path / "results",
        "out": tmp_path / "tuning.md",
        "environments": "toy",
    }
    arguments = [str(word) for name, value in options.items() for word in (f"--{name}", value)]

    def tune(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", ["simulator", "tune", *arguments, *more])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
        return (tmp_path / "tuning.md").read_text()

    page = tune("--methods", "text_similarity")
    assert "(`text_similarity`)" in page and "(`popularity`)" not in page
    page = tune()
    records = (tmp_path / "results" / "toy.jsonl").read_bytes()
    assert len(records.splitlines()) == 8
    assert "(`text_similarity`)" in page and '`{"variety": 0.0}`' in page and page.count("**") == 4
    assert tune() == page and (tmp_path / "results" / "toy.jsonl").read_bytes() == records
