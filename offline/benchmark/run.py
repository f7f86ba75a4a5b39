"""Judge what has no record yet: data sets x protocols x methods, each kept as soon as it is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from offline.benchmark import heldout, prequential, sameness
from offline.benchmark.bootstrap import DRAWS, clustered_mean
from offline.benchmark.data import Floats, Ints, Loaded, Source, find, load
from offline.benchmark.methods import METHODS
from offline.benchmark.ranker import Context, Fit, Method, Ranker
from offline.benchmark.records import Protocol, Record, Variant, code_version, record_key
from offline.benchmark.split import FOLDS
from offline.distil import kept_embeddings
from offline.states import Embeddings

# With these every other method is compared, user by user; they are cheap, and are judged again where that is needed.
REFERENCES = ("popularity", "text_mean", "item_knn")
CURVE_POINTS = 20
_SAMENESS_KINDS: tuple[sameness.Closeness, ...] = ("text", "co_likes")

Progress = Callable[[str], None]  # called with the name of what is judged now


@dataclass(frozen=True)
class Options:
    """Folders, seed and limits of a benchmark run."""

    data: Path
    work: Path
    seed: int
    judge_seconds: float | None = None
    judge_questions: int | None = None


class Task(NamedTuple):
    """One record to be."""

    source: Source
    protocol: Protocol
    variant: Variant
    method: str
    key: str
    configuration: Mapping[str, Any]


class Values(NamedTuple):
    """A metric's values, one a case or event, and whose they are."""

    users: Ints
    metrics: Mapping[str, Floats]
    seconds: float
    curve: list[float]


def plan(sources: Sequence[Source], protocols: Sequence[Protocol], methods: Sequence[str], seed: int) -> Iterator[Task]:
    """All tasks; a protocol that a data set or a method has nothing for is left out."""
    for source in sources:
        for protocol in protocols:
            for variant, method, described in _contenders(source, protocol, methods):
                configuration = {"source": asdict(source), "protocol": _described(protocol), "method": described}
                key = record_key(source.name, protocol, variant, method, seed, configuration)
                yield Task(source, protocol, variant, method, key, configuration)


def _contenders(
    source: Source, protocol: Protocol, methods: Sequence[str]
) -> Iterator[tuple[Variant, str, dict[str, Any]]]:
    if protocol == "sameness":
        if not source.unbiased:  # a few coats a user, chosen from a random page
            yield from (("likes", kind, {"closeness": kind}) for kind in _SAMENESS_KINDS)
        return
    for name in methods:
        method = METHODS[name]
        described = {"title": method.title, "group": method.group, **method.config}
        if protocol == "held-out" and method.open is not None:
            yield "likes", name, described
            if source.disliked_at is not None and method.takes_dislikes:
                yield "answers", name, described
        elif _learns(protocol, source, method):
            yield "likes", name, described


def _learns(protocol: Protocol, source: Source, method: Method) -> bool:
    """Does the method have something to learn of this log by this protocol?"""
    if protocol == "prequential":
        return source.order != "none" and method.open_learner is not None
    return protocol == "warm-start" and not source.unbiased and (method.open or method.open_learner) is not None


def _described(protocol: Protocol) -> dict[str, Any]:
    of: dict[Protocol, dict[str, Any]] = {
        "held-out": {"folds": FOLDS, "matched": heldout.MATCHED},
        "prequential": {"block": prequential.BLOCK, "warm_up": prequential.WARM_UP},
        "warm-start": {"learned": 0.5},
        "sameness": {"last": sameness.LAST, "a_user": sameness.A_USER, "matched": sameness.MATCHED},
    }
    return {**of[protocol], "draws": DRAWS}


