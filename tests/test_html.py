"""The HTML pages: no text that comes from outside becomes an element or an attribute."""

import io
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError

from craftkit_archive.coverage import Coverage
from craftkit_archive.export.index import IndexRow, Volume
from craftkit_archive.export.pages import Pages
from craftkit_archive.html.pages import FOLDER, generate_page
from craftkit_archive.records import (
    Acknowledgement,
    ExportMade,
    Finding,
    Keeping,
    Note,
    ProjectInfo,
    RunInfo,
    Tombstone,
)
from craftkit_archive.report.forms import ReadingDay, Report
from craftkit_archive.report.page import write_html
from craftkit_archive.states import Standing
from craftkit_archive.values import escape_control

TIME = "2026-06-05T10:00:00.000Z"
BREAKS = ["<script>", "</title>", "</noscript>", "</style>", "<img src=x onerror=a()>", '"', "'", "&quot;", "-->", "`",
          "{{ 7 * 7 }}", "{% raw %}", "{# ", "<tr><td>", "<td>", "\n", "\t", "\r", "\x00", "\x1b[2J", "\u202e", "&",
          "%", "\\", "$title", "{{rows}}", "\u2028", "\ufeff", " onclick=a() x='", "]]>"]  # fmt: skip
HOSTILE = st.lists(st.sampled_from(BREAKS) | st.text(min_size=1, max_size=4), min_size=1, max_size=6).map("".join)
TEMPLATES = sorted(file for file in FOLDER.rglob("*.html"))


class Parsed(HTMLParser):
    """What a browser builds of a page: its elements with the names of their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, ...]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element, and the values of its attributes as text."""
        self.elements.append((tag, *(name for name, _ in attrs)))
        self.texts += [value for _, value in attrs if value]

    def handle_endtag(self, tag: str) -> None:
        """Keep the end of an element."""
        self.elements.append(("/", tag))

    def handle_data(self, data: str) -> None:
        """Keep text."""
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        """Keep a comment: no page has one."""
        self.elements.append(("<!--", data))


class Said(NamedTuple):
    """A page, and what the texts in it were when they were put in."""

    page: str
    foreign: list[str]


def report_of(text: Callable[[], str]) -> Said:
    """Write a report whose every text that comes from outside is one of `text`."""
    foreign: list[str] = []

    def outside() -> str:
        foreign.append(text())
        return foreign[-1]

    run = RunInfo(
        id=7,
        command="verify",
        started_at=TIME,
        finished_at=TIME,
        outcome=outside(),
        counts={"checked": 4, "ok": 1, "missing": 2, outside(): 1},
        bytes_read=10,
        arguments={"level": outside()},
        stored_bytes=20,
        covered_bytes=10,
    )
    findings: list[Finding | Note] = [
        Finding(7, outside(), outside(), "missing", TIME, outside(), outside(), outside(), outside()),
        Note(7, outside(), outside(), outside(), TIME),
    ]
    project = ProjectInfo(outside(), outside(), outside(), TIME, 4, 4, 3, 1, 20, 1, 2, None)
    report = Report(
        archive=outside(),
        archive_id=outside(),
        store=outside(),
        made_at=TIME,
        run=run,
        coverage=Coverage(30, 4, 20, 1, 10, 1, 5),
        history=[run, run],
        days=[ReadingDay("2026-06-05", 1, 10), ReadingDay(None, 1, 10)],
        projects=[project, msgspec.structs.replace(project, slug=None, deleted_at=None)],
        seal=outside(),
        findings=lambda: iter(findings),
        standing=Standing(stored=3, damaged=2, not_stored=1),
        accepted=[Acknowledgement(outside(), outside(), outside(), outside(), TIME)],
        keeping=Keeping(90, due_soon=1, holds=1, disposed=1),
    )
    out = io.StringIO()
    write_html(report, out)
    return Said(out.getvalue(), foreign)


def export_of(text: Callable[[], str]) -> Said:
    """Write the page of an export whose every text that comes from outside is one of `text`."""
    foreign: list[str] = []

    def outside() -> str:
        foreign.append(text())
        return foreign[-1]

    pages = Pages(io.BytesIO, outside(), Volume(1, 2))
    for number in range(3):
        path = f"folder/{outside().replace('/', '')}"
        pages.add(IndexRow(path, outside(), outside(), outside(), outside(), "", outside(), TIME, "1", "", ""), number)
    [(_, file)] = pages.finish(2)
    file.seek(0)
    return Said(file.read().decode(), foreign)


