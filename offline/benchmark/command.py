"""The command `benchmark`: what is recommended, judged by real logs; results as lines of JSON, and a page of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table

from offline.benchmark.data import SOURCES
from offline.benchmark.records import Protocol, Record, keep, read_records
from offline.errors import OfflineError
from service.command_line.progress import progress

if TYPE_CHECKING:
    from offline.benchmark.run import Options, Task

PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
QUICK = ("movielens", "held-out", "random,popularity,text_mean,pretrained")
QUICK_SECONDS, QUICK_QUESTIONS = 60.0, 700  # of the language model
_RESULTS, _WORK = Path("docs/results/people"), Path("runs/people")
_CHOICE, _FILES, _MODEL = "What is judged", "Files", "The language model"


def _complete(names: Sequence[str]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in names if name.startswith(last)]

    return complete


_Data = Annotated[Path, typer.Option(help="Folder with the folders of public data.", rich_help_panel=_FILES)]
_Work = Annotated[Path, typer.Option(help="Folder where judgements and embeddings are kept.", rich_help_panel=_FILES)]
_Results = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the results, one .jsonl a data set.",
        rich_help_panel=_FILES,
        show_default="docs/results/people; with --quick, in WORK",
    ),
]
_Page = Annotated[
    Path | None, typer.Option(help="Also write this page of all results, plots beside it.", rich_help_panel=_FILES)
]
_Datasets = Annotated[
    str,
    typer.Option(
        help="Only these, separated by commas; * is a wildcard.",
        rich_help_panel=_CHOICE,
        autocompletion=_complete(list(SOURCES)),
    ),
]
_Protocols = Annotated[
    str,
    typer.Option(
        help="Only these of held-out, prequential, warm-start and sameness.",
        rich_help_panel=_CHOICE,
        autocompletion=_complete(PROTOCOLS),
    ),
]
_Methods = Annotated[
    str, typer.Option(help="Only these, separated by commas; * is a wildcard.", rich_help_panel=_CHOICE)
]
_Seed = Annotated[int, typer.Option(min=0, help="Seed of cuts, folds, ties and bootstrap.", rich_help_panel=_CHOICE)]
_JudgeSeconds = Annotated[
    float | None,
    typer.Option(
        min=1,
        help="Stop asking it about a data set after so many seconds.",
        rich_help_panel=_MODEL,
        show_default="asks all",
    ),
]
_Quick = Annotated[bool, typer.Option(help="Only one data set, held-out likes and a few methods: two minutes.")]
_Again = Annotated[bool, typer.Option(help="Also judge what already has a result, and replace it.")]


def command(
    data: _Data = Path("../shared/data"),
    work: _Work = _WORK,
    results: _Results = None,
    page: _Page = None,
    datasets: _Datasets = "*",
    protocols: _Protocols = "*",
    methods: _Methods = "*",
    seed: _Seed = 0,
    judge_seconds: _JudgeSeconds = None,
    quick: _Quick = False,
    again: _Again = False,
) -> None:
    """Judge what is recommended by what real people did next; nothing is simulated.

    Needs: the extra `benchmark`, and for all data sets but movielens the files of public data in DATA; what is not
    there is skipped. Judgements of a data set cost the embedded model minutes to tens of minutes, once.

    Writes: every result, as soon as it is there, to RESULTS; judgements and embeddings to WORK; with --page a page and
    its plots. What has a result already is not judged again.

    Ctrl-C: results that are there are kept, and so is what the model was asked; the same command goes on from there.

    Examples:
        python -m offline benchmark --quick
        python -m offline benchmark --data data --page docs/people.md
        python -m offline benchmark --datasets lfm --methods "text_*,ease" \\
            --results runs/try
    """
    from offline.benchmark.methods import METHODS
    from offline.benchmark.run import Options, plan

    folder = results or (work / "quick" / "results" if quick else _RESULTS)
    options = Options(data, work / "quick" if quick else work, seed, judge_seconds)
    if quick:
        datasets, protocols, methods = QUICK
        options = Options(data, work / "quick", seed, judge_seconds or QUICK_SECONDS, QUICK_QUESTIONS)
    chosen = plan(
        [SOURCES[name] for name in chosen_names("--datasets", datasets, list(SOURCES))],
        [name for name in PROTOCOLS if name in chosen_names("--protocols", protocols, PROTOCOLS)],
        chosen_names("--methods", methods, list(METHODS)),
        seed,
    )
    console = Console(stderr=True)
    judge_and_keep(list(chosen), options, folder, console, again=again)
    if quick:
        console.print(quick_table(list(read_records(folder))))
    if page is not None:
        _write_page(folder, page)


def judge_and_keep(tasks: Sequence[Task], options: Options, results: Path, console: Console, *, again: bool) -> None:
    """Judge the tasks that have no record in the folder `results`, or all; each record is kept at once."""
    import torch

    from offline.benchmark.run import judge_missing

    torch.set_num_threads(1)
    finished = {record.key for record in read_records(results)}
    missing = [task for task in tasks if again or task.key not in finished]
    console.print(f"{len(tasks)} results planned, {len(tasks) - len(missing)} of them exist already", highlight=False)
    with progress("benchmark", len(missing), "results", console=console) as bar:
        for record in judge_missing(missing, options, console, lambda what: bar.advance(0, what=what)):
            keep(results, record)
            bar.advance()
            console.print(_line(record), highlight=False, soft_wrap=True)


def chosen_names(option: str, patterns: str, names: Sequence[str]) -> list[str]:
    """The names that a pattern of the option matches, in their order.

    Raises:
        OfflineError: a pattern matches none.
    """
    globs = [pattern.strip() for pattern in patterns.split(",")]
    for pattern in globs:
        if not any(fnmatch(name, pattern) for name in names):
            raise OfflineError(f"{option} {pattern}: matches none of {', '.join(names)}")
    return [name for name in names if any(fnmatch(name, pattern) for pattern in globs)]


def quick_table(records: Sequence[Record]) -> Table:
    """The held-out protocol's metrics, a method a line."""
    table = Table(title="People's held-out likes (95% intervals over users)", title_justify="left")
    names = ("auc", "auc_matched", "ndcg_all")
    for column in ("method", "AUC, unrated", "AUC, equally popular", "NDCG@10"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for record in records:
        if record.variant == "likes":
            cells = ["{:.3f} ({:.3f} to {:.3f})".format(*record.metrics[name]) for name in names]
            table.add_row(str(record.configuration["method"]["title"]), *cells)
    return table


def _line(record: Record) -> str:
    shown = [f"{name} {ends[0]:.3f}" for name, ends in record.metrics.items()][:4]
    variant = " with dislikes" if record.variant == "answers" else ""
    return f"{record.dataset} {record.protocol} {record.method}{variant}: {', '.join(shown)} ({record.seconds:.0f} s)"


def _write_page(results: Path, page: Path) -> None:
    from offline.benchmark.page import write_page

    typer.echo(write_page(results, page))
