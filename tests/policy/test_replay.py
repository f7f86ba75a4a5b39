from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.policy.replay import Replay
from service.policy.types import EMPTY_SLOT, MAX_NAMED, Batch, Interaction, Response, Transition
from tests.policy.policy_examples import RESPONSES

HISTORY, SLOTS = 4, 3

reals = st.floats(-5, 5, width=32)
items = st.integers(0, 2**31 - 1)
interactions = st.builds(Interaction, items, st.sampled_from(RESPONSES))


@st.composite
def transitions(draw: st.DrawFn) -> Transition:
    """Histories and slates from empty to longer than the replay keeps."""
    k = draw(st.integers(0, SLOTS + 2))
    propensities = st.floats(0.0009765625, 1.0, width=32)
    return Transition(
        history=tuple(draw(st.lists(interactions, max_size=HISTORY + 3))),
        actions=tuple(draw(st.lists(items, min_size=k, max_size=k))),
        rewards=tuple(draw(st.lists(reals, min_size=k, max_size=k))),
        propensities=tuple(draw(st.lists(propensities, min_size=k, max_size=k))),
        discount=draw(st.floats(0, 1, width=32)),
        next_history=tuple(draw(st.lists(interactions, max_size=HISTORY + 3))),
        turn=draw(st.integers(0, 100)),
        only=tuple(draw(st.lists(st.integers(0, 2**31 - 2), max_size=3) | st.just(range(MAX_NAMED)))),
        organic=draw(st.booleans()),
    )


def numbered(n: int) -> Transition:
    """One that can be told from the others."""
    history = tuple(Interaction(n + i, Response.POSITIVE) for i in range(n % 6))
    after = (*history, Interaction(n, Response.NEGATIVE))
    only = (n + 1, 0, n)[: n % 4]
    return Transition(history, (n, n + 1), (float(n), 0.0), (0.5, 0.25), 0.9, after, turn=n, only=only)


def unpacked(batch: Batch) -> list[Transition]:
    """What the tensors say, read back by a loop; asserts that padding is what the types promise."""

    def history(side: str, row: int) -> tuple[Interaction, ...]:
        states = getattr(batch, side)
        length = int(states.lengths[row])
        assert not states.items[row, length:].any()
        assert not states.responses[row, length:].any()
        pairs = zip(states.items[row, :length].tolist(), states.responses[row, :length].tolist(), strict=True)
        return tuple(Interaction(*pair) for pair in pairs)

    read = []
    named: list[list[int]] = batch.only.tolist() if batch.only is not None else [[]] * len(batch.actions)
    for row in range(len(batch.actions)):
        filled = [k for k in range(SLOTS) if batch.actions[row, k] != EMPTY_SLOT]
        assert filled == list(range(len(filled)))
        empty = slice(len(filled), None)
        assert not batch.rewards[row, empty].any()
        assert (batch.propensities[row, empty] == 1).all()
        read.append(
            Transition(
                history=history("state", row),
                actions=tuple(batch.actions[row, filled].tolist()),
                rewards=tuple(batch.rewards[row, filled].tolist()),
                propensities=tuple(batch.propensities[row, filled].tolist()),
                discount=float(batch.discount[row]),
                next_history=history("next_state", row),
                turn=int(batch.turn[row]),
                only=tuple(item for item in named[row] if item != EMPTY_SLOT),
                organic=batch.organic is not None and bool(batch.organic[row]),
            )
        )
    return read


def kept(transition: Transition, history: int = HISTORY, slots: int = SLOTS) -> Transition:
    """The part of a transition that a replay of these sizes promises to keep."""
    cut = {name: getattr(transition, name)[:slots] for name in ("actions", "rewards", "propensities")}
    histories = {name: getattr(transition, name)[-history:] for name in ("history", "next_history")}
    return dataclasses.replace(transition, **cut, **histories)


@given(st.lists(transitions(), min_size=1, max_size=12), st.integers(1, 5))
def test_what_was_added_comes_back(added: list[Transition], capacity: int) -> None:
    replay = Replay(capacity, HISTORY, SLOTS)
    for transition in added:
        replay.add(transition)
    assert len(replay) == min(len(added), capacity)
    assert unpacked(replay.latest(capacity)) == [kept(t) for t in added[-capacity:]]


def filled(n: int, capacity: int = 5) -> Replay:
    replay = Replay(capacity, HISTORY, SLOTS)
    for i in range(n):
        replay.add(numbered(i))
    return replay


