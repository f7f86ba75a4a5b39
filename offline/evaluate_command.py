"""The command `evaluate`: what a snapshot would have earned, from the log of what the service showed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

if TYPE_CHECKING:
    pass

ArmName = Literal["control", "adaptive"]
_FILES, _JUDGED, _ESTIMATED = "Files", "What is judged", "How it is estimated"


_Log = Annotated[
    Path, typer.Option(help="The file that `python -m service export --out` wrote.", rich_help_panel=_FILES)
]
_Snapshot = Annotated[Path, typer.Option(help="Folder of the policy to be evaluated.", rich_help_panel=_FILES)]
_Items = Annotated[
    Path | None, typer.Option(help="The catalogue, from `service export --items`.", rich_help_panel=_FILES)
]
_Out = Annotated[
    Path | None,
    typer.Option(help="Folder of the results.", show_default="off_policy beside LOG", rich_help_panel=_FILES),
]
_ObpOut = Annotated[
    Path | None,
    typer.Option(help="Also write the log as obp's bandit_feedback, an .npz file.", rich_help_panel=_FILES),
]
_Arm = Annotated[
    ArmName,
    typer.Option(help="The frozen pre-trained policy, or the one that adapts.", rich_help_panel=_JUDGED),
]
_LoggedArm = Annotated[ArmName | None, typer.Option(help="Use only what this arm served.", rich_help_panel=_JUDGED)]
_KeepUnverified = Annotated[
    bool,
    typer.Option(help="Also use slates whose available items are known only approximately.", rich_help_panel=_JUDGED),
]
_Folds = Annotated[
    int, typer.Option(min=2, help="Folds of the reward model's cross-fitting.", rich_help_panel=_ESTIMATED)
]
_SwitchTau = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Ratio above which switch-DR trusts the reward model.",
        rich_help_panel=_ESTIMATED,
        show_default="by the log's size",
    ),
]
_Bootstrap = Annotated[
    int, typer.Option(min=0, help="Draws of the cluster bootstrap; 0 for none.", rich_help_panel=_ESTIMATED)
]
_Seed = Annotated[int, typer.Option(min=0, help="Seed of folds and bootstrap.", rich_help_panel=_ESTIMATED)]


def command(
    log: _Log,
    snapshot: _Snapshot,
    items: _Items = None,
    out: _Out = None,
    obp_out: _ObpOut = None,
    arm: _Arm = "adaptive",
    logged_arm: _LoggedArm = None,
    keep_unverified: _KeepUnverified = False,
    folds: _Folds = 5,
    switch_tau: _SwitchTau = None,
    bootstrap: _Bootstrap = 0,
    seed: _Seed = 0,
) -> None:
    """Estimate what a snapshot would have earned, from the rewards that the service logged.

    Needs: what `service export` wrote, and the snapshot to be judged.

    Writes: OUT (IPS, SNIPS, DR, switch-DR with intervals) as results.json with a manifest. A table goes to stderr.

    Ctrl-C: results that stood before are as they were; run the same command again.

    Examples:
        python -m offline evaluate --log log.parquet --snapshot runs/mine/snapshot
    """
    import torch

    from offline.ope import command as ope
    from offline.ope.evaluation import OpeConfig
    from service.policy.variants import Arm

    torch.set_num_threads(1)
    config = OpeConfig(folds, switch_tau, bootstrap, logged_arm, keep_unverified, seed)
    folder = out or log.parent / "off_policy"
    ope.run(ope.Inputs(log, snapshot, folder, Arm(arm), items, obp_out, config), Console(stderr=True))
