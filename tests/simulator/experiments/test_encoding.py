"""Policies see a simulated session as the service would log it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.policy.types import Interaction, pack_states, session_state
from simulator.experiments.seam.agent import Sessions
from simulator.experiments.seam.encoding import states_of


@given(
    n=st.integers(1, 4),
    turns=st.integers(0, 6),
    k=st.integers(1, 4),
    n_responses=st.integers(1, 5),
    n_shown=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_states_equal_those_of_each_session_alone(
    n: int, turns: int, k: int, n_responses: int, n_shown: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shown = np.stack([rng.permutation(turns * k + 3)[: turns * k].reshape(turns, k) for _ in range(n)])
    empty = rng.random(shown.shape) < 0.1
    responses = (rng.random(shown.shape) < 0.4) & ~empty
    shown = np.where(empty, -1, shown)
    states = states_of(Sessions(shown, responses, np.zeros((n, turns * k + 3), np.bool_)), n_responses, n_shown)

    histories = []
    for row in range(n):
        pairs = [(int(i), bool(r)) for i, r in zip(shown[row].ravel(), responses[row].ravel(), strict=True) if i >= 0]
        liked = [(item, 1.0) for item, positive in pairs if positive]
        # All responses count as answered, whether they still fit in or not.
        ignored = [item for item, positive in pairs if not positive]
        state = session_state(liked[-n_responses:], ignored, n_shown)
        histories.append(tuple(Interaction(item, reward) for item, reward in state))
    expected = pack_states(histories, n_responses + n_shown)
    for ours, theirs in zip(states[:3], expected[:3], strict=True):
        assert ours.tolist() == theirs.tolist()
