"""The index of an export: its rows, and how they are written and read as CSV."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from craftkit_archive.catalog.rows import ExportRow
from craftkit_archive.values import escape_formula, unescape_formula

INDEX_COLUMNS = ("path", "render_id", "project_id", "project_slug", "template_id", "status", "created_at",
                 "completed_at", "size_bytes", "sha256", "asset_key")  # fmt: skip
_SPECIAL = frozenset("'=+-@\t")


class Volume(NamedTuple):
    """Which part of an export this is: `number` of `total`, 1 of 1 if it is not split."""

    number: int = 1
    total: int = 1


class IndexRow(NamedTuple):
    """A line of the index, in the order of `INDEX_COLUMNS`; a missing value is an empty string."""

    path: str
    render_id: str
    project_id: str
    project_slug: str
    template_id: str
    status: str
    created_at: str
    completed_at: str
    size_bytes: str
    sha256: str
    asset_key: str


def index_cells(row: ExportRow, path: str) -> IndexRow:
    """Return the cells of a render's line in the index."""
    return IndexRow(
        path,
        row.render_id,
        row.project_id,
        row.project_slug or "",
        row.template_id or "",
        row.status,
        row.created_at or "",
        row.completed_at or "",
        str(row.size_bytes),
        row.sha256 or "",
        row.key,
    )


def csv_line(cells: Sequence[str]) -> str:
    """Return cells as a line of CSV that spreadsheets read, escaped so that no cell is taken for a formula."""
    # A regular expression that looked for formulas in a line took as long as copying a small PDF; comparing the first
    # characters takes a twentieth of that.
    line = ",".join(cells)
    if (
        line.count(",") == len(cells) - 1
        and _SPECIAL.isdisjoint(cell[:1] for cell in cells)
        and not ('"' in line or "\n" in line or "\r" in line)
    ):
        return f"{line}\r\n"  # nothing to quote or escape, which is ten times as fast as `csv`
    text = io.StringIO()
    csv.writer(text).writerow(map(escape_formula, cells))
    return text.getvalue()


def read_cells(lines: Iterable[str]) -> Iterable[IndexRow]:
    """Parse lines of the index; skip lines that are not valid, such as truncated or rewritten ones."""
    rows = csv.reader(lines)
    while True:
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error:
            continue
        if len(cells) == len(INDEX_COLUMNS) and cells[8].isdecimal() and len(cells[8]) < 20:
            yield IndexRow(*map(unescape_formula, cells))
