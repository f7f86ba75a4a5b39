"""Templates of HTML pages: whole, strict, and shipped where the code looks for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import UndefinedError

import simulator
from simulator.pages.templates import render


def test_a_page_that_lacks_a_value_is_refused() -> None:
    with pytest.raises(UndefinedError, match="facts"):
        render("load/page.html")


def test_texts_are_escaped() -> None:
    part = render("demo/persons.html", judged=[("<b>", {"headline": ["1 < 2", "<i>"]}, '"')], page="&")
    assert "&lt;b&gt;" in part and "1 &lt; 2 &lt;i&gt;" in part and '"../&#34;/&amp;"' in part


def test_templates_load_nothing_from_elsewhere() -> None:
    found = sorted(Path(simulator.__file__).parent.rglob("*.html"))
    assert len(found) == 6
    assert not [path.name for path in found if "://" in path.read_text() or "<script" in path.read_text()]