def certificate_of(text: Callable[[], str]) -> Said:
    """Write the certificate of a disposal whose every text that comes from outside is one of `text`."""
    foreign: list[str] = []

    def outside() -> str:
        foreign.append(text())
        return foreign[-1]

    stone = Tombstone(outside(), outside(), 7, outside(), TIME, TIME, outside(), outside(), TIME, outside())
    values: dict[str, object] = {
        "run": RunInfo(7, "dispose", TIME, TIME, "ok", {"disposed": 1}, 0),
        "facts": {"Archive": outside(), "Run": 7},
        "disposed": iter([stone, msgspec.structs.replace(stone, size_bytes=None, sha256=None, remains=None)]),
        "more": 3,
        "exports": [ExportMade(outside(), TIME, 1, 7, outside(), 1)],
        "event": 12,
        "json_name": outside(),
    }
    return Said("".join(generate_page("disposal/certificate.html", values)), foreign)


def harmless() -> Callable[[], str]:
    numbers: Iterator[int] = iter(range(1000))
    return lambda: f"plain{next(numbers):04}"


@pytest.mark.parametrize("write", [report_of, export_of, certificate_of])
@given(texts=st.lists(HOSTILE, min_size=1, max_size=5))
@settings(deadline=None)
def test_foreign_text_adds_no_element_and_no_attribute(write: Callable[[Any], Said], texts: list[str]) -> None:
    turns = cycle(texts)
    assert_same_elements(write(lambda: next(turns)), write(harmless()))


@pytest.mark.parametrize("write", [report_of, export_of, certificate_of])
@pytest.mark.parametrize("text", BREAKS)
def test_each_text_that_breaks_out_elsewhere_stays_text(write: Callable[[Any], Said], text: str) -> None:
    numbers = iter(range(1000))
    assert_same_elements(write(lambda: f"{text}{next(numbers):04}"), write(harmless()))


def assert_same_elements(hostile: Said, plain: Said) -> None:
    found, expected = Parsed(hostile.page), Parsed(plain.page)
    # Charts have a column for each month and a bar for each project: as many as there are different ones.
    assert {*found.elements} == {*expected.elements}
    charts = ("g", "title", "rect", "li", "span", "i", "/", "b", "option")
    assert [one for one in found.elements if one[0] not in charts] == [
        one for one in expected.elements if one[0] not in charts
    ]
    assert "".join(hostile.page.split("<script>")[1:]) == "".join(plain.page.split("<script>")[1:]), "one script, ours"
    printed = "".join(hostile.page.splitlines())
    assert printed.isprintable(), {sign for sign in printed if not sign.isprintable()}


@given(text=HOSTILE)
@settings(deadline=None)
def test_foreign_text_is_read_as_it_was_with_control_characters_as_escapes(text: str) -> None:
    shown = escape_control(text.replace("\n", " ").replace("\t", " "))
    found = Parsed(report_of(lambda: text).page).texts
    assert [one for one in found if shown in one] or not shown.strip()


def test_a_value_that_is_missing_is_an_error_and_not_a_gap() -> None:
    with pytest.raises(UndefinedError):
        list(generate_page("report/report.html", {}))


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.name)
def test_no_template_switches_escaping_off_or_leaves_an_attribute_without_quotes(file: Path) -> None:
    text = file.read_text()
    assert not re.search(r"\|\s*safe\b|autoescape|Markup", text)
    body = re.sub(r"(?s)<style>.*?</style>|\{% block style %\}.*?\{% endblock %\}", "", text)
    assert not re.search(r"=\{\{", body)
    assert not re.search(r"""\bon\w+=|(?:href|src)="\{\{(?! (?:href|name) \}\})""", body)


def test_html_is_written_by_templates_alone() -> None:
    """No module puts tags together, and none but `html/pages.py` calls a text safe."""
    for file in [*FOLDER.rglob("*.py"), *(FOLDER.parent / "server").rglob("*.py")]:
        text = file.read_text()
        assert not re.search(r"""["']<(?:/?(?:td|tr|p|div|span|svg|li|a|ul|ol|h\d|b|code|section|table)\b)""", text), (
            file
        )
        assert "Markup(" not in text or file == FOLDER / "html/pages.py"
