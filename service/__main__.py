"""`python -m service api | worker | dev | export | import | openapi | keys`"""

from __future__ import annotations

from service.command_line import exits
from service.command_line.pages import add_command, new_app

with exits.needing_extras():
    from service.cli import keys
    from service.cli.export import export, openapi
    from service.cli.import_histories import import_histories
    from service.cli.processes import api, dev, worker

ABOUT = """Serve recommendations and learn from feedback.

    `dev` runs all of it on this machine. A deployment runs Redis, `api` and `worker` as separate processes, creates API
    keys with `keys`, brings in what users did before with `import`, and reads its log with `export`. The policy that it
    starts with comes from `python -m offline`.

    Settings are IALP_* environment variables (and REDIS_URL), each described in docs/reference/settings.md.

    Exit codes: 0 done, or a server that was stopped; 1 something failed while running; 2 a mistake in arguments,
    files or settings, or no answer from Redis; 130 interrupted.

    Shell completion: `ialp-service --install-completion`, then a new shell.

    Examples:
        python -m service dev --snapshot runs/demo/snapshot
        python -m service keys create --name shop --scopes serve,feedback
    """

app = new_app(ABOUT, completion=__name__ != "__main__")
app.add_typer(keys.app, name="keys")
for command in (dev, api, worker, export, openapi):
    add_command(app, command.__name__, command)
add_command(app, "import", import_histories)


def main() -> None:
    """Run a command; a user's mistake is one line on stderr and exit code 2, never a stack trace."""
    exits.run(app)


if __name__ == "__main__":
    main()
