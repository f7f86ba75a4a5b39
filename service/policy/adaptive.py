"""The policy that serves, in NumPy: the pre-trained one, the learned one, or both together, on candidates in a large
catalogue. How they are put together is in `variants`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from service.policy.candidates import NetworkPair, Part, absent_at, is_repeated, take
from service.policy.fast_scorer import FastScorer, Floats, Mask, Places, Sessions, pack, softmax
from service.policy.item_index import FEW, ItemIndex
from service.policy.networks import ItemScorer
from service.policy.sampling import Probs, slate_propensities
from service.policy.types import Features, Interaction, Response
from service.policy.variants import Arm, ServingConfig, Variant, is_mixed, learned_weight, mixed, variant_of


class Query(NamedTuple):
    """A state, and what may be shown in it."""

    history: Sequence[Interaction]
    available: npt.NDArray[np.bool_]  # [A]
    arm: Arm = Arm.ADAPTIVE
    context: Features = ()


@dataclass(frozen=True)
class Distribution:
    """A policy's probabilities in one state, and what they are made of."""

    probs: Probs  # [R], sums to one, zero where an item is not available
    pretrained: Probs  # [R]; equals `learned` where the pre-trained policy takes no part
    learned: Probs  # [R]; equals `pretrained` where nothing learned takes part
    weight: float  # share of `learned` in `probs`
    rows: Places | None = None  # [R] the items that the numbers are of, in ascending order; None: of all A

    def items(self, drawn: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The items that stand at the places `drawn` [k]."""
        return drawn if self.rows is None else self.rows[drawn]

    def from_learned(self, drawn: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Mark those of `drawn` [k] to whose probability the learned policy contributed most."""
        return self.weight * self.learned[drawn] > (1 - self.weight) * self.pretrained[drawn]

    def propensities(self, shown: npt.NDArray[np.int64]) -> Probs:
        """Propensity of each slot had the items `shown` [k], given by catalogue row, been drawn from this."""
        return slate_propensities(*self._found(shown))

    def probabilities(self, items: npt.NDArray[np.int64]) -> Probs:
        """Return the probabilities of `items` [n], given by catalogue row; zero for one that the numbers are not of."""
        probs, places = self._found(items)
        return np.asarray(probs[places])

    def _found(self, items: npt.NDArray[np.int64]) -> tuple[Probs, npt.NDArray[np.int64]]:
        """Probabilities, and where in them those of `items` [n] are."""
        if self.rows is None:
            return self.probs, items
        places = np.searchsorted(self.rows, items)  # of an item that is there twice the first, which has its mass
        is_held = self.rows[np.minimum(places, len(self.rows) - 1)] == items
        return np.append(self.probs, 0.0), np.where(is_held, places, len(self.probs))

    def of_all(self, n_items: int) -> Distribution:
        """Return this distribution with numbers for all A items."""
        if self.rows is None:
            return self
        rows = self.rows  # an item that is there twice has its probability at one of its places
        probs, pretrained, learned = (
            np.bincount(rows, part, n_items).astype(np.float64)  # integers where there is nothing to count
            for part in (self.probs, self.pretrained, self.learned)
        )
        return Distribution(probs, pretrained, learned, self.weight)


def entropy(probs: Probs) -> Probs:
    """Entropy in nats over the last axis, [..., A] -> [...]."""
    return np.asarray(-(probs * np.log(probs + np.finfo(np.float64).tiny)).sum(-1))


_AT_ONCE = 64  # states whose scores are in memory together
_EXAMPLES = 1_000  # sessions that tell an index what is asked
_MOST_NEW = 1_024  # items beside the index, which every request looks at


class ServingPolicy:
    """Answers "how likely is each item in this state" for both arms; immutable after construction."""

    def __init__(
        self,
        pretrained: FastScorer,
        learned: FastScorer,
        critic: FastScorer,
        config: ServingConfig,
        index: ItemIndex | None = None,
    ) -> None:
        """`critic` may be `learned` itself, which is then evaluated once. `index` is of these very scorers' items."""
        assert len(pretrained) == len(learned) == len(critic)
        self.pretrained, self.learned, self.critic = pretrained, learned, critic
        self.config = config
        self.max_history = pretrained.config.max_history
        self._index = index

    @classmethod
    def of(
        cls, pretrained: ItemScorer, learned: ItemScorer, critic: ItemScorer, config: ServingConfig
    ) -> ServingPolicy:
        """Build the policy of networks as they are now; `critic` may be `learned` itself."""
        before, after = FastScorer.of(pretrained), FastScorer.of(learned)
        return cls(before, after, after if critic is learned else FastScorer.of(critic), config)

    @property
    def n_items(self) -> int:
        """Number of items A."""
        return len(self.pretrained)

    @property
    def is_indexed(self) -> bool:
        """True if candidates come from an index."""
        return self._index is not None

    def indexed(self, seed: int = 0) -> ServingPolicy:
        """Return this policy with an index, fitted to the queries of sessions with random items and responses."""
        rng = np.random.default_rng(seed)
        kinds = (Response.NEGATIVE, Response.IGNORED, Response.POSITIVE)
        histories = [
            [
                Interaction(item, kinds[kind])
                for item, kind in zip(rng.integers(self.n_items, size=n).tolist(), rng.integers(3, size=n), strict=True)
            ]
            for n in rng.integers(1, self.max_history + 1, size=_EXAMPLES)
        ]
        sessions = pack(histories, self.max_history)
        variants = {Variant.FROZEN, self.config.variant}
        index = ItemIndex(self._named_by, [self._network_pair(variant, sessions) for variant in sorted(variants)], seed)
        return ServingPolicy(self.pretrained, self.learned, self.critic, self.config, index)

    @property
    def networks(self) -> list[FastScorer]:
        """All that take part in any arm."""
        return list(dict.fromkeys((self.pretrained, self.learned, self.critic)))

    def replaced(self, grown: Mapping[FastScorer, FastScorer]) -> ServingPolicy:
        """Return this policy with other networks, which have the same items and perhaps new ones after them."""
        pretrained, learned, critic = (grown[net] for net in (self.pretrained, self.learned, self.critic))
        index = self._index
        if index is not None and len(pretrained) - len(index) > _MOST_NEW:
            index = index.with_items([grown[net] for net in self._named_by])
        return ServingPolicy(pretrained, learned, critic, self.config, index)

    def closeness(self, items: Places, to: Places, arm: Arm) -> Floats:
        """[n, m] cosine of each of `items` [n] to each of `to` [m] in what serves an arm."""
        net = self.pretrained if variant_of(self.config, arm) == Variant.FROZEN else self.learned
        vectors = net.items[:, : net.config.dim]
        lengths = net.items[:, -1]
        return np.asarray((vectors[items] * lengths[items, np.newaxis]) @ (vectors[to] * lengths[to, np.newaxis]).T)

    def distribution(
        self,
        history: Sequence[Interaction],
        available: npt.NDArray[np.bool_],
        arm: Arm = Arm.ADAPTIVE,
        context: Features = (),
    ) -> Distribution:
        """Probabilities of all A items in the state `history`, over those that are `available` [A]."""
        return self.serve([Query(history, available, arm, context)])[0].of_all(len(available))

    @property
    def is_narrowed(self) -> bool:
        """True if what is served is chosen among candidates, since there are so many items."""
        return self.n_items > FEW * self.config.candidates

    def serve(self, queries: Sequence[Query], among: Places | None = None) -> list[Distribution]:
        """Return the distribution of each query; together they cost less than one by one.

        In a large catalogue the policies choose among `ServingConfig.candidates`, and their probabilities are exact for
        these: the first ones by each network's f without closeness, and again with its optimism. `among` [B, R], each
        row in ascending order, names others instead.
        """
        served: dict[int, Distribution] = {}
        for variant in Variant:
            alike = [n for n, query in enumerate(queries) if variant_of(self.config, query.arm) == variant]
            for start in range(0, len(alike), _AT_ONCE):
                group = alike[start : start + _AT_ONCE]
                rows = None if among is None else among[group]
                served.update(zip(group, self._served(variant, [queries[n] for n in group], rows), strict=True))
        return [served[n] for n in range(len(queries))]

    def _served(self, variant: Variant, queries: Sequence[Query], rows: Places | None) -> list[Distribution]:
        """Return the distributions of queries that are served the same variant."""
        contexts = [query.context for query in queries]
        sessions = pack([query.history for query in queries], self.max_history, contexts if any(contexts) else ())
        available = [query.available for query in queries]
        pair = self._network_pair(variant, sessions)
        before, after = (part and part.net for part in pair)
        pool = rows
        if rows is None and self._index is not None:
            also = self._latest_fresh if after is not None else self._latest_fresh[:0]
            pool = self._index.pool(pair, available, self.config.candidates, also)
        absent = absent_at(available, pool)
        of_before, of_after = pair.plain(pool)
        if rows is None and self.is_narrowed:
            fresh = None
            if after is not None and self._has_fresh:
                fresh = np.broadcast_to(self._fresh, absent.shape) if pool is None else self._fresh[pool]
            places = pair.best((of_before, of_after), pool, absent, self.config.candidates, fresh)
            rows = places if pool is None else take(pool, places)
            of_before, of_after = (plain if plain is None else take(plain, places) for plain in (of_before, of_after))
            absent = take(absent, places) | is_repeated(rows)
        repeated: Floats | None = None
        pretrained = np.empty(0)
        if before is not None and of_before is not None:
            near = before.near(sessions, rows)
            repeated = before.repeated(near)
            pretrained = before.policy(before.advantage(of_before + repeated, near), rows, absent)[0]
        if after is None or of_after is None:
            return _distributions(rows, pretrained, pretrained, pretrained, np.zeros(len(queries)))
        near = after.near(sessions, rows)
        response = of_after + after.repeated(near)
        if repeated is not None:
            response += after.prior_gain[1] * repeated
        advantage = after.advantage(response, near)
        learned, settled = after.policy(advantage, rows, absent)
        new = self._new(advantage, rows, absent)
        if before is None:
            weight = np.ones(len(queries))
            served = mixed(self.config, learned, learned, weight, new, absent)
            return _distributions(rows, served, learned, learned, weight)

        def advantages() -> Floats:
            if self.critic is after:
                return advantage
            near = self.critic.near(sessions, rows)
            plain = self.critic.plain(self.critic.hidden(sessions), rows)
            return self.critic.advantage(plain + self.critic.repeated(near), near)

        weight = learned_weight(self.config, variant, pretrained, settled, advantages)
        served = mixed(self.config, pretrained, learned, weight, new, absent)
        return _distributions(rows, served, pretrained, learned, weight)

    def _new(self, advantage: Floats, rows: Places | None, absent: Mask) -> Probs | None:
        """The policy among new items of which next to nothing is known [B, R]: zero where a state has none of them;
        None where no state can have any."""
        if not self._has_fresh:
            return None
        is_new = (self._fresh if rows is None else self._fresh[rows]) & ~absent
        scaled = advantage * np.float32(1 / self.learned.config.temperature)
        scaled[~is_new] = -np.inf
        return softmax(scaled)

    @cached_property
    def _fresh(self) -> Mask:
        """[A] True for items that came after the first ones and are as good as unknown to the learned policy."""
        config = self.config
        fresh = np.zeros(self.n_items, np.bool_)
        if config.new_items > 0 and self.n_items > config.first_items:
            fresh[config.first_items :] = self.learned.is_unknown()[config.first_items :]
        return fresh

    @cached_property
    def _latest_fresh(self) -> Places:
        return np.flatnonzero(self._fresh)[-_MOST_NEW:]

    @property
    def _has_fresh(self) -> bool:
        return len(self._latest_fresh) > 0

    def _network_pair(self, variant: Variant, sessions: Sessions) -> NetworkPair:
        """Encode sessions by the networks that take part in a variant."""
        before, after = is_mixed(self.config, variant) or variant == Variant.FROZEN, variant != Variant.FROZEN
        prior = self.pretrained if before else None
        return NetworkPair(
            Part(self.pretrained, self.pretrained.hidden(sessions)) if before else None,
            Part(self.learned, self.learned.hidden(sessions, prior)) if after else None,
        )

    @property
    def _named_by(self) -> list[FastScorer]:
        """The networks that name candidates, in whatever arm."""
        return [self.pretrained] if self.config.variant == Variant.FROZEN else [self.pretrained, self.learned]


def _distributions(
    rows: Places | None, probs: Probs, pretrained: Probs, learned: Probs, weight: Probs
) -> list[Distribution]:
    return [
        Distribution(probs[b], pretrained[b], learned[b], float(weight[b]), None if rows is None else rows[b])
        for b in range(len(probs))
    ]
