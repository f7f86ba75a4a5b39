from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.policy.exact_policy import ExactPolicy
from service.policy.networks import ItemScorer
from service.policy.snapshot import FORMAT, CatalogueItem, Snapshot, SnapshotCatalogue, SnapshotError
from service.policy.snapshot_files import load_catalogue, load_snapshot, read_manifest, save_snapshot
from service.policy.text import TEXT_DIM, TextProjection
from service.policy.types import pack_states
from service.policy.variants import Arm, Mixture, ServingConfig, Variant
from tests.policy.policy_examples import CONFIG, liked, random_history, random_scorer, random_text

ITEMS = 6
SERVING = ServingConfig(Variant.AP, Mixture.ADAPTIVE, fixed_weight=0.25, temperature=0.7)
FILES = ["policy.safetensors", "item_ids.json", "manifest.json"]
CATALOGUE_FILES = ["items.jsonl", "embeddings.safetensors"]


def snapshot_of(pretrained: ItemScorer, learned: ItemScorer, critic: ItemScorer) -> Snapshot:
    embeddings = np.random.default_rng(70).normal(size=(9, TEXT_DIM)).astype(np.float32)
    return Snapshot.of(
        version=3,
        parent=2,
        created_at=1.75e9,
        item_ids=tuple(f"item-{i}-é" for i in range(ITEMS)),
        text_encoder="hashing",
        projection=TextProjection.fit(torch.from_numpy(embeddings), CONFIG.text_dim),
        serving=SERVING,
        pretrained=pretrained,
        learned=learned,
        critic=critic,
        learner={"name": "boltzmann", "learning_rate": 0.1},
        lineage={"run": "a", "position": "1-0"},
        metrics={"entropy": 1.5},
    )


def networks() -> tuple[ItemScorer, ItemScorer, ItemScorer]:
    """Pre-trained, learned, critic; the same at every call."""
    rng = np.random.default_rng(70)
    text = random_text(rng, ITEMS)
    one, two, three = (random_scorer(rng, text) for _ in range(3))
    return one, two, three


def example() -> Snapshot:
    return snapshot_of(*networks())


def catalogue(ids: tuple[str, ...]) -> SnapshotCatalogue:
    """Texts with everything that some reader takes for the end of a line."""
    items = tuple(CatalogueItem(i, f'{i}: "a"\n\r\x0b\x1c\x85\u2028\u2029 ☃', ("x,y", "z")) for i in ids)
    embeddings = np.random.default_rng(71).normal(size=(len(ids), TEXT_DIM)).astype(np.float16)
    return SnapshotCatalogue(items, embeddings.astype(np.float32))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    snapshot = example()
    save_snapshot(snapshot, tmp_path / "snapshot", catalogue(snapshot.item_ids))
    return tmp_path / "snapshot"


def test_a_snapshot_comes_back_bit_for_bit(saved: Path) -> None:
    written, read = example(), load_snapshot(saved)
    assert read.item_ids == written.item_ids
    assert read.tensors.keys() == written.tensors.keys()
    for name, tensor in read.tensors.items():
        assert tensor.dtype == written.tensors[name].dtype
        assert torch.equal(tensor, written.tensors[name]), name
    for name in ("version", "parent", "created_at", "network", "serving", "learner", "lineage", "metrics", "format"):
        assert getattr(read.manifest, name) == getattr(written.manifest, name)
    assert isinstance(read.manifest.serving.variant, Variant)
    assert isinstance(read.manifest.serving.mixture, Mixture)
    assert set(read.manifest.files) == {*FILES, *CATALOGUE_FILES} - {"manifest.json"}


def test_the_catalogue_comes_back(saved: Path) -> None:
    written, read = catalogue(example().item_ids), load_catalogue(saved)
    assert read.items == written.items
    np.testing.assert_array_equal(read.embeddings, written.embeddings)


def test_a_snapshot_without_a_catalogue_says_so(tmp_path: Path) -> None:
    save_snapshot(example(), tmp_path / "s")
    assert load_snapshot(tmp_path / "s").item_ids == example().item_ids
    with pytest.raises(SnapshotError, match=r"items\.jsonl"):
        load_catalogue(tmp_path / "s")


