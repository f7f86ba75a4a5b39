"""From what was learned to what serves: the gate's decision, the registry, and the roll-back of what proved worse."""

from __future__ import annotations

import logging
import time

import redis as syncredis

from service.policy.snapshot import Snapshot, SnapshotError
from service.policy.snapshot_files import load_snapshot
from service.runtime import telemetry
from service.settings import Settings
from service.store import registry
from service.store.keys import Keys
from service.store.lease import Lease
from service.store.registry import REFUSALS, Gate, folder_of
from service.worker import gate
from service.worker.learning import Learning

log = logging.getLogger(__name__)

_JUDGED = 512  # recent impressions that the gate looks at


class Publisher:
    """Publish versions of what is learned under a lease."""

    def __init__(self, redis: syncredis.Redis, lease: Lease, keys: Keys, settings: Settings) -> None:
        self._redis, self._lease, self._keys, self._settings = redis, lease, keys, settings
        self.published_at = 0.0  # unix seconds
        self.off_policy: dict[str, float] = {}  # the gate's numbers of the last version

    def publish(self, learning: Learning) -> bool:
        """Judge and publish the next version, or start the learner again; says which (True: there is a version).

        Raises:
            Fenced: another worker has taken over.
            OSError: the version cannot be written; it can be tried again.
        """
        if reason := learning.unfit():
            log.error("the learner is of no use (%s); restarting it from version %d", reason, learning.counters.serving)
            learning.counters.count_refusal((reason,))
            learning.start_again(self._reference(learning))
            return False
        # After a kill the worker relearns what it published already: that is judged once.
        published = registry.get_record(self._redis, self._keys, learning.counters.version + 1)
        decision = published.gate if published else self._judge(learning)
        snapshot, counters = learning.next_snapshot(decision), learning.counters
        on_trial = (counters.serving, counters.trusted) if counters.serving != counters.trusted else None
        serves = registry.publish(
            self._redis, self._lease, self._keys, self._settings.data_dir, snapshot, decision, on_trial
        )
        counters.judge(decision)
        self.published_at, self.off_policy = time.time(), decision.numbers
        _log(snapshot.manifest.version, decision, serves)
        if learning.counters.refused >= self._settings.gate_patience:
            log.warning("refused %d times in a row; restarting the learner from live", learning.counters.refused)
            learning.start_again(self._reference(learning))
        return True

    def prune(self, learning: Learning) -> None:
        """Delete versions that nobody needs any more."""
        needed = (learning.counters.serving, learning.counters.trusted, learning.arm_watch.safest())
        kept = {version for version in needed if version is not None}
        registry.prune(self._redis, self._keys, self._settings.data_dir, self._settings.keep_versions, kept)

    def _judge(self, learning: Learning) -> Gate:
        with telemetry.span("judge", against=learning.counters.serving):
            new, live = learning.serving_policy(), self._reference(learning)
            serving = live.serving_policy(learning.embeddings)
            share = 0.0 if live.manifest.parent is None else live.manifest.serving.most_learned
            judged = learning.replay.latest_shown(_JUDGED)
            if len(judged.discount) == 0:  # likes alone tell which states there are
                judged = learning.replay.latest(_JUDGED)
            rates = learning.replay.rates(new.n_items)
            return gate.check(new, serving, share, judged, rates, self._settings)

    def _reference(self, learning: Learning) -> Snapshot:
        """The last version that may serve: a matter of the log, not of what an operator holds at this moment."""
        try:
            return load_snapshot(folder_of(self._settings.data_dir, learning.counters.serving))
        except SnapshotError as error:
            log.error("version %d is damaged, taking the first instead: %s", learning.counters.serving, error)
            return learning.snapshot

    def roll_back(self, learning: Learning, first: int) -> None:
        """Serve the safest older version, since what adapts is credibly worse than the control; learn on from it.

        `first`: the version to go back to if none is safe; then everybody gets the frozen policy.

        Raises:
            Fenced: another worker has taken over.
        """
        regression = learning.regression
        assert regression is not None
        target = learning.arm_watch.safest(before=regression.since_version)
        is_stored = target is not None and registry.get_record(self._redis, self._keys, target) is not None
        moved = registry.roll_back_from(self._lease, self._keys, regression, target if is_stored else None, first)
        log.error(
            "since version %d the adaptive arm earns %.4g less than the control (at most %.4g less for sure); %s",
            regression.since_version,
            -regression.difference,
            -regression.high,
            f"version {target} is held" if is_stored else "everybody gets the frozen policy",
        )
        if not moved:
            log.info("older versions serve already")
        learning.counters.serving = target if is_stored and target is not None else first
        learning.roll_back(self._reference(learning))


def _log(version: int, decision: Gate, serves: bool) -> None:
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in decision.numbers.items())
    if not decision.passed:
        why = "; ".join(REFUSALS[reason] for reason in decision.reasons)
        log.warning("version %d is refused: %s (%s)", version, why, numbers)
    elif not serves:
        log.info("version %d passed, but another is held (%s)", version, numbers)
    else:
        log.info("version %d serves, %.0f %% of it learned at most (%s)", version, 100 * decision.share, numbers)
