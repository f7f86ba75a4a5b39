"""The command `distil`: choose a model and a budget, watch it being asked, leave RUN/distil behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from offline.artefacts import MANIFEST, sha256_file, write_manifest
from offline.datasets import ITEMS_FILE, Dataset, read_dataset
from offline.distil import DistilConfig, collect, distil, embed_items
from offline.endpoint import EndpointConfig
from offline.errors import OfflineError
from offline.judge import Budget, Judge
from offline.judgements import JudgementCache
from offline.llm import Scorer
from offline.preferences import Preferences, export
from offline.prompts import PROMPT_VERSION, STYLES
from offline.scorers import DEFAULT_CACHE_FOLDER, PACKAGED, ScorerConfig, open_scorer

STAGE = "distil"
CACHE_FILE = "judgements.jsonl"


def command(
    run: Annotated[Path, typer.Option(help="The run's folder; results go to RUN/distil.")],
    dataset: Annotated[Path | None, typer.Option(help="A data set's folder; RUN/dataset if not given.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="An OpenAI-compatible server, http://host/v1.")] = None,
    model: Annotated[str | None, typer.Option(help="The model's name at the endpoint.")] = None,
    style: Annotated[
        str | None,
        typer.Option(help=f"{' | '.join(STYLES)}; if not given, judge at an endpoint, likelihood otherwise."),
    ] = None,
    api_key_env: Annotated[str, typer.Option(help="The environment variable with the key.")] = "OPENAI_API_KEY",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 8,
    max_calls: Annotated[int | None, typer.Option(min=1, help="Cap on requests to the endpoint.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Cap on tokens at the endpoint.")] = None,
    gguf: Annotated[
        str | None, typer.Option(help=f"A GGUF file, or a packaged model: {' | '.join(PACKAGED)}; gemma if not given.")
    ] = None,
    gguf_sha256: Annotated[str | None, typer.Option(help="What the GGUF file's SHA-256 must be.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Worker processes of the embedded model.")] = None,
    weights_folder: Annotated[Path, typer.Option(help="Where packaged weights are put together.")] = (
        DEFAULT_CACHE_FOLDER
    ),
    max_seconds: Annotated[float | None, typer.Option(min=1, help="Stop asking after this long.")] = None,
    max_judgements: Annotated[int | None, typer.Option(min=1, help="Stop after this many new judgements.")] = None,
    states: Annotated[int, typer.Option(min=0, help="User states to ask about.")] = DistilConfig.n_states,
    candidates: Annotated[int, typer.Option(min=2, help="Items judged in each state.")] = 32,
    states_from_logs: Annotated[bool, typer.Option(help="Take histories from observed users, not from text.")] = False,
    encoder: Annotated[str, typer.Option(help="Text embeddings: minilm | hashing.")] = DistilConfig.encoder,
    seed: Annotated[int, typer.Option(help="Seed of the sampled states.")] = DistilConfig.seed,
) -> None:
    """Ask a language model what people would like; resumable, never the same question twice."""
    style = style or ("judge" if endpoint is not None else "likelihood")
    if style not in STYLES:
        raise OfflineError(f"--style {style}: expected one of {', '.join(STYLES)}")
    data = read_dataset(dataset or run / "dataset")
    base = DistilConfig()
    config = replace(
        base,
        seed=seed,
        n_states=states,
        states_from_logs=states_from_logs,
        encoder=encoder,
        states=replace(base.states, candidates=candidates),
    )
    if endpoint is not None:
        if model is None or gguf is not None:
            raise OfflineError("--endpoint needs --model (a name its server knows), and goes without --gguf")
        server = EndpointConfig(
            endpoint, model, style, api_key_env, concurrency, max_calls=max_calls, max_tokens=max_tokens
        )
        model_config = ScorerConfig(endpoint=server)
    else:
        if max_calls is not None or max_tokens is not None:
            raise OfflineError("--max-calls and --max-tokens need --endpoint; use --max-seconds or --max-judgements")
        if style != "likelihood":
            raise OfflineError(f"--style {style} needs a capable model behind --endpoint; the embedded one: likelihood")
        named = gguf if gguf is None or gguf in PACKAGED else str(Path(gguf).resolve())
        model_config = ScorerConfig(None, named, gguf_sha256, processes)
    scorer = open_scorer(model_config, data.scenario, weights_folder)
    inputs = {ITEMS_FILE: sha256_file((dataset or run / "dataset") / ITEMS_FILE)}
    run_stage(
        data, run, scorer, Budget(max_seconds, max_judgements), config, Console(stderr=True), inputs, model_config
    )


def run_stage(
    dataset: Dataset,
    run: Path,
    scorer: Scorer,
    budget: Budget,
    config: DistilConfig,
    console: Console,
    inputs: dict[str, str],
    model: ScorerConfig | None = None,
) -> Preferences:
    """The whole stage: ask with progress, export, manifest. Ctrl-C keeps and exports what there is. Closes the scorer.

    Raises:
        OfflineError: the cache is in use or damaged, or the model cannot be asked (what was judged is kept).
    """
    folder = run / STAGE
    with closing(scorer), closing(JudgementCache(folder / CACHE_FILE)) as cache:
        embeddings = embed_items(dataset, config.encoder)
        # A stage is finished once its manifest stands.
        (folder / MANIFEST).unlink(missing_ok=True)
        common = len(dataset.items) * (2 if scorer.style == "likelihood" else 1)
        expected = common + config.n_states * config.states.candidates
        with _progress(console, min(expected, budget.max_judgements or expected)) as advance:
            judge = Judge(scorer, dataset.items, cache, budget)
            judge.on_progress = advance
            try:
                preferences = distil(dataset, embeddings, judge, config)
                ended = judge.stopped or "every question was asked"
            except KeyboardInterrupt:
                preferences, ended = collect(judge, dataset), "interrupted; the same command goes on from here"
        export(preferences, folder)
        results = _results(preferences, judge) | {"ended": ended}
        settings = asdict(config) | {
            "budget": asdict(budget),
            "style": scorer.style,
            "prompt_version": PROMPT_VERSION,
            "scorer": asdict(model or ScorerConfig()),
        }
        write_manifest(folder, STAGE, config=settings, results=results, inputs=inputs)
    console.print(
        f"distil: {judge.judged} new judgements, {results['n_judgements']} in all, {results['n_priors']} of"
        f" {len(dataset.items)} items with a prior; {ended}"
    )
    return preferences


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("distil"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("distil", total=total, rate="")

        def advance(n: int) -> None:
            speed = progress.tasks[task].speed
            progress.update(task, advance=n, rate=f"{speed:.1f}/s" if speed else "")

        yield advance


def _results(preferences: Preferences, judge: Judge) -> dict[str, Any]:
    return {
        "model": judge.scorer.model_id,
        "n_judgements": len(judge.cache),
        "n_new": judge.judged,
        "n_priors": len(preferences.priors),
        "n_personal": len(preferences.personal),
        "calibration": asdict(preferences.calibration),
    }
