"""Nothing that is read can run code: no pickle, marshal, shelve or eval, in the source and while API and worker run."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for package in ("service", "offline", "simulator") for path in (ROOT / package).rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle"}
# Calls by their last name; torch.load is in here by its first one too, since `load` alone is everybody's.
CALLS = {"eval", "exec", "compile", "__import__", "read_pickle", "to_pickle", "unsafe_load", "full_load", "load_module"}
DOTTED = {"torch.load", "torch.save", "torch.jit.load", "yaml.load", "torch.package", "numpy.load", "np.load"}
# The public MovieLens data come as a pickle in a package; the bytes that are read were hashed first and are pinned.
EXPLAINED = {"offline/sources/movielens.py": ["calls pd.read_pickle"]}


def findings(source: str) -> list[str]:
    """What in a module could run code that somebody wrote into a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            names = []
        found += [f"imports {name}" for name in names if name.split(".")[0] in MODULES or name in DOTTED]
        if isinstance(node, ast.Call):
            found += _in_call(node)
    return found


def _in_call(node: ast.Call) -> list[str]:
    dotted = ast.unparse(node.func)
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if options.get("allow_pickle", "False") != "False":
        return [f"{dotted}(allow_pickle={options['allow_pickle']})"]
    if dotted in ("np.load", "numpy.load"):
        return [] if options.get("allow_pickle") == "False" else [f"{dotted} without allow_pickle=False"]
    bare = isinstance(node.func, ast.Name)  # re.compile and model.eval are others
    by_name = dotted.rpartition(".")[2] in (CALLS if bare else CALLS - {"compile", "eval"})
    return [f"calls {dotted}"] if by_name or dotted in DOTTED else []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_can_run_what_it_reads(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    assert findings(path.read_text(encoding="utf-8")) == EXPLAINED.get(name, [])


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import os, marshal as m",
        "def f():\n    import shelve",
        "from torch import load",
        "torch.load(path)",
        "x = torch.load(path, weights_only=True)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=not safe)",
        "yaml.load(text)",
        "eval(text)",
        "exec(text)",
        "pandas.read_pickle(path)",
    ],
)
def test_the_reader_of_sources_finds_every_kind(source: str) -> None:
    assert findings(source)


def test_the_reader_of_sources_leaves_others_alone() -> None:
    harmless = "re.compile('x'); json.load(f); model.eval(); np.load(path, allow_pickle=False); load(data)"
    assert findings(harmless) == []


_RUN = """
import pickle, _pickle, marshal, sys
from pathlib import Path
import torch
from tests.service.service_examples import (
    learning_settings, make_settings, make_snapshot, report_of, serving, talk, until, working,
)
from service.runtime import embedded
import redis, uvicorn.loops.auto, uvicorn.protocols.http.auto, torch._dynamo  # noqa: what they do on import is not data

class Used(BaseException):
    pass

def refuse(*_, **__):
    raise Used("pickle")

for module in (pickle, _pickle):
    for name in ("load", "loads", "Unpickler", "dump", "dumps", "Pickler"):
        setattr(module, name, refuse)
pickle._Unpickler = pickle._loads = pickle._load = torch.load = torch.save = refuse
folder, url = Path(sys.argv[1]), sys.argv[2]
settings = learning_settings(make_settings(url, make_snapshot(folder / "s" / "snapshot"), folder / "run"))
client = redis.from_url(url)
try:
    pickle.loads(b"")
except Used:
    print("blocked")
for start in (0, 200):  # the second time from the checkpoint
    with serving(settings) as api, working(settings):
        talk(api, 60, start)
        until(lambda: report_of(client, settings).version > 1 + (start > 0), "a version")
        assert api.put("/items/new", json={"text": "A new film"}).status_code in (200, 201)
        until(lambda: api.get("/readyz").json()["policy_version"] >= 1, "serving")
print("served and learned", report_of(client, settings).version)
"""


def test_an_api_serves_and_a_worker_learns_without_pickle(redis_url: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _RUN, str(tmp_path), redis_url]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr[-4_000:]
    assert run.stdout.split("\n")[0] == "blocked" and "served and learned" in run.stdout
