"""The worker's resume state in ONE file: written whole, checked when read, with the one before it as a fallback.

Layout: SHA-256 of the rest (32 bytes), then a safetensors blob whose tensor `meta` holds msgpack. No pickle.

A name is `checkpoint-TOKEN-SERIAL`, both padded: the worker that holds the lease writes under its fencing token, so
that one which was replaced, and does not know it yet, never writes over its successor's.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from service.durable import whole_file

log = logging.getLogger(__name__)

Meta = TypeVar("Meta", bound=msgspec.Struct)
_META = "meta"
_KEPT = 2


class CheckpointStore(Generic[Meta]):
    """Checkpoints in `folder`: the latest and the one before."""

    def __init__(self, folder: Path, meta: type[Meta], token: int = 0) -> None:
        """`token`: the writer's fencing token."""
        self._folder, self._token = folder, token
        self._decoder: msgspec.msgpack.Decoder[Meta] = msgspec.msgpack.Decoder(meta)
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, meta: Meta, tensors: dict[str, Tensor]) -> None:
        """Write a checkpoint; after a crash at any instant the one before is still there.

        Raises:
            OSError: it could not be written, for want of space, say.
        """
        packed = torch.frombuffer(bytearray(msgspec.msgpack.encode(meta)), dtype=torch.uint8)
        blob = save({**{name: t.contiguous() for name, t in tensors.items()}, _META: packed})
        own = f"checkpoint-{self._token:012d}-"
        serials = [int(path.name.removeprefix(own)) for path in self._paths() if path.name.startswith(own)]
        unfinished = self._folder / f"unfinished-{self._token:012d}"
        with whole_file(self._folder / f"{own}{max(serials, default=0) + 1:012d}", unfinished=unfinished) as file:
            file.write(hashlib.sha256(blob).digest())
            file.write(blob)
        for path in self._paths()[_KEPT:]:
            path.unlink(missing_ok=True)

    def load(self) -> tuple[Meta, dict[str, Tensor]] | None:
        """The newest whole checkpoint, None if there is none."""
        for path in self._paths():
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
                path.replace(self._folder / "damaged")  # out of the way: it is not one of the two that are kept
                continue
            return meta, tensors
        return None

    def _paths(self) -> list[Path]:
        """All checkpoints but those of later holders of the lease, newest first."""
        found = sorted(self._folder.glob("checkpoint-[0-9]*-[0-9]*"), reverse=True)
        return [path for path in found if int(path.name.split("-")[1]) <= self._token]
