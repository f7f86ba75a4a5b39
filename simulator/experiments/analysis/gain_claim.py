"""The first goal: what A-iALP earns against the strongest methods that use no language model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from simulator.experiments.analysis.comparison import average, paired_ratio
from simulator.experiments.analysis.finding import (
    Bound,
    Finding,
    Goal,
    judged,
    listed,
    missing,
    noted,
    percent_more,
    share,
    with_interval,
)
from simulator.experiments.analysis.results import ALL, ENVIRONMENTS, PROTOCOL, Results, Runs
from simulator.statistics import Interval

ADAPTIVE = ("ialp_ft", "ialp_ap", "ialp_ap_fixed")  # A-iALP in its variants
DEEP = "sb3_"
STRANGERS = {
    "population_oracle": "knows all users, but not which one has come",
    "item_oracle": "knows everything of items, nothing of users",
}
GAIN = 1.236  # published: +23.6% on average over the three environments
RIVALS = {
    "others' methods": ("baseline",),
    "others' methods and our learners": ("baseline", "learner"),
    "others' methods and those that had logs": ("baseline", "logs"),
}

_TEXT = (
    f"A-iALP earns at least {percent_more(GAIN)} more cumulative reward over {PROTOCOL.sessions:,} sessions than the "
    "strongest method without a language model, on average over the three environments, and is ahead in each."
)


def gain_goal(results: Results) -> Goal:
    """Thrice: against methods of others that start cold, as we do; with our own learners; with those that had logs."""
    parts: list[Finding] = []
    shares: dict[Finding, None] = {}  # the same rival may be the strongest among both
    for rivals, groups in RIVALS.items():
        strongest = {e: results.strongest(e, groups) for e in ENVIRONMENTS}
        method = _better(results, strongest)
        what = f"cumulative reward, {method or 'A-iALP'} against {rivals}"
        ratios: dict[str, Interval] = {}
        for environment, rival in strongest.items():
            parts.append(_ahead(results, environment, method, rival, what, ratios))
            if method is not None and rival is not None:
                shares |= {_gap_closed(results, environment, m, rival): None for m in (method, rival.method)}
        parts.append(_average(what, ratios, results))
    return Goal("G1", _TEXT, (*parts, *shares, *_room(results), *_against_deep_learning(results)))


def _room(results: Results) -> list[Finding]:
    """Compare policies that know the truth, but not the user, with others' methods: a learner can gain less."""
    strongest = {e: results.strongest(e, ("baseline",)) for e in ENVIRONMENTS}
    return [
        finding
        for ceiling, knows in STRANGERS.items()
        for finding in _asides(results, ceiling, strongest, f"({knows}) against others' methods: what there is to gain")
    ]


def _against_deep_learning(results: Results) -> list[Finding]:
    """The published comparison was with learners of this kind; no goal of ours."""
    strongest = {e: results.strongest(e, ("baseline",), prefix=DEEP) for e in ENVIRONMENTS}
    what = "against deep reinforcement learning by others alone (no goal)"
    return _asides(results, _better(results, strongest), strongest, what)


def _asides(results: Results, method: str | None, rivals: Mapping[str, Runs | None], what: str) -> list[Finding]:
    """The method against each environment's rival and on average, as far as there are runs; no parts of a goal."""
    findings, ratios = [], []
    for environment, rival in rivals.items():
        if method is None or rival is None:
            continue
        pair = results.pair(environment, method, rival.method, ALL)
        if not pair.missing:
            ratios.append(paired_ratio(pair.a, pair.b))
            where = results.environment_title(environment)
            findings.append(noted(where, f"{method} {what}, `{rival.method}`", ratios[-1], percent_more))
    if len(ratios) == len(ENVIRONMENTS):
        findings.append(noted("average", f"{method} {what}", average(ratios), percent_more))
    return findings


def _better(results: Results, strongest: Mapping[str, Runs | None]) -> str | None:
    """The variant that is best on average, one for all environments; of those in as many environments as can be."""

    def standing(method: str) -> tuple[int, float]:
        pairs = [results.pair(e, method, rival.method, ALL) for e, rival in strongest.items() if rival is not None]
        ratios = [float(pair.a.mean() / pair.b.mean()) for pair in pairs if not pair.missing]
        return len(ratios), float(np.mean(ratios)) if ratios else 0.0

    best = max(ADAPTIVE, key=standing)
    return best if standing(best)[0] else None


def _ahead(
    results: Results, environment: str, method: str | None, rival: Runs | None, what: str, ratios: dict[str, Interval]
) -> Finding:
    """Compare the method with its rival in one environment, and add the ratio to `ratios`."""
    where = results.environment_title(environment)
    if method is None or rival is None:
        absent = "A-iALP" if method is None else "any rival"
        return missing(where, what, f"no full runs of {absent}")
    pair = results.pair(environment, method, rival.method, ALL)
    if pair.missing:
        return missing(where, what, pair.missing)
    ratios[environment] = paired_ratio(pair.a, pair.b)
    note = f"strongest: {rival.title} (`{rival.method}`); {pair.a.mean():.2f} against {pair.b.mean():.2f} per session"
    return judged(where, what, ratios[environment], Bound(1.0, percent_more, strict=True), note)


def _average(what: str, ratios: Mapping[str, Interval], results: Results) -> Finding:
    if len(ratios) == len(ENVIRONMENTS):
        return judged("average", what, average(list(ratios.values())), Bound(GAIN, percent_more))
    reason = f"the average needs {listed([results.environment_title(e) for e in ENVIRONMENTS])}"
    if not ratios:
        return missing("average", what, reason)
    so_far = with_interval(average(list(ratios.values())), percent_more)
    names = listed([results.environment_title(e) for e in ratios])
    return missing("average", what, f"{reason}; of {names} alone it is {so_far}")


def _gap_closed(results: Results, environment: str, method: str, rival: Runs) -> Finding:
    """(method - random) / (oracle - random)."""
    where = results.environment_title(environment)
    what = f"share of the gap from random to oracle that {method} closes"
    own, gap = (results.pair(environment, m, "random", ALL) for m in (method, "oracle"))
    if reason := own.missing or gap.missing:
        return missing(where, what, reason, part=False)
    seeds = [seed for seed in own.seeds if seed in gap.seeds]
    of_own, of_gap = (np.array([pair.seeds.index(s) for s in seeds], np.intp) for pair in (own, gap))
    ratio = paired_ratio((own.a - own.b)[of_own], (gap.a - gap.b)[of_gap])
    return noted(where, what, ratio, share)
