"""The worker's resume state in ONE file: written whole, checked when read, with the one before it as a fallback.

Layout: SHA-256 of the rest (32 bytes), then a safetensors blob whose tensor `meta` holds msgpack. No pickle.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

log = logging.getLogger(__name__)

Meta = TypeVar("Meta", bound=msgspec.Struct)
_META = "meta"


class CheckpointStore(Generic[Meta]):
    """Checkpoints in `folder`: the latest and the one before."""

    def __init__(self, folder: Path, meta: type[Meta]) -> None:
        self._latest = folder / "checkpoint"
        self._previous = folder / "checkpoint.previous"
        self._decoder: msgspec.msgpack.Decoder[Meta] = msgspec.msgpack.Decoder(meta)
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, meta: Meta, tensors: dict[str, Tensor]) -> None:
        """Write a checkpoint; after a crash at any instant at least one whole checkpoint is there."""
        packed = torch.frombuffer(bytearray(msgspec.msgpack.encode(meta)), dtype=torch.uint8)
        blob = save({**{name: t.contiguous() for name, t in tensors.items()}, _META: packed})
        unfinished = self._latest.with_suffix(".unfinished")
        with unfinished.open("wb") as file:
            file.write(hashlib.sha256(blob).digest())
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        if self._latest.exists():
            self._latest.replace(self._previous)
        unfinished.replace(self._latest)

    def load(self) -> tuple[Meta, dict[str, Tensor]] | None:
        """The newest whole checkpoint, None if there is none."""
        for path in (self._latest, self._previous):
            try:
                data = path.read_bytes()
                if hashlib.sha256(data[32:]).digest() != data[:32]:
                    raise ValueError("checksum differs")
                tensors = load(data[32:])
                meta = self._decoder.decode(tensors.pop(_META).numpy().tobytes())
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError, msgspec.DecodeError) as error:
                log.error("%s is damaged (%s); trying the one before", path, error)
                continue
            return meta, tensors
        return None
