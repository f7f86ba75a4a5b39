"""Files as people have them (cases N and O): the usual dialects, encodings, packings and forms are read, and said."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline.datasets import Dataset, read_dataset, save_dataset
from offline.errors import OfflineError
from offline.sources import Reading, load_catalogue
from service.contract.base import MAX_ID_BYTES
from service.tables import cells, fields

FILMS = [("1", "Alien (1979)", ("Horror", "Sci-Fi")), ("2", "Am\u00e9lie", ("Romance",)), ("3", "Heat", ())]
PLAIN = "id,text,categories\n1,Alien (1979),Horror|Sci-Fi\n2,Am\u00e9lie,Romance\n3,Heat,\n"


def films(path: Path, content: bytes, reading: Reading | None = None) -> Dataset:
    path.write_bytes(content)
    return load_catalogue(path, reading=reading)


def triples(dataset: Dataset) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(item.item_id, item.text, item.categories) for item in dataset.items]


def objects(**changes: object) -> list[dict[str, object]]:
    return [{"id": id_, "text": text, "categories": list(kinds)} | changes for id_, text, kinds in FILMS]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", PLAIN.encode(), None),
        ("a.csv", PLAIN.encode("utf-8-sig"), None),
        ("a.csv", PLAIN.encode("utf-16"), "encoding utf-16"),
        ("a.csv", PLAIN.encode("cp1252"), "encoding cp1252"),
        ("a.csv", PLAIN.replace("\n", "\r\n").encode(), None),
        ("a.csv", PLAIN.replace(",", ";").encode(), "fields between semicolons"),
        ("a.csv", ("sep=;\n" + PLAIN.replace(",", ";")).encode(), "fields between semicolons"),
        ("a.tsv", PLAIN.replace(",", "\t").encode(), "fields between tabs"),
        ("a.txt", PLAIN.replace(",", ", ").encode(), None),
        ("a.csv", PLAIN.replace("id,text,categories", "ID, Title ,Genres").encode(), "id from 'ID', text from 'Title'"),
        ("a.csv", PLAIN.replace("Horror|Sci-Fi", '"Horror, Sci-Fi"').encode(), "3 categories, split at ','"),
        ("a.csv", PLAIN.replace("Horror|Sci-Fi", '"[""Horror"", ""Sci-Fi""]"').encode(), "3 categories; 1 items"),
        ("a.csv", PLAIN.replace("Horror|Sci-Fi", "\"['Horror', 'Sci-Fi']\"").encode(), "3 categories; 1 items"),
        ("a.csv", PLAIN.replace("Am\u00e9lie", "Am&eacute;lie").encode(), None),
        ("a.csv.gz", gzip.compress(PLAIN.encode(), mtime=0), "unpacked from gz"),
        ("a.csv.bz2", bz2.compress(PLAIN.encode()), "unpacked from bz2"),
        ("a.csv.xz", lzma.compress(PLAIN.encode()), "unpacked from xz"),
        ("a.jsonl", b"\xef\xbb\xbf" + b"\n".join(json.dumps(row).encode() for row in objects()), None),
        ("a.json", json.dumps(objects()).encode(), None),
        ("a.json", json.dumps({"count": 3, "products": objects()}).encode(), "the list 'products'"),
        ("a.json", b"\n".join(json.dumps(row).encode() for row in objects()), None),
        (
            "a.jsonl.gz",
            gzip.compress(b"\n".join(json.dumps(row).encode() for row in objects()), mtime=0),
            "unpacked from gz",
        ),
    ],
)
def test_one_catalogue_in_many_forms(tmp_path: Path, name: str, content: bytes, said: str | None) -> None:
    dataset = films(tmp_path / name, content)
    assert triples(dataset) == FILMS
    assert dataset.problems == ()
    assert said is None or any(said in note for note in dataset.notes), dataset.notes


def test_a_zip_and_a_workbook(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("films.csv", PLAIN)
    assert triples(load_catalogue(tmp_path / "a.zip")) == FILMS
    workbook(tmp_path / "a.xlsx", [["id", "text", "categories"], *([int(i), t, "|".join(c)] for i, t, c in FILMS)])
    dataset = load_catalogue(tmp_path / "a.xlsx")
    assert triples(dataset) == FILMS  # the workbook holds 1.0 for 1
    assert "a.xlsx: sheet 'Products'" in dataset.notes
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("more.csv", PLAIN)
    with pytest.raises(OfflineError, match="holds 2 files"):
        load_catalogue(tmp_path / "a.zip")


def workbook(path: Path, rows: list[list[object]]) -> None:
    """The least that a workbook is made of."""

    def cell(value: object) -> str:
        if isinstance(value, int | float):
            return f"<c><v>{value}</v></c>"
        return f'<c t="inlineStr"><is><t>{value}</t></is></c>'

    sheet = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    relations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    packaged = "http://schemas.openxmlformats.org/package/2006"
    files = {
        "[Content_Types].xml": f'<Types xmlns="{packaged}/content-types"/>',
        "_rels/.rels": f'<Relationships xmlns="{packaged}/relationships"><Relationship Id="r1" '
        f'Type="{relations}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{relations}"><sheets>'
        '<sheet name="Products" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{packaged}/relationships"><Relationship Id="r1" '
        f'Type="{relations}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{sheet}</sheetData></worksheet>',
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)


def test_a_stray_quote_costs_one_row(tmp_path: Path) -> None:
    rows = [f"{n},Film {n},A" for n in range(2, 1_200)]
    rows[498] = '500,"Film 500,A'
    rows[700] = '702,"Film" 702,A'
    dataset = films(tmp_path / "a.csv", ("id,text,categories\n" + "\n".join(rows)).encode())
    assert [problem.line for problem in dataset.problems] == [500, 702]
    assert len(dataset.items) == len(rows) - 2


def test_a_text_over_several_lines_is_one_cell(tmp_path: Path) -> None:
    dataset = films(tmp_path / "a.csv", b'id,text\n1,"One\nor ""two"""\n2,Three\n')
    assert [item.text for item in dataset.items] == ['One\nor "two"', "Three"]


