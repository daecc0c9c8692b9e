"""Reads tables in CSV, TSV, Postgres's text format or a dump of pg_dump, and tells these forms apart."""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from typing import Literal, NamedTuple

from craftkit_archive.decoding import Cells, DecodedItem, decode_json, snake, unique
from craftkit_archive.errors import RequestError
from craftkit_archive.parallel.batches import Stop
from craftkit_archive.records import KINDS, TABLES, Kind, Refusal

TableForm = Literal["csv", "tsv", "text", "dump"]
# Reads the lines of a file, from the beginning each time; a refused item stands for a line that cannot be read.
Lines = Callable[[], Iterator[str | DecodedItem]]
NumberedRow = tuple[int, Sequence[str | None] | DecodedItem]  # the number of its line, and its cells; None is null

DELIMITERS = (",", "\t", ";")
# Words that other programs write for null, and that Postgres would read as text.
NULL_WORDS = frozenset({"null", "(null)", "<null>", "[null]", "\\n", "none", "nil"})
EXPORT = "psql -c \"\\copy (SELECT * FROM {table}) TO '{table}.csv' (FORMAT csv, HEADER)\""
LOOK_AT_ROWS = 10_000  # how many rows pass between two questions whether to stop


class _Survey(NamedTuple):
    """How to read the cells of a table, which only all its rows together show.

    Attributes:
        booleans: Columns that hold only `t`, `f` and null.
        json: Columns that hold only JSON objects, arrays and null.
        empty_is_null: Whether an empty cell is null even if it is quoted.
    """

    booleans: frozenset[str]
    json: frozenset[str]
    empty_is_null: bool


def read_table_file(
    lines: Lines,
    form: TableForm,
    kind: Kind,
    *,
    source: str,
    guessed: bool = False,
    delimiter: str = ",",
    null: str | None = None,
    table: str | None = None,
    stop: Stop,
) -> Iterator[DecodedItem]:
    r"""Yield the rows of a file lazily, after a first pass over all of them.

    Args:
        lines: Reads the file's lines; called two or three times.
        form: The form of the file.
        guessed: Whether `form` is a guess: a TSV may turn out to be in Postgres's text format.
        kind: The kind of the rows.
        source: The file's name, for messages.
        delimiter: The character between the cells of a CSV or TSV.
        null: The text that stands for null; by default an empty cell without quotes, or `\N` in Postgres's text format.
        table: The table of a dump to read; by default the one for this kind.
        stop: Asked during the first pass.

    Raises:
        RequestError: The file can be read in more than one way, or not at all; raised before any row is yielded.
    """
    if form == "tsv" and guessed and _is_escaped(lines(), source):
        form = "text"

    def rows() -> Iterator[NumberedRow]:
        match form:
            case "dump":
                return _dump_rows(lines(), kind, table, source)
            case "text":
                return _escaped_rows(lines(), null)
            case _:
                return _csv_rows(lines(), delimiter, null)

    survey = _survey(rows(), source, kind, asks=null is None and form in ("csv", "tsv"), stop=stop)
    header: list[str] | None = None
    for line, cells in rows():
        if isinstance(cells, DecodedItem):
            yield cells
        elif header is None:
            header = [(name or "").strip() for name in cells]
            names = set(map(snake, header))
            if len(names) < len(header) or not names & {"id", "render_id"}:
                text = "expected a header that names id, and each column once"
                yield DecodedItem(line, header, Refusal("bad-table", text))
                return
        elif len(cells) != len(header):
            named: dict[str, object] = dict(zip(header, cells, strict=False))
            if len(cells) > len(header):
                named["rest"] = list(cells[len(header) :])
            text = f"expected {len(header)} cells, as the header has, got {len(cells)}"
            yield DecodedItem(line, named, Refusal("bad-table", text))
        elif any("\udc80" <= letter <= "\udcff" for cell in cells if cell and not cell.isascii() for letter in cell):
            readable = [
                cell and cell.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for cell in cells
            ]
            yield DecodedItem(line, readable, Refusal("not-utf-8", "expected UTF-8"))
        else:
            yield DecodedItem(line, Cells(_typed(header, cells, survey)))


