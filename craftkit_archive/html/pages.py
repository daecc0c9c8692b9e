"""Renders the HTML pages from their templates.

A page is a template in its subject's folder that extends `html/base.html`, and one call of `generate_page` or
`write_page`. Everything that a template shows is escaped (HTML, control characters and line breaks), and its script is
included in the page and named in its Content-Security-Policy.
"""

from __future__ import annotations

import base64
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from craftkit_archive.values import escape_control

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO, TextIO

    from jinja2 import Environment, Template
    from markupsafe import Markup

FOLDER = Path(__file__).parents[1]


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # takes 35 ms, and only pages need it

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        finalize=_on_one_line,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters["csp_hash"] = _csp_hash
    environment.filters["grouped"] = "{:,}".format
    return environment


def _on_one_line(value: object) -> object:
    """Escape characters that control a terminal or change the direction of text; called for each value shown.

    jinja2 escapes HTML after this. The result of a macro is `Markup`, whose values were escaped before.
    """
    if not isinstance(value, str) or value.isprintable() or hasattr(value, "__html__"):
        return value
    return escape_control(value.replace("\n", " ").replace("\t", " "))


def _csp_hash(script: str) -> str:
    return f"sha256-{base64.b64encode(sha256(script.encode()).digest()).decode()}"


def load_template(template: str) -> Template:
    """Return a compiled template; the next call returns the same."""
    return _environment().get_template(template)


def generate_page(template: str, values: dict[str, object]) -> Iterator[str]:
    """Yield the text of a page piece by piece: a loop in its template may run over a generator of any length.

    Args:
        template: Its path below `craftkit_archive`, such as `report/report.html`.
        values: The template's variables. A missing variable is an error.
    """
    return load_template(template).generate(values)


def write_page(template: str, out: TextIO, values: dict[str, object]) -> None:
    """Write a page to a text file; see `generate_page`."""
    for piece in generate_page(template, values):
        out.write(piece)


def load_row(template: str, name: str, columns: int) -> Callable[..., str]:
    """Return a function that renders a row from its values, all of them text, with a macro of a template.

    A macro takes 6.2 us a row. So it is called once with placeholders to get a format string, and again only for values
    that need escaping; all other rows take 1.3 us.
    """
    from markupsafe import escape

    macro: Callable[..., Markup] = getattr(load_template(template).module, name)
    pattern = str(macro(*(f"@{number}@" for number in range(columns)))).replace("{", "{{").replace("}", "}}")
    for number in range(columns):
        pattern = pattern.replace(f"@{number}@", f"{{{number}}}")

    def fill(*values: str) -> str:
        shown = "".join(values)
        if shown.isprintable() and escape(shown) == shown:
            return pattern.format(*values)
        return macro(*values)

    return fill


def read_filled(file: BinaryIO, size_bytes: int = 1 << 20) -> Iterator[Markup]:
    """Read rendered rows back from the beginning of a file, as `Markup`, so that they are not escaped again."""
    from markupsafe import Markup

    file.seek(0)
    while lines := file.readlines(size_bytes):
        yield Markup(b"".join(lines).decode())  # noqa: S704 - the macros escaped it
