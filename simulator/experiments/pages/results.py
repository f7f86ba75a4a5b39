"""The page `docs/results.md`: what was run, what came out, how to read it. Every number comes from the records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from simulator.experiments.analysis.claims import goals
from simulator.experiments.analysis.comparison import ONE_SIDED, WINDOW
from simulator.experiments.analysis.results import CONSTANT, PROTOCOL, Results, code_of
from simulator.experiments.pages.goal_tables import goal_in_detail, goals_in_short
from simulator.experiments.pages.tables import reward_table, summary_table, table, variety_table
from simulator.experiments.pages.worlds_table import worlds_table

HEAD = """\
# Results

*This page is generated: do not edit it. After new runs, write it again with*

```
python -m simulator experiment        # plays what has no result yet; keeps each run in docs/results/
python -m simulator results --results docs/results --out docs/results.md
```

The same result files give the same page and plots, byte for byte (with the same version of matplotlib).

> **The policy has changed since most of these runs.** Pre-training in closed form, a session's taste and ends by slate
> are of 2026-11-29 (decisions.md). Of our own methods only `ialp_ap` has been played again, with ten seeds in the world
> of boredom; `ialp_ft`, `ialp_frozen`, `boltzmann` and the controls are of the policy that it replaced, so that their
> comparison with `ialp_ap` is one of two policies. Since 2026-11-30 the learner finds out sooner what drives users
> away (decisions.md); `ialp_ap` was played before that. What the new start is worth to real people is on people.md.
"""

WORLDS_HEAD = """\
## Worlds

Cumulative reward relative to the strongest bandit, in worlds whose users take what they are shown in different ways
(experiments.md has the equations). The strongest bandit of a world is the best of learned popularity, LinUCB and
Thompson sampling there. A method that is ahead in only one world does not count as ahead. The mean is over the worlds,
without an interval: the same seeds bring the same users to all of them, so that they are not independent.
"""

READING = f"""\
## How to read this page

- **Reward** is the number of positive responses in a session of a simulated user. "first 1,000", "all" and "last
  1,000" are means per session over those sessions; "per turn" is per slate, since a user who stays longer can respond
  more often; "turns" is the mean length of a session. Cumulative reward over {PROTOCOL.sessions:,} sessions is
  {PROTOCOL.sessions:,} times "all".
- **Regret** is the oracle's reward per session minus the method's. The oracle knows every user's true taste
  and answers greedily; no method can know it. It does not learn, so that fewer of its sessions suffice.
- **Coverage** is the share of the catalogue that was shown at all. **Effective coverage** counts items as if all were
  shown equally often: the exponential of the entropy of their shares, over the number of items. **Diversity** is the
  mean of 1 − cosine over pairs of items of one session, **novelty** the mean of −log2 of an item's true share of
  popularity.
- **CPU s** is the processor time of {PROTOCOL.sessions:,} sessions, the simulated users' own included, on machines that
  had other work as well: it shows only the order of magnitude.
- **Groups**: `ialp` uses a language model's judgements, `control` uses other judgements or spoils them, `learner` is
  ours without any prior, `baseline` is other people's method, `logs` are methods that were given 2,000 sessions of a
  popularity policy before the first user and learn no more, `ceiling` knows the truth.
- **Intervals.** A seed brings the same users in the same order to every method. So two methods are compared by their
  differences seed by seed, with Student's 95% interval; a ratio is one of means, its interval by the delta method on
  the same pairs. "x ± y" is a mean over seeds with half its 95% interval. A mean over environments takes them as
  independent.
- **Outcomes.** A part of a goal is *met* where the measured value is on the goal's side; *uncertain* says that the 95%
  interval reaches to the other side. A goal is met where all its parts are.
  The intervals are not corrected for the number of goals and their parts.
