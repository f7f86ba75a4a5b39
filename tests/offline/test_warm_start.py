"""A start from logs: likes are learned before anybody comes, old ones by less, and the learner knows how sure it is."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from offline.__main__ import app
from offline.datasets import Dataset, Interactions, save_dataset
from offline.errors import OfflineError
from offline.impressions import Impressions
from offline.logs import Histories, likes_of, logs_of
from offline.pretrain_command import learn_logs, make_snapshot
from offline.warm_start import BLOCK, WarmStart, auc, warm_start
from service.policy.networks import ItemScorer
from service.policy.snapshot import Snapshot
from service.policy.snapshot_files import load_snapshot, save_snapshot
from service.policy.types import Interaction, Response, pack_states
from service.policy.variants import Variant
from service.settings import Settings
from service.worker.learning import Learning
from tests.offline.fake_llm import MOVIES, make_items
from tests.offline.pretrain_examples import CONFIG, N_ITEMS, NOTHING, embeddings, made

DAY_S = 86_400
SECRET = 4  # kinds of users, of which no text tells


def interactions(n_users: int = 150, per_user: int = 10, seed: int = 0) -> Interactions:
    """Users of kind c like items whose number is c modulo SECRET; one like a user and day, everyone at once."""
    rng = np.random.default_rng(seed)
    users = np.tile(np.arange(n_users, dtype=np.int32), per_user)
    of_kind = [rng.permutation(np.arange(u % SECRET, N_ITEMS, SECRET))[:per_user] for u in range(n_users)]
    items = np.array(of_kind).T.ravel().astype(np.int32)
    days = np.repeat(np.arange(per_user), n_users)
    ones = np.ones(len(users))
    return Interactions(users, items, ones.astype(np.float32), ones.astype(bool), days * DAY_S, n_users)


def scores(network: ItemScorer, *histories: list[int]) -> np.ndarray:
    states = pack_states([tuple(Interaction(i, Response.POSITIVE) for i in h) for h in histories], 30)
    with torch.no_grad():
        return network.scores(states, network.table()).numpy()


@pytest.fixture(scope="module")
def warm() -> WarmStart:
    torch.set_num_threads(1)
    return warm_start(made(NOTHING).actor, logs_of(interactions(), None, None, 10_000), 0)


def test_what_no_text_tells_is_learned_from_likes(warm: WarmStart) -> None:
    before = made(NOTHING).actor
    kinds = np.arange(N_ITEMS) % SECRET
    histories = [[c, c + SECRET, c + 2 * SECRET] for c in range(SECRET)]

    def advantage_of_own_kind(network: ItemScorer) -> float:
        found = scores(network, *histories)
        return float(np.mean([row[kinds == c].mean() - row[kinds != c].mean() for c, row in enumerate(found)]))

    assert advantage_of_own_kind(warm.actor) > advantage_of_own_kind(before) + 1
    foretold = warm.foretold
    assert foretold["ndcg_with_logs"] > 1.5 * max(foretold["ndcg_popularity"], foretold["ndcg_pretrained"])


def test_the_same_seed_gives_the_same_start(warm: WarmStart) -> None:
    again = warm_start(made(NOTHING).actor, logs_of(interactions(), None, None, 10_000), 0)
    for name, tensor in warm.actor.state_dict().items():
        assert torch.equal(tensor, again.actor.state_dict()[name]), name


def test_progress_hears_of_every_like_once() -> None:
    heard: list[int] = []
    logs = logs_of(interactions(60, 4), None, None, 10_000)
    warm_start(made(NOTHING).actor, logs, 0, heard.append)
    assert sum(heard) == len(logs.likes.users) == 240 and max(heard) <= BLOCK


def test_old_likes_count_less_and_the_oldest_not_at_all() -> None:
    found = interactions(n_users=2, per_user=10)
    likes = likes_of(found, 2.0 * DAY_S, 10_000)
    ages = 9 - np.repeat(np.arange(10), 2)
    expected = 0.5 ** (ages / 2)
    assert likes.strengths.tolist() == pytest.approx(expected[expected >= 0.05].tolist())
    assert likes_of(found, None, 6).users.tolist() == found.user[-6:].tolist()
    assert np.all(likes_of(found, None, 100).strengths == 1)


def test_what_was_not_liked_is_no_like() -> None:
    found = interactions(n_users=2, per_user=10)
    found.liked[::2] = False
    assert len(likes_of(found, None, 100).users) == 10


# -- slates that a log says were shown ---------------------------------------------------------------------------------

RATES = np.random.default_rng(5).permutation(np.linspace(0.02, 0.6, N_ITEMS))  # how often an item is liked when shown


def shown(n_slates: int = 3_000, n_users: int = 400) -> tuple[Interactions, Impressions]:
    """Slates of four by somebody who shows what nobody wants: an item has the more likes, the less it is liked."""
    rng = np.random.default_rng(6)
    weights = np.exp(-8 * RATES)
    items = np.array([rng.choice(N_ITEMS, 4, replace=False, p=weights / weights.sum()) for _ in range(n_slates)])
    liked = rng.random(items.shape) < RATES[items]
    users, time = rng.integers(n_users, size=n_slates), np.arange(n_slates)
    row, slot = np.nonzero(liked)
    ones = np.ones(len(row))
    answers = Interactions(
        users[row].astype(np.int32),
        items[row, slot].astype(np.int32),
        ones.astype(np.float32),
        ones > 0,
        time[row],
        n_users,
    )
    chances = np.full(items.shape, np.nan, np.float32)
    return answers, Impressions(users.astype(np.int32), time, items.astype(np.int32), liked, chances)


def test_what_was_shown_tells_what_likes_alone_hide() -> None:
    answers, impressions = shown()
    popularity = np.bincount(answers.item, minlength=N_ITEMS)
    assert np.corrcoef(popularity, RATES)[0, 1] < -0.5, "its popularity is its exposure"
    network = made(NOTHING).actor
    warm = warm_start(network, logs_of(answers, impressions, None, 10_000), 0)
    misled = warm_start(network, logs_of(answers, None, None, 10_000), 0)

    def agreement(learned: WarmStart) -> float:
        return float(np.corrcoef(scores(learned.actor, [])[0], RATES)[0, 1])

    assert agreement(misled) < 0 and agreement(warm) > 0.7
    foretold = warm.foretold
    assert foretold["auc_with_logs"] > 0.65 > 0.5 > foretold["auc_popularity"]
    assert not [name for name in foretold if name.startswith("ndcg")], "every like answers a slate"
    assert torch.equal(warm.actor.leave, network.leave), "no log tells when sessions end"


def test_what_was_learned_of_slates_is_told() -> None:
    from rich.console import Console

    answers, impressions = shown(1_000)
    dataset = Dataset("toy", MOVIES, make_items(N_ITEMS), answers, impressions=impressions)
    console = Console(record=True, width=200, quiet=False, file=io.StringIO())
    learn_logs(dataset, made(NOTHING), 0, None, 900, console)
    told = console.export_text()
    assert re.search(
        r"logs: 900 slates with \d+ answers and 0 other likes of \d+ users learned, 100 older slates", told
    )
    assert "AUC of what was answered against what was not 0." in told and "by popularity" in told


def test_likes_and_slates_come_in_order_of_time() -> None:
    user, item = np.array([0, 0, 1], np.int32), np.array([3, 4, 5], np.int32)
    ones = np.ones(3, np.float32)
    likes = Interactions(user, item, ones, ones > 0, np.array([10, 30, 20]), 2)
    slates = Impressions(
        user=np.array([1, 0], np.int32),
        time=np.array([25, 10]),
        items=np.array([[7, -1], [3, 8]], np.int32),
        liked=np.array([[False, False], [True, False]]),
        propensities=np.array([[np.nan, np.nan], [0.5, 0.25]], np.float32),
    )
    logs = logs_of(likes, slates, None, 100)
    assert logs.is_slate.tolist() == [True, False, True, False], "ann's like of 3 is an answer, and no more"
    assert (logs.likes.items.tolist(), logs.slates.users.tolist()) == ([5, 4], [0, 1])
    assert logs.slates.propensities.tolist() == [[0.5, 0.25], [1.0, 1.0]]
    part = logs.part(1, 3)
    assert (part.is_slate.tolist(), part.likes.items.tolist(), part.slates.items.tolist()) == (
        [False, True],
        [5],
        [[7, -1]],
    )


def test_old_slates_are_there_with_the_probability_by_which_they_count() -> None:
    answers, impressions = shown(2_000)
    logs = logs_of(answers, impressions, 500.0, 10_000)
    expected = (0.5 ** (np.arange(2_000) / 500)).sum()
    assert len(logs.slates.users) == pytest.approx(expected, abs=4 * np.sqrt(expected))


def test_a_history_is_what_a_service_would_tell() -> None:
    histories = Histories(50)
    histories.like(0, 1)
    histories.show(0, [2, 3, -1], [False, True, False])
    histories.show(0, [4, 2], [False, False])
    assert histories.of(0) == ((1, 1.0), (3, 1.0), (4, 0.0), (2, 0.0))
    histories.like(0, 4)
    assert histories.of(0) == ((1, 1.0), (3, 1.0), (4, 1.0), (2, 0.0)) and histories.of(9) == ()


def test_auc_counts_equal_scores_by_half() -> None:
    assert auc(np.array([1.0, 2.0, 3.0]), np.array([False, True, True])) == 1
    assert auc(np.array([1.0, 1.0]), np.array([False, True])) == 0.5 == auc(np.array([1.0]), np.array([True]))


def snapshot_of(warm: WarmStart) -> Snapshot:
    dataset = Dataset("toy", MOVIES, make_items(N_ITEMS), interactions())
    return make_snapshot(dataset, "fake", replace(CONFIG, encoder="hashing"), made(NOTHING), {}, warm)


@pytest.mark.parametrize("variant", [Variant.FT, Variant.AP])
def test_the_worker_goes_on_as_sure_as_the_logs_made_it(tmp_path: Path, warm: WarmStart, variant: Variant) -> None:
    save_snapshot(snapshot_of(warm), tmp_path / "snapshot")
    read = load_snapshot(tmp_path / "snapshot")
    settings = Settings(
        variant=variant, policy_folder=tmp_path / "policies", checkpoint_folder=tmp_path / "checkpoints"
    )
    learning = Learning(read, torch.from_numpy(embeddings().astype(np.float32)), settings)
    learner = cast(Any, learning.learner)
    assert torch.equal(learner.posterior.shared, warm.evidence.shared)
    assert torch.equal(learner.posterior.by_item, warm.evidence.by_item)
    assert torch.equal(learner.actor.information, warm.evidence.information)
    assert learner.actor.information.min() > 0
    histories = [[0, 4], [1], []]
    served = learning.serving_policy()
    everything = np.ones(N_ITEMS, bool)
    for history in histories:
        past = tuple(Interaction(i, Response.POSITIVE) for i in history)
        learned = served.distribution(past, everything).learned
        order = np.argsort(-scores(warm.actor, history)[0])
        assert learned[order[:10]].sum() > 5 * learned[order[-10:]].sum()
    # A new item is one of which the logs know nothing.
    learner.grow(torch.cat([learner.actor.text, learner.actor.text[:1]]))
    assert learner.actor.information[-1] == 0 and len(learner.posterior.by_item) == N_ITEMS + 1


def test_the_frozen_policy_does_not_explore(warm: WarmStart) -> None:
    assert not snapshot_of(warm).tensors["pretrained.information"].any()


def test_a_data_set_without_likes_is_told() -> None:
    dataset = Dataset("toy", MOVIES, make_items(N_ITEMS), None)
    silent = cast(Any, SimpleNamespace(print=lambda *args, **options: None))
    with pytest.raises(OfflineError, match="--logs: the data set has no likes"):
        learn_logs(dataset, made(NOTHING), 0, None, 100, silent)


def test_the_command_tells_what_logs_are_worth(tmp_path: Path) -> None:
    from rich.console import Console

    from offline.distil import DistilConfig
    from offline.distil_command import run_stage
    from offline.judge import Budget
    from offline.states import StateConfig
    from tests.offline.fake_llm import FakeScorer

    dataset = Dataset("toy", MOVIES, make_items(N_ITEMS), interactions())
    save_dataset(dataset, tmp_path / "dataset")
    config = DistilConfig(n_states=5, encoder="hashing", states=StateConfig(candidates=8))
    run_stage(dataset, tmp_path, FakeScorer(), Budget(), config, Console(quiet=True), {})
    arguments = ["pretrain", "--run", str(tmp_path), "--logs", "--half-life", "100"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    line = next(line for line in result.stderr.splitlines() if line.startswith("logs: "))
    assert line.startswith("logs: 1,500 likes of 150 users learned; the last tenth, before it was learned: NDCG@10 ")
    metrics = load_snapshot(tmp_path / "snapshot").manifest.metrics
    assert f"{metrics['ndcg_with_logs']:.3f} with the likes before" in line
    assert metrics["ndcg_with_logs"] > metrics["ndcg_pretrained"]
