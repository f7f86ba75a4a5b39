"""Amazon Review Data (2018), Industrial and Scientific (Ni, Li, McAuley, EMNLP-IJCNLP 2019), as purchase sequences."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from offline.datasets import Dataset, Item, Observation, Scenario, index_observations
from offline.sources.rows import at_least, numbered_lines
from service.tables.problems import Problems, RowProblem

SCENARIO = Scenario(noun="product", nouns="products", liked="bought", disliked="did not want")


def load_industry(folder: Path, min_interactions: int = 10) -> Dataset:
    """Products bought at least `min_interactions` times and their buyers; categories: the brand, then the given ones.

    Buying is liking; `time` is the order within the user. The root category, the same for all, is left out.

    Raises:
        OfflineError: a file is missing or is not gzip.
    """
    problems: Problems = []
    observations: list[Observation] = []
    for path, line, row in _objects(folder / "sequences.jsonl.gz", problems):
        user, bought = row.get("user_id"), row.get("items")
        if not isinstance(user, int) or not isinstance(bought, list) or not all(isinstance(i, int) for i in bought):
            problems.append(RowProblem(path, line, "items", "needs a whole number user_id and a list of item numbers"))
            continue
        observations.extend(Observation(user, item, 1.0, True, order) for order, item in enumerate(bought))
    kept = at_least(observations, min_interactions)
    items: list[Item] = []
    index: dict[Hashable, int] = {}
    for path, line, row in _objects(folder / "items.jsonl.gz", problems):
        number, title, categories = row.get("item_id"), row.get("title"), row.get("categories")
        if not isinstance(number, int) or not isinstance(title, str) or not title or not isinstance(categories, list):
            problems.append(RowProblem(path, line, "row", "needs item_id (number), title (text) and categories (list)"))
        elif number in kept:
            index[number] = len(items)
            brand = str(row.get("brand") or "")
            items.append(Item(str(number), title, tuple(c for c in (brand, *map(str, categories[1:])) if c)))
    return Dataset("industry", SCENARIO, tuple(items), index_observations(observations, index), tuple(problems))


def _objects(path: Path, problems: Problems) -> list[tuple[str, int, dict[str, Any]]]:
    rows = []
    for number, line in numbered_lines(path):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append((str(path), number, row))
        else:
            problems.append(RowProblem(str(path), number, "row", "not a JSON object"))
    return rows
