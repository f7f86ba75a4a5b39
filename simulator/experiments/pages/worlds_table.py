"""One table for all worlds of a data set: what each method gains over the strongest bandit there."""

from __future__ import annotations

import numpy as np

from simulator.experiments.analysis.results import Results
from simulator.experiments.pages.tables import NONE, gain, method_titles, relative, table

BANDITS = ("popularity", "linucb", "linear_ts")  # kinds of methods


def worlds_table(results: Results, data_set: str) -> str:
    """A row for each method that was played in more than one world, the best on average first."""
    worlds = results.worlds(data_set)
    rivals = {e: results.strongest(e, ("baseline",), kinds=BANDITS) for e in worlds.values()}
    rows: list[tuple[float, list[str]]] = []
    for method, title in method_titles(results).items():
        if sum(results.runs(e, method) is not None for e in rivals) < 2:
            continue
        ratios = [relative(results, e, method, rival) for e, rival in rivals.items()]
        played = [ratio.mean for ratio in ratios if ratio is not None]
        mean = float(np.mean(played)) if len(played) == len(ratios) else None
        cells = [NONE if ratio is None else gain(ratio) for ratio in ratios]
        order = mean if mean is not None else -1.0 + float(np.mean([0.0, *played]))
        rows.append((order, [title, f"`{method}`", *cells, NONE if mean is None else f"{100 * (mean - 1):+.1f}%"]))
    rows.sort(key=lambda row: (-row[0], row[1][1]))
    return table(["method", "id", *worlds, "mean"], [cells for _, cells in rows], left=2)
