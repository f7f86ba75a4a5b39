"""A served slate with what came of it: the Parquet row that the service exports and off-policy evaluation reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LOG_FORMAT = 1
LOG_METADATA = b"ialp.log"  # key in the Parquet schema's metadata; the value is JSON with format, catalogue and counts
ITEMS_METADATA = b"ialp.items"  # the same for the file of items


@dataclass(frozen=True)
class LoggedSlate:
    """One impression joined with its feedback; k slots. Fields are the columns of the file."""

    recommendation_id: str
    user: str  # user key
    at_ms: int  # when it was logged, unix milliseconds
    arm: str
    policy_version: int
    history_items: tuple[str, ...]  # the session at serve time, oldest first
    history_rewards: tuple[float, ...]
    items: tuple[str, ...]  # [k], slot order
    propensities: tuple[float, ...]  # [k], each given the slots above it
    rewards: tuple[float, ...]  # [k], 0 where the user did not respond within the reward window
    candidate_hash: str  # of the set of items that could have been shown
    masked: tuple[str, ...]  # seen or excluded by the request
    candidates: tuple[str, ...] | None  # the only ones allowed, when the request or a filter said so
    n_items: int  # how many items of the log's catalogue existed
    hidden: tuple[str, ...]  # of these, hidden or deleted
    verified: bool  # the available items that these fields give have the hash that was logged
    weight: float  # share of the learned policy in the mixture
    entropy: float  # of the behaviour policy, nats
    context: str = "{}"  # facts about the request, a JSON object; no column in files of older releases


def log_schema(arrow: Any) -> Any:
    """The Arrow schema of `LoggedSlate`; `arrow` is the module pyarrow, which only some installations have."""
    types = {
        "str": arrow.string(),
        "int": arrow.int64(),
        "float": arrow.float64(),
        "bool": arrow.bool_(),
        "tuple[str, ...]": arrow.list_(arrow.string()),
        "tuple[str, ...] | None": arrow.list_(arrow.string()),
        "tuple[float, ...]": arrow.list_(arrow.float64()),
    }
    return arrow.schema([(name, types[kind]) for name, kind in LoggedSlate.__annotations__.items()])


def items_schema(arrow: Any) -> Any:
    """The Arrow schema of the file of items: rows in catalogue order."""
    return arrow.schema(
        [
            ("item_id", arrow.string()),
            ("text", arrow.string()),
            ("categories", arrow.list_(arrow.string())),
            ("hidden", arrow.bool_()),
            ("deleted", arrow.bool_()),
            ("embedding", arrow.list_(arrow.float32())),
        ]
    )
