"""The short form of the chaos suite runs with all tests; `--chaos-results FILE` makes it the long one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.service_examples import make_snapshot


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-results", type=Path, default=None, help="run the long form; one JSON line for each fault")


@pytest.fixture(scope="session")
def results_file(pytestconfig: pytest.Config) -> Iterator[Path | None]:
    """Where the long form's lines go, emptied; None in the short form."""
    path: Path | None = pytestconfig.getoption("--chaos-results", default=None)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    yield path


@pytest.fixture(scope="session")
def snapshot_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-trained snapshot."""
    return make_snapshot(tmp_path_factory.mktemp("snapshot") / "snapshot")
