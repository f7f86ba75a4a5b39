"""The command `pretrain`: from RUN/distil to RUN/snapshot, ready to serve."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from offline.artefacts import read_manifest, sha256_file, write_manifest
from offline.datasets import Dataset, read_dataset
from offline.defaults import PERSONAL_WEIGHT, PRIOR_WEIGHT
from offline.distil import collect
from offline.distil_command import CACHE_FILE
from offline.encoding import embed_items
from offline.errors import OfflineError
from offline.judge import Judge
from offline.judgements import JudgementCache
from offline.preferences import Preferences
from offline.scorers import RecordedScorer
from service.command_line.progress import progress

if TYPE_CHECKING:
    from offline.logs import Logs
    from offline.pretrain import PretrainConfig, Pretrained
    from offline.warm_start import WarmStart
    from service.policy.snapshot import Snapshot, SnapshotCatalogue

STAGE = "pretrain"
SNAPSHOT = "snapshot"
_TASTE, _FROM_LOGS = "Policy", "Your logs"
_DAY_S = 86_400.0


_Run = Annotated[Path, typer.Option(help="The run's folder; reads RUN/dataset and RUN/distil, writes RUN/snapshot.")]
_PriorWeight = Annotated[
    float,
    typer.Option(
        help="Log odds of a like for each standard deviation of what everybody likes.", rich_help_panel=_TASTE
    ),
]
_PersonalWeight = Annotated[
    float,
    typer.Option(
        help="Log odds of a like for each standard deviation of what this user likes.", rich_help_panel=_TASTE
    ),
]
_Temperature = Annotated[
    float | None,
    typer.Option(
        min=1e-3,
        max=100,
        help="Differences of log odds that make an item e times as likely; raise it to explore more.",
        rich_help_panel=_TASTE,
        show_default="0.1",
    ),
]
_Logs = Annotated[
    bool,
    typer.Option(
        "--logs",
        help="Also learn from the data set's likes, and from what it says was shown.",
        rich_help_panel=_FROM_LOGS,
    ),
]
_HalfLife = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        metavar="DAYS",
        help="Age at which a like counts by half; needs times.",
        rich_help_panel=_FROM_LOGS,
        show_default="all count alike",
    ),
]
_MostLikes = Annotated[
    int, typer.Option(min=100, help="Learn from the latest of them, at most so many.", rich_help_panel=_FROM_LOGS)
]
_Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
_Overwrite = Annotated[bool, typer.Option(help="Replace an existing RUN/snapshot.")]


def command(
    run: _Run,
    prior_weight: _PriorWeight = PRIOR_WEIGHT,
    personal_weight: _PersonalWeight = PERSONAL_WEIGHT,
    temperature: _Temperature = None,
    logs: _Logs = False,
    half_life: _HalfLife = None,
    most_likes: _MostLikes = 200_000,
    seed: _Seed = 0,
    overwrite: _Overwrite = False,
) -> None:
    """Pre-train a policy from a language model's preferences (iALP); needs no user logs, and seconds.

    With --logs the likes of real users are learned on top of that, in order of time; minutes for a hundred thousand.
    Where the data set says what was shown, that counts as well: what was shown without an answer was no like.

    Needs: RUN/dataset and RUN/distil, which `datasets` and `distil` write; with --logs a data set with interactions.

    Writes: RUN/snapshot, which `service dev --snapshot` serves, and RUN/pretrain with how far the judgements can be
    trusted.

    Ctrl-C: no snapshot was written, an older one stands. Run the same command again.

    Examples:
        python -m offline pretrain --run runs/mine
        python -m offline pretrain --run runs/mine --temperature 0.3 --overwrite
        python -m offline pretrain --run runs/mine --logs --half-life 180
    """
    import torch

    from offline.pretrain import PretrainConfig, pretrain
    from service.policy.snapshot import CatalogueItem, SnapshotCatalogue

    torch.set_num_threads(1)
    target = run / SNAPSHOT
    if target.exists() and not overwrite:
        raise OfflineError(f"{target}: exists; use --overwrite to replace it")
    dataset = read_dataset(run / "dataset")
    distilled = read_manifest(run / "distil", "distil")
    network = PretrainConfig().network
    network = network if temperature is None else replace(network, temperature=temperature)
    config = PretrainConfig(seed, distilled["config"]["encoder"], network, prior_weight, personal_weight)
    started = time.monotonic()
    console = Console(stderr=True)
    preferences = recorded_preferences(run, dataset, distilled)
    if not preferences.priors:
        raise OfflineError(f"{run / 'distil'}: no item has a prior yet; give `distil` more time")
    with console.status("embedding the items' texts"):
        embeddings = embed_items(dataset, config.encoder)
    result = pretrain([item.item_id for item in dataset.items], embeddings, preferences, config)
    warm = learn_logs(dataset, result, seed, half_life, most_likes, console) if logs else None
    report = {**result.report, **(warm.foretold if warm else {}), "seconds": time.monotonic() - started}
    snapshot = make_snapshot(dataset, distilled["results"]["model"], config, result, report, warm)
    items = tuple(CatalogueItem(item.item_id, item.text, item.categories, item.properties) for item in dataset.items)
    _replace_snapshot(target, snapshot, SnapshotCatalogue(items, embeddings))
    inputs = {"distil/manifest.json": sha256_file(run / "distil" / "manifest.json")}
    results = {"report": report, "warnings": list(result.alignment.warnings)}
    (run / STAGE).mkdir(exist_ok=True)
    write_manifest(run / STAGE, STAGE, config=json.loads(json.dumps(asdict(config))), results=results, inputs=inputs)
    _tell(console, dataset, result, preferences, target)


def learn_logs(
    dataset: Dataset, result: Pretrained, seed: int, half_life: float | None, most: int, console: Console
) -> WarmStart:
    """Learn from the data set's likes on top of the pre-trained policy, with progress and a summary.

    Raises:
        OfflineError: it has no likes.
    """
    from offline.logs import logs_of
    from offline.warm_start import warm_start

    found = dataset.interactions
    if found is None or not found.liked.any():
        raise OfflineError("--logs: the data set has no likes; give `datasets` the --interactions of your users")
    logs = logs_of(found, dataset.impressions, None if half_life is None else half_life * _DAY_S, most, seed)
    with progress("learning from logs", len(logs.is_slate), "events", console=console) as bar:
        warm = warm_start(result.actor, logs, seed, bar.advance)
    console.print(_learned(logs, dataset, warm.foretold), highlight=False, soft_wrap=True)
    return warm


def _learned(logs: Logs, dataset: Dataset, foretold: Mapping[str, float]) -> str:
    """Tell what was learned, and how well the end of the logs was told before it was learned."""
    likes, slates, impressions = logs.likes, logs.slates, dataset.impressions
    users = len({*likes.users.tolist(), *slates.users.tolist()})
    found = 0 if dataset.interactions is None else int(dataset.interactions.liked.sum())
    told = [f"logs: {len(likes.users):,} likes of {users:,} users learned"]
    left_out = found - len(likes.users)
    if impressions is not None:
        answers, older = int(slates.liked.sum()), len(impressions.user) - len(slates.users)
        told = [
            f"logs: {len(slates.users):,} slates with {answers:,} answers and {len(likes.users):,} other likes of "
            f"{users:,} users learned" + (f", {older:,} older slates left out" if older else "")
        ]
        left_out = 0  # likes are answers for the most part
    told[0] += f", {left_out:,} older ones left out" if left_out else ""
    words = {"with_logs": "with the likes before", "pretrained": "without any", "popularity": "by popularity"}
    for measure, name in {"ndcg": "NDCG@10", "auc": "AUC of what was answered against what was not"}.items():
        values = {of: foretold.get(f"{measure}_{key}") for key, of in words.items()}
        known = [f"{value:.3f} {of}" for of, value in values.items() if value is not None]
        if known:
            told.append(f"the last tenth, before it was learned: {name} {', '.join(known)}")
    return "; ".join(told)


def _tell(console: Console, dataset: Dataset, result: Pretrained, preferences: Preferences, target: Path) -> None:
    alignment = result.alignment
    lines = [
        f"pretrain: {len(dataset.items)} items, {len(preferences.priors)} of them judged, "
        f"{len(preferences.personal)} personal judgements; {target}",
        f"the item prior gets {alignment.prior_share:.0%} of its weight: correlation with mere names "
        f"{alignment.names}, with what texts predict {alignment.texts}",
        f"personal judgements {'correct' if alignment.uses_personal else 'do not change'} closeness of texts: "
        f"correlation with it {alignment.personal}",
        *(f"warning: {warning}" for warning in alignment.warnings),
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def recorded_preferences(run: Path, dataset: Dataset, distilled: Mapping[str, Any]) -> Preferences:
    """Everything that the model of RUN/distil has judged, given that stage's manifest; nothing is asked.

    Raises:
        OfflineError: the judgements are in use by another process, or damaged.
    """
    scorer = RecordedScorer(distilled["results"]["model"], distilled["config"]["style"], dataset.scenario)
    with closing(JudgementCache(run / "distil" / CACHE_FILE)) as cache:
        return collect(Judge(scorer, dataset.items, cache), dataset)


def _replace_snapshot(target: Path, snapshot: Snapshot, catalogue: SnapshotCatalogue) -> None:
    """The new one is whole before the old one goes."""
    from service.policy.snapshot_files import save_snapshot

    beside = target.with_name(f".{target.name}.new")
    shutil.rmtree(beside, ignore_errors=True)  # of a process that was killed
    save_snapshot(snapshot, beside, catalogue)
    shutil.rmtree(target, ignore_errors=True)
    beside.rename(target)


def make_snapshot(
    dataset: Dataset,
    model: str,
    config: PretrainConfig,
    result: Pretrained,
    report: dict[str, float],
    warm: WarmStart | None = None,
) -> Snapshot:
    """The first version; `model` names the language model that judged, `warm` is what logs made of its policy."""
    from service.policy.snapshot import Snapshot
    from service.policy.variants import ServingConfig

    actor = warm.actor if warm else result.actor
    return Snapshot.of(
        version=1,
        parent=None,
        created_at=time.time(),
        item_ids=tuple(item.item_id for item in dataset.items),
        text_encoder=config.encoder,
        projection=result.projection,
        serving=ServingConfig(),
        pretrained=actor,
        learned=actor,
        critic=actor,
        learner={"name": "ialp", **json.loads(json.dumps(asdict(config)))},
        lineage={"dataset": dataset.name, "language_model": model},
        metrics=report,
        evidence=warm.evidence if warm else None,
    )
