"""Logs of Metarank, Vowpal Wabbit and Azure Personalizer, and plain files that say what was shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline.datasets import Dataset, read_dataset, save_dataset
from offline.errors import OfflineError
from offline.impressions import MOST_SLOTS, NO_ITEM
from offline.sources import Reading, load_catalogue
from service.contract.base import MAX_TEXT
from service.policy.types import EMPTY_SLOT
from service.tables import dsjson

Json = dict[str, Any]


def written(path: Path, rows: list[Json]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def liked(dataset: Dataset) -> list[tuple[int, str]]:
    """(user, item) of the likes, in the file's order."""
    found = dataset.interactions
    assert found is not None
    return [
        (int(user), dataset.items[item].item_id)
        for user, item, is_liked in zip(found.user, found.item, found.liked, strict=True)
        if is_liked
    ]


def slates(dataset: Dataset) -> list[tuple[int, list[tuple[str, bool]]]]:
    """(user, [(item, whether it was liked)]) of the slates; an empty slot is left out."""
    found = dataset.impressions
    assert found is not None
    rows = zip(found.user.tolist(), found.items.tolist(), found.liked.tolist(), strict=True)
    return [
        (user, [(dataset.items[i].item_id, was) for i, was in zip(items, liked, strict=True) if i >= 0])
        for user, items, liked in rows
    ]


# -- Metarank ----------------------------------------------------------------------------------------------------------


def field(name: str, value: object) -> Json:
    return {"name": name, "value": value}


def event(kind: str, number: int, **more: object) -> Json:
    return {"event": kind, "id": f"e{number}", "timestamp": str(1_599_391_467_000 + 1_000 * number), **more}


METARANK = [
    event("item", 0, item="emma", fields=[field("title", "Emma"), field("genres", ["romance", "satire"])]),
    event("item", 1, item="dracula", fields=[field("title", "Dracula"), field("genres", ["horror"])]),
    event("item", 2, item="dracula", fields=[field("title", "Dracula (1897)")]),
    event("user", 3, user="ann", fields=[field("age", 33)]),
    event("ranking", 4, user="ann", items=[{"id": "dracula", "relevancy": 2.0}, {"id": "emma"}, {"id": "gone"}]),
    event("interaction", 5, user="ann", ranking="e4", type="click", item="emma"),
    event("ranking", 6, session="tab", items=[{"id": "emma"}]),
    event("ranking", 7, items=[{"id": "dracula"}]),
    event("interaction", 8, ranking="e7", type="purchase", item="dracula"),
    event("interaction", 9, user="ann", type="purchase", item="dracula"),
    event("interaction", 10, user="ann", type="hover", item="emma"),
]


def metarank(path: Path, rows: list[Json] | None = None) -> Dataset:
    file = written(path / "events.jsonl", METARANK if rows is None else rows)
    return load_catalogue(file, file, reading=Reading(liked_types=frozenset({"click", "purchase"})))


def test_events_of_metarank(tmp_path: Path) -> None:
    found = metarank(tmp_path)
    assert [(item.item_id, item.text, item.categories) for item in found.items] == [
        ("emma", "Emma", ("romance", "satire")),
        ("dracula", "Dracula (1897)", ("horror",)),
    ]
    assert found.problems == ()
    assert liked(found) == [(0, "emma"), (1, "dracula"), (0, "dracula")]
    assert slates(found) == [
        (0, [("dracula", False), ("emma", True)]),
        (2, [("emma", False)]),
        (1, [("dracula", True)]),
    ]
    assert found.interactions is not None and found.interactions.n_users == 3
    assert found.interactions.time.tolist() == [1_599_391_472, 1_599_391_475, 1_599_391_476, 1_599_391_477]
    notes = "\n".join(found.notes)
    assert notes.count("events.jsonl: events of Metarank") == 2
    assert "events.jsonl: 8 events are not of items" in notes
    assert "events.jsonl: 3 events of items say nothing of interactions" in notes
    assert "events.jsonl: 3 slates of 4 items shown, 50.0% of them liked" in notes
    assert "events.jsonl: 1 times 1 items were shown that are not in the catalogue" in notes


def test_a_row_that_metarank_would_not_take_is_named(tmp_path: Path) -> None:
    bad = [event("interaction", 11, user="ann", type="click"), event("ranking", 12, user="ann", items=[{"id": []}])]
    bad += [event("interaction", 13, user="ann", type="click", item="lost"), {"event": "impression"}]
    found = metarank(tmp_path, [*METARANK, *bad])
    assert [(p.line, p.field) for p in found.problems] == [(12, "item"), (13, "shown"), (14, "item")]
    assert "events.jsonl: 1 rows are no events of Metarank" in found.notes


# -- Vowpal Wabbit and Azure Personalizer ------------------------------------------------------------------------------


