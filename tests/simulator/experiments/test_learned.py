"""Our learners as methods of an experiment: the production classes, driven in batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from simulator.errors import SimulatorError
from simulator.experiments.methods.learned import LearnedAgent
from simulator.experiments.runs.config import read_experiments
from simulator.experiments.runs.log_recorder import record_log
from simulator.experiments.runs.play import play_agent
from simulator.experiments.runs.preparation import Prepared
from simulator.experiments.seam.agent import Agent, Setting
from tests.simulator.baseline_examples import Watched, make_agent, make_catalogue, make_toy_world
from tests.simulator.experiment_examples import LEARNING_METHODS, experiments_file, prepare

WORLD = make_toy_world()
CATALOGUE = make_catalogue(WORLD)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("learned")
    experiments = read_experiments(experiments_file(folder / "experiments.toml", LEARNING_METHODS))
    return Prepared("toy", experiments.environments["toy"], folder, prepare(folder / "work"))


@pytest.fixture(scope="module")
def prior(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = experiments_file(tmp_path_factory.mktemp("prior") / "experiments.toml", LEARNING_METHODS)
    return prepared.prior(read_experiments(path), "text", Console(quiet=True))


def learned(prepared: Prepared, prior: Path, **options: object) -> LearnedAgent:
    return LearnedAgent(Setting(prepared.catalogue, 4, options, {"prior": prior}))


@pytest.mark.slow
@pytest.mark.parametrize(("learner", "sessions"), [("boltzmann", 400), ("a2c", 2500)])
def test_learns_from_scratch(learner: str, sessions: int) -> None:
    agent: Agent = LearnedAgent(Setting(CATALOGUE, 1, {"learner": learner}))
    played = play_agent(WORLD, Watched(agent), seed=5, n_sessions=sessions)
    by_chance = play_agent(WORLD, make_agent("random", {}), seed=5, n_sessions=sessions)
    assert played.reward[-200:].mean() > 1.15 * by_chance.reward[-200:].mean()


def test_boltzmann_keeps_up_with_a_bandit_on_texts_from_the_start() -> None:
    ours = play_agent(WORLD, LearnedAgent(Setting(CATALOGUE, 1)), seed=6, n_sessions=600)
    bandit = play_agent(WORLD, make_agent("linear_ts", {"dim": 3}), seed=6, n_sessions=600)
    assert ours.reward.mean() > 0.97 * bandit.reward.mean()


def test_frozen_stays_as_it_was_pre_trained(prepared: Prepared, prior: Path) -> None:
    agent = learned(prepared, prior, variant="frozen")
    before = {name: t.clone() for name, t in agent._learner.actor.state_dict().items()}
    play_agent(prepared.world, agent, seed=1, n_sessions=100)
    after = agent._learner.actor.state_dict()
    assert all((after[name] == before[name]).all() for name in before)


@pytest.mark.slow
def test_the_adaptive_mixture_starts_from_the_pre_trained_policy_and_ends_with_the_learned_one(
    prepared: Prepared, prior: Path
) -> None:
    frozen = learned(prepared, prior, variant="frozen")
    adaptive = learned(prepared, prior, variant="ap", mixture="adaptive")
    first = [play_agent(prepared.world, agent, seed=2, n_sessions=100).reward.mean() for agent in (frozen, adaptive)]
    assert first[1] > 0.8 * first[0]
    later = [
        play_agent(prepared.world, agent, seed=3, n_sessions=1000).reward[-500:].mean() for agent in (frozen, adaptive)
    ]
    assert later[1] > 1.05 * later[0]
    assert adaptive.diagnostics()["mixture_weight_last"] > 0.5


def test_every_turn_is_learned_from_with_its_place_in_the_session(prepared: Prepared, prior: Path) -> None:
    agent = learned(prepared, prior, variant="ft")
    played = play_agent(prepared.world, agent, seed=7, n_sessions=200)
    transitions = agent._replay.latest(10_000)
    assert len(transitions.discount) == played.length.sum()
    ends = transitions.turn[transitions.discount == 0]
    assert sorted((ends + 1).tolist()) == sorted(played.length.tolist())


def test_the_seed_decides(prepared: Prepared, prior: Path) -> None:
    def rewards(seed: int) -> list[float]:
        agent = LearnedAgent(Setting(prepared.catalogue, seed, {"variant": "ap"}, {"prior": prior}))
        return list(play_agent(prepared.world, agent, seed=8, n_sessions=150).reward)

    assert rewards(1) == rewards(1) != rewards(2)


def test_propensities_are_those_of_what_was_shown(prepared: Prepared, prior: Path) -> None:
    agent = learned(prepared, prior, variant="ap", mixture="fixed")
    play_agent(prepared.world, agent, seed=9, n_sessions=100)
    batch = agent._replay.latest(1000)
    assert (batch.propensities > 0).all() and (batch.propensities <= 1).all()
    assert np.isfinite(batch.propensities.log().numpy()).all()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "gain"), [("slates", 1.05), ("likes", 1.02)])
def test_who_has_read_a_log_starts_ahead(kind: str, gain: float, tmp_path: Path) -> None:
    path = tmp_path / "log.npz"
    record_log(WORLD, CATALOGUE, path, seed=9, n_sessions=400)
    warm = LearnedAgent(Setting(CATALOGUE, 1, {"log": kind}, {"log": path}))
    cold = LearnedAgent(Setting(CATALOGUE, 1))
    first = [play_agent(WORLD, agent, seed=6, n_sessions=100).reward.mean() for agent in (cold, warm)]
    assert first[1] > gain * first[0]
    with pytest.raises(SimulatorError, match="a2c needs propensities"):
        LearnedAgent(Setting(CATALOGUE, 1, {"learner": "a2c", "log": kind}, {"log": path}))
