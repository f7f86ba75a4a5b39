"""The declarative file: the one we ship holds together, and a mistake is named with its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from simulator.errors import SimulatorError
from simulator.experiments.runs.config import read_experiments
from simulator.experiments.seam.agent import Setting
from simulator.world.kinds import WORLDS
from tests.simulator.baseline_examples import KINDS, make_catalogue, make_toy_world
from tests.simulator.experiment_examples import FAST_METHODS, experiments_file

SHIPPED = read_experiments()
ONLINE = [name for name, m in SHIPPED.methods.items() if m.group != "ceiling" and m.prior is None and not m.logs]


@pytest.mark.parametrize("method", ONLINE)
@pytest.mark.parametrize("environment", SHIPPED.environments)
def test_methods_take_the_options_they_are_given(method: str, environment: str) -> None:
    spec = SHIPPED.methods[method]
    catalogue = make_catalogue(make_toy_world())
    options = SHIPPED.options(method, environment)
    if "dim" in options:
        options["dim"] = 3  # the toy's texts have no more
    KINDS[spec.kind](Setting(catalogue, 0, options))


def test_the_controls_are_in_the_file_that_we_ship() -> None:
    priors = {m.prior for m in SHIPPED.methods.values()}
    assert {"llm", "item", "shuffled", "text"} <= priors
    assert SHIPPED.priors["shuffled"].shuffled and SHIPPED.priors["shuffled"].judge == SHIPPED.priors["llm"].judge
    assert SHIPPED.priors["item"].personal_weight == 0
    assert SHIPPED.protocol.seeds >= 10 and SHIPPED.protocol.sessions == 10_000


def test_another_world_has_all_but_its_rules_from_its_base(tmp_path: Path) -> None:
    more = """
[environments.toy_more]
base = "toy"
world = "more"
[methods.x]
title = "X"
kind = "popularity"
group = "baseline"
worlds = false
tuned.toy = { variety = 1.0 }
environments = ["toy"]
"""
    found = read_experiments(experiments_file(tmp_path / "experiments.toml", FAST_METHODS + more))
    base, other = found.environments["toy"], found.environments["toy_more"]
    assert other == replace(base, title="Toy, more of the same", world="more", base="toy")
    assert [found.data_set(name) for name in ("toy", "toy_more")] == ["toy", "toy"]
    assert found.options("x", "toy_more") == found.options("x", "toy") == {"variety": 1.0}
    assert [(found.plays(m, "toy"), found.plays(m, "toy_more")) for m in ("random", "x")] == [
        (True, True),
        (True, False),
    ]


def test_every_data_set_that_we_ship_is_played_in_all_worlds() -> None:
    for data_set in ("lfm", "industry", "coat", "movielens"):
        kinds = [e.world for name, e in SHIPPED.environments.items() if SHIPPED.data_set(name) == data_set]
        assert sorted(kinds) == sorted(WORLDS)
    for method in (
        "random",
        "popularity",
        "linucb",
        "linear_ts",
        "boltzmann",
        "ialp_frozen",
        "ialp_ft",
        "ialp_ap",
        "oracle",
    ):
        assert all(SHIPPED.plays(method, environment) for environment in SHIPPED.environments)


MISTAKES = {
    "[methods.x]\ntitle = 'X'\nkind = 'nonsense'\ngroup = 'baseline'": "methods.x.kind: expected one of",
    "[methods.x]\ntitle = 'X'\nkind = 'random'\ngroup = 'baseline'\nprior = 'none'": "methods.x.prior: there is no",
    "[methods.x]\ntitle = 'X'\nkind = 'random'": "methods.x: group is missing",
    "[methods.x]\ntitel = 'X'\nkind = 'random'\ngroup = 'baseline'": "methods.x: 'titel' is unknown",
    "[methods.x]\ntitle = 'X'\nkind = 'random'\ngroup = 'baseline'\ntuned.mars = {}": "there is no environments.mars",
    "[priors.y]\ntitle = 'Y'\njudge = 'nobody'": "priors.y.judge: there is no judges.nobody",
    "[environments.z]\ntitle = 'Z'\nsource = 'mars'": "environments.z.source: expected one of",
    "[environments.z]\nbase = 'toy'\nworld = 'flat'": "environments.z.world: expected one of boredom, calm",
    "[environments.z]\nbase = 'mars'\nworld = 'calm'": "environments.z.base: expected an environment without a base",
    "[method.x]\ntitle = 'X'": "unknown section method",
    "[methods": "experiments.toml",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_place(mistake: str, tmp_path: Path) -> None:
    path = experiments_file(tmp_path / "experiments.toml", f"{FAST_METHODS}\n{mistake}")
    with pytest.raises(SimulatorError) as caught:
        read_experiments(path)
    assert MISTAKES[mistake] in str(caught.value) and str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SimulatorError, match=r"no\.toml"):
        read_experiments(tmp_path / "no.toml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lerner": "a2c"}, "'lerner' is unknown"),
        ({"learner": "sarsa"}, "one of 'boltzmann', 'a2c'"),
        ({"horizon": "long"}, "horizon"),
        ({"hyper_parameters": {"batch_size": "many"}}, "hyper_parameters"),
    ],
)
def test_a_wrong_option_of_a_learner_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(SimulatorError, match=message):
        KINDS["learned"](Setting(make_catalogue(make_toy_world()), 0, options))
