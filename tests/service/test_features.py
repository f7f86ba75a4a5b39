"""Whom a request of Personalizer's is for, and what text stands for an action."""

from __future__ import annotations

from typing import Any

import pytest

from service.api.features import find_user, text_of
from service.contract.base import MAX_TEXT
from service.contract.items import ItemBody


@pytest.mark.parametrize(
    ("features", "user"),
    [
        ([{"userId": "ann"}], "u:ann"),
        ([{"user_id": "ann"}], "u:ann"),
        ([{"sessionId": "v"}], "s:v"),
        ([{"session_id": "v"}], "s:v"),
        ([{"device": {"userId": "not this deep"}}, {"sessionId": "v"}], "s:v"),
        ([{"sessionId": "v"}, {"userId": 7}], "u:7"),
        ([{"userId": 7.0}], "u:7"),
        ([{"userId": 7.5, "sessionId": ""}, {"userId": True}, {"userId": None}, {"userId": ["a"]}], None),
        ([], None),
        (None, None),
    ],
)
def test_who_is_asked_for(features: list[dict[str, Any]] | None, user: str | None) -> None:
    assert find_user(features) == user


DEEP: dict[str, Any] = {"title": "Ground"}
for _ in range(20_000):
    DEEP = {"under": [DEEP]}


@pytest.mark.parametrize(
    ("features", "text"),
    [
        (None, "the id"),
        ([{}, {"a": None, "b": "  ", "c": [], "d": float("nan")}], "the id"),
        ([{"type": "News"}, {"premium": True, "words": 120}], "type: News; premium: true; words: 120"),
        ([{"year": 1995, "description": "Two men.", "articleTitle": "Heat"}], "Heat; Two men.; year: 1995"),
        (
            [{"food": {"taste": "salty", "NAME": "Pasta"}, "tags": ["hot", "quick"]}],
            "Pasta; taste: salty; tags: hot, quick",
        ),
        ([{"grams": [{"fat": 3}, 5]}], "grams: 5; fat: 3"),
        ([{"title": "<script>alert('x')</script> {{7*7}}"}], "<script>alert('x')</script> {{7*7}}"),
        ([{"title": "half \ud83d"}], "half "),
        ([{"videoTitle": "A"}, {"video_name": "B"}, {"HEADLINE": "C"}], "A; B; C"),
        ([{"context": "A"}, {"filename": "B"}], "context: A; filename: B"),
        ([{"title": "\ud83d"}], "the id"),
        ([{"text": "x" * 5_000}], "x" * MAX_TEXT),
        ([DEEP], "Ground"),
    ],
    ids=lambda value: repr(value)[:30] if not isinstance(value, list) or value != [DEEP] else "deep",
)
def test_a_text_is_made_from_features(features: list[dict[str, Any]] | None, text: str) -> None:
    assert text_of("the id", features) == text


@pytest.mark.parametrize("features", [None, [{"title": "\ud83d \ud83d"}], [{"title": " "}]])
def test_a_text_is_never_white_space_alone(features: list[dict[str, Any]] | None) -> None:
    assert text_of("\t", features) == '"\t"'
    assert ItemBody(text=text_of(" ", features))
