"""A target, a different behaviour policy, and a log of the latter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from offline.ope.log import Log
from offline.ope.target import Target, open_target
from service.policy.variants import Arm
from tests.offline.ope_examples import draw_log
from tests.service.service_examples import make_snapshot


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def target_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_snapshot(tmp_path_factory.mktemp("target") / "snapshot", seed=3)


@pytest.fixture(scope="session")
def target(target_folder: Path) -> Target:
    return open_target(target_folder, Arm.ADAPTIVE)


@pytest.fixture(scope="session")
def behaviour(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return open_target(make_snapshot(tmp_path_factory.mktemp("behaviour") / "snapshot", seed=0), Arm.ADAPTIVE)


@pytest.fixture(scope="session")
def log(behaviour: Target) -> Log:
    return draw_log(behaviour, 900, seed=5)
