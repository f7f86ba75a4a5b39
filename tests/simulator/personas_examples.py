"""A judgement for tests of how it is told."""

from __future__ import annotations

from collections.abc import Mapping

from simulator.personas import effect
from simulator.personas.catalogue import Category
from simulator.personas.effect import Effect, Stage
from simulator.personas.judgement import JudgeConfig, Judgement
from simulator.personas.people import Shown, ShownItem

_JITTER = (-0.01, 0.0, 0.01)  # of the draws, which all stages have alike


def effect_of(name: str, means: Mapping[int, float]) -> Effect:
    """Of twenty among a hundred items, with these means by likes."""
    category = Category((name,), tuple(map(str, range(20))), is_listed=True)
    stages = [Stage.of(likes, [mean * (1 + jitter) for jitter in _JITTER]) for likes, mean in means.items()]
    return effect.effect_of(category, stages, 100)


def judgement() -> Judgement:
    """Two categories, one good; a fan and a stranger; names that would be markup."""
    frightening = ShownItem("1", "The Shining & more", ["Horror"], 0.8, True)
    odd = ShownItem("2", "<script>document.title='planted'</script>", ["[b]Odd[/b]"], 0.25, False)
    effects = [
        effect_of("Horror", {-3: 0.05, 0: 0.1, 1: 0.2, 3: 0.3, 10: 0.5}),
        effect_of("[b]Odd[/b]", {-3: 0.01, 0: 0.1, 1: 0.02, 3: 0.01, 10: 0.0001}),
    ]
    fan = Shown(
        "a fan of Horror",
        ["<b>Liked</b>"],
        [],
        ["Horror"],
        0.4,
        0.1,
        [frightening, odd],
        [frightening],
        0.51,
        None,
        None,
    )
    stranger = Shown("a stranger", [], [], [], 0.0, 0.0, [odd], [odd], 0.0, None, None)
    against = Shown("not a fan", [], ["<b>Liked</b>"], ["Horror"], 0.0, 0.1, [odd], [], 0.3, "a fan of Horror", 0.7)
    return Judgement(
        url="http://127.0.0.1:8000",
        at=1.75e9,
        seconds=3.0,
        items=100,
        config=JudgeConfig(),
        answered_by=["adaptive"],
        versions=[3],
        categories=effects,
        pairs=[effect_of("Horror and Odd", {-3: 0.01, 0: 0.02, 1: 0.03, 3: 0.1, 10: 0.2})],
        people=[fan, stranger, against],
    )
