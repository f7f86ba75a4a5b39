"""Options that several commands of the experiments have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simulator.experiments.runs.files import names_of

PLAYED, FILES = "What is played", "Files"

Data = Annotated[Path, typer.Option(help="Folder with the folders of public data.", rich_help_panel=FILES)]
Work = Annotated[
    Path, typer.Option(help="Folder where data sets, judgements and policies are kept.", rich_help_panel=FILES)
]
Results = Annotated[Path, typer.Option(help="Folder of the results, one .jsonl an environment.", rich_help_panel=FILES)]
Environments = Annotated[
    str,
    typer.Option(
        help="Only these environments, separated by commas; * is a wildcard.",
        rich_help_panel=PLAYED,
        autocompletion=names_of("environments"),
    ),
]
Methods = Annotated[
    str,
    typer.Option(
        help="Only these methods, separated by commas; * is a wildcard.",
        rich_help_panel=PLAYED,
        autocompletion=names_of("methods"),
    ),
]
Processes = Annotated[int | None, typer.Option(min=1, help="Runs at a time.", show_default="one a core")]

DATA, WORK = Path("../shared/data"), Path("runs/experiments")
