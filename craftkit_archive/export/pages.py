"""The HTML pages for browsing an export: self-contained files that need no network, and work without scripts too."""

from collections import Counter
from collections.abc import Callable
from functools import cached_property
from io import BytesIO
from typing import BinaryIO, NamedTuple
from urllib.parse import quote

from craftkit_archive.export.index import IndexRow, Volume
from craftkit_archive.html.pages import generate_page, load_row, load_template, read_filled
from craftkit_archive.values import format_size

PAGE_ROWS = 100_000
SHOWN_PROJECTS = 12
MOST_MONTHS = 48
CHART_HEIGHT = 96


def page_name(number: int) -> str:
    """Return the name of a page, counted from 0: `index.html`, then `index-002.html` and so on."""
    return f"index-{number + 1:03}.html" if number else "index.html"


class _ProjectBar(NamedTuple):
    """A project in the chart; the width of its bar is in percent of the widest one."""

    name: str
    pdfs: int
    size: str
    width: str


class _Month(NamedTuple):
    """A month or year in the chart; horizontal positions in percent of the chart's width, vertical ones in pixels."""

    name: str
    pdfs: int
    left: str
    bar_left: str
    top: str
    height: str


class _Months(NamedTuple):
    """The chart of PDFs by time."""

    columns: list[_Month]
    first: str
    last: str
    width: str
    bar_width: str
    height: int


class Pages:
    """The pages of one export, each with up to `PAGE_ROWS` PDFs; the first one has the charts of all PDFs.

    A page contains its rows once, as a plain table for browsers without scripts; with scripts, the page searches, sorts
    and shows the same text.

    Args:
        open_file: Opens a temporary file.
        title: The title of the pages.
        volume: The volume of the export that they are about.
    """

    def __init__(self, open_file: Callable[[], BinaryIO], title: str, volume: Volume) -> None:
        self._open = open_file
        self._title = title if volume.total == 1 else f"{title}, part {volume.number} of {volume.total}"
        # Each row is rendered when its PDF is added, and kept in a temporary file, so that memory stays flat.
        self._rows: list[BinaryIO] = []
        self._count = self._size = 0
        self._projects: Counter[str] = Counter()
        self._project_sizes: Counter[str] = Counter()
        self._months: Counter[str] = Counter()

    @cached_property
    def _fill_row(self) -> Callable[..., str]:
        # With the first PDF, while the workers copy the next ones: loading jinja2 and both templates takes 40 ms.
        load_template("export/page.html")
        return load_row("export/row.html", "row", 7)

    def add(self, cells: IndexRow, size_bytes: int) -> None:
        """Add a PDF."""
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
        created, size = cells.created_at[:19], cells.size_bytes
        row = self._fill_row(quote(cells.path), name, project, cells.template_id, created, size, also)
        self._rows[-1].write(row.encode())

    def finish(self, missing: int) -> list[tuple[str, BinaryIO]]:
        """Write the pages, and return their names and files."""
        rows = self._rows or [BytesIO()]
        values = {
            "title": self._title,
            "pdfs": self._count,
            "size": format_size(self._size),
            "missing": missing,
            "pages": [page_name(number) for number in range(len(rows))],
            "months": _draw_months(self._months),
            "projects": self._draw_projects(),
            "other_projects": max(len(self._projects) - SHOWN_PROJECTS, 0),
            "other_pdfs": self._count - sum(count for _, count in self._projects.most_common(SHOWN_PROJECTS)),
        }
        pages = []
        for number, filled in enumerate(rows):
            file = self._open()
            page = {**values, "number": number, "rows": read_filled(filled)}
            file.writelines(piece.encode() for piece in generate_page("export/page.html", page))
            pages.append((page_name(number), file))
        return pages

    def _draw_projects(self) -> list[_ProjectBar]:
        most = self._projects.most_common(SHOWN_PROJECTS)
        largest = max((pdfs for _, pdfs in most), default=1)
        return [
            _ProjectBar(name, pdfs, format_size(self._project_sizes[name]), f"{100 * pdfs / largest:.1f}")
            for name, pdfs in most
        ]


def _draw_months(months: Counter[str]) -> _Months:
    """Lay out the number of PDFs by month, or by year if there are many months."""
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
        left, bar_left = f"{place * width:.3f}", f"{(place + 0.1) * width:.3f}"
        columns.append(_Month(name, count, left, bar_left, f"{CHART_HEIGHT - height:.1f}", f"{height:.1f}"))
    first, last = (shown[0][0], shown[-1][0]) if shown else ("", "")
    return _Months(columns, first, last, f"{width:.3f}", f"{width * 0.8:.3f}", CHART_HEIGHT)
