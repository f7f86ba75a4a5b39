"""Runs the commands of a page as its reader would, in order.

- ```` ```bash ```` runs; `export`s stay for the blocks after it. With `title="leave it running"` it runs beside the
  others until the next such block, or the page's end, and is waited for until it serves.
- ```` ```python ```` runs in one interpreter for the page.
- Any other block with a `title` is a file of that name.
- `<!-- not run: REASON -->` before a block leaves it out.

The port 8000 of a page is another here, and its language model's address that of a scripted one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
PORT, LANGUAGE_MODEL = ":8000", "http://127.0.0.1:11434/v1"
RUNNING = "leave it running"
# Runs blocks in one namespace: a line of JSON in, [place, code]; one out, [whether it worked, what it said].
_INTERPRETER = """
import contextlib, io, json, sys, traceback
names, answers = {"__name__": "__page__"}, sys.stdout
for line in sys.stdin:
    place, code = json.loads(line)
    said, worked = io.StringIO(), True
    with contextlib.redirect_stdout(said):
        try:
            exec(compile(code, place, "exec"), names)
        except Exception:
            worked = False
            traceback.print_exc(file=said)
    print(json.dumps([worked, said.getvalue()]), file=answers, flush=True)
"""
_NOT_THE_READERS = ("IALP_", "OPENAI_", "OTEL_", "REDIS_")
_START_S, _RUN_S, _STOP_S = 60.0, 120.0, 30.0

_FENCE = re.compile(
    r"(?:^ *<!-- not run: (?P<reason>[^\n]+?) -->\n+)?"
    r'^(?P<indent> *)```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?[^\n]*\n(?P<text>.*?)^(?P=indent)```$',
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    title: str | None
    text: str
    line: int
    reason: str | None  # why it is not run


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [
        Block(
            found["language"],
            found["title"],
            textwrap.dedent(found["text"]),
            page.count("\n", 0, found.start("language")) + 1,
            found["reason"],
        )
        for found in _FENCE.finditer(page)
    ]


class DocumentError(AssertionError):
    """A command of a page did not do what its reader expects."""


@dataclass
class Reader:
    """Follows pages in `folder`, one after the other."""

    folder: Path
    port: int
    language_model: str
    environment: dict[str, str] = field(default_factory=dict)
    _running: subprocess.Popen[bytes] | None = None
    _interpreter: subprocess.Popen[str] | None = None

    def __post_init__(self) -> None:
        shown = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
        ours = {"IALP_PORT": str(self.port), "COLUMNS": "120", "PYTHONUNBUFFERED": "1"}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_THE_READERS)}
        self.environment = {**inherited, **shown, **ours, **self.environment}
        (self.folder / ".curlrc").write_text("fail-with-body\n")  # an answer that is an error fails its command
        self.environment["CURL_HOME"] = str(self.folder)
        if not (self.folder / "docs").exists():
            (self.folder / "docs").symlink_to(ROOT / "docs")

    def follow(self, page: Path) -> list[str]:
        """Run a page to its end; what each block printed.

        Raises:
            DocumentError: a block failed; the message has its place and what it printed.
        """
        said = []
        try:
            for block in blocks(page.read_text(encoding="utf-8")):
                if block.reason is None:
                    said.append(self._run(block, f"{page.name}:{block.line}"))
        finally:
            self.stop()
            if self._interpreter is not None:
                self._interpreter.communicate(timeout=_STOP_S)
                self._interpreter = None
        return said

    def _run(self, block: Block, place: str) -> str:
        text = block.text.replace(PORT, f":{self.port}").replace(LANGUAGE_MODEL, self.language_model)
        if block.language == "bash":
            return self.start(text, place) if block.title == RUNNING else self._shell(text, place)
        if block.title is not None:
            (self.folder / block.title).write_text(text, encoding="utf-8")
        elif block.language == "python":
            return self._python(text, place)
        return ""

    def _shell(self, text: str, place: str) -> str:
        state = self.folder / ".exported"
        script = f"set -euo pipefail\n{text}\nexport -p > {state}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_RUN_S,
        )
        if done.returncode != 0:
            raise DocumentError(f"{place} ended with {done.returncode}:\n{text}\n--\n{done.stdout}{self._log()}")
        self.environment = _exported(state, self.environment)
        return done.stdout

    def _python(self, text: str, place: str) -> str:
        if self._interpreter is None:
            self._interpreter = subprocess.Popen(
                [sys.executable, "-c", _INTERPRETER],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._interpreter.stdin is not None
        assert self._interpreter.stdout is not None
        self._interpreter.stdin.write(json.dumps([place, text]) + "\n")
        self._interpreter.stdin.flush()
        worked, said = json.loads(self._interpreter.stdout.readline())
        if not worked:
            raise DocumentError(f"{place} failed:\n{text}\n--\n{said}{self._log()}")
        return str(said)

    def start(self, text: str, place: str) -> str:
        """Run a command beside the others; returns once it serves."""
        self.stop()
        with (self.folder / "running.log").open("wb") as log:
            self._running = subprocess.Popen(
                ["bash", "-c", f"set -euo pipefail\n{text}"],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._running.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{self.port}/readyz").status_code == httpx.codes.OK:
                    return ""
            time.sleep(0.05)
        raise DocumentError(f"{place} does not serve:\n{text}\n--{self._log()}")

    def stop(self) -> None:
        """Ctrl-C to what runs beside the others."""
        if self._running is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._running.pid, signal.SIGINT)
            try:
                self._running.wait(_STOP_S)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._running.pid, signal.SIGKILL)
                self._running = None

    def _log(self) -> str:
        log = self.folder / "running.log"
        return f"\n-- log of what was left running:\n{log.read_text(errors='replace')[-3_000:]}" if log.exists() else ""


def _exported(state: Path, before: Mapping[str, str]) -> dict[str, str]:
    """The environment as a block left it."""
    told = subprocess.run(
        ["bash", "-c", f"source {state} && env -0"], env={"PATH": before["PATH"]}, capture_output=True, check=True
    ).stdout
    return dict(line.split("=", 1) for line in told.decode().split("\0") if "=" in line)
