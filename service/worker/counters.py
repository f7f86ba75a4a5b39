"""What the worker's state has beside tensors: counts of what was taken in, and what a checkpoint tells of the rest."""

from __future__ import annotations

import msgspec

from service.store.event_log import START
from service.store.joiner import OpenImpression
from service.store.worker_report import ArmTotals
from service.worker.arm_watch import ArmWatchState
from service.worker.recent import Past
from service.worker.shadow import ShadowTotals


class Counters(msgspec.Struct):
    """What was taken in."""

    cursor: str = START
    place: int = 0  # entries taken in
    now_ms: int = 0
    version: int = 0  # last version published
    serving: int = 0  # last version that may serve: what the next one is measured against
    trusted: int = 0  # last version that may serve with its full share of what is learned
    refused: int = 0  # versions in a row that the gate refused
    refusal: tuple[str, ...] = ()  # why it refused the last of them
    restarted_at: int = 0  # the last version before the learner started again; 0: it never did
    restarted_from: int = 0  # the version that it started again from
    events: dict[str, int] = {}
    arms: dict[str, ArmTotals] = {}
    closed: int = 0
    unlearned: int = 0  # transitions since the last learning step
    unpublished: int = 0  # impressions closed and organic likes learned from, since the last version
    allowance: float = 0.0  # slots' worth of organic likes that may be learned from before more impressions close
    slots: int = 0  # of closed impressions
    new_slots: int = 0  # of these, those that showed items which came after the first version
    new_reward: float = 0.0  # of these
    gate_rejections: dict[str, int] = {}
    shadow: ShadowTotals = msgspec.field(default_factory=ShadowTotals)  # of the newest apprentice
    retreats: int = 0  # automatic roll-backs
    failed: bool = False  # a learning step ended in an error: the learner is not to be published


class Meta(msgspec.Struct):
    """The part of a checkpoint that is not tensors."""

    fingerprint: str
    item_ids: list[str]
    counters: Counters
    waiting: list[OpenImpression]
    closed: list[str]  # ids of impressions that closed
    watch: ArmWatchState
    recent: list[tuple[str, tuple[Past, ...]]] = []
