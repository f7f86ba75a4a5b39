"""The command `evaluate`: a snapshot against held-out preferences and in its simulated environment."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from offline.artefacts import sha256_file, write_atomic, write_manifest
from offline.datasets import read_dataset
from offline.errors import OfflineError
from offline.evaluate import held_out_preferences, open_policy, simulated
from service.policy.snapshot import SnapshotError
from simulator.rollout import RolloutStats

STAGE = "evaluate"


def command(
    run: Annotated[Path, typer.Option(help="The run's folder; reads RUN/dataset, writes RUN/evaluate.")],
    snapshot: Annotated[Path | None, typer.Option(help="The snapshot's folder; RUN/snapshot if not given.")] = None,
    sessions: Annotated[int, typer.Option(min=1, help="Simulated sessions of each policy.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of users and luck.")] = 0,
) -> None:
    """Measure a snapshot: does it rank what people like, and what does it earn against random and popularity?"""
    torch.set_num_threads(1)
    dataset = read_dataset(run / "dataset")
    folder = snapshot or run / "snapshot"
    try:
        loaded, policy = open_policy(folder)
    except SnapshotError as error:
        raise OfflineError(str(error)) from None
    if dataset.interactions is None:
        raise OfflineError("this data set has no interactions, so there is nothing to evaluate against")
    console = Console(stderr=True)
    held_out = held_out_preferences(policy, dataset.interactions, len(dataset.items), seed)
    with console.status("simulating sessions"):
        rows = {name: _row(stats) for name, stats in simulated(policy, dataset, seed, sessions, cache=run).items()}
    results: dict[str, Any] = {"version": loaded.manifest.version, "held_out": asdict(held_out), "simulated": rows}
    results["pretrained_over_random"] = rows["pretrained"]["reward"] / max(rows["random"]["reward"], 1e-9)
    write_atomic(run / STAGE / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    inputs = {"snapshot/manifest.json": sha256_file(folder / "manifest.json")}
    write_manifest(run / STAGE, STAGE, config={"sessions": sessions, "seed": seed}, results=results, inputs=inputs)
    _print(console, results)


def _row(stats: RolloutStats) -> dict[str, float]:
    n = len(stats.reward)
    return {
        "reward": float(stats.reward.mean()),
        "reward_95": float(1.96 * stats.reward.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0,
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
