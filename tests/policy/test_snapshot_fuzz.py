"""Damaged and hostile snapshots: a SnapshotError or a snapshot that serves, never anything else."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from service.policy.snapshot import CatalogueItem, Snapshot, SnapshotCatalogue, SnapshotError, catalogue_hash
from service.policy.snapshot_files import load_catalogue, load_snapshot, save_snapshot
from service.policy.text import TEXT_DIM, TextProjection
from service.policy.variants import ServingConfig
from tests.policy.mutations import bounded_memory, mutated, mutated_json, searched
from tests.policy.policy_examples import WIDE, random_scorer, random_text

ITEMS = 6
FILES = ("manifest.json", "policy.safetensors", "item_ids.json", "items.jsonl", "embeddings.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound snapshot with its catalogue."""
    rng = np.random.default_rng(80)
    text = random_text(rng, ITEMS, WIDE.text_dim)
    embeddings = rng.normal(size=(ITEMS, TEXT_DIM)).astype(np.float32)
    scorer = random_scorer(rng, text, WIDE)
    ids = tuple(f"item-{i}-é" for i in range(ITEMS))
    snapshot = Snapshot.of(
        version=1,
        parent=None,
        created_at=1.0,
        item_ids=ids,
        text_encoder="hashing",
        projection=TextProjection.fit(torch.from_numpy(embeddings), WIDE.text_dim),
        serving=ServingConfig(),
        pretrained=scorer,
        learned=scorer,
        critic=scorer,
        learner={"name": "ialp"},
        lineage={"run": "a"},
        metrics={"held_out": 0.5, "undefined": float("nan")},
    )
    folder = tmp_path_factory.mktemp("whole") / "snapshot"
    items = tuple(CatalogueItem(i, f"Text of {i}", ("a", "b")) for i in ids)
    save_snapshot(snapshot, folder, SnapshotCatalogue(items, embeddings))
    return folder


@pytest.fixture(scope="module")
def folder(whole: Path) -> Iterator[Path]:
    """A copy to damage; `put` makes it whole again."""
    copy = whole.parent / "copy"
    shutil.copytree(whole, copy)
    with bounded_memory():
        yield copy


def put(whole: Path, folder: Path, changes: dict[str, bytes], rehash: bool) -> None:
    """The whole snapshot with some files changed; with `rehash` by somebody who knows how to write a manifest."""
    for name in FILES:
        data = changes.get(name, (whole / name).read_bytes())
        (folder / name).write_bytes(data)
    if rehash:
        manifest = json.loads((whole / "manifest.json").read_bytes())
        manifest["files"] |= {name: hashlib.sha256(data).hexdigest() for name, data in changes.items()}
        if "item_ids.json" in changes:
            try:
                ids = tuple(json.loads(changes["item_ids.json"]))
                manifest |= {"n_items": len(ids), "catalogue_hash": catalogue_hash(ids)}
            except (ValueError, TypeError, RecursionError):
                pass
        (folder / "manifest.json").write_text(json.dumps(manifest))


def assert_sound_or_refused(folder: Path, whole_weights: bool = False) -> None:
    """What loads is of the shapes and types that it says, and serves."""
    try:
        snapshot, catalogue = load_snapshot(folder), load_catalogue(folder)
    except SnapshotError as error:
        assert folder.name in str(error)
        return
    json.dumps(snapshot.manifest.metrics, allow_nan=False)
    assert [item.item_id for item in catalogue.items] == list(snapshot.item_ids)
    "".join(snapshot.item_ids).encode()
    policy = snapshot.serving_policy(catalogue.embeddings)
    assert policy.n_items == len(snapshot.item_ids)
    if whole_weights:  # changed ones may be finite and yet overflow; the gate looks at what they say
        assert policy.distribution((), np.ones(policy.n_items, np.bool_)).probs.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("name", FILES[1:])
@searched(60, 2_000)
@given(data=st.data())
def test_any_changed_file_is_refused(whole: Path, folder: Path, name: str, data: st.DataObject) -> None:
    original = (whole / name).read_bytes()
    changed = data.draw(mutated(original).filter(lambda other: other != original))
    put(whole, folder, {name: changed}, rehash=False)
    with pytest.raises(SnapshotError, match="SHA-256 differs"):
        (load_catalogue if name in FILES[3:] else load_snapshot)(folder)


