from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from offline.__main__ import app
from offline.artefacts import read_manifest
from offline.datasets import Dataset, save_dataset
from offline.distil import PRIOR_SHARE, DistilConfig
from offline.distil_command import is_whole, run_stage
from offline.errors import OfflineError
from offline.judge import Budget
from offline.judgements import JudgementCache
from offline.preferences import Preferences
from offline.states import StateConfig
from tests.offline.fake_llm import MOVIES, FakeScorer, make_items

ITEMS = make_items(40)
DATASET = Dataset("toy", MOVIES, ITEMS, None)
CONFIG = DistilConfig(n_states=12, encoder="hashing", states=StateConfig(candidates=8))
N_COMMON = 40 + 40 + 34  # mere names, priors, and baselines of all but the typical history
CONSOLE = Console(quiet=True)


def _run(folder: Path, scorer: FakeScorer, budget: Budget | None = None) -> Preferences:
    return run_stage(DATASET, folder, scorer, budget or Budget(), CONFIG, CONSOLE, {})


def test_the_stage_leaves_preferences_and_a_manifest(tmp_path: Path) -> None:
    scorer = FakeScorer()
    preferences = _run(tmp_path, scorer)
    assert scorer.closed
    assert len(preferences.priors) == 40
    assert len(preferences.personal) == len(scorer.asked) - N_COMMON > 90
    manifest = read_manifest(tmp_path / "distil", "distil")
    assert manifest["results"]["n_priors"] == 40
    assert manifest["results"]["ended"] == "every question was asked"
    assert set(manifest["files"]) == {"judgements.jsonl", "judgements.parquet", "priors.parquet"}
    assert pq.read_table(tmp_path / "distil" / "judgements.parquet").num_rows == len(preferences.personal)


def test_the_taste_of_the_model_is_found(tmp_path: Path) -> None:
    preferences = _run(tmp_path, FakeScorer())
    # The fake likes low numbers, and for a user the parity of what was liked.
    assert preferences.priors["m0"].z > preferences.priors["m20"].z > preferences.priors["m39"].z
    alike: dict[bool, list[float]] = {True: [], False: []}
    for p in preferences.personal:
        liked = {int(item_id[1:]) % 2 for item_id, response in p.judgement.history if response > 0}
        if len(liked) == 1:
            alike[int(p.judgement.item_id[1:]) % 2 in liked].append(p.personal)
    assert min(alike[True]) > max(alike[False])


def test_priors_take_at_most_their_share_of_the_budget(tmp_path: Path) -> None:
    scorer = FakeScorer()
    preferences = _run(tmp_path, scorer, Budget(max_judgements=40))
    assert len(scorer.asked) == 40
    assert len(preferences.names) == sum(a.startswith("name ") for a in scorer.asked) == 4  # a tenth, and first
    # With the names, three quarters.
    assert len(preferences.names) + len(preferences.priors) == PRIOR_SHARE * len(scorer.asked)
    assert read_manifest(tmp_path / "distil", "distil")["results"]["ended"] == "the budget of 40 judgements is used up"


def test_names_are_judged_first_once_and_by_likelihoods_only(tmp_path: Path) -> None:
    scorer, again, asked = FakeScorer(), FakeScorer(), FakeScorer("judge")
    preferences = _run(tmp_path / "likelihood", scorer)
    assert [a.startswith("name ") for a in scorer.asked] == [True] * 40 + [False] * (len(scorer.asked) - 40)
    # The fake's mere names: as likely as their last digit is high, of four tokens.
    assert preferences.names["m17"] == pytest.approx((0.1 * 7 - 1.0) * 2)
    assert preferences.names.keys() == {item.item_id for item in ITEMS}
    assert _run(tmp_path / "likelihood", again).names == preferences.names
    assert again.asked == []
    assert _run(tmp_path / "judge", asked).names == {}
    assert not any(a.startswith("name ") for a in asked.asked)


def test_a_run_of_before_there_were_names_gets_them(tmp_path: Path) -> None:
    """What was judged is not asked again, and what it says stays."""
    before = _run(tmp_path, FakeScorer())
    cache = tmp_path / "distil" / "judgements.jsonl"
    cache.write_text("".join(f"{line}\n" for line in cache.read_text().splitlines() if '"role":"name"' not in line))
    scorer = FakeScorer()
    after = _run(tmp_path, scorer)
    assert len(scorer.asked) == 40 and all(a.startswith("name ") for a in scorer.asked)
    assert (after.priors, after.names) == (before.priors, before.names)


