"""Section of docs/reliability.md on the cost of bad versions, from the results of `degradation`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from simulator.pages.sections import filled

NAME, WRITER = "degradation", "python -m simulator degradation"
_FAULTS = {"bad_update": "bad update", "taste_shift": "shift of tastes", "none": "nothing"}
Line = dict[str, Any]


def write_page(results: Path, page: Path) -> None:
    """Write the marked part of `page`."""
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    page.write_text(filled(page.read_text(), NAME, WRITER, section(lines)))


def section(lines: Sequence[Line]) -> str:
    """False alarms, then one row for each environment and fault."""
    stationary = [line for line in lines if not line["plan"]["learns"]]
    lives = [line for line in lines if line["plan"]["learns"]]
    parts = []
    for environment in dict.fromkeys(line["environment"] for line in stationary):
        of = [line for line in stationary if line["environment"] == environment]
        alarms = sum(line["retreated_at"] is not None for line in of)
        plan, slates, share = of[0]["plan"], mean(line["slates"] for line in of), alarms / len(of)
        parts.append(
            f"- **False alarms: {alarms} of {len(of)}** stationary runs ({share:.1%}), in which both arms get "
            f"the frozen policy ({environment}, {slates:,.0f} slates each, a version every "
            f"{plan['publish_every']:,} slates, control {plan['control_share']:.0%}, margin {plan['margin']:.0%}, "
            f"alpha {plan['alpha']:g})."
        )
    parts += ["", _table(lives)] if lives else []
    return "\n".join(parts)


def _table(lives: Sequence[Line]) -> str:
    head = (
        "| environment | what happens | runs | rolled back | slates until then | lost until then | lost without a watch"
        " | adaptive / control before | until roll-back | after |\n"
        "|---|---|---|---|---|---|---|---|---|---|"
    )
    rows = []
    for environment in dict.fromkeys(line["environment"] for line in lives):
        for fault, name in _FAULTS.items():
            of = [x for x in lives if (x["environment"], x["plan"]["fault"]) == (environment, fault)]
            watched = [x for x in of if x["plan"]["watched"]]
            if watched:
                rows.append(_row(environment, name, watched, [x for x in of if not x["plan"]["watched"]]))
    return "\n".join([head, *rows])


def _row(environment: str, name: str, watched: Sequence[Line], unwatched: Sequence[Line]) -> str:
    back = [x for x in watched if x["retreated_at"] is not None]
    cells = [
        environment,
        name,
        str(len(watched)),
        str(len(back)),
        f"{mean(x['retreated_at'] - x['fault_at'] for x in back):,.0f}" if back else "-",
        f"{mean(x['lost'] for x in back):,.0f}" if back else "-",
        f"{mean(x['lost'] for x in unwatched):,.0f}" if unwatched else "-",
        _ratio(watched, "before"),
        _ratio(watched, "during"),
        _ratio(back, "after") if back else "-",
    ]
    return f"| {' | '.join(cells)} |"


def _ratio(lines: Sequence[Line], phase: str) -> str:
    control, adaptive = (mean(line[phase][arm] for line in lines) for arm in (0, 1))
    return f"{adaptive:.3f} / {control:.3f}"
