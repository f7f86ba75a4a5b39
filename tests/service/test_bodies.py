"""Bodies that are compressed or in another charset, and what of them is refused."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import httpx
import pytest

from service.api import bodies
from service.api.errors import Problem
from tests.service.service_examples import problem_of

RECOMMEND = json.dumps({"user_id": "ann", "k": 3}).encode()
EVENT = json.dumps({"event_id": "e", "user_id": "ann", "item_id": "film-1", "type": "click"}).encode()


def headless(body: bytes) -> bytes:
    """Deflate as some clients have it: without zlib's head."""
    raw = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return raw.compress(body) + raw.flush()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "deflate without head": headless,
    "gzip of members": lambda body: gzip.compress(body[:9]) + gzip.compress(b"") + gzip.compress(body[9:]),
}


def post(api: httpx.Client, path: str, body: bytes | Iterator[bytes], **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return api.post(path, content=body, headers={"content-type": "application/json", **sent})


@pytest.mark.parametrize("kind", PACKED)
def test_compressed_bodies_mean_what_plain_ones_do(api: httpx.Client, kind: str) -> None:
    encoding, pack = kind.split()[0], PACKED[kind]
    slate = post(api, "/recommend", pack(RECOMMEND), content_encoding=encoding)
    assert slate.status_code == 200 and len(slate.json()["items"]) == 3
    assert post(api, "/feedback", pack(EVENT), content_encoding=encoding.upper()).status_code == 202
    (past,) = api.get("/users/ann").json()["history"]
    assert past["item_id"] == "film-1"
    assert post(api, "/recommend", pack(b"{}"), content_encoding=encoding).status_code == 422


def test_a_compressed_body_may_come_in_parts(http_api: httpx.Client) -> None:
    packed = gzip.compress(RECOMMEND)
    parts = (packed[n : n + 1] for n in range(len(packed)))
    assert post(http_api, "/recommend", parts, content_encoding="gzip").status_code == 200
    many = [{"event_id": f"e{n}", "user_id": "ann", "item_id": "film-1", "type": "click"} for n in range(1_000)]
    answer = post(http_api, "/feedback", gzip.compress(json.dumps(many).encode()), content_encoding="gzip")
    assert answer.json()["accepted"] == 1_000


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "*", "compress"])
def test_other_encodings_are_refused_with_those_that_are_not(api: httpx.Client, encoding: str) -> None:
    for path in ("/recommend", "/feedback"):
        answer = post(api, path, RECOMMEND, content_encoding=encoding)
        problem = problem_of(answer, 415)
        assert problem["code"] == "unsupported_encoding" and "gzip, deflate" in problem["detail"]
        assert answer.headers["accept-encoding"] == "gzip, deflate"
    assert post(api, "/recommend", RECOMMEND, content_encoding="identity").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(RECOMMEND)[:-1],
        RECOMMEND,
        gzip.compress(RECOMMEND) + b"more",
        gzip.compress(b"") * 1_000,
        zlib.compress(RECOMMEND),
    ],
    ids=["cut off", "plain", "more after it", "many members", "deflate"],
)
def test_what_is_not_what_its_head_says_is_refused(api: httpx.Client, body: bytes) -> None:
    for path in ("/recommend", "/feedback"):
        assert problem_of(post(api, path, body, content_encoding="gzip"), 400)["code"] == "malformed_encoding"


def test_a_bomb_is_unpacked_no_further_than_the_limit(api: httpx.Client) -> None:
    bomb = gzip.compress(b" " * 300_000_000, 9)
    assert len(bomb) < 1_000_000
    tracemalloc.start()
    try:
        answers = [post(api, path, bomb, content_encoding="gzip") for path in ("/recommend", "/feedback")]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    for answer in answers:
        assert "once it is unpacked" in problem_of(answer, 413)["detail"]
    assert peak < 30_000_000


def test_exactly_as_much_as_is_allowed_is_taken(api: httpx.Client) -> None:
    full = RECOMMEND.ljust(1_000_000)
    assert post(api, "/recommend", gzip.compress(full), content_encoding="gzip").status_code == 200
    assert post(api, "/recommend", gzip.compress(full + b" "), content_encoding="gzip").status_code == 413


CHARSETS = [("iso-8859-1", "iso-8859-1"), ("windows-1252", "cp1252"), ('"UTF-16"', "utf-16")]
CHARSETS += [("utf-16le", "utf-16-le"), ("utf-16be", "utf-16-be"), ("utf-8", "utf-8"), ("US-ASCII", "utf-8")]


@pytest.mark.parametrize(("charset", "codec"), CHARSETS)
def test_a_charset_that_is_named_is_read(api: httpx.Client, charset: str, codec: str) -> None:
    body = json.dumps({"text": "Les Misérables"}, ensure_ascii=False).encode(codec)
    kind = f"application/json; charset={charset}"
    answer = api.put("/items/f", content=body, headers={"content-type": kind})
    assert answer.status_code == 201 and answer.json()["text"] == "Les Misérables"
    slate = json.dumps({"session_id": "é", "k": 2}, ensure_ascii=False).encode(codec)
    packed = {"content-type": kind, "content-encoding": "gzip"}
    assert len(api.post("/recommend", content=gzip.compress(slate), headers=packed).json()["items"]) == 2


@pytest.mark.parametrize("path", ["/recommend", "/feedback", "/items:batch"])
def test_a_body_that_is_not_utf_8_is_told_where(api: httpx.Client, path: str) -> None:
    body = '{"user_id": "René"}'.encode("latin-1")
    problem = problem_of(post(api, path, body), 400)
    assert problem["code"] == "malformed_charset"
    assert f"position {body.index(0xE9)}," in problem["detail"] and "charset=iso-8859-1" in problem["detail"]
    again = problem_of(post(api, path, gzip.compress(body), content_encoding="gzip"), 400)
    assert again["detail"] == problem["detail"]


def test_a_charset_that_the_body_is_not_in_is_told_where(http_api: httpx.Client) -> None:
    kind = {"content-type": "application/json; charset=windows-1252"}
    body = b'{"user_id": "' + b"a" * 20 + b'\x81"}'
    answer = http_api.post("/recommend", content=(body[n : n + 5] for n in range(0, len(body), 5)), headers=kind)
    assert f"position {body.index(0x81)}," in problem_of(answer, 400)["detail"]
    odd = RECOMMEND.decode().encode("utf-16-le")[:-1]
    kind = {"content-type": "application/json; charset=utf-16le"}
    answer = http_api.post("/recommend", content=odd, headers=kind)
    assert f"position {len(odd) - 1}," in problem_of(answer, 400)["detail"]


def test_a_charset_that_is_not_supported_is_refused(api: httpx.Client) -> None:
    answer = api.post("/recommend", content=RECOMMEND, headers={"content-type": "application/json; charset=koi8-r"})
    problem = problem_of(answer, 415)
    assert problem["code"] == "unsupported_charset" and "windows-1252" in problem["detail"]


def test_an_ordinary_body_is_not_touched() -> None:
    async def receive() -> dict[str, object]:
        raise AssertionError

    for kind in (b"application/json", b"application/json; charset=utf-8", b""):
        assert bodies.plain({b"content-type": kind}, receive, 10) is receive
    with pytest.raises(Problem):
        bodies.plain({b"content-encoding": b"br"}, receive, 10)
