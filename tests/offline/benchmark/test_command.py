"""The command: what has a result is kept, what is not there is skipped, and the page says what the records say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from offline.__main__ import app
from offline.benchmark import data, judged, methods, run
from offline.benchmark.collected import Collected
from offline.benchmark.command import chosen_names
from offline.benchmark.data import SOURCES, Loaded, user_logs
from offline.benchmark.page import people_page, write_page
from offline.benchmark.records import Record, keep, read_records
from offline.errors import OfflineError
from tests.offline.benchmark.benchmark_examples import TOY, camp_embeddings, camps_dataset

METHODS = "random,popularity,text_mean,item_knn"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The data set `movielens` is two camps of 40 users; tells how often it was loaded."""
    loaded: list[str] = []

    def load(source: data.Source, folder: Path, seed: int) -> Loaded:
        loaded.append(source.name)
        dataset = camps_dataset()
        assert dataset.interactions is not None
        return Loaded(dataset, user_logs(dataset.interactions, source, seed))

    monkeypatch.setattr("offline.benchmark.run.load", load)
    monkeypatch.setattr("offline.benchmark.command.SOURCES", {**SOURCES, "movielens": TOY})
    monkeypatch.setattr("offline.distil.embed_items", lambda dataset, encoder: camp_embeddings())
    return loaded


def benchmark(folder: Path, *arguments: str) -> Any:
    fixed = ["benchmark", "--work", str(folder / "work"), "--results", str(folder / "results"), "--data", str(folder)]
    return CliRunner().invoke(app, [*fixed, *arguments], catch_exceptions=False)


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "results" / "movielens.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_every_result_is_kept_and_not_made_again(toy: list[str], tmp_path: Path) -> None:
    said = benchmark(tmp_path, "--methods", METHODS)
    assert said.exit_code == 0 and "lfm: skipped" in said.stderr and "is not there" in said.stderr
    made = lines(tmp_path)
    names = {(line["protocol"], line["method"]) for line in made}
    assert names == {(p, m) for p in ("held-out", "prequential", "warm-start") for m in METHODS.split(",")} | {
        ("sameness", "text"),
        ("sameness", "co_likes"),
    }
    assert len(toy) == 1
    benchmark(tmp_path, "--methods", METHODS)
    assert len(toy) == 1 and lines(tmp_path) == made
    benchmark(tmp_path, "--methods", "popularity", "--protocols", "held-out", "--again")
    again = {(line["protocol"], line["method"]): line for line in lines(tmp_path)}
    assert len(again) == len(made) and len(toy) == 2
    for line in made:
        assert again[line["protocol"], line["method"]]["metrics"] == line["metrics"]
    benchmark(tmp_path, "--methods", "popularity", "--protocols", "held-out", "--seed", "1")
    assert {line["seed"] for line in lines(tmp_path)} == {0, 1} and len(lines(tmp_path)) == len(made)


