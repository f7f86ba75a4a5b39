"""What all baselines have in common: they learn, keep the rules, and depend on their seed alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from simulator.errors import SimulatorError
from simulator.experiments.runs.log_recorder import record_log
from simulator.experiments.runs.play import Played, play_agent
from tests.simulator.baseline_examples import KINDS, Watched, make_agent, make_catalogue, make_toy_world

WORLD = make_toy_world()
ONLINE: dict[str, dict[str, float]] = {
    "popularity": {},
    "linucb": {"dim": 3},
    "linear_ts": {"dim": 3},
    "sb3_a2c": {"dim": 3},
    "sb3_ppo": {"dim": 3, "learning_rate": 3e-3, "epochs": 2},
    "sb3_dqn": {"dim": 3, "exploration_sessions": 300, "gradient_steps": 2, "learning_rate": 1e-3},
}
FROZEN: dict[str, dict[str, float]] = {
    "text_similarity": {"dim": 3},
    "behaviour_cloning": {"dim": 3, "epochs": 8, "learning_rate": 5e-3},
    "sasrec": {"dim": 16, "epochs": 12, "learning_rate": 5e-3},
    "cql": {"dim": 3, "steps": 200},
}
QUICK: dict[str, dict[str, float]] = {"behaviour_cloning": {"epochs": 1}, "sasrec": {"epochs": 1}, "cql": {"steps": 10}}
ALL: dict[str, dict[str, float]] = {"random": {}, **ONLINE, **FROZEN}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.npz"
    record_log(WORLD, make_catalogue(WORLD), path, seed=7, n_sessions=600)
    return path


@pytest.fixture(scope="module")
def by_chance() -> Played:
    return play_agent(WORLD, make_agent("random", {}), seed=5, n_sessions=600)


@pytest.mark.parametrize("kind", [*ONLINE, *FROZEN])
def test_earns_more_than_chance(kind: str, log: Path, by_chance: Played) -> None:
    played = play_agent(
        WORLD, Watched(make_agent(kind, ALL[kind], log=log)), seed=5, n_sessions=1000 if kind in ONLINE else 600
    )
    # Texts alone know nothing of what most users like; what is learned does.
    margin = 1.05 if kind == "text_similarity" else 1.15
    assert played.reward[-300:].mean() > margin * by_chance.reward.mean()


@pytest.mark.parametrize("kind", ONLINE)
def test_learns_online(kind: str) -> None:
    played = play_agent(WORLD, make_agent(kind, ONLINE[kind]), seed=5, n_sessions=800)
    assert played.reward[-300:].mean() > played.reward[:100].mean()


@pytest.mark.parametrize("kind", ALL)
def test_the_seed_decides(kind: str, log: Path) -> None:
    def slates(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        watched = Watched(make_agent(kind, ALL[kind] | QUICK.get(kind, {}), seed=seed, log=log))
        play_agent(WORLD, watched, seed=5, n_sessions=60, concurrent=30)
        return np.concatenate(watched.slates)

    first = slates(3)
    # Chance that all share must not come in: somebody else draws between two runs.
    np.random.random(100), torch.rand(100)
    again, other = slates(3), slates(4)
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or (first != other).any()


@pytest.mark.parametrize("kind", ["behaviour_cloning", "sasrec", "cql"])
def test_logged_methods_stand_still(kind: str, log: Path) -> None:
    agent = make_agent(kind, FROZEN[kind] | QUICK[kind] | {"temperature": 0.0}, log=log)
    first, second = Watched(agent), Watched(agent)
    for watched in (first, second):
        play_agent(WORLD, watched, seed=5, n_sessions=50)
    np.testing.assert_array_equal(np.concatenate(first.slates), np.concatenate(second.slates))


@pytest.mark.parametrize("kind", ALL)
def test_an_unknown_option_is_named(kind: str) -> None:
    with pytest.raises(SimulatorError, match=f"{kind}: 'colour' is unknown"):
        make_agent(kind, {"colour": 1})


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [("popularity", "explore", "greedy"), ("linucb", "dim", 2.5), ("sb3_ppo", "epochs", True), ("sasrec", "dim", "8")],
)
def test_a_value_of_the_wrong_type_is_named(kind: str, option: str, value: object) -> None:
    with pytest.raises(SimulatorError, match=f"{kind}: {option} = "):
        make_agent(kind, {option: value})


def test_a_whole_number_does_for_a_float() -> None:
    make_agent("popularity", {"power": 2})


def test_every_kind_is_tested() -> None:
    assert set(ALL) <= set(KINDS)
