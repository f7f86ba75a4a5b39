"""A deployment in one process without Redis: the worker's state, gate and watch, and slates as the API draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from service.policy.adaptive import Query, ServingPolicy
from service.policy.context import ContextValue, features_of
from service.policy.networks import ItemScorer, NetworkConfig
from service.policy.sampling import sample_slates
from service.policy.snapshot import Snapshot
from service.policy.text import TextProjection
from service.policy.types import interactions, session_state
from service.policy.variants import Arm, ServingConfig
from service.settings import Settings
from service.store.events import Event, Feedback, Impression, ItemChanged
from service.store.registry import Gate
from service.store.sessions import Reaction, joined, share_of
from service.worker import gate
from service.worker.learning import Learning

_JUDGED = 512  # as in the worker


@dataclass
class User:
    """What a session store keeps."""

    history: dict[str, float] = field(default_factory=dict)
    seen: dict[str, None] = field(default_factory=dict)


def kept_back(seen: Mapping[str, None], n_items: int, k: int) -> list[str]:
    """What of the items `seen`, the longest ago first, is not shown again: see `find_candidates`, when_empty."""
    missing = k - (n_items - len(seen))
    return list(seen)[max(missing, len(seen) // 2) if missing > 0 else 0 :]


def untaught(item_ids: Sequence[str], embeddings: npt.NDArray[np.float32]) -> Snapshot:
    """A first version that knows nothing but texts."""
    sizes = NetworkConfig()
    projection = TextProjection.fit(torch.from_numpy(embeddings), sizes.text_dim)
    network = ItemScorer(sizes, projection(torch.from_numpy(embeddings)))
    return Snapshot.of(
        version=1,
        parent=None,
        created_at=0.0,
        item_ids=tuple(item_ids),
        text_encoder="hashing",
        projection=projection,
        serving=ServingConfig(),
        pretrained=network,
        learned=network,
        critic=network,
        learner={},
        lineage={},
        metrics={},
    )


class Deployment:
    """Takes visits one after the other, `step_ms` apart, and publishes as the worker does."""

    def __init__(
        self,
        snapshot: Snapshot,
        embeddings: npt.NDArray[np.float32],
        settings: Settings,
        seed: int = 0,
        step_ms: int = 400,
        repeats: bool = False,
    ) -> None:
        """`repeats`: whether what was seen may be shown again, as to those who name candidates."""
        self.settings, self._step_ms, self._repeats = settings, step_ms, repeats
        self.learning = Learning(snapshot, torch.from_numpy(embeddings), settings)
        self.snapshots = {1: snapshot}
        self.live, self.version, self.held = snapshot.serving_policy(embeddings), 1, False
        self.decisions: list[Gate] = []
        self.rng = np.random.default_rng(seed)
        self.users: dict[str, User] = {}
        self._entries = 0
        self._drawn = 0

    @property
    def served(self) -> list[bool]:
        """Of each version whether the gate let it serve."""
        return [decision.passed for decision in self.decisions]

    def recommend(
        self, user: str, k: int, only: Sequence[str] | None = None, context: Mapping[str, ContextValue] | None = None
    ) -> Impression:
        """Draw and log a slate."""
        ids, index = self.learning.item_ids, self.learning.index
        past = self.users.setdefault(user, User())
        history = session_state(list(past.history.items()), list(past.seen), self.settings.shown_length)
        available = np.ones(self.live.n_items, np.bool_)
        if only is not None:
            available[:] = False
            available[[index[item] for item in only]] = True
        if not self._repeats:
            available[[index[item] for item in kept_back(past.seen, len(available), k)]] = False
        arm = Arm.CONTROL if share_of(user, "arm") < self.settings.control_share else Arm.ADAPTIVE
        known = interactions(history, index, self.settings.largest_reward)
        facts = dict(context or {})
        query = Query(known, available, Arm.CONTROL if self.held else arm, features_of(facts))
        served = self.live.serve([query])[0]
        slate = sample_slates(served.probs[np.newaxis], min(k, self.live.n_items), self.rng)
        n = int((slate.items[0] >= 0).sum())
        items = tuple(ids[row] for row in served.items(slate.items[0][:n]))
        self._drawn += 1
        impression = Impression(
            recommendation_id=f"r{self._drawn}",
            user=user,
            arm=str(arm),
            policy_version=self.version,
            history=tuple(history),
            items=items,
            propensities=tuple(slate.propensities[0][:n].tolist()),
            candidate_hash="",
            candidates=tuple(only) if only is not None else None,
            weight=served.weight,
            context=facts,
        )
        for item in items:
            past.seen.pop(item, None)
            past.seen[item] = None
        self._take(impression)
        return impression

    def reward(self, impression: Impression, rewards: Mapping[str, float]) -> None:
        """Log responses to a slate."""
        past = self.users[impression.user]
        for item, reward in rewards.items():
            explicit = self.settings.is_explicit(None, reward)
            known = Reaction(past.history.pop(item), 0.0) if item in past.history else None
            past.history[item] = joined(known, Reaction(reward, 0.0), explicit).reward
            if len(past.history) > self.settings.history_length:
                del past.history[next(iter(past.history))]
            event_id = f"{impression.recommendation_id}/{item}"
            self._take(
                Feedback(event_id, impression.user, item, reward, impression.recommendation_id, explicit=explicit)
            )

    def put(self, item: ItemChanged) -> None:
        """Add an item; it can be shown at once."""
        self._take(item)
        self.live = self._loaded(self.snapshots[self.version])

    def _take(self, event: Event) -> None:
        self._entries += 1
        learning = self.learning
        learning.take(event, f"{self._entries * self._step_ms}-0", self._entries * self._step_ms)
        if learning.regression is not None:
            self._roll_back()
        if learning.version_due:
            self._publish()

    def _publish(self) -> None:
        learning = self.learning
        if learning.unfit():
            learning.start_again(self.snapshots[learning.counters.serving])
            return
        reference = self.snapshots[learning.counters.serving]
        serving = reference.serving_policy(learning.embeddings)
        share = 0.0 if reference.manifest.parent is None else reference.manifest.serving.most_learned
        judged = learning.replay.latest_shown(_JUDGED)
        new, rates = learning.serving_policy(), learning.replay.rates(len(learning.item_ids))
        decision = gate.check(new, serving, share, judged, rates, self.settings)
        snapshot = learning.next_snapshot(decision)
        version = snapshot.manifest.version
        self.snapshots[version] = snapshot
        self.decisions.append(decision)
        learning.counters.judge(decision)
        if not self.held:
            self.version = version if decision.passed else learning.counters.serving
            self.live = self._loaded(self.snapshots[self.version])
        if learning.counters.refused >= self.settings.gate_patience:
            learning.start_again(self.snapshots[learning.counters.serving])

    def _loaded(self, snapshot: Snapshot) -> ServingPolicy:
        return snapshot.serving_policy(self.learning.embeddings)

    def _roll_back(self) -> None:
        accused = self.learning.regression
        assert accused is not None
        target = self.learning.arm_watch.safest(before=accused.since_version) or 1
        self.learning.roll_back(self.snapshots[target])
        self.live, self.version, self.held = self._loaded(self.snapshots[target]), target, True
