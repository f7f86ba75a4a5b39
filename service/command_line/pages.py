"""Help pages out of docstrings: what a command does, needs, writes, keeps at Ctrl-C, and examples that work as written.

A docstring's paragraphs may break their lines anywhere. One that starts with "Ctrl-C: " is also what is told when the
command is interrupted; the lines below "Examples:" keep their breaks.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any, NamedTuple

import typer
from rich.markup import escape
from typer.core import TyperCommand

from service.command_line.exits import INTERRUPTED

_EXAMPLES, _INTERRUPTED = "Examples:", "Ctrl-C: "


class Page(NamedTuple):
    """A docstring, taken apart."""

    text: str
    examples: str
    interrupted: str  # what is kept and how to go on


def read_page(docstring: str) -> Page:
    """Paragraphs with their line breaks undone, and the examples as they stand."""
    text, _, examples = inspect.cleandoc(docstring).partition(f"\n{_EXAMPLES}\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n")]
    kept = next((p.removeprefix(_INTERRUPTED) for p in paragraphs if p.startswith(_INTERRUPTED)), "")
    return Page("\n\n".join(paragraphs), textwrap.dedent(examples).strip(), kept)


class _Command(TyperCommand):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        # `--no-x` of a switch that is off anyway takes the room of the names that matter, until these are cut off.
        for switch in self.params:
            if switch.default is False:
                switch.secondary_opts = []
                switch.show_default = False  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


def new_app(about: str, *, completion: bool) -> typer.Typer:
    """An application whose help is `about`. `completion`: shells can complete it, which they cannot for `python -m`."""
    page = read_page(about)

    def options(
        show_version: Annotated[
            bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_tell_version)
        ] = False,
    ) -> None:
        pass

    return typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=completion,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["--help", "-h"]},
        callback=options,
        help=escape(page.text),
        epilog=_epilog(page),
    )


def new_group(about: str) -> typer.Typer:
    """Commands below a command of an application."""
    page = read_page(about)
    return typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help=escape(page.text), epilog=_epilog(page))


def add_command(app: typer.Typer, name: str, command: Callable[..., None]) -> None:
    """Register `command` with the page that its docstring is; Ctrl-C ends it with one line and exit code 130."""
    page = read_page(command.__doc__ or "")

    @functools.wraps(command)
    def interruptible(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt:
            typer.echo(f"interrupted; {page.interrupted}" if page.interrupted else "interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None

    app.command(name, cls=_Command, help=escape(page.text), epilog=_epilog(page))(interruptible)


def _epilog(page: Page) -> str | None:
    return escape(f"{_EXAMPLES}\n\n" + page.examples) if page.examples else None


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ialp {version('ialp')}")
        raise typer.Exit
