"""Files of a run: written whole or not at all, each stage with a manifest that says where its results came from."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from offline.errors import OfflineError
from service.durable import write_file

MANIFEST = "manifest.json"


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def kept_file(path: Path, sha256: str, write: Callable[[Path], object]) -> Path:
    """`path`, with the contents of this hash: as it is if they are there, otherwise written by `write`.

    Raises:
        OfflineError: `write` failed, or wrote something else.
    """
    if path.exists() and sha256_file(path) == sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        if sha256_file(temporary) != sha256:
            raise ValueError("SHA-256 differs")
        temporary.replace(path)
    except (ValueError, OSError) as error:
        raise OfflineError(f"{path}: could not be made from its package ({error}); reinstall it") from None
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_manifest(
    folder: Path,
    stage: str,
    *,
    config: Mapping[str, Any],
    results: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
) -> None:
    """Write `folder/manifest.json`: stage, configuration, results, hashes of every file beside it and of the inputs."""
    files = {
        p.relative_to(folder).as_posix(): sha256_file(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != MANIFEST and not p.name.startswith(".")
    }
    manifest = {
        "stage": stage,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "ialp_version": version("ialp"),
        "python": platform.python_version(),
        "config": dict(config),
        "inputs": dict(inputs or {}),
        "results": dict(results),
        "files": files,
    }
    write_file(folder / MANIFEST, (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode())


def read_manifest(folder: Path, stage: str) -> dict[str, Any]:
    """Read a stage's manifest.

    Raises:
        OfflineError: there is none, it is not JSON, or it is of another stage.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise OfflineError(f"{path}: not found; run `python -m offline {stage}` first") from None
    except (ValueError, RecursionError) as error:
        raise OfflineError(f"{path}: not valid JSON ({error}); run `python -m offline {stage}` again") from None
    found = manifest.get("stage") if isinstance(manifest, dict) else None
    if found != stage:
        raise OfflineError(f"{path}: is of stage {found!r}, expected {stage!r}")
    assert isinstance(manifest, dict)
    return manifest


def keep_line(path: Path, line: str, gives_way: Callable[[str], bool]) -> None:
    """Append a line to a file of lines; those that give way to it go, as does a line that a kill had torn."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    kept = [old for old in lines if old.endswith("\n") and not gives_way(old)]
    write_file(path, "".join([*kept, line]).encode())
