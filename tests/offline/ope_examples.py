"""A small world for off-policy evaluation: a snapshot, and a log drawn from another policy, whose rewards are known."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from offline.ope.log import Log
from offline.ope.target import Target, available
from service.policy.logged import LOG_FORMAT, LOG_METADATA, LoggedSlate, log_schema
from service.policy.sampling import Probs, sample_slate
from service.policy.types import Interaction, pack_states

GENRES = 3


def click_probability(row: int, slot: int) -> float:
    """Of the item film-`row`: Comedies are liked, upper slots are seen more."""
    return (0.6 if row % GENRES == 1 else 0.1) - 0.05 * slot


def draw_log(behaviour: Target, n: int, seed: int, k: int = 3) -> Log:
    """`n` slates of up to `k` items, three a user, with every kind of mask; rewards by `click_probability`."""
    rng = np.random.default_rng(seed)
    ids = behaviour.item_ids
    slates = []
    for number in range(n):
        past = rng.choice(len(ids), int(rng.integers(0, 4)), replace=False)
        history = tuple(ids[row] for row in past)
        rewards = tuple(float(reward) for reward in rng.integers(-1, 2, len(past)))
        others = [ids[row] for row in rng.permutation(len(ids))]
        slate = LoggedSlate(
            recommendation_id=f"r{number}",
            user=f"u:{number // 3}",
            at_ms=1000 + number,
            arm="adaptive" if number % 4 else "control",
            policy_version=1,
            history_items=history,
            history_rewards=rewards,
            items=(),
            propensities=(),
            rewards=(),
            candidate_hash="",
            masked=tuple(sorted(history)),
            candidates=tuple(others[:12]) if number % 5 == 0 else None,
            n_items=len(ids) - number % 3,
            hidden=tuple(others[-2:]) if number % 2 else (),
            verified=True,
            weight=0.5,
            entropy=1.0,
        )
        slates.append(drawn(slate, behaviour, k, rng))
    return Log(tuple(slates), ids, {"format": LOG_FORMAT, "counts": {}})


def drawn(slate: LoggedSlate, behaviour: Target, k: int, rng: np.random.Generator) -> LoggedSlate:
    """The same request with a slate from `behaviour` and its rewards."""
    probs = probabilities(Log((slate,), behaviour.item_ids, {}), behaviour)[0]
    sampled = sample_slate(probs, k, rng)
    clicks = [rng.random() < click_probability(int(row), slot) for slot, row in enumerate(sampled.items)]
    items = tuple(behaviour.item_ids[row] for row in sampled.items)
    fields = asdict(slate) | {"items": items, "propensities": tuple(map(float, sampled.propensities))}
    return LoggedSlate(**fields | {"rewards": tuple(map(float, clicks))})


def probabilities(log: Log, policy: Target) -> Probs:
    """[S, A] what `policy` would show first in each slate's place."""
    index = {item: row for row, item in enumerate(policy.item_ids)}
    histories = [
        [Interaction(index[i], r) for i, r in zip(s.history_items, s.history_rewards, strict=True)] for s in log.slates
    ]
    states = pack_states(histories, policy.policy.max_history)
    mask = available(log, policy, np.arange(len(log.slates)))
    return policy.policy.distributions(states, mask, policy.arm).probs


def write_log(log: Log, path: Path, **changes: object) -> Path:
    """The log as a file, with some of its metadata changed."""
    schema = log_schema(pyarrow)
    table = pyarrow.Table.from_pylist([asdict(slate) for slate in log.slates], schema)
    metadata = {**log.metadata, "catalogue": list(log.catalogue), **changes}
    table = table.replace_schema_metadata({LOG_METADATA: json.dumps(metadata).encode()})
    pyarrow.parquet.write_table(table, path, write_page_checksum=True)
    return path
