"""Joining impressions with feedback: a function of the log alone, and what becomes of every kind of event."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from service.policy.types import Interaction, Response
from service.store.events import Feedback, Impression
from service.store.joiner import Joined, Joiner
from service.worker.transitions import organic_of, owner_of, transition_of

WINDOW_MS = 1000


def impression(name: str = "r1", user: str = "u:ann", items: tuple[str, ...] = ("a", "b", "c")) -> Impression:
    history = (("a", 1.0), ("gone", 1.0), ("b", -1.0))
    propensities = tuple(0.5 / (n + 1) for n in range(len(items)))
    return Impression(name, user, "adaptive", 1, history, items, propensities, "")


def feedback(item: str = "b", reward: float = 1.0, name: str | None = "r1", user: str = "u:ann") -> Feedback:
    return Feedback("e", user, item, reward, recommendation_id=name)


def joiner(*opened: Impression) -> Joiner:
    joiner = Joiner(WINDOW_MS / 1000)
    for n, shown in enumerate(opened):
        joiner.add_impression(shown, n * 100)
    return joiner


@pytest.mark.parametrize(
    ("event", "outcome", "rewards"),
    [
        (feedback("b"), Joined.JOINED, (0.0, 1.0, 0.0)),
        (feedback("c", -1.0), Joined.JOINED, (0.0, 0.0, -1.0)),
        (feedback(name=None), Joined.ORGANIC, (0.0, 0.0, 0.0)),
        (feedback(name="unknown"), Joined.ORPHAN, (0.0, 0.0, 0.0)),
        (feedback(user="u:bob"), Joined.MISMATCHED, (0.0, 0.0, 0.0)),
        (feedback("not-shown"), Joined.MISMATCHED, (0.0, 0.0, 0.0)),
    ],
)
def test_what_becomes_of_feedback(event: Feedback, outcome: Joined, rewards: tuple[float, ...]) -> None:
    waiting = joiner(impression())
    assert waiting.add_feedback(event, 500) == outcome
    (closed,) = waiting.close(WINDOW_MS)
    assert closed.slot_rewards == rewards


@pytest.mark.parametrize(
    ("said", "comes_to"),
    [
        ([(0.2, 1), (1.0, 2)], 1.0),
        ([(1.0, 1), (0.2, 2)], 1.0),
        ([(0.0, 1), (-1.0, 2)], -1.0),
        ([(-1.0, 1), (0.0, 2)], -1.0),
        ([(1.0, 1), (-0.5, 2)], 1.0),
        ([(1.0, 1), (-1.0, 2)], -1.0),
        ([(1.0, 2), (-1.0, 1)], 1.0),  # heard of late
        ([(1.0, 1), (-0.5, 2, "explicit")], -0.5),
        ([(1.0, 1), (-0.5, 2, "explicit"), (0.2, 3)], -0.5),
        ([(1.0, 2), (-0.5, 1, "explicit")], 1.0),
        ([(0.8, 1, "explicit"), (0.4, 2, "explicit")], 0.4),
        ([(0.2, 2), (0.8, 1)], 0.8),
    ],
)
def test_what_several_responses_come_to(said: list[tuple[Any, ...]], comes_to: float) -> None:
    waiting = joiner(impression())
    for reward, at, *how in said:
        waiting.add_feedback(
            Feedback("e", "u:ann", "a", reward, "r1", occurred_at=float(at), explicit=bool(how)), 99_000
        )
    assert waiting.close(WINDOW_MS)[0].slot_rewards[0] == comes_to


def test_what_is_yet_to_come_happened_now() -> None:
    waiting = joiner(impression())
    waiting.add_feedback(Feedback("e", "u:ann", "a", 1.0, "r1", occurred_at=1e10), 5_000)
    waiting.add_feedback(Feedback("e", "u:ann", "a", -1.0, "r1", explicit=True), 6_000)
    assert waiting.close(WINDOW_MS)[0].slot_rewards[0] == -1.0


def test_what_is_taken_back_was_never_said() -> None:
    waiting = joiner(impression())
    waiting.add_feedback(feedback("a"), 500)
    waiting.add_feedback(feedback("b"), 500)
    waiting.add_feedback(Feedback("e", "u:ann", "a", 0.0, "r1", undo=True), 500)
    assert waiting.close(WINDOW_MS)[0].slot_rewards == (0.0, 1.0, 0.0)


def test_it_is_taken_back_in_all_that_is_open_but_not_what_was_said_since() -> None:
    waiting = joiner(impression("r1"), impression("r2"), impression("r3", user="u:bob"))
    for name, user in (("r1", "u:ann"), ("r2", "u:ann"), ("r3", "u:bob")):
        waiting.add_feedback(feedback("a", name=name, user=user), 2_000)
    waiting.add_feedback(Feedback("e", "u:ann", "b", 1.0, "r1", type="purchase", ends=True), 2_000)
    early = Feedback("e", "u:ann", "a", 0.0, undo=True, occurred_at=1.0)
    assert waiting.add_feedback(early, 2_500) == Joined.ORGANIC
    waiting.add_feedback(Feedback("e", "u:ann", "b", 0.0, undo=True), 2_500)
    assert [one.slot_rewards[0] for one in waiting.close(0)] == []
    waiting.add_feedback(Feedback("e", "u:ann", "a", 0.0, undo=True), 2_500)
    first, second, bobs = waiting.close(99_000)
    assert (first.slot_rewards, second.slot_rewards, bobs.slot_rewards[0]) == ((0.0,) * 3, (0.0,) * 3, 1.0)
    assert not first.ended_by, "nor was anything bought"


def test_who_logs_in_answers_what_the_visitor_was_shown() -> None:
    waiting = joiner(impression("r1", user="s:tab"), impression("r2", user="u:bob"))
    assert waiting.add_feedback(feedback("a"), 500) == Joined.JOINED
    assert waiting.add_feedback(feedback("a", user="s:other"), 500) == Joined.MISMATCHED
    assert waiting.add_feedback(feedback("a", name="r2", user="s:tab"), 500) == Joined.MISMATCHED
    waiting.join("s:tab", "u:ann")
    waiting.add_impression(impression("r3"), 300)
    first, _, last = waiting.close(10 * WINDOW_MS)
    assert first.next_history == last.impression.history, "the user goes on from where the visitor was"
    assert (last.turn, owner_of("u:ann")) == (1, transition_of(first, {}, 0.9, 1.0).owner)


def test_a_restored_joiner_knows_who_logged_in_and_what_came_last() -> None:
    one = joiner(impression("r1"), impression("r2", user="s:tab"))
    one.join("s:tab", "u:ann")
    other = Joiner(WINDOW_MS / 1000)
    other.restore(*one.dump())
    for waiting in (one, other):
        assert waiting.add_feedback(feedback("a", name="r2", user="u:bob"), 500) == Joined.MISMATCHED
        waiting.add_impression(impression("r3"), 600)
        first, second, third = waiting.close(10 * WINDOW_MS)
        assert first.next_history is None is not second.next_history and (second.turn, third.turn) == (0, 1)


def test_a_good_end_is_no_fault() -> None:
    waiting = joiner(impression("r1"), impression("r2", user="u:bob"), impression("r3", user="u:eve"))
    waiting.add_feedback(Feedback("e", "u:ann", "a", 1.0, "r1", type="purchase", ends=True), 500)
    waiting.add_feedback(Feedback("e", "u:eve", "a", 1.0, "r3", type="purchase", ends=True), 500)
    waiting.add_impression(impression("r4", user="u:eve"), 600)
    bought, left, stayed, new = (transition_of(closed, {"a": 0}, 0.9, 1.0) for closed in waiting.close(10 * WINDOW_MS))
    assert (bought.discount, left.discount, stayed.discount) == (0.9, 0.0, 0.9)
    assert bought.next_history == bought.history and new.turn == 0


def test_an_impression_closes_when_its_window_is_over() -> None:
    waiting = joiner(impression("r1"), impression("r2", user="u:bob"))
    assert waiting.close(WINDOW_MS - 1) == []
    assert [c.impression.recommendation_id for c in waiting.close(WINDOW_MS)] == ["r1"]
    assert waiting.add_feedback(feedback(), 500) == Joined.LATE
    assert waiting.add_feedback(feedback(name="r3"), 500) == Joined.ORPHAN, "before its impression"
    assert [c.impression.recommendation_id for c in waiting.close(10 * WINDOW_MS)] == ["r2"]
    assert len(waiting) == 0


def test_the_next_state_is_the_same_users_next_impression() -> None:
    second = Impression("r2", "u:ann", "adaptive", 1, (("c", 1.0),), ("d",), (1.0,), "")
    waiting = joiner(impression("r1"), impression("other", user="u:bob"), second)
    closed = {c.impression.recommendation_id: c for c in waiting.close(10 * WINDOW_MS)}
    assert closed["r1"].next_history == (("c", 1.0),)
    assert closed["other"].next_history is closed["r2"].next_history is None
    assert [closed[key].turn for key in ("r1", "r2", "other")] == [0, 1, 0]


def test_an_erased_user_leaves_nothing_open() -> None:
    waiting = joiner(impression("r1"), impression("r2", user="u:bob"), impression("r3"))
    waiting.erase("u:ann")
    waiting.add_impression(impression("r4"), 500)
    assert [c.impression.recommendation_id for c in waiting.close(10 * WINDOW_MS)] == ["r2", "r4"]


def test_an_impression_closes_after_so_many_entries_when_the_clock_stands_still() -> None:
    waiting = Joiner(WINDOW_MS / 1000, reward_window_entries=5)
    waiting.add_impression(impression("r1"), 100, place=7)
    waiting.add_impression(impression("r2", user="u:bob"), 100, place=9)
    assert waiting.close(100, place=11) == []
    assert [c.impression.recommendation_id for c in waiting.close(100, place=12)] == ["r1"]
    assert waiting.add_feedback(feedback(), 500) == Joined.LATE


def test_an_impression_counts_once() -> None:
    waiting = joiner(impression("r1"))
    waiting.add_feedback(feedback(), 500)
    assert not waiting.add_impression(impression("r1"), 500)
    (closed,) = waiting.close(WINDOW_MS)
    assert closed.slot_rewards == (0.0, 1.0, 0.0)
    assert not waiting.add_impression(impression("r1"), 2 * WINDOW_MS) and len(waiting) == 0


def test_only_so_many_closed_impressions_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.store.joiner._REMEMBERED", 2)
    waiting = joiner(*(impression(f"r{n}") for n in range(4)))
    waiting.close(10 * WINDOW_MS)
    outcomes = [waiting.add_feedback(feedback(name=f"r{n}"), 500) for n in range(4)]
    assert outcomes == [Joined.ORPHAN, Joined.ORPHAN, Joined.LATE, Joined.LATE]


def test_a_restored_joiner_goes_on_alike() -> None:
    one = joiner(impression("r1"), impression("r2", user="u:bob"))
    one.add_feedback(feedback(), 500)
    other = Joiner(WINDOW_MS / 1000)
    other.restore(*one.dump())
    for waiting in (one, other):
        waiting.add_impression(impression("r3"), 300)
        waiting.close(WINDOW_MS)
        assert waiting.add_feedback(feedback(name="r1"), 500) == Joined.LATE
    assert one.dump() == other.dump()
    assert one.close(10 * WINDOW_MS) == other.close(10 * WINDOW_MS)


@pytest.mark.parametrize(
    ("candidates", "masked", "only"),
    [
        (None, ("a",), ()),
        (("c", "a", "b"), ("b", "gone"), (2, 0)),
        (tuple(f"item-{n}" for n in range(51)), (), ()),
    ],
    ids=["nothing was named", "named, less what was taken away", "too many to keep"],
)
def test_a_transition_says_what_a_request_let_be_shown(
    candidates: tuple[str, ...] | None, masked: tuple[str, ...], only: tuple[int, ...]
) -> None:
    waiting = joiner(msgspec.structs.replace(impression(), candidates=candidates, masked=masked))
    index = {"a": 0, "b": 1, "c": 2} | {f"item-{n}": 3 + n for n in range(51)}
    (closed,) = waiting.close(10 * WINDOW_MS)
    assert transition_of(closed, index, gamma=0.9, largest=1.0).only == only


def test_a_transition_leaves_out_items_without_a_row() -> None:
    waiting = joiner(impression(items=("a", "gone", "c")), impression("r2"))
    waiting.add_feedback(feedback("c", 0.5), 500)
    first, last = (
        transition_of(c, {"a": 0, "b": 1, "c": 2}, gamma=0.9, largest=1.0) for c in waiting.close(10 * WINDOW_MS)
    )
    assert (first.actions, first.rewards) == ((0, 2), (0.0, 0.5))
    assert first.propensities == pytest.approx((0.5, 0.5 / 3))
    expected = (Interaction(0, Response.POSITIVE), Interaction(1, Response.NEGATIVE))
    assert first.history == first.next_history == expected
    assert (first.discount, last.discount, last.next_history) == (0.9, 0.0, last.history)


@pytest.mark.parametrize(("reward", "strength"), [(0.2, 0.1), (1.0, 0.5), (5.0, 1.0)])
def test_an_organic_like_stands_after_what_came_before(reward: float, strength: float) -> None:
    history = (("b", 1.0), ("gone", 1.0), ("a", -1.0), ("c", 0.0))
    like = organic_of(feedback("c", reward, name=None), history, {"a": 0, "b": 1, "c": 2}, largest=2.0)
    assert like is not None and like.organic and like.owner == owner_of("u:ann")
    assert like.history == (Interaction(1, 0.5), Interaction(0, -0.5))
    assert (like.actions, like.rewards) == ((2,), (strength,))


@pytest.mark.parametrize(("item", "reward"), [("a", 0.0), ("a", -1.0), ("gone", 1.0), ("b", 1.0)])
def test_an_organic_response_that_tells_nothing_new_is_no_transition(item: str, reward: float) -> None:
    history = (("b", 1.0), ("a", -1.0))
    response = feedback(item, reward, name=None)
    assert organic_of(response, history, {"a": 0, "b": 1}, largest=1.0) is None
