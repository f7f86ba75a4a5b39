"""The learner's loop: read -> join -> learn -> gate -> publish -> watch -> checkpoint.

One log, one cursor, one worker: the one that holds the lease; others stand by. Nothing that it learns depends on the
wall clock or on how the log was cut into reads: a worker that was killed and restarted from its checkpoint relearns the
same events to the same weights, and publishes the same versions again, which changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable

import msgspec
import redis as syncredis
import torch
from redis.exceptions import RedisError

from service.policy.snapshot import SnapshotError
from service.policy.snapshot_files import load_snapshot
from service.runtime import telemetry
from service.runtime.threads import one_thread
from service.settings import Settings
from service.store import event_log, events, moments, registry
from service.store.bootstrap import bootstrap
from service.store.catalogue import embeddings_of
from service.store.checkpoint import CheckpointStore
from service.store.connect import connect, connect_blocking
from service.store.events import UserErased
from service.store.keys import Keys
from service.store.lease import Fenced, Lease
from service.store.registry import RegistryError, folder_of
from service.store.worker_report import WorkerReport
from service.worker.counters import Meta
from service.worker.learning import Learning
from service.worker.publisher import Publisher
from service.worker.shadow import estimated

log = logging.getLogger(__name__)

_READ_COUNT = 500
_BLOCK_MS = 200
_RETRY_S = 0.5
_DISK_RETRY_S = 5.0
_STUCK_S = 120.0  # for one event; a worker that is slower gives way to one that stands by
_HISTORY_S = 2.0
_REPORT_S = 0.5


class Worker:
    """Reads the log for ever; `stop` makes it checkpoint and return."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._settings, self._stop = settings, stop
        self._keys = Keys(settings.key_prefix)
        self._redis = connect_blocking(settings, _BLOCK_MS / 1000)
        self._lease = Lease(self._redis, self._keys, settings.lease_ttl_s)
        self._publisher = Publisher(self._redis, self._lease, self._keys, settings)
        self._alive_at = 0.0
        self._complaints: set[str] = set()  # of what keeps us from working
        self._standing_by = self._is_waiting = False
        self._checkpoints: CheckpointStore[Meta]
        self.learning: Learning | None = None  # None while it waits, stands by or cannot go on
        self._first = 1  # the version whose policy is the frozen one
        self._since_checkpoint = 0
        self._erased = False  # somebody was, whom the checkpoints on disk still know
        self._cursors: tuple[str, str] = (event_log.START, event_log.START)  # of the last two checkpoints
        self._disk_errors = 0
        self._disk_again_at = 0.0
        self._reported_at = 0.0
        self._lag_s = 0.0
        self._last_closed, self._last_moment_at = 0, 0.0  # the history's last entry: closed impressions, unix seconds

    def run(self) -> None:
        """Work until `stop` is set. After an outage of Redis, go on from the last checkpoint."""
        self._run(self._stop.is_set)

    def run_until(self, cursor: str) -> None:
        """Work until the entry `cursor` of the log, and all before it, are taken in, or `stop` is set."""
        end = event_log.order(cursor)

        def is_done() -> bool:
            learning = self.learning
            return learning is not None and event_log.order(learning.counters.cursor) >= end

        self._run(lambda: is_done() or self._stop.is_set())

    def _run(self, is_over: Callable[[], bool]) -> None:
        one_thread()
        ended = threading.Event()
        keeper = threading.Thread(target=self._keep_lease, args=(ended,), daemon=True)
        keeper.start()
        try:
            self._work(is_over)
        finally:
            ended.set()
            keeper.join()
        with contextlib.suppress(RedisError, OSError):
            self._lease.release()
        self._redis.close()

    def _work(self, is_over: Callable[[], bool]) -> None:
        while not is_over():
            try:
                self.learning = self._resume() if self._leads() else None
                while self.learning is not None and not is_over():
                    self._complaints.clear()
                    self._turn(self.learning)
            except Fenced:
                log.warning("another worker has taken over")
                self.learning = None
            except (RedisError, OSError) as error:
                log.warning("Redis does not answer (%s); will resume from the checkpoint", type(error).__name__)
                self.learning = None
            except (SnapshotError, RegistryError) as error:
                self._complain("cannot go on until this is mended: %s", error)
                self.learning = None
            if self.learning is None:
                self._stop.wait(_RETRY_S)
        with contextlib.suppress(RedisError, OSError, Fenced):  # the checkpoint itself is on disk by then
            if self.learning is not None:
                self._checkpoint(self.learning)

    def _complain(self, message: str, error: Exception) -> None:
        """Log an error once, however often it is met before work goes on."""
        if (complaint := message % error) not in self._complaints:
            log.error(complaint)
        self._complaints.add(complaint)

    def _leads(self) -> bool:
        self._alive_at = time.monotonic()
        leads = self._lease.acquire()
        if not leads and not self._standing_by:
            log.info("another worker learns; standing by")
        self._standing_by = not leads
        return leads

    def _keep_lease(self, ended: threading.Event) -> None:
        """Renew the lease while learning makes progress: one step may take longer than the lease lasts."""
        while not ended.wait(self._settings.lease_ttl_s / 4):
            if self._lease.token is not None and time.monotonic() - self._alive_at < _STUCK_S:
                with contextlib.suppress(RedisError, OSError, Fenced):
                    self._lease.renew()

    def _beat(self) -> None:
        self._alive_at = time.monotonic()
        if self._lease.token is None:
            raise Fenced

    def _resume(self) -> Learning | None:
        """Load the checkpoint, or start from the live version; None while nothing is published."""
        asyncio.run(self._bootstrap())
        live = registry.get_live(self._redis, self._keys)
        if live is None:
            if not self._is_waiting:
                log.info("waiting for a first policy: IALP_SNAPSHOT names the folder of one")
            self._is_waiting = True
            return None
        published = [int(v) for v in self._redis.hkeys(self._keys.policies)]
        self._first, self._since_checkpoint = min(published), 0
        self._cursors = (event_log.START, event_log.START)
        self._checkpoints = CheckpointStore(self._settings.data_dir / "worker", Meta, self._lease.token or 0)
        saved = self._checkpoints.load()
        if saved is not None:
            # The frozen policy and the projection are the same in every version; the first one is never pruned.
            learning = self._start_from(self._first)
            if saved[0].fingerprint != learning.fingerprint:
                log.warning("the checkpoint was written with other settings or by another release and is not used")
            elif self._restored(learning, *saved):
                return learning
        learning = self._start_from_live(live.version)
        learning.counters.version = max(published)
        log.info("starting from version %d at %s", learning.counters.serving, learning.counters.cursor)
        return learning

    @staticmethod
    def _restored(learning: Learning, meta: Meta, tensors: dict[str, torch.Tensor]) -> bool:
        """Restore a checkpoint; False if it does not fit, and then `learning` must not be used."""
        try:
            learning.restore(meta, tensors)
        except (KeyError, ValueError, RuntimeError) as error:  # whole, but of a release with another layout
            log.warning("the checkpoint does not fit and is not used (%s: %s)", type(error).__name__, error)
            return False
        log.info("resuming at %s after version %d", learning.counters.cursor, learning.counters.version)
        return True

    def _start_from_live(self, live: int) -> Learning:
        """Start from the live version or, where its snapshot is damaged, from one that served before."""
        served = [int(v) for v in self._redis.lrange(self._keys.activations, 0, -1)]
        for version in dict.fromkeys([live, *reversed(served)]):
            try:
                return self._start_from(version)
            except SnapshotError as error:
                self._complain(f"cannot start from version {version}: %s", error)
        return self._start_from(self._first)

    def _start_from(self, version: int) -> Learning:
        snapshot = load_snapshot(folder_of(self._settings.data_dir, version))
        embeddings = embeddings_of(self._redis, self._keys, snapshot.item_ids)
        return Learning(snapshot, torch.from_numpy(embeddings), self._settings)

    async def _bootstrap(self) -> None:
        client = connect(self._settings)
        try:
            await bootstrap(client, self._keys, self._settings)
        finally:
            await client.aclose()

    def _turn(self, learning: Learning) -> None:
        self._beat()
        entries = event_log.read(self._redis, self._keys, learning.counters.cursor, _READ_COUNT, _BLOCK_MS)
        for entry_id, payload in entries:
            self._take(learning, entry_id, payload)
            if learning.regression is not None:
                self._publisher.roll_back(learning, self._first)
                self._checkpoint(learning)
            disk_is_fine = time.monotonic() >= self._disk_again_at
            if learning.version_due and disk_is_fine:
                self._publish(learning)
            if self._since_checkpoint >= self._settings.checkpoint_every and disk_is_fine:
                self._checkpoint(learning)
        if self._erased and time.monotonic() >= self._disk_again_at:
            self._erased = False
            self._checkpoint(learning)
            self._checkpoint(learning)  # the one before, too
        self._lag_s = max(0.0, time.time() - event_log.entry_ms(entries[-1][0]) / 1000) if entries else 0.0
        if time.monotonic() - self._reported_at > _REPORT_S:
            self._report(learning)

    def _take(self, learning: Learning, entry_id: str, payload: bytes) -> None:
        self._beat()
        self._since_checkpoint += 1
        try:
            event = events.decode(payload)
            learning.take(event, entry_id, event_log.entry_ms(entry_id))
            self._erased |= isinstance(event, UserErased)
        except Exception as error:
            log.exception("entry %s is set aside", entry_id)
            reason = f"{type(error).__name__}: {error}"
            event_log.set_aside(self._lease, self._keys, entry_id, payload, reason, self._settings.dead_letters_limit)
            learning.skip(entry_id)

    def _publish(self, learning: Learning) -> None:
        with telemetry.span("publish", version=learning.counters.version + 1):
            try:
                if not self._publisher.publish(learning):
                    return
            except OSError as error:
                self._disk_failed("version", error)
                return
            self._checkpoint(learning)
            self._publisher.prune(learning)

    def _checkpoint(self, learning: Learning) -> None:
        self._since_checkpoint = 0
        try:
            with telemetry.span("checkpoint", cursor=learning.counters.cursor):
                self._checkpoints.save(*learning.dump())
        except OSError as error:
            self._disk_failed("checkpoint", error)
            return
        self._disk_again_at = 0.0
        self._cursors = (self._cursors[1], learning.counters.cursor)
        self._trim(learning)
        self._report(learning)

    def _trim(self, learning: Learning) -> None:
        """Forget entries that are older than the retention time and below both checkpoints."""
        oldest_ms = max(0, learning.counters.now_ms - self._settings.stream_retention_s * 1000)
        oldest = min(event_log.order(f"{oldest_ms}-0"), event_log.order(self._cursors[0]))
        minid = "{}-{}".format(*oldest)
        if oldest > (0, 0):
            self._lease.write(
                lambda pipe: (
                    pipe.xtrim(self._keys.events, minid=minid, approximate=True),
                    pipe.xtrim(self._keys.dead, minid=f"{oldest_ms}-0", approximate=True),
                )
            )

    def _disk_failed(self, what: str, error: OSError) -> None:
        """Note a failed write: learning goes on in memory, and the log keeps what is not in a checkpoint yet."""
        self._disk_errors += 1
        self._disk_again_at = time.monotonic() + _DISK_RETRY_S
        log.error("the %s could not be written (%s); trying again in %g s", what, error.strerror, _DISK_RETRY_S)

    def _report(self, learning: Learning) -> None:
        c = learning.counters
        report = WorkerReport(
            reported_at=time.time(),
            cursor=c.cursor,
            events=c.events,
            closed=c.closed,
            open=len(learning.joiner),
            learner=learning.metrics,
            alignment=learning.alignment,
            arms=c.arms,
            placements=c.placements,
            version=c.version,
            published_at=self._publisher.published_at,
            lag_s=self._lag_s,
            gate_rejections=c.gate_rejections,
            off_policy=self._publisher.off_policy,
            shadow=estimated(c.shadow, self._settings.possible_rewards) if c.shadow.version else None,
            findings=learning.arm_watch.findings(),
            power=learning.arm_watch.power(),
            roll_backs=c.roll_backs,
            disk_errors=self._disk_errors,
            slots=c.slots,
            new_slots=c.new_slots,
            new_reward=c.new_reward,
            refused=c.refused,
            refusal=c.refusal,
            restarted_at=c.restarted_at,
            restarted_from=c.restarted_from,
            until_version=learning.until_version,
            towards_version=c.unpublished,
            coverage=learning.coverage,
        )
        encoded = msgspec.json.encode(report)
        moment = None
        if c.closed != self._last_closed and report.reported_at - self._last_moment_at >= _HISTORY_S:
            moment = moments.moment_of(report)
            self._last_closed, self._last_moment_at = c.closed, report.reported_at

        def write(pipe: syncredis.client.Pipeline) -> None:
            pipe.set(self._keys.worker, encoded)
            if moment is not None:
                moments.add(pipe, self._keys, moment)

        self._lease.write(write)
        self._reported_at = time.monotonic()
