"""Choice of the language model: its configuration, kept in the manifest so that later stages ask the same one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline.datasets import Scenario
from offline.endpoint import EndpointConfig, EndpointLLM
from offline.errors import OfflineError
from offline.gguf import GgufLLM, gemma_path
from offline.llm import Answer, Ask, Scorer
from offline.prompts import Style
from offline.smollm2 import smollm2_path

DEFAULT_CACHE_FOLDER = Path.home() / ".cache" / "ialp"
PACKAGED: Mapping[str, Callable[[Path], Path]] = {"gemma": gemma_path, "smollm2": smollm2_path}


@dataclass(frozen=True)
class ScorerConfig:
    """An endpoint, or else a GGUF model: a packaged one by its name in PACKAGED (Gemma 3 270M if none), or a file."""

    endpoint: EndpointConfig | None = None
    gguf: str | None = None
    gguf_sha256: str | None = None
    processes: int | None = None

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> ScorerConfig:
        """Rebuild a configuration from its `asdict` form, as a manifest holds it."""
        endpoint = recorded["endpoint"]
        return cls(**{**recorded, "endpoint": EndpointConfig(**endpoint) if endpoint else None})


def open_scorer(config: ScorerConfig, scenario: Scenario, weights_folder: Path = DEFAULT_CACHE_FOLDER) -> Scorer:
    """Start the model; the caller closes it.

    Raises:
        OfflineError: a package, file or key is missing, or the GGUF file is not the one expected.
    """
    if config.endpoint is not None:
        return EndpointLLM(config.endpoint, scenario)
    name = config.gguf or "gemma"
    path = PACKAGED[name](weights_folder) if name in PACKAGED else Path(name)
    return GgufLLM(path, scenario, sha256=config.gguf_sha256, processes=config.processes)


class RecordedScorer:
    """Stands for a model whose judgements are all in the cache; it is never asked."""

    exhausted: str | None = "only recorded judgements are used"
    given_up: Sequence[str] = ()

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
