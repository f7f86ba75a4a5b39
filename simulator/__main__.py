"""`python -m simulator <command>`: synthetic users with a hidden taste, against the running service."""

from __future__ import annotations

from service.command_line import exits
from service.command_line.pages import add_command, new_app

with exits.needing_extras():
    from offline.errors import OfflineError
    from simulator.demo.command import demo
    from simulator.errors import SimulatorError
    from simulator.experiments.commands.degradation import degradation
    from simulator.experiments.commands.evaluate import evaluate
    from simulator.experiments.commands.experiment import experiment
    from simulator.experiments.commands.results import results
    from simulator.experiments.commands.tune import tune
    from simulator.load.command import load, users
    from simulator.personas.command import personas

ABOUT = """Synthetic users with a hidden taste, fitted on real data: against the running service, or in experiments.

    `demo` does all from a data set to a report. `load` sends users to a service that runs; their taste is fitted when
    it is first needed, or by `users`. `personas` judges by persons whether people get what they like, `evaluate` what a
    snapshot earns before it learned. `experiment` compares methods without a service, and `results`, `tune` and
    `degradation` write what docs/ says of it.

    Exit codes: 0 done; 1 something failed while running; 2 a mistake in arguments or files, or a service that does not
    answer; 130 interrupted.

    Shell completion: `ialp-simulator --install-completion`, then a new shell.

    Examples:
        python -m simulator demo
        python -m simulator load --dataset runs/demo/dataset --out runs/load \\
            --max-seconds 60
    """

app = new_app(ABOUT, completion=__name__ != "__main__")
for command in (demo, load, users, personas, evaluate, experiment, results, tune, degradation):
    add_command(app, command.__name__, command)


def main() -> None:
    """Run a command; a user's mistake is one line on stderr and exit code 2, never a stack trace."""
    exits.run(app, (SimulatorError, OfflineError))


if __name__ == "__main__":
    main()
