"""Data sets: a catalogue of items with text, and (optionally) what users did with them; saved as one folder."""

from __future__ import annotations

import io
import json
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from offline import impressions
from offline.artefacts import read_manifest, sha256_file, write_manifest
from offline.errors import OfflineError
from offline.impressions import Impressions
from service.durable import write_file
from service.tables.problems import RowProblem

STAGE = "datasets"
ITEMS_FILE = "items.jsonl"
INTERACTIONS_FILE = "interactions.parquet"
IMPRESSIONS_FILE = "impressions.parquet"
PROBLEMS_FILE = "problems.jsonl"

T = TypeVar("T")


PropertyValue = bool | int | float | str | list[bool | int | float | str]


@dataclass(frozen=True)
class Item:
    """One thing that can be recommended. `text` is what a person would read first (a title); categories come apart."""

    item_id: str
    text: str
    categories: tuple[str, ...] = ()
    properties: dict[str, PropertyValue] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Interactions:
    """N observed (user, item) pairs; `user` and `item` are indices, `liked` says whether the response was positive."""

    user: npt.NDArray[np.int32]  # [N], 0 .. n_users - 1
    item: npt.NDArray[np.int32]  # [N], index into Dataset.items
    value: npt.NDArray[np.float32]  # [N], rating, play count or 1.0
    liked: npt.NDArray[np.bool_]  # [N]
    time: npt.NDArray[np.int64]  # [N], unix seconds, or the order within the user where no time is known
    n_users: int


@dataclass(frozen=True)
class Scenario:
    """The words a prompt needs: "A person who {liked} these {nouns} ...". Plain lower-case English."""

    noun: str = "item"
    nouns: str = "items"
    liked: str = "liked"
    disliked: str = "did not like"


@dataclass(frozen=True)
class Dataset:
    """A catalogue (A items), the words for it, what users did with it, the rows that had to be left out, and what was
    recognised in its files."""

    name: str
    scenario: Scenario
    items: tuple[Item, ...]
    interactions: Interactions | None
    problems: tuple[RowProblem, ...] = ()
    notes: tuple[str, ...] = ()
    impressions: Impressions | None = None  # where a log says what was shown; its users are those of `interactions`


class Observation(NamedTuple):
    """One interaction as its source names user and item; `index_observations` turns these into `Interactions`."""

    user: Hashable
    item: Hashable
    value: float
    liked: bool
    time: int


def index_observations(
    observations: Iterable[Observation],
    item_index: Mapping[Hashable, int],
    user_index: dict[Hashable, int] | None = None,
) -> Interactions:
    """Number users by first appearance and items by `item_index`; observations of items outside it are left out.
    `user_index` has the numbers of users so far, and gets those of the others."""
    kept = [o for o in observations if o.item in item_index]
    user_index = {} if user_index is None else user_index
    for observation in kept:
        user_index.setdefault(observation.user, len(user_index))
    return Interactions(
        user=np.array([user_index[o.user] for o in kept], np.int32),
        item=np.array([item_index[o.item] for o in kept], np.int32),
        value=np.array([o.value for o in kept], np.float32),
        liked=np.array([o.liked for o in kept], np.bool_),
        time=np.array([o.time for o in kept], np.int64),
        n_users=len(user_index),
    )


