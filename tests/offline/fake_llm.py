"""A scripted language model for tests: answers at once, logs every question, and can be made to die."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from offline.datasets import Item, Scenario
from offline.llm import Answer, Ask, Score
from offline.prompts import Style

MOVIES = Scenario("movie", "movies", "enjoyed", "did not like")


def make_items(n: int) -> tuple[Item, ...]:
    return tuple(Item(f"m{i}", f"Movie number {i}", ("Drama",) if i % 2 else ("Comedy",)) for i in range(n))


class FakeScorer:
    """Scores an item by the number in its name, and higher if the history likes one of the same parity.

    A mere name is as likely as its last digit is high.

    Args:
        log: every question goes here, one line each, before it is answered.
        kill_after: the process is ended by SIGKILL when this many questions were logged.
        interrupt_after: KeyboardInterrupt is raised then.
    """

    def __init__(
        self,
        style: Style = "likelihood",
        *,
        log: Path | None = None,
        kill_after: int | None = None,
        interrupt_after: int | None = None,
        exhausted_after: int | None = None,
    ) -> None:
        self.style, self.scenario, self.model_id = style, MOVIES, "fake"
        self.exhausted: str | None = None
        self.given_up: Sequence[str] = ()
        self.closed = False
        self.asked: list[str] = []
        self._log, self._kill_after, self._interrupt_after = log, kill_after, interrupt_after
        self._exhausted_after = exhausted_after

    def close(self) -> None:
        self.closed = True

    def score(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        for index, ask in enumerate(asks):
            answer: Answer = []
            for text in ask.candidates:
                if self._exhausted_after is not None and len(self.asked) >= self._exhausted_after:
                    self.exhausted = "the fake is tired"
                    answer.append(None)
                    continue
                self._note(f"{'name' if ask.name_only else [tuple(s) for s in ask.history]} {text}")
                answer.append(Score(self._value(ask, text), 4))
            yield index, answer

    def _note(self, question: str) -> None:
        self.asked.append(question)
        if self._log is not None:
            with self._log.open("a") as file:
                file.write(question + "\n")
        if len(self.asked) == self._kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if len(self.asked) == self._interrupt_after:
            raise KeyboardInterrupt

    @staticmethod
    def _value(ask: Ask, text: str) -> float:
        number = int(text.split()[-1])
        if ask.name_only:
            return 0.1 * (number % 10) - 1.0
        alike = any(s.response > 0 and int(s.text.split()[-1]) % 2 == number % 2 for s in ask.history)
        return -0.01 * number + (1.0 if alike else 0.0)
