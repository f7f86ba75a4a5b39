"""Prometheus metrics of one API process; what the worker knows comes from its last report in Redis."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Annotated

import msgspec
from msgspec import Meta
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service.arm_watch import Finding, Power
from service.shadow import ShadowEstimate

log = logging.getLogger(__name__)

Count = Annotated[int, Meta(ge=0, le=2**53)]  # JSON's numbers have no end
Total = Annotated[float, Meta(ge=-1e100, le=1e100)]  # squares stay finite

# OpenTelemetry's advised buckets for http.server.request.duration.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)


class ArmTotals(msgspec.Struct):
    """Sums over an arm's closed impressions."""

    impressions: Count = 0
    reward: Total = 0.0
    reward_squared: Total = 0.0
    weight: Total = 0.0  # share of the learned policy in the mixture
    entropy: Total = 0.0  # of the policy, nats


class WorkerReport(msgspec.Struct):
    """What the worker last said of itself; written to Redis as JSON."""

    reported_at: float = 0.0
    cursor: str = "0-0"
    events: dict[str, Count] = {}  # read so far, by kind
    closed: int = 0  # impressions closed so far
    open: int = 0
    learner: dict[str, float] = {}  # losses and entropy of the last learning step
    alignment: dict[str, float] = {}  # how far the language model can be trusted, before any user and by their answers
    arms: dict[str, ArmTotals] = {}
    version: int = 0
    published_at: float = 0.0
    lag_s: float = 0.0  # age of the newest event when it was read
    gate_rejections: dict[str, Count] = {}
    off_policy: dict[str, float] = {}
    shadow: ShadowEstimate | None = None
    findings: list[Finding] = []  # the watch over what serves, by version it began with
    power: Power | None = None  # what loss that watch would notice
    retreats: Count = 0  # automatic roll-backs
    disk_errors: Count = 0  # checkpoints and versions that could not be written
    slots: Count = 0  # of closed impressions
    new_slots: Count = 0  # of these, those that showed items which came after the first version
    new_reward: float = 0.0  # of these
    refused: Count = 0  # versions in a row that the gate refused
    refusal: tuple[str, ...] = ()  # why it refused the last of them
    restarted_at: Count = 0  # the last version before the learner started again; 0: it never did
    restarted_from: Count = 0  # the version that it started again from
    until_version: Count = 0  # impressions that are still to close, or likes to come, before the next version
    coverage: float = 0.0  # share of the catalogue that the slates closed lately have shown


_RECENT = 4_096  # requests whose exact durations are kept, for the dashboard

_report = msgspec.json.Decoder(WorkerReport)


def decode_report(data: bytes) -> WorkerReport | None:
    """What a worker wrote; None, with a line in the log, if it is no report: the API has no use for half of one."""
    try:
        return _report.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        log.warning("the worker's report cannot be read: %s", error)
        return None


class Metrics:
    """The metrics that `/metrics` exposes."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Histogram(
            "http_server_request_duration_seconds",
            "Duration of HTTP requests",
            ["http_request_method", "http_route", "http_response_status_code"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.impressions = Counter("ialp_impressions", "Slates served", ["arm"], registry=registry)
        self.reward = Counter("ialp_reward", "Positive reward accepted", ["arm"], registry=registry)
        self.feedback = Counter("ialp_feedback", "Feedback events", ["outcome"], registry=registry)
        self.entropy = Gauge("ialp_policy_entropy", "Entropy of the last slate's policy, nats", registry=registry)
        self.mix_weight = Gauge("ialp_mix_weight", "Learned share in the last mixture", registry=registry)
        self.version = Gauge("ialp_policy_version", "Version in service", registry=registry)
        self.frozen = Gauge("ialp_policy_frozen", "1 while the kill switch is on", registry=registry)
        self.redis_up = Gauge("ialp_redis_up", "0 while Redis does not answer", registry=registry)
        self.policy_age = Gauge("ialp_policy_age_seconds", "Age of the version in service", registry=registry)
        self.lag = Gauge("ialp_feedback_lag_seconds", "Delay from the log to the learner", registry=registry)
        self.pending = Gauge("ialp_stream_pending", "Events not yet read by the worker", registry=registry)
        self.recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)  # /recommend: when it ended, how long it took
        # Told once the worker has reported: a 0 from a process that has not heard of it yet would be a fall.
        self.of_worker = CollectorRegistry()
        self._heard = False
        self.ess = Gauge("ialp_ope_ess", "Effective sample size of the off-policy estimate", registry=self.of_worker)
        self.rejections = Gauge(
            "ialp_gate_rejections_total", "Versions that the gate refused", ["reason"], registry=self.of_worker
        )
        self.events = Gauge("ialp_log_events_total", "Entries of the log taken in", ["kind"], registry=self.of_worker)
        self.retreats = Gauge(
            "ialp_rollbacks_total", "Automatic roll-backs of degraded versions", registry=self.of_worker
        )
        self.slots = Gauge("ialp_slots_total", "Slots of closed impressions", registry=self.of_worker)
        self.new_slots = Gauge(
            "ialp_new_item_slots_total", "Those that showed items newer than the first version", registry=self.of_worker
        )
        self.new_reward = Gauge("ialp_new_item_reward_total", "Reward of such slots", registry=self.of_worker)
        self.arm_slates = Gauge("ialp_arm_slates", "Closed impressions", ["arm"], registry=self.of_worker)
        self.arm_reward = Gauge(
            "ialp_arm_reward", "Reward of closed impressions, dislikes included", ["arm"], registry=self.of_worker
        )
        self.disk_errors = Gauge(
            "ialp_worker_disk_errors_total",
            "Checkpoints and versions that could not be written",
            registry=self.of_worker,
        )

    def exposition(
        self, report: WorkerReport | None, version: int, created_at: float, pending: int, lag_s: float
    ) -> bytes:
        """The text format, with gauges brought up to date; `lag_s` is what this process sees of a worker that may be
        away."""
        self.version.set(version)
        self.policy_age.set(max(0.0, time.time() - created_at) if version else 0.0)
        self.pending.set(pending)
        self.lag.set(lag_s if report is None else max(lag_s, report.lag_s))
        if report is not None:
            self._heard = True
            for kind, count in report.events.items():
                self.events.labels(kind).set(count)
            self.ess.set(report.off_policy.get("ess", 0.0))
            self.retreats.set(report.retreats)
            self.slots.set(report.slots)
            self.new_slots.set(report.new_slots)
            self.new_reward.set(report.new_reward)
            self.disk_errors.set(report.disk_errors)
            for arm, totals in report.arms.items():
                self.arm_slates.labels(arm).set(totals.impressions)
                self.arm_reward.labels(arm).set(totals.reward)
            for reason, count in report.gate_rejections.items():
                self.rejections.labels(reason).set(count)
        return generate_latest(self.registry) + (generate_latest(self.of_worker) if self._heard else b"")
