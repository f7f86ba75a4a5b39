"""`python -m service keys`: what it prints, stores and leaves alone."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis as syncredis
from typer.testing import CliRunner, Result

from service.__main__ import app
from service.cli import keys as keys_command
from service.settings import Settings
from service.store import api_keys
from service.store.api_keys import KeyRecord
from service.store.keys import Keys

Command = Callable[..., Result]
MAKE = ("create", "--name", "shop", "--scopes", "serve,feedback")


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`keys ...` on the test's deployment."""
    monkeypatch.setenv("REDIS_URL", settings.redis_url)
    monkeypatch.setenv("IALP_KEY_PREFIX", settings.key_prefix)
    return lambda *arguments: CliRunner().invoke(app, ["keys", *map(str, arguments)])


def refusal(result: Result) -> str:
    """What is said on stderr with exit code 2; nothing is on stdout."""
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    return " ".join(result.stderr.split())


def stored(redis: syncredis.Redis, keys: Keys) -> dict[str, KeyRecord]:
    return {name.decode(): api_keys.decode(data) for name, data in redis.hgetall(keys.api_keys).items()}


def secret_of(token: str) -> str:
    return token.split("_", 2)[2]


def test_create_prints_the_token_once_and_stores_its_hash(run: Command, redis: syncredis.Redis, keys: Keys) -> None:
    began = time.time()
    made = run(*MAKE, "--rate", 2.5, "--expires-days", 2)
    assert made.exit_code == 0, made.output
    (token,) = made.stdout.splitlines()
    prefix, key_id, secret = token.split("_", 2)
    record = stored(redis, keys)[key_id]
    assert prefix == "ialp" and len(secret) == 43 and secret not in made.stderr
    assert (record.name, record.scopes, record.rate, record.burst) == ("shop", ("serve", "feedback"), 2.5, 3)
    assert [old.sha256 for old in record.secrets] == [api_keys.digest(secret)]
    assert record.expires_at is not None and 0 <= record.expires_at - began - 2 * 86_400 < 60
    assert secret.encode() not in redis.hget(keys.api_keys, key_id)


def test_list_shows_keys_and_no_secret(run: Command) -> None:
    tokens = [
        run(*MAKE, "--rate", 100, "--burst", 200).stdout.strip(),
        run("create", "--name", "ops", "--scopes", "admin").stdout.strip(),
    ]
    lines = run("list").stdout.splitlines()
    assert len(lines) == 3 and lines[0].startswith("ID ")
    expected = ({"shop", "serve,feedback", "100", "200"}, {"ops", "admin"})
    for token, line, told in zip(tokens, lines[1:], expected, strict=True):
        assert line.startswith(token.split("_")[1]) and told <= set(line.split())
        assert secret_of(token) not in line and api_keys.digest(secret_of(token)).hex() not in line


def test_revoke_ends_a_key(run: Command, redis: syncredis.Redis, keys: Keys) -> None:
    ids = [run(*MAKE).stdout.split("_")[1] for _ in range(2)]
    assert run("revoke", ids[0]).exit_code == 0
    assert list(stored(redis, keys)) == ids[1:]
    assert "no such key" in refusal(run("revoke", ids[0]))


def test_rotate_gives_a_new_secret_to_the_same_key(run: Command, redis: syncredis.Redis, keys: Keys) -> None:
    first = run(*MAKE, "--rate", 5).stdout.strip()
    key_id = first.split("_")[1]
    before = stored(redis, keys)[key_id]
    second = run("rotate", key_id, "--grace-s", 50).stdout.strip()
    after = stored(redis, keys)[key_id]
    assert second.startswith(f"ialp_{key_id}_") and second != first
    old, new = after.secrets
    assert old.sha256 == before.secrets[0].sha256 and new.sha256 == api_keys.digest(secret_of(second))
    assert old.expires_at is not None and 0 < old.expires_at - time.time() <= 50 and new.expires_at is None
    assert (after.scopes, after.rate, after.created_at) == (before.scopes, before.rate, before.created_at)
    assert run("rotate", key_id, "--grace-s", 0).exit_code == 0
    assert len(stored(redis, keys)[key_id].secrets) == 1


