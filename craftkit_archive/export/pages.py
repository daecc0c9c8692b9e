"""The pages to browse an export with: one file each, no network, readable without scripts too."""

import re
from collections import Counter
from collections.abc import Callable
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple
from urllib.parse import quote

from craftkit_archive.parallel.progress import format_size
from craftkit_archive.values import escape_control

if TYPE_CHECKING:
    from craftkit_archive.export.manifests import IndexRow, Volume

PAGE_ROWS = 100_000
SHOWN_PROJECTS = 12
MOST_MONTHS = 48
TEMPLATE = Path(__file__).with_name("page.html")
CHART_HEIGHT = 96
_SIMPLE = re.compile(r"[A-Za-z0-9_.:/ -]*")


def page_name(number: int) -> str:
    """Name the pages of an export: `index.html`, then `index-002.html` and so on."""
    return f"index-{number + 1:03}.html" if number else "index.html"


class Tally(NamedTuple):
    """How many PDFs there are of something, and their bytes."""

    pdfs: int
    size_bytes: int


class Pages:
    """The pages of one export, each with up to 100,000 PDFs; the first one has the pictures of them all.

    The rows stand in the page once, as a plain table for a browser without scripts; with scripts, the same text is
    what the page searches, sorts and shows.

    Args:
        open_file: Opens a temporary file.
        title: What they are called.
        volume: Which part of an export they are about.
    """

    def __init__(self, open_file: Callable[[], BinaryIO], title: str, volume: "Volume") -> None:
        self._open = open_file
        self._title = title if volume.total == 1 else f"{title}, part {volume.number} of {volume.total}"
        self._rows: list[BinaryIO] = []
        self._count = self._size = 0
        self._projects: Counter[str] = Counter()
        self._project_sizes: Counter[str] = Counter()
        self._months: Counter[str] = Counter()

    def add(self, cells: "IndexRow", size_bytes: int) -> None:
        """Put down a PDF."""
        if self._count % PAGE_ROWS == 0:
            self._rows.append(self._open())
        project = cells.project_slug or cells.project_id
        self._count += 1
        self._size += size_bytes
        self._projects[project] += 1
        self._project_sizes[project] += size_bytes
        self._months[cells.created_at[:7] or "undated"] += 1
        name = cells.path.rpartition("/")[2]
        also = "" if name == f"{cells.render_id}.pdf" else cells.render_id
        shown = "<td>".join(map(_safe, (project, cells.template_id, cells.created_at[:19], str(size_bytes), also)))
        row = f'<tr><td><a href="{quote(cells.path)}">{_safe(name)}</a><td>{shown}\n'
        self._rows[-1].write(row.encode())

    def finish(self, missing: int) -> list[tuple[str, BinaryIO]]:
        """Make the pages whole, and return their names and files."""
        head, _, tail = TEMPLATE.read_text("utf-8").partition("{{rows}}")
        pages = []
        for number, rows in enumerate(self._rows or [BytesIO()]):
            file = self._open()
            file.write(self._fill(head, number, missing).encode())
            rows.seek(0)
            while chunk := rows.read(1 << 20):
                file.write(chunk)
            file.write(self._fill(tail, number, missing).encode())
            pages.append((page_name(number), file))
        return pages

    def _fill(self, text: str, number: int, missing: int) -> str:
        words = {
            "title": _safe(self._title),
            "summary": f"{self._count:,} PDFs, {format_size(self._size)}",
            "lacking": self._missing(missing),
            "pages": self._links(number),
            "months": _months(self._months) if number == 0 else "",
            "projects": self._bars() if number == 0 else "",
        }
        # One pass: what a name says is never taken for a place to fill.
        return re.sub(r"\{\{(\w+)\}\}", lambda place: words[place[1]], text)

    def _missing(self, missing: int) -> str:
        if not missing:
            return ""
        pdfs = "1 PDF is" if missing == 1 else f"{missing:,} PDFs are"
        return f'<p class="lacking">{pdfs} missing from this export. See <a href="missing.csv">missing.csv</a>.</p>'

    def _links(self, number: int) -> str:
        if len(self._rows) < 2:
            return ""
        links = (
            f"<b>{one + 1}</b>" if one == number else f'<a href="{page_name(one)}">{one + 1}</a>'
            for one in range(len(self._rows))
        )
        return f'<nav aria-label="Pages">Pages: {" ".join(links)}</nav>'

    def _bars(self) -> str:
        most = self._projects.most_common(SHOWN_PROJECTS)
        shown = [(name, Tally(count, self._project_sizes[name])) for name, count in most]
        rest = Tally(self._count - sum(held.pdfs for _, held in shown), 0)
        largest = max((held.pdfs for _, held in shown), default=1)
        bars = [
            f'<li data-project="{_safe(name)}"><span class="name">{_safe(name)}</span>'
            f'<span class="bar"><i style="width:{100 * held.pdfs / largest:.1f}%"></i></span>'
            f'<span class="count">{held.pdfs:,}</span><span class="size">{format_size(held.size_bytes)}</span></li>'
            for name, held in shown
        ]
        if rest.pdfs:
            others = len(self._projects) - len(shown)
            bars.append(f'<li class="rest"><span class="name">{others:,} more projects</span>'
                        f'<span class="bar"></span><span class="count">{rest.pdfs:,}</span></li>')  # fmt: skip
        return f'<ol class="projects">{"".join(bars)}</ol>'


def _safe(value: str) -> str:
    """Write foreign text into a page, on one line."""
    if _SIMPLE.fullmatch(value):
        return value
    return escape(escape_control(value.replace("\n", " ").replace("\t", " ")))


def _months(months: Counter[str]) -> str:
    """Draw how many PDFs there are of each month, or of each year if there are many months."""
    counts = months
    if len(months) > MOST_MONTHS:
        counts = Counter()
        for month, count in months.items():
            counts["undated" if month == "undated" else month[:4]] += count
    shown = sorted(counts.items())
    largest = max(counts.values(), default=1)
    width = 100 / max(len(shown), 1)
    columns = []
    for place, (name, count) in enumerate(shown):
        height = max(count / largest * CHART_HEIGHT, 1)
        columns.append(
            f'<g data-month="{_safe(name)}"><title>{_safe(name)}: {count:,}</title>'
            f'<rect class="room" x="{place * width:.3f}%" y="0" width="{width:.3f}%" height="{CHART_HEIGHT}"/>'
            f'<rect x="{(place + 0.1) * width:.3f}%" y="{CHART_HEIGHT - height:.1f}" width="{width * 0.8:.3f}%"'
            f' height="{height:.1f}" rx="2"/></g>'
        )
    first, last = (shown[0][0], shown[-1][0]) if shown else ("", "")
    return (
        f'<svg class="months" role="img" aria-label="PDFs by month, {_safe(first)} to {_safe(last)}" width="100%"'
        f' height="{CHART_HEIGHT}">{"".join(columns)}</svg>'
        f'<div class="axis"><span>{_safe(first)}</span><span>{_safe(last if last != first else "")}</span></div>'
    )
