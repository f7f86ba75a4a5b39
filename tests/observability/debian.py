"""Programs out of Debian's packages, unpacked into a folder of ours without installing them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


def program(name: str, packages: Sequence[str], folder: Path, needs: bool = False) -> str:
    """Path of the program `name`: from the PATH, or else from `packages`, unpacked into `folder` once.

    With `needs`, whatever they depend on and is not installed is unpacked too.

    Raises:
        subprocess.CalledProcessError, FileNotFoundError: it is not here, and apt cannot get it.
    """
    found = shutil.which(name) or shutil.which(name, path=str(folder / "usr" / "bin"))
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        names = _missing(packages) if needs else packages
        subprocess.run(["apt-get", "download", "-qq", *names], cwd=folder, check=True, stderr=subprocess.DEVNULL)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", package.name, "."], cwd=folder, check=True)
            package.unlink()
        found = str(folder / "usr" / "bin" / name)
    return found


def _missing(packages: Sequence[str]) -> list[str]:
    command = ["apt-get", "install", "--simulate", "--no-install-recommends", *packages]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line.split()[1] for line in told.splitlines() if line.startswith("Inst ")]


def libraries(folder: Path) -> dict[str, str]:
    """The environment in which programs of `folder` find their own libraries."""
    places = {path.parent for path in folder.glob("**/lib/*-linux-*/**/*.so*")}
    own = sorted((str(path) for path in places), key=len)
    return {"LD_LIBRARY_PATH": os.pathsep.join([*own, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])}
