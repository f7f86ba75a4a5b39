"""Cost of a bad version before it is rolled back: the worker's watch, on users whose truth is known.

A deployment in short: users are split into a frozen control and an adaptive arm by the service's own hash, the learner
publishes a version every so many slates, `service.worker.arm_watch` watches what serves, and a regression that it
finds is rolled back as the worker does. Into this comes a fault:

- `bad_update`: from one version on, a sign error reverses the order of the adaptive arm's items, the least likely one
  for the likeliest (which neither weights nor entropy show; the gate's estimate would, but is passed over here);
- `taste_shift`: all users' tastes are reversed over night: the most popular item becomes the least popular, and so on;
- `none`: nothing, for as long as the others; a roll-back is a false alarm.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from service.policy.exact_policy import ExactPolicy
from service.policy.sampling import sample_slates
from service.policy.variants import Arm
from service.settings import Settings
from service.store import sessions
from service.worker.arm_watch import ArmWatch
from simulator.experiments.methods.learned import LearnedAgent
from simulator.experiments.seam.agent import Bools, Outcome, Sessions, Setting, Slates
from simulator.experiments.seam.encoding import states_of
from simulator.world.environment import SessionBatch, World

Fault = Literal["none", "bad_update", "taste_shift"]
_LOOK_EVERY = 32  # slates between looks at the arms, as in the worker


@dataclass(frozen=True)
class Plan:
    """Course of one deployment. Defaults of the watch, the arms and the versions are the service's."""

    fault: Fault
    seed: int
    n_sessions: int = 6_000
    fault_at: int = 2_000  # session
    concurrent: int = 100
    watched: bool = True
    learns: bool = True  # without, both arms get the frozen policy: a roll-back can only be a false alarm
    control_share: float = Settings.model_fields["control_share"].default
    publish_every: int = Settings.model_fields["publish_every"].default
    margin: float = Settings.model_fields["watch_margin"].default
    alpha: float = Settings.model_fields["watch_alpha"].default


@dataclass(frozen=True)
class DeploymentResult:
    """Outcome of a deployment. Rewards are per slate; `lost`: how much more the control's policy would have earned."""

    plan: Mapping[str, Any]
    fault_at: int | None  # slate of the first version or user that the fault touched
    retreated_at: int | None  # slate of the first roll-back
    serves: str | None  # what served after it
    before: tuple[float, float]  # control and adaptive, from the start to the fault
    during: tuple[float, float]  # from the fault to the roll-back, or to the end
    after: tuple[float, float]  # from the roll-back to the end; zeros without one
    lost: float  # reward lost from the fault to the roll-back, or to the end
    slates: int


