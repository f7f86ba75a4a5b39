"""Preparation of experiments: data sets, the world, judgements, pre-trained policies and the fixed log.

Everything is kept in a work folder, one folder an environment: a second run finds it there. Names carry a hash of what
they were made from. The judges see only texts; only the world and the fixed log are made from what users did.
"""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import closing
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console

from offline.datasets import Dataset, read_dataset, save_dataset
from offline.distil import DistilConfig, collect, kept_embeddings
from offline.distil_command import CACHE_FILE, STAGE, is_whole, run_stage
from offline.judge import Budget, Judge
from offline.judgements import JudgementCache
from offline.preferences import Preferences
from offline.pretrain import PretrainConfig, pretrain
from offline.pretrain_command import make_snapshot
from offline.scorers import RecordedScorer, ScorerConfig, open_scorer
from offline.sources import FOLDER_SOURCES, movielens
from offline.states import Embeddings
from service.policy.snapshot_files import save_snapshot
from simulator.errors import SimulatorError
from simulator.experiments.runs.config import EnvironmentSpec, Experiments, JudgeSpec, PriorSpec
from simulator.experiments.runs.judges import shuffled, synthetic_preferences, text_preferences
from simulator.experiments.runs.log_recorder import record_log
from simulator.experiments.runs.play import STREAMS
from simulator.experiments.seam.agent import Catalogue
from simulator.world.environment import World
from simulator.world.kinds import BOREDOM
from simulator.world.worlds import build_world, rules_of

LOG_SEED = 1_000_000  # of the fixed log: users whom no reported run sees


class Prepared:
    """An environment as the runs find it; parts are made when first asked for."""

    def __init__(self, name: str, spec: EnvironmentSpec, data: Path, work: Path) -> None:
        self.name, self.spec, self._data = name, spec, data
        self.folder = work / (spec.base or name)  # all worlds of a data set share what is prepared
        self.dataset = self._dataset()
        self.embeddings = self._embeddings()
        try:
            self.rules = replace(rules_of(self.dataset.name, spec.world), **spec.rules)
        except TypeError as error:
            raise SimulatorError(f"environments.{name}.rules: {str(error).partition('() ')[2]}") from None
        self.world: World = build_world(self.dataset, config=self.rules, cache=self.folder)
        self.catalogue = Catalogue.of(self.dataset, self.embeddings, self.rules.slate_size, self.rules.max_turn)

    def configuration(self) -> dict[str, Any]:
        """Return the environment's part of a record's configuration."""
        users = self.world.users
        return {
            "title": self.spec.title,
            "source": self.spec.source,
            "n_items": self.world.n_items,
            "n_users": self.world.n_users,
            "rules": self.rules.rules(),
            "streams": STREAMS,
            "users": asdict(users.config),
            "held_out_auc": round(users.auc, 4),
            "mean_affinity": round(float(users.affinity.mean()), 4),
            # Not said of boredom, so that results from before there were other worlds still count.
            **({} if self.spec.world == BOREDOM else {"world": self.spec.world}),
            **({} if self.spec.base is None else {"base": self.spec.base}),
        }

    def _dataset(self) -> Dataset:
        folder = self.folder / "dataset"
        if not (folder / "manifest.json").exists():
            if self.spec.folder is None:
                dataset = movielens()
            else:
                source = self._data / self.spec.folder
                if not source.is_dir():
                    raise SimulatorError(f"environments.{self.name}: {source}: no such folder; name it with --data")
                dataset = FOLDER_SOURCES[self.spec.source](source)
            save_dataset(dataset, folder)
        return read_dataset(folder)

    def _embeddings(self) -> Embeddings:
        return kept_embeddings(self.dataset, self.folder)

    def log(self) -> Path:
        """The fixed log of a popularity policy."""
        users = hashlib.sha256(self.world.users.affinity.tobytes()).hexdigest()
        path = self.folder / f"log-{_hash([self.rules.rules(), users, sources_hash('simulator')])}.npz"
        if not path.exists():
            record_log(self.world, self.catalogue, path, LOG_SEED)
        return path

    # -- priors ----------------------------------------------------------------------------------------------------

    def prior(self, experiments: Experiments, name: str, console: Console) -> Path:
        """The pre-trained snapshot of a prior, made if it is not there."""
        spec = experiments.priors[name]
        judge = experiments.judges[spec.judge]
        config = PretrainConfig(prior_weight=spec.prior_weight, personal_weight=spec.personal_weight)
        sources = sources_hash("service/policy", "offline")
        judged = self._judged_hash(spec.judge, judge, console)
        key = _hash([asdict(spec), asdict(judge), asdict(config), judged, sources])
        folder = self.folder / "priors" / f"{name}-{key}"
        if not (folder / "manifest.json").exists():
            started = time.monotonic()
            preferences = self._preferences(spec, judge)
            ids = [item.item_id for item in self.dataset.items]
            result = pretrain(ids, self.embeddings, preferences, config)
            snapshot = make_snapshot(self.dataset, spec.judge, config, result, result.report)
            save_snapshot(snapshot, folder)
            console.print(f"{self.name}: prior {name} pre-trained in {time.monotonic() - started:.0f} s")
        return folder

    def _preferences(self, spec: PriorSpec, judge: JudgeSpec) -> Preferences:
        config = DistilConfig(n_states=judge.states)
        if judge.kind == "text":
            preferences = text_preferences(self.dataset, self.embeddings, config)
        elif judge.kind == "synthetic":
            users = self.world.users
            preferences = synthetic_preferences(self.dataset, self.embeddings, users, judge.accuracy, config)
        else:
            preferences = self._recorded(self._judge_folder(spec.judge))
        return shuffled(preferences, seed=0) if spec.shuffled else preferences

    def _judge_folder(self, judge: str) -> Path:
        return self.folder / "judges" / judge

    def _judged_hash(self, name: str, judge: JudgeSpec, console: Console) -> str:
        """Ask the language model whatever it was not asked yet; a hash of its answers, or of the truth a judge sees."""
        if judge.kind == "text":
            return ""
        if judge.kind == "synthetic":
            return hashlib.sha256(self.world.users.item_factors.tobytes()).hexdigest()
        run = self._judge_folder(name)
        if not is_whole(run / STAGE):
            model = ScorerConfig(gguf=judge.gguf)
            scorer = open_scorer(model, self.dataset.scenario)
            config = DistilConfig(n_states=judge.states)
            run_stage(self.dataset, run, scorer, Budget(), config, console, {}, model)
        return hashlib.sha256((run / STAGE / CACHE_FILE).read_bytes()).hexdigest()

    def _recorded(self, run: Path) -> Preferences:
        manifest = json.loads((run / STAGE / "manifest.json").read_text())
        scorer = RecordedScorer(manifest["results"]["model"], manifest["config"]["style"], self.dataset.scenario)
        with closing(JudgementCache(run / STAGE / CACHE_FILE)) as cache:
            return collect(Judge(scorer, self.dataset.items, cache), self.dataset)


@cache
def sources_hash(*folders: str) -> str:
    """Hash all Python files below these folders of the repository."""
    root = Path(__file__).parents[3]
    digest = hashlib.sha256()
    for path in sorted(path for folder in folders for path in (root / folder).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
