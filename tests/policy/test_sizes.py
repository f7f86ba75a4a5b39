"""No file and no function is longer than a reader can hold."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES, MOST_IN_A_FUNCTION = 350, 60


def sources(*endings: str) -> list[Path]:
    """Files of ours, but for what others wrote."""
    found = [path for folder in ("service", "offline", "simulator", "tests") for path in (ROOT / folder).rglob("*")]
    return [path for path in found if path.suffix in endings and not {"vendor", "node_modules"} & set(path.parts)]


def test_files_are_short() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(".py", ".js", ".css", ".lua")}
    assert {path.relative_to(ROOT).as_posix(): n for path, n in lines.items() if n > MOST_LINES} == {}


def test_functions_are_short() -> None:
    long = {}
    for path in sources(".py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                n = (node.end_lineno or node.lineno) - node.lineno + 1
                if n > MOST_IN_A_FUNCTION:
                    long[f"{path.relative_to(ROOT)}:{node.name}"] = n
    assert long == {}