def test_a_loaded_snapshot_serves_the_same_probabilities(saved: Path) -> None:
    rng = np.random.default_rng(72)
    snapshot, text, available = example(), random_text(rng, ITEMS), np.array([True] * 5 + [False])
    nets = [random_scorer(rng, text) for _ in range(3)]
    for name, net in zip(("pretrained", "learned", "critic"), nets, strict=True):
        net.load_state_dict({k: snapshot.tensors[f"{name}.{k}"] for k in net.state_dict()})
    before, after = ExactPolicy(nets[0], nets[1], nets[2], SERVING), load_snapshot(saved).exact_policy(text)
    for arm in Arm:
        for length in (0, 2, 5):
            history = random_history(rng, length, ITEMS)
            one, other = (policy.serving.distribution(history, available, arm) for policy in (before, after))
            np.testing.assert_array_equal(one.probs, other.probs)
            assert one.weight == other.weight


def test_a_loaded_snapshot_serves_items_that_came_later(saved: Path) -> None:
    text = random_text(np.random.default_rng(73), ITEMS + 2)
    policy = load_snapshot(saved).exact_policy(text)
    probs = policy.serving.distribution((), np.ones(ITEMS + 2, dtype=bool)).probs
    assert policy.n_items == len(probs) == ITEMS + 2
    assert (probs[ITEMS:] > 0).all()


def test_a_snapshot_is_a_copy() -> None:
    nets = networks()
    snapshot = snapshot_of(*nets)
    before = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
    with torch.no_grad():
        for tensor in nets[1].state_dict().values():
            tensor.add_(1.0)
    assert all(torch.equal(snapshot.tensors[name], tensor) for name, tensor in before.items())


def test_a_critic_that_is_the_learned_network_is_stored_once(tmp_path: Path) -> None:
    pretrained, learned, critic = networks()
    save_snapshot(snapshot_of(pretrained, learned, learned), tmp_path / "one")
    save_snapshot(snapshot_of(pretrained, learned, critic), tmp_path / "two")
    one, two = load_snapshot(tmp_path / "one"), load_snapshot(tmp_path / "two")
    assert (one.has_critic, two.has_critic) == (False, True)
    assert {name for name in two.tensors if name not in one.tensors} == {f"critic.{n}" for n in critic.state_dict()}
    text, states = learned.text, pack_states([liked(3, 1)], CONFIG.max_history)
    available = np.ones((1, ITEMS), dtype=bool)
    for snapshot, judge in ((one, learned), (two, critic)):
        served = snapshot.exact_policy(text).distributions(states, available)
        oracle = ExactPolicy(pretrained, learned, judge, SERVING).distributions(states, available)
        np.testing.assert_array_equal(served.probs, oracle.probs)
        assert served.weight == oracle.weight
    assert one.exact_policy(text).distributions(states, available).weight != served.weight


def test_the_projection_comes_back(saved: Path) -> None:
    embeddings = torch.from_numpy(np.random.default_rng(75).normal(size=(4, TEXT_DIM)).astype(np.float32))
    mean, components = (load_snapshot(saved).tensors[f"text.{name}"].numpy() for name in ("mean", "components"))
    oracle = (embeddings.numpy() - mean) @ components
    oracle /= np.linalg.norm(oracle, axis=1, keepdims=True)
    np.testing.assert_allclose(load_snapshot(saved).projection(embeddings).numpy(), oracle, atol=1e-6)


def reader(name: str) -> Callable[[Path], object]:
    return load_catalogue if name in CATALOGUE_FILES else load_snapshot


@pytest.mark.parametrize("name", [*FILES, *CATALOGUE_FILES])
def test_a_flipped_byte_is_found(saved: Path, name: str) -> None:
    original = (saved / name).read_bytes()
    places = np.random.default_rng(76).choice(len(original), size=min(40, len(original)), replace=False)
    for place in places:
        damaged = bytearray(original)
        damaged[place] ^= 0x80  # never ASCII, so the JSON of the manifest cannot survive it
        (saved / name).write_bytes(damaged)
        with pytest.raises(SnapshotError, match=name):
            reader(name)(saved)


