"""A judgement as one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from html import escape
from itertools import zip_longest

from simulator.pages.document import document, table
from simulator.personas import curve
from simulator.personas.effect import Effect
from simulator.personas.judgement import Judgement
from simulator.personas.people import Shown, ShownItem
from simulator.personas.words import capital, obeys, of_dislikes, percent, sentences, served

_STYLE = (
    """
:root { --warn: #b34700; } @media (prefers-color-scheme: dark) { :root { --warn: #f0a35e; } }
.effects { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: 1.25rem 2rem; }
.effects figure { margin: 0; } .effects h3 { font-size: 1rem; margin: 0; } .effects p { margin: 0; font-size: .9rem; }
.bad { color: var(--warn); }
.people { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1.5rem 2.5rem; }
.people h3 { font-size: 1rem; margin: 0 0 .25rem; } .people p { margin: 0 0 .25rem; font-size: .9rem; }
.people th { text-align: left; }
.people td { white-space: normal; text-align: left; vertical-align: top; font-size: .9rem; }
.people td.fits { border-left: 3px solid var(--mark); padding-left: .5rem; }
.people td.number { text-align: right; color: var(--faint); }
.words td { white-space: normal; text-align: left; }
"""
    + curve.STYLE
)


def page(judgement: Judgement) -> str:
    """Make the whole page; every text that came from outside is escaped."""
    headline = "".join(f'<p class="headline">{escape(sentence)}</p>' for sentence in judgement.headline)
    pairs = f"<h2>Overlapping categories</h2>{_effects(judgement.pairs)}" if judgement.pairs else ""
    config = judgement.config
    body = f"""<h1>Do people get what they like?</h1>
<p class="faint">{escape(_facts(judgement))}</p>
{headline}
<h2>Categories</h2>
<p class="faint">Expected share of a slate of {config.k} that goes to the category's other items: after
{config.most_likes} of its items were liked, after 3 and 1, after none, and (−3) after 3 were disliked. All choose among
the same items. Means of {config.draws} draws of the liked items; bands are one standard deviation.</p>
{_effects(judgement.categories)}
{pairs}
<h2>Persons</h2>
<p class="faint">What each would be shown: the likeliest items, with the probability of being in a slate, and a slate
that was drawn. A line marks items of the person's categories.</p>
<div class="people">{"".join(_person(shown) for shown in judgement.people)}</div>
<h2>How far apart</h2>
{_distances(judgement)}
<h2>Settings</h2>
<div class="tables"><div class="words">{_rules()}</div>{_config(judgement)}</div>"""
    return document("ialp: persons", body, _STYLE)


def _facts(judgement: Judgement) -> str:
    at = datetime.fromtimestamp(judgement.at, UTC)
    return f"{judgement.url}, {judgement.items:,} items, {served(judgement)}, {at:%Y-%m-%d %H:%M} UTC"


def _effects(effects: Sequence[Effect]) -> str:
    return f'<div class="effects">{"".join(_effect(effect) for effect in effects)}</div>'


def _effect(effect: Effect) -> str:
    likes = _word(effect.likes, effect.likes == "rises")
    dislikes = _word(of_dislikes(effect), obeys(effect) and effect.told_apart)
    return (
        f"<figure><h3>{escape(effect.name)} <span class='faint'>{effect.items} items</span></h3>{curve.curve(effect)}"
        f"<p>With likes: {likes}. With dislikes: {dislikes}.</p></figure>"
    )


def _word(text: str, good: bool) -> str:
    return escape(text) if good else f'<strong class="bad">{escape(text)}</strong>'


def _person(shown: Shown) -> str:
    did = [
        f"{word}: {', '.join(titles)}."
        for word, titles in (("Liked", shown.liked), ("Disliked", shown.disliked))
        if titles
    ]
    paragraphs = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences(shown))
    rows = "".join(
        f"<tr>{_cell(likely)}{_number(likely)}{_cell(drawn)}</tr>"
        for likely, drawn in zip_longest(shown.likeliest, shown.slate)
    )
    return (
        f'<article><h3>{escape(capital(shown.name))}</h3><p class="faint">{escape(" ".join(did))}</p>{paragraphs}'
        '<div class="scroll" tabindex="0"><table><thead><tr><th scope="col">Likeliest</th><th></th>'
        f'<th scope="col">A slate</th></tr></thead><tbody>{rows}</tbody></table></div></article>'
    )


def _cell(item: ShownItem | None) -> str:
    if item is None:
        return "<td></td>"
    return f"<td{' class=fits' if item.fits else ''}>{escape(item.text)}</td>"


def _number(item: ShownItem | None) -> str:
    return f'<td class="number">{percent(item.in_slate) if item else ""}</td>'


def _distances(judgement: Judgement) -> str:
    rows = [
        (capital(shown.name), f"{shown.from_stranger:.2f}", _opposite(shown))
        for shown in judgement.people
        if shown.liked or shown.disliked
    ]
    caption = (
        "Total variation of the expected shares of slots: 0 means the same slates, 1 nothing in common."
        " The opposite liked what this person disliked."
    )
    return table(caption, ("", "From a stranger", "From their opposite"), rows)


def _opposite(shown: Shown) -> str:
    return "" if shown.from_opposite is None else f"{shown.from_opposite:.2f}"


def _rules() -> str:
    rows = [
        ("rises", "the end is above the beginning by more than the standard error over draws"),
        ("dips first", "it rises, but after one or three likes it is below the beginning by more than that"),
        ("falls back", "it rises on the way, and less than half of that is left at the end"),
        ("no change", "the difference is within its standard error, or a slot in a thousand"),
        ("too rare", "a stranger gets less than a slot in a thousand of it: there is nothing to fall"),
        ("as with likes", "after three dislikes it is no less than after three likes of the same items"),
    ]
    return table("What the words mean.", ("Word", ""), rows)


def _config(judgement: Judgement) -> str:
    rows = [(name.replace("_", " "), str(value)) for name, value in asdict(judgement.config).items()]
    return table("Settings of this judgement.", ("Setting", "Value"), [*rows, ("seconds", f"{judgement.seconds:.1f}")])
