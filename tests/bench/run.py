"""`make bench`: every measurement of docs/performance.md, one after the other, into one file; `--only` for some."""

from __future__ import annotations

import datetime
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from tests.bench import million, scale, serving, start

SECTIONS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "hot_path": serving.hot_path,
    "profile": serving.profile,
    "while_learning": serving.while_learning,
    "freshness": serving.freshness,
    "worker": scale.worker,
    "learner_cost": scale.learner_cost,
    "request_cost": scale.request_cost,
    "million_items": million.million_items,
    "million_users": scale.million_users,
    "start_up": start.start_up,
    "distillation": start.distillation,
}


def main(
    results: Annotated[Path, typer.Option(help="JSON file; what is measured replaces its section in it.")],
    only: Annotated[str, typer.Option(help="Sections by comma: " + ", ".join(SECTIONS))] = ",".join(SECTIONS),
) -> None:
    """Measure. Each section is written as it ends, so that one that is interrupted costs no other."""
    console = Console(stderr=True)
    unknown = set(only.split(",")) - SECTIONS.keys()
    if unknown:
        console.print(f"error: --only: no section is called {', '.join(sorted(unknown))}")
        raise typer.Exit(2)
    if len(os.sched_getaffinity(0)) < 2:
        console.print("error: two cores are needed: one for what is measured, one for who measures")
        raise typer.Exit(2)
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {serving.OTHER_CORE})  # as a client, beside what it measures
    results.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for number, name in enumerate(only.split(","), 1):
        with (
            console.status(f"{number}/{len(only.split(','))} {name}, {time.monotonic() - began:.0f} s so far"),
            tempfile.TemporaryDirectory(prefix="ialp-bench-") as folder,
        ):
            started = time.monotonic()
            record = SECTIONS[name](Path(folder))
        told = json.loads(results.read_text()) if results.exists() else {}
        told[name] = record | {"seconds": round(time.monotonic() - started), "on": _machine()}
        results.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
        console.print(f"{name}: {told[name]['seconds']} s")


def _machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


if __name__ == "__main__":
    typer.run(main)