def _readable(cell: str | None) -> str | None:
    return cell and cell.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _typed(header: list[str], cells: Sequence[str | None], survey: _Survey) -> Iterator[tuple[str, object]]:
    for name, cell in zip(header, cells, strict=True):
        if cell is None or (survey.empty_is_null and not cell):
            yield name, None
        elif name in survey.booleans:
            yield name, cell == "t"
        else:
            yield name, decode_json(cell) if name in survey.json else cell


# --- the first look --------------------------------------------------------------------------------------------------


class _Column:
    """What the cells of a column have in common."""

    def __init__(self, name: str, kind: Kind) -> None:
        self.name = name
        self.untyped = snake(name) not in KINDS[kind].__struct_fields__
        self.boolean = self.json = self.untyped
        self.filled = False
        self.empty = False
        self.word: tuple[int, str] | None = None

    def see(self, line: int, cell: str | None) -> None:
        if not cell:
            self.empty = True
            if cell is None:
                return
        elif self.word is None and cell.lower() in NULL_WORDS:
            self.word = line, cell
        self.filled = True
        self.boolean = self.boolean and cell in ("t", "f")
        self.json = self.json and _is_json(cell)


def _is_json(cell: str) -> bool:
    if cell[:1] in ("{", "["):
        with suppress(RecursionError, ValueError):
            decode_json(cell)
            # An object with a repeated name stays text, so that neither value is lost.
            json.loads(cell, object_pairs_hook=unique)
            return True
    return False


def _survey(rows: Iterator[NumberedRow], source: str, kind: Kind, *, asks: bool, stop: Stop) -> _Survey:
    """Look at all rows, because only its whole column shows what a cell means."""
    columns: list[_Column] = []
    nulls = quoted = False
    for number, (line, cells) in enumerate(rows):
        if number % LOOK_AT_ROWS == 0 and stop():
            break
        if isinstance(cells, DecodedItem):
            continue
        if not columns:
            columns = [_Column((name or "").strip(), kind) for name in cells]
            quoted = isinstance(cells, _QuotedHeader)
            continue
        for column, cell in zip(columns, cells, strict=False):
            column.see(line, cell)
            nulls = nulls or cell is None
    for column in columns:
        if asks and column.word and not column.empty:
            line, word = column.word
            raise RequestError(
                f"{source} has {word} where others have nothing (column {column.name}, line {line}). Run the import"
                f" again with --null '{word}' if that means null, or with --null '' if it is a text."
            )
    return _Survey(
        frozenset(column.name for column in columns if column.filled and column.boolean),
        frozenset(column.name for column in columns if column.filled and column.json),
        # If every cell is quoted, only an empty one can stand for null.
        quoted and not nulls,
    )


# --- CSV and TSV -----------------------------------------------------------------------------------------------------


class _QuotedHeader(list[str | None]):
    """A header whose names are all quoted: then all cells are, and quotes do not tell an empty text from null."""


def _csv_rows(lines: Iterator[str | DecodedItem], delimiter: str, null: str | None) -> Iterator[NumberedRow]:
    """Cut CSV into rows. As in Postgres, null is never quoted: `""` is an empty text, and an empty cell is null."""
    csv.field_size_limit(sys.maxsize)  # a line has a limit already
    problems: list[DecodedItem] = []
    raw: list[str] = []  # the lines of the present row, because `csv` does not say which cells were quoted

    def texts() -> Iterator[str]:
        for line in lines:
            if isinstance(line, DecodedItem):
                problems.append(line)
            else:
                raw.append(line)
                yield line

    rows = csv.reader(texts(), delimiter=delimiter, strict=True)
    skipped, first, all_quoted = 0, True, False  # skipped: how many lines `csv` has not seen
    while True:
        line = rows.line_num + skipped + 1
        raw.clear()
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            lost = "; its quote is never closed, and nothing after it was read" if "end of data" in str(error) else ""
            yield line, DecodedItem(line, None, Refusal("bad-table", f"expected a row of cells: {error}{lost}"))
            continue
        finally:
            for problem in problems:
                yield problem.line, problem
            skipped += len(problems)
            problems.clear()
        if not any(row):
            continue
        if first:
            first, all_quoted = False, all(_quoted_cells("".join(raw), delimiter, len(row)))
            yield line, _QuotedHeader(row) if all_quoted else row
        elif (null or "") in row:
            yield line, _with_nulls(row, "".join(raw), delimiter, null, all_quoted=all_quoted)
        else:
            yield line, row


