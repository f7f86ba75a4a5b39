"""The command `evaluate`: a snapshot in simulation (held-out preferences, sessions), or against the service's log."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from offline.artefacts import sha256_file, write_atomic, write_manifest
from offline.datasets import read_dataset
from offline.errors import OfflineError
from service.command_line.progress import progress

if TYPE_CHECKING:
    from simulator.rollout import RolloutStats

STAGE = "evaluate"
ArmName = Literal["control", "adaptive"]
_SIMULATED, _LOGGED = "In simulation (--run)", "From a log (--log)"


def command(
    run: Annotated[
        Path | None,
        typer.Option(help="The run's folder; reads RUN/dataset, writes RUN/evaluate.", rich_help_panel=_SIMULATED),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(help="The file that `python -m service export --out` wrote.", rich_help_panel=_LOGGED),
    ] = None,
    snapshot: Annotated[
        Path | None, typer.Option(help="The snapshot's folder. --log needs it.", show_default="RUN/snapshot")
    ] = None,
    sessions: Annotated[
        int, typer.Option(min=1, help="Simulated sessions of each policy.", rich_help_panel=_SIMULATED)
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of users and luck; of folds and bootstrap.")] = 0,
    arm: Annotated[
        ArmName,
        typer.Option(help="The frozen pre-trained policy, or the one that adapts.", rich_help_panel=_LOGGED),
    ] = "adaptive",
    items: Annotated[
        Path | None, typer.Option(help="The catalogue, from `service export --items`.", rich_help_panel=_LOGGED)
    ] = None,
    logged_arm: Annotated[
        ArmName | None, typer.Option(help="Use only what this arm served.", rich_help_panel=_LOGGED)
    ] = None,
    folds: Annotated[
        int, typer.Option(min=2, help="Folds of the reward model's cross-fitting.", rich_help_panel=_LOGGED)
    ] = 5,
    switch_tau: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Ratio above which switch-DR trusts the reward model.",
            rich_help_panel=_LOGGED,
            show_default="by the log's size",
        ),
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Draws of the cluster bootstrap; 0 for none.", rich_help_panel=_LOGGED)
    ] = 0,
    keep_unverified: Annotated[
        bool,
        typer.Option(help="Also use slates whose available items are known only nearly.", rich_help_panel=_LOGGED),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the results.", rich_help_panel=_LOGGED, show_default="off_policy beside LOG"),
    ] = None,
    obp_out: Annotated[
        Path | None,
        typer.Option(help="Also write the log as obp's bandit_feedback, an .npz file.", rich_help_panel=_LOGGED),
    ] = None,
) -> None:
    """Measure a snapshot: in simulation (--run), or from the rewards that the service logged (--log).

    Needs: for --run, RUN/dataset with interactions and RUN/snapshot, which `datasets` and `pretrain` write; for --log,
    what `service export` wrote and the snapshot to be judged.

    Writes: RUN/evaluate (rewards against random, popularity and a ceiling), or OUT (IPS, SNIPS, DR, switch-DR with
    intervals); both as results.json with a manifest. A table goes to stderr.

    Ctrl-C: results that stood before are as they were; run the same command again.

    Examples:
        python -m offline evaluate --run runs/mine
        python -m offline evaluate --log log.parquet --snapshot runs/mine/snapshot
    """
    import torch

    torch.set_num_threads(1)
    console = Console(stderr=True)
    if run is not None and log is None:
        in_simulation(run, snapshot, sessions, seed, console)
    elif log is not None and run is None:
        from offline.ope import command as ope
        from offline.ope.evaluation import OpeConfig
        from service.policy.adaptive import Arm

        if snapshot is None:
            raise OfflineError("--log needs --snapshot: the folder of the policy to be evaluated")
        config = OpeConfig(folds, switch_tau, bootstrap, logged_arm, keep_unverified, seed)
        folder = out or log.parent / "off_policy"
        ope.run(ope.Inputs(log, snapshot, folder, Arm(arm), items, obp_out, config), console)
    else:
        raise OfflineError("give either --run (in simulation) or --log (from the service's log)")


def in_simulation(run: Path, snapshot: Path | None, sessions: int, seed: int, console: Console) -> None:
    """Does it rank what people like, and what does it earn against random and popularity?

    Raises:
        OfflineError: the data set or the snapshot cannot be read, or there are no interactions.
    """
    from offline.evaluate import held_out_preferences, open_policy, simulated
    from service.policy.snapshot import SnapshotError

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
    with progress("simulating", 4 * sessions, "sessions", console=console) as told:
        played = simulated(policy, dataset, seed, sessions, cache=run, progress=told.advance)
    rows = {name: _row(stats) for name, stats in played.items()}
    results: dict[str, Any] = {"version": loaded.manifest.version, "held_out": asdict(held_out), "simulated": rows}
    results["pretrained_over_random"] = rows["pretrained"]["reward"] / max(rows["random"]["reward"], 1e-9)
    write_atomic(run / STAGE / "results.json", (json.dumps(results, indent=2) + "\n").encode())
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
