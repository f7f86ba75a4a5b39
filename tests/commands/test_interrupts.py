"""Ctrl-C, and what shells complete."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from tests.commands.examples import MAINS, Run


def interrupted(process: subprocess.Popen[str]) -> str:
    """The last line after SIGINT; there is no stack trace and the code is 130."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    return err.splitlines()[-1]


def started(*arguments: object, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *map(str, arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | variables, start_new_session=True, **pipes)


@contextlib.contextmanager
def slow_endpoint() -> Iterator[tuple[str, threading.Event]]:
    """A language model that thinks for long, and whether it was asked."""
    asked = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def do_POST(self) -> None:
            asked.set()
            time.sleep(2)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
        server.shutdown()


def test_ctrl_c_while_a_model_is_asked(dataset: Path) -> None:
    run = dataset.parent
    with slow_endpoint() as (url, asked):
        options = ("--run", run, "--endpoint", url, "--model", "m", "--encoder", "hashing")
        process = started("offline", "distil", *options)
        assert asked.wait(60)
        line = interrupted(process)
    assert line.startswith("interrupted; ") and "the same command goes on from there" in line
    assert json.loads((run / "distil" / "manifest.json").read_text())["results"]["ended"] == "interrupted"


def test_ctrl_c_while_redis_is_waited_for(tmp_path: Path) -> None:
    """A Redis that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        url = f"redis://127.0.0.1:{server.getsockname()[1]}"
        process = started("service", "export", "--out", tmp_path / "log.parquet", REDIS_URL=url)
        connection, _ = server.accept()
        with connection:
            line = interrupted(process)
    assert line.startswith("interrupted; ") and "run the same command again" in line
    assert list(tmp_path.iterdir()) == []


# -- completion --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ialp-offline ", ["datasets", "distil", "pretrain", "evaluate", "benchmark"]),
        ("ialp-offline distil --sty", ["--style"]),
        ("ialp-offline distil --style ", ["likelihood", "judge", "choose"]),
        ("ialp-offline distil --gguf g", ["gemma"]),
        ("ialp-offline datasets --source mo", ["movielens", "movielens100k"]),
        ("ialp-offline evaluate --arm ", ["control", "adaptive"]),
        ("ialp-offline benchmark --datasets lfm,movielens1", ["lfm,movielens100k"]),
        ("ialp-service keys ", ["create", "list", "rotate", "revoke"]),
        ("ialp-simulator experiment --environments lfm,coat_", ["lfm,coat_calm", "lfm,coat_more", "lfm,coat_drift"]),
        ("ialp-simulator tune --methods linu", ["linucb", "linucb_calm"]),
    ],
)
def test_shells_complete_it(line: str, expected: list[str], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    package = line.split()[0].removeprefix("ialp-")
    monkeypatch.setenv(f"_IALP_{package.upper()}_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    code, out, _ = run(package)
    assert code == 0 and out.split() == expected


@pytest.mark.parametrize("package", MAINS)
def test_the_script_of_a_shell_names_the_console_script(
    package: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # there may be no shell above the tests
    code, out, _ = run(package, "--show-completion", "bash")
    assert code == 0 and out.rstrip().endswith(f"ialp-{package}")


@pytest.mark.parametrize("package", MAINS)
def test_a_module_offers_no_completion_that_would_not_work(package: str) -> None:
    app = MAINS[package].new_app(MAINS[package].ABOUT, completion=False)
    names = {name for option in get_command(app).params for name in option.opts}
    assert names == {"--version"}
