"""`python -m service export | openapi`: the log and the catalogue as files, and the OpenAPI document."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from service.cli.configured import refuse, settings_of_what_runs
from service.cli.keys import no_redis
from service.command_line import exits
from service.command_line.progress import progress


def export(
    out: Annotated[Path | None, typer.Option(help="Parquet file for the log: one row for each impression.")] = None,
    items: Annotated[
        Path | None, typer.Option(help="--out: Parquet file for the catalogue with its text embeddings as well.")
    ] = None,
    obp: Annotated[
        Path | None, typer.Option(help="The log as the Open Bandit Pipeline's `bandit_feedback`: an .npz file.")
    ] = None,
) -> None:
    """Write the log, for `offline evaluate --log` or other programs: impressions whose reward window is over, with
    their rewards.

    Needs: Redis (REDIS_URL, or that of a `service dev` on the same IALP_DATA_DIR) of a service that has served, which
    may go on serving; for OUT the extra `offline`.

    Writes: OUT, ITEMS and OBP, those that are given; each file appears whole or not at all.

    Ctrl-C: an unfinished file is deleted, an older one stays as it was; run the same command again.

    Examples:
        python -m service export --out log.parquet --items items.parquet
        python -m service export --obp bandit_feedback.npz
    """
    from redis.exceptions import RedisError

    from service.export.files import ExportError, write_log
    from service.export.obp import write_obp
    from service.store.connect import EXPORT_S, connect_blocking
    from service.store.keys import Keys

    settings = settings_of_what_runs()
    if (out is None and obp is None) or (out is None and items is not None):
        refuse(["give --out FILE.parquet, --obp FILE.npz or both; --items goes with --out"])
    keys, window_s = Keys(settings.key_prefix), settings.reward_window_s
    paths = [path for path in (out, obp) if path is not None]
    written: dict[Path, Counter[str]] = {}
    try:
        with (
            connect_blocking(settings, EXPORT_S) as client,
            progress("export", 2 * len(paths) * client.xlen(keys.events), "entries, read twice") as bar,
        ):
            if out is not None:
                written[out] = write_log(out, client, keys, window_s, items, bar.advance)
            if obp is not None:
                written[obp] = write_obp(obp, client, keys, window_s, bar.advance)
    except ExportError as error:
        exits.tell(str(error))
        raise typer.Exit(exits.MISTAKE) from None
    except RedisError as error:
        exits.tell(no_redis(error))
        raise typer.Exit(exits.MISTAKE) from None
    for path, counts in written.items():
        counted = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in sorted(counts.items()))
        typer.echo(f"{path}: {counted}", err=True)


def openapi() -> None:
    """Print the OpenAPI document of the HTTP API, as /openapi.json serves it; it is the same for all settings.

    Needs: nothing else that runs.

    Writes: the document as JSON to stdout.

    Ctrl-C: nothing is kept; run it again.

    Examples:
        python -m service openapi
    """
    from service.api.app import create_app
    from service.settings import Settings

    document = create_app(Settings.model_construct()).openapi()
    typer.echo(json.dumps(document, indent=2, sort_keys=True))
