"""`python -m service import`: what users did before, out of a file, into their sessions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from service.cli.configured import refuse, settings_of_what_runs
from service.cli.keys import no_redis
from service.command_line.pairs import pairs
from service.command_line.progress import progress
from service.runtime import embedded

if TYPE_CHECKING:
    import redis

    from service.histories.pasts import LeftOut
    from service.histories.reading import Meanings, Responses
    from service.settings import Settings
    from service.store.import_reports import Reporter
    from service.store.imports import Importer, Past
    from service.store.keys import Keys
    from service.tables.problems import Problems

_USERS_AT_ONCE, _ITEMS_AT_ONCE = 100, 1_000
_LISTED = 5
_DAY_S = 86_400
_FORM = "Form of the file"


_Interactions = Annotated[
    Path,
    typer.Option(
        help="What users did: CSV of any kind, Excel, JSON or Parquet, packed or not; logs of Metarank and VW."
    ),
]
_Types = Annotated[
    str | None,
    typer.Option(
        metavar="star=like,read=view",
        help="Types of the file, each as a type of IALP_REWARDS or as a reward.",
        show_default="those of IALP_REWARDS",
    ),
]
_LikedAt = Annotated[
    float | None,
    typer.Option(help="Least value that is a like, without a type or a column `liked`.", show_default="any"),
]
_HoweverOld = Annotated[
    bool, typer.Option("--however-old", help="Also what IALP_SESSION_TTL_S says is to be forgotten by now.")
]
_InteractionColumns = Annotated[
    str | None,
    typer.Option(
        metavar="user=CUSTOMER,...",
        help="Your names of the columns user, item, value, liked, type, time, slate, shown, propensities.",
        rich_help_panel=_FORM,
        show_default="recognised",
    ),
]
_Encoding = Annotated[
    str | None,
    typer.Option(help="Encoding of the file, such as cp1252.", rich_help_panel=_FORM, show_default="recognised"),
]
_SkipBadRows = Annotated[
    bool, typer.Option(help="Leave out rows that cannot be used, however many.", rich_help_panel=_FORM)
]


def import_histories(
    interactions: _Interactions,
    types: _Types = None,
    liked_at: _LikedAt = None,
    however_old: _HoweverOld = False,
    interaction_columns: _InteractionColumns = None,
    encoding: _Encoding = None,
    skip_bad_rows: _SkipBadRows = False,
) -> None:
    """Make what users did before part of their histories, so that those who come back are known from the first
    request. Nothing is learned from it: `offline pretrain --logs` does that.

    A user, an item and, optionally, a type or a value, and a time; the file that `offline datasets --interactions`
    reads. Types have the rewards of IALP_REWARDS. As always, the last IALP_HISTORY_LENGTH responses of a user are kept,
    and a user who stayed away for IALP_SESSION_TTL_S is forgotten (unless --however-old). What users did here since
    stays as it is.

    Needs: Redis (REDIS_URL, or the IALP_DATA_DIR of a `service dev`) of a service that has its catalogue, which may go
    on serving; settings as the service has them.

    Writes: sessions to Redis, for all rows or, if one cannot be used, for none. The same file twice changes nothing.
    Also a report, while it runs and after, for GET /imports and the dashboard.

    Ctrl-C: histories of some users are in and stay; the same command takes the others, and passes these by.

    Examples:
        python -m service import --interactions bought.csv
        python -m service import --interactions gorse-feedback.json \\
            --types star=like,read=view --however-old
        python -m service import --interactions ratings.parquet --liked-at 4
    """
    from redis.exceptions import RedisError

    from service.histories.reading import Meanings
    from service.store.connect import EXPORT_S, connect_blocking
    from service.tables.columns import INTERACTION_COLUMNS
    from service.tables.problems import TableError

    settings = settings_of_what_runs()
    try:
        columns = pairs(interaction_columns, "--interaction-columns", INTERACTION_COLUMNS)
        meanings = Meanings(settings, pairs(types, "--types"), liked_at)
    except ValueError as error:
        refuse([str(error)])
    ttl_s = None if however_old else settings.session_ttl_s
    try:
        with _reachable(settings) as reached, connect_blocking(reached, EXPORT_S) as client:
            _import(client, settings, meanings, interactions, columns, encoding, skip_bad_rows, ttl_s)
    except (TableError, embedded.ServerError) as error:
        refuse([str(error)])
    except RedisError as error:
        refuse([no_redis(error)])


@contextlib.contextmanager
def _reachable(settings: Settings) -> Iterator[Settings]:
    """Settings with a server that runs: that of a `service dev` that does not run is started meanwhile."""
    folder = settings.data_dir / "redis"
    if "redis_url" in settings.model_fields_set or not folder.is_dir():
        yield settings
        return
    if embedded.found(folder) is None:
        typer.echo(f"{folder}: its service does not run; its data are opened for this command", err=True)
    with embedded.serving(folder) as url:
        yield settings.model_copy(update={"redis_url": url})


def _import(
    client: redis.Redis,
    settings: Settings,
    meanings: Meanings,
    path: Path,
    columns: dict[str, str],
    encoding: str | None,
    skip_bad_rows: bool,
    ttl_s: float | None,
) -> None:
    """`ttl_s`: how long a user may have stayed away; None for any time."""
    from service.store.import_reports import reported
    from service.store.keys import Keys

    keys = Keys(settings.key_prefix)
    if not client.exists(keys.item_index):
        refuse([f"no catalogue at the key prefix {settings.key_prefix!r} yet: start the service once before"])
    with reported(client, keys, path.name) as reporter:
        _take(client, keys, settings, meanings, path, columns, encoding, skip_bad_rows, ttl_s, reporter)


def _take(
    client: redis.Redis,
    keys: Keys,
    settings: Settings,
    meanings: Meanings,
    path: Path,
    columns: dict[str, str],
    encoding: str | None,
    skip_bad_rows: bool,
    ttl_s: float | None,
    reporter: Reporter,
) -> None:
    from service.histories.pasts import LeftOut, pasts
    from service.histories.reading import read_responses
    from service.store.imports import Importer
    from service.tables.interactions import InteractionFile

    problems: Problems = []
    now_s, _ = client.time()
    with progress("reading", None, "rows") as bar:

        def advance(rows: int) -> None:
            bar.advance(rows)
            reporter.tell_sometimes(rows=reporter.report.rows + rows)

        file = InteractionFile(path, problems, columns, encoding)
        responses = read_responses(file, meanings, min(now_s, int(path.stat().st_mtime)), advance)
    if problems and not skip_bad_rows:
        for problem in problems[:_LISTED]:
            typer.echo(str(problem), err=True)
        _give_up(
            reporter, f"{len(problems):,} rows cannot be used; correct them, or leave them out with --skip-bad-rows"
        )
    reporter.tell(state="writing", users=len(responses.users))
    places = _places(client, keys, responses.items)
    left_out = LeftOut()
    found = pasts(responses, places, now_s, settings, ttl_s, left_out)
    counts = _write(Importer(client, keys, settings), found, len(responses.users), reporter)
    reasons = _left_out(responses, places, left_out, len(problems), settings)
    taken = len(responses.at) - left_out.unknown_items - left_out.forgotten - left_out.future
    told_of_times = "no times: their order is the file's, and they were when it was last changed"
    notes = [] if responses.has_times else [told_of_times]
    reporter.tell(
        changed=counts[0], same=counts[1], interactions=taken, left_out=(*reasons,), notes=(*file.notes(), *notes)
    )
    for note in file.notes():
        typer.echo(f"{path.name}: {note}", err=True)
    told = f"import: {taken:,} interactions of {sum(counts):,} users"
    typer.echo(f"{told}; {counts[0]:,} histories changed, {counts[1]:,} had them already", err=True)
    for line in [*notes, *(f"left out: {reason}" for reason in reasons)]:
        typer.echo(line, err=True)
    if not any(counts):
        _give_up(reporter, f"{path}: nothing of it can be taken; the lines above say why", "nothing of it can be taken")


def _give_up(reporter: Reporter, message: str, problem: str | None = None) -> NoReturn:
    """End with a message, and report the problem, which is the same unless it is given."""
    reporter.tell(problem=problem or message)
    refuse([message])


def _places(client: redis.Redis, keys: Keys, items: Sequence[str]) -> list[int | None]:
    found: list[int | None] = []
    for start in range(0, len(items), _ITEMS_AT_ONCE):
        some = client.hmget(keys.item_index, items[start : start + _ITEMS_AT_ONCE])
        found += [None if place is None else int(place) for place in some]
    return found


def _write(importer: Importer, found: Iterator[Past], n_users: int, reporter: Reporter) -> tuple[int, int]:
    """Add to all users' sessions; how many of these changed, and how many had it all."""
    changed = same = 0
    with progress("importing", n_users, "users") as bar:
        while some := list(islice(found, _USERS_AT_ONCE)):
            news = importer.add(some)
            changed, same = changed + sum(news), same + len(news) - sum(news)
            reporter.tell_sometimes(changed=changed, same=same)
            bar.advance(len(some))
    return changed, same


