"""The learner's loop: read -> join -> learn -> gate -> publish -> checkpoint.

One process, one log, one cursor. Nothing that it learns depends on the wall clock or on how the log was cut into reads:
a worker that was killed and restarted from its checkpoint relearns the same events to the same weights, and publishes
the same versions again, which changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time

import msgspec
import redis as syncredis
import redis.asyncio as aioredis
import torch
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from service import events, gate, registry, streams
from service.bootstrap import bootstrap
from service.catalogue import embeddings_of
from service.checkpoint import CheckpointStore
from service.keys import Keys
from service.learning import Learning, Meta
from service.metrics import WorkerReport
from service.policy.snapshot import Snapshot, SnapshotError, load_snapshot
from service.registry import Gate, RegistryError, folder_of
from service.settings import Settings

log = logging.getLogger(__name__)

_READ_COUNT = 500
_BLOCK_MS = 200
_RETRY_S = 0.5
_REPORT_S = 0.5
_JUDGED = 512  # recent transitions that the gate looks at


class Worker:
    """Reads the log for ever; `stop` makes it checkpoint and return."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._settings, self._stop = settings, stop
        self._keys = Keys(settings.key_prefix)
        self._redis = syncredis.from_url(
            settings.redis_url,
            socket_timeout=settings.redis_timeout_s + _BLOCK_MS / 1000,
            socket_connect_timeout=settings.redis_timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
        self._checkpoints = CheckpointStore(settings.data_dir / "worker", Meta)
        self._learning: Learning | None = None
        self._since_checkpoint = 0
        self._reported_at = 0.0
        self._published_at = 0.0
        self._lag_s = 0.0
        self._off_policy: dict[str, float] = {}

    def run(self) -> None:
        """Work until `stop` is set. After an outage of Redis, go on from the last checkpoint."""
        torch.set_num_threads(1)
        while not self._stop.is_set():
            try:
                self._learning = self._resume()
                while self._learning is not None and not self._stop.is_set():
                    self._turn(self._learning)
            except (RedisError, OSError) as error:
                log.warning("Redis does not answer (%s); will resume from the checkpoint", type(error).__name__)
                self._learning = None
            except (SnapshotError, RegistryError) as error:
                log.error("cannot go on: %s", error)
                self._learning = None
            if self._learning is None:
                self._stop.wait(_RETRY_S)
        if self._learning is not None:
            with contextlib.suppress(RedisError, OSError):  # the checkpoint itself is on disk by then
                self._checkpoint(self._learning)
        self._redis.close()

    def _resume(self) -> Learning | None:
        """Load the checkpoint, or start from the live version; None while nothing is published."""
        asyncio.run(self._bootstrap())
        live = registry.get_live(self._redis, self._keys)
        if live is None:
            log.info("waiting for a first policy")
            return None
        published = [int(v) for v in self._redis.hkeys(self._keys.policies)]
        self._since_checkpoint = 0
        saved = self._checkpoints.load()
        if saved is not None:
            # The frozen policy and the projection are the same in every version; the first one is never pruned.
            learning = self._start_from(min(published))
            if saved[0].fingerprint != learning.fingerprint:
                log.warning("the checkpoint was written with other settings and is not used")
            elif self._restored(learning, *saved):
                return learning
        learning = self._start_from(live.version)
        learning.counters.version = max(published)
        log.info("starting from version %d at %s", live.version, learning.counters.cursor)
        return learning

    @staticmethod
    def _restored(learning: Learning, meta: Meta, tensors: dict[str, torch.Tensor]) -> bool:
        """Whether the checkpoint fits; if not, `learning` is in no state to be used."""
        try:
            learning.restore(meta, tensors)
        except (KeyError, ValueError, RuntimeError) as error:  # whole, but of a release with another layout
            log.warning("the checkpoint does not fit and is not used (%s: %s)", type(error).__name__, error)
            return False
        log.info("resuming at %s after version %d", learning.counters.cursor, learning.counters.version)
        return True

    def _start_from(self, version: int) -> Learning:
        snapshot = load_snapshot(folder_of(self._settings.data_dir, version))
        embeddings = embeddings_of(self._redis, self._keys, snapshot.item_ids)
        return Learning(snapshot, torch.from_numpy(embeddings), self._settings)

    async def _bootstrap(self) -> None:
        client = aioredis.from_url(self._settings.redis_url, socket_timeout=self._settings.redis_timeout_s)
        try:
            await bootstrap(client, self._keys, self._settings)
        finally:
            await client.aclose()

    def _turn(self, learning: Learning) -> None:
        entries = streams.read(self._redis, self._keys, learning.counters.cursor, _READ_COUNT, _BLOCK_MS)
        for entry_id, payload in entries:
            self._take(learning, entry_id, payload)
            if learning.version_due:
                self._publish(learning)
            if self._since_checkpoint >= self._settings.checkpoint_every:
                self._checkpoint(learning)
        if entries:
            self._lag_s = max(0.0, time.time() - streams.entry_ms(entries[-1][0]) / 1000)
        if time.monotonic() - self._reported_at > _REPORT_S:
            self._report(learning)

    def _take(self, learning: Learning, entry_id: str, payload: bytes) -> None:
        self._since_checkpoint += 1
        try:
            learning.take(events.decode(payload), entry_id, streams.entry_ms(entry_id))
        except RedisError:
            raise
        except Exception as error:
            log.exception("entry %s is set aside", entry_id)
            streams.set_aside(self._redis, self._keys, entry_id, payload, f"{type(error).__name__}: {error}")
            learning.skip(entry_id)

    def _publish(self, learning: Learning) -> None:
        learning.counters.unpublished = 0
        if reason := learning.unfit():
            self._refuse(learning, Gate(passed=False, reasons=(reason,)))
            log.error("the learner is of no use (%s); restarting it from the live version", reason)
            learning.reset_learner(self._live_snapshot(learning))
            return
        # After a kill the worker relearns what it published already: that is judged once.
        published = registry.get_record(self._redis, self._keys, learning.counters.version + 1)
        decision = published.gate if published else self._judge(learning)
        snapshot = learning.next_snapshot(decision.numbers)
        serves = registry.publish(self._redis, self._keys, self._settings.data_dir, snapshot, decision)
        learning.counters.version = snapshot.manifest.version
        self._published_at = time.time()
        self._off_policy = decision.numbers
        if not decision.passed:
            self._refuse(learning, decision)
        why = "serves" if serves else f"does not serve: {', '.join(decision.reasons) or 'another version is held'}"
        log.info("version %d %s", snapshot.manifest.version, why)
        self._checkpoint(learning)
        registry.prune(self._redis, self._keys, self._settings.data_dir, self._settings.keep_versions)

    def _judge(self, learning: Learning) -> Gate:
        new, live = learning.serving_policy(), self._live_snapshot(learning)
        serving = live.serving_policy(learning.learner.actor.text)
        return gate.check(new, serving, learning.replay.latest(_JUDGED), self._settings)

    def _live_snapshot(self, learning: Learning) -> Snapshot:
        live = registry.get_live(self._redis, self._keys)
        assert live is not None, "a registry does not become empty again"
        snapshot = load_snapshot(folder_of(self._settings.data_dir, live.version))
        # While relearning, the live version may know items that the log has not told of yet.
        return snapshot if snapshot.manifest.n_items <= len(learning.item_ids) else learning.snapshot

    @staticmethod
    def _refuse(learning: Learning, decision: Gate) -> None:
        refused = learning.counters.gate_rejections
        for reason in decision.reasons:
            refused[reason] = refused.get(reason, 0) + 1

    def _checkpoint(self, learning: Learning) -> None:
        self._checkpoints.save(*learning.dump())
        self._since_checkpoint = 0
        oldest_ms = learning.counters.now_ms - self._settings.stream_retention_s * 1000
        if oldest_ms > 0:  # always behind the cursor, since event time is the cursor's
            self._redis.xtrim(self._keys.events, minid=f"{oldest_ms}-0", approximate=True)
        self._report(learning)

    def _report(self, learning: Learning) -> None:
        c = learning.counters
        metrics = learning.metrics
        report = WorkerReport(
            reported_at=time.time(),
            cursor=c.cursor,
            events=c.events,
            closed=c.closed,
            open=len(learning.joiner),
            learner=metrics,
            arms=c.arms,
            version=c.version,
            published_at=self._published_at,
            lag_s=self._lag_s,
            gate_rejections=c.gate_rejections,
            off_policy=self._off_policy,
        )
        self._redis.set(self._keys.worker, msgspec.json.encode(report))
        self._reported_at = time.monotonic()