class _Deployment(LearnedAgent):
    """The learner with versions: what serves changes only when one is published."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.version = 1
        self.versions: dict[int, ExactPolicy] = {1: self._copy()}
        self.live = 1
        self.first_broken = 2**62  # version

    def _copy(self) -> ExactPolicy:
        actor = deepcopy(self._learner.actor)
        return ExactPolicy(self._pretrained_net, actor, actor, self._serving)

    def publish(self, serve: bool) -> None:
        self.version += 1
        self.versions[self.version] = self._copy()
        if serve:
            self.live = self.version

    def slates(self, requests: Sessions, control: Bools) -> Slates:
        """[n] sessions, of which `control` get the frozen policy."""
        self._states = states_of(requests)
        available = ~requests.seen
        live, frozen = self.versions[self.live], self.versions[1]
        probs = live.distributions(self._states, available).probs
        if self.live >= self.first_broken:
            probs = reverse_order(probs, available)
        if control.any():
            probs[control] = frozen.distributions(self._states, available, Arm.CONTROL).probs[control]
        drawn = sample_slates(probs, self._slate_size, self._rng)
        return Slates(drawn.items, drawn.propensities)


class _Tally:
    """Slates and reward by phase (before, during, after) and arm (control, adaptive)."""

    def __init__(self) -> None:
        self.slates = np.zeros((3, 2))
        self.reward = np.zeros((3, 2))

    def add(self, phase: int, control: Bools, reward: npt.NDArray[np.float64]) -> None:
        for arm, rows in enumerate((control, ~control)):
            self.slates[phase, arm] += rows.sum()
            self.reward[phase, arm] += reward[rows].sum()

    def means(self, phase: int) -> tuple[float, float]:
        control, adaptive = self.reward[phase] / np.maximum(self.slates[phase], 1)
        return round(float(control), 4), round(float(adaptive), 4)


def simulate(world: World, setting: Setting, plan: Plan) -> DeploymentResult:
    """Simulate one deployment."""
    return _Simulation(world, setting, plan).play()


class _Simulation:
    def __init__(self, world: World, setting: Setting, plan: Plan) -> None:
        self.world, self.plan = world, plan
        self.deployment = _Deployment(setting)
        self.arm_watch = ArmWatch(plan.margin, plan.alpha)
        self.names = [f"u:{user}" for user in range(world.n_users)]
        self.is_control = np.array([sessions.share_of(name, "arm") < plan.control_share for name in self.names])
        self.tally = _Tally()
        self.slates = self.unpublished = 0
        self.fault_at: int | None = None
        self.retreated_at: int | None = None
        self.frozen = False

    @property
    def phase(self) -> int:
        """Before, during, after."""
        return 2 if self.retreated_at is not None else 0 if self.fault_at is None else 1

    def play(self) -> DeploymentResult:
        plan = self.plan
        users = np.random.default_rng([plan.seed, 0]).integers(self.world.n_users, size=plan.n_sessions)
        batch = SessionBatch(self.world, np.random.default_rng([plan.seed, 1]))
        for start in range(0, plan.n_sessions, plan.concurrent):
            if self.fault_at is None and start >= plan.fault_at:
                self._strike(batch)
            batch.reset(users[start : start + plan.concurrent], first=start)
            self._wave(batch)
        served = None if self.retreated_at is None else "the frozen policy" if self.frozen else "an older version"
        tally = self.tally
        control, adaptive = tally.means(1)
        return DeploymentResult(
            plan=asdict(plan),
            fault_at=self.fault_at,
            retreated_at=self.retreated_at,
            serves=served,
            before=tally.means(0),
            during=(control, adaptive),
            after=tally.means(2),
            lost=round((control - adaptive) * float(tally.slates[1, 1]), 1),
            slates=self.slates,
        )

    def _strike(self, batch: SessionBatch) -> None:
        self.fault_at = self.slates
        if self.plan.fault == "bad_update" and self.retreated_at is None:
            self.deployment.first_broken = self.deployment.version + 1
            self.deployment.publish(serve=True)
        elif self.plan.fault == "taste_shift":
            batch.world = reverse_popularity(self.world)

    def _wave(self, batch: SessionBatch) -> None:
        live = np.arange(len(batch.users))
        for turn in range(batch.world.config.max_turn):
            requests = Sessions(batch.shown[live, :turn], batch.responses[live, :turn], batch.seen[live])
            # After the kill switch everybody gets the frozen policy, but users stay in their arms.
            control = self.is_control[batch.users[live]]
            slates = self.deployment.slates(requests, control | self.frozen)
            rewards, done = batch.show(slates.items, live)
            if self.plan.learns:
                self.deployment.observe(requests, slates, Outcome(rewards, done))
            earned = rewards.sum(1).astype(np.float64)
            self.tally.add(self.phase, control, earned)
            self._watch(batch.users[live], control, earned)
            self._publish(len(live))
            live = live[~done]
            if not len(live):
                return

    def _watch(self, users: npt.NDArray[np.integer], control: Bools, earned: npt.NDArray[np.float64]) -> None:
        for user, is_control, reward in zip(users, control, earned, strict=True):
            arm = "control" if is_control else "adaptive"
            self.arm_watch.add(arm, self.deployment.live, self.names[user], float(reward))
            self.slates += 1
            if self.slates % _LOOK_EVERY == 0 and self.plan.watched and self.retreated_at is None:
                regression = self.arm_watch.regression()
                if regression is not None:
                    self._roll_back(regression.since_version)

    def _roll_back(self, since_version: int) -> None:
        target = self.arm_watch.safest(before=since_version)
        self.arm_watch.dismiss(since_version, self.deployment.version)
        self.frozen = target is None
        self.deployment.live = target or 1
        self.retreated_at = self.slates

    def _publish(self, n: int) -> None:
        self.unpublished += n
        if self.unpublished >= self.plan.publish_every:
            self.unpublished = 0
            self.deployment.publish(serve=self.retreated_at is None)


def reverse_order(probs: npt.NDArray[np.float64], available: Bools) -> npt.NDArray[np.float64]:
    """Reverse the probabilities [B, A] among `available` items: the largest for the least likely, and so on."""
    turned = np.zeros_like(probs)
    for row, items in enumerate(available):
        places = np.flatnonzero(items)
        order = places[np.argsort(probs[row, places], kind="stable")]
        turned[row, order] = probs[row, order[::-1]]
    return turned


def reverse_popularity(world: World) -> World:
    """Exchange the items' truths: the most popular item gets that of the least popular, and so on; users stay."""
    by_popularity = np.argsort(world.popularity, kind="stable")
    part_of = np.empty_like(by_popularity)
    part_of[by_popularity] = by_popularity[::-1]
    truth = world.users
    users = replace(truth, item_factors=truth.item_factors[part_of], item_bias=truth.item_bias[part_of])
    return World(users, world.config)
