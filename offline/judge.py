"""The judge: asks a language model about items and user states, never the same thing twice, within a budget."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from types import TracebackType
from typing import Self

import msgspec

from offline.datasets import Item
from offline.errors import OfflineError
from offline.judgements import Judgement, JudgementCache, Question, Role
from offline.llm import Ask, Score, Scorer
from offline.prompts import PROMPT_VERSION, Shown

# Priors and baselines are asked about this many items at once: they share the prefix.
_CHUNK = 32
# The typical history: this many items, evenly spaced in the best tenth by prior of the catalogue's beginning, which is
# judged first; so a run that stopped before it knew all priors goes on with the same one.
_TYPICAL_SIZE = 6
_TYPICAL_FROM = 512
_NAMES = 128  # items whose mere names are judged, spread over the catalogue's beginning, whose priors come first


@dataclass(frozen=True)
class Budget:
    """Limits on asking; None is no limit. Judgements found in the cache cost nothing."""

    max_seconds: float | None = None
    max_judgements: int | None = None

    def part(self, share: float) -> Budget:
        """This share of everything."""
        return Budget(
            None if self.max_seconds is None else self.max_seconds * share,
            None if self.max_judgements is None else int(self.max_judgements * share),
        )


class Judge:
    """Asks a scorer about items, never the same thing twice, within a budget that runs from now.

    Closing it ends the scorer and frees the cache. `judged` counts the judgements made (not found in the cache);
    `on_progress` is called after each batch of them.
    """

    def __init__(
        self,
        scorer: Scorer,
        items: Iterable[Item],
        cache: JudgementCache,
        budget: Budget | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scorer, self.cache = scorer, cache
        self.budget = budget or Budget()
        self.judged = 0
        self._items: Mapping[str, Item] = {item.item_id: item for item in items}
        self._clock, self._start = clock, clock()
        self.on_progress: Callable[[int], None] = lambda n: None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the scorer (its processes or connections) and close the cache."""
        try:
            self.scorer.close()
        finally:
            self.cache.close()

    @property
    def stopped(self) -> str | None:
        """Why no more will be asked, or None while there is budget."""
        return self._over(self.budget) or self.scorer.exhausted

    def ask(self, questions: Sequence[Question], *, within: Budget | None = None) -> list[Judgement]:
        """Judgements of all candidates, in the questions' order; fewer when the budget (or `within`) ends first.

        Raises:
            OfflineError: an item is not in the catalogue, or the model cannot be asked.
        """
        keys = [self._keys(question) for question in questions]
        self._ask_new(questions, keys, within or self.budget)
        return [
            # Items of the same text share a judgement: each gets it under its own id.
            msgspec.structs.replace(judgement, history=question.history, item_id=item_id, role=question.role)
            for question, per_question in zip(questions, keys, strict=True)
            for key, item_id in zip(per_question, question.candidates, strict=True)
            if (judgement := self.cache.get(key)) is not None
        ]

    def priors(self, *, within: Budget | None = None) -> list[Judgement]:
        """Judgements of every item without a history ("prior") and, for likelihoods, after a typical one ("baseline").

        A history of any kind changes what a language model expects, so personal preferences are measured from what an
        item scores after a typical history; the prior after none ranks items best for users of whom nothing is known.
        """
        ids = list(self._items)
        found = self.ask(_chunks((), ids, "prior"), within=within)
        if self.scorer.style != "likelihood":
            return found
        history = self._typical_history({j.item_id: j.score for j in found})
        others = [item_id for item_id in ids if (item_id, 1) not in history]
        return found + self.ask(_chunks(history, others, "baseline") if history else [], within=within)

    def names(self, *, within: Budget | None = None) -> list[Judgement]:
        """Score the mere names of some items, for likelihoods; what a prior shares with these scores is not taste."""
        if self.scorer.style != "likelihood":
            return []
        first = list(self._items)[:_TYPICAL_FROM]
        n = min(_NAMES, len(first))
        chosen = [first[place * len(first) // n] for place in range(n)]
        return self.ask(_chunks((), chosen, "name"), within=within)

    def _typical_history(self, scores: Mapping[str, float]) -> tuple[tuple[str, int], ...]:
        first = list(self._items)[:_TYPICAL_FROM]
        if any(item_id not in scores for item_id in first):
            return ()
        best = sorted(first, key=lambda item_id: -scores[item_id])[: max(_TYPICAL_SIZE, len(first) // 10)]
        return tuple((item_id, 1) for item_id in best[:: max(1, len(best) // _TYPICAL_SIZE)][:_TYPICAL_SIZE])

    def _ask_new(self, questions: Sequence[Question], keys: Sequence[Sequence[str]], within: Budget) -> None:
        if self._over(within) or self.stopped:
            return
        plan = self._plan(questions, keys, self._judgements_left(within))
        asks = [
            Ask(self._shown(q), tuple(self._text(i) for i in places.values()), q.role == "name") for q, places in plan
        ]
        scoring = self.scorer.score(asks)
        try:
            for index, answer in scoring:
                question, places = plan[index]
                judged = [
                    self._judgement(key, question, item_id, score)
                    for (key, item_id), score in zip(places.items(), answer, strict=True)
                    if score is not None
                ]
                self.cache.add(judged)
                self.judged += len(judged)
                self.on_progress(len(judged))
                if self._over(within) or self._over(self.budget):
                    return
        finally:
            # The generator holds running requests; closing it is what cancels them.
            if (close := getattr(scoring, "close", None)) is not None:
                close()

    def _plan(
        self, questions: Sequence[Question], keys: Sequence[Sequence[str]], limit: int | None
    ) -> list[tuple[Question, dict[str, str]]]:
        """List judgements that the cache lacks, each text once: (question, key -> item id), at most `limit` items."""
        plan: list[tuple[Question, dict[str, str]]] = []
        planned: set[str] = set()
        for question, per_question in zip(questions, keys, strict=True):
            places = {
                key: item_id
                for key, item_id in zip(per_question, question.candidates, strict=True)
                if self.cache.get(key) is None and key not in planned
            }
            # Candidates of `choose` are judged against each other: their keys stand or fall together.
            if limit is not None and len(planned) + len(places) > limit:
                room = 0 if self.scorer.style == "choose" else limit - len(planned)
                places = dict(list(places.items())[:room])
            if places:
                plan.append((question, places))
                planned.update(places)
        return plan

    def _judgements_left(self, within: Budget) -> int | None:
        caps = [b.max_judgements for b in (within, self.budget) if b.max_judgements is not None]
        return max(0, min(caps) - self.judged) if caps else None

    def _over(self, budget: Budget) -> str | None:
        if budget.max_seconds is not None and self._clock() - self._start >= budget.max_seconds:
            return f"the budget of {budget.max_seconds:g} seconds is used up"
        if budget.max_judgements is not None and self.judged >= budget.max_judgements:
            return f"the budget of {budget.max_judgements} judgements is used up"
        return None

    def _judgement(self, key: str, question: Question, item_id: str, score: Score) -> Judgement:
        return Judgement(
            key=key,
            history=question.history,
            item_id=item_id,
            style=self.scorer.style,
            model=self.scorer.model_id,
            prompt_version=PROMPT_VERSION,
            score=score.value,
            n_tokens=score.n_tokens,
            role=question.role,
        )

    def _text(self, item_id: str) -> str:
        try:
            return self._items[item_id].text
        except KeyError:
            raise OfflineError(f"item {item_id!r} is not in the catalogue") from None

    def _shown(self, question: Question) -> tuple[Shown, ...]:
        return tuple(Shown(self._text(item_id), response) for item_id, response in question.history)

    def _keys(self, question: Question) -> list[str]:
        """SHA-256 of all that the answer depends on: model, style, wording, texts. Not of item ids."""
        scorer = self.scorer
        texts = [self._text(item_id) for item_id in question.candidates]
        common = [
            scorer.model_id, scorer.style, PROMPT_VERSION, list(astuple(scorer.scenario)),
            self._shown(question),
            sorted(texts) if scorer.style == "choose" else [],
            *(["name"] if question.role == "name" else []),
        ]  # fmt: skip
        start = hashlib.sha256(json.dumps(common, ensure_ascii=True).encode())
        keys = []
        for text in texts:
            whole = start.copy()
            whole.update(json.dumps(text, ensure_ascii=True).encode())
            keys.append(whole.hexdigest())
        return keys


def _chunks(history: tuple[tuple[str, int], ...], ids: Sequence[str], role: Role) -> list[Question]:
    return [Question(history, tuple(ids[i : i + _CHUNK]), role) for i in range(0, len(ids), _CHUNK)]