def test_bytes_of_another_encoding_cost_their_row(tmp_path: Path) -> None:
    lines = [f"{n},Caf\u00e9 {n}".encode() for n in range(50)]
    lines[20] = b"20,Caf\xe9"
    dataset = films(tmp_path / "a.csv", b"id,text\n" + b"\n".join(lines))
    assert [(problem.line, problem.field) for problem in dataset.problems] == [(22, "row")]
    assert len(dataset.items) == 49


def test_columns_by_any_name_and_those_not_read(tmp_path: Path) -> None:
    content = "Artikelnummer;Bezeichnung;Warengruppe;Preis\n17;Hammer;Werkzeug > Handwerkzeug;12,50\n"
    chosen = {"id": "Artikelnummer", "text": "Bezeichnung", "categories": "Warengruppe"}
    dataset = films(tmp_path / "a.csv", content.encode(), Reading(item_columns=chosen))
    assert triples(dataset) == [("17", "Hammer", ("Werkzeug", "Handwerkzeug"))]
    assert "a.csv: not read: 'Preis'" in dataset.notes
    with pytest.raises(OfflineError, match=r"no column for the id .*'Artikelnummer', 'Bezeichnung'"):
        load_catalogue(tmp_path / "a.csv")
    with pytest.raises(OfflineError, match="--item-columns id=Nummer: its columns are"):
        load_catalogue(tmp_path / "a.csv", reading=Reading(item_columns={"id": "Nummer"}))


def test_a_category_with_a_comma_can_be_one(tmp_path: Path) -> None:
    content = b'id,text,category\n1,Shirt,"Clothing, Shoes & Jewelry"\n'
    whole = films(tmp_path / "a.csv", content, Reading(category_separator=""))
    assert whole.items[0].categories == ("Clothing, Shoes & Jewelry",)


def test_what_the_api_refuses_is_no_item(tmp_path: Path) -> None:
    rows = objects()
    rows[0]["text"], rows[1]["categories"] = "x" * 4_001, ["\u00e9" * 129]
    dataset = films(tmp_path / "a.json", json.dumps(rows).encode())
    assert [(problem.line, problem.field) for problem in dataset.problems] == [(1, "text"), (2, "categories")]
    assert [item.item_id for item in dataset.items] == ["3"]


def test_items_that_look_alike_are_counted(tmp_path: Path) -> None:
    dataset = films(tmp_path / "a.csv", b"id,text\n1,Bolt\n2,Bolt\n3,Nut\n")
    assert any("2 items share their text" in note for note in dataset.notes)
    save_dataset(dataset, tmp_path / "dataset")
    assert read_dataset(tmp_path / "dataset").notes == dataset.notes


