"""Read bodies that are compressed or in another charset, part by part as they arrive; the rest of the API sees UTF-8.

An ordinary request costs two look-ups of headers here, and its body is not touched.
"""

from __future__ import annotations

import codecs
import functools
import zlib
from collections.abc import Callable, Mapping
from http import HTTPStatus

from starlette.types import Message, Receive

from service.api.errors import Problem, not_in_charset

_ENCODINGS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}  # zlib's wbits
_SUPPORTED = "gzip, deflate"
_MOST_MEMBERS = 100  # of a gzip file: each costs time even if it is empty
# Names of charsets and Python's codecs for them; None: the body is UTF-8 as it is.
_CODECS = {
    "utf-8": None,
    "utf8": None,
    "us-ascii": None,
    "iso-8859-1": "iso-8859-1",
    "latin1": "iso-8859-1",
    "windows-1252": "cp1252",
    "cp1252": "cp1252",
    "utf-16": "utf-16",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
}


def plain(headers: Mapping[bytes, bytes], receive: Receive, max_bytes: int) -> Receive:
    """Return a `receive` that gives the body unpacked and in UTF-8: `receive` itself where it is so already.

    Raises:
        Problem: 415, the encoding or the charset is not supported. The new `receive` raises 400 for a body that is not
            what its headers say, and 413 once more than `max_bytes` are unpacked.
    """
    encoding = headers.get(b"content-encoding", b"").strip().lower()
    codec = _codec_of(headers.get(b"content-type", b""))
    if encoding not in (b"", b"identity"):
        if encoding not in _ENCODINGS:
            detail = f"This Content-Encoding is not supported. Supported are {_SUPPORTED}, one at a time, and none."
            raise _unsupported("unsupported_encoding", detail, {"Accept-Encoding": _SUPPORTED})
        unpacker = _Unpacker(encoding, max_bytes)
        receive = _changed(receive, unpacker.unpack)
    if codec is not None:
        receive = _changed(receive, _Recoder(codec).recode)
    return receive


def too_large(max_bytes: int, when: str = "") -> Problem:
    """413; the rest of the body is not read, so the connection is of no more use."""
    detail = f"The body is larger than {max_bytes} bytes{when}."
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", detail, headers={"Connection": "close"})


def _unsupported(code: str, detail: str, headers: Mapping[str, str] | None = None) -> Problem:
    return Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, code, detail, headers=headers)


@functools.lru_cache(64)
def _codec_of(content_type: bytes) -> str | None:
    """Find the codec that a Content-Type names; None if the body needs none."""
    for parameter in content_type.decode("latin-1").lower().split(";")[1:]:
        name, _, value = parameter.strip().partition("=")
        if name == "charset":
            charset = value.strip("\"' ")
            if charset not in _CODECS:
                detail = f"This charset is not supported. Supported are {', '.join(_CODECS)}."
                raise _unsupported("unsupported_charset", detail)
            return _CODECS[charset]
    return None


def _changed(receive: Receive, change: Callable[[bytes, bool], bytes]) -> Receive:
    """Return a `receive` whose parts of the body went through `change(part, whether it is the last)`."""

    async def changed() -> Message:
        message = await receive()
        if message["type"] != "http.request":
            return message
        return {**message, "body": change(message.get("body", b""), not message.get("more_body", False))}

    return changed


class _Unpacker:
    """Unpacks a compressed body, and stops where it would be larger than it may be."""

    def __init__(self, encoding: bytes, max_bytes: int) -> None:
        self._wbits, self._max_bytes = _ENCODINGS[encoding], max_bytes
        self._inflate = zlib.decompressobj(self._wbits)
        self._total = self._members = 0

    def unpack(self, part: bytes, last: bool) -> bytes:
        """Unpack the next part.

        Raises:
            Problem: 400, this is not what the header says; 413, there is too much of it.
        """
        unpacked = []
        try:
            while part:
                if self._members == 0 or self._inflate.eof:
                    self._begin(part)
                # One byte more than is allowed tells too much from just enough.
                unpacked.append(self._inflate.decompress(part, self._max_bytes + 1 - self._total))
                self._total += len(unpacked[-1])
                if self._total > self._max_bytes:
                    raise too_large(self._max_bytes, " once it is unpacked")
                part = self._inflate.unused_data
        except zlib.error:
            raise self._broken() from None
        if last and self._members and not self._inflate.eof:
            raise self._broken()
        return b"".join(unpacked)

    def _begin(self, part: bytes) -> None:
        """Begin a member: a gzip file may have some, one after the other."""
        if self._members and (self._wbits != _ENCODINGS[b"gzip"] or self._members == _MOST_MEMBERS):
            raise self._broken()
        if self._wbits == _ENCODINGS[b"deflate"] and part[0] & 0x0F != zlib.DEFLATED:
            self._wbits = -zlib.MAX_WBITS  # some clients leave out zlib's head
        self._inflate = zlib.decompressobj(self._wbits)
        self._members += 1

    def _broken(self) -> Problem:
        detail = "The body is not whole and valid in the encoding that Content-Encoding names."
        return Problem(HTTPStatus.BAD_REQUEST, "malformed_encoding", detail)


class _Recoder:
    """Re-codes a body in another charset as UTF-8."""

    def __init__(self, codec: str) -> None:
        self._codec, self._decoder = codec, codecs.getincrementaldecoder(codec)()
        self._read = 0  # bytes before the next part

    def recode(self, part: bytes, last: bool) -> bytes:
        """Re-code the next part.

        Raises:
            Problem: 400, some byte stands for nothing in this charset.
        """
        kept = len(self._decoder.getstate()[0])
        try:
            text = self._decoder.decode(part, last)
        except UnicodeDecodeError as error:
            raise not_in_charset(self._codec, self._read - kept + error.start) from None
        self._read += len(part)
        return text.encode()
