"""The command `datasets`: from public data or the user's own files to RUN/dataset, with a summary of what was read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from offline.artefacts import sha256_file
from offline.datasets import Dataset, Scenario, save_dataset
from offline.errors import OfflineError
from offline.sources import FOLDER_SOURCES, Reading, load_catalogue, movielens
from service.command_line.pairs import pairs
from service.tables.columns import INTERACTION_COLUMNS, ITEM_COLUMNS, Meanings

Source = Literal["movielens", "coat", "lfm", "industry", "movielens100k", "catalogue"]
SOURCES: tuple[Source, ...] = get_args(Source)
_LISTED_PROBLEMS = 5
_OWN, _ROWS = "Your own catalogue (--source catalogue)", "Rows that cannot be used"


_Out = Annotated[Path, typer.Option(help="Folder to write the data set to, usually RUN/dataset.")]
_Source = Annotated[
    Source,
    typer.Option(
        metavar="NAME",
        help="movielens (from a package); coat, lfm, industry or movielens100k (with --folder); catalogue.",
    ),
]
_Folder = Annotated[Path | None, typer.Option(help="The folder with the files of a public data set.")]
_Items = Annotated[
    Path | None,
    typer.Option(
        help="Your items: CSV of any kind, Excel, JSON or Parquet, packed or not; logs of Metarank and VW.",
        rich_help_panel=_OWN,
    ),
]
_Interactions = Annotated[
    Path | None, typer.Option(help="Interactions of your users, in the same formats.", rich_help_panel=_OWN)
]
_LikedAt = Annotated[
    float | None, typer.Option(help="Least value that counts as liked, without a column `liked`.", rich_help_panel=_OWN)
]
_LikedTypes = Annotated[
    str | None,
    typer.Option(
        metavar="star,purchase",
        help="Types of interactions that are likes, without a column `liked`.",
        rich_help_panel=_OWN,
        show_default="all",
    ),
]
_ItemColumns = Annotated[
    str | None,
    typer.Option(
        metavar="id=SKU,text=NAME",
        help="Your names of the columns id, text, categories, hidden.",
        rich_help_panel=_OWN,
        show_default="recognised",
    ),
]
_InteractionColumns = Annotated[
    str | None,
    typer.Option(
        metavar="user=CUSTOMER,...",
        help="Your names of the columns user, item, value, liked, type, time, slate, shown, propensities.",
        rich_help_panel=_OWN,
        show_default="recognised",
    ),
]
_CategorySeparator = Annotated[
    str | None,
    typer.Option(
        help="Sign between several categories in one text; none if there is only ever one.",
        rich_help_panel=_OWN,
        show_default="recognised",
    ),
]
_Properties = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN,...",
        help="Columns to keep as items' properties, for filters and rules; all: those that mean nothing else.",
        rich_help_panel=_OWN,
    ),
]
_Encoding = Annotated[
    str | None,
    typer.Option(help="Encoding of the files, such as cp1252.", rich_help_panel=_OWN, show_default="recognised"),
]
_Noun = Annotated[
    str | None,
    typer.Option(help="Noun for one item, such as book.", rich_help_panel=_OWN, show_default="item"),
]
_Nouns = Annotated[
    str | None,
    typer.Option(help="Noun for several items, such as books.", rich_help_panel=_OWN, show_default="items"),
]
_Liked = Annotated[
    str | None,
    typer.Option(
        help="Verb for people who liked an item, such as enjoyed.", rich_help_panel=_OWN, show_default="liked"
    ),
]
_Disliked = Annotated[
    str | None,
    typer.Option(
        help="Verb for people who did not, such as did not enjoy.", rich_help_panel=_OWN, show_default="did not like"
    ),
]
_MaxBadRows = Annotated[
    int, typer.Option(min=0, help="Fail if more rows than this cannot be used.", rich_help_panel=_ROWS)
]
_SkipBadRows = Annotated[
    bool, typer.Option(help="Leave out rows that cannot be used, however many.", rich_help_panel=_ROWS)
]


def command(
    out: _Out,
    source: _Source = "movielens",
    folder: _Folder = None,
    items: _Items = None,
    interactions: _Interactions = None,
    liked_at: _LikedAt = None,
    liked_types: _LikedTypes = None,
    item_columns: _ItemColumns = None,
    interaction_columns: _InteractionColumns = None,
    category_separator: _CategorySeparator = None,
    properties: _Properties = None,
    encoding: _Encoding = None,
    noun: _Noun = None,
    nouns: _Nouns = None,
    liked: _Liked = None,
    disliked: _Disliked = None,
    max_bad_rows: _MaxBadRows = 0,
    skip_bad_rows: _SkipBadRows = False,
) -> None:
    """Read a catalogue (and what users did with it); every row that cannot be used is named by file and line.

    Needs: for MovieLens the extra `demo`, for a public data set its files, for your own catalogue ITEMS. An item has
    an id, a text and, optionally, categories. An interaction has a user, an item and, optionally, a value, `liked` and
    a time; `pretrain --logs`, evaluation and simulated users read it. Delimiters, encodings, the usual names of
    columns, forms of lists, numbers and dates are recognised, and the summary says as what.

    Writes: OUT with items, interactions, rows that were left out, and a manifest.

    Ctrl-C: there is no data set in OUT before its manifest; run the same command again.

    Examples:
        python -m offline datasets --out runs/mine/dataset
        python -m offline datasets --source catalogue --items items.jsonl \\
            --noun book --nouns books --out runs/mine/dataset
        python -m offline datasets --source catalogue --items products.xlsx \\
            --item-columns id=Artikelnummer,text=Bezeichnung --out runs/shop/dataset
        python -m offline datasets --source lfm --folder data/lfm --out runs/lfm
    """
    _check_inputs(source, folder, items, interactions)
    words = {"noun": noun, "nouns": nouns, "liked": liked, "disliked": disliked}
    scenario = Scenario(**{name: word for name, word in words.items() if word is not None})
    forms = (liked_at, liked_types, item_columns, interaction_columns, category_separator, properties, encoding)
    if source != "catalogue" and any(value is not None for value in (interactions, *forms, *words.values())):
        raise OfflineError("--interactions, options of your files, and the words are for --source catalogue only")
    reading = _reading(*forms)
    if items is not None:
        dataset = load_catalogue(items, interactions, scenario=scenario, reading=reading)
    else:
        dataset = movielens() if folder is None else FOLDER_SOURCES[source](folder)
    console = Console(stderr=True)
    if len(dataset.problems) > max_bad_rows and not skip_bad_rows:
        raise _unusable(dataset, console)
    settings = asdict(reading) | {"liked_types": sorted(reading.liked_types)}
    config = {"source": source, **settings, "max_bad_rows": max_bad_rows, "skip_bad_rows": skip_bad_rows}
    inputs = {path.name: sha256_file(path) for path in (items, interactions) if path is not None}
    save_dataset(dataset, out, config=config, inputs=inputs)
    _tell(dataset, out, console)


def _reading(
    liked_at: float | None,
    liked_types: str | None,
    item_columns: str | None,
    interaction_columns: str | None,
    category_separator: str | None,
    properties: str | None,
    encoding: str | None,
) -> Reading:
    return Reading(
        _chosen(item_columns, ITEM_COLUMNS, "--item-columns"),
        _chosen(interaction_columns, INTERACTION_COLUMNS, "--interaction-columns"),
        "" if category_separator == "none" else category_separator,
        encoding,
        tuple(part.strip() for part in properties.split(",")) if properties else (),
        liked_at,
        frozenset(part.strip() for part in liked_types.split(",")) if liked_types else frozenset(),
    )


def _tell(dataset: Dataset, out: Path, console: Console) -> None:
    console.print(_summary(dataset, out))
    for note in dataset.notes:
        console.print(escape(note), highlight=False, soft_wrap=True)
    _list_problems(dataset, console)


def _check_inputs(source: Source, folder: Path | None, items: Path | None, interactions: Path | None) -> None:
    """Refuse a source without the files that it needs, and files that are not there."""
    for option, value, needed in (
        ("--folder", folder, source in FOLDER_SOURCES),
        ("--items", items, source == "catalogue"),
    ):
        if needed != (value is not None):
            raise OfflineError(f"--source {source} {'needs' if needed else 'does not take'} {option}")
    for option, path in (("--items", items), ("--interactions", interactions)):
        if path is not None and not path.is_file():
            raise OfflineError(f"{option} {path}: there is no such file; check the path")


def _chosen(given: str | None, meanings: Meanings, option: str) -> dict[str, str]:
    """Columns by meaning, from `meaning=COLUMN,...`."""
    try:
        return pairs(given, option, meanings)
    except ValueError as error:
        raise OfflineError(str(error)) from None


def _unusable(dataset: Dataset, console: Console) -> OfflineError:
    _list_problems(dataset, console)
    return OfflineError(
        f"{len(dataset.problems)} rows cannot be used, first {dataset.problems[0]}; "
        "correct them, or leave them out with --skip-bad-rows"
    )


def _summary(dataset: Dataset, out: Path) -> Table:
    table = Table(title=f"{dataset.name}: {escape(str(out))}", title_justify="left", show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_row("items", f"{len(dataset.items):,}")
    if dataset.interactions is not None:
        table.add_row("users", f"{dataset.interactions.n_users:,}")
        table.add_row("interactions", f"{len(dataset.interactions.user):,}")
        if len(dataset.interactions.user):
            table.add_row("liked", f"{dataset.interactions.liked.mean():.1%}")
    table.add_row("rows left out", f"{len(dataset.problems):,}")
    return table


def _list_problems(dataset: Dataset, console: Console) -> None:
    for problem in dataset.problems[:_LISTED_PROBLEMS]:
        console.print(escape(str(problem)), highlight=False, soft_wrap=True)
    if len(dataset.problems) > _LISTED_PROBLEMS:
        console.print(f"... and {len(dataset.problems) - _LISTED_PROBLEMS:,} more", highlight=False)
