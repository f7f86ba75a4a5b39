"""`python -m offline <command>`: from a catalogue to a pre-trained policy. `--help` of each command teaches it."""

from __future__ import annotations

import sys

import typer

from offline.datasets_command import command as datasets
from offline.distil_command import command as distil
from offline.errors import OfflineError
from offline.evaluate_command import command as evaluate
from offline.pretrain_command import command as pretrain
from simulator.errors import SimulatorError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Distil an LLM's preferences and pre-train a recommendation policy from them (iALP). No user logs needed.",
)

app.command("datasets")(datasets)
app.command("distil")(distil)
app.command("pretrain")(pretrain)
app.command("evaluate")(evaluate)


def main() -> None:
    """Run a command; a user's mistake is one line on stderr and exit code 2, never a stack trace."""
    try:
        app()
    except (OfflineError, SimulatorError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
