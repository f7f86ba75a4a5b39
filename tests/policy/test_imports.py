"""The directions in which our packages may import each other, read from the source: nothing is run."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("service", "offline", "simulator")
DURABLE = "service.durable"
CONDITIONS = "service.conditions"
COMMAND_LINE = "service.command_line"  # pages of help, exit codes and progress: all three have them
TABLES = "service.tables"  # people's files: `offline` and the service's import read the same ones


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


def holds_nothing(path: Path) -> bool:
    """Whether a file is empty, but for words."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


def floors(graph: dict[str, set[str]]) -> int:
    """Length of the longest way down.

    Raises:
        graphlib.CycleError: there is a circle.
    """
    below: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(graph).static_order():
        below[name] = 1 + max((below[other] for other in graph.get(name, ())), default=0)
    return max(below.values())


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
        if inside(module, *of) and not inside(module, *allowed) and not holds_nothing(ours[module])
    ]


BELOW_SERVING = (DURABLE, CONDITIONS, "service.store", "service.runtime", "service.settings", "service.policy")
CLIENT = ("service.client", "service.contract", CONDITIONS, COMMAND_LINE, DURABLE)
ERRORS, STATISTICS, PAGES = "simulator.errors", "simulator.statistics", "simulator.pages"
WORLD, LOAD, PERSONAS = "simulator.world", "simulator.load", "simulator.personas"
EXPERIMENTS = "simulator.experiments"
SEAM, METHODS, RUNS, ANALYSIS = (f"{EXPERIMENTS}.{room}" for room in ("seam", "methods", "runs", "analysis"))
WATCHED = ("service.settings", "service.store.sessions", "service.worker.arm_watch")  # what `runs.degradation` plays
HOUSE = {  # package: what of ours it may import, beside itself
    DURABLE: (),
    CONDITIONS: (),
    "service.policy": (DURABLE,),
    "service.contract": (CONDITIONS,),
    COMMAND_LINE: (),
    TABLES: (),
    "service.settings": ("service.policy",),
    "service.client": ("service.contract", CONDITIONS),
    "service.runtime": ("service.settings",),
    "service.store": (DURABLE, CONDITIONS, "service.policy", "service.runtime", "service.settings"),
    "service.serving": BELOW_SERVING,
    "service.worker": BELOW_SERVING,
    "service.export": BELOW_SERVING,
    "service.histories": (*BELOW_SERVING, TABLES),
    "service.api": (*BELOW_SERVING, "service.contract", "service.export", "service.serving", TABLES),
    "service.cli": ("service",),
    "service.__main__": ("service",),
    "offline": ("service.policy", "service.contract", TABLES, CONDITIONS, DURABLE, COMMAND_LINE),
    ERRORS: (),
    STATISTICS: (),
    PAGES: (),
    WORLD: (ERRORS, "offline", DURABLE),
    LOAD: (ERRORS, STATISTICS, PAGES, WORLD, "offline", *CLIENT),
    PERSONAS: (ERRORS, PAGES, LOAD, "offline", *CLIENT),
    "simulator.demo": (ERRORS, PAGES, WORLD, LOAD, PERSONAS, "offline", COMMAND_LINE, DURABLE),
    SEAM: (ERRORS, "offline", "service.policy", DURABLE),
    METHODS: (ERRORS, SEAM, "service.policy"),
    RUNS: (ERRORS, WORLD, SEAM, METHODS, "offline", "service.policy", *WATCHED),
    ANALYSIS: (STATISTICS, WORLD, RUNS),
    f"{EXPERIMENTS}.pages": (STATISTICS, PAGES, ANALYSIS, RUNS),
    f"{EXPERIMENTS}.commands": (ERRORS, WORLD, EXPERIMENTS, "offline", "service.policy", COMMAND_LINE, DURABLE),
    "simulator.__main__": ("simulator", "offline", COMMAND_LINE),
}
HTTP_SERVER = ("fastapi", "starlette", "uvicorn")


@pytest.mark.parametrize("package", HOUSE)
def test_a_package_imports_only_what_the_house_allows(package: str) -> None:
    assert violations((package,), PACKAGES, (package, *HOUSE[package])) == []


def test_every_module_has_its_rule() -> None:
    above = ("service", "simulator", EXPERIMENTS)
    assert [name for name in modules(ROOT) if name not in above and not inside(name, *HOUSE)] == []


def test_nobody_imports_the_simulator() -> None:
    assert violations(("service", "offline"), ("simulator",), ()) == []


def test_nobody_imports_the_commands() -> None:
    free = ("service.cli", "service.__main__")
    assert violations(PACKAGES, ("service.cli",), (), free=free) == []
    free = (f"{EXPERIMENTS}.commands", "simulator.__main__")
    assert violations(PACKAGES, (f"{EXPERIMENTS}.commands",), (), free=free) == []


def test_a_package_says_what_it_holds_and_loads_nothing() -> None:
    assert all((ROOT / package / "__init__.py").read_text() == "" for package in PACKAGES)
    rooms = ("service/*", "simulator/*", "simulator/experiments/*")
    for path in (path for room in rooms for path in ROOT.glob(f"{room}/__init__.py")):
        assert ast.get_docstring(ast.parse(path.read_text())), path
        assert holds_nothing(path) or path.parent == ROOT / "service" / "client", path


def test_there_are_few_floors_and_no_circles() -> None:
    assert floors({package: {below for below in HOUSE[package] if below in HOUSE} for package in HOUSE}) <= 8
    ours = modules(ROOT)
    modules_alone = {name: {m for m in imports(name, ours) if ours[m].name != "__init__.py"} for name in ours}
    assert floors(modules_alone) > 8


def test_the_simulator_takes_only_client_and_contract_from_the_service() -> None:
    contract = ("service.contract", "service.client", CONDITIONS, DURABLE, COMMAND_LINE)
    assert violations(("simulator",), ("service",), contract, free=(EXPERIMENTS,)) == []


def test_the_experiments_take_only_policy_and_command_line_from_the_service() -> None:
    """But for one, which plays the worker's watch and the service's arms, with the service's defaults."""
    degradation = (f"{RUNS}.degradation",)
    allowed = ("service.policy", DURABLE, COMMAND_LINE)
    assert violations((EXPERIMENTS,), ("service",), allowed, free=degradation) == []
    assert violations(degradation, ("service",), (*allowed, *WATCHED)) == []


def libraries(name: str, ours: dict[str, Path]) -> set[str]:
    """Top-level names of all that a module imports, but for type checkers alone."""
    tree = ast.parse(ours[name].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    found += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {module.partition(".")[0] for module in found}


def test_the_http_server_is_the_api_s_own() -> None:
    ours = modules(ROOT)
    assert [n for n in ours if not inside(n, "service.api") and libraries(n, ours).intersection(HTTP_SERVER)] == []


def test_the_sdk_and_the_contract_load_without_torch_and_without_a_server() -> None:
    ours = modules(ROOT)
    starts = {name for name in ours if inside(name, "service.client", "service.contract")}
    loaded = {library for name in reachable(starts, ours) for library in libraries(name, ours)}
    assert not loaded & {"torch", "numpy", "redis", *HTTP_SERVER}


def test_redis_clients_are_made_in_one_place() -> None:
    made = [path for path in (ROOT / "service").rglob("*.py") if ".from_url(" in path.read_text()]
    assert [path.relative_to(ROOT).as_posix() for path in made] == ["service/store/connect.py"]


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
