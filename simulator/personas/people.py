"""Persons with a taste that everybody understands, and what a deployment would show them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.contract.preview import PreviewedItem, PreviewResponse
from simulator.personas.catalogue import Category, Item, distinct
from simulator.personas.effect import FEW
from simulator.personas.probe import STRANGER, Probe, Taste

FANS = 5


@dataclass(frozen=True)
class Person:
    """Somebody: what they liked or disliked, and the categories that this speaks for, or against.

    `opposite` names the person who liked what they disliked.
    """

    name: str
    taste: Taste
    categories: tuple[str, ...]
    opposite: str | None = None


@dataclass(frozen=True)
class ShownItem:
    """An item of a list; `fits`: it has one of the person's categories."""

    item_id: str
    text: str
    categories: list[str]
    in_slate: float  # probability of being in a slate
    fits: bool


@dataclass(frozen=True)
class Shown:
    """Items that a person would be shown, and how far they are from what others would be shown."""

    name: str
    liked: list[str]  # titles
    disliked: list[str]
    categories: list[str]
    share: float  # expected, of a slate's slots, of their categories
    stranger_share: float  # the same of a stranger who is shown none of what they liked or disliked
    likeliest: list[ShownItem]
    slate: list[ShownItem]
    from_stranger: float  # total variation of the expected shares of a slate's slots
    opposite: str | None
    from_opposite: float | None  # likewise


def people_of(items: Sequence[Item], categories: Sequence[Category], seed: int) -> list[Person]:
    """Choose those to look at: well-known ones if the catalogue has their films, or else made from its categories."""
    return _film_lovers(items) or _fans(items, categories, seed)


def _fans(items: Sequence[Item], categories: Sequence[Category], seed: int) -> list[Person]:
    """Make a fan of each of the most distinct categories, one of the first two, one who dislikes, and a stranger."""
    chosen = distinct(categories, FANS)
    names = {category.name for category in chosen}
    alone = {item.item_id for item in items if len(names & set(item.categories)) == 1}
    rng = np.random.default_rng(seed)
    liked: list[tuple[str, ...]] = []
    for category in chosen:
        # What belongs to no other of them speaks for this category alone.
        own = [item for item in category.item_ids if item in alone]
        among = own if len(own) >= FEW else list(category.item_ids)
        liked.append(tuple(rng.permutation(np.array(among, object))[:FEW]))
    fans = [
        Person(f"a fan of {category.name}", Taste(few), (category.name,))
        for category, few in zip(chosen, liked, strict=True)
    ]
    first, *others = chosen
    against = Person(
        f"not a fan of {first.name}", Taste(disliked=liked[0]), (first.name,), opposite=f"a fan of {first.name}"
    )
    both = [
        Person(f"a fan of {first.name} and {second.name}", Taste((*liked[0], *liked[1])), (first.name, second.name))
        for second in others[:1]
    ]
    return [*fans[:2], *both, against, Person("a stranger", STRANGER, ()), *fans[2:]]


_ACTION = ("The Matrix (1999)", "Terminator 2: Judgment Day (1991)", "Alien (1979)")
_CHILDREN = ("Toy Story (1995)", "Finding Nemo (2003)", "The Lion King (1994)")
_HORROR = ("The Exorcist (1973)", "The Shining (1980)", "A Nightmare on Elm Street (1984)")


def _film_lovers(items: Sequence[Item]) -> list[Person]:
    """Make the persons whom everybody who knows films can judge; empty where one of their films is not there."""
    ids = {item.text: item.item_id for item in items}
    if any(title not in ids for title in (*_ACTION, *_CHILDREN, *_HORROR)):
        return []
    action, children, horror = (tuple(ids[title] for title in titles) for titles in (_ACTION, _CHILDREN, _HORROR))
    fan = "a fan of Toy Story, Finding Nemo and The Lion King"
    return [
        Person("a fan of The Matrix, Terminator 2 and Alien", Taste(action), ("Sci-Fi", "Action")),
        Person(fan, Taste(children), ("Animation", "Children")),
        Person(
            "somebody who disliked Toy Story, Finding Nemo and The Lion King",
            Taste(disliked=children),
            ("Animation", "Children"),
            opposite=fan,
        ),
        Person("a fan of The Exorcist, The Shining and A Nightmare on Elm Street", Taste(horror), ("Horror",)),
        Person("a stranger", STRANGER, ()),
    ]


async def look(person: Person, items: Sequence[Item], probe: Probe, seed: int) -> Shown:
    """Ask what a person would be shown, compared with a stranger and with their opposite."""
    texts = {item.item_id: item.text for item in items}
    members = tuple(item.item_id for item in items if set(person.categories) & set(item.categories))
    answer = await probe.preview(person.taste, STRANGER, seed=seed ^ zlib.crc32(person.name.encode()))
    opposite = None
    if person.opposite is not None:
        other = Taste(person.taste.disliked, person.taste.liked)
        opposite = await probe.preview(person.taste, other)
    # Of several categories together, an item counts once.
    theirs = Category(person.categories, members, is_listed=False)
    excluded = (*person.taste.liked, *person.taste.disliked)
    share, stranger_share = await probe.shares(theirs, person.taste, STRANGER, excluded, seed)
    return Shown(
        name=person.name,
        liked=[texts[item] for item in person.taste.liked],
        disliked=[texts[item] for item in person.taste.disliked],
        categories=list(person.categories),
        share=share,
        stranger_share=stranger_share or 0.0,
        likeliest=[_shown(item, person) for item in answer.likeliest],
        slate=[_shown(item, person) for item in answer.slate],
        from_stranger=_distance(answer),
        opposite=person.opposite,
        from_opposite=None if opposite is None else _distance(opposite),
    )


def _distance(answer: PreviewResponse) -> float:
    assert answer.comparison is not None
    return answer.comparison.total_variation


def _shown(item: PreviewedItem, person: Person) -> ShownItem:
    fits = bool(set(item.categories) & set(person.categories))
    return ShownItem(item.item_id, item.text, item.categories, item.in_slate, fits)
