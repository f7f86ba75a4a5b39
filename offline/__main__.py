"""`python -m offline <command>`: from a catalogue to a pre-trained policy."""

from __future__ import annotations

from service.command_line import exits
from service.command_line.pages import add_command, new_app

with exits.needing_extras():
    from offline.benchmark.command import command as benchmark
    from offline.datasets_command import command as datasets
    from offline.distil_command import command as distil
    from offline.errors import OfflineError
    from offline.evaluate_command import command as evaluate
    from offline.pretrain_command import command as pretrain

ABOUT = """Distil a language model's preferences and pre-train a recommendation policy from them (iALP); no logs needed.

    In this order, all in one folder RUN: `datasets` reads items, `distil` asks a language model about them, `pretrain`
    makes the policy. Then `python -m service dev --snapshot RUN/snapshot` serves it, and `evaluate` judges versions by
    what it logged. Apart from that, `benchmark` judges methods by public logs of real people. Each can be interrupted
    and run again.

    Exit codes: 0 done; 1 something failed while running; 2 a mistake in arguments or files, or a model that does not
    answer; 130 interrupted.

    Shell completion: `ialp-offline --install-completion`, then a new shell.

    Examples:
        python -m offline datasets --out runs/mine/dataset
        python -m offline distil --run runs/mine --max-seconds 210
        python -m offline pretrain --run runs/mine
        python -m service dev --snapshot runs/mine/snapshot
    """

app = new_app(ABOUT, completion=__name__ != "__main__")
add_command(app, "datasets", datasets)
add_command(app, "distil", distil)
add_command(app, "pretrain", pretrain)
add_command(app, "evaluate", evaluate)
add_command(app, "benchmark", benchmark)


def main() -> None:
    """Run a command; a user's mistake is one line on stderr and exit code 2, never a stack trace."""
    exits.run(app, (OfflineError,))


if __name__ == "__main__":
    main()
