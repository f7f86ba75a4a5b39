"""Fills the marked section of docs/reliability.md from the long form's results: `python page.py RESULTS PAGE`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from simulator.pages.sections import filled

NAME, WRITER = "chaos", "tests/chaos/page.py"
PHASES = ("before", "during", "after")
RECOVERY = ("ready", "recommend", "feedback", "worker_caught_up", "learning")
Record = dict[str, Any]


def page(records: Sequence[Record], proof: Record | None) -> str:
    """The section's text."""
    parts = [_in_short(records, proof), _facts(records), _answers(records), _timings(records)]
    return "\n\n".join(parts)


def _in_short(records: Sequence[Record], proof: Record | None) -> str:
    feedback, slates = _sum(records, "feedback"), _sum(records, "impressions")
    statuses: Counter[str] = Counter()
    for record in records:
        for routes in record["answers"].values():
            for outcomes in routes.values():
                statuses.update(outcomes)
    lines = [
        f"- **{len(records)} faults.** {feedback['acknowledged']:,} feedback events were acknowledged (202); "
        f"{feedback['acknowledged_not_logged']:,} of them are not in the log, {feedback['logged_twice']:,} are in it "
        f"twice; the log holds {feedback['logged']:,}, the worker learned {feedback['learned']:,}.",
        f"- {slates['answered_as_logged']:,} slates were answered as logged; {slates['answered_not_logged']:,} of them "
        f"are not in the log, {slates['logged_twice']:,} are in it twice; the log holds {slates['logged']:,}, the "
        f"worker learned {slates['learned']:,}.",
        f"- All that clients saw, in requests: {_told(statuses)}.",
    ]
    if proof is not None:
        lines.append(
            f"- {proof['events']:,} events, the worker killed by SIGKILL {proof['kills']} times at random "
            f"moments: after {proof['versions']:,} versions its checkpoint equals that of an uninterrupted worker "
            f"bit for bit ({proof['tensors_identical']} tensors, {proof['checkpoint_bytes']:,} bytes, all counters)."
        )
    return "\n".join(lines)


def _facts(records: Sequence[Record]) -> str:
    head = ("fault", "what happens", "feedback acknowledged", "logged", "learned", "lost", "twice", "slates logged",
            "learned", "retries told duplicate")  # fmt: skip
    rows = []
    for record in records:
        feedback, slates = record["feedback"], record["impressions"]
        names = ("acknowledged", "logged", "learned", "acknowledged_not_logged", "logged_twice")
        counts = [
            *(feedback[n] for n in names),
            slates["logged"],
            slates["learned"],
            feedback["retries_told_duplicate"],
        ]
        rows.append([f"`{record['fault']}`", record["tells"], *(f"{count:,}" for count in counts)])
    return f"### What is kept\n\n{_table(head, rows, left=2)}"


def _answers(records: Sequence[Record]) -> str:
    head = ("fault", "/recommend during", "after", "/feedback during", "after", "warnings of /recommend during")
    rows = []
    for record in records:
        answers = record["answers"]
        cells = [_told(answers[phase][route]) for route in ("/recommend", "/feedback") for phase in ("during", "after")]
        rows.append([f"`{record['fault']}`", *cells, _told(record["warnings"]["during"])])
    text = "Requests by status (with the problem's code) or by what the client's library raised; before each fault all "
    text += "were 200 and 202. A request that reaches into the fault is counted as during."
    return f"### What clients see\n\n{text}\n\n{_table(head, rows, left=6)}"


def _timings(records: Sequence[Record]) -> str:
    head = ("fault", "held, s", *(f"p50 / p99 {phase}, ms" for phase in PHASES),
            *(name.replace("_", " ") for name in RECOVERY))  # fmt: skip
    rows = []
    for record in records:
        latencies = [record["recommend_ms"][phase] for phase in PHASES]
        told = [f"{ms['p50']:g} / {ms['p99']:g}" if ms["n"] else "–" for ms in latencies]
        recovery = [f"{record['recovery_s'][name]:g}" if name in record["recovery_s"] else "–" for name in RECOVERY]
        rows.append([f"`{record['fault']}`", f"{record['seconds']['fault']:g}", *told, *recovery])
    cpus = sorted({record["machine"]["cpus"] for record in records})
    load = [record["machine"]["load_average"] for record in records]
    text = f"Measured on {' and '.join(map(str, cpus))} cores that the clients, all processes and Redis share (load "
    text += (
        f"average {min(load):g} to {max(load):g}). Latencies are of /recommend, of answers with 200. Recovery is in "
    )
    text += "seconds from the end of the fault, starting of processes included: readiness, the first success of each "
    text += "route, the worker at the log's end as it was when Redis first answered, and the first impression that "
    text += "closed after that."
    return f"### How long it takes\n\n{text}\n\n{_table(head, rows, left=1)}"


def _sum(records: Iterable[Record], part: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for record in records:
        total.update({name: n for name, n in record[part].items() if isinstance(n, int)})
    return total


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in sorted(counts.items())) or "–"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> str:
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def main(results: Path, target: Path) -> None:
    """Rewrite the page."""
    records = [json.loads(line) for line in results.read_text().splitlines()]
    proof = results.with_name("exactly_once.json")
    section = page(records, json.loads(proof.read_text()) if proof.exists() else None)
    target.write_text(filled(target.read_text(), NAME, WRITER, section))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
