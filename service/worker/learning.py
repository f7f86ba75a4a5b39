"""The worker's whole state: a function of the first snapshot, the settings and the events taken in so far."""

from __future__ import annotations

import logging
import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.policy import organic
from service.policy.adaptive import ServingPolicy
from service.policy.factory import builds_on_pretrained, make_learner
from service.policy.learner import Learner, Metrics, prefixed, under
from service.policy.networks import ItemScorer
from service.policy.replay import Replay
from service.policy.rows import Rows
from service.policy.snapshot import FORMAT, Snapshot
from service.policy.types import EMPTY_SLOT, Transition
from service.policy.variants import ServingConfig, Variant
from service.runtime import telemetry
from service.settings import Settings
from service.store.catalogue import unpack_embedding
from service.store.event_log import START
from service.store.events import Event, Feedback, Impression, ItemChanged, VisitorJoined
from service.store.joiner import Joined, Joiner
from service.store.registry import Gate
from service.store.sessions import Reaction
from service.store.worker_report import Finding
from service.worker.arm_watch import ArmWatch
from service.worker.counters import Counters, Meta
from service.worker.recent import Recent
from service.worker.transitions import organic_of, owner_of, transition_of

log = logging.getLogger(__name__)

_WATCH_EVERY = 32  # closed impressions between looks at the arms
_COVERED = 1_000  # latest closed slates of which coverage is told
_FIRST_VERSION = 50  # impressions closed and organic likes, at least, before the first version that has learned
_LAYOUT = 5  # of checkpoints; 4 had no count of likes, 3 no strength of responses and no times


def _trusted(snapshot: Snapshot) -> int:
    """The version itself, unless it is on trial: then the first, which is the pre-trained policy."""
    manifest = snapshot.manifest
    return manifest.version if manifest.parent is None or manifest.serving.most_learned == 1 else 1


