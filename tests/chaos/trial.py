"""One fault under load: what the clients saw, what the log holds, what the worker learned, how long recovery took."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from redis.exceptions import RedisError

from service.store.events import Event, Feedback, Impression
from service.store.worker_report import WorkerReport
from tests.chaos.deployment import Deployment
from tests.chaos.faults import Fault
from tests.chaos.load import Attempt, Load, Seen
from tests.service.service_examples import logged, until

PHASES = ("before", "during", "after")
ROUTES = ("/recommend", "/feedback")
_RECOVERY_S = 60.0
_POLL_S = 0.01


@dataclass(frozen=True)
class Pace:
    """How long there is load before, during and after a fault, in seconds; recovery takes its own time."""

    before_s: float
    during_s: float
    after_s: float


SHORT, LONG = Pace(0.5, 1.5, 0.5), Pace(4.0, 6.0, 3.0)


@dataclass
class Trial:
    """All that is known of one fault at its end."""

    fault: Fault
    pace: Pace
    seen: Seen
    began: float = 0.0  # monotonic, seconds
    lifted: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)  # what the fault says of itself; `damaged_at`: monotonic
    recovery_s: dict[str, float] = field(default_factory=dict)
    log: list[Event] = field(default_factory=list)
    report: WorkerReport = field(default_factory=WorkerReport)

    def phase(self, name: str) -> list[Attempt]:
        """The attempts of a phase; one that reaches into the fault belongs to `during`."""
        attempts = self.seen.attempts
        if name == "before":
            return [a for a in attempts if a.ended < self.began]
        if name == "after":
            return [a for a in attempts if a.started > self.lifted]
        return [a for a in attempts if a.ended >= self.began and a.started <= self.lifted]

    @property
    def logged_ids(self) -> Counter[str]:
        """How often the log holds each feedback event."""
        return Counter(event.event_id for event in self.log if isinstance(event, Feedback))

    @property
    def logged_slates(self) -> Counter[str]:
        """How often the log holds each impression."""
        return Counter(event.recommendation_id for event in self.log if isinstance(event, Impression))

    @property
    def logged_kinds(self) -> dict[str, int]:
        """Events of the log by kind."""
        return dict(Counter(type(event).__name__.lower() for event in self.log))

    @property
    def learned_kinds(self) -> dict[str, int]:
        """Events that the worker took in, by kind; feedback in one, whatever it was joined with."""
        kinds: Counter[str] = Counter()
        for kind, count in self.report.events.items():
            kinds[kind.split("_")[0]] += count
        return dict(kinds)

    def record(self) -> dict[str, Any]:
        """As one line of JSON."""
        acknowledged, ids, slates = self.seen.acknowledged, self.logged_ids, self.logged_slates
        return {
            "fault": self.fault.name,
            "tells": self.fault.tells,
            "answers": {p: {r: self._outcomes(p, r) for r in ROUTES} for p in PHASES},
            "warnings": {p: dict(Counter(w for a in self.phase(p) for w in a.warnings)) for p in PHASES},
            "feedback": {
                "sent": len(self.seen.sent),
                "acknowledged": len(acknowledged),
                "logged": ids.total(),
                "learned": self.learned_kinds.get("feedback", 0),
                "acknowledged_not_logged": sum(1 for event_id in acknowledged if ids[event_id] == 0),
                "logged_twice": sum(1 for count in ids.values() if count > 1),
                "retries_told_duplicate": self.seen.duplicates,
                "learned_as": {k: v for k, v in sorted(self.report.events.items()) if k.startswith("feedback_")},
            },
            "impressions": {
                "answered_as_logged": len(self.seen.logged_slates),
                "logged": slates.total(),
                "learned": self.learned_kinds.get("impression", 0),
                "answered_not_logged": sum(1 for slate in self.seen.logged_slates if slates[slate] == 0),
                "logged_twice": sum(1 for count in slates.values() if count > 1),
            },
            "facts": {name: fact for name, fact in self.facts.items() if name != "damaged_at"},
            "machine": {"cpus": os.cpu_count(), "load_average": round(os.getloadavg()[0], 1)},
            "seconds": {"before": self.pace.before_s, "fault": round(self.lifted - self.began, 2)},
            "recommend_ms": {p: self._latency(p) for p in PHASES},
            "recovery_s": {name: round(seconds, 2) for name, seconds in self.recovery_s.items()},
        }

    def _outcomes(self, phase: str, route: str) -> dict[str, int]:
        return dict(sorted(Counter(a.outcome for a in self.phase(phase) if a.route == route).items()))

    def _latency(self, phase: str) -> dict[str, float]:
        answered = [a.latency_s * 1000 for a in self.phase(phase) if a.route == "/recommend" and a.status == 200]
        if not answered:
            return {"n": 0}
        p50, p99 = np.percentile(answered, [50, 99])
        return {"n": len(answered), "p50": round(float(p50), 1), "p99": round(float(p99), 1)}


def run_trial(fault: Fault, deployment: Deployment, pace: Pace, seed: int) -> Trial:
    """Load, then the fault, then recovery, then the end of the load; and what is left of it all."""
    load = Load(deployment.urls, seed)
    trial = Trial(fault, pace, load.seen)
    load.start()
    try:
        # A worker with nothing to resume from has nothing to lose.
        until(lambda: deployment.report.version >= 2, "a version, and with it a checkpoint")
        time.sleep(pace.before_s)
        trial.began = time.monotonic()
        trial.facts = fault.strike(deployment, lambda share=1.0: time.sleep(share * pace.during_s)) or {}
        trial.lifted = time.monotonic()
        trial.recovery_s = _recovery(trial, deployment)
        time.sleep(pace.after_s)
    finally:
        load.stop()
    until(lambda: deployment.worked(deployment.last_entry), "the end of the log")
    trial.report = deployment.report
    trial.log = logged(deployment.redis, deployment.settings)
    return trial


def _recovery(trial: Trial, d: Deployment) -> dict[str, float]:
    """Seconds from the fault's end until each part did its work again; fails if one does not within a minute."""
    newest: list[str] = []  # the log's end when Redis first answered
    closed: list[int] = []  # impressions closed when the worker had come that far

    def caught_up() -> bool:
        newest[:] = newest or [d.last_entry]
        return d.worked(newest[0])

    def learning() -> bool:
        if not closed and caught_up():
            closed.append(d.report.closed + d.report.open)
        return bool(closed) and d.report.closed > closed[0]

    parts: dict[str, Callable[[], bool]] = {
        "ready": lambda: all(d.ready(url) for url in d.urls),
        "recommend": lambda: _succeeded(trial, "/recommend"),
        "feedback": lambda: _succeeded(trial, "/feedback"),
        "worker_caught_up": caught_up,
    }
    if trial.fault.event_time_stays:
        parts["learning"] = learning
    recovered: dict[str, float] = {}
    while len(recovered) < len(parts):
        for name in parts.keys() - recovered.keys():
            with contextlib.suppress(RedisError):
                if parts[name]():
                    recovered[name] = time.monotonic() - trial.lifted
        waited = time.monotonic() - trial.lifted
        assert waited < _RECOVERY_S, f"{trial.fault.name}: no recovery of {sorted(parts.keys() - recovered.keys())}"
        time.sleep(_POLL_S)
    return {name: recovered[name] for name in parts}


def _succeeded(trial: Trial, route: str) -> bool:
    attempts = trial.seen.attempts[:]
    return any(a.route == route and a.started > trial.lifted and a.status in (200, 202) for a in attempts)