def test_a_key_revoked_while_it_is_rotated_stays_revoked(
    run: Command, redis: syncredis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_id = run(*MAKE).stdout.split("_")[1]
    rotated = api_keys.rotated

    def meanwhile(record: KeyRecord, secret: str, now: float, grace_s: float) -> KeyRecord:
        redis.hdel(keys.api_keys, key_id)
        return rotated(record, secret, now, grace_s)

    monkeypatch.setattr(keys_command, "rotated", meanwhile)
    assert "no such key" in refusal(run("rotate", key_id))
    assert stored(redis, keys) == {}


@pytest.mark.parametrize("command", ["revoke", "rotate"])
def test_a_token_given_for_an_id_is_not_repeated(run: Command, command: str) -> None:
    token = run(*MAKE).stdout.strip()
    assert secret_of(token) not in refusal(run(command, token))


def test_a_file_is_for_its_owner_alone(run: Command, tmp_path: Path) -> None:
    out = tmp_path / "key"
    out.write_text("an old one, for everybody to read")
    out.chmod(0o666)
    umask = os.umask(0)
    try:
        made = run(*MAKE, "--out", out)
    finally:
        os.umask(umask)
    assert (made.exit_code, made.stdout) == (0, "")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    token = out.read_text().strip()
    assert token.startswith("ialp_") and secret_of(token) not in made.stderr
    assert run("rotate", token.split("_")[1], "--out", out).stdout == ""
    assert out.read_text().strip() != token and stat.S_IMODE(out.stat().st_mode) == 0o600
    assert [path for path in tmp_path.iterdir() if path.is_file()] == [out]


def test_no_key_without_its_file_and_no_file_without_its_key(
    run: Command, redis: syncredis.Redis, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "folder" / "key"
    assert f"--out {out}: No such file" in refusal(run(*MAKE, "--out", out))
    assert stored(redis, keys) == {}
    out.parent.mkdir()
    monkeypatch.setenv("REDIS_URL", f"unix://:pass-w0rd@{tmp_path}/nobody.sock")
    said = refusal(run(*MAKE, "--out", out))
    assert "Redis does not answer" in said and "REDIS_URL" in said and "pass-w0rd" not in said
    assert list(out.parent.iterdir()) == []


def test_if_none_makes_the_first_key_alone(run: Command, redis: syncredis.Redis, keys: Keys, tmp_path: Path) -> None:
    out = tmp_path / "key"
    assert run(*MAKE, "--if-none", "--out", out).exit_code == 0
    first, before = out.read_text(), stored(redis, keys)
    again = run(*MAKE, "--if-none", "--out", out)
    assert (again.exit_code, again.stdout) == (0, "") and "nothing was done" in again.stderr
    assert (out.read_text(), stored(redis, keys)) == (first, before) and len(before) == 1


def test_unless_out_makes_the_key_of_a_file_once(
    run: Command, redis: syncredis.Redis, keys: Keys, tmp_path: Path
) -> None:
    assert run(*MAKE).exit_code == 0, "whoever has keys gets another"
    out = tmp_path / "key"
    assert run(*MAKE, "--unless-out", "--out", out).exit_code == 0
    first, before = out.read_text(), stored(redis, keys)
    again = run(*MAKE, "--unless-out", "--out", out)
    assert (again.exit_code, again.stdout) == (0, "") and "nothing was done" in again.stderr
    assert (out.read_text(), stored(redis, keys)) == (first, before) and len(before) == 2
    redis.hdel(keys.api_keys, first.split("_")[1])
    assert run(*MAKE, "--unless-out", "--out", out).exit_code == 0, "a key that was revoked is replaced"
    assert out.read_text() != first and len(stored(redis, keys)) == 2
    out.write_bytes(b"\xff")
    assert run(*MAKE, "--unless-out", "--out", out).exit_code == 0
    assert out.read_text().startswith("ialp_")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--unless-out"], "--unless-out needs --out"),
        (["--scopes", "serve,everything"], "--scopes is a list of serve, feedback, admin, metrics"),
        (["--scopes", ""], "--scopes is a list of"),
        (["--burst", "5"], "--burst needs --rate"),
        (["--rate", "0"], "--rate"),
        (["--rate", "nan"], "--rate"),
        (["--rate", "5", "--burst", "0"], "--burst"),
        (["--expires-days", "-1"], "--expires-days"),
        (["--expires-days", "nan"], "--expires-days"),
        (["--name", "a\nb"], "--name is 1 to 64"),
        (["--name", ""], "--name is 1 to 64"),
    ],
    ids=str,
)
def test_wrong_options_make_no_key(
    run: Command, redis: syncredis.Redis, keys: Keys, arguments: list[str], told: str
) -> None:
    made = run(*MAKE, *arguments)
    assert made.exit_code == 2 and told in " ".join(made.stderr.replace("│", "").split()), made.output
    assert stored(redis, keys) == {}
