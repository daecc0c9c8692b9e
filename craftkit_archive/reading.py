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
            with suppress(msgspec.DecodeError, UnicodeDecodeError):
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
                yield _decode(line, text)


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
    parser = ijson.parse_coro(events, multiple_values=True, use_float=True)
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
    except ijson.JSONError as error:
        # The parser quotes the text that it failed at, which may hold a key: only its own words are passed on.
        words = str(error.args[0] if error.args else error)
        words = words.removeprefix("b'").split("\\n")[0].split("\n")[0]
        yield Item(line, None, f"expected JSON from here on: {words}")


class _Records:
    """Puts parser events together to records: array elements, list elements of a wrapper, and other objects."""

    def __init__(self) -> None:
        from ijson import ObjectBuilder

        self._builder = ObjectBuilder
        self._page = ObjectBuilder()
        self._element: Any = None
        self._wrapped = False

    def take(self, events: Iterator[tuple[str, str, Any]]) -> Iterator[Any]:
        for prefix, event, value in events:
            if self._element is not None:
                self._element.event(event, value)
            elif self._is_element(prefix, event):
                self._element, self._at = self._builder(), prefix
                self._element.event(event, value)
            elif prefix or event not in ("start_array", "end_array"):
                self._page.event(event, value)
                if not prefix and event != "start_map" and event != "map_key":
                    if not self._wrapped:
                        yield self._page.value
                    self._page, self._wrapped = self._builder(), False
            if (
                self._element is not None
                and prefix == self._at
                and event not in ("start_map", "start_array", "map_key")
            ):
                yield self._element.value
                self._element = None

    def _is_element(self, prefix: str, event: str) -> bool:
        if prefix == "item":
            return True
        name, _, rest = prefix.partition(".")
        if rest != "item" or name not in WRAPPERS or "id" in self._page.value:
            return False
        self._wrapped = True
        return True
