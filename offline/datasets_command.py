"""The command `datasets`: from public data or the user's own files to RUN/dataset, with a summary of what was read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from offline.artefacts import sha256_file
from offline.datasets import Dataset, Scenario, save_dataset
from offline.errors import OfflineError
from offline.sources import FOLDER_SOURCES, load_catalogue, movielens

SOURCES = ("movielens", *FOLDER_SOURCES, "catalogue")
_LISTED_PROBLEMS = 5


def command(
    out: Annotated[Path, typer.Option(help="Where the data set goes, usually RUN/dataset.")],
    source: Annotated[str, typer.Option(help=" | ".join(SOURCES))] = "movielens",
    folder: Annotated[Path | None, typer.Option(help="The folder with the files of a public data set.")] = None,
    items: Annotated[Path | None, typer.Option(help="Your catalogue: .jsonl, .csv or .parquet.")] = None,
    interactions: Annotated[Path | None, typer.Option(help="What your users did, in the same formats.")] = None,
    liked_at: Annotated[float | None, typer.Option(help="Liked from this value on, without a column `liked`.")] = None,
    noun: Annotated[str | None, typer.Option(help="What one of your items is called, such as book.")] = None,
    nouns: Annotated[str | None, typer.Option(help="What several are called, such as books.")] = None,
    liked: Annotated[str | None, typer.Option(help="What people who like one did, such as enjoyed.")] = None,
    disliked: Annotated[str | None, typer.Option(help="What people who do not did, such as did not enjoy.")] = None,
    max_bad_rows: Annotated[int, typer.Option(min=0, help="Give up where more rows cannot be used.")] = 0,
    skip_bad_rows: Annotated[bool, typer.Option(help="Leave out every row that cannot be used.")] = False,
) -> None:
    """Read a catalogue (and what users did with it); every row that cannot be used is named."""
    if source not in SOURCES:
        raise OfflineError(f"--source {source}: expected one of {', '.join(SOURCES)}")
    for option, value, wanted in (
        ("--folder", folder, source in FOLDER_SOURCES),
        ("--items", items, source == "catalogue"),
    ):
        if wanted != (value is not None):
            raise OfflineError(f"--source {source} {'needs' if wanted else 'goes without'} {option}")
    words = {"noun": noun, "nouns": nouns, "liked": liked, "disliked": disliked}
    scenario = Scenario(**{name: word for name, word in words.items() if word is not None})
    if source != "catalogue" and (interactions or liked_at is not None or any(words.values())):
        raise OfflineError("--interactions, --liked-at and the words go with --source catalogue only")
    if items is not None:
        dataset = load_catalogue(items, interactions, scenario=scenario, liked_at=liked_at)
    elif folder is not None:
        dataset = FOLDER_SOURCES[source](folder)
    else:
        dataset = movielens()
    console = Console(stderr=True)
    if len(dataset.problems) > max_bad_rows and not skip_bad_rows:
        _list_problems(dataset, console)
        raise OfflineError(
            f"{len(dataset.problems)} rows cannot be used, first {dataset.problems[0]}; "
            "mend them, or leave them out with --skip-bad-rows"
        )
    config = {"source": source, "liked_at": liked_at, "max_bad_rows": max_bad_rows, "skip_bad_rows": skip_bad_rows}
    inputs = {path.name: sha256_file(path) for path in (items, interactions) if path is not None}
    save_dataset(dataset, out, config=config, inputs=inputs)
    console.print(_summary(dataset, out))
    _list_problems(dataset, console)


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
