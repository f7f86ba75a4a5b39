"""Saving and reading data sets, and the command that makes them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from offline.__main__ import app
from offline.datasets import (
    Dataset,
    Item,
    Observation,
    Scenario,
    index_observations,
    read_dataset,
    save_dataset,
)
from offline.errors import OfflineError
from service.tables.problems import RowProblem


def example() -> Dataset:
    items = (Item("a", "Alpha \u2028 one", ("x", "y")), Item("b", 'Say "b"\n'), Item("ü", "Über"))
    observations = [
        Observation("u2", "b", 4.5, True, 10),
        Observation("u1", "a", 1.0, False, 11),
        Observation("u2", "gone", 1.0, True, 12),
        Observation("u2", "ü", 2.0, True, 13),
    ]
    interactions = index_observations(observations, {"a": 0, "b": 1, "ü": 2})
    problem = RowProblem("items.csv", 7, "text", "is empty")
    return Dataset("mine", Scenario(noun="book", nouns="books"), items, interactions, (problem,))


def assert_same(one: Dataset, other: Dataset) -> None:
    assert replace(one, interactions=None) == replace(other, interactions=None)
    assert (one.interactions is None) == (other.interactions is None)
    if one.interactions is not None and other.interactions is not None:
        assert one.interactions.n_users == other.interactions.n_users
        for name in ("user", "item", "value", "liked", "time"):
            column, read = getattr(one.interactions, name), getattr(other.interactions, name)
            np.testing.assert_array_equal(column, read)
            assert column.dtype == read.dtype


def test_users_are_numbered_by_first_appearance_and_unknown_items_left_out() -> None:
    interactions = example().interactions
    assert interactions is not None
    assert interactions.user.tolist() == [0, 1, 0]
    assert interactions.item.tolist() == [1, 0, 2]
    assert interactions.n_users == 2


@pytest.mark.parametrize("with_interactions", [True, False])
def test_what_is_saved_is_read(tmp_path: Path, with_interactions: bool) -> None:
    dataset = example() if with_interactions else replace(example(), interactions=None, problems=())
    save_dataset(example(), tmp_path / "run")  # an older one in the same place leaves nothing behind
    save_dataset(dataset, tmp_path / "run")
    assert_same(read_dataset(tmp_path / "run"), dataset)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=5))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("texts")
    items = tuple(Item(str(i), text, (text,)) for i, text in enumerate(texts))
    save_dataset(Dataset("mine", Scenario(), items, None), folder)
    assert read_dataset(folder).items == items


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    save_dataset(example(), tmp_path)
    with (tmp_path / "items.jsonl").open("a") as file:
        file.write('{"id": "c", "text": "C", "categories": []}\n')
    with pytest.raises(OfflineError, match=r"items\.jsonl: changed since it was written"):
        read_dataset(tmp_path)


def test_a_folder_without_data_set_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(OfflineError, match="python -m offline datasets"):
        read_dataset(tmp_path)


def test_a_manifest_of_another_shape_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"stage": "datasets", "files": {}, "results": {}}))
    with pytest.raises(OfflineError, match="make it again"):
        read_dataset(tmp_path)


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["datasets", *map(str, arguments)])
    message = f"{result.output}{result.exception}" if result.exception else result.output
    return result.exit_code, message


def test_command_reads_a_catalogue(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("id,title,categories\n1,One,a|b\n2,Two,\n")
    (tmp_path / "log.csv").write_text("user,item,rating\nu,1,5\nu,2,2\n")
    options = ("--items", tmp_path / "items.csv", "--interactions", tmp_path / "log.csv", "--liked-at", "4")
    code, output = run("--source", "catalogue", "--out", tmp_path / "out", "--noun", "book", *options)
    assert code == 0, output
    assert "50.0%" in output
    dataset = read_dataset(tmp_path / "out")
    assert dataset.scenario.noun == "book"
    assert dataset.interactions is not None
    assert dataset.interactions.liked.tolist() == [True, False]


def test_command_refuses_bad_rows_unless_told(tmp_path: Path) -> None:
    items, out = tmp_path / "items.jsonl", tmp_path / "out"
    items.write_text('{"id": 1, "text": "One"}\nnonsense\n{"id": 2}\n')
    code, output = run("--source", "catalogue", "--items", items, "--out", out)
    assert code != 0
    assert f"{items}:2: row" in output and "2 rows cannot be used" in output and "--skip-bad-rows" in output
    assert not out.exists()
    assert run("--source", "catalogue", "--items", items, "--out", out, "--max-bad-rows", "1")[0] != 0
    code, output = run("--source", "catalogue", "--items", items, "--out", out, "--skip-bad-rows")
    assert code == 0, output
    assert len(read_dataset(out).items) == 1
    assert [p.line for p in read_dataset(out).problems] == [2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "coat"], "needs --folder"),
        (["--source", "catalogue"], "needs --items"),
        (["--source", "movielens", "--folder", "x"], "does not take --folder"),
        (["--source", "coat", "--folder", "x", "--liked-at", "3"], "--source catalogue only"),
    ],
)
def test_command_says_which_options_go_together(tmp_path: Path, arguments: list[str], message: str) -> None:
    code, output = run(*arguments, "--out", tmp_path / "out")
    assert code != 0
    assert message in output
