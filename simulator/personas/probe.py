"""Asks a deployment, by its own preview, what somebody with a given taste would be shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from service.client import AsyncClient
from service.client.calls import PreviewFields
from service.contract.base import MAX_IDS
from service.contract.preview import PreviewResponse
from service.contract.schemas import PastInteraction
from simulator.personas.catalogue import Category

ArmName = Literal["control", "adaptive"]


@dataclass(frozen=True)
class Taste:
    """Ids of the items that somebody liked and disliked."""

    liked: tuple[str, ...] = ()
    disliked: tuple[str, ...] = ()


STRANGER = Taste()


@dataclass
class Probe:
    """Asks one arm of one deployment; remembers which versions and arms answered."""

    client: AsyncClient
    arm: ArmName
    k: int = 10  # slots of a slate
    like: float = 1.0
    dislike: float = -1.0
    advance: Callable[[], None] = lambda: None
    versions: set[int] = field(default_factory=set)
    arms: set[str] = field(default_factory=set)

    async def preview(
        self, taste: Taste, baseline: Taste | None = None, *, excluded: Sequence[str] = (), seed: int = 0
    ) -> PreviewResponse:
        """Ask for a slate and its preview; `excluded` items are not shown."""
        return await self._ask(taste, baseline, exclude_item_ids=list(excluded), seed=seed)

    async def shares(
        self, category: Category, taste: Taste, baseline: Taste | None, excluded: Sequence[str], seed: int
    ) -> tuple[float, float | None]:
        """Expected share of a slate's slots of the category's items that are not `excluded`, for both tastes."""
        fields = {"exclude_item_ids": list(excluded), "seed": seed}
        if category.is_listed:
            answer = await self._ask(taste, baseline, **fields)
            found = [one for one in answer.categories if one.category == category.name]
            return self._sum([(one.share, one.baseline_share) for one in found], baseline)
        ids = [item for item in category.item_ids if item not in set(excluded)]
        shares: list[tuple[float, float | None]] = []
        for start in range(0, len(ids), MAX_IDS):
            answer = await self._ask(taste, baseline, **fields, item_ids=ids[start : start + MAX_IDS])
            shares += [(item.in_slate, item.baseline_in_slate) for item in answer.items]
        ours, theirs = self._sum(shares, baseline)
        # Estimated, each item by itself: where all slots are the category's, a little more may come of it.
        return min(1.0, ours / self.k), None if theirs is None else min(1.0, theirs / self.k)

    @staticmethod
    def _sum(shares: Sequence[tuple[float, float | None]], baseline: Taste | None) -> tuple[float, float | None]:
        return sum(ours for ours, _ in shares), None if baseline is None else sum(theirs or 0.0 for _, theirs in shares)

    async def _ask(self, taste: Taste, baseline: Taste | None, **fields: object) -> PreviewResponse:
        request: PreviewFields = {"arm": self.arm, "k": self.k, "history": self._history(taste), **fields}  # type: ignore[typeddict-item]
        if baseline is not None:
            request["baseline"] = self._history(baseline)
        answer = await self.client.preview(**request)
        self.versions.add(answer.policy_version)
        self.arms.add(answer.arm)
        self.advance()
        return answer

    def _history(self, taste: Taste) -> list[PastInteraction]:
        return [
            *(PastInteraction(item_id=item, reward=self.like) for item in taste.liked),
            *(PastInteraction(item_id=item, reward=self.dislike) for item in taste.disliked),
        ]
