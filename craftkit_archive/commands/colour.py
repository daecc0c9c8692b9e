"""Colour on a terminal shows how good or bad something is. Pipes, files and JSON get none, and NO_COLOR turns it off.

Source: https://no-color.org.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

    from craftkit_archive.records import Record, Summary

Colour = Literal["red", "green", "yellow", "bold"]
_CODES: dict[str, int] = {"bold": 1, "red": 31, "green": 32, "yellow": 33}
_STATES: dict[str, Colour] = {"damaged": "red", "unreadable": "yellow", "unverified": "yellow", "not-stored": "yellow"}
_FIRST_WORD = re.compile(r"\s*\S+")
_UP_TO_COLON = re.compile(r"[^:\s]+(?: [^:\s]+)*:")


def has_colour(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that shows colours, and the user wants them."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb" and stream.isatty()


def paint(text: str, colour: str) -> str:
    """Return a text in a colour. The caller must have escaped the control characters in it."""
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"


def painter(stream: TextIO) -> Callable[[str, str], str] | None:
    """Return the function that paints for a stream; None if the stream gets no colour."""
    return paint if has_colour(stream) else None


def paint_record(text: str, record: Record, stream: TextIO) -> str:
    """Paint the first word of a record's line, which says what is wrong."""
    return _paint_match(text, _FIRST_WORD, _colour_of(record)) if has_colour(stream) else text


def paint_ending(text: str, summary: Summary, stream: TextIO) -> str:
    """Paint the name of the command in the sentence that says how it ended."""
    colours: dict[str, Colour] = {"ok": "green", "problems": "red"}
    return paint_label(text, colours.get(summary.outcome, "yellow"), stream)


def paint_label(text: str, colour: Colour, stream: TextIO) -> str:
    """Paint a line up to its first colon."""
    return _paint_match(text, _UP_TO_COLON, colour if has_colour(stream) else None)


def _paint_match(text: str, what: re.Pattern[str], colour: Colour | None) -> str:
    found = what.match(text) if colour else None
    return f"{paint(found[0], colour)}{text[found.end() :]}" if found and colour else text


def _colour_of(record: Record) -> Colour | None:
    from craftkit_archive.records import AuditFault, Caution, Diagnosis, Finding, Note, Reject
    from craftkit_archive.states import STATES

    match record:
        case Finding():
            return None if record.acknowledged else _STATES.get(STATES[record.verdict])
        case Reject() | AuditFault():
            return "red"
        case Note() | Caution():
            return "yellow"
        case Diagnosis():
            return "red" if record.fix else "green"
    return None
