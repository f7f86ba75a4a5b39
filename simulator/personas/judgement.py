"""The judgement of one deployment: every category's effect, what persons are shown, and the headline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from service.durable import write_file
from simulator.errors import SimulatorError
from simulator.personas.catalogue import Category, Item
from simulator.personas.effect import STAGE_PAIRS, Effect, measure
from simulator.personas.people import Person, Shown, look
from simulator.personas.probe import ArmName, Probe

RESULTS_FILE, PAGE_FILE = "personas.json", "personas.html"


@dataclass(frozen=True)
class JudgeConfig:
    """Settings of a judgement: arm, sizes, rewards and seed."""

    arm: ArmName = "adaptive"
    k: int = 10  # slots of a slate
    least: int = 15  # items of a category that is judged
    most_likes: int = 10
    draws: int = 5  # of the items that are liked
    like: float = 1.0  # reward
    dislike: float = -1.0
    seed: int = 0


@dataclass(frozen=True)
class Judgement:
    """All that was found; written as personas.json."""

    url: str
    at: float  # unix seconds
    seconds: float
    items: int
    config: JudgeConfig
    answered_by: list[str]  # arms
    versions: list[int]
    categories: list[Effect]
    pairs: list[Effect]  # of overlapping categories
    people: list[Shown]

    @property
    def rising(self) -> int:
        """Number of categories that rise with likes."""
        return sum(effect.likes == "rises" for effect in self.categories)

    @property
    def headline(self) -> list[str]:
        """The counts, as sentences."""
        sentences = [f"{_counts(self.categories, 'categories')}."]
        if self.pairs:
            sentences.append(f"{_counts(self.pairs, 'pairs of overlapping categories')}.")
        return sentences

    def write(self, folder: Path) -> None:
        """Write personas.json."""
        write_file(folder / RESULTS_FILE, msgspec.json.format(msgspec.json.encode(self), indent=2))


def read_judgement(folder: Path) -> Judgement:
    """Read what `Judgement.write` wrote.

    Raises:
        SimulatorError: it is not there, or is something else.
    """
    path = folder / RESULTS_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Judgement)
    except (OSError, msgspec.DecodeError) as error:
        raise SimulatorError(f"{path}: not a judgement ({error}); run `python -m simulator personas` again") from None


def _counts(effects: Sequence[Effect], noun: str) -> str:
    n = len(effects)
    rise = sum(effect.likes == "rises" for effect in effects)
    fall = sum(effect.dislikes == "falls" for effect in effects)
    rare = sum(effect.dislikes == "too rare" for effect in effects)
    apart = sum(effect.told_apart for effect in effects)
    text = f"{rise} of {n} {noun} rise with likes, {fall} of {n - rare} fall with dislikes"
    if rare:
        text += f" ({rare} too rare to fall)"
    return f"{text}, {apart} of {n} tell likes from dislikes"


def requests_for(
    categories: Sequence[Category], pairs: Sequence[Category], people: Sequence[Person], config: JudgeConfig
) -> int:
    """Count the previews that `judge` asks for, in catalogues of at most 1,000 items a category."""
    of_people = 2 * len(people) + sum(person.opposite is not None for person in people)
    return STAGE_PAIRS * config.draws * (len(categories) + len(pairs)) + of_people


async def judge(
    probe: Probe,
    items: Sequence[Item],
    categories: Sequence[Category],
    pairs: Sequence[Category],
    people: Sequence[Person],
    config: JudgeConfig,
    url: str,
) -> Judgement:
    """Ask everything; the probe's client decides how much at once."""
    started = time.monotonic()
    options = {"n_items": len(items), "most_likes": config.most_likes, "draws": config.draws, "seed": config.seed}
    effects = await asyncio.gather(*(measure(one, probe, **options) for one in (*categories, *pairs)))
    shown = await asyncio.gather(*(look(person, items, probe, config.seed) for person in people))
    return Judgement(
        url=url,
        at=time.time(),
        seconds=time.monotonic() - started,
        items=len(items),
        config=config,
        answered_by=sorted(probe.arms),
        versions=sorted(probe.versions),
        categories=list(effects[: len(categories)]),
        pairs=list(effects[len(categories) :]),
        people=list(shown),
    )
