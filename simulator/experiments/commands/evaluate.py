"""The command `evaluate`: what a pre-trained snapshot is worth to simulated users, before any feedback."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from offline.artefacts import sha256_file, write_manifest
from offline.datasets import read_dataset
from offline.errors import OfflineError
from service.command_line.progress import progress
from service.durable import write_file

if TYPE_CHECKING:
    from simulator.world.rollout import RolloutStats

STAGE = "evaluate"


def evaluate(
    run: Annotated[Path, typer.Option(help="The run's folder; reads RUN/dataset, writes RUN/evaluate.")],
    snapshot: Annotated[Path | None, typer.Option(help="The snapshot's folder.", show_default="RUN/snapshot")] = None,
    sessions: Annotated[int, typer.Option(min=1, help="Simulated sessions of each policy.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of users and chance.")] = 0,
) -> None:
    """Measure a snapshot in simulation: does it rank what people like, and what does it earn against random?

    Needs: RUN/dataset with interactions and RUN/snapshot, which `offline datasets` and `offline pretrain` write.

    Writes: RUN/evaluate, rewards against random, popularity and a ceiling as results.json with a manifest. A table goes
    to stderr.

    Ctrl-C: results that stood before are as they were; run the same command again.

    Examples:
        python -m simulator evaluate --run runs/mine
    """
    import torch

    torch.set_num_threads(1)
    in_simulation(run, snapshot, sessions, seed, Console(stderr=True))


def in_simulation(run: Path, snapshot: Path | None, sessions: int, seed: int, console: Console) -> None:
    """Does it rank what people like, and what does it earn against random and popularity?

    Raises:
        OfflineError: the data set or the snapshot cannot be read, or there are no interactions.
    """
    from service.policy.snapshot import SnapshotError
    from simulator.experiments.runs.evaluate import held_out_preferences, open_policy, simulated

    dataset = read_dataset(run / "dataset")
    folder = snapshot or run / "snapshot"
    if snapshot is None and not folder.exists():
        raise OfflineError(f"{folder}: not found; run `python -m offline pretrain` first")
    try:
        loaded, policy = open_policy(folder)
    except SnapshotError as error:
        raise OfflineError(str(error)) from None
    if dataset.interactions is None:
        raise OfflineError(
            "this data set has no interactions, so there is nothing to evaluate against; "
            "`datasets --interactions` adds some, and --log evaluates from what a service logged"
        )
    held_out = held_out_preferences(policy, dataset.interactions, len(dataset.items), seed)
    with progress("simulating", 4 * sessions, "sessions", console=console) as bar:
        played = simulated(policy, dataset, seed, sessions, cache=run, progress=bar.advance)
    rows = {name: _row(stats) for name, stats in played.items()}
    results: dict[str, Any] = {"version": loaded.manifest.version, "held_out": asdict(held_out), "simulated": rows}
    results["pretrained_over_random"] = rows["pretrained"]["reward"] / max(rows["random"]["reward"], 1e-9)
    write_file(run / STAGE / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    inputs = {"snapshot/manifest.json": sha256_file(folder / "manifest.json")}
    write_manifest(run / STAGE, STAGE, config={"sessions": sessions, "seed": seed}, results=results, inputs=inputs)
    _print(console, results)


def _row(stats: RolloutStats) -> dict[str, float]:
    n = len(stats.reward)
    spread = float(stats.reward.std(ddof=1)) if n > 1 else 0.0
    return {
        "reward": float(stats.reward.mean()),
        "reward_95": 1.96 * spread / math.sqrt(n),
        "turns": float(stats.length.mean()),
        "reward_per_turn": stats.reward_per_turn,
        "coverage": stats.coverage,
        "diversity": stats.diversity,
    }


def _print(console: Console, results: dict[str, Any]) -> None:
    table = Table(title="Reward per session, before any feedback was learned from")
    for column in ("policy", "reward", "turns", "reward per turn", "coverage", "diversity"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for name, row in results["simulated"].items():
        table.add_row(
            name,
            f"{row['reward']:.2f} ± {row['reward_95']:.2f}",
            f"{row['turns']:.1f}",
            f"{row['reward_per_turn']:.3f}",
            f"{row['coverage']:.3f}",
            f"{row['diversity']:.3f}",
        )
    console.print(table)
    held_out = results["held_out"]
    console.print(
        f"held-out liked items: AUC {held_out['auc_random']:.3f} against unrated ones,"
        f" {held_out['auc_matched']:.3f} against equally popular ones ({held_out['users']} users);"
        f" pre-trained earns {results['pretrained_over_random']:.2f}x random"
    )
