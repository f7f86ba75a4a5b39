"""The worker's state beside tensors: counts of what was taken in, and the rest of a checkpoint that is not tensors."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from service.store.event_log import START
from service.store.events import Impression
from service.store.joiner import OpenImpression
from service.store.registry import Gate
from service.store.worker_report import ArmTotals
from service.worker.arm_watch import ArmWatchState
from service.worker.recent import Past
from service.worker.shadow import ShadowTotals

_MOST_PLACEMENTS = 100


class Counters(msgspec.Struct):
    """Counts of what was taken in and published."""

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
    placements: dict[str, dict[str, ArmTotals]] = {}  # the same by placement
    closed: int = 0
    unlearned: int = 0  # transitions since the last learning step
    unpublished: int = 0  # impressions closed and organic likes learned from, since the last version
    allowance: float = 0.0  # slots' worth of organic likes that may be learned from before more impressions close
    slots: int = 0  # of closed impressions
    new_slots: int = 0  # of these, those that showed items which came after the first version
    new_reward: float = 0.0  # of these
    gate_rejections: dict[str, int] = {}
    shadow: ShadowTotals = msgspec.field(default_factory=ShadowTotals)  # of the newest shadow version
    roll_backs: int = msgspec.field(default=0, name="retreats")  # automatic ones
    failed: bool = False  # a learning step ended in an error: the learner is not to be published

    def count(self, closed: OpenImpression, rows: Mapping[str, int], first_items: int) -> None:
        """Count a closed impression; items from row `first_items` on are new."""
        impression, rewards = closed.impression, closed.slot_rewards
        for arms in self._counted_in(impression.placement):
            arms.setdefault(impression.arm, ArmTotals()).add(sum(rewards), impression.weight, impression.entropy)
        self.closed += 1
        self.unpublished += 1
        self.slots += len(impression.items)
        for item, reward in zip(impression.items, rewards, strict=True):
            if rows.get(item, -1) >= first_items:
                self.new_slots += 1
                self.new_reward += reward
        if impression.shadow is not None:
            self._count_shadow(impression.shadow.version, impression, rewards)

    def _counted_in(self, placement: str | None) -> list[dict[str, ArmTotals]]:
        """Return the arms' totals of all and of a placement, of which the first few are told apart."""
        if placement is None or (placement not in self.placements and len(self.placements) >= _MOST_PLACEMENTS):
            return [self.arms]
        return [self.arms, self.placements.setdefault(placement, {})]

    def _count_shadow(self, version: int, impression: Impression, rewards: tuple[float, ...]) -> None:
        if version > self.shadow.version:
            self.shadow = ShadowTotals(version)
        if version == self.shadow.version:
            self.shadow.add(impression, rewards)

    def judge(self, decision: Gate) -> None:
        """Count the next version, which the gate lets serve or refuses."""
        self.version += 1
        self.unpublished = 0
        self.refused = 0 if decision.passed else self.refused + 1
        self.refusal = decision.reasons
        if decision.passed:
            self.serving = self.version
            if decision.share == 1.0:
                self.trusted = self.version
        else:
            self.serving = self.trusted
        self.count_refusal(decision.reasons)

    def count_refusal(self, reasons: tuple[str, ...]) -> None:
        """Count why a version was refused."""
        for reason in reasons:
            self.gate_rejections[reason] = self.gate_rejections.get(reason, 0) + 1


class Meta(msgspec.Struct):
    """The part of a checkpoint that is not tensors."""

    fingerprint: str
    item_ids: list[str]
    counters: Counters
    waiting: list[OpenImpression]
    closed: list[str]  # ids of impressions that closed
    watch: ArmWatchState
    recent: list[tuple[str, tuple[Past, ...]]] = []
