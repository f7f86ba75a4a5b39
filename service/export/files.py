"""`python -m service export`: the log and the catalogue as Parquet files, whole or not at all."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import redis as syncredis

from service.durable import whole_file
from service.export.rows import Export, logged_slates, open_export
from service.policy.logged import ITEMS_METADATA, LOG_FORMAT, LOG_METADATA, items_schema, log_schema
from service.store.catalogue import ItemRecord, unpack_embedding
from service.store.keys import Keys

_BATCH = 4096


class ExportError(Exception):
    """The log cannot be exported; the message says why and what to do."""


class NoPyarrow(ExportError):
    """Nothing here can write Parquet."""


def write_log(
    path: Path,
    redis: syncredis.Redis,
    keys: Keys,
    reward_window_s: float,
    items: Path | None = None,
    on_read: Callable[[int], None] = lambda n: None,
) -> Counter[str]:
    """Write the log to `path`, and the catalogue with its text embeddings to `items`; returns what was counted.

    Either file appears whole or not at all. `on_read` is called with the number of entries read, of the log twice.

    Raises:
        ExportError: pyarrow is not installed, or a file cannot be written.
    """
    arrow, _ = import_pyarrow()
    export = open_export(redis, keys)
    export.on_read = on_read
    # The counts are known when the rows are: they go into the log through this same object.
    rows = (asdict(slate) for slate in logged_slates(redis, keys, export, reward_window_s))
    about: dict[str, Any] = {
        "catalogue": export.catalogue,
        "end_ms": export.end_ms,
        "reward_window_s": reward_window_s,
    }
    write_table(path, rows, log_schema(arrow), LOG_METADATA, about, export.counts)
    if items is not None:
        about = {"end_ms": export.end_ms}
        write_table(items, _item_rows(export), items_schema(arrow), ITEMS_METADATA, about, Counter())
    return export.counts


def _item_rows(export: Export) -> Iterator[dict[str, Any]]:
    for item_id in export.catalogue:
        record = export.records.get(item_id, ItemRecord("", b"", deleted=True))
        yield {
            "item_id": item_id,
            "text": record.text,
            "categories": list(record.categories),
            "hidden": record.hidden,
            "deleted": record.deleted,
            "embedding": unpack_embedding(record.embedding),
        }


def write_table(
    path: Path, rows: Iterator[dict[str, Any]], schema: Any, key: bytes, metadata: dict[str, Any], counts: Counter[str]
) -> None:
    """Write rows to a Parquet file in batches, with checksums."""
    arrow, parquet = import_pyarrow()
    with (
        exported(path) as file,
        parquet.ParquetWriter(file, schema, write_page_checksum=True, store_schema=True) as writer,
    ):
        while batch := list(islice(rows, _BATCH)):
            writer.write_table(arrow.Table.from_pylist(batch, schema))
        written = {"format": LOG_FORMAT, **metadata, "counts": dict(counts)}
        writer.add_key_value_metadata({key: json.dumps(written, ensure_ascii=False).encode()})


@contextlib.contextmanager
def exported(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears at `path` whole or not at all.

    Raises:
        ExportError: it cannot be written.
    """
    try:
        with whole_file(path) as file:
            yield file
    except OSError as error:
        raise ExportError(
            f"{path}: cannot be written ({error.strerror or error}); name another file or make room"
        ) from None


def import_pyarrow() -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`.

    Raises:
        NoPyarrow: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise NoPyarrow("Parquet files need pyarrow: pip install 'ialp[offline]'") from None
    return pyarrow, pyarrow.parquet