class Learning:
    """Takes events in, one by one and in order, and learns from what they close."""

    def __init__(self, snapshot: Snapshot, embeddings: torch.Tensor, settings: Settings) -> None:
        """`embeddings` [n_items, TEXT_DIM] are of the snapshot's items."""
        self.settings, self.snapshot = settings, snapshot
        self.item_ids = list(snapshot.item_ids)
        self._first_items = min(snapshot.manifest.serving.first_items, len(snapshot.item_ids))
        self.index = {item: row for row, item in enumerate(self.item_ids)}
        self._embeddings = Rows(embeddings.numpy().astype(np.float16))
        version = snapshot.manifest.version
        self.counters = Counters(
            cursor=str(snapshot.manifest.lineage.get("cursor", START)),
            version=version,
            serving=version,
            trusted=_trusted(snapshot),
            allowance=self._most_allowed,
        )
        self.arm_watch = ArmWatch(settings.watch_margin, settings.watch_alpha)
        self.regression: Finding | None = None
        self.joiner = Joiner(settings.reward_window_s, settings.reward_window_entries)
        self.recent = Recent(settings.history_length, settings.shown_length)
        self.replay = Replay(settings.replay_capacity, snapshot.manifest.network.max_history, settings.replay_slots)
        self.generator = torch.Generator().manual_seed(settings.worker_seed)
        self.metrics: Metrics = {}
        self._text_changed = False
        text = self._text()
        self.pretrained = snapshot.network("pretrained", text)
        self.learner: Learner
        self.reset_learner(snapshot)

    def reset_learner(self, snapshot: Snapshot) -> None:
        """Start the learner from a snapshot's learned policy, with a fresh optimiser."""
        self.counters.failed = False
        text = self._text()
        own_text = text[: len(snapshot.item_ids)]
        learned = snapshot.network("learned", own_text).with_text(text)
        critic = snapshot.network("critic", own_text).with_text(text) if snapshot.has_critic else learned
        published = snapshot.manifest.parent is not None
        manifest, evidence = snapshot.manifest, snapshot.evidence
        builds = builds_on_pretrained(self.settings.learner, self.settings.variant)
        if builds != (published and builds_on_pretrained(str(manifest.learner.get("name")), manifest.serving.variant)):
            # Straight from pre-training, or from another variant: the second policy starts as the first.
            learned = critic = self.pretrained.residual() if builds else deepcopy(self.pretrained)
        self.learner, self.description = make_learner(
            self.settings.learner,
            self.settings.variant,
            self.pretrained,
            learned.requires_grad_(True),
            critic.requires_grad_(True),
            self.settings.hyper_parameters,
            evidence and evidence.grown(len(text)),
        )

    @property
    def _serving(self) -> ServingConfig:
        """Configuration of how the policies are put together once the learned one has its full share."""
        return replace(self.settings.serving, first_items=self._first_items)

    @property
    def embeddings(self) -> npt.NDArray[np.float16]:
        """Text embedding of every item, [n_items, TEXT_DIM]."""
        return self._embeddings.array

    def _text(self) -> Tensor:
        return self.snapshot.projection(torch.from_numpy(self.embeddings.astype(np.float32)))

    @property
    def fingerprint(self) -> str:
        """Settings, and a layout of networks, that a checkpoint must have been written with to be resumed."""
        s, network = self.settings, self.snapshot.manifest.network
        sizes = (s.replay_capacity, s.replay_slots)
        return repr((FORMAT, _LAYOUT, s.variant, s.learner, s.hyper_parameters, *sizes, network))

    @property
    def _most_allowed(self) -> float:
        """Enough for organic likes in half of the replay."""
        return organic.COST * self.settings.replay_capacity / 2

    def take(self, event: Event, entry_id: str, at_ms: int) -> None:
        """Take in one event of the log."""
        counters = self.counters
        kind = type(event).__name__.lower()
        self._close(at_ms)
        if isinstance(event, Impression):
            if self.joiner.add_impression(event, at_ms, counters.place):
                self.recent.replace(event.user, event.history)
            else:
                kind = "impression_repeated"
        elif isinstance(event, Feedback):
            kind = f"feedback_{self._take_feedback(event, at_ms)}"
        elif isinstance(event, ItemChanged):
            self._change_item(event)
        elif isinstance(event, VisitorJoined):
            self.joiner.join(event.visitor, event.user)
            self.recent.join(event.visitor, event.user)
            self.replay.rename(owner_of(event.visitor), owner_of(event.user))
        else:
            self.joiner.erase(event.user)
            self.recent.erase(event.user)
            self.replay.forget(owner_of(event.user))
        counters.events[kind] = counters.events.get(kind, 0) + 1
        counters.cursor = entry_id
        counters.place += 1

    def _take_feedback(self, feedback: Feedback, at_ms: int) -> str:
        """Credit the slot that it answers or, if it is organic, learn from it; returns what became of it."""
        outcome = str(self.joiner.add_feedback(feedback, at_ms))
        if outcome == Joined.ORGANIC and not self._learn_organic(feedback):
            outcome = "organic_unlearned"
        user, item, now = feedback.user, feedback.item_id, at_ms / 1000
        at, previous = feedback.at(now), self.recent.reaction(user, item)
        if at < now - self.settings.session_ttl_s:  # as sessions do
            return outcome
        if (previous is None or previous.at <= at) and (feedback.undo or (feedback.explicit and feedback.reward <= 0)):
            self.replay.take_back(owner_of(user), self.index.get(item, EMPTY_SLOT))
            if feedback.undo:
                self.recent.undo(user, item)
        if not feedback.undo:
            self.recent.add(user, item, Reaction(feedback.reward, at), feedback.explicit)
        return outcome

    def _learn_organic(self, like: Feedback) -> bool:
        """Learn from a like without an impression; False if it teaches nothing, or too many came for one impression."""
        settings, counters = self.settings, self.counters
        # a2c has no use for slates without propensities.
        if settings.variant == Variant.FROZEN or settings.learner == "a2c" or counters.allowance < organic.COST:
            return False
        transition = organic_of(like, self.recent.of(like.user), self.index, self.settings.largest_reward)
        if transition is None:
            return False
        counters.allowance -= organic.COST * transition.rewards[0]
        counters.unpublished += 1
        self._add(transition)
        return True

    def skip(self, entry_id: str) -> None:
        """Pass over an entry that could not be used."""
        self.counters.events["poison"] = self.counters.events.get("poison", 0) + 1
        self.counters.cursor = entry_id
        self.counters.place += 1

    def _close(self, now_ms: int) -> None:
        counters = self.counters
        counters.now_ms = max(counters.now_ms, now_ms)
        for closed in self.joiner.close(counters.now_ms, counters.place):
            impression, reward = closed.impression, sum(closed.slot_rewards)
            self.arm_watch.add(impression.arm, impression.policy_version, impression.user, reward)
            counters.count(closed, self.index, self._first_items)
            counters.allowance = min(self._most_allowed, counters.allowance + len(impression.items))
            if counters.closed % _WATCH_EVERY == 0:
                self.regression = self.regression or self.arm_watch.regression()
            if impression.items:
                self._add(transition_of(closed, self.index, self.settings.gamma, self.settings.largest_reward))

    def _add(self, transition: Transition) -> None:
        self.replay.add(transition)
        self.counters.unlearned += 1
        if self.counters.unlearned >= self.settings.learn_every:
            self._learn()

    def _learn(self) -> None:
        new, self.counters.unlearned = self.counters.unlearned, 0
        if self.settings.variant == Variant.FROZEN or self.counters.failed:
            return
        self._apply_text()
        try:
            with telemetry.span("learn", transitions=new):
                metrics = self.learner.update(self.replay, new, self.generator) or self.metrics
        except (RuntimeError, ArithmeticError):  # of numbers, as of a matrix that cannot be inverted: no event's fault
            log.exception("a learning step failed at %s", self.counters.cursor)
            self.counters.failed = True
            return
        self.metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}  # they become JSON

    def _change_item(self, event: ItemChanged) -> None:
        row = unpack_embedding(event.embedding).astype(np.float16)
        existing = self.index.get(event.item_id)
        if existing is None:
            self.index[event.item_id] = len(self.item_ids)
            self.item_ids.append(event.item_id)
            self._embeddings.append(row[np.newaxis])
        elif not event.deleted:
            self.embeddings[existing] = row
        self._text_changed = True

    def _apply_text(self) -> None:
        """Give the networks the catalogue's new texts; put off to the next use, since items come in batches."""
        if self._text_changed:
            text = self._text()
            self.learner.grow(text)
            self.pretrained = self.pretrained.with_text(text).requires_grad_(False)
            self._text_changed = False

    @property
    def alignment(self) -> dict[str, float]:
        """Measures of how far the language model can be trusted: before any user came, and by users' answers."""
        first = {name: value for name, value in self.snapshot.manifest.metrics.items() if name.startswith("alignment_")}
        return first | {name: value for name, value in self.metrics.items() if name.startswith("prior_gain_")}

    @property
    def coverage(self) -> float:
        """Share of the catalogue that the latest slates have shown."""
        shown = np.unique(self.replay.latest_shown(_COVERED).actions.numpy())
        return int(np.count_nonzero(shown != EMPTY_SLOT)) / max(1, len(self.item_ids))

    @property
    def until_version(self) -> int:
        """Impressions still to close, or likes to come, before the next version: at first it comes whenever there is
        twice as much as for the last."""
        usual = self.settings.publish_every
        enough = min(usual, max(_FIRST_VERSION, usual // 20, self.replay.added // 2))
        return max(0, enough - self.counters.unpublished)

    @property
    def version_due(self) -> bool:
        """True while enough was learned for the next version."""
        return self.settings.variant != Variant.FROZEN and self.until_version == 0 and len(self.replay) > 0

    def next_snapshot(self, decision: Gate) -> Snapshot:
        """The next version as a snapshot, with where it came from and the gate's numbers."""
        self._apply_text()
        counters = self.counters
        return Snapshot.of(
            version=counters.version + 1,
            parent=counters.version,
            created_at=counters.now_ms / 1000,
            item_ids=tuple(self.item_ids),
            text_encoder=self.snapshot.manifest.text_encoder,
            projection=self.snapshot.projection,
            serving=replace(self._serving, most_learned=decision.share),
            pretrained=self.pretrained,
            learned=self.learner.actor,
            critic=self.learner.critic,
            learner=self.description,
            lineage={"cursor": counters.cursor, "closed": counters.closed, "events": dict(counters.events)},
            metrics={**self.metrics, **decision.numbers},
        )

    def serving_policy(self) -> ServingPolicy:
        """The policy as it would serve now."""
        self._apply_text()
        return ServingPolicy.of(self.pretrained, self.learner.actor, self.learner.critic, self._serving)

    def start_again(self, snapshot: Snapshot) -> None:
        """Give up what the learner learned since `snapshot`."""
        counters = self.counters
        counters.refused = counters.unpublished = 0
        counters.restarted_at, counters.restarted_from = counters.version, snapshot.manifest.version
        self.reset_learner(snapshot)

    def roll_back(self, target: Snapshot) -> None:
        """Learn on from `target` after a roll-back, and watch only the versions that come from now on."""
        assert self.regression is not None
        self.arm_watch.dismiss(self.regression.since_version, self.counters.version)
        self.regression = None
        self.counters.roll_backs += 1
        self.counters.serving, self.counters.trusted = target.manifest.version, _trusted(target)
        self.start_again(target)

    def unfit(self) -> str | None:
        """Return why the learner must not be published (a step failed, or weights are not finite); None if it may."""
        if self.counters.failed:
            return "learning_failed"
        nets: tuple[ItemScorer, ...] = (self.learner.actor, self.learner.critic)
        finite = all(bool(p.isfinite().all()) for net in nets for p in net.parameters())
        return None if finite else "not_finite"

    def dump(self) -> tuple[Meta, dict[str, Tensor]]:
        """Everything, for a checkpoint; what is returned is valid until the next event."""
        self._apply_text()
        waiting, closed = self.joiner.dump()
        watch, recent = self.arm_watch.dump(), self.recent.dump()
        meta = Meta(self.fingerprint, self.item_ids, self.counters, waiting, closed, watch, recent)
        tensors = {
            "embeddings": torch.from_numpy(self.embeddings),
            "generator": self.generator.get_state(),
            **prefixed("learner", self.learner.state_dict()),
            **prefixed("replay", self.replay.state_dict()),
        }
        return meta, tensors

    def restore(self, meta: Meta, tensors: dict[str, Tensor]) -> None:
        """Continue from what `dump` gave, bit for bit; `meta` is ours from now on."""
        self.item_ids = list(meta.item_ids)
        self.index = {item: row for row, item in enumerate(self.item_ids)}
        self._embeddings = Rows(tensors["embeddings"].numpy().copy())
        self._text_changed = True
        self._apply_text()
        self.learner.load_state_dict(under("learner", tensors))
        self.replay.load_state_dict(under("replay", tensors))
        self.generator.set_state(tensors["generator"])
        self.joiner.restore(meta.waiting, meta.closed)
        self.arm_watch.restore(meta.watch)
        self.recent.restore(meta.recent)
        self.regression = None
        self.counters = meta.counters
