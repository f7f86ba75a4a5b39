"""Reading exported files: what was written comes back; whatever else is refused in one line that names the place."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offline.errors import OfflineError
from offline.ope.feedback import bandit_feedback, load_bandit_feedback, save_bandit_feedback
from offline.ope.log import Log, read_items, read_log
from offline.ope.target import Target, index_log, open_target
from service.policy.logged import ITEMS_METADATA, LOG_FORMAT, LoggedSlate, items_schema, log_schema
from service.policy.text import TEXT_DIM
from service.policy.variants import Arm
from tests.offline.ope_examples import write_log


def refusal(read: Callable[[Path], object], path: Path) -> str:
    """The message, which must be one line that names the file."""
    with pytest.raises(OfflineError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{path}: "), message
    return message.removeprefix(f"{path}: ")


def test_a_log_comes_back_as_it_was(log: Log, tmp_path: Path) -> None:
    read = read_log(write_log(log, tmp_path / "log.parquet"))
    assert (read.slates, read.catalogue) == (log.slates, log.catalogue)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(
    users=st.lists(texts, min_size=1, max_size=4),
    items=st.lists(texts, min_size=1, max_size=5, unique=True),
    reward=st.floats(-1e6, 1e6),
    propensity=st.floats(0, 1, exclude_min=True),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_any_ids_and_numbers_come_back(
    tmp_path: Path, log: Log, users: list[str], items: list[str], reward: float, propensity: float
) -> None:
    slates = tuple(
        replace(
            log.slates[0],
            user=user,
            items=tuple(items),
            propensities=(propensity,) * len(items),
            rewards=(reward,) * len(items),
            n_items=len(items),
            candidates=None if n % 2 else (),
        )
        for n, user in enumerate(users)
    )
    made = Log(slates, tuple(items), log.metadata)
    assert read_log(write_log(made, tmp_path / "log.parquet")).slates == slates


def change(slate: LoggedSlate, **fields: Any) -> LoggedSlate:
    return LoggedSlate(**asdict(slate) | fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"propensities": (0.5, 0.0, 0.5)}, "row 2: propensities: 0.0 is not in (0, 1]"),
        ({"propensities": (0.5, float("nan"), 0.5)}, "row 2: propensities: nan is not in (0, 1]"),
        ({"propensities": (0.5, 1.5, 0.5)}, "row 2: propensities: 1.5 is not in (0, 1]"),
        ({"propensities": (0.5,)}, "row 2: propensities: 1 for 3 items"),
        ({"rewards": (0.0,)}, "row 2: rewards: 1 for 3 items"),
        ({"rewards": (0.0, 0.0, float("inf"))}, "row 2: rewards: not a finite number"),
        ({"history_items": ("film-1",), "history_rewards": ()}, "row 2: history_rewards: 0 for 1 history_items"),
        ({"items": ("film-1", "film-1", "film-2")}, "row 2: items: an item is in two slots"),
        ({"items": ("film-1", "what?", "film-2")}, "row 2: items: 'what?' is not in the log's catalogue"),
        ({"n_items": 99}, "row 2: n_items: 99 is not between 0 and 30"),
        ({"user": None}, "row 2: user: is missing"),
        ({"rewards": (0.0, None, 0.0)}, "row 2: rewards: is missing"),
    ],
)
def test_a_row_that_cannot_be_is_named(log: Log, tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    whole = {"items": ("film-1", "film-2", "film-3"), "propensities": (0.1,) * 3, "rewards": (0.0,) * 3}
    slates = [change(slate, **whole) for slate in log.slates[:4]]
    slates[2] = change(slates[2], **fields)
    path = write_log(replace(log, slates=tuple(slates)), tmp_path / "log.parquet")
    assert refusal(read_log, path) == said


def test_other_files_are_refused(log: Log, tmp_path: Path) -> None:
    assert refusal(read_log, tmp_path / "none.parquet").startswith("not found; write it with `python -m service export")
    csv = tmp_path / "log.csv"
    csv.write_text("user,item,propensity\nann,film-1,0.5\n")
    assert "not a Parquet file, or cut short" in refusal(read_log, csv)
    (tmp_path / "empty").write_bytes(b"")
    assert "not a Parquet file, or cut short" in refusal(read_log, tmp_path / "empty")
    assert "not a Parquet file, or cut short" in refusal(read_log, tmp_path)
    other = tmp_path / "other.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), other)
    assert refusal(read_log, other).startswith("Parquet, but not the service's log; ")
    assert refusal(read_items, other).startswith("Parquet, but not the service's items; ")
    future = write_log(log, tmp_path / "future.parquet", format=LOG_FORMAT + 1)
    assert refusal(read_log, future).startswith(f"format {LOG_FORMAT + 1}, this version reads {LOG_FORMAT}; ")
    bare = write_log(log, tmp_path / "bare.parquet", catalogue=None)
    assert "`catalogue` is missing" in refusal(read_log, bare)
    twice = write_log(log, tmp_path / "twice.parquet", catalogue=["a", "a"])
    assert "`catalogue` names an item twice" in refusal(read_log, twice)


def test_columns_are_checked(log: Log, tmp_path: Path) -> None:
    path = write_log(log, tmp_path / "log.parquet")
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.drop_columns(["propensities"]), path)
    assert refusal(read_log, path).startswith("propensities: column is missing; ")
    place = table.schema.get_field_index("at_ms")
    pyarrow.parquet.write_table(table.set_column(place, "at_ms", table["at_ms"].cast(pyarrow.string())), path)
    assert refusal(read_log, path).startswith("at_ms: column is string, expected int64; ")


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_a_damaged_log_is_refused(log: Log, tmp_path: Path, data: st.DataObject) -> None:
    """Cut short anywhere it is refused; a flipped bit is refused too, or does no harm that would need another error."""
    whole = write_log(replace(log, slates=log.slates[:30]), tmp_path / "whole.parquet").read_bytes()
    cut, place, bit = (data.draw(st.integers(0, top)) for top in (len(whole) - 1, len(whole) - 1, 7))
    path = tmp_path / "damaged.parquet"
    path.write_bytes(whole[:cut])
    refusal(read_log, path)
    flipped = bytearray(whole)
    flipped[place] ^= 1 << bit
    path.write_bytes(flipped)
    with contextlib.suppress(OfflineError):
        read_log(path)


def write_items(path: Path, ids: list[str | None], embeddings: list[Any]) -> Path:
    rows = [
        {"item_id": item, "text": "t", "categories": [], "hidden": False, "deleted": False, "embedding": embedding}
        for item, embedding in zip(ids, embeddings, strict=True)
    ]
    table = pyarrow.Table.from_pylist(rows, items_schema(pyarrow))
    table = table.replace_schema_metadata({ITEMS_METADATA: json.dumps({"format": LOG_FORMAT}).encode()})
    pyarrow.parquet.write_table(table, path)
    return path


@pytest.mark.parametrize(
    ("ids", "embeddings", "said"),
    [
        ([], [], "holds no items"),
        ([None], [[1.0]], "row 0: item_id: is missing"),
        (["a", "b"], [[1.0], [1.0, 2.0]], "row 1: embedding: 2 values, not 1"),
        (["a", "b"], [[1.0], None], "row 1: embedding: holds a value that is not a number"),
        (["a"], [[float("nan")]], "row 0: embedding: holds a value that is not a number"),
    ],
)
def test_bad_items_are_named(tmp_path: Path, ids: list[str | None], embeddings: list[Any], said: str) -> None:
    assert refusal(read_items, write_items(tmp_path / "items.parquet", ids, embeddings)) == said


def test_items_must_fit_the_snapshot(tmp_path: Path, target_folder: Path) -> None:
    def opened(path: Path) -> Target:
        return open_target(target_folder, Arm.ADAPTIVE, path)

    short = write_items(tmp_path / "short.parquet", ["film-0"], [[1.0]])
    assert refusal(opened, short) == f"embedding: has 1 values, expected {TEXT_DIM}"
    other = write_items(tmp_path / "other.parquet", ["film-0"], [[0.0] * TEXT_DIM])
    assert refusal(opened, other).startswith("item_id: 'film-1' of ")


def test_bandit_feedback_comes_back_and_other_files_are_refused(log: Log, target: Target, tmp_path: Path) -> None:
    made = bandit_feedback(index_log(log, target), target)
    path = tmp_path / "feedback.npz"
    save_bandit_feedback(made, path)
    read = load_bandit_feedback(path)
    assert list(read) == list(made)
    assert (read["n_rounds"], read["n_actions"]) == (sum(len(s.items) for s in log.slates), 30)
    assert isinstance(read["n_rounds"], int)
    for name, array in made.items():
        np.testing.assert_array_equal(read[name], array)
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert "not bandit feedback, or cut short" in refusal(load_bandit_feedback, path)
    assert refusal(load_bandit_feedback, tmp_path / "none.npz").startswith("not found; ")
    save_bandit_feedback(made | {"reward": made["reward"][:-1]}, path)
    assert refusal(load_bandit_feedback, path).startswith("reward: shape ")
    save_bandit_feedback(made | {"n_rounds": 1.5}, path)
    assert refusal(load_bandit_feedback, path) == "n_rounds: not a whole number"
    save_bandit_feedback({name: array for name, array in made.items() if name != "pscore"}, path)
    assert "pscore" in refusal(load_bandit_feedback, path)
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    assert "not bandit feedback" in refusal(load_bandit_feedback, tmp_path / "objects.npy")


def test_the_schema_has_a_column_for_each_field() -> None:
    assert log_schema(pyarrow).names == list(LoggedSlate.__dataclass_fields__)
