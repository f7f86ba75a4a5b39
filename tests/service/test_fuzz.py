"""What the service reads back from Redis and disk, damaged: the documented error or a valid value, nothing else."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import redis as syncredis
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.api.routes.evaluation import interval
from service.policy.text import TEXT_DIM
from service.settings import Settings
from service.store import events, registry
from service.store.catalogue import ItemRecord, decode_record, unpack_embedding
from service.store.checkpoint import CheckpointStore
from service.store.events import EventError, Feedback, Impression, ItemChanged, UserErased
from service.store.keys import Keys
from service.store.registry import Gate, Live, PolicyRecord, RegistryError
from service.store.sessions import MAX_ITEMS
from service.store.sessions import decode as decode_session
from service.store.sessions import encode as encode_session
from service.store.worker_report import ArmTotals, WorkerReport, decode_report
from tests.policy.mutations import bounded_memory, mutated, mutated_json, searched
from tests.service.service_examples import Server, make_settings, recommend, respond, serving, shown, until, until_ready

EVENTS = (
    Impression(
        "r", "u:ann", "adaptive", 3, (("a", 1.0), ("b", -1.0)), ("c", "d"), (0.5, 0.25), "h", ("a",), ("c", "d")
    ),
    Feedback("e", "u:ann", "a", 1.0, "r", "click", 1.75e9),
    ItemChanged("a", bytes(2 * TEXT_DIM), hidden=True),
    UserErased("u:ann"),
)
SESSION = encode_session([(1, 1.0, 5.0), (2, -1.0, 1.7e9)], [1, 2, 3])
ITEM = ItemRecord("A film", np.full(TEXT_DIM, 0.05, np.float16).tobytes(), ("Drama", "Comedy"))
LIVE = Live(1, "auto", 1.75e9)
RECORD = PolicyRecord(1, None, 1.75e9, "ap", {"name": "x"}, {"run": "a"}, {"loss": 0.1}, Gate(True, (), {"ess": 5.0}))
REPORT = WorkerReport(
    reported_at=1.0,
    learner={"loss": 0.5},
    arms={"control": ArmTotals(10, 3.0, 2.0), "adaptive": ArmTotals(20, 9.0, 8.0)},
    gate_rejections={"kl": 1},
    off_policy={"ess": 10.0},
)


@pytest.fixture(autouse=True, scope="module")
def little_memory() -> Iterator[None]:
    with bounded_memory(4 * 2**30):  # threads' stacks and a server's pools are in there too
        yield


def packed(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def as_json(value: object) -> bytes:
    return msgspec.json.encode(value)


def spoilt_json(value: object) -> st.SearchStrategy[bytes]:
    """JSON with bytes or values changed, written as liberally as others write it."""
    return mutated(as_json(value)) | mutated_json(msgspec.to_builtins(value)).map(lambda v: json.dumps(v).encode())


def spoilt_msgpack(value: Any) -> st.SearchStrategy[bytes]:
    """msgpack with bytes or values changed."""

    def written(changed: object) -> bytes:
        try:
            return packed(changed)
        except (OverflowError, UnicodeEncodeError, TypeError):
            return b""

    return mutated(packed(value)) | mutated_json(json.loads(as_json(value))).map(written)


@searched(1_500, 40_000)
@given(st.sampled_from(EVENTS).flatmap(spoilt_msgpack))
def test_an_event_is_an_event_or_an_event_error(data: bytes) -> None:
    try:
        event = events.decode(data)
    except EventError:
        return
    assert events.decode(events.encode(event)) == event or "nan" in repr(event)
    if isinstance(event, Impression):
        assert len(event.items) == len(event.propensities)
        assert all(0 < p < 1.1 for p in event.propensities)


@pytest.mark.parametrize("head", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"])
def test_a_length_that_is_not_there_allocates_nothing(head: bytes) -> None:
    whole = events.encode(EVENTS[0])
    with bounded_memory(2**24):
        for name in ("items", "propensities", "history", "masked", "candidates", "user"):
            place = whole.index(name.encode()) + len(name)
            with pytest.raises(EventError):
                events.decode(whole[:place] + head + whole[place:])


@searched(300, 10_000)
@given(mutated(SESSION) | st.binary(max_size=40))
def test_a_session_that_is_not_ours_is_an_empty_one(data: bytes) -> None:
    session = decode_session(data)
    assert all(0 <= place < MAX_ITEMS and math.isfinite(reward) for place, reward in session.history)
    assert all(0 <= place < MAX_ITEMS for place in session.seen)
    history, seen = session.named(["a", "b"])
    assert {item for item, _ in history} | set(seen) <= {"a", "b"}


@searched(500, 15_000)
@given(spoilt_msgpack(ITEM))
def test_an_item_that_cannot_be_read_counts_as_deleted(data: bytes) -> None:
    record = decode_record(data)
    assert record.deleted or isinstance(record.text, str)
    assert np.isfinite(unpack_embedding(record.embedding)).all()
    assert unpack_embedding(record.embedding).shape == (TEXT_DIM,)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_an_embedding_that_is_not_finite_is_none(number: float) -> None:
    assert not unpack_embedding(np.full(TEXT_DIM, number, np.float16).tobytes()).any()


@pytest.mark.parametrize(("decode", "value"), [(registry.decode_live, LIVE), (registry.decode_record, RECORD)])
@searched(500, 15_000)
@given(data=st.data())
def test_the_registry_reads_its_own_or_says_so(
    decode: Callable[[bytes], object], value: object, data: st.DataObject
) -> None:
    try:
        read = decode(data.draw(spoilt_json(value)))
    except RegistryError:
        return
    assert type(read) is type(value)
    json.dumps(msgspec.to_builtins(read), allow_nan=False)


@searched(800, 20_000)
@given(spoilt_json(REPORT))
def test_evaluation_of_any_report_is_finite(data: bytes) -> None:
    report = decode_report(data)
    for totals in report.arms.values() if report is not None else ():
        json.dumps(interval(totals).model_dump(), allow_nan=False)


class Resume(msgspec.Struct):
    """The part of a small checkpoint that is not tensors."""

    cursor: str
    counts: dict[str, int]
    ids: list[str]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    store = CheckpointStore(folder, Resume)
    store.save(Resume("1-0", {"a": 1}, ["x"]), {"w": torch.arange(3.0), "h": torch.zeros(2, dtype=torch.bfloat16)})
    (folder / "whole").write_bytes(next(folder.glob("checkpoint-*")).read_bytes())
    return folder


@searched(400, 10_000)
@given(data=st.data())
def test_a_checkpoint_is_whole_or_passed_over(checkpoints: Path, data: st.DataObject) -> None:
    blob = (checkpoints / "whole").read_bytes()[32:]
    length = int.from_bytes(blob[:8], "little")
    header = data.draw(mutated_json(json.loads(blob[8 : 8 + length])).map(lambda v: json.dumps(v).encode()))
    changed = data.draw(st.sampled_from([0, 1]))
    spoilt = len(header).to_bytes(8, "little") + header + blob[8 + length :] if changed else data.draw(mutated(blob))
    (checkpoints / f"checkpoint-{0:012d}-{1:012d}").write_bytes(hashlib.sha256(spoilt).digest() + spoilt)
    saved = CheckpointStore(checkpoints, Resume).load()
    assert saved is None or isinstance(saved[0], Resume)


Fuzzed = tuple[Settings, httpx.Client]


@pytest.fixture(scope="module")
def fuzzed(redis_url: str, snapshot_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    settings = make_settings(redis_url, snapshot_folder, tmp_path_factory.mktemp("fuzzed") / "deployment")
    with serving(settings) as client:
        slate = recommend(client, "ann", k=3)
        respond(client, {"event_id": "1", "user_id": "ann", "item_id": shown(slate)[0], "type": "click"})
        yield settings, client


@searched(60, 1_500)
@given(data=st.data())
def test_no_entry_of_redis_makes_the_api_fail(fuzzed: Fuzzed, redis: syncredis.Redis, data: st.DataObject) -> None:
    settings, client = fuzzed
    keys = Keys(settings.key_prefix)
    record = redis.hget(keys.policies, "1")
    live = redis.get(keys.live)
    redis.set(keys.live, data.draw(spoilt_json(LIVE)))
    redis.hset(keys.policies, "1", data.draw(spoilt_json(RECORD)))
    redis.set(keys.worker, data.draw(spoilt_json(REPORT)))
    redis.hset(keys.items, "film-1", data.draw(spoilt_msgpack(ITEM)))
    redis.zadd(keys.item_changes, {"film-1": redis.incr(keys.item_seq)})
    redis.set(keys.session("u:ann"), data.draw(mutated(SESSION)))
    try:
        for path in ("/policies", "/evaluation", "/metrics", "/users/ann", "/items/film-1"):
            assert client.get(path).status_code in (200, 404, 409), path
        assert shown(recommend(client, "ann", k=3))
        assert client.post("/policies:freeze").status_code in (200, 409)
        assert client.post("/policies:rollback").status_code == 409
    finally:
        redis.hset(keys.policies, "1", record)
        redis.set(keys.live, live)
        redis.delete(keys.session("u:ann"))


@pytest.mark.parametrize("damaged", [b"no pointer", b""])
def test_an_api_that_starts_with_a_damaged_pointer_serves_once_it_is_mended(
    api: httpx.Client, settings: Settings, redis: syncredis.Redis, keys: Keys, damaged: bytes
) -> None:
    redis.set(keys.live, damaged)
    with Server(settings) as late:
        until(lambda: late.get("/readyz").json()["reasons"] == ["no_policy"], "an answer without a policy")
        assert api.post("/policies/1:activate").status_code == 200, "at another process: this one must find out"
        until_ready(late)
        assert recommend(late, "ann")["policy_version"] == 1


@pytest.mark.parametrize("damaged", [b"no pointer", b""])
def test_a_damaged_pointer_is_mended_by_activating_a_version(
    api: httpx.Client, redis: syncredis.Redis, keys: Keys, damaged: bytes
) -> None:
    redis.set(keys.live, damaged)
    assert "activate a version" in api.get("/policies").json()["detail"]
    assert api.post("/policies:freeze").status_code == api.post("/policies:rollback").status_code == 409
    assert api.post("/policies/1:activate").status_code == 200
    assert api.get("/policies").json()["live_version"] == 1
