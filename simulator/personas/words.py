"""A judgement's numbers in words, for the terminal and the page alike."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.personas.effect import Effect
from simulator.personas.judgement import Judgement
from simulator.personas.people import Shown, ShownItem


def percent(value: float) -> str:
    """Write a share or a probability."""
    return f"{value:.0%}" if value >= 0.0995 else f"{value:.1%}" if value >= 0.0005 else "<0.1%"


def stage_name(likes: int) -> str:
    """Name a stage: so many likes, or dislikes below zero."""
    if likes == 0:
        return "none"
    noun = "like" if likes > 0 else "dislike"
    return f"{abs(likes)} {noun}{'s' if abs(likes) != 1 else ''}"


def of_dislikes(effect: Effect) -> str:
    """Say what dislikes do, and whether likes do the same."""
    return effect.dislikes if effect.told_apart else f"{effect.dislikes}, as with likes"


def is_good(effect: Effect) -> bool:
    """Check that likes and dislikes do what they should."""
    return effect.likes == "rises" and obeys(effect) and effect.told_apart


def obeys(effect: Effect) -> bool:
    """Check that dislikes make the share fall, if it can."""
    return effect.dislikes in ("falls", "too rare")


def served(judgement: Judgement) -> str:
    """Say who answered."""
    versions = judgement.versions
    several = f"versions {versions[0]} to {versions[-1]}" if len(versions) > 1 else f"version {versions[0]}"
    frozen = " (frozen)" if judgement.answered_by != [judgement.config.arm] else ""
    return f"{several}, {' and '.join(judgement.answered_by)} arm{frozen}"


def capital(text: str) -> str:
    """Begin a text with a capital letter, and leave the rest as it is."""
    return text[:1].upper() + text[1:]


def sentences(shown: Shown) -> list[str]:
    """Say what the lists have of a person's categories, and how far they are from others'."""
    found = []
    if shown.categories:
        kinds = " or ".join(shown.categories)
        found.append(
            f"{_fitting(shown.likeliest)} likeliest and {_fitting(shown.slate)} of a slate are {kinds}:"
            f" {percent(shown.share)} of the slots on average, a stranger's {percent(shown.stranger_share)}."
        )
        found.append(f"Total variation from a stranger {shown.from_stranger:.2f}.")
    if shown.from_opposite is not None:
        found.append(f"From {shown.opposite} {shown.from_opposite:.2f}.")
    return found


def _fitting(items: Sequence[ShownItem]) -> str:
    return f"{sum(item.fits for item in items)} of the {len(items)}"
