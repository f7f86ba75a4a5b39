"""Lua scripts, which Redis runs as one step: files in `lua/`, each with its KEYS and ARGV at the top."""

from __future__ import annotations

from importlib.resources import files


def script(name: str, *libraries: str) -> str:
    """Read `lua/NAME.lua`, preceded by the libraries that it uses, in their order."""
    folder = files("service.store") / "lua"
    return "".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in (*libraries, name))
