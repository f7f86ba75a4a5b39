"""The worker's state is a function of the log: cuts, checkpoints and restarts leave no trace in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from service.policy.boltzmann import Boltzmann, BoltzmannConfig
from service.policy.networks import ItemScorer
from service.policy.snapshot import FORMAT
from service.policy.snapshot_files import load_catalogue, load_snapshot
from service.policy.text import HashingEncoder
from service.policy.types import Interaction, Response
from service.policy.variants import Variant
from service.settings import Settings
from service.store.catalogue import pack_embedding
from service.store.checkpoint import CheckpointStore
from service.store.events import Event, Feedback, Impression, ItemChanged, UserErased
from service.store.registry import Gate
from service.worker import learning as learning_module
from service.worker.counters import Meta
from service.worker.learning import Learning
from tests.service.service_examples import N_ITEMS, learning_settings

N_IMPRESSIONS = 220


def log_with_everything(seed: int = 0) -> list[Event]:
    """Slates, clicks, likes by themselves, erased users, and items that come, change and go."""
    rng = np.random.default_rng(seed)
    encoder = HashingEncoder()
    known = [f"film-{n}" for n in range(N_ITEMS)]
    log: list[Event] = []
    for n in range(N_IMPRESSIONS):
        items = tuple(str(item) for item in rng.choice(known, 3, replace=False))
        user = f"u:{rng.integers(20)}"
        history = tuple((str(item), float(rng.integers(-1, 2))) for item in rng.choice(known, 2))
        log.append(Impression(f"r{n}", user, "adaptive", 1, history, items, (0.1, 0.1, 0.1), ""))
        if n % 2:
            log.append(Feedback(f"e{n}", user, items[0], 1.0, recommendation_id=f"r{n}"))
        if n % 3 == 0:
            log.append(
                Feedback(f"o{n}", f"u:{rng.integers(20)}", str(rng.choice(known)), float(rng.choice([1, 1, -1])))
            )
        if n % 50 == 10:
            known.append(f"new-{n}")
            log.append(ItemChanged(known[-1], pack_embedding(encoder.encode([f"New {n}"])[0])))
        if n % 60 == 20:
            log.append(ItemChanged("film-3", pack_embedding(encoder.encode([f"Changed {n}"])[0]), deleted=n > 100))
        if n % 70 == 30:
            log.append(UserErased(user))
    return log


def start(settings: Settings) -> Learning:
    assert settings.snapshot is not None
    embeddings = load_catalogue(settings.snapshot).embeddings
    return Learning(load_snapshot(settings.snapshot), torch.from_numpy(embeddings), settings)


def take(learning: Learning, log: Sequence[Event], first: int = 0) -> None:
    for n, event in enumerate(log, start=first):
        learning.take(event, f"{10 * n}-0", 10 * n)


def assert_same(one: Learning, other: Learning) -> None:
    """Bit-identical state."""
    (meta, tensors), (other_meta, other_tensors) = one.dump(), other.dump()
    assert msgspec.to_builtins(meta) == msgspec.to_builtins(other_meta)
    assert tensors.keys() == other_tensors.keys()
    different = [name for name in tensors if not torch.equal(tensors[name], other_tensors[name])]
    assert different == []


@pytest.fixture(params=["boltzmann", "a2c"])
def deployment(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    changes: dict[str, Any] = {"learner": request.param, "reward_window_s": 0.3}
    if request.param == "boltzmann":
        changes["learner_config"] = {"taste_start": 0.7, "updates_per_transition": 0.13, "batch_size": 8}
    return learning_settings(settings, **changes)


@pytest.mark.parametrize("cut", [1, 57, 150, 260])
def test_a_checkpoint_in_mid_log_leaves_no_trace(deployment: Settings, tmp_path: Path, cut: int) -> None:
    log = log_with_everything()
    whole = start(deployment)
    take(whole, log)
    store = CheckpointStore(tmp_path / "checkpoints", Meta)
    before = start(deployment)
    take(before, log[:cut])
    store.save(*before.dump())
    saved = store.load()
    assert saved is not None
    after = start(deployment)
    after.restore(*saved)
    assert_same(before, after)
    take(after, log[cut:], first=cut)
    assert_same(after, whole)
    assert whole.counters.closed > 150 and len(whole.item_ids) == N_ITEMS + 5
    learned = 0 if deployment.learner == "a2c" else 30
    assert learned <= whole.counters.events.get("feedback_organic", 0) <= 2 * learned


def test_dumping_often_changes_nothing(deployment: Settings) -> None:
    log = log_with_everything()
    quiet, dumped = start(deployment), start(deployment)
    take(quiet, log)
    for n, event in enumerate(log):
        take(dumped, [event], first=n)
        if n % 13 == 0:
            dumped.dump()
            dumped.next_snapshot(Gate(passed=True))
    assert_same(quiet, dumped)


def test_a_failed_step_is_remembered_until_the_learner_starts_again(deployment: Settings) -> None:
    learning, resumed = start(deployment), start(deployment)
    learning.counters.failed = True
    resumed.restore(*learning.dump())
    assert resumed.unfit() == "learning_failed"
    resumed.reset_learner(resumed.snapshot)
    assert resumed.unfit() is None


def test_the_next_snapshot_can_be_started_from(deployment: Settings) -> None:
    learning = start(deployment)
    take(learning, log_with_everything())
    snapshot = learning.next_snapshot(Gate(passed=True, numbers={"ess": 1.0}))
    assert (snapshot.manifest.version, snapshot.manifest.parent) == (2, 1)
    assert snapshot.manifest.lineage["cursor"] == learning.counters.cursor
    assert snapshot.item_ids == tuple(learning.item_ids)
    again = Learning(snapshot, torch.from_numpy(learning.embeddings.astype(np.float32)), deployment)
    assert again.counters.cursor == learning.counters.cursor
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.learner.actor.parameters(), learning.learner.actor.parameters(), strict=True)
    )


def same_weights(one: ItemScorer, other: ItemScorer) -> bool:
    state, wanted = one.state_dict(), other.state_dict()
    return state.keys() == wanted.keys() and all(torch.equal(state[name], wanted[name]) for name in wanted)


def test_straight_from_pretraining_ap_starts_beside_the_pretrained_policy(settings: Settings) -> None:
    learning = start(learning_settings(settings, variant=Variant.AP))
    learner = learning.learner
    assert isinstance(learner, Boltzmann)
    assert learner.prior is learning.pretrained
    assert learner.critic is learner.actor
    assert same_weights(learner.actor, with_first_taste(learning.pretrained.residual()))
    assert not same_weights(learner.actor, with_first_taste(learning.pretrained))
    served = learning.serving_policy().distribution((), np.ones(N_ITEMS, dtype=bool))
    np.testing.assert_allclose(served.learned, served.pretrained, atol=1e-6)
    assert served.pretrained.std() > 1e-3  # or every start would do


def with_first_taste(net: ItemScorer) -> ItemScorer:
    """As a learner takes a network that has no taste yet."""
    net.begin_taste(BoltzmannConfig.taste_start, BoltzmannConfig.taste_level_start)
    return net


def test_but_for_the_taste_that_texts_tell_it_is_the_pretrained_policy_for_every_session(settings: Settings) -> None:
    nothing = {"taste_start": 0.0, "taste_level_start": 0.0}
    learning = start(learning_settings(settings, variant=Variant.AP, learner_config=nothing))
    assert same_weights(learning.learner.actor, learning.pretrained.residual())
    past = (Interaction(4, Response.POSITIVE), Interaction(9, Response.IGNORED))
    served = learning.serving_policy().distribution(past, np.ones(N_ITEMS, dtype=bool))
    np.testing.assert_allclose(served.learned, served.pretrained, atol=1e-6)
    with_taste = start(learning_settings(settings, variant=Variant.AP)).serving_policy()
    other = with_taste.distribution(past, np.ones(N_ITEMS, dtype=bool))
    assert np.abs(other.learned - served.learned).max() > 1e-4


@pytest.mark.parametrize(("learner", "variant"), [("boltzmann", Variant.FT), ("a2c", Variant.AP), ("a2c", Variant.FT)])
def test_other_learners_start_as_the_snapshot_says(settings: Settings, learner: str, variant: Variant) -> None:
    learning = start(learning_settings(settings, learner=learner, variant=variant))
    wanted = learning.snapshot.network("learned", learning.pretrained.text)
    assert same_weights(learning.learner.actor, with_first_taste(wanted) if learner == "boltzmann" else wanted)


def test_a_later_version_goes_on_from_what_was_learned(settings: Settings) -> None:
    settings = learning_settings(settings, variant=Variant.AP, reward_window_s=0.3)
    learning = start(settings)
    take(learning, log_with_everything())
    later = Learning(
        learning.next_snapshot(Gate(passed=True)), torch.from_numpy(learning.embeddings.astype(np.float32)), settings
    )
    # How sure the weights are does not travel in a snapshot, so neither does how sure the biases are.
    assert learning.learner.actor.information.any() and not later.learner.actor.information.any()
    learning.learner.actor.information.zero_()
    assert same_weights(later.learner.actor, learning.learner.actor)
    assert not same_weights(later.learner.actor, later.pretrained.residual())
    assert isinstance(later.learner, Boltzmann) and later.learner.prior is later.pretrained


def test_another_variant_starts_from_the_pretrained_policy(settings: Settings) -> None:
    """What A-iALP_ap learned is an addition to the frozen policy: without it, it is no policy."""
    learning = start(learning_settings(settings, variant=Variant.AP, reward_window_s=0.3))
    take(learning, log_with_everything())
    published, texts = (
        learning.next_snapshot(Gate(passed=True)),
        torch.from_numpy(learning.embeddings.astype(np.float32)),
    )
    fine_tuned = Learning(published, texts, learning_settings(settings, variant=Variant.FT, reward_window_s=0.3))
    assert not same_weights(fine_tuned.learner.actor, learning.learner.actor)
    assert same_weights(fine_tuned.learner.actor, with_first_taste(fine_tuned.pretrained))


def test_a_checkpoint_of_other_settings_is_told_apart(settings: Settings) -> None:
    prints = {
        start(settings.model_copy(update=changes)).fingerprint
        for changes in (
            {},
            {"learner": "a2c"},
            {"replay_slots": 3},
            {"learner_config": {"batch_size": 7}},
            {"variant": Variant.FT},
        )
    }
    assert len(prints) == 5


def test_a_checkpoint_of_another_layout_can_be_read_and_is_told_apart(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = start(settings).fingerprint
    monkeypatch.setattr(learning_module, "_LAYOUT", 1)
    meta = msgspec.to_builtins(start(settings).dump()[0])
    del meta["recent"], meta["counters"]["allowance"]  # as it was when workers kept no histories
    assert msgspec.convert(meta, Meta).fingerprint != ours


def test_a_checkpoint_of_other_networks_is_told_apart(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    before = start(settings).fingerprint
    monkeypatch.setattr(learning_module, "FORMAT", FORMAT - 1)
    assert start(settings).fingerprint != before
