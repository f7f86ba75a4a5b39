"""How the API's policy follows its catalogue, with and without an index: in one process, against a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from service.policy import item_index
from service.policy.adaptive import Query, ServingPolicy
from service.policy.snapshot import Snapshot
from service.policy.snapshot_files import load_snapshot
from service.policy.text import HashingEncoder
from service.serving.live import PolicyWatch
from service.serving.loader import LivePolicy
from service.settings import Settings
from service.store.bootstrap import bootstrap
from service.store.catalogue import Catalogue, ItemRecord, pack_embedding
from service.store.circuit import Circuit
from service.store.connect import connect
from service.store.keys import Keys
from service.store.registry import folder_of
from tests.service.service_examples import make_settings, make_snapshot

N_ITEMS = 1_000  # over eight times as many as candidates


@pytest.fixture(scope="module")
def large_snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_snapshot(tmp_path_factory.mktemp("large") / "snapshot", N_ITEMS)


@pytest.fixture(params=[500, 100_000], ids=["with an index", "without"])
def large(request: pytest.FixtureRequest, redis_url: str, large_snapshot: Path, tmp_path: Path) -> Settings:
    return make_settings(redis_url, large_snapshot, tmp_path, candidates=100, index_from=request.param)


@asynccontextmanager
async def watching(settings: Settings) -> AsyncIterator[PolicyWatch]:
    circuit = Circuit()
    redis, probe = connect(settings, circuit), connect(settings)
    watch = PolicyWatch(redis, probe, circuit, Keys(settings.key_prefix), settings)
    await bootstrap(redis, watch.store._keys, settings)
    await watch.refresh()
    yield watch
    await redis.aclose()
    await probe.aclose()


def record(text: str, categories: tuple[str, ...] = ()) -> ItemRecord:
    row = HashingEncoder().encode([text])[0]
    return ItemRecord(text, pack_embedding(row), categories)


def current_of(watch: PolicyWatch) -> LivePolicy:
    assert watch.current is not None
    assert watch.current.policy.n_items == len(watch.catalogue) == len(watch.catalogue.index)
    return watch.current


def expected_items(settings: Settings, catalogue: Catalogue) -> np.ndarray:
    """The learned network's numbers, made anew from the snapshot and the texts as they are."""
    snapshot = load_snapshot(folder_of(settings.data_dir, 1))
    return snapshot.serving_policy(catalogue.embeddings.array[: len(catalogue)]).learned.items


async def test_new_items_are_there_with_the_next_look_at_the_catalogue(large: Settings) -> None:
    async with watching(large) as watch:
        before = current_of(watch)
        assert before.policy.is_indexed == (large.index_from == 500)
        await watch.store.put([(f"new-{n}", record(f"A new film {n}", categories=("Noir",))) for n in range(3)])
        await watch.sync_catalogue()
        after = current_of(watch)
        assert after.policy.n_items == N_ITEMS + 3 and after.policy.is_indexed == before.policy.is_indexed
        np.testing.assert_allclose(after.policy.learned.items, expected_items(large, watch.catalogue), atol=1e-6)
        mask = watch.catalogue.in_categories(["Noir"])
        assert np.flatnonzero(mask).tolist() == [N_ITEMS, N_ITEMS + 1, N_ITEMS + 2]
        probs = after.policy.distribution((), mask).probs
        assert (probs[mask] > 0.05).all() and probs.sum() == pytest.approx(1.0)
        # What was asked for before goes on with what it had.
        assert before.policy.serve([Query((), np.ones(N_ITEMS, np.bool_))])[0].probs.sum() == pytest.approx(1.0)


async def test_items_are_hidden_and_deleted_in_place(large: Settings) -> None:
    async with watching(large) as watch:
        policy = current_of(watch).policy
        rows = [row.tobytes() for row in watch.catalogue.embeddings.array[3:5]]
        await watch.store.put([("film-3", ItemRecord("x", rows[0], hidden=True))])
        await watch.store.put([("film-4", ItemRecord("", rows[1], deleted=True))])
        before = watch.catalogue
        await watch.sync_catalogue()
        assert watch.catalogue.visible[:6].tolist() == [True, True, True, False, False, True]
        assert before.visible.all(), "requests in progress have theirs"
        assert current_of(watch).policy is policy, "nothing is made again"


async def test_a_new_text_of_an_item_is_read(large: Settings) -> None:
    async with watching(large) as watch:
        old = current_of(watch).policy.learned.items.copy()
        await watch.store.put([("film-7", record("A documentary on bees")), ("new", record("Another film"))])
        await watch.sync_catalogue()
        if large.index_from == 500:  # a little later, since an index is made for it
            np.testing.assert_allclose(current_of(watch).policy.learned.items[:N_ITEMS], old)
            await watch.catch_up()
            assert current_of(watch).policy.is_indexed
        items = current_of(watch).policy.learned.items
        assert np.abs(items[7] - old[7]).max() > 1e-3
        np.testing.assert_allclose(items, expected_items(large, watch.catalogue), atol=1e-6)
        policy = current_of(watch).policy
        await watch.catch_up()
        assert current_of(watch).policy is policy, "once"


