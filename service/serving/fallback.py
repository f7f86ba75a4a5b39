"""A slate where no policy is loaded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.serving.slates import Candidates, Slate, SlateWarning, Slot, Source, with_shortage
from service.store.catalogue import Catalogue
from service.store.slate_ids import unlogged_id


def fall_back(catalogue: Catalogue, chosen: Candidates, popular: Sequence[str], k: int) -> Slate:
    """Build a slate without a policy: the most popular items, then the others in the catalogue's order."""
    places = {item: catalogue.index.get(item, len(catalogue)) for item in popular}  # later ones may be known meanwhile
    by_popularity = [item for item, place in places.items() if place < len(catalogue) and chosen.available[place]]
    rest = [catalogue.ids[i] for i in np.flatnonzero(chosen.available)]
    ids = list(dict.fromkeys([*by_popularity, *rest]))[:k]
    popular_set = set(by_popularity)
    sources: list[Source] = ["popularity" if item_id in popular_set else "catalogue" for item_id in ids]
    for slot, place in sorted(chosen.rules.pinned.items()) if chosen.rules is not None else ():
        ids.insert(slot, catalogue.ids[place])
        sources.insert(slot, "pinned")
    shown = zip(ids[:k], sources, strict=False)
    items = [Slot(item_id, slot, 0.0, 1.0, source) for slot, (item_id, source) in enumerate(shown)]
    warnings: list[SlateWarning] = ["no_policy", *with_shortage(chosen, len(items), k)]
    return Slate(unlogged_id(), 0, "fallback", items, warnings, None)
