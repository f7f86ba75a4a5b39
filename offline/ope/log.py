"""The service's log as `python -m service export` wrote it: read, and checked row by row before it is used."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from offline.datasets import import_pyarrow
from offline.errors import OfflineError
from service.policy.context import read_context
from service.policy.logged import ITEMS_METADATA, LOG_FORMAT, LOG_METADATA, LoggedSlate, items_schema, log_schema

_BATCH = 4096
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Log:
    """Slates in the order they were served, and the items there were, in catalogue order."""

    slates: tuple[LoggedSlate, ...]
    catalogue: tuple[str, ...]
    metadata: Mapping[str, Any]  # how it was exported: reward window, counts


def read_log(path: Path) -> Log:
    """Read an exported log.

    Raises:
        OfflineError: there is no such file, it is not a log, is cut short or damaged, or a row holds what cannot be;
            the message names the file, the row (from 0) and the field.
    """
    metadata, rows = _read(path, LOG_METADATA)
    try:
        catalogue = tuple(str(item) for item in metadata["catalogue"])
    except (KeyError, TypeError):
        raise OfflineError(f"{path}: metadata: `catalogue` is missing; export the log again") from None
    if len(set(catalogue)) != len(catalogue):
        raise OfflineError(f"{path}: metadata: `catalogue` names an item twice; export the log again")
    item_ids = frozenset(catalogue)
    slates: list[LoggedSlate] = []
    for number, row in enumerate(rows):
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in row.items()
        }
        values.setdefault("context", "{}")
        problem = _misshapen(values) or _impossible(values, item_ids)
        if problem is not None:
            raise OfflineError(f"{path}: row {number}: {problem}")
        slates.append(LoggedSlate(**values))
    return Log(tuple(slates), catalogue, metadata)


def read_items(path: Path) -> tuple[tuple[str, ...], list[list[float]]]:
    """Ids and text embeddings of the items that `python -m service export --items` wrote, in catalogue order.

    Raises:
        OfflineError: as `read_log`.
    """
    _, rows = _read(path, ITEMS_METADATA)
    ids: list[str] = []
    embeddings: list[list[float]] = []
    for number, row in enumerate(rows):
        embedding = row["embedding"]
        if row["item_id"] is None:
            raise OfflineError(f"{path}: row {number}: item_id: is missing")
        if embedding is None or not all(value is not None and math.isfinite(value) for value in embedding):
            raise OfflineError(f"{path}: row {number}: embedding: holds a value that is not a number")
        if embeddings and len(embedding) != len(embeddings[0]):
            raise OfflineError(f"{path}: row {number}: embedding: {len(embedding)} values, not {len(embeddings[0])}")
        ids.append(row["item_id"])
        embeddings.append(embedding)
    if not ids:
        raise OfflineError(f"{path}: holds no items")
    return tuple(ids), embeddings


def _read(path: Path, key: bytes) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """A file's metadata and its rows. Damage within the rows shows only while they are read."""
    arrow, parquet = import_pyarrow()
    again = f"write it with `python -m service export{' --items' if key == ITEMS_METADATA else ''}`"
    try:
        file = parquet.ParquetFile(path, page_checksum_verification=True)
        found, written = file.schema_arrow, file.metadata.metadata or {}
        names = found.names
    except FileNotFoundError:
        raise OfflineError(f"{path}: not found; {again}") from None
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise OfflineError(f"{path}: not a Parquet file, or cut short ({_line(error)}); {again}") from None
    if key not in written:
        raise OfflineError(f"{path}: Parquet, but not the service's {key.decode().removeprefix('ialp.')}; {again}")
    try:
        metadata: dict[str, Any] = json.loads(written[key])
        version = metadata["format"]
    except (ValueError, KeyError, TypeError):
        raise OfflineError(f"{path}: metadata: not what the service writes; {again}") from None
    if version != LOG_FORMAT:
        raise OfflineError(f"{path}: format {version!r}, this version reads {LOG_FORMAT}; {again}")
    expected = log_schema(arrow) if key == LOG_METADATA else items_schema(arrow)
    for column in expected:
        if column.name == "context" and column.name not in names:
            continue
        if column.name not in names:
            raise OfflineError(f"{path}: {column.name}: column is missing; {again}")
        actual = found.field(column.name).type
        if actual != column.type:
            raise OfflineError(f"{path}: {column.name}: column is {actual}, expected {column.type}; {again}")
    return metadata, _rows(path, file, [name for name in expected.names if name in names], again)


def _rows(path: Path, file: Any, columns: list[str], again: str) -> Iterator[dict[str, Any]]:
    arrow, _ = import_pyarrow()
    try:
        for batch in file.iter_batches(_BATCH, columns=columns):
            yield from batch.to_pylist()
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise OfflineError(f"{path}: damaged ({_line(error)}); {again}") from None


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _misshapen(row: dict[str, Any]) -> str | None:
    """The first field that is missing or of another length than the one it goes with, and why."""
    for field in fields(LoggedSlate):
        value = row[field.name]
        if (value is None and field.name != "candidates") or (isinstance(value, tuple) and None in value):
            return f"{field.name}: is missing"
    pairs = (("propensities", "items"), ("rewards", "items"), ("history_rewards", "history_items"))
    for name, of in pairs:
        if len(row[name]) != len(row[of]):
            return f"{name}: {len(row[name])} for {len(row[of])} {of}"
    return None


def _impossible(row: dict[str, Any], catalogue: frozenset[str]) -> str | None:
    """The first field whose value cannot be, and why."""
    if read_context(row["context"]) is None:
        return "context: is no JSON object of facts"
    outside = [p for p in row["propensities"] if not 0 < p <= 1 + _ROUNDING]
    if outside:
        return f"propensities: {outside[0]} is not in (0, 1]"
    for name in ("rewards", "history_rewards"):
        if not all(map(math.isfinite, row[name])):
            return f"{name}: not a finite number"
    if len(set(row["items"])) != len(row["items"]):
        return "items: an item is in two slots"
    unknown = [item for item in row["items"] if item not in catalogue]
    if unknown:
        return f"items: {unknown[0]!r} is not in the log's catalogue"
    if not 0 <= row["n_items"] <= len(catalogue):
        return f"n_items: {row['n_items']} is not between 0 and {len(catalogue)}"
    return None
