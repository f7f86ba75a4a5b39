"""An OpenAI-compatible server on this machine whose model judges books by their genres, for the documents' commands."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_LIKED, _POPULAR = 2.0, 0.5  # logits


def _genres(catalogue: Path) -> dict[str, set[str]]:
    items = [json.loads(line) for line in catalogue.read_text(encoding="utf-8").splitlines()]
    return {item["text"]: set(item["categories"]) for item in items}


def _logit(facts: dict[str, Any], book: str, genres: dict[str, set[str]]) -> float:
    """Whoever likes a book likes its genres; some are liked by everybody, no matter which."""
    wanted = genres.get(book, set())
    likes, dislikes = (
        sum(bool(wanted & genres.get(text, set())) for text in facts.get(side, [])) for side in ("liked", "disliked")
    )
    return _POPULAR * math.sin(len(book)) + _LIKED * (likes - dislikes)


def _words(facts: dict[str, Any], genres: dict[str, set[str]]) -> dict[str, float]:
    """The probability of each answer to "Yes or No?", or to "A or B?"."""
    if "candidate" in facts:
        logit, words = _logit(facts, facts["candidate"], genres), ("Yes", "No")
    else:
        logit, words = _logit(facts, facts["A"], genres) - _logit(facts, facts["B"], genres), ("A", "B")
    first = 1 / (1 + math.exp(-logit))
    return dict(zip(words, (first, 1 - first), strict=True))


@contextlib.contextmanager
def serving(catalogue: Path) -> Iterator[str]:
    """The base URL of the server while it runs."""
    genres = _genres(catalogue)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            facts, _ = json.JSONDecoder().raw_decode(asked["messages"][1]["content"])
            words = _words(facts, genres)
            listed = [{"token": word, "logprob": math.log(prob)} for word, prob in words.items()]
            said = {"role": "assistant", "content": max(words, key=lambda word: words[word])}
            choice = {"index": 0, "message": said, "logprobs": {"content": [{"top_logprobs": listed}]}}
            body = json.dumps({"choices": [choice], "usage": {"total_tokens": 60}}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
