"""Judgements of a language model, kept for good: a JSONL file that survives kill -9."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from offline.errors import OfflineError
from offline.prompts import Style

# What a question is for: an item's prior, the baseline that a typical history gives, a user's preferences, or how
# likely the mere name is, whatever it names.
Role = Literal["prior", "baseline", "user", "name"]


@dataclass(frozen=True)
class Question:
    """User state, oldest first, and the candidates to judge. A response is +1 (liked) or -1 (disliked)."""

    history: tuple[tuple[str, int], ...]
    candidates: tuple[str, ...]
    role: Role = "user"


class Judgement(msgspec.Struct, frozen=True):
    """One candidate judged for one user state. `score`: mean log-probability per token (likelihood), or a logit."""

    key: str
    history: tuple[tuple[str, int], ...]
    item_id: str
    style: Style
    model: str
    prompt_version: str
    score: float
    n_tokens: int
    role: Role = "user"


class JudgementCache:
    """All judgements by key, in memory and in a JSONL file that only this process may write.

    Raises:
        OfflineError: another process writes it, or a line that is not the last is damaged.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise OfflineError(
                f"{path}: another process is writing to it; wait for it, or choose another --out"
            ) from None
        try:
            self._by_key = self._load()
        except BaseException:
            self._file.close()
            raise

    def _load(self) -> dict[str, Judgement]:
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        # A kill can tear only the last line: it was never acknowledged, so it goes.
        self._file.truncate(whole)
        found: dict[str, Judgement] = {}
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                judgement = msgspec.json.decode(line, type=Judgement)
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                raise OfflineError(f"{self.path}:{number}: not a judgement ({error}); remove that line") from None
            found[judgement.key] = judgement
        return found

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: str) -> Judgement | None:
        """The judgement of that key, if it was ever made."""
        return self._by_key.get(key)

    def values(self) -> list[Judgement]:
        """All judgements, in the order they were made."""
        return list(self._by_key.values())

    def add(self, judgements: Sequence[Judgement]) -> None:
        """Keep a batch: on disk for certain (one fsync) when this returns."""
        self._file.write(b"".join(msgspec.json.encode(j) + b"\n" for j in judgements))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._by_key.update((j.key, j) for j in judgements)

    def close(self) -> None:
        """Close the file, which lets another process write."""
        self._file.close()
