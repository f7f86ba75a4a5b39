"""A slate's name tells when it was made and for whom."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.store.slate_ids import new_id, outcome, unlogged_id


@given(user=st.text(max_size=50), other=st.text(max_size=50))
def test_a_slate_is_its_users_and_nobody_elses(user: str, other: str) -> None:
    name = new_id(user)
    assert len(name) == 32 and int(name, 16) >= 0 and name != new_id(user)
    assert outcome(name, user, 600) == "teaches"
    assert outcome(name, other, 600) == ("teaches" if other == user else "foreign")


@given(name=st.text(max_size=40))
def test_any_other_name_is_unknown_late_or_foreign(name: str) -> None:
    assert outcome(name, "u:ann", 600) in ("unknown", "late", "foreign")


def test_a_slate_that_no_policy_drew_is_unknown() -> None:
    assert len(unlogged_id()) == 32 and unlogged_id() != unlogged_id()
    assert outcome(unlogged_id(), "u:ann", 600) == "unknown"


def test_the_reward_window_is_counted_from_its_making(monkeypatch: pytest.MonkeyPatch) -> None:
    name, now = new_id("u:ann"), time.time()
    for later, expected in ((9.0, "teaches"), (11.0, "late"), (-30.0, "teaches"), (-3_600.0, "unknown")):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        assert outcome(name, "u:ann", 10.0) == expected
    assert outcome(None, "u:ann", 10.0) == "organic"
