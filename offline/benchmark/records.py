"""Results as lines of JSON: what was judged, by which data and protocol, with which code, and what came out."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from offline.artefacts import keep_line
from offline.errors import OfflineError

Protocol = Literal["held-out", "prequential", "warm-start", "sameness"]
Variant = Literal["likes", "answers"]
Ends = list[float]  # mean, low, high
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Record:
    """One data set x protocol x variant x method."""

    dataset: str
    protocol: Protocol
    variant: Variant  # of the histories: likes alone, or dislikes too
    method: str
    seed: int
    key: str  # hash of all that the result depends on but the code
    configuration: Mapping[str, Any]  # of data set, protocol and method, in full
    code: Mapping[str, str]  # version, commit, hash of the sources
    n: int  # cases or events
    n_users: int
    metrics: Mapping[str, Ends]
    differences: Mapping[str, Mapping[str, Ends]] = field(default_factory=dict)  # from a reference, by metric
    curve: list[float] = field(default_factory=list)  # prequential: NDCG@10 over stretches of events
    seconds: float = 0.0  # of processor time

    def to_line(self) -> str:
        return json.dumps(asdict(self), sort_keys=True) + "\n"


def record_key(
    dataset: str, protocol: Protocol, variant: Variant, method: str, seed: int, configuration: Mapping[str, Any]
) -> str:
    """Hash all that a result depends on except the code."""
    inputs = json.dumps([dataset, protocol, variant, method, seed, configuration], sort_keys=True)
    return hashlib.sha256(inputs.encode()).hexdigest()[:20]


def read_records(folder: Path) -> Iterator[Record]:
    """All records of the `*.jsonl` files in a folder; a line torn by a kill at the end of a file is left out.

    Raises:
        OfflineError: another line is not a record; the message names file and line.
    """
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
            try:
                yield Record(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise OfflineError(f"{path}:{number}: not a record ({error}); remove that line") from None


def keep(folder: Path, record: Record) -> None:
    """Write a record to its data set's file. One of the same data, protocol, variant and method gives way."""
    name = _name(asdict(record))
    keep_line(folder / f"{record.dataset}.jsonl", record.to_line(), lambda line: _name(json.loads(line)) == name)


def _name(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(record[part] for part in ("dataset", "protocol", "variant", "method"))


@cache
def code_version() -> dict[str, str]:
    """Version, commit, and a hash of the sources that a result depends on."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    found = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    digest = hashlib.sha256()
    for path in sorted(path for folder in ("service/policy", "offline") for path in (_ROOT / folder).rglob("*.py")):
        digest.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return {
        "version": version("ialp"),
        "commit": found.stdout.strip() or "unknown",
        "sources": digest.hexdigest()[:12],
    }