def test_ctrl_c_exports_what_there_is_and_goes_on_later(tmp_path: Path) -> None:
    first, second = FakeScorer(interrupt_after=140), FakeScorer()
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, first)
    results = read_manifest(tmp_path / "distil", "distil")["results"]
    assert (results["n_priors"], results["ended"]) == (40, "interrupted")
    assert not is_whole(tmp_path / "distil")
    _run(tmp_path, second)
    assert is_whole(tmp_path / "distil")
    undisturbed = FakeScorer()
    _run(tmp_path / "other", undisturbed)
    assert set(first.asked) | set(second.asked) == set(undisturbed.asked)


_SCRIPT = """
import sys
from pathlib import Path
from tests.offline.fake_llm import FakeScorer
from tests.offline.test_distil import _run
if __name__ == "__main__":
    folder, log, kill_after = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    _run(folder, FakeScorer(log=log, kill_after=kill_after or None))
"""


def _restart(tmp_path: Path, kill_after: int) -> int:
    script = tmp_path / "stage.py"
    script.write_text(_SCRIPT)
    paths = os.pathsep.join(sys.path)
    arguments = [sys.executable, str(script), str(tmp_path / "run"), str(tmp_path / "asked.txt"), str(kill_after)]
    return subprocess.run(arguments, env=os.environ | {"PYTHONPATH": paths}, check=False).returncode


def _judged(folder: Path) -> set[str]:
    cache = JudgementCache(folder / "distil" / "judgements.jsonl")
    texts = {item.item_id: item.text for item in ITEMS}
    asked = {j.key: "name" if j.role == "name" else str([(texts[i], r) for i, r in j.history]) for j in cache.values()}
    judged = {f"{asked[j.key]} {texts[j.item_id]}" for j in cache.values()}
    cache.close()
    return judged


def test_killed_and_restarted_it_never_asks_a_judged_question_again(tmp_path: Path) -> None:
    log, run = tmp_path / "asked.txt", tmp_path / "run"
    log.touch()
    for kill_after, code in ((25, -signal.SIGKILL), (50, -signal.SIGKILL), (71, -signal.SIGKILL), (0, 0)):
        judged, n_asked = _judged(run), len(log.read_text().splitlines())
        assert _restart(tmp_path, kill_after) == code
        now = log.read_text().splitlines()[n_asked:]
        assert not judged & set(now)
        assert len(now) == len(set(now))
        assert (run / "distil" / "manifest.json").exists() == (code == 0)
    undisturbed = FakeScorer()
    _run(tmp_path / "other", undisturbed)
    assert _judged(run) == set(undisturbed.asked)


def test_the_command_line_tells_mistakes_in_one_line(tmp_path: Path) -> None:
    save_dataset(DATASET, tmp_path / "dataset")
    for options, message in (
        (["--style", "judge"], "needs a capable model behind --endpoint"),
        (["--endpoint", "http://x/v1"], "--endpoint needs --model"),
        (["--max-calls", "3"], "need --endpoint"),
        (["--gguf", str(tmp_path / "none.gguf")], "no such file"),
    ):
        result = CliRunner().invoke(app, ["distil", "--run", str(tmp_path), *options])
        assert isinstance(result.exception, OfflineError), (options, result.output)
        assert message in str(result.exception)


def test_a_second_run_on_the_same_folder_is_told_and_closes_its_model(tmp_path: Path) -> None:
    cache = JudgementCache(tmp_path / "distil" / "judgements.jsonl")
    scorer = FakeScorer()
    with pytest.raises(OfflineError, match="another process"):
        _run(tmp_path, scorer)
    assert scorer.closed
    cache.close()


def test_judgements_of_items_that_are_gone_are_left_out(tmp_path: Path) -> None:
    _run(tmp_path, FakeScorer())
    smaller = Dataset("toy", MOVIES, ITEMS[:20], None)
    scorer = FakeScorer()
    preferences = run_stage(smaller, tmp_path, scorer, Budget(max_judgements=1), CONFIG, CONSOLE, {})
    known = {item.item_id for item in smaller.items}
    assert set(preferences.priors) == known
    assert preferences.personal
    for p in preferences.personal:
        assert {p.judgement.item_id, *(i for i, _ in p.judgement.history)} <= known
    assert json.loads((tmp_path / "distil" / "manifest.json").read_text())["results"]["n_new"] <= 1
