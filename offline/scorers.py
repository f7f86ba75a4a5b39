"""Which language model is asked: its configuration, kept in the manifest so that later stages ask the same one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline.datasets import Scenario
from offline.endpoint import EndpointConfig, EndpointLLM
from offline.errors import OfflineError
from offline.gguf import GgufLLM, gemma_path
from offline.llm import Answer, Ask, Scorer
from offline.prompts import Style

DEFAULT_CACHE_FOLDER = Path.home() / ".cache" / "ialp"


@dataclass(frozen=True)
class ScorerConfig:
    """An endpoint, or else a GGUF model: the one at `gguf`, or else the packaged Gemma 3 270M."""

    endpoint: EndpointConfig | None = None
    gguf: str | None = None
    gguf_sha256: str | None = None
    processes: int | None = None

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> ScorerConfig:
        """What `asdict` gave, as a manifest holds it."""
        endpoint = recorded["endpoint"]
        return cls(**{**recorded, "endpoint": EndpointConfig(**endpoint) if endpoint else None})


def open_scorer(config: ScorerConfig, scenario: Scenario, weights_folder: Path = DEFAULT_CACHE_FOLDER) -> Scorer:
    """Start the model; the caller closes it.

    Raises:
        OfflineError: a package, file or key is missing, or the GGUF file is not the one expected.
    """
    if config.endpoint is not None:
        return EndpointLLM(config.endpoint, scenario)
    path = Path(config.gguf) if config.gguf is not None else gemma_path(weights_folder)
    return GgufLLM(path, scenario, sha256=config.gguf_sha256, processes=config.processes)


class RecordedScorer:
    """Stands for a model whose judgements are all in the cache; it is never asked."""

    exhausted: str | None = "only recorded judgements are used"

    def __init__(self, model_id: str, style: Style, scenario: Scenario) -> None:
        self.model_id, self.style, self.scenario = model_id, style, scenario

    def score(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        """Nothing.

        Raises:
            OfflineError: never in use; it would be asked in spite of `exhausted`.
        """
        raise OfflineError(self.exhausted or "")

    def close(self) -> None:
        """Nothing to close."""
