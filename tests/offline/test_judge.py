from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from offline.datasets import Item
from offline.errors import OfflineError
from offline.judge import Budget, Judge
from offline.judgements import JudgementCache, Question, Role
from offline.prompts import Style
from tests.offline.fake_llm import FakeScorer, make_items

LIKED_TWO = Question((("m0", 1), ("m2", 1)), ("m4", "m5", "m6"))


def _judge(
    folder: Path, scorer: FakeScorer, budget: Budget | None = None, items: tuple[Item, ...] = make_items(20)
) -> Judge:
    return Judge(scorer, items, JudgementCache(folder / "judgements.jsonl"), budget)


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    first = FakeScorer()
    with _judge(tmp_path, first) as judge:
        answers = judge.ask([LIKED_TWO, LIKED_TWO, replace(LIKED_TWO, candidates=("m6", "m7", "m7"))])
        assert [a.item_id for a in answers] == ["m4", "m5", "m6", "m4", "m5", "m6", "m6", "m7", "m7"]
        assert judge.ask([LIKED_TWO]) == answers[:3]
    assert first.closed
    assert len(first.asked) == len(set(first.asked)) == 4
    second = FakeScorer()
    with _judge(tmp_path, second) as judge:
        assert judge.ask([LIKED_TWO]) == answers[:3]
        assert judge.judged == 0
    assert second.asked == []


def test_what_the_answer_depends_on_is_in_the_key(tmp_path: Path) -> None:
    questions = [
        LIKED_TWO,
        replace(LIKED_TWO, history=LIKED_TWO.history[::-1]),
        replace(LIKED_TWO, history=(("m0", 1), ("m2", -1))),
        replace(LIKED_TWO, history=()),
    ]
    with _judge(tmp_path, FakeScorer()) as judge:
        assert len({a.key for a in judge.ask(questions)}) == 12
    other = FakeScorer()
    other.model_id = "another"
    with _judge(tmp_path, other) as judge:
        judge.ask([LIKED_TWO])
        assert judge.judged == 3


@pytest.mark.parametrize(
    ("style", "role", "history", "key"),
    [
        ("likelihood", "prior", (), "5289e14d3f981c434bdebdd79eb26eeb57bbf70e06d4cfefab91ee1776afa6b8"),
        ("likelihood", "baseline", (("m0", 1),), "07cf55cc80c3b6a2d5d55668811fef558aaa6c3e3b99da31b86f05b4fc58b61c"),
        (
            "likelihood",
            "user",
            (("m0", 1), ("m2", -1)),
            "e2f81f6f62d286fe2d2c508e7fe8346fc1c2f1dce74246428ab8177ec0cd28dd",
        ),
        ("judge", "prior", (), "f65ebd1c0380614b638242382a7844f901c0b95ba6f82a34553f5d964b8959ca"),
        ("judge", "user", (("m0", 1), ("m2", -1)), "4160f1c443c457566ed68c22dd9e0e226437c4477ce1d30a95b895476fe6a144"),
        ("choose", "prior", (), "5a1327e8c364fa3026d3e3ef5d9b65946daf5f8e4abaea320e7c7a9c7a4599a0"),
    ],
)
def test_keys_are_those_of_judgements_that_people_have(
    style: Style, role: Role, history: tuple[tuple[str, int], ...], key: str, tmp_path: Path
) -> None:
    """A change here throws away hours of asking; raise PROMPT_VERSION where that is meant."""
    with _judge(tmp_path, FakeScorer(style)) as judge:
        assert judge.ask([Question(history, ("m4", "m5"), role)])[0].key == key


def test_a_mere_name_is_another_question_than_what_is_popular(tmp_path: Path) -> None:
    scorer = FakeScorer()
    questions = [Question((), ("m4", "m5"), role) for role in ("prior", "name", "baseline", "name")]
    with _judge(tmp_path, scorer) as judge:
        prior, _, name, other, baseline, _, again, _ = judge.ask(questions)
    assert len(scorer.asked) == 4  # what is popular is one question, whatever it is for
    assert prior.key == baseline.key and name.key == again.key
    assert len({prior.key, name.key, other.key}) == 3
    assert prior.score == -0.04 and name.score == pytest.approx(-0.6)
    assert (prior.role, name.role) == ("prior", "name")


def test_names_are_spread_over_what_is_judged_first_and_asked_of_likelihoods_only(tmp_path: Path) -> None:
    scorer = FakeScorer()
    with _judge(tmp_path / "many", scorer, items=make_items(1000)) as judge:
        found = judge.names()
        assert judge.names() == found
    places = [int(name.item_id[1:]) for name in found]
    assert len(places) == len(scorer.asked) == 128
    assert places[0] == 0 and {b - a for a, b in pairwise(places)} == {4}
    assert all(a.startswith("name ") for a in scorer.asked)
    assert {(name.role, name.history) for name in found} == {("name", ())}
    with _judge(tmp_path / "few", FakeScorer()) as judge:
        assert [name.item_id for name in judge.names()] == [f"m{i}" for i in range(20)]
    with _judge(tmp_path / "none", FakeScorer(), items=()) as judge:
        assert judge.names() == []
    for style in ("judge", "choose"):
        asked = FakeScorer(style)
        with _judge(tmp_path / style, asked) as judge:
            assert judge.names() == [] and asked.asked == []