def decision(number: int, shown: int, cost: float, user: Json, **more: object) -> Json:
    """As Personalizer logs one with two actions."""
    actions = [
        {"_tag": "emma", "i": {"constant": 1, "id": "emma"}, "j": [{"title": "Emma", "genre": "romance"}]},
        {"_tag": "she", "i": {"constant": 1, "id": "she"}, "j": [{"genre": "adventure"}]},
    ]
    return {
        "_label_cost": cost,
        "_label_probability": 0.8,
        "_label_Action": shown,
        "_labelIndex": shown - 1,
        "o": [{"v": -cost, "EventId": f"d{number}", "ActionTaken": False}],
        "Timestamp": f"2021-02-04T16:31:{number:02}.2460000Z",
        "Version": "1",
        "EventId": f"d{number}",
        "a": [shown, 3 - shown],
        "c": {"FromUrl": [{"timeofday": "Morning", **user}], "_multi": actions},
        "p": [0.8, 0.2],
        "VWState": {"m": "N/A"},
        **more,
    }


def test_decisions_of_personalizer(tmp_path: Path) -> None:
    rows = [
        decision(0, 1, -1.0, {"userId": "ann"}),
        decision(1, 2, -0.0, {"userId": "ann"}),
        decision(2, 2, 1.0, {"sessionId": "tab"}),
        decision(3, 1, 0.0, {}),
        decision(4, 1, 0.0, {}, DeferredAction=True),
        decision(5, 1, -1.0, {}, _skipLearn=True),
        decision(6, 9, -1.0, {}),
        {"RewardValue": 1.0, "EventId": "d7"},
    ]
    file = written(tmp_path / "log.json", rows)
    found = load_catalogue(file, file)
    assert [(item.item_id, item.text) for item in found.items] == [
        ("emma", "Emma; genre: romance"),
        ("she", "genre: adventure"),
    ]
    assert found.problems == ()
    assert liked(found) == [(0, "emma")]
    assert slates(found) == [
        (0, [("emma", True)]),
        (0, [("she", False)]),
        (1, [("she", False)]),
        (2, [("emma", False)]),
    ]
    assert found.impressions is not None and found.impressions.propensities.tolist() == [[pytest.approx(0.8)]] * 4
    assert found.interactions is not None and found.interactions.value.tolist() == [1.0, -1.0]
    notes = "\n".join(found.notes)
    assert "log.json: decisions of Vowpal Wabbit or Azure Personalizer (dsjson)" in notes
    assert "2 decisions were not to be learned from, or never activated" in notes
    assert "1 decisions do not say which action was shown" in notes and "1 rows are no decisions" in notes
    assert "4 slates of 4 items shown, 25.0% of them liked, with propensities" in notes


def test_decisions_for_several_slots_without_names(tmp_path: Path) -> None:
    """As Vowpal Wabbit has them: actions by their features, a user with an id, and slots, which count from 0."""
    outcomes = [
        {"_label_cost": 0.0, "_id": "s1", "_a": [1, 0], "_p": [0.75, 0.25]},
        {"_label_cost": -1.0, "_id": "s2", "_a": [0], "_p": [1.0]},
    ]
    context = {
        "GUser": {"id": "person5", "major": "engineering"},
        "_multi": [{"TAction": {"topic": "HerbGarden"}}, {"TAction": {"topic": "SkiConditions-VT"}}],
        "_slots": [{"_id": "s1"}, {"_id": "s2"}],
    }
    file = written(
        tmp_path / "ccb.jsonl",
        [{"Timestamp": "2020-11-15T17:09:31.8350000Z", "c": context, "_outcomes": outcomes, "EventId": "x"}],
    )
    found = load_catalogue(file, file)
    herbs, ski = found.items
    assert (herbs.text, ski.text) == ("topic: HerbGarden", "topic: SkiConditions-VT")
    assert herbs.item_id.startswith("action-") and herbs.item_id != ski.item_id
    assert slates(found) == [(0, [(ski.item_id, False), (herbs.item_id, True)])]
    assert found.impressions is not None and found.impressions.propensities.tolist() == [[0.75, 1.0]]


def test_a_text_may_be_as_long_as_those_of_the_api() -> None:
    assert dsjson.MAX_TEXT == MAX_TEXT


def test_a_slot_is_as_empty_as_a_policy_s() -> None:
    assert NO_ITEM == EMPTY_SLOT