@pytest.mark.parametrize("name", FILES[1:])
@searched(60, 2_000)
@given(data=st.data())
def test_a_changed_file_with_a_fitting_hash_is_refused_or_sound(
    whole: Path, folder: Path, name: str, data: st.DataObject
) -> None:
    put(whole, folder, {name: data.draw(mutated((whole / name).read_bytes()))}, rehash=True)
    assert_sound_or_refused(folder)


@searched(200, 5_000)
@given(data=st.data())
def test_a_changed_manifest_is_refused_or_sound(whole: Path, folder: Path, data: st.DataObject) -> None:
    original = (whole / "manifest.json").read_bytes()
    as_json = mutated_json(json.loads(original)).map(lambda value: json.dumps(value).encode())
    put(whole, folder, {"manifest.json": data.draw(mutated(original) | as_json)}, rehash=False)
    assert_sound_or_refused(folder, whole_weights=True)


def with_header(blob: bytes, header: Any) -> bytes:
    """A safetensors file with another header and the same tensors."""
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + blob[8 + int.from_bytes(blob[:8], "little") :]


@pytest.mark.parametrize("name", ["policy.safetensors", "embeddings.safetensors"])
@searched(150, 3_000)
@given(data=st.data())
def test_a_changed_header_of_tensors_is_refused_or_sound(
    whole: Path, folder: Path, name: str, data: st.DataObject
) -> None:
    blob = (whole / name).read_bytes()
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    put(whole, folder, {name: with_header(blob, data.draw(mutated_json(header)))}, rehash=True)
    assert_sound_or_refused(folder)


@pytest.mark.parametrize("name", ["policy.safetensors", "embeddings.safetensors"])
@pytest.mark.parametrize("shape", [[2**60], [2**31, 2**31], [2**62, 4], [0, 2**60], [-1]])
def test_huge_tensors_that_are_not_there_are_refused(whole: Path, folder: Path, name: str, shape: list[int]) -> None:
    blob = (whole / name).read_bytes()
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    tensor = next(key for key in header if key != "__metadata__")
    header[tensor]["shape"] = shape
    put(whole, folder, {name: with_header(blob, header)}, rehash=True)
    with pytest.raises(SnapshotError, match=name):
        load_snapshot(folder)
        load_catalogue(folder)


@pytest.mark.parametrize("network", [{"dim": 2**40}, {"text_dim": 2**40}, {"max_history": 2**40}, {"dim": 4096}])
def test_huge_networks_are_refused_before_they_are_made(whole: Path, folder: Path, network: dict[str, int]) -> None:
    manifest = json.loads((whole / "manifest.json").read_bytes())
    manifest["network"] |= network
    put(whole, folder, {"manifest.json": json.dumps(manifest).encode()}, rehash=False)
    with pytest.raises(SnapshotError, match=r"manifest\.json|policy\.safetensors"):
        load_snapshot(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"pretrained.gain": torch.full((4,), float("nan"))},
        {"learned.id_bias": torch.full((ITEMS,), float("inf"))},
        {"pretrained.id_bias": torch.zeros(ITEMS + 1)},
        {"pretrained.id_bias": torch.zeros(ITEMS, dtype=torch.int32)},
        {"surprise": torch.zeros(3)},
        {"critic.gain": torch.zeros(4)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_tensors_that_cannot_serve_are_refused(whole: Path, folder: Path, change: dict[str, torch.Tensor]) -> None:
    tensors = load_snapshot(whole).tensors | change
    put(whole, folder, {"policy.safetensors": save(tensors)}, rehash=True)
    with pytest.raises(SnapshotError, match=r"policy\.safetensors"):
        load_snapshot(folder)


def test_numbers_that_json_cannot_say_are_not_written(whole: Path) -> None:
    assert load_snapshot(whole).manifest.metrics == {"held_out": 0.5}
    json.loads((whole / "manifest.json").read_bytes(), parse_constant=pytest.fail)
