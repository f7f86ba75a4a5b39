"""The goals' outcomes: met where the records are made so, and turned round by the one number that matters."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simulator.experiments.analysis.claims import goals
from simulator.experiments.analysis.comparison import paired_ratio
from simulator.experiments.analysis.finding import Bound, Finding, Goal, Outcome, judged, percent_more, sessions, signed
from simulator.experiments.analysis.judge_claims import JudgeCurve, judge_curve
from simulator.experiments.analysis.results import ALL, FIRST, Results, collect
from simulator.experiments.runs.record import Record
from simulator.statistics import Interval
from tests.simulator.record_examples import GOOD, changed, experiment, record

ALL_GOOD = experiment(GOOD, seeds=6)  # fewer have no interval of the median


def goal(name: str, records: list[Record]) -> Goal:
    return next(g for g in goals(collect(records)) if g.name == name)


def found(name: str, records: list[Record], *words: str, where: str = "LFM") -> Finding:
    """The one finding that has these words."""
    matching = [f for f in goal(name, records).findings if f.where == where and all(word in f.what for word in words)]
    assert len(matching) == 1, [f.what for f in matching]
    return matching[0]


def results(records: list[Record] = ALL_GOOD) -> Results:
    return collect(records)


def test_all_goals_met() -> None:
    assert [g.outcome for g in goals(results())] == [Outcome.MET] * 5
    assert all(f.outcome is Outcome.MET for g in goals(results()) for f in g.parts)


@pytest.mark.parametrize(
    ("name", "method", "arguments"),
    [
        ("G1", "linucb", {"level": 16.0, "start": 14.0}),  # a baseline that is too strong
        ("G1", "boltzmann", {"level": 16.0, "start": 14.0}),  # our own from scratch
        ("G2", "boltzmann", {"pace": 4000.0}),
        ("G2", "a2c", {"level": 12.9}),
        ("G3", "ialp_ap", {"level": 18.5, "start": 8.0}),  # worse than frozen at first
        ("G3", "ialp_ft", {"level": 20.0}),
        ("G3", "shuffled_ft", {"level": 13.0, "start": 9.0}),
        ("G3", "shuffled_ap", {"level": 12.0}),
        ("G4", "a2c", {"level": 19.0}),
        ("G4", "sb3_a2c", {"coverage_last_1000": 0.1, "effective_coverage_last_1000": 0.005}),
        ("G4", "sb3_a2c", {"coverage_last_1000": 0.02, "effective_coverage_last_1000": 0.05}),
        ("G4", "ialp_ap", {"diversity_last_1000": 0.6}),
        ("G5", "text_frozen", {"level": 10.0}),
        ("G5", "text_ft", {"level": 20.0, "start": 7.0}),
        ("G5", "text_ft", {"level": 10.0, "start": 14.0}),
    ],
)
def test_one_number_turns_a_goal(name: str, method: str, arguments: dict[str, object]) -> None:
    assert goal(name, changed(ALL_GOOD, method, **arguments)).outcome is Outcome.NOT_MET


def mean_of(finding: Finding) -> float:
    assert finding.value is not None
    return finding.value.mean


def test_gain_names_the_strongest_and_averages() -> None:
    elsewhere = [r for r in ALL_GOOD if (r.environment, r.method) != ("coat", "popularity")]
    records = elsewhere + [record("popularity", seed, "coat", level=14.0) for seed in range(6)]
    parts = [f for f in goal("G1", records).parts if f.what.endswith("against others' methods")]
    by_place = {f.where: f for f in parts}
    assert "linucb" in by_place["LFM"].note and "popularity" in by_place["Coat"].note
    a = np.array([r.metrics["reward"] for r in records if (r.environment, r.method) == ("coat", "ialp_ap")])
    b = np.array([r.metrics["reward"] for r in records if (r.environment, r.method) == ("coat", "popularity")])
    assert by_place["Coat"].value == paired_ratio(a, b)
    means = [mean_of(by_place[place]) for place in ("LFM", "Industry", "Coat")]
    assert mean_of(by_place["average"]) == pytest.approx(np.mean(means))
    with_learners = [f for f in goal("G1", records).parts if f.what.endswith("our learners")]
    assert ["boltzmann" in f.note for f in with_learners] == [True, True, False, False]  # Coat: popularity
    assert "popularity" in with_learners[2].note


def test_gain_uses_the_better_variant_and_no_rival_with_a_language_model() -> None:
    assert "ialp_ap against" in goal("G1", ALL_GOOD).parts[0].what
    swapped = changed(ALL_GOOD, "ialp_ft", level=19.0, start=12.0)
    assert "ialp_ft against" in goal("G1", swapped).parts[0].what
    for one in (strong := changed(ALL_GOOD, "linucb", level=17.0, start=17.0)):
        if one.method == "linucb":
            one.configuration["judge"] = {"kind": "gguf"}  # type: ignore[index]
    assert "sb3_a2c" in goal("G1", strong).parts[0].note


def test_gain_ahead_is_strict_and_on_average_has_its_threshold() -> None:
    same = [r for r in ALL_GOOD if r.method not in ("ialp_ft", "ialp_ap", "ialp_ap_fixed", "boltzmann")]
    twins = [record("linucb", r.seed, r.environment, **GOOD["linucb"]) for r in same if r.method == "linucb"]  # type: ignore[arg-type]
    for one in twins:
        object.__setattr__(one, "method", "ialp_ft")
        one.configuration["method"]["group"] = "ialp"
    parts = goal("G1", same + twins).parts
    assert parts[0].value is not None and parts[0].value.mean == 1.0
    assert {part.outcome for part in parts} == {Outcome.NOT_MET}


def test_shares_of_the_gap() -> None:
    closed = found("G1", ALL_GOOD, "share of the gap", "ialp_ap")
    by_method = {
        m: np.mean([r.metrics["reward"] for r in ALL_GOOD if (r.environment, r.method) == ("lfm", m)])
        for m in ("oracle", "random", "ialp_ap")
    }
    expected = (by_method["ialp_ap"] - by_method["random"]) / (by_method["oracle"] - by_method["random"])
    assert closed.value is not None and closed.value.mean == pytest.approx(expected)


def test_what_there_is_to_gain_is_told_but_judged_by_nobody() -> None:
    room = found("G1", ALL_GOOD, "what there is to gain", "population_oracle")
    by_method = {
        m: np.mean([r.metrics["reward"] for r in ALL_GOOD if (r.environment, r.method) == ("lfm", m)])
        for m in ("population_oracle", "linucb")
    }
    assert room.value is not None and room.value.mean == pytest.approx(
        by_method["population_oracle"] / by_method["linucb"]
    )
    assert not any("there is to gain" in part.what for part in goal("G1", ALL_GOOD).parts)


def test_sessions_until_a2c_is_reached() -> None:
    finding = found("G2", ALL_GOOD, "sessions until")
    assert finding.value is not None and 1000 <= finding.value.mean <= 2000 and "6 of 6 seeds" in finding.note
    never = found("G2", changed(ALL_GOOD, "boltzmann", level=8.0), "sessions until")
    assert never.found.startswith("never") and never.value is not None and never.value.mean == math.inf


def test_windows_with_and_without_correction() -> None:
    """One window of one seed-independent dip is worse either way; a faint one only when taken alone."""
    dipped = [r for r in ALL_GOOD if r.method != "ialp_ap" or r.environment != "lfm"]
    frozen = {r.seed: r for r in ALL_GOOD if (r.environment, r.method) == ("lfm", "ialp_frozen")}
    # Differences -0.10, -0.01 ... in the second window: t = -4.2 with 5 degrees of freedom, p = 0.004.
    for seed, dip in enumerate((0.10, 0.01, 0.08, 0.05, 0.07, 0.03)):
        one = record("ialp_ap", seed, "lfm")
        one.curves["reward"][:] = frozen[seed].curves["reward"]
        for point in range(5, 10):
            one.curves["reward"][point] -= dip
        dipped.append(one)
    alone = found("G3", dipped, "windows", "each alone")
    corrected = found("G3", dipped, "windows", "Holm")
    assert (alone.outcome, corrected.outcome) == (Outcome.NOT_MET, Outcome.MET)
    assert alone.found.startswith("1 of 20") and "501–1,000" in alone.note


def test_an_impossible_coverage_is_said() -> None:
    half = changed(ALL_GOOD, "a2c", coverage_last_1000=0.5)
    notes = [f.note for f in goal("G4", half).parts if f.what.startswith("coverage") and f.what.endswith(" a2c")]
    assert len(notes) == 3 and all("more than 2.00x is impossible" in n for n in notes)


def test_two_of_three_environments_are_enough() -> None:
    weak = {("lfm", "text_frozen"): 12.0, ("coat", "text_frozen"): 12.0}

    def with_text_ahead_in(places: tuple[str, ...]) -> list[Record]:
        return [
            record(r.method, r.seed, r.environment, level=weak[r.environment, r.method])
            if r.environment in places and (r.environment, r.method) in weak
            else r
            for r in ALL_GOOD
        ]

    assert goal("G5", with_text_ahead_in(("lfm",))).outcome is Outcome.MET
    assert goal("G5", with_text_ahead_in(("lfm", "coat"))).outcome is Outcome.NOT_MET


def test_what_is_missing_could_still_decide() -> None:
    without_two = [r for r in ALL_GOOD if r.method != "text_frozen" or r.environment == "lfm"]
    without_one = [r for r in ALL_GOOD if r.method != "text_frozen" or r.environment != "lfm"]
    words = ("all 10,000", "ialp_frozen minus text_frozen")
    assert found("G5", without_two, *words, where="together").outcome is Outcome.NO_DATA
    assert found("G5", without_one, *words, where="together").outcome is Outcome.MET
    assert goal("G5", without_two).outcome is Outcome.NO_DATA


@pytest.mark.parametrize("method", sorted(GOOD))
def test_any_method_may_be_missing(method: str) -> None:
    judged_goals = goals(collect(changed(ALL_GOOD, method, missing=True)))
    assert len(judged_goals) == 5
    needed = {"a2c", "boltzmann", "ialp_ap", "ialp_frozen", "ialp_ft", "sb3_a2c", "text_ft", "text_frozen"}
    needed |= {"shuffled_ap", "shuffled_ft"}
    assert any(g.outcome is Outcome.NO_DATA for g in judged_goals) == (method in needed)


def test_no_outcome_without_all_sessions_or_with_one_seed() -> None:
    short = experiment({name: {**arguments, "sessions": 2000} for name, arguments in GOOD.items()}, seeds=2)
    lone = experiment(GOOD, seeds=1)
    for records in (short, lone):
        outcomes = {g.name: {f.outcome for f in g.parts} for g in goals(collect(records))}
        full = outcomes.pop("G3"), outcomes.pop("G5")  # the first 1,000 or 2,000 sessions are there
        assert all(found_outcomes == {Outcome.NO_DATA} for found_outcomes in outcomes.values())
        assert records is short or all(found_outcomes == {Outcome.NO_DATA} for found_outcomes in full)
    reasons = {f.note for f in goal("G2", short).parts}
    assert reasons == {"no data: `boltzmann` has 2,000 of 10,000 sessions"}


def test_no_records_no_outcome() -> None:
    assert [g.outcome for g in goals(collect([]))] == [Outcome.NO_DATA] * 5


def test_uncertain_where_the_interval_reaches_across() -> None:
    bound = Bound(1.0, signed)
    assert judged("", "", Interval(1.1, 1.05, 1.15, 5), bound).outcome is Outcome.MET
    assert judged("", "", Interval(1.1, 0.95, 1.25, 5), bound).outcome is Outcome.MET_UNCERTAIN
    assert judged("", "", Interval(0.9, 0.75, 1.05, 5), bound).outcome is Outcome.NOT_MET_UNCERTAIN
    assert judged("", "", Interval(0.9, 0.85, 0.95, 5), bound).outcome is Outcome.NOT_MET
    assert judged("", "", Interval(1.1, math.nan, math.nan, 1), bound).outcome is Outcome.MET_UNCERTAIN
    assert judged("", "", Interval(1.0, 1.0, 1.0, 5), Bound(1.0, signed, strict=True)).outcome is Outcome.NOT_MET
    most = Bound(2000, sessions, most=True)
    assert judged("", "", Interval(1500, 1200, 2100, 9), most).outcome is Outcome.MET_UNCERTAIN
    assert judged("", "", Interval(2100, 2050, math.inf, 9), most).outcome is Outcome.NOT_MET
    assert (most.text, Bound(1.236, percent_more, strict=True).text) == ("≤ 2,000", "> +23.6%")


# -- the curve of simulated judges -------------------------------------------------------------------------------------


def test_placed_on_the_curve_by_interpolation() -> None:
    benefit = tuple(Interval(m, m, m, 5) for m in (1.0, 1.2, 1.2, 1.1, 1.6))
    curve = JudgeCurve(np.array([0.0, 0.25, 0.5, 0.75, 1.0]), benefit, {})
    # 1.2, 1.2, 1.1 are pooled to 1.1667 at accuracy 0.5.
    assert curve.place(1.1667) == pytest.approx(0.5, abs=1e-3)
    assert curve.place(1.0833) == pytest.approx(0.25, abs=1e-3)
    assert curve.place(1.6) == 1.0 and curve.place(1.7) == math.inf and curve.place(0.9) == -math.inf
    flat = JudgeCurve(np.array([0.0, 1.0]), (benefit[0],) * 2, {})
    assert math.isnan(flat.place(1.0)) and math.isnan(curve.place(math.nan))


def test_a_model_like_a_judge_stands_where_the_judge_does() -> None:
    records = changed(ALL_GOOD, "smollm2_ft", **GOOD["synthetic_50_ft"])
    for measure in (FIRST, ALL):
        curve = judge_curve(collect(records), "lfm", measure)
        assert curve is not None and list(curve.accuracy) == [0.0, 0.25, 0.5, 0.75, 1.0]
        assert curve.place(curve.models["smollm2_ft"].mean) == pytest.approx(0.5, abs=0.02)
    text = found("G5", records, "first 1,000", "benefit", "smollm2_ft").found
    assert "like a simulated judge of accuracy 0." in text


def test_no_curve_of_one_judge() -> None:
    few = [r for r in ALL_GOOD if not r.method.startswith("synthetic") or r.method == "synthetic_50_ft"]
    assert judge_curve(collect(few), "lfm", ALL) is None
