"""One category's probability against likes and dislikes, as a small picture (SVG) in the page's own colours."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from simulator.personas.effect import Effect, Stage
from simulator.personas.words import is_good, percent, stage_name

_WIDTH, _HEIGHT, _SIDE = 240, 118, 22
_TOP, _FOOT = 22, 92  # of the curve

STYLE = """
.curve { width: 100%; height: auto; display: block; color: var(--mark); }
.curve.bad { color: var(--warn); }
.curve text { fill: var(--ink); font: 11px system-ui, sans-serif; text-anchor: middle; }
.curve .value { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
.curve .axis { fill: var(--faint); } .curve .base { stroke: var(--line); }
.curve .band { fill: currentColor; opacity: .16; }
.curve .spread { stroke: currentColor; opacity: .35; stroke-width: 5; }
.curve .line { fill: none; stroke: currentColor; stroke-width: 2; } .curve .dashed { stroke-dasharray: 4 3; }
.curve circle { fill: currentColor; }
"""


def curve(effect: Effect) -> str:
    """Draw dislikes on the left, no likes beside them, and likes on the right; bands are one standard deviation."""
    stages = effect.stages
    top = max(stage.mean + stage.spread for stage in stages) or 1.0
    step = (_WIDTH - 2 * _SIDE) / (len(stages) - 1)

    def at(n: int, value: float) -> str:
        return f"{_SIDE + n * step:.1f},{_FOOT - (_FOOT - _TOP) * max(value, 0.0) / top:.1f}"

    first = next(n for n, stage in enumerate(stages) if stage.likes >= 0)
    liked = list(enumerate(stages))[first:]
    upper = [at(n, stage.mean + stage.spread) for n, stage in liked]
    lower = [at(n, stage.mean - stage.spread) for n, stage in reversed(liked)]
    shapes = [f'<polygon class="band" points="{" ".join(upper + lower)}"/>']
    for n, stage in list(enumerate(stages))[:first]:
        ends = f"M{at(n, stage.mean - stage.spread)} L{at(n, stage.mean + stage.spread)}"
        shapes.append(f'<path class="spread" d="{ends}"/>')
    shapes.append(_line("line dashed", [at(n, stage.mean) for n, stage in enumerate(stages[: first + 1])]))
    shapes.append(_line("line", [at(n, stage.mean) for n, stage in liked]))
    shapes += [_point(at(n, stage.mean), stage) for n, stage in enumerate(stages)]
    kind = "curve" if is_good(effect) else "curve bad"
    label = f"{effect.name}: " + ", ".join(f"{stage_name(s.likes)} {percent(s.mean)}" for s in stages)
    return (
        f'<svg class="{kind}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f'<path class="base" d="M0 {_FOOT} H{_WIDTH}"/>{"".join(shapes)}</svg>'
    )


def _line(kind: str, points: Sequence[str]) -> str:
    return f'<polyline class="{kind}" points="{" ".join(points)}"/>'


def _point(place: str, stage: Stage) -> str:
    """A dot with its value above it and its stage below the axis."""
    x, y = place.split(",")
    value, likes = escape(percent(stage.mean)), str(stage.likes).replace("-", "−")
    return (
        f'<circle cx="{x}" cy="{y}" r="3"/><text class="value" x="{x}" y="{float(y) - 7:.1f}">{value}</text>'
        f'<text class="axis" x="{x}" y="{_FOOT + 17}">{likes}</text>'
    )
