"""HTML made of Jinja templates, which lie beside the modules that fill them in."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1]),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **values: object) -> str:
    """Fill a template in, named by its path in the simulator (`load/page.html`); all texts are escaped.

    Raises:
        jinja2.UndefinedError: the template names a value that is not given.
    """
    return _TEMPLATES.get_template(template).render(values)
