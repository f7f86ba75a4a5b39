"""Agreement with Open Bandit Pipeline: on its sample of the Open Bandit Dataset, and on a log of ours in its form."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas
import pytest

from offline.ope import estimators as ope
from offline.ope.evaluation import per_slot_terms
from offline.ope.feedback import bandit_feedback, load_bandit_feedback, save_bandit_feedback
from offline.ope.log import Log
from offline.ope.replay import replay
from offline.ope.target import Target, index_log
from service.policy.off_policy import Terms, estimate, snips
from service.policy.sampling import Probs
from tests.offline import open_bandit
from tests.offline.ope_examples import probabilities

N_ACTIONS, N_POSITIONS = 80, 3
TAU = 2.0


@pytest.fixture(scope="module")
def obp() -> Any:
    """The package."""
    return open_bandit.imported()


class Bandit(NamedTuple):
    """Logged rounds with a target policy and a reward model."""

    action: npt.NDArray[np.int64]  # [n]
    position: npt.NDArray[np.int64]  # [n]
    reward: Probs  # [n]
    pscore: Probs  # [n]
    action_dist: Probs  # [n, A, K]
    predicted: Probs  # [n, A, K]

    def terms(self, tau: float) -> dict[str, Terms]:
        """Our estimators'."""
        rows = np.arange(len(self.action))
        pi, q = self.action_dist[rows, :, self.position], self.predicted[rows, :, self.position]
        ratios = pi[rows, self.action] / self.pscore
        q_logged, q_target = q[rows, self.action], (pi * q).sum(1)
        return {
            "ipw": ope.ips(self.reward, ratios),
            "snipw": snips(self.reward, ratios),
            "dm": ope.direct_method(q_target),
            "dr": ope.doubly_robust(self.reward, ratios, q_logged, q_target),
            "switch-dr": ope.switch_doubly_robust(self.reward, ratios, q_logged, q_target, tau),
        }


def theirs(obp: Any, bandit: Bandit, tau: float) -> dict[str, float]:
    """obp's estimates."""
    estimators = {
        "ipw": obp.ope.InverseProbabilityWeighting(),
        "snipw": obp.ope.SelfNormalizedInverseProbabilityWeighting(),
        "dm": obp.ope.DirectMethod(),
        "dr": obp.ope.DoublyRobust(),
        "switch-dr": obp.ope.SwitchDoublyRobust(tau=tau),
    }
    given = bandit._asdict()
    given["estimated_rewards_by_reg_model"] = given.pop("predicted")
    return {name: float(estimator.estimate_policy_value(**given)) for name, estimator in estimators.items()}


def sample(folder: Path) -> Bandit:
    """The sample in `folder`, a target that likes what the user is close to, and a reward model from the rounds."""
    table = pandas.read_csv(folder / "all.csv", index_col=0)
    action = table["item_id"].to_numpy()
    position = table["position"].rank(method="dense").to_numpy().astype(np.int64) - 1
    reward = table["click"].to_numpy().astype(np.float64)
    affinity = table[[f"user-item_affinity_{item}" for item in range(N_ACTIONS)]].to_numpy()
    rng = np.random.default_rng(0)
    logits = affinity[:, :, np.newaxis] + rng.normal(size=(N_ACTIONS, N_POSITIONS))
    action_dist = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    shown, clicked = np.full((N_ACTIONS, N_POSITIONS), 100.0), np.full((N_ACTIONS, N_POSITIONS), 0.4)
    np.add.at(shown, (action, position), 1.0)
    np.add.at(clicked, (action, position), reward)
    predicted = np.clip(clicked / shown + 0.001 * affinity[:, :, np.newaxis], 0.0, 1.0)
    return Bandit(action, position, reward, table["propensity_score"].to_numpy(), action_dist, predicted)


@pytest.mark.parametrize("policy", ["random", "bts"])
def test_on_the_open_bandit_sample(obp: Any, policy: str) -> None:
    bandit = sample(Path(obp.__file__).parent / "dataset" / "obd" / policy / "all")
    assert len(bandit.action) == 10_000
    assert set(bandit.position.tolist()) == set(range(N_POSITIONS))
    for tau in (TAU, math.inf):
        expected = theirs(obp, bandit, tau)
        ours = {name: estimate(terms).value for name, terms in bandit.terms(tau).items()}
        assert ours == pytest.approx(expected, rel=0, abs=1e-6)
        assert ours == pytest.approx(expected, rel=1e-9)
        assert len({round(value, 12) for value in expected.values()}) >= (5 if tau == TAU else 4)  # they do differ


def test_a_log_of_ours_in_their_form(obp: Any, log: Log, target: Target, tmp_path: Path) -> None:
    """obp, told the target's probabilities given the slots above, finds what we find."""
    indexed = index_log(log, target)
    save_bandit_feedback(bandit_feedback(indexed, target), tmp_path / "feedback.npz")
    feedback = load_bandit_feedback(tmp_path / "feedback.npz")
    assert "pi_b" not in feedback
    n = feedback["n_rounds"]
    rows = np.arange(n)
    slate, _ = np.nonzero(indexed.filled)
    above = np.stack([indexed.shown[slate, slot] for slot in range(N_POSITIONS)], 1)
    dist = probabilities(log, target)[slate]
    for slot in range(N_POSITIONS):
        dist[rows[feedback["position"] > slot], above[feedback["position"] > slot, slot]] = 0.0
    dist /= dist.sum(1, keepdims=True)
    given = {name: feedback[name] for name in ("action", "position", "reward", "pscore")}
    repeated = np.repeat(dist[:, :, np.newaxis], N_POSITIONS, 2)
    expected = theirs(obp, Bandit(**given, action_dist=repeated, predicted=np.zeros_like(repeated)), TAU)
    replayed = replay(log, indexed, target, 5, 0)
    slots = indexed.filled
    none = np.zeros(n)
    ours = per_slot_terms(indexed.rewards[slots], replayed.ratios[slots], none, none, TAU)
    assert estimate(ours["ips"]).value == pytest.approx(expected["ipw"], abs=1e-6)
    assert estimate(ours["snips"]).value == pytest.approx(expected["snipw"], abs=1e-6)
