"""Sources of data sets: one file per family of public data, and the user's own catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from offline.datasets import Dataset
from offline.sources.catalogue import Reading, load_catalogue
from offline.sources.coat import load_coat, load_coat_parts
from offline.sources.industry import load_industry
from offline.sources.lastfm import load_lastfm
from offline.sources.movielens import load_movielens100k, movielens

FOLDER_SOURCES: Mapping[str, Callable[[Path], Dataset]] = MappingProxyType(
    {"coat": load_coat, "lfm": load_lastfm, "industry": load_industry, "movielens100k": load_movielens100k}
)
"""Loaders of public data from a folder of their files, by data set name."""

__all__ = [
    "FOLDER_SOURCES",
    "Reading",
    "load_catalogue",
    "load_coat",
    "load_coat_parts",
    "load_industry",
    "load_lastfm",
    "load_movielens100k",
    "movielens",
]
