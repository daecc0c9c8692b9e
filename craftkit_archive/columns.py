"""Prints lists in aligned columns that fit the window."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from craftkit_archive.values import valid_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

GAP = 2
# A narrower window counts as this wide, because nothing would be left of any column.
NARROWEST = 20
DIGEST_CHARS = 10


class Column(NamedTuple):
    """One column of a list.

    Attributes:
        head: The heading.
        cell: Returns the text of its cell for a record.
        right: Whether it is aligned to the right, as numbers are.
        least: The fewest characters it may be cut to; 0 if it is never cut.
        drop: When space is short, columns with the highest number are dropped first; 0 is never dropped.
        middle: Whether to cut it in the middle, because its end distinguishes it.
        tint: Returns the colour of a cell by its text; None for no colour.
    """

    head: str
    cell: Callable[[Any], str]
    right: bool = False
    least: int = 0
    drop: int = 0
    middle: bool = False
    tint: Callable[[str], str | None] | None = None


def window_width(*, verbose: bool) -> int | None:
    """Return the most characters in a line; None for no limit.

    Output to a pipe is not cut, unless `COLUMNS` is set, which means that a person will look at it.
    """
    if verbose:
        return None
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) >= NARROWEST:
        return int(given)
    try:
        return max(os.get_terminal_size(sys.stdout.fileno()).columns, NARROWEST)
    except (OSError, ValueError):  # no terminal, or one that does not know its size
        return None


def short_digest(text: str | None, *, verbose: bool = False) -> str:
    """Shorten a digest to what distinguishes it, unless everything is shown; other texts stay."""
    whole = verbose or text is None or len(text) != 64 or set(text) - _HEX
    return text or "" if whole else f"{text[:DIGEST_CHARS]}…"  # type: ignore[index]


_HEX = frozenset("0123456789abcdef")


class Table:
    """Lines of aligned columns, page by page: the first page decides which columns to show, later ones may widen them.

    So a list of a million records takes no more memory than one page, and is printed from the start.

    Args:
        columns: The columns, from left to right.
        window: The most characters in a line; None for no limit.
        paint: Returns a text in a colour; without it, there are no colours.
    """

    def __init__(
        self, columns: Sequence[Column], window: int | None, paint: Callable[[str, str], str] | None = None
    ) -> None:
        self._columns = list(columns)
        self._paint = paint
        self._window = window
        self._natural: list[int] = []

    def lines(self, page: Sequence[object]) -> Iterator[str]:
        """Yield the lines of some records; the first time, the headings come before them."""
        first = not self._natural
        rows = [[one_line(column.cell(record)) for column in self._columns] for record in page]
        if first:
            self._natural = [_width(column.head) for column in self._columns]
        for row in rows:
            self._natural = [max(pair) for pair in zip(self._natural, map(_width, row), strict=True)]
        if first:
            kept = self._kept()
            self._columns = [self._columns[at] for at in kept]
            self._natural = [self._natural[at] for at in kept]
            rows = [[row[at] for at in kept] for row in rows]
        widths = self._fitted()
        if first:
            yield self._line([column.head for column in self._columns], widths, is_head=True)
        for row in rows:
            yield self._line(row, widths)

    def _kept(self) -> list[int]:
        """Choose the columns for which there is room."""
        kept = list(range(len(self._columns)))
        while self._window is not None and self._needed(kept) > self._window:
            droppable = [at for at in kept if self._columns[at].drop]
            if not droppable:
                break
            kept.remove(max(droppable, key=lambda at: self._columns[at].drop))
        return kept

    def _needed(self, kept: list[int]) -> int:
        return sum(self._narrowest(at) for at in kept) + GAP * (len(kept) - 1)

    def _narrowest(self, at: int) -> int:
        least = self._columns[at].least
        return min(least, self._natural[at]) if least else self._natural[at]

    def _fitted(self) -> list[int]:
        """Return the widths of the columns after cutting: first the widest of those that may be cut, at last any."""
        widths = list(self._natural)
        if self._window is None:
            return widths
        room = self._window - GAP * (len(widths) - 1)
        for floors in ([self._narrowest(at) for at in range(len(widths))], [1] * len(widths)):
            while (excess := sum(widths) - room) > 0:
                cut = [at for at in range(len(widths)) if widths[at] > floors[at]]
                if not cut:
                    break
                widest = max(cut, key=lambda at: widths[at])
                others = max((widths[at] for at in cut if at != widest), default=0)
                widths[widest] -= min(excess, widths[widest] - floors[widest], max(widths[widest] - others, 1))
        return widths

    def _line(self, cells: Sequence[str], widths: Sequence[int], *, is_head: bool = False) -> str:
        shown = []
        for cell, width, column in zip(cells, widths, self._columns, strict=True):
            text = _cut(cell, width, middle=column.middle)
            room = " " * max(width - _width(text), 0)
            colour = "bold" if is_head else column.tint(cell) if column.tint else None
            if self._paint is not None and colour and text:
                text = self._paint(text, colour)
            shown.append(f"{room}{text}" if column.right else f"{text}{room}")
        return (" " * GAP).join(shown).rstrip()


def one_line(text: str) -> str:
    """Make foreign text one line that cannot control the terminal: unprintable characters become escapes."""
    if text.isprintable():
        return text
    # `valid_text` first, because the bytes of a name that is not UTF-8 do not form characters.
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in valid_text(text))


def clipped(line: str, width: int) -> str:
    """Cut a line to a number of columns; an ellipsis marks the cut."""
    return _cut(line, width, middle=False)


def fitted(text: str, width: int) -> str:
    """Cut a text in its middle, or fill it with blanks, so that it takes exactly `width` columns."""
    cut = _cut(one_line(text), width, middle=True)
    return cut + " " * max(width - _width(cut), 0)


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    import wcwidth  # only foreign names need it

    return max(wcwidth.width(text, control_codes="ignore"), 0)


def _cut(text: str, width: int, *, middle: bool) -> str:
    whole = _width(text)
    if whole <= width:
        return text
    if width < 2:
        return "…"[:width]
    tail = (width - 1) // 2 if middle else 0
    if text.isascii():
        return f"{text[: width - 1 - tail]}…{text[whole - tail :]}"
    import wcwidth

    # It puts a space where a wide character would be cut in half.
    return f"{wcwidth.clip(text, 0, width - 1 - tail)}…{wcwidth.clip(text, whole - tail, whole) if tail else ''}"