@pytest.mark.parametrize("name", [*FILES, *CATALOGUE_FILES])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(SnapshotError, match=rf"{name}: not found"):
        reader(name)(saved)


def test_a_folder_that_is_none_is_a_snapshot_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(SnapshotError, match=r"manifest\.json"):
            load_snapshot(folder)


def test_a_truncated_manifest_is_damaged(saved: Path) -> None:
    whole = (saved / "manifest.json").read_bytes()
    for length in range(0, len(whole) - 2, 37):
        (saved / "manifest.json").write_bytes(whole[:length])
        with pytest.raises(SnapshotError, match=r"manifest\.json: damaged"):
            read_manifest(saved)


@pytest.mark.parametrize(
    ("written", "advice"),
    [(1, ": run `python -m offline pretrain` again"), (2, ": run `python -m offline pretrain` again"), (99, "")],
)
def test_another_format_is_refused_and_of_an_older_one_is_said_what_to_do(
    saved: Path, written: int, advice: str
) -> None:
    raw = json.loads((saved / "manifest.json").read_bytes())
    (saved / "manifest.json").write_text(json.dumps(raw | {"format": written}))
    for read in (read_manifest, load_snapshot, load_catalogue):
        with pytest.raises(SnapshotError) as refused:
            read(saved)
        assert str(refused.value) == f"{saved / 'manifest.json'}: format {written}, this version reads 3{advice}"


def test_ids_of_another_catalogue_are_refused(saved: Path) -> None:
    raw = json.loads((saved / "manifest.json").read_bytes())
    for change in ({"n_items": ITEMS + 1}, {"catalogue_hash": "0" * 64}):
        (saved / "manifest.json").write_text(json.dumps(raw | change))
        with pytest.raises(SnapshotError, match=r"item_ids\.json"):
            load_snapshot(saved)


def test_an_unfinished_folder_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for crash_at in range(3):
        flushed = 0

        def fsync_until_the_disk_is_full(descriptor: int, crash_at: int = crash_at) -> None:
            nonlocal flushed
            # Whatever was written so far, nobody may find it under its name.
            assert not (tmp_path / "new").exists()
            if flushed == crash_at:
                raise OSError(28, "No space left on device")
            flushed += 1

        monkeypatch.setattr(os, "fsync", fsync_until_the_disk_is_full)
        with pytest.raises(OSError, match="No space"):
            save_snapshot(example(), tmp_path / "new")
        assert list(tmp_path.iterdir()) == []


def test_an_existing_snapshot_is_not_overwritten(saved: Path) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(OSError, match="snapshot"):
        save_snapshot(example(), saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def assert_only_a_snapshot_error(manifest: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "manifest.json").write_bytes(manifest)
        (Path(folder) / "policy.safetensors").write_bytes(b"any")
        with pytest.raises(SnapshotError, match=r"manifest\.json|item_ids\.json|policy\.safetensors"):
            load_snapshot(Path(folder))


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_random_bytes_as_manifest_are_a_snapshot_error(manifest: bytes) -> None:
    assert_only_a_snapshot_error(manifest)


def test_endless_nesting_as_manifest_is_a_snapshot_error() -> None:
    assert_only_a_snapshot_error(b"[" * 200_000)


@given(st.sampled_from(["network", "serving", "files", "n_items", "version", "format", "learner"]), json_values)
def test_a_manifest_with_one_strange_field_is_a_snapshot_error(name: str, value: object) -> None:
    good = {
        "format": FORMAT,
        "version": 1,
        "parent": None,
        "created_at": 0.0,
        "text_encoder": "hashing",
        "network": {"dim": 4, "text_dim": 4, "max_history": 4},
        "serving": {"variant": "ft", "mixture": "fixed", "fixed_weight": 0.5, "temperature": 1.0},
        "n_items": 1,
        "catalogue_hash": "",
        "learner": {},
        "lineage": {},
        "metrics": {},
        "files": {},
    }
    assert_only_a_snapshot_error(json.dumps(good | {name: value}).encode())
