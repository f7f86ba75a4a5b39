"""The command `pretrain`: from RUN/distil to RUN/snapshot, ready to serve."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from offline.artefacts import read_manifest, sha256_file, write_manifest
from offline.datasets import Dataset, read_dataset
from offline.distil import collect, embed_items
from offline.distil_command import CACHE_FILE
from offline.errors import OfflineError
from offline.judge import Budget, Judge
from offline.judgements import JudgementCache, Question
from offline.llm import Scorer
from offline.preferences import Preferences
from offline.pretrain import PretrainConfig, Pretrained, Pretraining
from offline.scorers import RecordedScorer, ScorerConfig, open_scorer
from service.policy.adaptive import ServingConfig
from service.policy.snapshot import CatalogueItem, Snapshot, SnapshotCatalogue, save_snapshot

STAGE = "pretrain"
SNAPSHOT = "snapshot"
_DEFAULT = PretrainConfig()


def command(
    run: Annotated[Path, typer.Option(help="The run's folder; reads RUN/dataset and RUN/distil, writes RUN/snapshot.")],
    ask_seconds: Annotated[
        float, typer.Option(min=0, help="Time for asking the model of RUN/distil about states that the policy visits.")
    ] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps of distillation.")] = _DEFAULT.distil_steps,
    rounds: Annotated[int, typer.Option(min=1, help="Interaction rounds.")] = _DEFAULT.rounds,
    target_entropy: Annotated[
        float, typer.Option(min=0.05, max=0.99, help="Exploration: entropy as a share of log(items).")
    ] = _DEFAULT.target_entropy,
    prior_weight: Annotated[float, typer.Option(help="Weight of what everybody likes.")] = _DEFAULT.reward.prior_weight,
    personal_weight: Annotated[
        float, typer.Option(help="Weight of what this user likes.")
    ] = _DEFAULT.reward.personal_weight,
    states_from_logs: Annotated[
        bool, typer.Option(help="Take histories from observed users; the manifest says whether.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = _DEFAULT.seed,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing RUN/snapshot.")] = False,
) -> None:
    """Pre-train a policy from a language model's preferences (iALP); needs no user logs."""
    torch.set_num_threads(1)
    target = run / SNAPSHOT
    if target.exists() and not overwrite:
        raise OfflineError(f"{target}: exists; use --overwrite to replace it")
    dataset = read_dataset(run / "dataset")
    if states_from_logs and dataset.interactions is None:
        raise OfflineError("--states-from-logs: this data set has no interactions")
    distilled = read_manifest(run / "distil", "distil")
    config = replace(
        _DEFAULT,
        seed=seed,
        encoder=distilled["config"]["encoder"],
        distil_steps=steps,
        rounds=rounds,
        target_entropy=target_entropy,
        reward=replace(_DEFAULT.reward, prior_weight=prior_weight, personal_weight=personal_weight),
    )
    started = time.monotonic()
    console = Console(stderr=True)
    embeddings = embed_items(dataset, config.encoder)
    with ExitStack() as stack:
        cache = stack.enter_context(closing(JudgementCache(run / "distil" / CACHE_FILE)))
        scorer: Scorer = RecordedScorer(distilled["results"]["model"], distilled["config"]["style"], dataset.scenario)
        if ask_seconds > 0:
            scorer = stack.enter_context(
                closing(open_scorer(ScorerConfig.of(distilled["config"]["scorer"]), dataset.scenario))
            )
        # The budget of asking runs only while asking: its clock is advanced by hand.
        clock = _Stopwatch()
        judge = Judge(scorer, dataset.items, cache, Budget(max_seconds=ask_seconds or None), clock=clock.read)

        def ask(questions: Sequence[Question]) -> Preferences:
            with clock:
                judge.ask(questions)
            return collect(judge, dataset)

        preferences = collect(judge, dataset)
        if not preferences.priors:
            raise OfflineError(f"{run / 'distil'}: no item has a prior yet; give `distil` more time")
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("pretrain", total=1.0)
            training = Pretraining(
                [item.item_id for item in dataset.items],
                embeddings,
                preferences,
                config,
                ask=ask if ask_seconds > 0 else None,
                logs=dataset.interactions if states_from_logs else None,
                progress=lambda stage, share: bar.update(task, description=stage, completed=share),
            )
            result = training.run()
    report = {**result.report, "judgements_asked": float(judge.judged), "seconds": time.monotonic() - started}
    snapshot = make_snapshot(dataset, distilled["results"]["model"], config, result, report, states_from_logs)
    items = tuple(CatalogueItem(item.item_id, item.text, item.categories) for item in dataset.items)
    if target.exists():
        shutil.rmtree(target)
    save_snapshot(snapshot, target, SnapshotCatalogue(items, embeddings))
    inputs = {"distil/manifest.json": sha256_file(run / "distil" / "manifest.json")}
    results = {"report": report, "rounds": list(result.rounds)}
    (run / STAGE).mkdir(exist_ok=True)
    write_manifest(run / STAGE, STAGE, config=json.loads(json.dumps(asdict(config))), results=results, inputs=inputs)
    console.print(
        f"pretrain: {len(dataset.items)} items, rank correlation with held-out judgements"
        f" {report['held_out']:.2f}, entropy {report['entropy']:.1f} nats, kept round {report['kept_round']:.0f},"
        f" {judge.judged} new judgements; {target}"
    )


class _Stopwatch:
    """A clock that runs only inside its context."""

    def __init__(self) -> None:
        self._elapsed, self._started = 0.0, None

    _started: float | None

    def read(self) -> float:
        return self._elapsed + (0.0 if self._started is None else time.monotonic() - self._started)

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._elapsed, self._started = self.read(), None


def make_snapshot(
    dataset: Dataset,
    model: str,
    config: PretrainConfig,
    result: Pretrained,
    report: dict[str, float],
    states_from_logs: bool,
) -> Snapshot:
    return Snapshot.of(
        version=1,
        parent=None,
        created_at=time.time(),
        item_ids=tuple(item.item_id for item in dataset.items),
        text_encoder=config.encoder,
        projection=result.projection,
        serving=ServingConfig(),
        pretrained=result.actor,
        learned=result.actor,
        critic=result.actor,
        learner={"name": "ialp", **json.loads(json.dumps(asdict(config)))},
        lineage={"dataset": dataset.name, "language_model": model, "states_from_logs": states_from_logs},
        metrics=report,
    )
