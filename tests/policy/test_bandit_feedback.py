"""obp's form of a log: rounds, contexts and the file, against numbers worked out by hand."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from service.policy.bandit_feedback import Blocks, bandit_feedback, npz
from service.policy.indexed_log import index_slates
from service.policy.logged import LoggedSlate

ITEMS = {"a": 0, "b": 1, "c": 2}
TEXT = np.array([[1.0, 0.0], [0.0, 1.0], [0.25, 0.75]])


def slate(items: str, rewards: tuple[float, ...], history: dict[str, float]) -> LoggedSlate:
    return LoggedSlate(
        recommendation_id="r",
        user="u:ann",
        at_ms=0,
        arm="adaptive",
        policy_version=1,
        history_items=tuple(history),
        history_rewards=tuple(history.values()),
        items=tuple(items),
        propensities=tuple(0.5 / (slot + 1) for slot in range(len(items))),
        rewards=rewards,
        candidate_hash="",
        masked=(),
        candidates=None,
        n_items=3,
        hidden=(),
        verified=True,
        weight=0.5,
        entropy=1.0,
    )


SLATES = [
    slate("ab", (0.0, 1.0), {}),
    slate("xc", (1.0, -1.0), {"a": 1.0, "b": 1.0, "c": -1.0, "x": 1.0}),  # nothing is known of x
    slate("c", (0.0,), {"b": 0.0}),
]


def read(data: bytes) -> dict[str, npt.NDArray[Any]]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return dict(file)


def test_a_slot_is_a_round_and_a_session_its_context() -> None:
    made = bandit_feedback([index_slates(SLATES, ITEMS, 4)], TEXT)
    assert (made["n_rounds"], made["n_actions"]) == (4, 3)
    assert made["action"].tolist() == [0, 1, 2, 2]
    assert made["position"].tolist() == [0, 1, 1, 0]
    assert made["reward"].tolist() == [0.0, 1.0, -1.0, 0.0]
    assert made["pscore"].tolist() == [0.5, 0.25, 0.25, 0.5]
    nothing = [0.0] * 6
    known = [0.5, 0.5, 0.25, 0.75, 0.0, 0.0]  # liked a and b, disliked c
    assert made["context"].whole().tolist() == [nothing, nothing, known, [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]]
    assert "pi_b" not in made


@pytest.mark.parametrize("n", [1, 700])  # fewer rounds than a block has, and more
def test_a_log_in_parts_is_the_same_log(n: int) -> None:
    slates = SLATES * n
    whole = bandit_feedback([index_slates(slates, ITEMS, 4)], TEXT)
    parts = bandit_feedback([index_slates(slates[start::7], ITEMS, 9) for start in range(7) if slates[start::7]], TEXT)
    order = np.concatenate([np.arange(len(slates))[start::7] for start in range(7)])
    rounds = [len([item for item in one.items if item in ITEMS]) for one in slates]
    first = np.cumsum([0, *rounds])
    picked = np.concatenate([np.arange(first[row], first[row + 1]) for row in order])
    for name in ("action", "position", "reward", "pscore"):
        np.testing.assert_array_equal(parts[name], whole[name][picked])
    np.testing.assert_array_equal(parts["context"].whole(), whole["context"].whole()[picked])


def test_the_file_holds_what_was_made() -> None:
    made = bandit_feedback([index_slates(SLATES * 500, ITEMS, 4)], TEXT.astype(np.float32))
    found = read(b"".join(npz(made | {"item_ids": np.array([*ITEMS, "Ω"])})))
    assert list(found) == [*made, "item_ids"]
    assert (found["n_rounds"].item(), found["n_actions"].item()) == (2000, 3)
    assert found["item_ids"].tolist() == ["a", "b", "c", "Ω"]
    assert found["context"].dtype == np.float32
    again = bandit_feedback([index_slates(SLATES * 500, ITEMS, 4)], TEXT.astype(np.float32))
    np.testing.assert_array_equal(found["context"], again["context"].whole())
    for name in ("action", "position", "reward", "pscore", "action_context"):
        np.testing.assert_array_equal(found[name], made[name])


def test_numbers_and_texts_of_nothing_come_back() -> None:
    found = read(b"".join(npz(bandit_feedback([], TEXT[:0]) | {"item_ids": np.array([], np.str_)})))
    assert found["n_rounds"] == 0 and found["context"].shape == (0, 6) and found["action"].dtype == np.int64


def test_a_block_is_gone_before_the_next_is_made() -> None:
    """What is written comes out as it is made: nobody has to hold all of it."""
    rows, out = 0, 0

    def blocks() -> Iterator[npt.NDArray[np.float64]]:
        nonlocal rows
        for number in range(50):
            rows += 2_000
            assert out >= (number - 2) * 10_000, "what was made before has been given out"
            yield np.random.default_rng(number).normal(size=(2_000, 2))

    for part in npz({"context": Blocks((100_000, 2), np.dtype(np.float64), blocks())}):
        out += len(part)
    assert rows == 100_000 and out > 1_000_000