def save_dataset(
    dataset: Dataset,
    folder: Path,
    *,
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> None:
    """Write items.jsonl, interactions.parquet and problems.jsonl (where there are any), and the manifest last.

    `config` and `inputs` (name -> SHA-256) go into the manifest as given.
    """
    # A data set stands once its manifest does: an interrupted save must not leave the old manifest over new files.
    for name in ("manifest.json", INTERACTIONS_FILE, IMPRESSIONS_FILE, PROBLEMS_FILE):
        (folder / name).unlink(missing_ok=True)
    items = (
        {"id": i.item_id, "text": i.text, "categories": list(i.categories)}
        | ({"properties": i.properties} if i.properties else {})
        for i in dataset.items
    )
    write_file(folder / ITEMS_FILE, _json_lines(items))
    if dataset.interactions is not None:
        write_file(folder / INTERACTIONS_FILE, _to_parquet(dataset.interactions))
    if dataset.impressions is not None:
        write_file(folder / IMPRESSIONS_FILE, impressions.to_parquet(dataset.impressions))
    if dataset.problems:
        write_file(folder / PROBLEMS_FILE, _json_lines(asdict(p) for p in dataset.problems))
    results = {
        "name": dataset.name,
        "scenario": asdict(dataset.scenario),
        "n_items": len(dataset.items),
        "n_users": dataset.interactions.n_users if dataset.interactions is not None else 0,
        "n_interactions": len(dataset.interactions.user) if dataset.interactions is not None else 0,
        "n_impressions": len(dataset.impressions.user) if dataset.impressions is not None else 0,
        "n_problems": len(dataset.problems),
        "notes": list(dataset.notes),
    }
    write_manifest(folder, STAGE, config=config or {}, results=results, inputs=inputs)


def read_dataset(folder: Path) -> Dataset:
    """Read what `save_dataset` wrote.

    Raises:
        OfflineError: the folder holds no data set, or a file is not the one its manifest names.
    """
    manifest = read_manifest(folder, STAGE)
    try:
        files, results = dict(manifest["files"]), manifest["results"]
        for name, digest in files.items():
            if sha256_file(folder / name) != digest:
                raise OfflineError(
                    f"{folder / name}: changed since it was written; run `python -m offline {STAGE}` again"
                )
        rows = _read_json_lines(folder / ITEMS_FILE, _ItemRow)
        items = tuple(Item(row.id, row.text, row.categories, row.properties) for row in rows)
        interactions = None
        if INTERACTIONS_FILE in files:
            interactions = _from_parquet(folder / INTERACTIONS_FILE, results["n_users"], len(items))
        shown = None
        if IMPRESSIONS_FILE in files:
            shown = impressions.from_parquet(folder / IMPRESSIONS_FILE, results["n_users"], len(items))
        problems = tuple(_read_json_lines(folder / PROBLEMS_FILE, RowProblem) if PROBLEMS_FILE in files else [])
        scenario = msgspec.convert(results["scenario"], Scenario)
        notes = tuple(msgspec.convert(results.get("notes", []), list[str]))
        return Dataset(str(results["name"]), scenario, items, interactions, problems, notes, shown)
    except (KeyError, TypeError, ValueError, OSError, RecursionError, NotImplementedError) as error:
        raise OfflineError(f"{folder}: not a data set this version can read ({error!r}); make it again") from None


def _json_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


@dataclass(frozen=True)
class _ItemRow:
    id: str
    text: str
    categories: tuple[str, ...]
    properties: dict[str, PropertyValue] = field(default_factory=dict)


def _read_json_lines(path: Path, kind: type[T]) -> list[T]:
    # split(b"\n"), not splitlines: an item's text may hold other line separators.
    return [msgspec.json.decode(line, type=kind) for line in path.read_bytes().split(b"\n") if line]


def _columns() -> list[str]:
    return [f.name for f in fields(Interactions) if f.name != "n_users"]


def _to_parquet(interactions: Interactions) -> bytes:
    arrow, parquet = import_pyarrow()
    buffer = io.BytesIO()
    parquet.write_table(arrow.table({name: getattr(interactions, name) for name in _columns()}), buffer)
    return buffer.getvalue()


def _from_parquet(path: Path, n_users: int, n_items: int) -> Interactions:
    """Raises ValueError for columns of another type, and for users and items that there are not."""
    _, parquet = import_pyarrow()
    table = parquet.read_table(path)
    columns = {name: table[name].to_numpy() for name in _columns()}
    types = {name: str(column.dtype) for name, column in columns.items()}
    if types != {"user": "int32", "item": "int32", "value": "float32", "liked": "bool", "time": "int64"}:
        raise ValueError(f"columns of types {types}")
    for name, n in (("user", n_users), ("item", n_items)):
        if len(columns[name]) and not 0 <= columns[name].min() <= columns[name].max() < n:
            raise ValueError(f"column {name!r} is not within 0 .. {n - 1}")
    return Interactions(**columns, n_users=n_users)


def import_pyarrow() -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`.

    Raises:
        OfflineError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise OfflineError("Parquet files need pyarrow: pip install 'ialp[offline]'") from None
    return pyarrow, pyarrow.parquet
