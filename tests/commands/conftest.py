"""A console script in this process, and a small data set."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import pytest

from offline.datasets import Dataset, Item, Scenario, save_dataset
from tests.commands.examples import MAINS, End, Run


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A console script, in this process."""
    for name in [name for name in os.environ if name.startswith("IALP_") or name == "REDIS_URL"]:
        monkeypatch.delenv(name)

    def ended(package: str, *arguments: object) -> End:
        monkeypatch.setattr(sys, "argv", [f"ialp-{package}", *map(str, arguments)])
        monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))  # a script has no package
        with pytest.raises(SystemExit) as end:
            MAINS[package].main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return ended


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "dataset"
    save_dataset(Dataset("toy", Scenario(), tuple(Item(str(n), f"Book {n}") for n in range(4)), None), folder)
    return folder
