"""The command `evaluate`: a snapshot in simulation (held-out preferences, sessions), or against the service's log."""

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
from offline.ope import command as ope
from offline.ope.evaluation import OpeConfig
from service.policy.adaptive import Arm
from service.policy.snapshot import SnapshotError
from simulator.rollout import RolloutStats

STAGE = "evaluate"


def command(
    run: Annotated[
        Path | None, typer.Option(help="In simulation: the run's folder; reads RUN/dataset, writes RUN/evaluate.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="From a log: the file that `python -m service export --out` wrote.")
    ] = None,
    snapshot: Annotated[
        Path | None, typer.Option(help="The snapshot's folder; RUN/snapshot if not given. --log needs it.")
    ] = None,
    sessions: Annotated[int, typer.Option(min=1, help="--run: simulated sessions of each policy.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of users and luck; of folds and bootstrap.")] = 0,
    arm: Annotated[
        Arm, typer.Option(help="--log: the frozen pre-trained policy, or the one that adapts.")
    ] = Arm.ADAPTIVE,
    items: Annotated[Path | None, typer.Option(help="--log: the catalogue, from `service export --items`.")] = None,
    logged_arm: Annotated[Arm | None, typer.Option(help="--log: use only what this arm served.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="--log: folds of the reward model's cross-fitting.")] = 5,
    switch_tau: Annotated[
        float | None, typer.Option(min=0, help="--log: ratio above which switch-DR trusts the reward model.")
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="--log: draws of the cluster bootstrap; 0 for none.")] = 0,
    keep_unverified: Annotated[
        bool, typer.Option(help="--log: also use slates whose available items are known only nearly.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="--log: folder of the results; off_policy beside LOG.")] = None,
    obp_out: Annotated[
        Path | None, typer.Option(help="--log: also write the log as obp's bandit_feedback, an .npz file.")
    ] = None,
) -> None:
    """Measure a snapshot: in simulation (--run), or from the rewards that the service logged (--log)."""
    torch.set_num_threads(1)
    console = Console(stderr=True)
    if run is not None and log is None:
        in_simulation(run, snapshot, sessions, seed, console)
    elif log is not None and run is None:
        if snapshot is None:
            raise OfflineError("--log needs --snapshot: the folder of the policy to be evaluated")
        logged = None if logged_arm is None else str(logged_arm)
        config = OpeConfig(folds, switch_tau, bootstrap, logged, keep_unverified, seed)
        folder = out or log.parent / "off_policy"
        ope.run(ope.Inputs(log, snapshot, folder, arm, items, obp_out, config), console)
    else:
        raise OfflineError("give either --run (in simulation) or --log (from the service's log)")


def in_simulation(run: Path, snapshot: Path | None, sessions: int, seed: int, console: Console) -> None:
    """Does it rank what people like, and what does it earn against random and popularity?

    Raises:
        OfflineError: the data set or the snapshot cannot be read, or there are no interactions.
    """
    dataset = read_dataset(run / "dataset")
    folder = snapshot or run / "snapshot"
    try:
        loaded, policy = open_policy(folder)
    except SnapshotError as error:
        raise OfflineError(str(error)) from None
    if dataset.interactions is None:
        raise OfflineError("this data set has no interactions, so there is nothing to evaluate against")
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