def _with_nulls(row: list[str], raw: str, delimiter: str, null: str | None, *, all_quoted: bool) -> list[str | None]:
    word = null or ""
    if '"' not in raw or (word and all_quoted):
        return [None if cell == word else cell for cell in row]
    quoted = _quoted_cells(raw, delimiter, len(row))
    return [None if cell == word and not quotes else cell for cell, quotes in zip(row, quoted, strict=True)]


# Cached, because a table has one delimiter and its rows are read one by one.
@lru_cache(maxsize=4)
def _cell_pattern(delimiter: str) -> re.Pattern[str]:
    return re.compile(rf'("(?:[^"]|"")*+")?[^{delimiter}]*(?:{delimiter}|\Z)')


def _quoted_cells(raw: str, delimiter: str, count: int) -> list[bool]:
    """Return for each cell of a row whether it is quoted; the row must be one that `csv` has accepted."""
    text = raw.rstrip("\r\n")
    return [found[1] is not None for found in islice(_cell_pattern(delimiter).finditer(text), count)]


# --- Postgres's text format ------------------------------------------------------------------------------------------

_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


_CSV_CELL = re.compile(r'"(?:[^"]|"")*"|[^"]*')


def _is_escaped(lines: Iterator[str | DecodedItem], source: str) -> bool:
    """Return whether a table with tabs is in Postgres's text format, where backslashes escape and quotes do not.

    Raises:
        RequestError: It has backslashes, and is valid in both readings.
    """
    width, backslash, null, quotes, letters = 0, 0, False, False, False
    for number, line in enumerate(lines, 1):
        cells = line.rstrip("\r\n").split("\t") if isinstance(line, str) else []
        if cells and "\\" in line and cells != ["\\."]:
            backslash = backslash or number
            null = null or "\\N" in cells
        if cells and '"' in line:
            quotes = True
            letters = letters or not all(map(_CSV_CELL.fullmatch, cells))
        width = width or len(cells)
        if len(cells) != width and quotes:
            return False  # a quoted cell goes on in the next line, or has a tab
    if not backslash:
        return False
    if null and (letters or not quotes):
        return True
    raise RequestError(
        f"{source} has backslashes (line {backslash}), which mean one thing in Postgres's text format and another in"
        " other tables. Run the import again with --format text if it comes from psql or COPY, or with --format tsv if"
        " not."
    )


def _escaped_rows(lines: Iterator[str | DecodedItem], null: str | None) -> Iterator[NumberedRow]:
    for number, line in enumerate(lines, 1):
        if isinstance(line, DecodedItem):
            yield number, line
        elif (text := line.rstrip("\r\n")) == "\\.":
            return
        elif text:
            yield number, _unescaped(text, null)


def _unescaped(text: str, null: str | None = None) -> list[str | None]:
    cells = text.split("\t")
    word = "\\N" if null is None else null
    return [None if cell == word else _unescape(cell) if "\\" in cell else cell for cell in cells]


def _unescape(cell: str) -> str:
    return _ESCAPE.sub(lambda found: _ESCAPES.get(found[1], found[1]), cell)


# --- dumps -----------------------------------------------------------------------------------------------------------

_NAME = r'(?:"(?:[^"]|"")+"|[\w$]+)'
_COPY = re.compile(rf"COPY ({_NAME}(?:\.{_NAME})?) \((.*)\) FROM stdin;")
_INSERT = re.compile(rf"INSERT INTO ({_NAME}(?:\.{_NAME})?) ")
_ENCODING = re.compile(r"SET client_encoding = '(.*)';")


