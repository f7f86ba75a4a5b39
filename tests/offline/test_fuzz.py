"""What the offline pipeline reads, damaged or hostile: an OfflineError or a valid value, never anything else."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline.datasets import Dataset, Interactions, read_dataset, save_dataset
from offline.endpoint import EndpointConfig, EndpointLLM
from offline.errors import OfflineError
from offline.gguf import GgufLLM
from offline.judgements import Judgement, JudgementCache
from offline.llm import Ask
from offline.prompts import Shown, Style, likelihood_continuation, likelihood_prefix
from offline.sources import load_catalogue
from service.tables.problems import RowProblem
from tests.offline.fake_llm import MOVIES, make_items
from tests.policy.mutations import LONG, bounded_memory, mutated, mutated_json, searched

ASK = Ask((Shown("Alien", 1),), ("Heat", "Jaws", "Rocky"))


@pytest.fixture(autouse=True, scope="module")
def little_memory() -> Iterator[None]:
    import pyarrow.parquet  # noqa: F401  its pools and threads are not what is bounded

    with bounded_memory(4 * 2**30):
        yield


def judgement(n: int) -> Judgement:
    return Judgement(f"key{n}", (("a", 1), ("b", -1)), f"item{n}", "likelihood", "fake", "1", -0.5 * n, n)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@searched(250, 8_000)
@given(data=st.data())
def test_a_spoilt_cache_of_judgements_is_told_or_read(folder: Path, data: st.DataObject) -> None:
    path = folder / "judgements.jsonl"
    path.unlink(missing_ok=True)
    cache = JudgementCache(path)
    cache.add([judgement(1), judgement(2)])
    cache.close()
    path.write_bytes(data.draw(mutated(path.read_bytes())))
    try:
        cache = JudgementCache(path)
    except OfflineError as error:
        assert str(path) in str(error)
        return
    assert all(math.isfinite(kept.score) for kept in cache.values())
    cache.close()


def chat(word: str) -> dict[str, Any]:
    top = [{"token": "Yes", "logprob": -0.1}, {"token": "No", "logprob": -3}, {"token": "A", "logprob": -0.2}]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": word},
        "logprobs": {"content": [{"top_logprobs": top}]},
    }
    return {"id": "x", "choices": [choice], "usage": {"total_tokens": 9}}


def echo(_word: str) -> dict[str, Any]:
    start = len(likelihood_prefix(MOVIES, ASK.history))
    end = start + len(likelihood_continuation("Heat"))
    logprobs = {"text_offset": [0, start, start + 2, end + 9], "token_logprobs": [None, -1.0, -2.5, -9.0]}
    return {"choices": [{"index": n, "text": "", "logprobs": logprobs} for n in range(3)], "usage": {"total_tokens": 9}}


@pytest.mark.parametrize(("style", "reply"), [("judge", chat), ("choose", chat), ("likelihood", echo)])
@searched(150, 5_000)
@given(data=st.data())
def test_any_answer_of_an_endpoint_is_a_score_or_told(
    folder: Path, style: Style, reply: Callable[[str], dict[str, Any]], data: st.DataObject
) -> None:
    document = reply("Yes")
    body = data.draw(
        mutated_json(document).map(lambda value: json.dumps(value).encode()) | mutated(json.dumps(document).encode())
    )
    headers = data.draw(
        st.sampled_from([{}, {"content-encoding": "gzip"}, {"content-type": "text/html; charset=nope"}])
    )
    # Sent as they are: httpx would encode the body to fit its header.
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=httpx.ByteStream(body), headers=headers))
    config = EndpointConfig("http://llm.test/v1", "big", style, max_retries=1, backoff_s=0.0)
    scorer = EndpointLLM(config, MOVIES, transport=transport)
    try:
        answers = dict(scorer.score([ASK]))
    except OfflineError:
        return
    finally:
        scorer.close()
    scores = [score for score in answers[0] if score is not None]
    assert len(answers[0]) == 3 and all(math.isfinite(score.value) and score.n_tokens > 0 for score in scores)
    path = folder / "scores.jsonl"
    path.unlink(missing_ok=True)
    cache = JudgementCache(path)
    cache.add([Judgement("k", (), "a", style, "m", "1", score.value, score.n_tokens) for score in scores])
    cache.close()
    JudgementCache(path).close()  # what was kept can be read again


@pytest.mark.parametrize("least", [-math.inf, -9999.0, -1e308, math.nan])
def test_a_token_that_cannot_come_does_not_spoil_the_cache(least: float) -> None:
    document = echo("")
    document["choices"][0]["logprobs"]["token_logprobs"][1] = least
    body = json.dumps(document).encode()
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=body))
    scorer = EndpointLLM(EndpointConfig("http://llm.test/v1", "big", "likelihood"), MOVIES, transport=transport)
    try:
        ((_, answer),) = scorer.score([ASK._replace(candidates=("Heat",))])
    finally:
        scorer.close()
    assert answer[0] is not None and answer[0].value == pytest.approx((-100.0 - 2.5) / 2)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-5", "x", "1e999", ""])
def test_any_retry_after_is_a_wait_of_at_most_two_minutes(value: str) -> None:
    from offline.endpoint import _retry_after_s

    assert 0.0 <= _retry_after_s(httpx.Response(429, headers={"Retry-After": value})) <= 120.0


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Path:
    interactions = Interactions(
        user=np.array([0, 0, 1], np.int32),
        item=np.array([0, 4, 2], np.int32),
        value=np.ones(3, np.float32),
        liked=np.array([True, False, True]),
        time=np.arange(3, dtype=np.int64),
        n_users=2,
    )
    problems = (RowProblem("items.csv", 3, "id", "needed"),)
    save_dataset(Dataset("toy", MOVIES, make_items(5), interactions, problems), folder / "dataset")
    return folder / "dataset"


@pytest.mark.parametrize("name", ["manifest.json", "items.jsonl", "interactions.parquet", "problems.jsonl"])
@searched(120, 4_000)
@given(data=st.data())
def test_a_spoilt_data_set_is_told_or_sound(dataset: Path, name: str, data: st.DataObject) -> None:
    whole = {path.name: path.read_bytes() for path in dataset.iterdir()}
    manifest = json.loads(whole["manifest.json"])
    if name == "manifest.json":
        changed = data.draw(mutated(whole[name]) | mutated_json(manifest).map(lambda v: json.dumps(v).encode()))
    else:
        changed = data.draw(mutated(whole[name]))
        manifest["files"][name] = hashlib.sha256(changed).hexdigest()  # else the hash alone would tell
        (dataset / "manifest.json").write_text(json.dumps(manifest))
    (dataset / name).write_bytes(changed)
    try:
        read = read_dataset(dataset)
        assert all(isinstance(item.item_id, str) and isinstance(item.text, str) for item in read.items)
        if read.interactions is not None and len(read.interactions.user):
            assert 0 <= read.interactions.item.min() <= read.interactions.item.max() < len(read.items)
            assert 0 <= read.interactions.user.min() <= read.interactions.user.max() < read.interactions.n_users
            assert len(read.interactions.user) == len(read.interactions.liked) == len(read.interactions.value)
    except OfflineError:
        pass
    finally:
        for other, content in whole.items():
            (dataset / other).write_bytes(content)


@pytest.fixture(scope="module")
def catalogues(folder: Path) -> dict[str, bytes]:
    import pyarrow
    import pyarrow.parquet

    rows = [{"id": f"i{n}", "text": f"Film {n}", "categories": "a|b", "value": 1.5} for n in range(4)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    table = "id,text,categories,value\n" + "".join(f'{r["id"]},"{r["text"]}",a|b,1.5\n' for r in rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "whole.parquet")
    return {".jsonl": lines.encode(), ".csv": table.encode(), ".parquet": (folder / "whole.parquet").read_bytes()}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@searched(150, 5_000)
@given(data=st.data())
def test_a_spoilt_catalogue_is_told_or_read(
    folder: Path, catalogues: dict[str, bytes], suffix: str, data: st.DataObject
) -> None:
    path = folder / f"items{suffix}"
    path.write_bytes(data.draw(mutated(catalogues[suffix])))
    try:
        read = load_catalogue(path)
    except OfflineError as error:
        assert path.name in str(error)
        return
    assert len({item.item_id for item in read.items}) == len(read.items) > 0
    for item in read.items:
        f"{item.item_id}{item.text}{item.categories}".encode()


def gguf_text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


_GGUF = b"GGUF" + struct.pack("<I", 3)
_NAMED = gguf_text(b"general.architecture") + struct.pack("<I", 8) + gguf_text(b"llama")
HEADERS = {
    "values": _GGUF + struct.pack("<QQ", 0, 2**60) + _NAMED,
    "text": _GGUF + struct.pack("<QQ", 0, 1) + gguf_text(b"general.architecture") + struct.pack("<IQ", 8, 2**60),
    "array": _GGUF + struct.pack("<QQ", 0, 2) + _NAMED + gguf_text(b"x") + struct.pack("<IIQ", 9, 8, 2**60),
    "shape": _GGUF + struct.pack("<QQ", 1, 1) + _NAMED + gguf_text(b"t") + struct.pack("<IQQIQ", 2, 2**60, 2**60, 0, 0),
    "tensors": _GGUF + struct.pack("<QQ", 2**60, 1) + _NAMED,
    "name": _GGUF + struct.pack("<QQQ", 0, 1, 2**60),
    "cut": _GGUF,
}


@pytest.mark.skipif(find_spec("ik_llama_cpp") is None, reason="the runtime is not installed: pip install 'ialp[llm]'")
@pytest.mark.parametrize("kind", list(HEADERS) if LONG else ["values", "text", "array"])
def test_a_model_file_with_huge_lengths_is_told(tmp_path: Path, kind: str) -> None:
    """The runtime is not ours and may abort: it does so in a process of its own, and the answer is one line."""
    path = tmp_path / "model.gguf"
    path.write_bytes(HEADERS[kind])
    scorer = GgufLLM(path, MOVIES, processes=1)
    try:
        with pytest.raises(OfflineError, match="not a model this runtime can load"):
            list(scorer.score([ASK]))
    finally:
        scorer.close()
