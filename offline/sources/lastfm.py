"""HetRec 2011 Last.FM 2K (Cantador, Brusilovsky, Kuflik, RecSys 2011): artists, tags, and who listened to whom."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable
from pathlib import Path

from offline.datasets import Dataset, Item, Observation, Scenario, index_observations
from offline.sources.rows import at_least, number_within, read_table
from service.tables.problems import Problems

SCENARIO = Scenario(noun="artist", nouns="artists", liked="enjoyed listening to", disliked="did not enjoy")
TAGS_PER_ARTIST = 5

_identifier = number_within(1, 10**9)


def load_lastfm(folder: Path, min_listeners: int = 10) -> Dataset:
    """Artists with at least `min_listeners` listeners and a tag; categories are their most frequent tags.

    Listening is liking; `value` is the play count and `time` the order within the user (no time is known).

    Raises:
        OfflineError: a file is missing or not in its encoding.
    """
    problems: Problems = []
    plays = {"userID": _identifier, "artistID": _identifier, "weight": _identifier}
    observations = [
        Observation(user, artist, weight, True, line)
        for line, (user, artist, weight) in read_table(
            folder / "user_artists.dat", plays, problems, separator="\t", header=True
        )
    ]
    kept = at_least(observations, min_listeners)
    tags = _top_tags(folder, problems)
    items: list[Item] = []
    index: dict[Hashable, int] = {}
    columns = {"id": _identifier, "name": _text}
    for _, (artist, name) in read_table(
        folder / "artists.dat", columns, problems, separator="\t", header=True, width=4
    ):
        if artist in kept and artist in tags:
            index[artist] = len(items)
            items.append(Item(str(artist), name, tags[artist]))
    return Dataset("lfm", SCENARIO, tuple(items), index_observations(observations, index), tuple(problems))


def _top_tags(folder: Path, problems: Problems) -> dict[int, tuple[str, ...]]:
    words = {"tagID": _identifier, "tagValue": _text}
    names: dict[int, str] = {
        tag: name
        for _, (tag, name) in read_table(
            folder / "tags.dat", words, problems, separator="\t", header=True, encoding="latin-1"
        )
    }
    counts: defaultdict[int, Counter[int]] = defaultdict(Counter)
    assignments = {"userID": _identifier, "artistID": _identifier, "tagID": _identifier}
    # Days, months and years stand behind; a few are nonsense, and nothing here needs them.
    for _, (_, artist, tag) in read_table(
        folder / "user_taggedartists.dat", assignments, problems, separator="\t", header=True, width=6
    ):
        if tag in names:
            counts[artist][tag] += 1
    return {
        artist: tuple(names[tag] for tag, _ in sorted(tally.items(), key=lambda x: (-x[1], x[0]))[:TAGS_PER_ARTIST])
        for artist, tally in counts.items()
    }


def _text(cell: str) -> str:
    if not cell.strip():
        raise ValueError(cell)
    return cell.strip()