def _dump_rows(lines: Iterator[str | DecodedItem], kind: Kind, table: str | None, source: str) -> Iterator[NumberedRow]:
    """Yield the rows of one table of a dump.

    Raises:
        RequestError: The table is missing, incomplete, or written as INSERT statements.
    """
    others: dict[str, None] = {}
    found, wanted, inside = "", False, False
    for number, line in enumerate(lines, 1):
        if isinstance(line, DecodedItem):
            yield number, line
            continue
        text = line.rstrip("\r\n")
        if inside:
            inside = text != "\\."
            if inside and wanted:
                yield number, _unescaped(text)
        elif begin := _COPY.fullmatch(text):
            inside, wanted = True, _is_wanted(begin[1], kind, table)
            if not wanted:
                others[begin[1]] = None
            elif found:
                raise RequestError(f"{source} has both {found} and {begin[1]}. Name one of them as --table.")
            else:
                found = begin[1]
                yield number, [_unquoted(name) for name in re.findall(_NAME, begin[2])]
        elif (begin := _INSERT.match(text)) and _is_wanted(begin[1], kind, table):
            raise RequestError(
                f"{source} has the rows of {begin[1]} as INSERT statements. Dump them without --inserts, or import them"
                " from postgresql://…, which needs no file."
            )
        elif (encoding := _ENCODING.fullmatch(text)) and encoding[1].upper() not in ("UTF8", "UTF-8"):
            raise RequestError(f"{source} is written in {encoding[1]}. Dump it again with --encoding=UTF8.")
    if inside and wanted:
        raise RequestError(f"{source} ends in the middle of the table {found}. Dump it again.")
    if not found:
        names = f"; it has {', '.join(list(others)[:6])}. Name one of them as --table" if others else ""
        raise RequestError(f"{source} has no table {table or TABLES[kind][0]}{names}.")


def _is_wanted(name: str, kind: Kind, table: str | None) -> bool:
    parts = [_unquoted(part) for part in re.findall(_NAME, name)]
    if table is None:
        return parts[-1] in TABLES[kind]
    return table in (parts[-1], name, ".".join(parts))


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


# --- what only looks like a table ------------------------------------------------------------------------------------


def refuse_form(head: bytes, source: str, kind: Kind) -> None:
    """Refuse a table that was written for people or for another program.

    Raises:
        RequestError: It is such a table; the message names the command that exports it properly.
    """
    first, second, *_ = [*(line.strip() for line in head.split(b"\n", 2)), b"", b""]
    command, table = export_command(kind), TABLES[kind][0]
    if head.startswith(b"PGDMP"):
        raise RequestError(
            f"{source} is a dump in pg_dump's custom form. Run pg_restore --data-only --table {table} -f - FILE"
            f" | craftkit-archive import {kind} -"
        )
    if (head.startswith(b" ") and re.fullmatch(rb"-{3,}(\+-+)*", second)) or first.startswith(b"-[ RECORD"):
        raise RequestError(f"{source} is a table as psql displays it. Export it with {command}")
    names = {snake(name.strip()) for name in first.decode("utf-8", "replace").split("|")}
    if len(names) > 1 and names & {"id", "render_id"}:
        raise RequestError(f"{source} has bars between its cells, and maybe inside them. Export it with {command}")
    if re.match(rb"(?:[ -~]\0){4}|(?:\0[ -~]){4}", head):
        raise RequestError(f"{source} looks like UTF-16 without a byte-order mark. Save it as UTF-8.")


def export_command(kind: Kind) -> str:
    """Return the command that exports a table without loss."""
    return EXPORT.format(table=TABLES[kind][0])


def find_delimiter(head: bytes) -> str | None:
    """Return the character between the cells of a header; None if the first line is not a header."""
    header = head.strip().split(b"\n", 1)[0].decode("utf-8", "replace")
    for delimiter in DELIMITERS:
        with suppress(csv.Error):
            names = {snake(cell.strip()) for cell in next(csv.reader([header], delimiter=delimiter), [])}
            if names & {"id", "render_id"}:
                return delimiter
    return None


def is_dump(head: bytes) -> bool:
    """Return whether a file begins like a dump of pg_dump, or with a COPY statement of one."""
    return (
        b"-- PostgreSQL database dump" in head[:200] or _COPY.match(head[:9999].decode("utf-8", "replace")) is not None
    )
