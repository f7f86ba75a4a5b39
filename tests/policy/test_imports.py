"""The directions in which our packages may import each other, read from the source: nothing is run."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("service", "offline", "simulator")
COMMAND_LINE = "service.command_line"  # pages of help, exit codes and progress: all three have them


def modules(root: Path) -> dict[str, Path]:
    """Every module of ours by its dotted name; a package is its `__init__.py`."""
    found = {}
    for package in PACKAGES:
        for path in (root / package).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, ours: dict[str, Path]) -> set[str]:
    """Modules of ours that `name` imports, anywhere in its source, with the packages that this loads on the way."""
    package = name if ours[name].name == "__init__.py" else name.rpartition(".")[0]
    wanted: set[str] = set()
    for node in ast.walk(ast.parse(ours[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(part for part in (above, node.module) if part)
            wanted.add(base)
            wanted.update(f"{base}.{alias.name}" for alias in node.names)
    parents = {".".join(w.split(".")[:i]) for w in wanted for i in range(1, w.count(".") + 2)}
    return {module for module in parents if module in ours and module != name}


def reachable(starts: set[str], ours: dict[str, Path]) -> set[str]:
    """`starts` and everything of ours that is loaded with them."""
    seen: set[str] = set()
    waiting = [start for start in starts if start in ours]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(imports(name, ours))
    return seen


def inside(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def violations(
    importers: tuple[str, ...], of: tuple[str, ...], allowed: tuple[str, ...], free: tuple[str, ...] = ()
) -> list[str]:
    """Imports by modules in `importers` of modules in `of`, other than those in `allowed` and the empty packages; what
    modules in `free` import is not looked at."""
    ours = modules(ROOT)
    return [
        f"{importer} imports {module}"
        for importer in ours
        if inside(importer, *importers) and not inside(importer, *free)
        for module in imports(importer, ours)
        if inside(module, *of) and not inside(module, *allowed) and module not in ("service", "offline", "simulator")
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_loading_a_package_loads_nothing_else(package: str) -> None:
    assert (ROOT / package / "__init__.py").read_text() == ""


def test_the_policy_stands_alone() -> None:
    assert violations(("service.policy",), PACKAGES, ("service.policy",)) == []


def test_the_command_line_stands_alone() -> None:
    assert violations((COMMAND_LINE,), PACKAGES, (COMMAND_LINE,)) == []


def test_the_service_does_not_know_its_users() -> None:
    assert violations(("service",), ("offline", "simulator"), ()) == []


def test_offline_takes_only_policy_and_command_line_from_the_service() -> None:
    assert violations(("offline",), ("service",), ("service.policy", COMMAND_LINE)) == []


def test_the_simulator_takes_only_the_http_contract_from_the_service() -> None:
    contract = ("service.schemas", "service.preview_schemas", "service.client", "service.client_calls", COMMAND_LINE)
    assert violations(("simulator",), ("service",), contract, free=("simulator.experiments",)) == []


def test_the_experiments_take_only_policy_and_command_line_from_the_service() -> None:
    """But for one, which plays the worker's watch and the service's arms, with the service's defaults."""
    degradation = ("simulator.experiments.degradation",)
    allowed = ("service.policy", COMMAND_LINE)
    assert violations(("simulator.experiments",), ("service",), allowed, free=degradation) == []
    watched = ("service.policy", COMMAND_LINE, "service.arm_watch", "service.sessions", "service.settings")
    assert violations(degradation, ("service",), watched) == []


def test_api_and_worker_never_load_each_other() -> None:
    ours = modules(ROOT)
    api = {"service.main", *(name for name in ours if inside(name, "service.routes"))}
    assert "service.worker" not in reachable(api, ours)
    assert not {name for name in reachable({"service.worker"}, ours) if name in api}


def test_the_reader_of_imports_finds_every_kind(tmp_path: Path) -> None:
    sources = {
        "service/__init__.py": "",
        "service/a.py": "import os\nimport service.b\n",
        "service/b.py": "from service.sub import c\n",
        "service/sub/__init__.py": "",
        "service/sub/c.py": "def f() -> None:\n    from . import d\n    from ..e import thing\n",
        "service/sub/d.py": "from service.nowhere import x\n",
        "service/e.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import offline.x as y\n",
        "service/apart.py": "import service.a\n",
        "offline/x.py": "",
    }
    for name, source in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    ours = modules(tmp_path)
    assert imports("service.sub.c", ours) == {"service", "service.sub", "service.sub.d", "service.e"}
    everything_but_apart = set(ours) - {"service.apart"}
    assert reachable({"service.a"}, ours) == everything_but_apart
    assert reachable({"service.missing"}, ours) == set()
