"""The page and its plots: whole, the same for the same records, and honest about what is missing or mixed."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from scipy import stats
from typer.testing import CliRunner

from simulator.errors import SimulatorError
from simulator.experiments.analysis.results import ALL, collect
from simulator.experiments.commands.results import results as results_command
from simulator.experiments.pages import figures
from simulator.experiments.pages.plot_style import _apart, colour_of
from simulator.experiments.pages.results import results_page
from simulator.experiments.pages.tables import reward_table, summary_table, variety_table
from simulator.experiments.pages.worlds_table import worlds_table
from simulator.experiments.runs.record import Record
from tests.simulator.record_examples import GOOD, changed, experiment, record, with_code, write

ALL_GOOD = experiment(GOOD, seeds=3)
FEW = ("oracle", "random", "linucb", "ialp_ap", "ialp_frozen")
SMALL = [r for r in ALL_GOOD if r.environment == "lfm" and r.method in FEW]


def page(records: list[Record]) -> str:
    return results_page(collect(records), {})


def cells(markdown: str, method: str) -> list[str]:
    line = next(line for line in markdown.splitlines() if f"| `{method}` |" in line)
    return [cell.strip() for cell in line.strip("|").split("|")]


# -- what counts -------------------------------------------------------------------------------------------------------


def test_the_last_configuration_counts_and_older_runs_are_named() -> None:
    older = [replace(r, configuration={**r.configuration, "log": "older"}) for r in SMALL if r.method == "linucb"]
    collected = collect([*older, *SMALL])
    assert collected.cells["lfm"]["linucb"].configuration.get("log") is None
    assert collected.left_out == ("3 older runs of `linucb` in `lfm`",)
    assert "3 older runs of `linucb` in `lfm`" in page([*older, *SMALL])


def test_an_older_environment_is_left_out() -> None:
    def elsewhere(one: Record) -> Record:
        world = {**one.configuration["environment"], "n_items": 7}
        return replace(one, configuration={**one.configuration, "environment": world})

    collected = collect([*map(elsewhere, SMALL[:4]), *SMALL[4:]])
    assert collected.left_out == ("4 runs in an older version of the environment `lfm`",)
    assert sum(collected.code.values()) == len(SMALL) - 4


def test_pairs_are_by_seed_whatever_the_order() -> None:
    runs = [record("random", seed, level=float(seed)) for seed in (3, 1, 2)]
    rivals = [record("linucb", seed, level=10.0 + seed) for seed in (2, 3, 4)]
    pair = collect([*runs, *rivals]).pair("lfm", "random", "linucb", ALL)
    assert pair.seeds == (2, 3)
    np.testing.assert_allclose(pair.b - pair.a, 10.0, atol=0.1)


def test_a_metric_that_older_records_lack_is_no_data() -> None:
    bare = [replace(r, metrics={k: v for k, v in r.metrics.items() if "coverage" not in k}) for r in SMALL]
    assert cells(variety_table(collect(bare), "lfm"), "linucb")[2:5] == ["–"] * 3


# -- tables ------------------------------------------------------------------------------------------------------------


def test_reward_table() -> None:
    collected = collect(SMALL)
    linucb = [r for r in SMALL if r.method == "linucb"]
    oracle = [r for r in SMALL if r.method == "oracle"]
    row = cells(reward_table(collected, "lfm"), "linucb")
    for column, name in ((3, "reward_first_1000"), (4, "reward"), (5, "reward_last_1000")):
        values = [r.metrics[name] for r in linucb]
        half = stats.t.ppf(0.975, 2) * stats.sem(values)
        assert row[column] == f"{np.mean(values):.2f} ± {half:.2f}"
    regret = np.array([o.metrics["reward"] - r.metrics["reward"] for o, r in zip(oracle, linucb, strict=True)])
    assert row[8].startswith(f"{regret.mean():.2f} ± ")
    assert row[10:] == ["**3**", "10,000"]
    of_oracle = cells(reward_table(collected, "lfm"), "oracle")
    assert of_oracle[8] == "0.00 ± 0.00" and of_oracle[11] == "**1,000**"
    assert float(of_oracle[9].split()[0].replace(",", "")) == pytest.approx(1000, rel=0.05)  # CPU of 10,000 sessions
    order = re.findall(r"\| `(\w+)` \|", reward_table(collected, "lfm"))
    assert order == ["oracle", "ialp_ap", "ialp_frozen", "linucb", "random"]


def test_summary_is_relative_to_the_strongest_baseline_of_each_environment() -> None:
    table = summary_table(collect(ALL_GOOD))
    assert cells(table, "linucb")[2:] == ["**strongest**"] * 4
    by_method = {
        m: np.mean([r.metrics["reward"] for r in ALL_GOOD if (r.environment, r.method) == ("coat", m)])
        for m in ("ialp_ap", "linucb")
    }
    assert cells(table, "ialp_ap")[4].startswith(f"{100 * (by_method['ialp_ap'] / by_method['linucb'] - 1):+.1f}% ± ")
    without = summary_table(collect([r for r in ALL_GOOD if (r.environment, r.method) != ("coat", "ialp_ap")]))
    assert cells(without, "ialp_ap")[4:] == ["–", "–"]


def test_a_short_run_is_marked_and_never_the_strongest() -> None:
    short = [record("sb3_ppo", seed, level=25.0, sessions=2000) for seed in range(3)]
    text = page([*SMALL, *short])
    assert cells(reward_table(collect([*SMALL, *short]), "lfm"), "sb3_ppo")[11] == "**2,000**"
    summary = summary_table(collect([*SMALL, *short]))
    assert "sb3_ppo" not in summary and cells(summary, "linucb")[2] == "**strongest**" and "fewer than 10 seeds" in text
    tiny = [record("sb3_dqn", seed, sessions=500) for seed in range(3)]
    assert cells(reward_table(collect([*SMALL, *tiny]), "lfm"), "sb3_dqn")[3] == "–"


# -- the page ----------------------------------------------------------------------------------------------------------


def test_differing_code_is_said_before_any_number() -> None:
    mixed = [with_code(r, "other") if r.method == "random" else r for r in SMALL]
    text = page(mixed)
    warning = "The runs come from 2 different states of the code."
    assert text.index(warning) < text.index("## The goals in short") and warning not in page(SMALL)
    assert re.search(r"\| `other` \| 3 \| `random` \|", text)
    assert re.search(r"\| `def` \| 12 \| (?!all)", text) and re.search(r"\| `def` \| 15 \| all \|", page(SMALL))


def test_the_page_says_what_was_run() -> None:
    records = [*SMALL, record("random", 7)]
    assert "| LFM | 5 | 0–2, 7 | 16 | 133,000 |" in page(records)
    assert "python -m simulator results" in page(records)


def test_one_seed_and_one_method_make_a_page(tmp_path: Path) -> None:
    text = page([record("random")])
    assert "no data" in text and "nan" not in text
    results_command(write(tmp_path / "results", [record("random")]), tmp_path / "results.md")


@pytest.mark.parametrize("method", ["oracle", "random", "linucb", "boltzmann", "ialp_ap", "synthetic_50_ft"])
def test_methods_may_be_missing(method: str) -> None:
    text = page(changed(ALL_GOOD, method, missing=True))
    assert f"| `{method}` |" not in text and "nan" not in re.sub(r"`[^`]*`", "", text)


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    folder = write(tmp_path / "results", [r for r in ALL_GOOD if r.method in FEW and r.environment != "coat"])
    first, again = tmp_path / "first", tmp_path / "again"
    for out in (first, again):
        results_command(folder, out / "results.md")
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert len(files) == 1 + 2 * 3 + 1
    for path in files:
        assert (first / path).read_bytes() == (again / path).read_bytes(), path


def test_every_plot_is_whole_small_and_shown(tmp_path: Path) -> None:
    folder = write(tmp_path / "results", experiment(GOOD, ("lfm",), seeds=2))
    images = tmp_path / "img"
    images.mkdir()
    (images / "results-gone-bars.svg").write_text("of an environment that is no more")
    (images / "other.svg").write_text("not ours")
    results_command(folder, tmp_path / "results.md")
    shown = set(re.findall(r"\(img/([\w-]+\.svg)\)", (tmp_path / "results.md").read_text()))
    kinds = ("lfm-learning", "lfm-bars", "lfm-coverage", "windows", "judges")
    assert shown == {f"results-{kind}.svg" for kind in kinds}
    assert {path.name for path in images.iterdir()} == shown | {"other.svg"}
    for name in shown:
        assert ET.parse(images / name).getroot().tag.endswith("svg")  # noqa: S314 - our own file
        assert (images / name).stat().st_size < 200_000


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "results", SMALL)
    with (folder / "lfm.jsonl").open("a") as file:
        file.write('{"environment": "lfm"}\n')
    with pytest.raises(SimulatorError, match=rf"lfm\.jsonl:{len(SMALL) + 1}: not a record"):
        results_command(folder, tmp_path / "results.md")


def test_no_records_is_a_mistake_with_a_fix(tmp_path: Path) -> None:
    with pytest.raises(SimulatorError, match="no records there; `python -m simulator experiment` makes them"):
        results_command(tmp_path, tmp_path / "results.md")


def test_on_the_command_line(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(results_command)
    folder = write(tmp_path / "results", SMALL)
    ran = CliRunner().invoke(app, ["--results", str(folder), "--out", str(tmp_path / "out.md")])
    assert ran.exit_code == 0 and "15 runs in 1 environments" in ran.output
    assert (tmp_path / "out.md").read_text().startswith("# Results")


# -- plots -------------------------------------------------------------------------------------------------------------


def test_learning_shows_the_chosen_lines_and_the_strongest_baseline() -> None:
    shown = [runs.method for runs in figures._lines(collect(ALL_GOOD), "lfm")]
    assert shown == [
        "oracle",
        "random",
        "popularity",
        "linucb",
        "a2c",
        "boltzmann",
        "ialp_frozen",
        "ialp_ft",
        "ialp_ap",
    ]
    assert len({colour_of(method) for method in shown}) == len(shown)


def test_no_plot_of_nothing() -> None:
    short = [record("sb3_ppo", seed, sessions=2000) for seed in range(2)]
    assert set(figures.draw_all(collect(short))) == {"lfm-learning"}


def test_widening_bins_keep_all_sessions() -> None:
    curves = np.random.default_rng(0).normal(10.0, 1.0, (2, 100))
    at, means = figures._widening(curves)
    edges = [0.0]
    for middle in at:
        edges.append(2 * middle - edges[-1])
    widths = np.diff(edges)
    assert edges[-1] == 10_000 and (widths >= 100).all() and len(at) < 30
    np.testing.assert_allclose((means * widths).sum(axis=1) / 10_000, curves.mean(axis=1))


def test_names_are_apart_in_order_and_inside() -> None:
    wanted = np.array([5.0, 5.1, 1.0, 5.05, 9.9, 0.0])
    places = _apart(wanted, 1.0, 0.0, 10.0)
    ranked = places[np.argsort(wanted)]
    assert (np.diff(ranked) >= 1.0 - 1e-9).all() and ranked[0] >= 0.5 - 1e-9 and ranked[-1] <= 10.0 + 1e-9
    np.testing.assert_allclose(_apart(np.array([2.0, 8.0]), 1.0, 0.0, 10.0), [2.0, 8.0])


# -- worlds ------------------------------------------------------------------------------------------------------------

WORLDS = {"": (10.0, 12.0, 8.0), "_calm": (10.0, 9.0, 8.0), "_more": (10.0, 15.0, 20.0)}


def of_worlds(environments: dict[str, tuple[float, float, float]] = WORLDS) -> list[Record]:
    """Three seeds of a bandit, of ours and of learned popularity in worlds of LFM."""
    names = ("linucb", "ialp_ap", "popularity")
    return [
        record(method, seed, f"lfm{world}", level=level, noise=0.0)
        for world, levels in environments.items()
        for seed in range(3)
        for method, level in zip(names, levels, strict=True)
    ]


def test_all_worlds_of_a_data_set_stand_in_one_table() -> None:
    collected = collect(of_worlds())
    assert collected.data_sets == ["lfm"]
    assert collected.worlds("lfm") == {"boredom": "lfm", "calm": "lfm_calm", "more": "lfm_more"}
    table = worlds_table(collected, "lfm")
    assert table.splitlines()[0] == "| method | id | boredom | calm | more | mean |"
    ours = [float(cell.partition("%")[0]) for cell in cells(table, "ialp_ap")[2:]]
    assert ours == pytest.approx([20.0, -10.0, -25.0, -5.0], abs=0.6)
    assert cells(table, "linucb")[2:4] == ["**strongest**"] * 2
    assert cells(table, "popularity")[4] == "**strongest**"


def test_a_mean_needs_all_worlds_and_a_method_more_than_one() -> None:
    some = [r for r in of_worlds() if (r.environment, r.method) != ("lfm_calm", "ialp_ap")]
    table = worlds_table(collect([*some, *(record("sb3_ppo", seed) for seed in range(3))]), "lfm")
    assert cells(table, "ialp_ap")[3] == "–" and cells(table, "ialp_ap")[5] == "–"
    assert "sb3_ppo" not in table


def test_the_page_has_one_section_a_data_set_and_a_table_of_its_worlds() -> None:
    text = page(of_worlds())
    assert text.count("## Worlds") == 1 and text.count("Reward, regret and cost") == 1
    assert "### LFM\n\n| method | id | boredom | calm | more | mean |" in text
    assert "| LFM, more | 3 | 0–2 | 9 | 90,000 |" in text  # what was run names all
    assert set(figures.draw_all(collect(of_worlds()))) == {"lfm-learning", "lfm-bars", "lfm-coverage"}
    assert "## Worlds" not in page(SMALL)


def test_worlds_without_the_environment_that_they_belong_to_are_shown_by_themselves() -> None:
    collected = collect([r for r in of_worlds() if r.environment != "lfm"])
    assert collected.data_sets == ["lfm_calm", "lfm_more"]
