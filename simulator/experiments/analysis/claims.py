"""The goals, judged from the records alone; the first and the fifth have files of their own.

Every value compares two methods on common seeds. A value meets a goal if its mean does; it is "uncertain" if its 95%
interval reaches to the other side. What the records cannot tell is "no data", never a verdict.
"""

from __future__ import annotations

import numpy as np

from simulator.experiments.analysis.compared import Question, difference, ratio
from simulator.experiments.analysis.comparison import (
    WINDOW,
    median_interval,
    sessions_to_reach,
    window_differences,
    worse,
    worse_by_holm,
)
from simulator.experiments.analysis.finding import (
    Bound,
    Finding,
    Goal,
    counted,
    judged,
    missing,
    percent_more,
    sessions,
    share,
    signed,
    times,
    with_interval,
)
from simulator.experiments.analysis.gain_claim import gain_goal
from simulator.experiments.analysis.judge_claims import judges_goal
from simulator.experiments.analysis.results import ALL, ENVIRONMENTS, LAST, PROTOCOL, Results, first, metric
from simulator.experiments.runs.record import LATE
from simulator.statistics import Interval

WITHIN = 2_000  # sessions in which the learner from scratch has to reach what A2C ends with
SHUFFLED_FIRST = 2_000
GOOD_PRIOR, BAD_PRIOR = 0.98, 0.95  # of the reward of ft, and of the learner from scratch
COVERAGE = 5.0


def goals(results: Results) -> list[Goal]:
    """All five, in order."""
    return [
        gain_goal(results),
        Goal("G2", _LEARNER_TEXT, tuple(_reaches(results, e) for e in ENVIRONMENTS)),
        Goal("G3", _MIXTURE_TEXT, tuple(found for e in ENVIRONMENTS for found in _mixture(results, e))),
        Goal("G4", _VARIETY_TEXT, tuple(found for e in ENVIRONMENTS for found in _variety(results, e))),
        judges_goal(results),
    ]


_LEARNER_TEXT = (
    f"The learner from scratch (`boltzmann`) earns within {WITHIN:,} sessions what faithful A2C (`a2c`) earns in its "
    f"last {LATE:,} of {PROTOCOL.sessions:,}."
)


def _reaches(results: Results, environment: str) -> Finding:
    where = results.environment_title(environment)
    what = f"sessions until the running mean over {WINDOW} reaches A2C's last {LATE:,}"
    pair = results.pair(environment, "boltzmann", "a2c", LAST)
    runs = results.runs(environment, "boltzmann")
    if pair.missing or runs is None:
        return missing(where, what, pair.missing)
    curves = runs.curves(seeds=pair.seeds)
    of_mean = sessions_to_reach(curves.mean(axis=0), float(pair.b.mean()))
    by_seed = [sessions_to_reach(curve, level) for curve, level in zip(curves, pair.b, strict=True)]
    spread = median_interval(np.array(by_seed))
    value = Interval(of_mean, spread.low, spread.high, spread.n)
    in_time = sum(n <= WITHIN for n in by_seed)
    note = (
        f"A2C ends at {pair.b.mean():.2f} per session; {in_time} of {len(by_seed)} seeds in time; the value is of the "
        "mean curve, the interval of the median over seeds (sign test)"
    )
    return judged(where, what, value, Bound(WITHIN, sessions, most=True), note)


_MIXTURE_TEXT = (
    f"`ialp_ap` is never significantly worse than `ialp_frozen` in a window of {WINDOW} sessions; with the good prior "
    f"it is within {100 * (1 - GOOD_PRIOR):.0f}% of `ialp_ft` or better; with the shuffled prior it beats ft over the "
    f"first {SHUFFLED_FIRST:,} sessions and ends within {100 * (1 - BAD_PRIOR):.0f}% of the learner from scratch."
)


def _mixture(results: Results, environment: str) -> list[Finding]:
    early, late = f"reward, first {SHUFFLED_FIRST:,} sessions", f"reward, last {LATE:,} sessions"
    good = Question(f"reward, all {PROTOCOL.sessions:,} sessions", "ialp_ap", "ialp_ft", ALL)
    bad = Question(early, "shuffled_ap", "shuffled_ft", first(SHUFFLED_FIRST))
    end = Question(late, "shuffled_ap", "boltzmann", LAST)
    return [
        *_windows(results, environment),
        ratio(results, environment, good, Bound(GOOD_PRIOR, percent_more)),
        difference(results, environment, bad, Bound(0.0, signed, strict=True)),
        ratio(results, environment, end, Bound(BAD_PRIOR, percent_more)),
    ]


def _windows(results: Results, environment: str) -> list[Finding]:
    """Twice: every window on its own, where of 20 true zeros one in 40 each looks worse by chance, and corrected."""
    where, what = results.environment_title(environment), f"windows of {WINDOW}, ialp_ap against ialp_frozen"
    pair = results.pair(environment, "ialp_ap", "ialp_frozen", ALL)
    mixed, frozen = results.runs(environment, "ialp_ap"), results.runs(environment, "ialp_frozen")
    if pair.missing or mixed is None or frozen is None:
        return [missing(where, f"{what}, {how}", pair.missing) for how in ("each alone", "Holm's correction")]
    windows = window_differences(mixed.curves(seeds=pair.seeds), frozen.curves(seeds=pair.seeds))
    lowest = min(windows, key=lambda window: window.difference.high)
    difference = with_interval(lowest.difference, signed)
    note = f"lowest upper end: {difference} per session, sessions {lowest.first:,}–{lowest.last:,}"
    findings = []
    for how, flags in (("each alone", worse(windows)), ("Holm's correction", worse_by_holm(windows))):
        found = f"{int(flags.sum())} of {len(windows)} significantly worse"
        findings.append(counted(where, f"{what}, {how}", "none worse", found, not flags.any(), note, lowest.difference))
    return findings


_VARIETY_TEXT = (
    f"At equal or higher reward, `ialp_ap` covers at least {COVERAGE:g} times as much of the catalogue as `a2c` and as "
    "`sb3_a2c`, and its sessions are no less diverse."
)


def _variety(results: Results, environment: str) -> list[Finding]:
    """All over the last sessions, where policies have settled: coverage of a whole run counts early exploration."""
    findings = []
    late = f"last {LATE:,} sessions"
    for rival in ("a2c", "sb3_a2c"):
        reward, coverage, effective, diversity = (
            Question(f"{name.partition('_last')[0].replace('_', ' ')}, {late}", "ialp_ap", rival, metric(name))
            for name in (
                "reward_last_1000",
                "coverage_last_1000",
                "effective_coverage_last_1000",
                "diversity_last_1000",
            )
        )
        findings += [
            ratio(results, environment, reward, Bound(1.0, percent_more)),
            ratio(results, environment, coverage, Bound(COVERAGE, times), _shares),
            ratio(results, environment, effective, Bound(COVERAGE, times), _shares),
            difference(results, environment, diversity, Bound(0.0, signed)),
        ]
    return findings


def _shares(a: float, b: float) -> str:
    """A rival that covers more than a fifth of the catalogue leaves no room for five times as much."""
    most = f"; more than {times(1 / b)} is impossible" if b * COVERAGE > 1 else ""
    return f"{share(a)} against {share(b)}{most}"