def _left_out(
    responses: Responses, places: Sequence[int | None], left_out: LeftOut, bad_rows: int, settings: Settings
) -> list[str]:
    """Say what was left out, and why."""
    types = responses.unknown_types.most_common()
    kinds = [f"{n:,} of type {kind[:80]!r}, which has no reward (IALP_REWARDS, --types)" for kind, n in types[:_LISTED]]
    of_others = sum(n for _, n in types[_LISTED:])
    unknown = [item for item, place in zip(responses.items, places, strict=True) if place is None]
    examples = ", ".join(repr(item[:80]) for item in unknown[:3]) + (", ..." if len(unknown) > 3 else "")
    absence = f"an absence of {settings.session_ttl_s / _DAY_S:g} days (IALP_SESSION_TTL_S, --however-old)"
    reasons = [
        *kinds,
        of_others and f"{of_others:,} of {len(types) - _LISTED:,} other types",
        left_out.unknown_items and f"{left_out.unknown_items:,} with {len(unknown):,} unknown items ({examples})",
        left_out.forgotten and f"{left_out.forgotten:,} before {absence}",
        left_out.future and f"{left_out.future:,} that are yet to come, by the clock of Redis",
        responses.timeless and f"{responses.timeless:,} without a time",
        bad_rows and f"{bad_rows:,} rows that cannot be used",
    ]
    return [reason for reason in reasons if reason]
