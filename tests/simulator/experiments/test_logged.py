"""Logs, and the losses of what is learned from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from simulator.errors import SimulatorError
from simulator.experiments.methods.cql import cql_loss, double_q_targets
from simulator.experiments.methods.logged import cloning_loss, transitions
from simulator.experiments.methods.sasrec import SASRec, SASRecConfig, sequences
from simulator.experiments.runs.log_recorder import record_log
from simulator.experiments.seam.agent import Sessions
from simulator.experiments.seam.logs import Log, read_log
from simulator.world.environment import EnvironmentConfig
from tests.simulator.baseline_examples import make_agent, make_catalogue
from tests.simulator.world_examples import make_world


@pytest.fixture(scope="module")
def log_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A strict world, so that some sessions end early.
    world = make_world(EnvironmentConfig(slate_size=3, leave_quantile=0.2), n_users=40)
    path = tmp_path_factory.mktemp("log") / "log.npz"
    record_log(world, make_catalogue(world), path, seed=7, n_sessions=150)
    return path


def test_a_log_holds_whole_sessions_and_nothing_else(log_path: Path) -> None:
    log = read_log(log_path, make_catalogue(make_world()))
    assert log.shown.shape == log.responses.shape == (150, 10, 3) and set(log.lengths) - {10}
    reached = np.arange(10) < log.lengths[:, None]
    np.testing.assert_array_equal(reached, (log.shown >= 0).all(axis=2))
    assert not log.responses[~reached].any() and log.responses.any()
    with np.load(log_path) as arrays:
        assert set(arrays) == {"shown", "responses", "lengths"}


def test_the_same_seed_records_the_same_log(log_path: Path, tmp_path: Path) -> None:
    world = make_world(EnvironmentConfig(slate_size=3, leave_quantile=0.2), n_users=40)
    for seed in (7, 8):
        record_log(world, make_catalogue(world), tmp_path / f"{seed}.npz", seed=seed, n_sessions=150)
    assert (tmp_path / "7.npz").read_bytes() == log_path.read_bytes() != (tmp_path / "8.npz").read_bytes()


def test_what_is_not_a_log_is_refused(log_path: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no log")
    with pytest.raises(SimulatorError, match="not a log of sessions"):
        read_log(tmp_path / "text", make_catalogue(make_world()))
    with pytest.raises(SimulatorError, match="not a log of sessions"):
        read_log(tmp_path / "missing", make_catalogue(make_world()))
    with pytest.raises(SimulatorError, match="not a log of 'toy'"):
        read_log(log_path, make_catalogue(make_world(n_items=20)))
    with pytest.raises(SimulatorError, match="artefact 'log' is missing"):
        make_agent("sasrec", {})


def _tiny_log() -> Log:
    shown = np.array([[[1, 2], [3, 4], [-1, -1]], [[5, 0], [-1, -1], [-1, -1]]])
    responses = np.array([[[True, False], [True, True], [False, False]], [[False, False]] * 3])
    return Log(shown, responses, np.array([2, 1]))


def test_transitions_know_the_state_before_and_after() -> None:
    data = transitions(_tiny_log(), n_items=6)
    assert data.actions.tolist() == [[1, 2], [5, 0], [3, 4]]
    assert data.rewards.tolist() == [[1, 0], [0, 0], [1, 1]]
    assert data.ended.tolist() == [False, True, True]
    assert data.states.lengths.tolist() == [0, 0, 2]
    assert data.next_states.lengths.tolist() == [2, 2, 4]
    assert data.next_states.items[2, :4].tolist() == [1, 3, 4, 2]  # liked, then ignored
    assert data.next_seen[2].tolist() == [False, True, True, True, True, False]


def test_the_cloning_loss_is_of_positive_items_alone() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    loss = cloning_loss(logits, torch.tensor([[2, 0], [1, -1]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    probabilities = torch.softmax(logits, 1)
    assert loss.item() == pytest.approx(-(probabilities[0, 2].log() + probabilities[1, 1].log()).item() / 2)


def test_the_cql_loss_by_hand() -> None:
    q = torch.tensor([[1.0, 2.0, 0.5]])
    loss = cql_loss(q, torch.tensor([[1, -1]]), torch.tensor([[1.5, 9.0]]), alpha=0.3)
    gap = np.log(np.exp(1) + np.exp(2) + np.exp(0.5)) - 2
    assert loss.item() == pytest.approx(0.5 * 0.25 + 0.3 * gap)


def test_cql_targets_choose_by_one_network_and_value_by_the_other() -> None:
    targets = double_q_targets(
        rewards=torch.tensor([[1.0, 0.0], [1.0, 0.0]]),
        ended=torch.tensor([False, True]),
        next_q=torch.tensor([[5.0, 4.0, 3.0]] * 2),
        next_q_target=torch.tensor([[10.0, 20.0, 30.0]] * 2),
        next_seen=torch.tensor([[True, False, False]] * 2),
        gamma=0.9,
    )
    # The best unseen item by the first network is item 1, worth 20 by the second.
    torch.testing.assert_close(targets, torch.tensor([[19.0, 18.0], [1.0, 0.0]]))


def test_sasrec_does_not_look_ahead() -> None:
    torch.manual_seed(0)
    network = SASRec(10, SASRecConfig(dim=8, max_liked=5)).eval()
    liked = torch.tensor([[1, 2, 3, 4]])
    changed = torch.tensor([[1, 2, 9, 0]])
    first, second = network(liked), network(changed)
    torch.testing.assert_close(first[:, :3], second[:, :3])
    assert not torch.allclose(first[:, 3], second[:, 3])


def test_sasrec_predicts_what_follows() -> None:
    log = _tiny_log()
    liked, targets = sequences(log, max_liked=20)
    assert liked.tolist() == [[1, 3, 4], [0, 0, 0]]
    assert targets.tolist() == [[1, 3, 4], [-100, -100, -100]]


def test_sasrec_learns_an_order(tmp_path: Path) -> None:
    """Users who like item i like item i + 1 next; the strongest logit after i must be i + 1."""
    n, turns = 300, 10
    start = np.random.default_rng(0).integers(40, size=(n, 1))
    shown = np.full((n, turns, 3), -1)
    shown[:, :, 0] = start + np.arange(turns)
    file = tmp_path / "log.npz"
    np.savez(file, shown=shown, responses=shown >= 0, lengths=np.full(n, turns))
    agent = make_agent(
        "sasrec", {"dim": 32, "temperature": 0.0, "dropout": 0.0, "epochs": 15, "learning_rate": 5e-3}, log=file
    )
    seen = np.zeros((2, 60), np.bool_)
    sessions = Sessions(shown[[0, 1], :4], shown[[0, 1], :4] >= 0, seen)
    np.testing.assert_array_equal(agent.act(sessions).items[:, 0], shown[[0, 1], 4, 0])


def test_a_split_keeps_every_session_once() -> None:
    log = Log(np.arange(30).reshape(10, 1, 3), np.zeros((10, 1, 3), np.bool_), np.ones(10, np.int64))
    train, held_out = log.split(0.2, np.random.default_rng(0))
    assert len(train.lengths) == 8 and len(held_out.lengths) == 2
    assert sorted(np.concatenate([train.shown, held_out.shown]).ravel().tolist()) == list(range(30))
