"""Prometheus metrics of one API process; what the worker knows comes from its last report in Redis."""

from __future__ import annotations

import time
from collections import deque

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service.store.events import Impression
from service.store.worker_report import WorkerReport

# OpenTelemetry's advised buckets for http.server.request.duration.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)


_RECENT = 4_096  # requests whose exact durations are kept, for the dashboard


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
        self.item_warnings = Counter(
            "ialp_item_warnings", "Put items whose text cannot be read or told apart", ["code"], registry=registry
        )
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
        self.roll_backs = Gauge(
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

    def count_slate(self, arm: str, impression: Impression | None) -> None:
        """Count a slate that was shown; a policy drew it if there is an impression of it."""
        if impression is not None:
            self.entropy.set(impression.entropy + 0.0)  # no -0.0
            self.mix_weight.set(impression.weight)
        self.impressions.labels(arm).inc()

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
            self.roll_backs.set(report.roll_backs)
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
