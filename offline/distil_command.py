"""The command `distil`: choose a model and a budget, watch it being asked, leave RUN/distil behind."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from offline.artefacts import MANIFEST, read_manifest, sha256_file, write_manifest
from offline.datasets import ITEMS_FILE, Dataset, read_dataset
from offline.distil import DistilConfig, collect, distil
from offline.encoding import Choice, choose_encoder, embed_items, read_texts
from offline.endpoint import EndpointConfig, require_server
from offline.errors import OfflineError
from offline.judge import Budget, Judge
from offline.judgements import JudgementCache
from offline.llm import Scorer
from offline.preferences import Preferences, export
from offline.prompts import PROMPT_VERSION, Style
from offline.scorers import DEFAULT_CACHE_FOLDER, PACKAGED, ScorerConfig, open_scorer
from offline.states import StateConfig
from service.command_line.progress import progress

STAGE = "distil"
CACHE_FILE = "judgements.jsonl"
INTERRUPTED = "interrupted"
_ENDPOINT, _EMBEDDED = "A model at an endpoint", "The embedded model"
_BUDGET, _QUESTIONS = "When to stop", "Questions"


_Run = Annotated[Path, typer.Option(help="The run's folder; results go to RUN/distil.")]
_Dataset = Annotated[Path | None, typer.Option(help="A data set's folder.", show_default="RUN/dataset")]
_Endpoint = Annotated[
    str | None, typer.Option(help="An OpenAI-compatible server, http://HOST/v1.", rich_help_panel=_ENDPOINT)
]
_Model = Annotated[str | None, typer.Option(help="The model's name on that server.", rich_help_panel=_ENDPOINT)]
_Style = Annotated[
    Style | None,
    typer.Option(
        help="Form of the questions.",
        rich_help_panel=_ENDPOINT,
        show_default="judge at an endpoint, likelihood otherwise",
    ),
]
_ApiKeyEnv = Annotated[
    str, typer.Option(help="The environment variable that holds the key.", rich_help_panel=_ENDPOINT)
]
_Concurrency = Annotated[int, typer.Option(min=1, help="Requests in flight.", rich_help_panel=_ENDPOINT)]
_MaxCalls = Annotated[
    int | None, typer.Option(min=1, help="Limit on requests to the server.", rich_help_panel=_ENDPOINT)
]
_MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="Limit on tokens, sent and received.", rich_help_panel=_ENDPOINT)
]
_Gguf = Annotated[
    str | None,
    typer.Option(
        help=f"A GGUF file, or a packaged model: {', '.join(PACKAGED)}.",
        rich_help_panel=_EMBEDDED,
        show_default="gemma",
        autocompletion=lambda incomplete: [name for name in PACKAGED if name.startswith(incomplete)],
    ),
]
_GgufSha256 = Annotated[str | None, typer.Option(help="Expected SHA-256 of the GGUF file.", rich_help_panel=_EMBEDDED)]
_Processes = Annotated[
    int | None,
    typer.Option(min=1, help="Worker processes.", rich_help_panel=_EMBEDDED, show_default="one a core, up to 4"),
]
_WeightsFolder = Annotated[
    Path,
    typer.Option(
        help="Folder where packaged weights are put together.",
        rich_help_panel=_EMBEDDED,
        show_default="~/.cache/ialp",
    ),
]
_MaxSeconds = Annotated[
    float | None, typer.Option(min=1, help="Stop asking after this many seconds.", rich_help_panel=_BUDGET)
]
_MaxJudgements = Annotated[
    int | None, typer.Option(min=1, help="Stop after this many new judgements.", rich_help_panel=_BUDGET)
]
_States = Annotated[int, typer.Option(min=0, help="User states to ask about.", rich_help_panel=_QUESTIONS)]
_Candidates = Annotated[int, typer.Option(min=2, help="Items judged in each state.", rich_help_panel=_QUESTIONS)]
_StatesFromLogs = Annotated[
    bool, typer.Option(help="Take histories from observed users, not from text.", rich_help_panel=_QUESTIONS)
]
_Encoder = Annotated[
    Choice,
    typer.Option(
        help="Reads texts: minilm English, e5 some hundred languages, hashing only spelling; auto goes by the letters.",
        rich_help_panel=_QUESTIONS,
    ),
]
_Seed = Annotated[int, typer.Option(min=0, help="Seed of the sampled states.", rich_help_panel=_QUESTIONS)]


def command(
    run: _Run,
    dataset: _Dataset = None,
    endpoint: _Endpoint = None,
    model: _Model = None,
    style: _Style = None,
    api_key_env: _ApiKeyEnv = "OPENAI_API_KEY",
    concurrency: _Concurrency = 8,
    max_calls: _MaxCalls = None,
    max_tokens: _MaxTokens = None,
    gguf: _Gguf = None,
    gguf_sha256: _GgufSha256 = None,
    processes: _Processes = None,
    weights_folder: _WeightsFolder = DEFAULT_CACHE_FOLDER,
    max_seconds: _MaxSeconds = None,
    max_judgements: _MaxJudgements = None,
    states: _States = DistilConfig.n_states,
    candidates: _Candidates = StateConfig.candidates,
    states_from_logs: _StatesFromLogs = False,
    encoder: _Encoder = "auto",
    seed: _Seed = (DistilConfig.seed),
) -> None:
    """Ask a language model what people would like; never the same question twice.

    Needs: RUN/dataset, which `datasets` writes. The embedded model needs the extra `llm`, minilm `text` and e5
    `multilingual`, no network and no key; an endpoint gets its key from $OPENAI_API_KEY.

    Writes: RUN/distil: every judgement at once to judgements.jsonl, in the end what they mean and a manifest. What was
    judged before counts; more time or states add to it.

    Ctrl-C: what was judged is kept in RUN/distil; the same command goes on from there.

    Examples:
        python -m offline distil --run runs/mine --max-seconds 600
        python -m offline distil --run runs/mine --model NAME \\
            --endpoint http://127.0.0.1:8001/v1 --max-calls 2000
    """
    chosen: Style = style or ("judge" if endpoint is not None else "likelihood")
    data = read_dataset(dataset or run / "dataset")
    state_config = replace(DistilConfig().states, candidates=candidates)
    config = DistilConfig(seed, states, states_from_logs, choose_encoder(data, encoder), state_config)
    if endpoint is not None:
        if model is None or gguf is not None:
            raise OfflineError("--endpoint needs --model (a name its server knows), and does not take --gguf")
        server = EndpointConfig(
            endpoint, model, chosen, api_key_env, concurrency, max_calls=max_calls, max_tokens=max_tokens
        )
        model_config = ScorerConfig(endpoint=server)
    else:
        _check_embedded(chosen, max_calls or max_tokens)
        named = gguf if gguf is None or gguf in PACKAGED else str(Path(gguf).resolve())
        model_config = ScorerConfig(None, named, gguf_sha256, processes)
    scorer = open_scorer(model_config, data.scenario, weights_folder)
    if endpoint is not None:
        require_server(endpoint)
    inputs = {ITEMS_FILE: sha256_file((dataset or run / "dataset") / ITEMS_FILE)}
    budget = Budget(max_seconds, max_judgements)
    run_stage(data, run, scorer, budget, config, Console(stderr=True), inputs, model_config)


def _check_embedded(style: Style, capped: int | None) -> None:
    if capped is not None:
        raise OfflineError("--max-calls and --max-tokens need --endpoint; use --max-seconds or --max-judgements")
    if style != "likelihood":
        raise OfflineError(
            f"--style {style} needs a capable model behind --endpoint; the embedded one takes only likelihood"
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
        KeyboardInterrupt: interrupted; the stage stands, and its manifest says so.
        OfflineError: the cache is in use or damaged, or the model cannot be asked (what was judged is kept).
    """
    folder = run / STAGE
    with closing(scorer), closing(JudgementCache(folder / CACHE_FILE)) as cache:
        with console.status("embedding the items' texts"):
            embeddings = embed_items(dataset, config.encoder)
            reading = read_texts(dataset, config.encoder, embeddings)
        for warning in reading.warnings():
            console.print(f"warning: {warning}", highlight=False, soft_wrap=True)
        # A stage is finished once its manifest stands.
        (folder / MANIFEST).unlink(missing_ok=True)
        common = len(dataset.items) * (2 if scorer.style == "likelihood" else 1)
        expected = common + config.n_states * config.states.candidates
        before = sum((j.model, j.style) == (scorer.model_id, scorer.style) for j in cache.values())
        total = min(expected, before + (budget.max_judgements or expected))
        bounds: dict[str, Any] = {"console": console, "within_s": budget.max_seconds, "before": before}
        interruption: KeyboardInterrupt | None = None
        with progress(STAGE, total, "judged", **bounds) as bar:
            judge = Judge(scorer, dataset.items, cache, budget)
            judge.on_progress = bar.advance
            try:
                preferences = distil(dataset, embeddings, judge, config)
                ended = judge.stopped or "every question was asked"
            except KeyboardInterrupt as error:
                preferences, ended, interruption = collect(judge, dataset), INTERRUPTED, error
        export(preferences, folder)
        results = _results(preferences, judge) | {"ended": ended, "texts": asdict(reading)}
        settings = asdict(config) | {
            "budget": asdict(budget),
            "style": scorer.style,
            "prompt_version": PROMPT_VERSION,
            "scorer": asdict(model or ScorerConfig()),
        }
        write_manifest(folder, STAGE, config=settings, results=results, inputs=inputs)
    console.print(
        f"distil: {judge.judged} new judgements, {results['n_judgements']} in all, {results['n_priors']} of"
        f" {len(dataset.items)} items with a prior; {ended}",
        highlight=False,
        soft_wrap=True,
    )
    for note in scorer.given_up:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    if interruption is not None:
        raise interruption  # who waits for a whole stage must know that it is not
    return preferences


def is_whole(folder: Path) -> bool:
    """Did the stage in RUN/distil come to its own end, by whatever budget it had?"""
    return (folder / MANIFEST).exists() and read_manifest(folder, STAGE)["results"].get("ended") != INTERRUPTED


def _results(preferences: Preferences, judge: Judge) -> dict[str, Any]:
    return {
        "model": judge.scorer.model_id,
        "n_judgements": len(judge.cache),
        "n_new": judge.judged,
        "given_up": list(judge.scorer.given_up),
        "n_priors": len(preferences.priors),
        "n_personal": len(preferences.personal),
        "calibration": asdict(preferences.calibration),
    }
