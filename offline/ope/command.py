"""`evaluate --log`: a snapshot against the service's own log."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from offline.artefacts import sha256_file, write_manifest
from offline.ope.evaluation import Evaluation, OpeConfig, Row, evaluate, usable
from offline.ope.feedback import bandit_feedback, save_bandit_feedback
from offline.ope.log import read_log
from offline.ope.target import index_log, open_target
from service.command_line.progress import progress
from service.durable import write_file
from service.policy.off_policy import LEAST_SAMPLE
from service.policy.variants import Arm

STAGE = "evaluate"
_NAMES = {
    "logged": "logged policies",
    "dm": "direct method",
    "ips": "IPS",
    "snips": "SNIPS",
    "dr": "DR",
    "switch_dr": "switch-DR",
    "rips": "reward-interaction IPS",
}


@dataclass(frozen=True)
class Inputs:
    """Files of one evaluation."""

    log: Path
    snapshot: Path
    out: Path
    arm: Arm
    items: Path | None = None
    obp_out: Path | None = None
    config: OpeConfig = field(default_factory=OpeConfig)


def run(inputs: Inputs, console: Console) -> Evaluation:
    """Estimate, write OUT/results.json with its manifest (and the bandit feedback, if asked for), and print the table.

    Raises:
        OfflineError: an input cannot be read, or nothing can be estimated from it.
    """
    log = read_log(inputs.log)
    target = open_target(inputs.snapshot, inputs.arm, inputs.items)
    with progress("replaying the log", len(log.slates), "slates", console=console) as bar:
        evaluation = evaluate(log, target, inputs.config, bar.advance)
    if inputs.obp_out is not None:
        kept, _ = usable(log, inputs.config)
        save_bandit_feedback(bandit_feedback(index_log(kept, target), target), inputs.obp_out)
    results: dict[str, Any] = {
        "target": {"version": target.version, "arm": str(target.arm)},
        "log": dict(log.metadata) | {"catalogue": len(log.catalogue)},
        **evaluation.as_json(),
    }
    write_file(inputs.out / "results.json", (json.dumps(results, indent=2, allow_nan=False) + "\n").encode())
    hashes = {"log": sha256_file(inputs.log), "snapshot/manifest.json": sha256_file(inputs.snapshot / "manifest.json")}
    if inputs.items is not None:
        hashes["items"] = sha256_file(inputs.items)
    config = asdict(inputs.config) | {"arm": str(inputs.arm)}
    write_manifest(inputs.out, STAGE, config=config, results=results, inputs=hashes)
    _print(console, f"version {target.version}, {target.arm} arm", evaluation)
    return evaluation


_MANY = 1_000


def _print(console: Console, what: str, evaluation: Evaluation) -> None:
    for unit, rows in (("slot", evaluation.per_slot), ("slate", evaluation.per_slate)):
        table = Table(title=f"Reward per {unit}: {what}, from the log")
        table.add_column("estimator")
        columns = ("value", "95% interval", *(("bootstrap 95%",) if _has_bootstrap(rows) else ()))
        for column in columns:
            table.add_column(column, justify="right")
        for name, row in rows.items():
            intervals = [(row.low, row.high), (row.bootstrap_low, row.bootstrap_high)][: len(columns) - 1]
            table.add_row(_NAMES[name], _number(row.value), *(f"{_number(a)} … {_number(b)}" for a, b in intervals))
        console.print(table)
    counts, seen = evaluation.counts, evaluation.diagnostics
    console.print(
        f"{counts['slates']} of {counts['logged']} impressions ({counts['slots']} slots) of {counts['users']} users; "
        f"effective sample size {seen['ess_slots']:.0f} slots, {seen['ess_slates']:.0f} slates; "
        f"mean ratio {seen['mean_ratio_slots']:.3f} and {seen['mean_ratio_slates']:.3f} (1 is expected)"
    )
    for unit in ("slot", "slate"):
        if seen[f"ess_{unit}s"] < LEAST_SAMPLE:
            times = LEAST_SAMPLE / max(seen[f"ess_{unit}s"], 1e-9)
            more = f"about {times:.0f} times as many impressions" if times < _MANY else "a log of a policy like it"
            console.print(f"the log is too small to tell what it would earn per {unit}: that takes {more}")
    for name in ("unverified", "slots_without_row"):
        if counts[name]:
            console.print(f"{name.replace('_', ' ')}: {counts[name]}")


def _has_bootstrap(rows: dict[str, Row]) -> bool:
    return any(row.bootstrap_low is not None for row in rows.values())


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.4f}"
