"""Cuts JSON into records: arrays, wrapped lists, several values in a file."""

import json
import re
import sys
from collections.abc import Iterator
from itertools import chain
from typing import Any

import msgspec

from craftkit_archive.decoding import DecodedItem, TwiceError, decode_json, exact, snake, unique
from craftkit_archive.importer.streams import MAX_RECORD_BYTES, TOO_LONG, too_long
from craftkit_archive.records import TABLES, Kind, Refusal, RejectProblem

PIECE_BYTES = 64 << 10
MAX_DEPTH = 100

# What ijson raises besides its own errors: for numbers with giant exponents or thousands of digits, and for bad UTF-8.
NOT_JSON = (ValueError, ArithmeticError)
MAX_DIGITS = sys.get_int_max_str_digits() or 4300

# An integer with more digits than Python converts. ijson's C code does not expect the refusal, and crashes the process.
TOO_MANY_DIGITS = re.compile(rb"(?<![.\d])\d{%d}" % (MAX_DIGITS + 1))

# Names, besides that of the table, under which an object may wrap a list of records.
WRAPPERS = ("data", "items", "results", "rows", "records")


def read_line(line: int, text: bytes, kind: Kind) -> Iterator[DecodedItem]:
    """Yield the record in a line of NDJSON, or the records of a list that it wraps; a fault becomes a refused item."""
    if len(text) > MAX_RECORD_BYTES:
        yield too_long(line)
        return
    try:
        values = _json_values(text)
    except UnicodeDecodeError:
        problem = Refusal("not-utf-8", "expected UTF-8")
    except RecursionError:
        problem = Refusal("too-large", "expected fewer levels of nesting")
    except TwiceError as error:
        problem = error.refusal
    except ValueError as error:
        problem = Refusal("not-json", f"expected JSON: {error}")
    else:
        yield from (DecodedItem(line, record) for value in values for record in _unwrapped(value, kind))
        return
    yield DecodedItem(line, text.decode("utf-8", "backslashreplace"), problem)


def unwrap_reject(item: DecodedItem, kind: Kind) -> Iterator[DecodedItem]:
    """Take the record out of a line of a rejects file; one that was not JSON is kept there as text."""
    value = item.value
    if isinstance(value, dict) and value.get("type") == "reject" and "record" in value:
        record = value["record"]
        if isinstance(record, str):
            return read_line(item.line, record.encode(), kind)
        return iter([DecodedItem(item.line, record)])
    return iter([item])


def _json_values(text: bytes) -> list[Any]:
    """Read the JSON value of a line, or several values with nothing or white space between them."""
    try:
        value = decode_json(text)
    except msgspec.DecodeError:
        if b"}" not in text[:-1]:
            raise
    else:
        json.loads(text, object_pairs_hook=unique)
        return [value]
    rest, values, reader = text.decode().strip(), [], json.JSONDecoder(object_pairs_hook=unique)
    while rest:
        end = reader.raw_decode(rest)[1]
        # Decoded again by msgspec, so that numbers and rare characters mean the same as everywhere else.
        values.append(decode_json(rest[:end]))
        rest = rest[end:].lstrip()
    return values


def _unwrapped(value: Any, kind: Kind) -> list[Any]:
    if isinstance(value, dict) and not _is_record(value):
        lists = {_table_name(name): records for name, records in value.items() if isinstance(records, list)}
        for name in (*TABLES[kind], *WRAPPERS):
            if name in lists:
                return list(lists[name])
    return [value]


def _table_name(name: str) -> str:
    """Return the name of a wrapper in the form of a table's: `apiKeys` is `api_keys`, `public.renders` is `renders`."""
    return snake(name.rpartition(".")[2].strip('"'))


def _is_record(value: dict[str, Any]) -> bool:
    """Return whether an object is a record itself rather than a wrapper, whatever lists it has."""
    return any(snake(name) in ("id", "render_id") for name in value)