def test_names_stopped_half_way_go_on(tmp_path: Path) -> None:
    asked: list[str] = []
    for cap, known in ((7, 7), (9, 16), (50, 20)):
        scorer = FakeScorer()
        with _judge(tmp_path, scorer, Budget(max_judgements=cap)) as judge:
            assert len(judge.names()) == known
        asked += scorer.asked
    assert len(asked) == len(set(asked)) == 20


def test_items_of_one_text_share_a_judgement_under_their_own_ids(tmp_path: Path) -> None:
    scorer = FakeScorer()
    items = (Item("a", "Movie number 1"), Item("b", "Movie number 1"), Item("c", "Movie number 2"))
    with _judge(tmp_path, scorer, items=items) as judge:
        answers = judge.ask([Question((("c", 1),), ("a", "b"))])
    assert [a.item_id for a in answers] == ["a", "b"]
    assert len(scorer.asked) == 1


def test_the_budget_in_judgements_is_exact(tmp_path: Path) -> None:
    scorer = FakeScorer()
    with _judge(tmp_path, scorer, Budget(max_judgements=5)) as judge:
        answers = judge.ask([LIKED_TWO, Question((), tuple(f"m{i}" for i in range(20)))])
        assert judge.stopped == "the budget of 5 judgements is used up"
        assert judge.ask([LIKED_TWO, Question((), ("m19",))]) == answers[:3]
    assert len(answers) == len(scorer.asked) == 5


def test_the_budget_in_seconds_ends_between_answers(tmp_path: Path) -> None:
    now = [0.0]
    scorer = FakeScorer()
    cache = JudgementCache(tmp_path / "judgements.jsonl")
    with Judge(scorer, make_items(20), cache, Budget(max_seconds=10.0), clock=lambda: now[0]) as judge:

        def advance(n: int) -> None:
            now[0] += 6.0

        judge.on_progress = advance
        questions = [Question((("m0", 1),), (f"m{i}",)) for i in range(1, 10)]
        assert len(judge.ask(questions)) == 2
        assert judge.stopped == "the budget of 10 seconds is used up"


def test_a_tired_scorer_ends_the_asking(tmp_path: Path) -> None:
    with _judge(tmp_path, FakeScorer(exhausted_after=2)) as judge:
        assert [a.item_id for a in judge.ask([LIKED_TWO])] == ["m4", "m5"]
        assert judge.stopped == "the fake is tired"


def test_priors_come_with_a_baseline_after_a_typical_history(tmp_path: Path) -> None:
    scorer = FakeScorer()
    with _judge(tmp_path, scorer) as judge:
        answers = judge.priors()
        assert judge.priors() == answers
    priors = [a for a in answers if a.role == "prior"]
    baselines = [a for a in answers if a.role == "baseline"]
    assert [a.item_id for a in priors] == [f"m{i}" for i in range(20)]
    assert all(a.history == () for a in priors)
    # The fake finds low numbers likely: the six most likely are the typical history.
    assert {a.history for a in baselines} == {tuple((f"m{i}", 1) for i in range(6))}
    assert [a.item_id for a in baselines] == [f"m{i}" for i in range(6, 20)]


def test_priors_stopped_half_way_go_on(tmp_path: Path) -> None:
    asked: list[str] = []
    for cap in (7, 9, 9, 50):
        scorer = FakeScorer()
        with _judge(tmp_path, scorer, Budget(max_judgements=cap)) as judge:
            answers = judge.priors()
        asked += scorer.asked
    assert len(answers) == len(asked) == len(set(asked)) == 34


def test_styles_that_ask_need_no_baseline(tmp_path: Path) -> None:
    with _judge(tmp_path, FakeScorer("judge")) as judge:
        assert {a.role for a in judge.priors()} == {"prior"}


def test_choose_judges_candidates_together(tmp_path: Path) -> None:
    scorer = FakeScorer("choose")
    with _judge(tmp_path, scorer, Budget(max_judgements=8)) as judge:
        judge.ask([LIKED_TWO])
        judge.ask([replace(LIKED_TWO, candidates=("m4", "m5", "m7"))])
        assert len(scorer.asked) == 6  # another set: all three again
        judge.ask([replace(LIKED_TWO, candidates=("m8", "m9", "m10"))])
        assert len(scorer.asked) == 6  # three do not fit into the two that are left


def test_an_unknown_item_is_named(tmp_path: Path) -> None:
    with (
        _judge(tmp_path, FakeScorer()) as judge,
        pytest.raises(OfflineError, match="item 'zz' is not in the catalogue"),
    ):
        judge.ask([Question((), ("zz",))])
