"""`python -m service keys create | list | revoke | rotate`"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import redis
import typer
from redis.exceptions import RedisError

from service.cli.configured import settings_of_what_runs
from service.command_line.exits import MISTAKE, tell
from service.command_line.pages import add_command, new_group
from service.durable import whole_file
from service.store.api_keys import (
    SCOPES,
    KeyRecord,
    Scope,
    StoredSecret,
    decode,
    digest,
    encode,
    new_key_id,
    new_secret,
    rotated,
    token,
    verified,
)
from service.store.connect import connect_blocking
from service.store.keys import Keys

ABOUT = """API keys; running services see a change within a second.

    Needs: the REDIS_URL (and IALP_KEY_PREFIX, if set) of the service; a `service dev` on the same IALP_DATA_DIR is
    found without. Redis holds hashes, never a key.

    Examples:
        python -m service keys create --name shop --scopes serve,feedback
        python -m service keys list
    """

app = new_group(ABOUT)

_MAX_NAME = 64
_DAY_S = 86_400.0

KeyId = Annotated[str, typer.Argument(help="Its id, as `keys list` shows it; not the token.")]
Out = Annotated[
    Path | None, typer.Option(help="Write the token to this file, for its owner alone, instead of to stdout.")
]


def create(
    name: Annotated[str, typer.Option(help="Name of the key's owner, shown by `keys list`.")],
    scopes: Annotated[str, typer.Option(help=f"What it may do, separated by commas: {', '.join(SCOPES)}.")],
    rate: Annotated[
        float | None, typer.Option(min=0.001, max=100_000, help="Requests per second; by default no limit.")
    ] = None,
    burst: Annotated[int | None, typer.Option(min=1, help="Requests at once; by default those of a second.")] = None,
    expires_days: Annotated[float | None, typer.Option(min=0.0, help="Days until it ends; by default never.")] = None,
    out: Out = None,
    if_none: Annotated[bool, typer.Option("--if-none", help="Do nothing if there is any key.")] = False,
    unless_out: Annotated[
        bool, typer.Option("--unless-out", help="Do nothing if --out holds a key that works.")
    ] = False,
) -> None:
    """Create a key and show its token. It is shown only this once, since only a hash of it is stored.

    Writes: the key's hash and limits to Redis; the token to stdout, or to OUT, for its owner alone.

    Examples:
        python -m service keys create --name shop --scopes serve,feedback
        python -m service keys create --name ops --scopes admin --out admin.key
        python -m service keys create --name app --scopes serve \\
            --rate 100 --burst 200 --expires-days 365
    """
    if burst is not None and rate is None:
        raise typer.BadParameter("--burst needs --rate")
    if unless_out and out is None:
        raise typer.BadParameter("--unless-out needs --out")
    if not name.isprintable() or not 0 < len(name) <= _MAX_NAME:
        raise typer.BadParameter(f"--name is 1 to {_MAX_NAME} printable characters")
    now, secret = time.time(), new_secret()
    record = KeyRecord(
        key_id=new_key_id(),
        name=name,
        scopes=_parsed_scopes(scopes),
        secrets=(StoredSecret(digest(secret)),),
        created_at=now,
        expires_at=None if expires_days is None else now + expires_days * _DAY_S,
        rate=rate,
        burst=burst or math.ceil(rate or 1),
    )
    with _storage() as (client, stored):
        if if_none and client.hlen(stored):
            typer.echo("there are keys already; nothing was done", err=True)
            return
        if unless_out and out is not None and _works(out, client.hgetall(stored), now):
            typer.echo(f"{out} holds a key that works; nothing was done", err=True)
            return
        with _handing_over(token(record.key_id, secret), out):
            client.hset(stored, record.key_id, encode(record))
    typer.echo(f"key {record.key_id} ({name}) may: {', '.join(record.scopes)}", err=True)


def list_keys() -> None:
    """Show all keys; there are no secrets to show.

    Examples:
        python -m service keys list
    """
    with _storage() as (client, stored):
        found = [decode(data) for data in client.hgetall(stored).values()]
    rows: list[tuple[str, ...]] = [("ID", "NAME", "SCOPES", "RATE/S", "BURST", "CREATED", "EXPIRES", "OLD SECRETS END")]
    for key in sorted(found, key=lambda key: key.created_at):
        limit = ("-", "-") if key.rate is None else (f"{key.rate:g}", str(key.burst))
        ends = max((old.expires_at for old in key.secrets if old.expires_at is not None), default=None)
        times = (_moment(at) for at in (key.created_at, key.expires_at, ends))
        rows.append((key.key_id, key.name, ",".join(key.scopes), *limit, *times))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def revoke(key_id: KeyId) -> None:
    """End a key; running services refuse it within a second.

    Examples:
        python -m service keys revoke 5f0c1a
    """
    with _storage() as (client, stored):
        if not client.hdel(stored, key_id):
            raise _no_such_key()
    typer.echo(f"key {key_id} is revoked", err=True)


def rotate(
    key_id: KeyId,
    grace_s: Annotated[float, typer.Option(min=0, help="Seconds for which the previous secret still works.")] = 3600.0,
    out: Out = None,
) -> None:
    """Give a key a new secret and show its token; the previous one works for a grace period.

    Examples:
        python -m service keys rotate 5f0c1a --grace-s 3600
    """
    secret = new_secret()

    def replace(pipe: redis.client.Pipeline) -> None:
        data = pipe.hget(stored, key_id)
        if data is None:
            raise _no_such_key()
        record = rotated(decode(data), secret, time.time(), grace_s)
        pipe.multi()
        pipe.hset(stored, key_id, encode(record))

    with _storage() as (client, stored), _handing_over(token(key_id, secret), out):
        # Watched, so that a key that is revoked meanwhile does not come back.
        client.transaction(replace, stored)
    typer.echo(f"key {key_id} has a new secret; the previous one works for {grace_s:g} s", err=True)


for _name, _command in (("create", create), ("list", list_keys), ("rotate", rotate), ("revoke", revoke)):
    add_command(app, _name, _command)


def _works(file: Path, stored: dict[bytes, bytes], now: float) -> bool:
    try:
        given = file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return False
    return verified({name.decode(): decode(data) for name, data in stored.items()}, given, now) is not None


def _parsed_scopes(scopes: str) -> tuple[Scope, ...]:
    named = {scope.strip() for scope in scopes.split(",")}
    if named.difference(SCOPES):
        raise typer.BadParameter(f"--scopes is a list of {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in named)


def _moment(at: float | None) -> str:
    return "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _no_such_key() -> typer.Exit:
    # What was given is not repeated: it may be a token.
    tell("there is no such key; `keys list` shows the ids")
    return typer.Exit(MISTAKE)


def no_redis(error: RedisError) -> str:
    """Describe a failure of Redis without the error's own text, which may quote the password."""
    what_to_do = "start it, or check REDIS_URL (or the IALP_DATA_DIR of a `service dev`)"
    return f"Redis does not answer as it should ({type(error).__name__}); {what_to_do}"


@contextlib.contextmanager
def _storage() -> Iterator[tuple[redis.Redis, str]]:
    """Yield a client and the name of the hash of keys; an error of Redis is one line and exit code 2."""
    settings = settings_of_what_runs()
    try:
        with connect_blocking(settings) as client:
            yield client, Keys(settings.key_prefix).api_keys
    except RedisError as error:
        tell(no_redis(error))
        raise typer.Exit(MISTAKE) from None
    except msgspec.DecodeError:
        tell("a stored key cannot be read; another version of this program may have written it")
        raise typer.Exit(MISTAKE) from None


@contextlib.contextmanager
def _handing_over(token: str, out: Path | None) -> Iterator[None]:
    """Write the token once the block has stored its hash; whether the file can be written is checked before."""
    if out is None:
        yield
        typer.echo(token)
        return
    try:
        out.parent.stat()  # a folder that is misspelt is not to be made
        with whole_file(out, mode=0o600) as file:
            file.write(f"{token}\n".encode())
            file.flush()
            os.fsync(file.fileno())
            yield
    except OSError as error:
        tell(f"--out {out}: {error.strerror}; name a file that can be written; no key was created")
        raise typer.Exit(MISTAKE) from None