def test_orders_of_a_shop(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("sku;product;price\nA;Hammer;12,50\nB;Nail;0,10\n")
    (tmp_path / "orders.csv").write_text(
        "Customer ID;SKU;Quantity;Order date\nc1;A;1,5;24.06.2022 21:20\nc1;B;2;2022-06-25 08:00:00\n"
        "c2;A;;1656192000\nc2;B;1.234,5;1656192000000\nc2;A;x;\nc2;A;1;31.31.2022\n"
    )
    dataset = load_catalogue(tmp_path / "items.csv", tmp_path / "orders.csv")
    found = dataset.interactions
    assert found is not None
    assert found.value.tolist() == [1.5, 2.0, 1.0, 1234.5]
    moments = [datetime.fromtimestamp(time, UTC).isoformat(" ", "minutes")[:16] for time in found.time.tolist()]
    assert moments == ["2022-06-24 21:20", "2022-06-25 08:00", "2022-06-25 21:20", "2022-06-25 21:20"]
    assert [(problem.line, problem.field) for problem in dataset.problems] == [(6, "Quantity"), (7, "Order date")]
    assert "orders.csv: user from 'Customer ID', item from 'SKU', value from 'Quantity', time from 'Order date'" in (
        dataset.notes
    )


@pytest.mark.parametrize(
    ("column", "order", "is_told"),
    [
        (["01/02/2020", "31/01/2020"], "day", True),
        (["01/02/2020", "01/31/2020"], "month", True),
        (["01/02/2020"], "month", False),
        (["01.02.2020"], "day", False),
        ([None, 5, "2020-01-31"], "day", False),
    ],
)
def test_days_and_months_are_told_by_the_column(column: list[object], order: str, is_told: bool) -> None:
    assert cells.date_order(column) == (order, is_told)


@pytest.mark.parametrize(
    ("cell", "commas", "number"),
    [
        ("3,5", False, 3.5),
        ("1,234", False, 1234.0),
        ("1,234", True, 1.234),
        ("1.234,5", False, 1234.5),
        ("1,234.5", False, 1234.5),
        ("1 234", False, 1234.0),
        (" -2.5e1 ", False, -25.0),
    ],
)
def test_numbers_as_people_write_them(cell: str, commas: bool, number: float) -> None:
    assert cells.as_number(cell, commas) == number


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=("Cs", "Cc"))), min_size=3, max_size=3), min_size=1))
def test_what_a_csv_writer_writes_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    import csv
    import io

    from service.tables.files import read_table_file

    file = io.StringIO(newline="")
    csv.writer(file).writerows([["a", "b", "c"], *rows])
    path = tmp_path_factory.getbasetemp() / "written.csv"
    path.write_bytes(file.getvalue().encode())
    kept = [row for row in rows if any(cell.strip() for cell in row)]
    problems: list[object] = []
    read: Callable[[str], str] = lambda cell: cell.lstrip(" ")  # noqa: E731  blanks after a comma are the file's
    table = read_table_file(path, problems, "utf-8")  # type: ignore[arg-type]
    assert [[read(cell) for cell in row.values()] for _, row in table.rows] == [[read(c) for c in row] for row in kept]
    assert problems == []


def test_exports_of_gorse_as_they_are(tmp_path: Path) -> None:
    """The bodies of its `GET /api/items` and `GET /api/feedback`."""
    item = {"Timestamp": "2024-01-01T00:00:00Z", "Labels": {}, "Categories": ["Horror"]}
    items = [
        {"ItemId": "dracula", "IsHidden": False, "Comment": "Dracula (1897)", **item},
        {"ItemId": "she", "IsHidden": True, "Comment": "She (1887)", **item},
    ]
    events = [
        {"FeedbackType": kind, "UserId": "bob", "ItemId": "dracula", "Timestamp": "2024-02-24T10:00:00Z"}
        for kind in ("read", "star")
    ]
    events.append(events[0] | {"ItemId": "she"})
    (tmp_path / "items.json").write_text(json.dumps({"Cursor": "", "Items": items}))
    (tmp_path / "feedback.json").write_text(json.dumps({"Cursor": "", "Feedback": events}))
    reading = Reading(liked_types=frozenset({"star"}))
    dataset = load_catalogue(tmp_path / "items.json", tmp_path / "feedback.json", reading=reading)
    assert triples(dataset) == [("dracula", "Dracula (1897)", ("Horror",))]
    assert dataset.problems == ()
    assert {"items.json: 1 hidden items left out", "feedback.json: 1 interactions with hidden items left out"} <= {
        *dataset.notes
    }
    assert dataset.interactions is not None
    assert dataset.interactions.liked.tolist() == [False, True]
    assert dataset.interactions.time.tolist() == [1708768800] * 2


def test_ids_may_be_as_long_as_those_of_the_api() -> None:
    assert fields.MAX_ID_BYTES == MAX_ID_BYTES
