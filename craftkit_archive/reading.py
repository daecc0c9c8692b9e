"""Cut a file of records into single ones, whatever JSON form it has, holding no more than one of them at a time."""

import codecs
import select
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from typing import Any, BinaryIO, NamedTuple

import msgspec

from craftkit_archive.errors import RequestError
from craftkit_archive.work import Stop

BLOCK_BYTES = 1 << 16
MAX_RECORD_BYTES = 16 << 20
MAX_DEPTH = 100
STDIN = "-"
# Names under which an object may wrap the list of records that it is about.
WRAPPERS = ("renders", "projects", "keys", "data", "items", "results")


class Item(NamedTuple):
    """One record of a file: the decoded JSON; or, with a `problem`, the text that is none."""

    line: int
    value: Any
    problem: str | None = None


def read_items(source: str, *, stop: Stop) -> Iterator[Item]:
    """Yield the records of a file in order; lazily.

    The form is found by looking at the content: an array, an object, an object that wraps a list (and any of these
    one after another), or one object a line (NDJSON), where a broken line does no harm to the next. A byte-order mark
    is skipped.

    Args:
        source: A path, or `-` for standard input.
        stop: Asked while standard input keeps it waiting.

    Raises:
        RequestError: The file cannot be opened or read.
    """
    try:
        # By its number, and not `sys.stdin`, whose buffer would hide from `select` what is there to read.
        with open(0 if source == STDIN else source, "rb", buffering=0, closefd=source != STDIN) as file:
            blocks = _blocks(file, stop if source == STDIN else None)
            head = b""
            for block in blocks:
                head += block
                if head.strip():
                    break
            yield from (_lines if _is_ndjson(head) else _values)(chain([head], blocks))
    except OSError as error:
        raise RequestError(f"{source} cannot be read ({error.strerror}): mend the name or its rights.") from error


def _blocks(file: BinaryIO, stop: Stop | None) -> Iterator[bytes]:
    mark = codecs.BOM_UTF8
    while True:
        # A read that blocks would not notice the signal to stop.
        while stop is not None and not select.select([file], [], [], 0.2)[0]:
            if stop():
                return
        block = file.read(BLOCK_BYTES)
        if not block:
            return
        yield block.removeprefix(mark)
        mark = b""


def _is_ndjson(head: bytes) -> bool:
    for line in head.split(b"\n", 20)[:20]:
        if line.lstrip().startswith(b"{"):
            with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                msgspec.json.decode(line)
                return True
    return False


def _lines(blocks: Iterator[bytes]) -> Iterator[Item]:
    rest, line = b"", 0
    for block in chain(blocks, [b"\n"]):
        if len(rest) > MAX_RECORD_BYTES and b"\n" not in block:
            continue  # it is refused already: its length is what is wrong
        *whole, rest = (rest + block).split(b"\n")
        for text in whole:
            line += 1
            if text and not text.isspace():
                yield from _unwrapped(_decode(line, text))


def _unwrapped(item: Item) -> Iterator[Item]:
    if item.problem is None and isinstance(item.value, dict) and "id" not in item.value:
        lists = [item.value[name] for name in WRAPPERS if isinstance(item.value.get(name), list)]
        if lists:
            return (Item(item.line, value) for value in chain.from_iterable(lists))
    return iter((item,))


def _decode(line: int, text: bytes) -> Item:
    if len(text) > MAX_RECORD_BYTES:
        return Item(line, None, f"expected at most {MAX_RECORD_BYTES >> 20} MiB in a line")
    try:
        return Item(line, msgspec.json.decode(text))
    except UnicodeDecodeError:
        problem = "expected UTF-8"
    except (msgspec.DecodeError, RecursionError) as error:
        problem = f"expected JSON: {error}"
    return Item(line, text.decode("utf-8", "backslashreplace"), problem)


def _values(blocks: Iterator[bytes]) -> Iterator[Item]:
    import ijson

    events: Any = ijson.sendable_list()
    parser = ijson.basic_parse_coro(events, multiple_values=True, use_float=True)
    records = _Records()
    line = 1
    try:
        for piece in chain.from_iterable(block.splitlines(keepends=True) for block in blocks):
            try:
                parser.send(piece)
            finally:
                for value in records.take(events):
                    yield Item(line, value)
                del events[:]
            line += piece.endswith(b"\n")
        parser.close()
    except _TooDeepError:
        yield Item(line, None, f"expected at most {MAX_DEPTH} levels of nesting; the rest of the file was not read")
    except ijson.JSONError as error:
        # Quoted with its words is the text that it failed at, which may hold a key.
        words = error.args[0] if error.args else "it ends too early"
        words = words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
        yield Item(line, None, f"expected JSON: {words.splitlines()[0]}; the rest of the file was not read")


class _TooDeepError(Exception):
    pass


class _Records:
    """Puts parser events together to records: array elements, list elements of a wrapper, and other values."""

    def __init__(self) -> None:
        from ijson import ObjectBuilder

        self._new = ObjectBuilder
        self._depth = 0
        self._level = 0  # the depth at which records begin
        self._record: Any = None  # what is being put together
        self._page: Any = None  # the wrapper whose list is being read
        self._wrapped = False  # whether the value at the top has turned out to be a wrapper
        self._name = ""

    def take(self, events: list[tuple[str, Any]]) -> Iterator[Any]:
        for event, value in events:
            self._depth -= event in ("end_map", "end_array")
            if self._record is None and event == "end_array" and self._depth == self._level - 1:
                self._record, self._page, self._level = self._page, None, 0
            elif self._record is None and event == "start_array" and self._depth == self._level == 0:
                self._level = 1
            elif self._begins_list(event):
                self._record, self._page, self._level, self._wrapped = None, self._record, 2, True
            else:
                self._record = self._record or self._new()
                self._record.event(event, value)
                if event == "map_key" and self._depth == 1:
                    self._name = value
            self._depth += event in ("start_map", "start_array")
            if self._depth > MAX_DEPTH:
                raise _TooDeepError
            if self._record is not None and self._depth == self._level and event != "map_key":
                if self._level or not self._wrapped:
                    yield self._record.value
                self._record, self._wrapped = None, self._wrapped and self._level > 0

    def _begins_list(self, event: str) -> bool:
        return (
            event == "start_array"
            and (self._depth, self._level) == (1, 0)
            and self._record is not None
            and self._name in WRAPPERS
            and "id" not in self._record.value
        )