@pytest.mark.parametrize(
    "spoilt",
    [
        {"c": {"_multi": 3}},
        {"a": ["x"]},
        {"a": []},
        {"_label_cost": None},
        {"p": [2.0, 0.1]},
        {"c": {"_multi": [1, 2]}},
    ],
)
def test_a_spoilt_decision_costs_itself_alone(tmp_path: Path, spoilt: Json) -> None:
    rows = [decision(0, 1, -1.0, {"userId": "ann"}), decision(1, 2, -1.0, {"userId": "ann"}) | spoilt]
    file = written(tmp_path / "log.jsonl", rows)
    found = load_catalogue(file, file)
    assert liked(found)[0] == (0, "emma")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "_tag", "a", "user"]), inner),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_a_row_says_costs_that_row_alone(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    usual: list[Json] = [*METARANK[:1], *METARANK[4:6], decision(0, 1, -1.0, {"userId": "ann"})]
    good: Json = data.draw(st.sampled_from(usual))
    keys = st.sampled_from([*good, "_outcomes", "_skipLearn", "c"])
    bad = good | data.draw(st.dictionaries(keys, ANYTHING, min_size=1, max_size=3))
    if "c" in good and isinstance(bad["c"], dict) and data.draw(st.booleans()):
        bad["c"] = good["c"] | {"_multi": data.draw(ANYTHING), "FromUrl": data.draw(ANYTHING)}
    first = METARANK if "event" in good else [good]
    file = written(tmp_path_factory.getbasetemp() / "spoilt.jsonl", [*first, bad])
    found = load_catalogue(file, file)
    assert found.items[0].item_id == "emma" and found.impressions is not None
    assert {problem.line for problem in found.problems} <= {len(first) + 1}


# -- plain files -------------------------------------------------------------------------------------------------------

ITEMS = "id,text\n" + "".join(f"{n},Film {n}\n" for n in range(30))


def plain(path: Path, content: str, reading: Reading | None = None) -> Dataset:
    (path / "items.csv").write_text(ITEMS)
    (path / "log.csv").write_text(content)
    return load_catalogue(path / "items.csv", path / "log.csv", reading=reading)


def test_a_column_of_what_was_shown(tmp_path: Path) -> None:
    found = plain(
        tmp_path,
        "user,item,time,recommendation_id,shown_items,propensities\n"
        "ann,2,10,r1,1|2|3|2,0.5|0.25|0.125|0.1\n"
        "ann,3,11,r1,,\n"
        "bob,,12,,1|99,\n"
        "bob,7,13,,,\n",
    )
    assert found.problems == ()
    assert slates(found) == [(0, [("1", False), ("2", True), ("3", True)]), (1, [("1", False)])]
    assert liked(found) == [(0, "2"), (0, "3"), (1, "7")]
    assert found.impressions is not None
    np.testing.assert_equal(found.impressions.propensities, np.array([[0.5, 0.25, 0.125], [np.nan] * 3], np.float32))
    assert found.impressions.time.tolist() == [10, 12]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("ann,2,1|2,0.5", "propensities: must be 2 probabilities, one for each item shown, above 0 and at most 1"),
        ("ann,2,1|2,0.5|0", "propensities: must be 2 probabilities, one for each item shown, above 0 and at most 1"),
        ("ann,2,1|2,0.5|x", "propensities: must be a list of probabilities"),
        ('ann,2,"[1, {}]",', "SHOWN: must be a list of ids, each 1 to 256 bytes long"),
        ("ann,,,", "item: must be 1 to 256 bytes long"),
    ],
)
def test_a_bad_slate_is_a_bad_row(tmp_path: Path, row: str, problem: str) -> None:
    reading = Reading(interaction_columns={"shown": "SHOWN"})
    found = plain(tmp_path, f"user,item,SHOWN,propensities\n{row}\nann,3,,\n", reading)
    assert [str(p).partition(":2: ")[2] for p in found.problems] == [problem]
    assert liked(found) == [(0, "3")]


def test_of_a_long_slate_the_first_places_count(tmp_path: Path) -> None:
    shown = "|".join(map(str, range(30)))
    found = plain(tmp_path, f"user,item,slate_id,shown_items\nann,25,r,{shown}\n")
    assert [len(items) for _, items in slates(found)] == [MOST_SLOTS] and liked(found) == [(0, "25")]
    assert f"log.csv: 1 slates cut off after {MOST_SLOTS} items" in found.notes


def test_slates_come_back_from_the_data_set(tmp_path: Path) -> None:
    found = metarank(tmp_path)
    save_dataset(found, tmp_path / "dataset")
    back = read_dataset(tmp_path / "dataset")
    assert slates(back) == slates(found) and back.impressions is not None and found.impressions is not None
    np.testing.assert_equal(back.impressions.time, found.impressions.time)
    np.testing.assert_equal(back.impressions.propensities, found.impressions.propensities[:, :2])  # the third is empty
    save_dataset(replace(found, impressions=None), tmp_path / "dataset")
    assert read_dataset(tmp_path / "dataset").impressions is None


def test_slates_of_users_that_there_are_not(tmp_path: Path) -> None:
    found = metarank(tmp_path)
    assert found.impressions is not None
    found.impressions.user[0] = 9
    save_dataset(found, tmp_path / "dataset")
    with pytest.raises(OfflineError, match="'user' is not within 0"):
        read_dataset(tmp_path / "dataset")