async def test_items_that_come_while_a_version_is_loaded_are_in_it(large: Settings) -> None:
    async with watching(large) as watch:
        loading = watch._loader._build

        async def slowly(snapshot: Snapshot, catalogue: Catalogue, urgent: bool = False) -> ServingPolicy:
            policy = await loading(snapshot, catalogue, urgent)
            await watch.store.put([("meanwhile", record("Came meanwhile"))])
            await watch.sync_catalogue()
            return policy

        with mock.patch.object(watch._loader, "_build", slowly):
            await watch._load(1)
        np.testing.assert_allclose(
            current_of(watch).policy.learned.items, expected_items(large, watch.catalogue), atol=1e-6
        )
        assert watch.catalogue.ids[-1] == "meanwhile"


async def test_versions_of_one_pretraining_share_its_numbers(large: Settings) -> None:
    async with watching(large) as watch:
        first = current_of(watch).policy.pretrained
        await watch._load(1)
        assert current_of(watch).policy.pretrained is first
        await watch.store.put([("new", record("Another film"))])
        await watch.sync_catalogue()
        grown = current_of(watch).policy.pretrained
        await watch._load(1)
        assert current_of(watch).policy.pretrained is grown and len(grown) == N_ITEMS + 1
        await watch.store.put([("film-1", record("Another text"))])
        await watch.sync_catalogue()
        await watch.catch_up()
        assert current_of(watch).policy.pretrained is not grown


async def test_a_text_waits_where_its_version_cannot_be_read(large: Settings) -> None:
    async with watching(large) as watch:
        tensors = folder_of(large.data_dir, 1) / "policy.safetensors"
        whole = tensors.read_bytes()
        tensors.write_bytes(whole[:-1])
        await watch.store.put([("film-7", record("A documentary on bees")), ("new", record("Another film"))])
        await watch.sync_catalogue()
        await watch.catch_up()
        assert current_of(watch).policy.n_items == N_ITEMS + 1, "it goes on, with the new item"
        tensors.write_bytes(whole)
        watch._damaged.clear()
        await watch.catch_up()
        np.testing.assert_allclose(
            current_of(watch).policy.learned.items, expected_items(large, watch.catalogue), atol=1e-6
        )


async def test_without_the_package_a_large_catalogue_is_scanned(
    redis_url: str, large_snapshot: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(redis_url, large_snapshot, tmp_path, candidates=100, index_from=500)
    with mock.patch.object(item_index, "is_installed", return_value=False):
        async with watching(settings) as watch:
            assert not current_of(watch).policy.is_indexed
    assert "ialp[index]" in caplog.text


async def test_a_reading_that_breaks_off_is_taken_up_again(large: Settings) -> None:
    """Redis goes away between two pages of changes: nothing of the first is in use, all of it comes later."""
    async with watching(large) as watch:
        items = [(f"many-{n}", record(f"One of many {n}", categories=(f"kind {n % 3}",))) for n in range(1_500)]
        await watch.store.put([("film-7", record("A documentary on bees")), *items])
        before, pages = watch.catalogue, watch.store._redis.zrangebyscore

        async def once(*args: object, **kwargs: object) -> object:
            if asked:
                raise ConnectionResetError
            asked.append(True)
            return await pages(*args, **kwargs)

        asked: list[bool] = []
        with mock.patch.object(watch.store._redis, "zrangebyscore", once), pytest.raises(ConnectionResetError):
            await watch.sync_catalogue()
        assert watch.catalogue is before and len(watch.catalogue.index) == N_ITEMS
        await watch.sync_catalogue()
        assert watch.catalogue.ids[N_ITEMS:] == [name for name, _ in items]
        assert watch.catalogue.texts == 1
        assert watch.catalogue.in_categories(["kind 2"]).sum() == 500
        await watch.catch_up()
        np.testing.assert_allclose(
            current_of(watch).policy.learned.items, expected_items(large, watch.catalogue), atol=1e-6
        )


async def test_an_emptied_redis_that_is_filled_again_is_another_catalogue(large: Settings) -> None:
    """The same pre-training, fewer items: nothing of the items before is served."""
    async with watching(large) as watch:
        await watch.store.put([(f"new-{n}", record(f"A new film {n}")) for n in range(5)])
        await watch.sync_catalogue()
        assert len(current_of(watch).policy.pretrained) == N_ITEMS + 5
        redis = watch.store._redis
        await redis.delete(*[key async for key in redis.scan_iter(f"{large.key_prefix}:*")])
        await watch.refresh()
        assert watch.current is None and len(watch.catalogue) == 0
        await bootstrap(redis, watch.store._keys, large)
        await watch.refresh()
        assert current_of(watch).policy.n_items == N_ITEMS
        await watch.store.put([("other", record("Quite another film"))])
        await watch.sync_catalogue()
        policy = current_of(watch).policy
        snapshot = load_snapshot(folder_of(large.data_dir, 1))
        expected = snapshot.serving_policy(watch.catalogue.embeddings.array[: len(watch.catalogue)])
        np.testing.assert_allclose(policy.pretrained.items, expected.pretrained.items, atol=1e-6)
        np.testing.assert_allclose(policy.learned.items, expected.learned.items, atol=1e-6)
