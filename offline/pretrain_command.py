"""The command `pretrain`: from RUN/distil to RUN/snapshot, ready to serve."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from offline.artefacts import read_manifest, sha256_file, write_manifest
from offline.datasets import Dataset, Interactions, read_dataset
from offline.defaults import DISTIL_STEPS, PERSONAL_WEIGHT, PRIOR_WEIGHT, ROUNDS, TARGET_ENTROPY
from offline.distil import collect, embed_items
from offline.distil_command import CACHE_FILE
from offline.errors import OfflineError
from offline.judge import Budget, Judge
from offline.judgements import JudgementCache, Question
from offline.llm import Scorer
from offline.preferences import Preferences
from offline.scorers import RecordedScorer, ScorerConfig, open_scorer
from offline.states import Embeddings
from service.command_line.progress import progress

if TYPE_CHECKING:
    from offline.pretrain import PretrainConfig, Pretrained
    from service.policy.snapshot import Snapshot, SnapshotCatalogue

STAGE = "pretrain"
SNAPSHOT = "snapshot"
_TASTE, _TRAINING = "What the policy is like", "Training"


def command(
    run: Annotated[Path, typer.Option(help="The run's folder; reads RUN/dataset and RUN/distil, writes RUN/snapshot.")],
    ask_seconds: Annotated[
        float,
        typer.Option(min=0, help="Seconds for asking the model of RUN/distil about states that the policy visits."),
    ] = 0,
    steps: Annotated[
        int, typer.Option(min=1, help="Gradient steps of distillation in a round.", rich_help_panel=_TRAINING)
    ] = DISTIL_STEPS,
    rounds: Annotated[int, typer.Option(min=1, help="Interaction rounds.", rich_help_panel=_TRAINING)] = ROUNDS,
    target_entropy: Annotated[
        float,
        typer.Option(min=0.05, max=0.99, help="Exploration: entropy as a share of log(items).", rich_help_panel=_TASTE),
    ] = TARGET_ENTROPY,
    prior_weight: Annotated[
        float, typer.Option(help="Weight of what everybody likes.", rich_help_panel=_TASTE)
    ] = PRIOR_WEIGHT,
    personal_weight: Annotated[
        float, typer.Option(help="Weight of what this user likes.", rich_help_panel=_TASTE)
    ] = PERSONAL_WEIGHT,
    states_from_logs: Annotated[
        bool,
        typer.Option(help="Take histories from observed users; the manifest says whether.", rich_help_panel=_TRAINING),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.", rich_help_panel=_TRAINING)] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing RUN/snapshot.")] = False,
) -> None:
    """Pre-train a policy from a language model's preferences (iALP); needs no user logs.

    Needs: RUN/dataset and RUN/distil, which `datasets` and `distil` write; for --ask-seconds the same model again.

    Writes: RUN/snapshot, which `service dev --snapshot` serves, and RUN/pretrain with what was measured.

    Ctrl-C: no snapshot was written, an older one stands; what the model was asked is kept. Run the same command again.

    Examples:
        python -m offline pretrain --run runs/mine
        python -m offline pretrain --run runs/mine --ask-seconds 60 --overwrite
    """
    import torch

    from offline.pretrain import PretrainConfig
    from service.policy.snapshot import CatalogueItem, SnapshotCatalogue

    torch.set_num_threads(1)
    target = run / SNAPSHOT
    if target.exists() and not overwrite:
        raise OfflineError(f"{target}: exists; use --overwrite to replace it")
    dataset = read_dataset(run / "dataset")
    if states_from_logs and dataset.interactions is None:
        raise OfflineError("--states-from-logs: this data set has no interactions; leave it out")
    distilled = read_manifest(run / "distil", "distil")
    default = PretrainConfig()
    config = replace(
        default,
        seed=seed,
        encoder=distilled["config"]["encoder"],
        distil_steps=steps,
        rounds=rounds,
        target_entropy=target_entropy,
        reward=replace(default.reward, prior_weight=prior_weight, personal_weight=personal_weight),
    )
    started = time.monotonic()
    console = Console(stderr=True)
    with console.status("embedding the items' texts"):
        embeddings = embed_items(dataset, config.encoder)
    logs = dataset.interactions if states_from_logs else None
    result, n_asked = _pretrained(run, dataset, embeddings, distilled, config, ask_seconds, logs, console)
    report = {**result.report, "judgements_asked": float(n_asked), "seconds": time.monotonic() - started}
    snapshot = make_snapshot(dataset, distilled["results"]["model"], config, result, report, states_from_logs)
    items = tuple(CatalogueItem(item.item_id, item.text, item.categories) for item in dataset.items)
    _replace_snapshot(target, snapshot, SnapshotCatalogue(items, embeddings))
    inputs = {"distil/manifest.json": sha256_file(run / "distil" / "manifest.json")}
    results = {"report": report, "rounds": list(result.rounds)}
    (run / STAGE).mkdir(exist_ok=True)
    write_manifest(run / STAGE, STAGE, config=json.loads(json.dumps(asdict(config))), results=results, inputs=inputs)
    measured = (
        f"rank correlation with held-out judgements {report['held_out']:.2f}, entropy {report['entropy']:.1f} nats,"
        f" kept round {report['kept_round']:.0f}"
        if report["entropy"]
        else "not measured how good (no state was judged: give `distil` more time)"
    )
    console.print(
        f"pretrain: {len(dataset.items)} items, {measured}, {n_asked} new judgements; {target}",
        highlight=False,
        soft_wrap=True,
    )


def _pretrained(
    run: Path,
    dataset: Dataset,
    embeddings: Embeddings,
    distilled: Mapping[str, Any],
    config: PretrainConfig,
    ask_seconds: float,
    logs: Interactions | None,
    console: Console,
) -> tuple[Pretrained, int]:
    """Train with progress; also how many judgements were made meanwhile, which stay in the cache of `distil`."""
    from offline.pretrain import Pretraining

    with ExitStack() as stack:
        cache = stack.enter_context(closing(JudgementCache(run / "distil" / CACHE_FILE)))
        scorer: Scorer = RecordedScorer(distilled["results"]["model"], distilled["config"]["style"], dataset.scenario)
        if ask_seconds > 0:
            recorded = ScorerConfig.of(distilled["config"]["scorer"])
            scorer = stack.enter_context(closing(open_scorer(recorded, dataset.scenario)))
        # The budget of asking runs only while asking: its clock is advanced by hand.
        clock = _Stopwatch()
        judge = Judge(scorer, dataset.items, cache, Budget(max_seconds=ask_seconds or None), clock=clock.read)
        preferences = collect(judge, dataset)
        if not preferences.priors:
            raise OfflineError(f"{run / 'distil'}: no item has a prior yet; give `distil` more time")
        n_steps = config.rounds * config.distil_steps
        told = stack.enter_context(progress(STAGE, n_steps, "steps", console=console))

        def ask(questions: Sequence[Question]) -> Preferences:
            told.advance(0, what="asking the language model")
            with clock:
                judge.ask(questions)
            return collect(judge, dataset)

        training = Pretraining(
            [item.item_id for item in dataset.items],
            embeddings,
            preferences,
            config,
            ask=ask if ask_seconds > 0 else None,
            logs=logs,
            progress=lambda stage, share: told.reach(share * n_steps, what=stage),
        )
        return training.run(), judge.judged


def _replace_snapshot(target: Path, snapshot: Snapshot, catalogue: SnapshotCatalogue) -> None:
    """The new one is whole before the old one goes."""
    from service.policy.snapshot import save_snapshot

    beside = target.with_name(f".{target.name}.new")
    shutil.rmtree(beside, ignore_errors=True)  # of a process that was killed
    save_snapshot(snapshot, beside, catalogue)
    shutil.rmtree(target, ignore_errors=True)
    beside.rename(target)


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
    from service.policy.adaptive import ServingConfig
    from service.policy.snapshot import Snapshot

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
