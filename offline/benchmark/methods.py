"""The table of all methods. A new one is a file of its own with a METHODS of its own, and a name in this list."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from offline.benchmark import judged, live
from offline.benchmark.baselines import chance, ease, ials, item_knn, popularity, sasrec, text
from offline.benchmark.ranker import Method

_MODULES = (chance, popularity, text, item_knn, ials, ease, sasrec, judged, live)

METHODS: Mapping[str, Method] = MappingProxyType(
    {name: method for module in _MODULES for name, method in module.METHODS.items()}
)