class Bench:
    """One data set, loaded when first needed."""

    def __init__(self, source: Source, options: Options, console: Console) -> None:
        self.source, self._options, self._console = source, options, console
        self._loaded: Loaded | None = None
        self._trial: heldout.Trial | None = None
        self._context: Context | None = None
        self._fits: dict[str, Fit] = {}
        self._values: dict[tuple[Protocol, Variant, str], Values] = {}

    def judge(self, task: Task) -> Record:
        """Compute one record, with its differences from the references."""
        values = self._valued(task.protocol, task.variant, task.method)
        seed = self._options.seed
        names = [] if task.protocol == "sameness" else [name for name in REFERENCES if name != task.method]
        against = {name: self._valued(task.protocol, "likes", name) for name in names}
        if task.variant == "answers":
            against["likes"] = self._valued(task.protocol, "likes", task.method)
        return Record(
            dataset=task.source.name,
            protocol=task.protocol,
            variant=task.variant,
            method=task.method,
            seed=seed,
            key=task.key,
            configuration={**task.configuration, "n_items": len(self._load().dataset.items)},
            code=code_version(),
            n=len(values.users),
            n_users=len(np.unique(values.users)),
            metrics=_intervals(values.metrics, values.users, seed),
            differences={
                reference: _intervals(
                    {name: column - other.metrics[name] for name, column in values.metrics.items()}, values.users, seed
                )
                for reference, other in against.items()
            },
            curve=values.curve,
            seconds=round(values.seconds, 1),
        )

    def _valued(self, protocol: Protocol, variant: Variant, method: str) -> Values:
        """The values of a method, computed once."""
        key = (protocol, variant, method)
        if key not in self._values:
            before = time.process_time()
            if protocol == "held-out":
                users, metrics, curve = self._held_out(method, variant)
            elif protocol == "prequential":
                users, metrics, curve = self._prequential(METHODS[method])
            elif protocol == "warm-start":
                users, metrics, curve = self._warm_start(METHODS[method])
            else:
                kind = next(kind for kind in _SAMENESS_KINDS if kind == method)
                found = sameness.measure(self._load().logs, self.context().embeddings, kind, self._options.seed)
                users, metrics, curve = found.users, _drop_unmeasured(found.values, self.source), []
            self._values[key] = Values(users, metrics, time.process_time() - before, curve)
        return self._values[key]

    def _held_out(self, method: str, variant: Variant) -> tuple[Ints, Mapping[str, Floats], list[float]]:
        if self._trial is None:
            loaded = self._load()
            self._trial = heldout.prepare(loaded.logs, len(loaded.dataset.items), self.source, self._options.seed)
        if method not in self._fits:
            open_method = METHODS[method].open
            assert open_method is not None
            self._fits[method] = open_method(self.context())
        return self._trial.users, heldout.evaluate(self._trial, self._fits[method], dislikes=variant == "answers"), []

    def _prequential(self, method: Method) -> tuple[Ints, Mapping[str, Floats], list[float]]:
        assert method.open_learner is not None
        dataset = self._load().dataset
        assert dataset.interactions is not None
        events = prequential.events_of(dataset.interactions, self.source, self._options.seed)
        ranked = prequential.evaluate(method.open_learner(self.context()), events, len(dataset.items))
        return _with_cold(ranked)

    def _warm_start(self, method: Method) -> tuple[Ints, Mapping[str, Floats], list[float]]:
        dataset = self._load().dataset
        assert dataset.interactions is not None
        events = prequential.events_of(dataset.interactions, self.source, self._options.seed)

        def fit(first: prequential.Events) -> Ranker:
            if method.open_learner is not None and method.open is None:
                learner = method.open_learner(self.context())
                for start in range(0, len(first.users), prequential.BLOCK):
                    block = first.part(start, start + prequential.BLOCK)
                    learner.learn(block.users.tolist(), block.items.tolist())
                return learner
            assert method.open is not None
            order = np.argsort(first.users, kind="stable")
            _, starts = np.unique(first.users[order], return_index=True)
            return method.open(self.context())(np.split(first.items[order], starts[1:]))

        return _with_cold(prequential.evaluate_warm_start(fit, events, len(dataset.items)))

    def context(self) -> Context:
        """Return the methods' inputs, prepared at the first call."""
        if self._context is None:
            options, loaded = self._options, self._load()
            run = options.work / self.source.name
            embeddings = _embedded(loaded, run, self._console)
            judging = (options.judge_seconds, options.judge_questions)
            self._context = Context(loaded.dataset, embeddings, run, options.seed, self._console, *judging)
        return self._context

    def _load(self) -> Loaded:
        if self._loaded is None:
            self._loaded = load(self.source, self._options.data, self._options.seed)
        return self._loaded


def _with_cold(ranked: prequential.Ranked) -> tuple[Ints, Mapping[str, Floats], list[float]]:
    """Metrics also of cold starts and of others alone, and the course of NDCG@10."""
    metrics = dict(ranked.metrics)
    for name, column in ranked.metrics.items():
        metrics[f"{name}_cold"] = np.where(ranked.is_cold, column, np.nan)
        metrics[f"{name}_known"] = np.where(ranked.is_cold, np.nan, column)
    stretches = np.array_split(ranked.metrics["ndcg"], CURVE_POINTS)
    return ranked.users, metrics, [round(float(stretch.mean()), 5) for stretch in stretches]


def judge_missing(
    tasks: Sequence[Task], options: Options, console: Console, report: Progress = lambda what: None
) -> Iterator[Record]:
    """The records of all tasks, data set by data set; data that are not there are skipped with a line."""
    bench: Bench | None = None
    missing: set[str] = set()
    for task in tasks:
        source = task.source
        if source.name in missing:
            continue
        if find(source, options.data) is None:
            missing.add(source.name)
            console.print(f"{source.name}: skipped, {options.data / str(source.folder)} is not there", highlight=False)
            continue
        if bench is None or bench.source is not source:
            bench = Bench(source, options, console)
        report(f"{source.name} {task.protocol} {task.method}")
        yield bench.judge(task)


def _embedded(loaded: Loaded, folder: Path, console: Console) -> Embeddings:
    """MiniLM embeddings [A, d] of the items, kept in the work folder."""
    with console.status("embedding the items' texts"):
        return kept_embeddings(loaded.dataset, folder)


def _drop_unmeasured(values: Mapping[str, Floats], source: Source) -> dict[str, Floats]:
    """Drop the columns that the log cannot give: `_later` without times, and `_recent` without an order either."""
    missing = {"time": (), "order": ("_later",), "none": ("_later", "_recent")}[source.order]
    return {name: column for name, column in values.items() if not name.endswith(missing)}


def _intervals(columns: Mapping[str, Floats], users: Ints, seed: int) -> dict[str, list[float]]:
    """Mean, low and high of each metric that is defined for anybody."""
    return {
        name: [round(end, 5) for end in clustered_mean(column, users, seed)]
        for name, column in columns.items()
        if not np.isnan(column).all()
    }
