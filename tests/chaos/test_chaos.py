"""Whatever breaks: what was acknowledged is logged and learned exactly once, and clients see clean answers."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.chaos.deployment import Deployment
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.load import Attempt, Load
from tests.chaos.trial import LONG, SHORT, Trial, run_trial
from tests.service.service_examples import until

pytestmark = pytest.mark.exclusive

# The contract's statuses under load; 429 and 503 are clean refusals, which say when to come back.
_DOCUMENTED = {"/recommend": {200, 429, 503}, "/feedback": {202, 429, 503}}
FAULTS_BY_NAME = {fault.name: fault for fault in FAULTS}
_BACK_PRESSURE = "503 learner_behind"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(fault: Fault, snapshot_folder: Path, tmp_path: Path, results_file: Path | None) -> None:
    folder = tmp_path / "service"
    with (
        fault.prepare(folder),
        Deployment(folder, snapshot_folder, preloaded=results_file is None, **fault.deployment) as deployment,
    ):
        trial = run_trial(fault, deployment, SHORT if results_file is None else LONG, seed=1)
    if results_file is not None:
        with results_file.open("a") as out:
            out.write(json.dumps(trial.record()) + "\n")
    exactly_once(trial)
    clean_answers(trial)
    if fault.api_stays:
        served_throughout(trial)
    if not fault.redis_stays and fault.api_stays:
        refused_cleanly(trial)
    never_served(trial)


def test_learning_goes_on_after_a_clock_jump(snapshot_folder: Path, tmp_path: Path) -> None:
    with Deployment(tmp_path / "service", snapshot_folder, reward_window_entries=50) as deployment:
        load = Load(deployment.urls, seed=2)
        load.start()
        try:
            FAULTS_BY_NAME["log_ahead"].strike(deployment, lambda share=1.0: None)
            jump = deployment.last_entry
            until(lambda: deployment.worked(jump), "the jump")
            before = deployment.report
            time.sleep(3 * deployment.settings.reward_window_s)  # of load
        finally:
            load.stop()
        until(lambda: deployment.worked(deployment.last_entry), "the end of the log")
        after = deployment.report
    assert sum(after.events.values()) > sum(before.events.values()), "the load went on"
    assert after.closed > before.closed + before.open


def exactly_once(trial: Trial) -> None:
    """Acknowledged = logged = learned."""
    acknowledged = trial.seen.acknowledged
    assert set(acknowledged) == trial.seen.sent, "a user whose feedback was never taken"
    assert len(acknowledged) == len(set(acknowledged)) > 0
    assert trial.logged_ids == dict.fromkeys(acknowledged, 1)
    slates = trial.logged_slates
    assert set(slates.values()) == {1}
    assert set(trial.seen.logged_slates) <= slates.keys()
    assert trial.learned_kinds == trial.logged_kinds


_HELD_UP = 0.02  # share of requests that a busy machine may keep from Redis for longer than they wait for it


def held_up(attempts: Sequence[Attempt]) -> bool:
    """Whether more requests than a busy machine explains went without Redis, or were refused but for back-pressure."""
    without = [
        a
        for a in attempts
        if {"session_unavailable", "impression_not_logged"} & set(a.warnings)
        or (a.status is not None and a.status >= 400 and a.outcome != _BACK_PRESSURE)
    ]
    return len(without) > _HELD_UP * len(attempts)


def clean_answers(trial: Trial) -> None:
    """Only what the contract says; and all is well before."""
    for attempt in trial.seen.attempts:
        assert attempt.status is None or attempt.status in _DOCUMENTED[attempt.route], attempt
        assert attempt.status not in (429, 503) or attempt.retry_after, attempt
    before = trial.phase("before")
    assert {a.outcome for a in before} >= {"200", "202"}
    assert not held_up(before), "the fault, not the deployment, is at fault"


def served_throughout(trial: Trial) -> None:
    """No request goes without an answer, and /recommend gives a slate each time, of a policy."""
    assert [a for a in trial.seen.attempts if a.status is None] == []
    slates = [a for a in trial.seen.attempts if a.route == "/recommend"]
    assert all(a.status == 200 for a in slates)
    assert not any("no_policy" in a.warnings for a in slates)
    if trial.fault.redis_stays:
        assert not held_up(trial.seen.attempts)


def refused_cleanly(trial: Trial) -> None:
    """The fault was there: somebody was told so."""
    told = {w for a in trial.phase("during") for w in a.warnings}
    refused = {a.status for a in trial.phase("during") if a.route == "/feedback"}
    assert {"session_unavailable", "impression_not_logged"} & told or 503 in refused


def never_served(trial: Trial) -> None:
    """A damaged version never serves."""
    if "corrupt_version" in trial.facts:
        later = [a for a in trial.seen.attempts if a.started > trial.facts["damaged_at"]]
        assert trial.facts["corrupt_version"] not in {a.policy_version for a in later}
        assert any(a.policy_version for a in later), "another one does"
