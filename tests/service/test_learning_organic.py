"""The worker learns from likes without an impression: in their user's state, each once, and never too many."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch

from service.policy.organic import COST
from service.policy.snapshot_files import load_catalogue, load_snapshot
from service.policy.types import EMPTY_SLOT, Batch, Response, unpack_states
from service.policy.variants import Variant
from service.settings import Settings
from service.store.events import Event, Feedback, Impression, UserErased
from service.worker.learning import Learning
from service.worker.transitions import owner_of
from tests.service.service_examples import N_ITEMS, learning_settings

CAPACITY = 20


def start(settings: Settings, **changes: Any) -> Learning:
    """A learner with so small a replay that its allowance is for ten likes; windows of 1 s."""
    chosen = learning_settings(settings, **{"replay_capacity": CAPACITY, "reward_window_s": 1.0} | changes)
    assert chosen.snapshot is not None
    embeddings = load_catalogue(chosen.snapshot).embeddings
    return Learning(load_snapshot(chosen.snapshot), torch.from_numpy(embeddings), chosen)


def take(learning: Learning, *log: Event, at_ms: int = 0) -> None:
    for event in log:
        place = learning.counters.place
        learning.take(event, f"{at_ms}-{place + 1}", at_ms)


def like(item: int | str, user: str = "ann", reward: float = 1.0, slate: str | None = None) -> Feedback:
    return Feedback("e", user, f"film-{item}", reward, recommendation_id=slate)


def impression(name: str, *items: int, user: str = "ann", history: tuple[tuple[str, float], ...] = ()) -> Impression:
    slate = tuple(f"film-{item}" for item in items)
    return Impression(name, user, "adaptive", 1, history, slate, (0.1,) * len(slate), "")


def rows(learning: Learning) -> Batch:
    return learning.replay.latest(len(learning.replay))


def histories(learning: Learning) -> list[list[tuple[int, float]]]:
    return [[(past.item, past.response) for past in history] for history in unpack_states(rows(learning).state)]


def n_events(learning: Learning, kind: str) -> int:
    return learning.counters.events.get(kind, 0)


def test_a_like_teaches_in_the_state_before_it(settings: Settings) -> None:
    learning = start(settings)
    take(learning, like(3), like(4, "ben"), like(5))
    liked = Response.POSITIVE
    assert histories(learning) == [[], [], [(3, liked)]]
    batch = rows(learning)
    assert batch.organic is not None and batch.organic.all()
    assert batch.actions[:, 0].tolist() == [3, 4, 5] and batch.rewards.sum().item() == 3
    assert (batch.actions[:, 1:] == EMPTY_SLOT).all(), "others are drawn when it is learned from"
    assert learning.counters.unlearned == learning.counters.unpublished == 3
    assert learning.counters.events == {"feedback_organic": 3}


def test_an_impression_says_what_the_history_is(settings: Settings) -> None:
    learning = start(settings)
    said = (("film-1", 1.0), ("film-2", -1.0), ("gone", 1.0), ("film-6", 0.0), ("film-7", 0.0))
    take(learning, like(3), impression("r", 8, 9, history=said), like(9, slate="r"), like(6))
    seen = [(1, Response.POSITIVE), (2, Response.NEGATIVE), (9, Response.POSITIVE), (7, Response.IGNORED)]
    assert histories(learning)[-1] == seen, "but not the liked item itself"
    take(learning, impression("r", 8, 9, history=()))
    assert n_events(learning, "impression_repeated") == 1
    take(learning, like(10))
    assert histories(learning)[-1][:2] == seen[:2], "one that the log had before changes nothing"


def test_feedback_of_every_kind_is_part_of_the_history(settings: Settings) -> None:
    learning = start(settings)
    take(learning, impression("r", 8, 9), impression("other", 8, user="ben"))
    take(learning, like(8, slate="other"), like(1, slate="unknown"), like(2, reward=-1.0))
    take(learning, like(9, slate="r"), at_ms=2_000)
    take(learning, like(5), at_ms=2_000)
    liked = Response.POSITIVE
    assert histories(learning)[-1] == [(8, liked), (1, liked), (2, Response.NEGATIVE), (9, liked)]
    kinds = {"mismatched": 1, "orphan": 1, "organic_unlearned": 1, "late": 1, "organic": 1}
    assert learning.counters.events == {"impression": 2} | {f"feedback_{kind}": n for kind, n in kinds.items()}


def test_what_says_nothing_new_teaches_nothing(settings: Settings) -> None:
    learning = start(settings)
    take(learning, impression("r", 8), like(8, slate="r"), like(8))
    take(learning, *[like(3)] * 30, like(4, reward=0.0), like(5, reward=-1.0), like("unknown"))
    assert rows(learning).actions[:, 0].tolist() == [3]
    assert (n_events(learning, "feedback_organic"), n_events(learning, "feedback_organic_unlearned")) == (1, 33)
    take(learning, like(5), like(4))
    assert n_events(learning, "feedback_organic") == 3, "who disliked or skipped an item can like it yet"


def test_likes_do_not_drown_impressions(settings: Settings) -> None:
    learning = start(settings, learn_every=10**6)
    n = CAPACITY // 2
    take(learning, *[like(item, f"u{item}") for item in range(n + 5)])
    assert (n_events(learning, "feedback_organic"), n_events(learning, "feedback_organic_unlearned")) == (n, 5)
    assert learning.counters.allowance == 0.0 and len(learning.replay) == n
    take(learning, like(1, "ben"), impression("r", 1, 2, 3, 4, user="ben"), like(2, "carl"))
    assert learning.counters.allowance == 0.0, "only what has closed counts"
    take(learning, *[like(item, f"v{item}") for item in range(5)], at_ms=2_000)
    assert n_events(learning, "feedback_organic") == n + 2 and learning.counters.allowance == 4 - 2 * COST
    take(learning, *[impression(f"s{i}", *range(10)) for i in range(20)], at_ms=2_000)
    take(learning, like(1, "dora"), at_ms=4_000)
    assert learning.counters.allowance == COST * CAPACITY / 2 - COST, "it is never more than at the start"


def test_an_erased_user_leaves_nothing(settings: Settings) -> None:
    learning = start(settings)
    take(learning, like(3), like(4), like(5, "ben"), impression("r", 6), UserErased("ann"))
    assert learning.recent.of("ann") == () and learning.recent.of("ben") != ()
    assert rows(learning).actions[:, 0].tolist() == [EMPTY_SLOT, EMPTY_SLOT, 5]
    assert histories(learning) == [[], [], []]
    assert learning.replay.forget(owner_of("ben")) == 1
    take(learning, like(3))
    assert histories(learning)[-1] == [], "a stranger again"


@pytest.mark.parametrize("changes", [{"learner": "a2c"}, {"variant": Variant.FROZEN}], ids=["a2c", "frozen"])
def test_who_cannot_learn_from_them_does_not(settings: Settings, changes: dict[str, Any]) -> None:
    learning = start(settings, **changes)
    take(learning, like(3), like(4))
    assert len(learning.replay) == learning.counters.unpublished == 0 and not learning.version_due
    assert learning.counters.events == {"feedback_organic_unlearned": 2}
    assert learning.recent.of("ann") == (("film-3", 1.0), ("film-4", 1.0))


def test_coverage_is_of_what_was_shown(settings: Settings) -> None:
    learning = start(settings)
    take(learning, like(3), like(4))
    assert learning.coverage == 0.0
    take(learning, impression("r", 5, 6))
    take(learning, like(7), at_ms=2_000)
    assert learning.coverage == 2 / N_ITEMS


def test_histories_and_allowance_come_back_from_a_checkpoint(settings: Settings) -> None:
    one, resumed = start(settings), start(settings)
    take(one, like(3), like(4, "ben"))
    resumed.restore(*deepcopy(one.dump()))
    for learning in (one, resumed):
        take(learning, *[like(item) for item in range(5, 15)])
    assert one.dump()[0] == resumed.dump()[0] and resumed.counters.allowance < COST
    assert all(torch.equal(a, b) for a, b in zip(rows(one).state[:3], rows(resumed).state[:3], strict=True))
    assert torch.equal(rows(one).actions, rows(resumed).actions)
