"""Columns of a catalogue that become items' properties, from the file to the service."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from offline.datasets import read_dataset, save_dataset
from offline.errors import OfflineError
from offline.sources.catalogue import Reading, load_catalogue
from offline.sources.properties import property_name

SHOP = """Artikelnummer;Bezeichnung;Kategorie;Preis (EUR);Marke;Lager;Neu;Seit;EAN;not;Farben
1;Rotes Rad;Rad;1.299,50;Acme;3;true;24.06.2022;00123;x;"[""rot"", ""blau""]"
2;Helm;Zubehör;49,90;;0;false;01.12.2023;00456;y;rot
3;Schloss;Zubehör;;Initech;;true;;789;;
"""
ROWS = {"id": "Artikelnummer", "text": "Bezeichnung", "categories": "Kategorie"}


def shop(tmp_path: Path, *properties: str) -> dict[str, dict[str, object]]:
    path = tmp_path / "shop.csv"
    path.write_text(SHOP, encoding="utf-8")
    dataset = load_catalogue(path, reading=Reading(ROWS, properties=properties))
    save_dataset(dataset, tmp_path / "out")
    again = read_dataset(tmp_path / "out")
    assert again.items == dataset.items and again.problems == ()
    return {item.item_id: dict(item.properties) for item in again.items}


def test_columns_are_kept_as_what_they_are(tmp_path: Path) -> None:
    assert shop(tmp_path, "all") == {
        "1": {
            "Preis_EUR": 1299.5,
            "Marke": "Acme",
            "Lager": 3,
            "Neu": True,
            "Seit": "2022-06-24",
            "EAN": "00123",
            "_not": "x",
            "Farben": ["rot", "blau"],
        },
        "2": {
            "Preis_EUR": 49.9,
            "Lager": 0,
            "Neu": False,
            "Seit": "2023-12-01",
            "EAN": "00456",
            "_not": "y",
            "Farben": "rot",
        },
        "3": {"Marke": "Initech", "Neu": True, "EAN": "789"},
    }


def test_none_are_kept_unless_asked_for_and_what_is_kept_is_told(tmp_path: Path) -> None:
    assert shop(tmp_path) == {"1": {}, "2": {}, "3": {}}
    assert '"properties"' not in (tmp_path / "out/items.jsonl").read_text()
    assert shop(tmp_path, "Marke", "Preis (EUR)")["1"] == {"Marke": "Acme", "Preis_EUR": 1299.5}
    notes = json.loads((tmp_path / "out/manifest.json").read_text())["results"]["notes"]
    assert "shop.csv: properties: Marke (texts), Preis_EUR (numbers)" in notes
    assert any(note.startswith("shop.csv: not read: 'Lager'") for note in notes)


def test_what_is_too_long_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "text": "A", "note": "x" * 1_001, "price": 5},
        {"id": "b", "text": "B", "note": "x", "price": "5.5"},
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    dataset = load_catalogue(tmp_path / "a.json", reading=Reading(properties=("all",)))
    assert [dict(item.properties) for item in dataset.items] == [{"price": 5.0}, {"note": "x", "price": 5.5}]
    assert "a.json: 1 cells of 'note' left out" in dataset.notes


@pytest.mark.parametrize(
    ("columns", "chosen", "message"),
    [
        ("a,b", ("c",), "--properties c: there is no such column; there are 'id', 'text', 'a', 'b'"),
        (",".join(f"c{n}" for n in range(33)), ("all",), "at most 32 can be kept"),
        ("a b,a_b", ("all",), "two of them would have the same name"),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path: Path, columns: str, chosen: tuple[str, ...], message: str) -> None:
    (tmp_path / "a.csv").write_text(f"id,text,{columns}\n1,One,{','.join('x' * (columns.count(',') + 1))}\n")
    with pytest.raises(OfflineError, match=message):
        load_catalogue(tmp_path / "a.csv", reading=Reading(properties=chosen))


@pytest.mark.parametrize(
    ("column", "name"),
    [("price", "price"), ("Preis (EUR)", "Preis_EUR"), ("2nd hand", "_2nd_hand"), ("\u4ef7\u683c", "_"), ("or", "_or")],
)
def test_names_are_what_the_service_takes(column: str, name: str) -> None:
    assert property_name(column) == name