def test_an_interrupted_run_goes_on(toy: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = run.Bench.judge

    def interrupted(self: run.Bench, task: run.Task) -> Record:
        if task.method == "text_mean":
            raise KeyboardInterrupt
        return judge(self, task)

    monkeypatch.setattr(run.Bench, "judge", interrupted)
    said = benchmark(tmp_path, "--methods", METHODS, "--protocols", "held-out")
    assert said.exit_code == 130 and "results that are there are kept" in said.stderr
    assert [line["method"] for line in lines(tmp_path)] == ["random", "popularity"]
    monkeypatch.setattr(run.Bench, "judge", judge)
    assert "2 of them exist already" in benchmark(tmp_path, "--methods", METHODS, "--protocols", "held-out").stderr
    assert [line["method"] for line in lines(tmp_path)] == ["random", "popularity", "text_mean", "item_knn"]


def test_differences_are_paired_by_user(toy: list[str], tmp_path: Path) -> None:
    benchmark(tmp_path, "--methods", METHODS, "--protocols", "held-out")
    found = {line["method"]: line for line in lines(tmp_path)}
    knn, text = found["item_knn"], found["text_mean"]
    mean = knn["metrics"]["auc"][0] - text["metrics"]["auc"][0]
    assert knn["differences"]["text_mean"]["auc"][0] == pytest.approx(mean, abs=2e-5)
    assert set(knn["differences"]) == {"popularity", "text_mean"}
    # Both know the camps: what is left of the difference varies less than either does.
    widths = [line["metrics"]["auc"][2] - line["metrics"]["auc"][1] for line in (found["random"], found["popularity"])]
    _, low, high = knn["differences"]["text_mean"]["auc"]
    assert high - low < min(widths)


def test_dislikes_are_a_variant_of_their_own(toy: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only of methods that take them; each is compared with itself without them."""

    class Ranker:
        def rank(self, histories: Sequence[Sequence[int]]) -> Any:
            return self.rank_answers([[(item, True) for item in history] for history in histories])

        def rank_answers(self, histories: Sequence[Sequence[tuple[int, bool]]]) -> Any:
            return np.array([np.bincount([i for i, liked in h if not liked], minlength=20) * -1.0 for h in histories])

    opened: list[int] = []

    def open_pretrained(context: Any) -> Any:
        opened.append(1)
        return lambda logs: Ranker()

    monkeypatch.setitem(judged.METHODS, "pretrained", replace(judged.METHODS["pretrained"], open=open_pretrained))
    monkeypatch.setattr("offline.benchmark.run.METHODS", {**methods.METHODS, **judged.METHODS})
    benchmark(tmp_path, "--methods", "pretrained", "--protocols", "held-out")
    found = {line["variant"]: line for line in lines(tmp_path)}
    assert set(found) == {"likes", "answers"} and len(opened) == 1
    assert found["answers"]["differences"]["likes"]["auc"] == [0.0, 0.0, 0.0], "the camps dislike nothing"


def test_names_are_chosen_by_wildcard() -> None:
    names = ["text_mean", "text_nearest", "ease"]
    assert chosen_names("--methods", "ease,text_*", names) == names
    with pytest.raises(OfflineError, match="--methods bpr: matches none of text_mean, text_nearest, ease"):
        chosen_names("--methods", "ease,bpr", names)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "lfm.jsonl").write_text('{"dataset": "lfm"}\n')
    with pytest.raises(OfflineError, match=r"lfm\.jsonl:1: not a record"):
        list(read_records(tmp_path))
    with pytest.raises(OfflineError, match="no records"):
        write_page(tmp_path / "none", tmp_path / "page.md")


def test_the_page_is_made_of_the_records_alone(toy: list[str], tmp_path: Path) -> None:
    page = tmp_path / "docs" / "people.md"
    benchmark(tmp_path, "--methods", METHODS, "--page", str(page))
    text = page.read_text()
    knn = next(line for line in lines(tmp_path) if (line["protocol"], line["method"]) == ("held-out", "item_knn"))
    mean, low, high = knn["metrics"]["auc"]
    assert f"{mean:.3f} ± {(high - low) / 2:.3f}" in text
    drawn = {path.name: path.read_bytes() for path in (page.parent / "img").glob("*.svg")}
    assert set(drawn) == {f"people-{name}.svg" for name in ("auc", "ndcg", "prequential", "sameness")}
    assert all(f"img/{name}" in text for name in drawn)
    (page.parent / "img" / "people-old.svg").write_bytes(b"")
    write_page(tmp_path / "results", page)
    assert page.read_text() == text
    assert {path.name: path.read_bytes() for path in (page.parent / "img").glob("*.svg")} == drawn


def record_like(record: Record, method: str, auc: list[float], matched: list[float], over_text: list[float]) -> Record:
    described = {**record.configuration["method"], "title": "Ours", "group": "judgements"}
    return replace(
        record,
        method=method,
        configuration={**record.configuration, "method": described},
        metrics={**record.metrics, "auc": auc, "auc_matched": matched},
        differences={"text_mean": {"auc_matched": over_text}},
    )


def test_the_page_says_where_the_pretrained_policy_stands(toy: list[str], tmp_path: Path) -> None:
    benchmark(tmp_path, "--methods", "popularity", "--protocols", "held-out")
    (popular,) = read_records(tmp_path / "results")
    ours = record_like(popular, "pretrained", [0.7, 0.68, 0.72], [0.4, 0.38, 0.42], [0.0, -0.1, 0.1])
    text = people_page(Collected.of([popular, ours]), {})
    assert "AUC 0.700 against unrated items, **above** chance" in text
    assert "AUC 0.400 against equally popular items, **below** chance" in text
    assert "AUC against equally popular items +0.000, not distinguishable from closeness of texts" in text
    keep(tmp_path / "results", ours)
    keep(tmp_path / "results", replace(ours, n=7))
    assert [r.n for r in read_records(tmp_path / "results") if r.method == "pretrained"] == [7]


def test_the_page_says_where_the_learner_stands(toy: list[str], tmp_path: Path) -> None:
    benchmark(tmp_path, "--methods", "popularity,item_knn", "--protocols", "held-out,prequential")
    records = list(read_records(tmp_path / "results"))
    best = max((r for r in records if r.protocol == "prequential"), key=lambda record: record.metrics["ndcg"][0])
    twice = {**best.metrics, "ndcg": [2 * best.metrics["ndcg"][0], 0.0, 1.0]}
    ours = replace(best, method="live", metrics=twice, differences={"item_knn": {"ndcg": [0.1, 0.05, 0.2]}})
    text = people_page(Collected.of([*records, ours]), {})
    title = best.configuration["method"]["title"]
    assert f"2.00 times that of the best other, {title}; NDCG@10 +0.100, **above** item-kNN." in text
    assert "The learner" not in people_page(Collected.of(records), {})


def test_nothing_here_knows_the_simulator() -> None:
    for path in (ROOT / "offline" / "benchmark").rglob("*.py"):
        assert "import simulator" not in path.read_text() and "from simulator" not in path.read_text(), path


def test_the_committed_records_can_be_read_and_the_page_is_theirs() -> None:
    collected = Collected.of(read_records(ROOT / "docs" / "results" / "people"))
    assert collected.datasets("held-out") == list(SOURCES)
    in_order = [name for name, source in SOURCES.items() if source.order != "none"]
    assert collected.datasets("prequential") == in_order
    assert all(collected.find(name, "held-out", method) for name in SOURCES for method in ("pretrained", "ease"))
    assert all(collected.find(name, "prequential", method) for name in in_order for method in ("live", "sasrec"))
    images = {
        path.stem.removeprefix("people-"): f"img/{path.name}" for path in (ROOT / "docs/img").glob("people-*.svg")
    }
    assert (ROOT / "docs" / "people.md").read_text() == people_page(collected, images)