def test_the_oldest_gives_way_and_the_latest_come_oldest_first() -> None:
    replay = filled(12)
    assert len(replay) == 5
    assert replay.latest(3).actions[:, 0].tolist() == [9, 10, 11]
    assert replay.latest(100).actions[:, 0].tolist() == [7, 8, 9, 10, 11]
    assert len(replay.latest(0).actions) == 0


@given(st.lists(transitions(), max_size=12), st.integers(0, 6))
def test_the_latest_impressions_are_without_what_was_not_shown(added: list[Transition], n: int) -> None:
    replay = Replay(5, HISTORY, SLOTS)
    for transition in added:
        replay.add(transition)
    shown = [kept(t) for t in added[-5:] if t.actions and not t.organic]
    assert unpacked(replay.latest_shown(n)) == shown[max(0, len(shown) - n) :]


def test_an_impression_that_was_forgotten_is_not_among_the_latest() -> None:
    replay = filled(3)
    replay.add(dataclasses.replace(numbered(3), owner=7))
    replay.add(dataclasses.replace(numbered(4), owner=7, organic=True))
    assert replay.latest_shown(5).actions[:, 0].tolist() == [0, 1, 2, 3]
    assert replay.forget(7) == 2
    assert replay.latest_shown(5).actions[:, 0].tolist() == [0, 1, 2]


def test_the_state_comes_back_bit_for_bit_and_goes_on_alike() -> None:
    for n in (0, 3, 5, 13):
        replay, copy = filled(n), Replay(5, HISTORY, SLOTS)
        state = replay.state_dict()
        copy.load_state_dict(state)
        for name, tensor in copy.state_dict().items():
            assert tensor.dtype == state[name].dtype
            assert torch.equal(tensor, state[name])
        replay.add(numbered(99))
        copy.add(numbered(99))
        assert unpacked(copy.latest(5)) == unpacked(replay.latest(5))
        assert torch.equal(copy.state_dict()["added"], torch.tensor(n + 1))


def test_a_state_that_was_taken_does_not_change() -> None:
    replay = filled(4)
    state = replay.state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    replay.add(numbered(50))
    replay.add(numbered(51))
    assert all(torch.equal(state[name], before[name]) for name in state)


def test_the_same_generator_draws_the_same_sample() -> None:
    replay = filled(9)
    first, again, other = (replay.sample(64, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert unpacked(first) == unpacked(again)
    assert unpacked(first) != unpacked(other)


def test_samples_are_uniform_over_what_is_held() -> None:
    n = 20_000
    drawn = filled(13).sample(n, torch.Generator().manual_seed(3)).actions[:, 0].numpy()
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [8, 9, 10, 11, 12]
    statistic = float(((counts - n / 5) ** 2 / (n / 5)).sum())
    assert statistic < 23.5  # chi-square with 4 degrees of freedom: p = 1e-4


def test_a_replay_that_is_not_full_draws_only_what_it_holds() -> None:
    drawn = filled(2).sample(200, torch.Generator().manual_seed(4)).actions[:, 0]
    assert set(drawn.tolist()) == {0, 1}


def packed(transitions: list[Transition], history: int, slots: int) -> Batch:
    """As a batch with rooms of these sizes."""
    replay = Replay(max(1, len(transitions)), history, slots)
    for transition in transitions:
        replay.add(transition)
    return replay.latest(len(transitions))


@given(
    st.lists(transitions(), max_size=9),
    st.lists(transitions(), max_size=5),
    st.integers(1, HISTORY),
    st.integers(1, SLOTS),
)
def test_many_at_once_are_as_one_after_the_other(
    before: list[Transition], added: list[Transition], history: int, slots: int
) -> None:
    capacity = 5  # so what came before ends anywhere in the ring, which `added` may pass
    at_once, one_by_one = Replay(capacity, HISTORY, SLOTS), Replay(capacity, HISTORY, SLOTS)
    for transition in before:
        at_once.add(transition)
        one_by_one.add(transition)
    at_once.extend(packed(added, history, slots))
    for transition in added:
        one_by_one.add(kept(transition, history, slots))
    assert at_once.added == one_by_one.added == len(before) + len(added)
    states = at_once.state_dict(), one_by_one.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
    assert unpacked(at_once.latest(len(added))) == [kept(t, history, slots) for t in added]


def test_more_than_the_ring_holds_is_refused() -> None:
    with pytest.raises(AssertionError):
        Replay(2, HISTORY, SLOTS).extend(packed([numbered(i) for i in range(3)], HISTORY, SLOTS))
