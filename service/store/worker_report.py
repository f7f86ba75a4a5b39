"""The worker's report: one JSON document in Redis, which the API and the dashboard read."""

from __future__ import annotations

import logging
from typing import Annotated

import msgspec
from msgspec import Meta

log = logging.getLogger(__name__)

Count = Annotated[int, Meta(ge=0, le=2**53)]  # JSON's numbers have no end
Total = Annotated[float, Meta(ge=-1e100, le=1e100)]  # squares stay finite


class Finding(msgspec.Struct, frozen=True):
    """Result of the watch's test on everything that served since a version began."""

    since_version: int
    difference: float
    low: float
    high: float
    control: float
    alpha: float


LEAST_GROUPS = 6  # with users in them, for a standard error at all


def worth_noticing(margin: float) -> float:
    """Share of the control's reward that users should not lose unnoticed; more where the margin is large."""
    return max(0.25, 2 * margin)


class Power(msgspec.Struct, frozen=True):
    """Loss that the watch would notice by now, from everything that still counts."""

    groups: int  # of users in the smaller arm; below `LEAST_GROUPS` nothing can be said
    control: int  # closed slates of the control
    least_loss: float | None  # share of the control's reward; None where no loss would be noticed
    more_control: int | None  # the control's until a loss that is `worth_noticing` would be; None: cannot be told


class ShadowEstimate(msgspec.Struct, frozen=True):
    """Estimated reward per slot of the shadow version, with a 95% interval; None where the log cannot tell."""

    version: int
    impressions: int
    agreement: float
    value: float | None
    low: float | None
    high: float | None
    ess: float


class ArmTotals(msgspec.Struct):
    """Sums over an arm's closed impressions."""

    impressions: Count = 0
    reward: Total = 0.0
    reward_squared: Total = 0.0
    weight: Total = 0.0  # share of the learned policy in the mixture
    entropy: Total = 0.0  # of the policy, nats

    def add(self, reward: float, weight: float, entropy: float) -> None:
        """Add an impression's."""
        self.impressions += 1
        self.reward += reward
        self.reward_squared += reward**2
        self.weight += weight
        self.entropy += entropy


class WorkerReport(msgspec.Struct):
    """The worker's last report; written to Redis as JSON."""

    reported_at: float = 0.0
    cursor: str = "0-0"
    events: dict[str, Count] = {}  # read so far, by kind
    closed: int = 0  # impressions closed so far
    open: int = 0
    learner: dict[str, float] = {}  # losses and entropy of the last learning step
    alignment: dict[str, float] = {}  # how far the language model can be trusted, before any user and by their answers
    arms: dict[str, ArmTotals] = {}
    placements: dict[str, dict[str, ArmTotals]] = {}  # arms by placement
    version: int = 0
    published_at: float = 0.0
    lag_s: float = 0.0  # age of the newest event when it was read
    gate_rejections: dict[str, Count] = {}
    off_policy: dict[str, float] = {}
    shadow: ShadowEstimate | None = None
    findings: list[Finding] = []  # the watch over what serves, by version it began with
    power: Power | None = None  # what loss that watch would notice
    roll_backs: Count = msgspec.field(default=0, name="retreats")  # automatic ones
    disk_errors: Count = 0  # checkpoints and versions that could not be written
    slots: Count = 0  # of closed impressions
    new_slots: Count = 0  # of these, those that showed items which came after the first version
    new_reward: float = 0.0  # of these
    refused: Count = 0  # versions in a row that the gate refused
    refusal: tuple[str, ...] = ()  # why it refused the last of them
    restarted_at: Count = 0  # the last version before the learner started again; 0: it never did
    restarted_from: Count = 0  # the version that it started again from
    until_version: Count = 0  # impressions that are still to close, or likes to come, before the next version
    towards_version: Count = 0  # impressions that closed, and likes that came, towards the next version
    coverage: float = 0.0  # share of the catalogue that the slates closed lately have shown


_report = msgspec.json.Decoder(WorkerReport)


def decode_report(data: bytes) -> WorkerReport | None:
    """Decode a report; None, with a line in the log, if it cannot be read: the API has no use for half of one."""
    try:
        return _report.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        log.warning("the worker's report cannot be read: %s", error)
        return None