def json_records(blocks: Iterator[bytes], kind: Kind) -> Iterator[DecodedItem]:
    """Yield the records in JSON of any form, in constant memory. The first fault is yielded as a refused item, last."""
    import ijson

    events: Any = ijson.sendable_list()
    parser = ijson.basic_parse_coro(events, multiple_values=True)
    records = _Records(kind)
    line, pending, item, before = 1, 0, 1, b""

    def lost(problem: RejectProblem, text: str) -> DecodedItem:
        return DecodedItem(line, None, Refusal(problem, f"{text} (in item {item}); the rest of the file was not read"))

    try:
        for piece in chain.from_iterable(map(_small_pieces, blocks)):
            pending += len(piece)
            before += piece
            unreadable, why = _find_unreadable(before)
            if unreadable:  # what precedes it is good; at least a space, because an empty piece would mean the end
                piece = piece[: max(unreadable.start() - len(before), -len(piece))] or b" "
            try:
                parser.send(piece)
            finally:
                for value, problem in records.take(events):
                    yield DecodedItem(line, value, problem)
                    pending, item = 0, item + 1
                del events[:]
            if unreadable:
                yield lost(*why)
                return
            if pending > MAX_RECORD_BYTES:
                yield lost(*TOO_LONG)
                return
            line += piece.endswith(b"\n")
            before = b"" if piece.endswith(b"\n") else before[-MAX_DIGITS - 2 :]
        parser.close()
    except _TooDeepError:
        yield lost("too-large", f"expected at most {MAX_DEPTH} levels of nesting")
    except UnicodeDecodeError:
        yield lost("not-utf-8", "expected UTF-8")
    except NOT_JSON:
        yield lost("too-large", "expected JSON whose numbers have at most 18 digits of exponent")
    except ijson.JSONError as error:
        # Only the first line of its message: the next ones quote the text that it failed at, which may be a key.
        words = error.args[0] if error.args else "it ends too early"
        words = words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
        yield lost("not-json", f"expected JSON: {words.splitlines()[0]}")


def _find_unreadable(text: bytes) -> tuple[re.Match[bytes] | None, Refusal]:
    """Find text that must be kept from ijson, which crashes on it or silently misreads it."""
    if len(text) > MAX_DIGITS and (found := TOO_MANY_DIGITS.search(text)):
        return found, Refusal("too-large", f"expected numbers of at most {MAX_DIGITS:,} digits")
    if (b"\\ud" in text or b"\\uD" in text) and (found := _HALF_CHARACTER.search(text)):
        return found, _HALF
    return None, _HALF


_HALF = Refusal("not-utf-8", "expected Unicode, got half of a surrogate pair")
# The first half of a surrogate pair without the second, which ijson reads as a question mark. At the very end of a text
# it does not count, because the second half may still come.
_HALF_CHARACTER = re.compile(rb"(?<!\\)(?:\\\\)*+\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F]|(?:\\(?:u[dD]?)?)?\Z)")


def _small_pieces(block: bytes) -> Iterator[bytes]:
    """Cut bytes at the ends of lines, and within long lines, so that limits are checked between the pieces."""
    for line in block.splitlines(keepends=True):
        for at in range(0, len(line), PIECE_BYTES):
            yield line[at : at + PIECE_BYTES]


class _TooDeepError(Exception):
    pass


class _Records:
    """Builds records from parser events: the elements of arrays, those of wrapped lists, and other values."""

    def __init__(self, kind: Kind) -> None:
        from ijson import ObjectBuilder

        self._wrappers = {*TABLES[kind], *WRAPPERS}
        self._new = ObjectBuilder
        self._depth = 0
        self._level = 0  # the depth at which records begin
        self._record: Any = None  # the record that is being built
        self._page: Any = None  # the wrapper whose list is being read
        self._wrapped = False  # whether the value at the top has turned out to be a wrapper
        self._name = ""  # the last member name of the object at that level
        self._names: set[str] = set()  # all its member names so far
        self._problem: Refusal | None = None

    def take(self, events: list[tuple[str, Any]]) -> Iterator[tuple[Any, Refusal | None]]:
        for event, value in events:
            self._depth -= event in ("end_map", "end_array")
            if self._record is None and event == "end_array" and self._depth == self._level - 1:
                self._record, self._page, self._level = self._page, None, 0
            elif self._record is None and event == "start_array" and self._depth == self._level == 0:
                self._level = 1
            elif self._begins_list(event):
                self._record, self._page, self._level, self._wrapped = None, self._record, 2, True
                self._names = set()
            else:
                self._record = self._record or self._new()
                self._record.event(event, _number(value) if event == "number" else value)
                if event == "map_key" and self._depth == self._level + 1:
                    if value in self._names:
                        self._problem = TwiceError(value).refusal
                    self._name = value
                    self._names.add(value)
            self._depth += event in ("start_map", "start_array")
            if self._depth > MAX_DEPTH:
                raise _TooDeepError
            if self._record is not None and self._depth == self._level and event != "map_key":
                if self._level or not self._wrapped:
                    yield self._record.value, self._problem
                elif _is_record(self._record.value):
                    text = "expected its id before a list that looks like one of records"
                    yield self._record.value, Refusal("list-before-id", text)
                self._record, self._wrapped = None, self._wrapped and self._level > 0
                self._names, self._problem = set(), None

    def _begins_list(self, event: str) -> bool:
        return (
            event == "start_array"
            and (self._depth, self._level) == (1, 0)
            and self._record is not None
            and _table_name(self._name) in self._wrappers
            and not _is_record(self._record.value)
        )


def _number(value: Any) -> Any:
    """Convert a number as `decode_json` does: ijson yields integers as they are, and other numbers as decimals."""
    return value if isinstance(value, int) else exact(str(value))