- **Windows.** Of {PROTOCOL.sessions // WINDOW} windows without any true difference, each looks significantly worse with
  a chance of {100 * ONE_SIDED:g}%. So both are given: windows taken alone, and with Holm's correction for their number.
- **Simulated judges** know the truth as well as their accuracy says: the correlation of their judgements with it. A
  model's place among them is interpolated from its benefit (points that fall are pooled); the interval of the place
  is that of the model's own benefit, without the curve's.
- **The best of several.** The strongest baseline is chosen on the same sessions that it is compared on, by the highest
  mean, which favours it. The better variant of A-iALP is likewise chosen after the fact, one for all environments.
- A method has the same colour in every plot with lines; bars and points are coloured by group. Bands and whiskers are
  95% intervals over seeds.
"""


def results_page(results: Results, images: Mapping[str, str]) -> str:
    """The page; `images` maps a figure's name (see `figures.draw_all`) to its address as seen from the page."""
    judged = goals(results)
    parts = [
        HEAD,
        _warnings(results),
        "## The goals in short\n\n" + goals_in_short(judged),
        "## All environments\n\nCumulative reward relative to the strongest baseline of each environment.\n\n"
        + summary_table(results),
        *(_image(images, name, text) for name, text in _OVERALL.items()),
        _worlds(results),
        *(_environment(results, environment, images) for environment in results.data_sets),
        "## The goals in detail\n",
        *(goal_in_detail(goal) for goal in judged),
        "## What was run\n\n" + _what_was_run(results),
        READING,
    ]
    return "\n".join(part for part in parts if part)


_OVERALL = {
    "windows": "Reward of ialp_ap minus that of ialp_frozen, in windows of 500 sessions",
    "judges": "Benefit of a prior by the accuracy of its simulated judge, and where the language models stand",
}


def _image(images: Mapping[str, str], name: str, text: str) -> str:
    return f"![{text}]({PurePosixPath(images[name])})\n" if name in images else ""


def _warnings(results: Results) -> str:
    """Write the warnings that a reader needs before any number."""
    warnings = []
    sources = {code.sources for code in results.code}
    if len(sources) > 1:
        warnings.append(
            f"**The runs come from {len(sources)} different states of the code.** They are listed under "
            '"What was run"; differences between methods may be differences of the code.'
        )
    short = {
        f"`{runs.method}` in {results.environment_title(environment)}"
        for environment, methods in results.cells.items()
        for runs in methods.values()
        if len(runs.records) < PROTOCOL.seeds or (runs.sessions < PROTOCOL.sessions and runs.group not in CONSTANT)
    }
    if short:
        warnings.append(
            f"**{len(short)} methods (counted in each environment) have fewer than {PROTOCOL.seeds} seeds or "
            f"{PROTOCOL.sessions:,} sessions.** The tables show those numbers in bold. A run that is too short is in "
            "no comparison that needs all sessions."
        )
    if results.left_out:
        warnings.append("Left out, because newer runs replace them: " + "; ".join(results.left_out) + ".")
    return "".join(f"> {warning}\n>\n" for warning in warnings).removesuffix(">\n")


def _worlds(results: Results) -> str:
    """A table for each data set of which there is more than one world."""
    several = [data_set for data_set in results.data_sets if len(results.worlds(data_set)) > 1]
    parts = [f"### {results.environment_title(data_set)}\n\n{worlds_table(results, data_set)}" for data_set in several]
    return "\n".join([WORLDS_HEAD, *parts]) if parts else ""


def _environment(results: Results, environment: str, images: Mapping[str, str]) -> str:
    facts = next(iter(results.cells[environment].values())).configuration["environment"]
    rules = facts.get("rules", {})
    sizes = {
        "items": facts.get("n_items"),
        "users": facts.get("n_users"),
        "items in a slate": rules.get("slate_size"),
        "turns at most": rules.get("max_turn"),
        "AUC of the user model on held-out interactions": facts.get("held_out_auc"),
    }
    described = "; ".join(f"{name}: {value:,}" for name, value in sizes.items() if value is not None)
    title = results.environment_title(environment)
    parts = [
        f"## {title}\n",
        f"{described}.\n" if described else "",
        _image(images, f"{environment}-learning", f"{title}: reward per session while learning"),
        _image(images, f"{environment}-bars", f"{title}: reward of all methods"),
        _image(images, f"{environment}-coverage", f"{title}: reward against coverage"),
        "Reward, regret and cost; the best first.\n",
        reward_table(results, environment),
        "What was shown.\n",
        variety_table(results, environment),
    ]
    return "\n".join(part for part in parts if part)


def _what_was_run(results: Results) -> str:
    all_runs = [runs for methods in results.cells.values() for runs in methods.values()]
    concurrent = sorted({int(r.configuration["protocol"]["concurrent"]) for r in all_runs})
    rows = []
    for environment, of_method in results.cells.items():
        seeds = sorted({seed for runs in of_method.values() for seed in runs.records})
        n_runs = sum(len(runs.records) for runs in of_method.values())
        sessions = sum(record.sessions for runs in of_method.values() for record in runs.records.values())
        title = results.environment_title(environment)
        rows.append([title, f"{len(of_method)}", _ranges(seeds), f"{n_runs:,}", f"{sessions:,}"])
    all_methods = sorted({runs.method for runs in all_runs})
    code = []
    for state, n in results.code.items():
        methods = sorted({runs.method for runs in all_runs for r in runs.records.values() if code_of(r) == state})
        names = "all" if methods == all_methods else ", ".join(f"`{method}`" for method in methods)
        code.append([state.version, f"`{state.commit}`", f"`{state.sources}`", f"{n:,}", names])
    return (
        f"Protocol: {PROTOCOL.seeds} seeds of {PROTOCOL.sessions:,} sessions each, {_ranges(concurrent)} users at a "
        "time; a method learns after each of their turns. Options of every method are in its records and in "
        "`simulator/experiments/experiments.toml`.\n\n"
        + table(["environment", "methods", "seeds", "runs", "sessions"], rows, left=1)
        + "\nCode that the runs were made with:\n\n"
        + table(["version", "commit", "hash of the sources", "runs", "methods"], code, left=5)
    )


def _ranges(numbers: list[int]) -> str:
    """0, 1, 2, 5 as `0–2, 5`."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    return ", ".join(f"{s[0]}–{s[-1]}" if len(s) > 1 else f"{s[0]}" for s in spans)
