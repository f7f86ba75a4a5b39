"""`python -m simulator <command>`: synthetic users with a hidden taste, against the running service."""

from __future__ import annotations

import sys

import typer

from offline.errors import OfflineError
from simulator.demo import demo
from simulator.errors import SimulatorError
from simulator.experiments.degradation_command import degradation
from simulator.experiments.experiment_command import experiment
from simulator.experiments.results_command import results
from simulator.experiments.tune_command import tune
from simulator.load_command import load, users

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Fit synthetic users on real data and send them to the running service.",
)
app.command("load")(load)
app.command("users")(users)
app.command("demo")(demo)
app.command("experiment")(experiment)
app.command("results")(results)
app.command("tune")(tune)
app.command("degradation")(degradation)


def main() -> None:
    """Run a command; a user's mistake is one line on stderr and exit code 2, never a stack trace."""
    try:
        app()
    except (SimulatorError, OfflineError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
