"""One category's probability against likes and dislikes, as the shapes of a small picture; `curve.html` draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.personas.effect import Effect, Stage
from simulator.personas.words import is_good, percent, stage_name

_WIDTH, _HEIGHT, _SIDE = 240, 118, 22
_TOP, _FOOT = 22, 92  # of the curve


@dataclass(frozen=True)
class Dot:
    """A stage: its place, its value above it, and its likes below the axis."""

    x: str
    y: str
    above: str  # the y of its value
    value: str
    likes: str


@dataclass(frozen=True)
class Curve:
    """The shapes; a place is `x,y`, and several are parted by spaces."""

    good: bool
    label: str
    band: str
    spreads: Sequence[tuple[str, str]]  # of dislikes, the low end and the high one
    dashed: str
    line: str
    dots: Sequence[Dot]
    width: int = _WIDTH
    height: int = _HEIGHT
    foot: int = _FOOT


def draw(effect: Effect) -> Curve:
    """Draw dislikes on the left, no likes beside them, and likes on the right; bands are one standard deviation."""
    stages = effect.stages
    top = max(stage.mean + stage.spread for stage in stages) or 1.0
    step = (_WIDTH - 2 * _SIDE) / (len(stages) - 1)

    def at(n: int, value: float) -> str:
        return f"{_SIDE + n * step:.1f},{_FOOT - (_FOOT - _TOP) * max(value, 0.0) / top:.1f}"

    first = next(n for n, stage in enumerate(stages) if stage.likes >= 0)
    means = [at(n, stage.mean) for n, stage in enumerate(stages)]
    upper = [at(n, stage.mean + stage.spread) for n, stage in enumerate(stages)]
    lower = [at(n, stage.mean - stage.spread) for n, stage in enumerate(stages)]
    return Curve(
        good=is_good(effect),
        label=f"{effect.name}: " + ", ".join(f"{stage_name(s.likes)} {percent(s.mean)}" for s in stages),
        band=" ".join([*upper[first:], *reversed(lower[first:])]),
        spreads=list(zip(lower[:first], upper[:first], strict=True)),
        dashed=" ".join(means[: first + 1]),
        line=" ".join(means[first:]),
        dots=[_dot(place, stage) for place, stage in zip(means, stages, strict=True)],
    )


def _dot(place: str, stage: Stage) -> Dot:
    x, y = place.split(",")
    return Dot(x, y, f"{float(y) - 7:.1f}", percent(stage.mean), str(stage.likes).replace("-", "−"))
