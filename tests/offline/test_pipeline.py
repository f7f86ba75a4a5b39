"""The commands one after the other, with a scripted language model: data set, distil, pretrain, evaluate, serve."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from offline.__main__ import app
from offline.datasets import Dataset, Interactions, save_dataset
from offline.distil import DistilConfig
from offline.distil_command import run_stage
from offline.errors import OfflineError
from offline.judge import Budget
from offline.states import StateConfig
from service.policy.exact_policy import ExactPolicy
from service.policy.networks import ItemScorer, NetworkConfig
from service.policy.snapshot_files import load_catalogue
from service.policy.types import Response, pack_states
from service.policy.variants import ServingConfig
from simulator.__main__ import app as simulator
from simulator.experiments.runs.evaluate import held_out_preferences, open_policy, states_of
from simulator.world.environment import SessionBatch
from simulator.world.worlds import build_world
from tests.offline.fake_llm import MOVIES, FakeScorer, make_items

N_ITEMS, N_USERS = 30, 40


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def dataset() -> Dataset:
    """Even users like even items."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(N_USERS, dtype=np.int32), 10)
    item = np.concatenate([rng.choice(N_ITEMS, 10, replace=False) for _ in range(N_USERS)]).astype(np.int32)
    liked = user % 2 == item % 2
    interactions = Interactions(user, item, liked.astype(np.float32), liked, np.arange(len(user)), N_USERS)
    return Dataset("toy", MOVIES, make_items(N_ITEMS), interactions)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run up to and including `pretrain`."""
    folder = tmp_path_factory.mktemp("run")
    save_dataset(dataset(), folder / "dataset")
    config = DistilConfig(n_states=20, encoder="hashing", states=StateConfig(candidates=8))
    run_stage(dataset(), folder, FakeScorer(), Budget(), config, Console(quiet=True), {})
    result = CliRunner().invoke(app, ["pretrain", "--run", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder


def test_pretrain_leaves_a_snapshot_that_says_where_it_came_from(run: Path) -> None:
    snapshot, policy = open_policy(run / "snapshot")
    assert policy.n_items == N_ITEMS
    assert snapshot.manifest.lineage == {"dataset": "toy", "language_model": "fake"}
    assert snapshot.manifest.learner["name"] == "ialp"
    assert [item.text for item in load_catalogue(run / "snapshot").items] == [i.text for i in make_items(N_ITEMS)]
    manifest = json.loads((run / "pretrain" / "manifest.json").read_text())
    report, warnings = manifest["results"]["report"], manifest["results"]["warnings"]
    assert 0 < report["alignment_prior_share"] < 1  # thirty texts without words in common tell nothing of it
    assert snapshot.manifest.metrics["alignment_prior_share"] == report["alignment_prior_share"]
    # The fake likes numbers of one parity, of which texts tell a hashing encoder next to nothing.
    assert report["alignment_uses_personal"] == float(report["alignment_personal_low"] > 0)
    assert len(warnings) == (not report["alignment_uses_personal"]) + (report["alignment_texts_high"] < 0.2)
    # Its mere names are as likely as their last digits are high, and its prior falls with the number.
    n = np.arange(N_ITEMS)
    assert report["alignment_names"] == pytest.approx(np.corrcoef(-n, n % 10)[0, 1], abs=0.1)
    states = pack_states([()], 30)
    scores = policy.distributions(states, np.ones((1, N_ITEMS), bool)).pretrained[0]
    assert np.argsort(-scores).tolist() == n.tolist()  # a stranger gets the prior


def test_the_lines_tell_how_far_the_judge_can_be_trusted(run: Path) -> None:
    again = ["pretrain", "--run", str(run), "--overwrite", "--temperature", "0.3", "--seed", "1"]
    result = CliRunner().invoke(app, again, catch_exceptions=False)
    first, second, third, *warnings = result.stderr.splitlines()
    assert first.startswith(f"pretrain: {N_ITEMS} items, {N_ITEMS} of them judged, ")
    share = json.loads((run / "pretrain" / "manifest.json").read_text())["results"]["report"]["alignment_prior_share"]
    assert second.startswith(f"the item prior gets {share:.0%} of its weight: correlation with mere names -0.")
    assert third.startswith(("personal judgements correct", "personal judgements do not change"))
    assert all(line.startswith("warning: ") for line in warnings)
    snapshot, _ = open_policy(run / "snapshot")
    assert snapshot.manifest.network.temperature == 0.3
    assert snapshot.manifest.learner["network"]["temperature"] == 0.3 and snapshot.manifest.learner["seed"] == 1


def test_a_run_without_any_prior_is_told(tmp_path: Path) -> None:
    save_dataset(dataset(), tmp_path / "dataset")
    config = DistilConfig(n_states=2, encoder="hashing")
    run_stage(dataset(), tmp_path, FakeScorer(), Budget(max_judgements=0), config, Console(quiet=True), {})
    with pytest.raises(OfflineError, match="no item has a prior yet"):
        CliRunner().invoke(app, ["pretrain", "--run", str(tmp_path)], catch_exceptions=False)


def test_an_existing_snapshot_is_replaced_only_when_asked(run: Path) -> None:
    with pytest.raises(OfflineError, match="--overwrite"):
        CliRunner().invoke(app, ["pretrain", "--run", str(run)], catch_exceptions=False)


def test_evaluate_measures_against_random_and_popularity(run: Path) -> None:
    arguments = ["evaluate", "--run", str(run), "--sessions", "40"]
    result = CliRunner().invoke(simulator, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    results = json.loads((run / "evaluate" / "results.json").read_text())
    assert set(results["simulated"]) == {"random", "popularity", "pretrained", "oracle"}
    assert results["simulated"]["oracle"]["reward"] > results["simulated"]["random"]["reward"]
    assert 0 < results["held_out"]["auc_random"] < 1
    assert results["held_out"]["users"] > 0


def test_a_missing_stage_names_the_command_that_makes_it(tmp_path: Path) -> None:
    save_dataset(dataset(), tmp_path / "dataset")
    with pytest.raises(OfflineError, match="offline distil"):
        CliRunner().invoke(app, ["pretrain", "--run", str(tmp_path)], catch_exceptions=False)
    with pytest.raises(OfflineError, match="not found"):
        CliRunner().invoke(simulator, ["evaluate", "--run", str(tmp_path)], catch_exceptions=False)


def test_held_out_preferences_of_policies_that_know_and_that_do_not() -> None:
    data = dataset()
    assert data.interactions is not None
    parity = np.zeros((N_ITEMS, 4), np.float32)
    parity[np.arange(N_ITEMS), np.arange(N_ITEMS) % 2] = 1
    patient = NetworkConfig(dim=4, text_dim=4, horizon=0.0)  # tastes are measured, not boredom
    blind, knowing = (ItemScorer(patient, torch.from_numpy(parity)) for _ in range(2))
    with torch.no_grad():
        knowing.gain[0] = 5.0  # show what is like what was liked
    aucs = []
    for scorer in (blind, knowing):
        policy = ExactPolicy(scorer, scorer, scorer, ServingConfig())
        measured = held_out_preferences(policy, data.interactions, N_ITEMS, seed=0, n_history=2)
        aucs.append((measured.auc_random, measured.auc_matched))
    assert aucs[0] == pytest.approx((0.5, 0.5))
    assert aucs[1][0] > 0.7
    assert aucs[1][1] > 0.6


def test_a_simulated_session_reaches_the_policy_as_the_service_would_log_it() -> None:
    batch = SessionBatch(build_world(dataset()), np.random.default_rng(0))
    batch.reset(np.array([0, 1]))
    for first in (0, 5, 10):
        batch.show(np.array([range(first, first + 5)] * 2))
    states = states_of(batch, 30)
    for row in range(2):
        shown, responses = batch.shown[row].reshape(-1)[:15], batch.responses[row].reshape(-1)[:15]
        liked, ignored = shown[responses].tolist(), shown[~responses].tolist()[-30:]
        length = int(states.lengths[row])
        assert states.items[row, :length].tolist() == liked + ignored
        expected = [Response.POSITIVE] * len(liked) + [Response.IGNORED] * len(ignored)
        assert states.responses[row, :length].tolist() == expected
