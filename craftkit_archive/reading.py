"""Cut a file of records into single ones, whatever form it has, holding no more than a block of them at a time."""

import codecs
import gzip
import io
import json
import os
import re
import select
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from craftkit_archive.decoding import Item, TwiceError, decode_json, exact, snake, unique
from craftkit_archive.errors import RequestError, disk_errors
from craftkit_archive.records import TABLES, Kind
from craftkit_archive.tables import (
    Lines,
    TableForm,
    export_command,
    find_delimiter,
    is_dump,
    read_table_file,
    refuse_form,
)
from craftkit_archive.work import Stop, in_batches

Form = Literal["json", "ndjson"] | TableForm

BLOCK_BYTES = 1 << 20
BLOCK_RECORDS = 2000
PIECE_BYTES = 64 << 10
MAX_RECORD_BYTES = 16 << 20
MAX_DEPTH = 100
STDIN = "-"
GZIP = b"\x1f\x8b"
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # what PowerShell writes into files
# What ijson raises besides its own errors: numbers of giant exponents or thousands of digits, and bad UTF-8.
NOT_JSON = (ValueError, ArithmeticError)
MAX_DIGITS = sys.get_int_max_str_digits() or 4300
# A whole number that Python refuses to read: ijson's C code does not expect that, and brings down the process.
_TOO_MANY_DIGITS = re.compile(rb"(?<![.\d])\d{%d}" % (MAX_DIGITS + 1))
# Names, besides those of their table, under which an object may wrap a list of records.
WRAPPERS = ("data", "items", "results", "rows", "records")


class Block(NamedTuple):
    """Whole lines of NDJSON, still to be decoded; `line` is the number of the first.

    `at` says where in its file, which has the number `inode`, the text begins, if it stands there as it is.
    """

    line: int
    text: bytes
    at: int | None
    inode: int = 0


class Span(NamedTuple):
    """A block that another process reads from its file by itself, which is cheaper than to send it there."""

    line: int
    source: str
    at: int
    size_bytes: int
    inode: int

    def read(self) -> Block:
        """Read the block.

        Raises:
            RequestError: The file cannot be read any more, or is not what it was.
        """
        with _opening(self.source), Path(self.source).open("rb", buffering=0) as file:
            text = os.pread(file.fileno(), self.size_bytes, self.at)
            if len(text) != self.size_bytes or os.fstat(file.fileno()).st_ino != self.inode:
                raise RequestError(f"{self.source} was changed while it was read: import it again.")
        return Block(self.line, text, self.at, self.inode)


def read_source(
    source: str,
    *,
    kind: Kind,
    form: Form | None = None,
    null: str | None = None,
    table: str | None = None,
    stop: Stop,
) -> Iterator[Block | list[Item]]:
    """Yield a file of records piece by piece; lazily.

    Args:
        source: A path, or `-` for standard input; plain or gzipped.
        kind: What the records are: a list of others, which an object may hold beside theirs, is left alone.
        form: What it is, if its content is not to say. `json` is an array, objects one after another over any number
            of lines, or objects that wrap a list; `ndjson` is one of these a line, where a broken line does no harm
            to the next; `csv` and `tsv` begin with a header, and an empty cell without quotes is null; `text` is that
            of Postgres's COPY, with a header; `dump` is what pg_dump writes. UTF-8, or UTF-16 with a byte-order mark.
        null: What stands for null in a table.
        table: Which table of a dump to read, if it is not the usual one.
        stop: Asked while standard input keeps it waiting.

    Raises:
        RequestError: The file cannot be opened or read; or it is a table that can be read in more than one way.
    """
    # Standard input by its number: the buffer of `sys.stdin` would hide from `select` what is there to read.
    descriptor = 0 if source == STDIN else source
    with _opening(source), open(descriptor, "rb", buffering=0, closefd=source != STDIN) as raw:
        at = None if source == STDIN else _text_at(raw)
        twice = source != STDIN and stat.S_ISREG(os.fstat(raw.fileno()).st_mode)
        problems: list[Item] = []
        begun = _Begun(_Patient(raw, stop) if source == STDIN else raw)
        begun.size_bytes = 0 if at is None else os.fstat(raw.fileno()).st_size
        blocks = _blocks(begun, problems)
        head = b""
        for block in blocks:
            head += block
            start = head.lstrip()
            if start.startswith(b"[") or start.count(b"\n") >= 2 or len(head) > MAX_RECORD_BYTES:
                break
        if not head.strip() and stop():
            return
        inode = 0 if at is None else os.fstat(raw.fileno()).st_ino
        guessed, copied = form is None, form == "text" and head.lstrip()[:1] in (b"{", b"[")
        if guessed:
            refuse_form(head, source, kind)
            form = _form(head)
            if form in ("json", "ndjson"):
                while len(head) < BLOCK_BYTES and (block := next(blocks, b"")):
                    head += block
                copied = _is_copied(head, raw if twice and form == "ndjson" else None, source)
        whole: Iterator[bytes] = chain([head], blocks)
        if copied:
            whole, at = _undo_copy(whole), None
            form = _form(next(_undo_copy(iter([head]))))
        if table is not None and form != "dump":
            raise RequestError(f"{source} is no dump, and holds one table only: leave --table out.")
        match form:
            case "ndjson":
                yield from _line_blocks(whole, at, inode, problems)
            case "json":
                yield from in_batches(_values(whole, kind), BLOCK_RECORDS)
            case "csv" | "tsv" | "text" | "dump" as tabular:
                delimiter = "\t" if tabular == "tsv" else find_delimiter(head) or ","
                with _again(raw if twice else None, whole, problems) as lines:
                    items = read_table_file(
                        lines,
                        tabular,
                        kind,
                        source=source,
                        guessed=guessed,
                        delimiter=delimiter,
                        null=null,
                        table=table,
                        stop=stop,
                    )
                    yield from in_batches(items, BLOCK_RECORDS)
            case _ if not head.strip():
                yield [Item(1, None, "expected records, got an empty file")]
            case _:
                # What it holds may be a key, and is not shown.
                yield [
                    Item(
                        1,
                        None,
                        f"expected JSON, NDJSON, or a table whose header names id, as from {export_command(kind)}",
                    )
                ]
        if problems:
            yield problems


@contextmanager
def _opening(source: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RequestError(f"{source} cannot be read ({reason}): mend the name or its rights.") from error


def _text_at(raw: io.FileIO) -> int | None:
    """Say where the text of a file begins; None if it does not stand there as it is."""
    if not stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
        return None
    start = os.pread(raw.fileno(), 3, 0)
    return None if start.startswith((GZIP, *UTF_16)) else 3 if start == codecs.BOM_UTF8 else 0


def _form(head: bytes) -> Form | None:
    """Say what a file is that begins like this."""
    first, _, rest = head.strip().partition(b"\n")
    second = rest.lstrip().partition(b"\n")[0]
    if first.startswith(b"["):
        return "json"
    if first.startswith(b"{"):
        # A first line that does not begin any JSON, alone or with the next, is a broken one of many, if the next looks
        # like one.
        whole = _is_whole(first)
        broken = whole is None or (whole is False and _is_whole(first + b"\n" + second) is None)
        one_of_many = not second or second.startswith(b"{")
        return "ndjson" if whole or (broken and one_of_many) else "json"
    if is_dump(head):
        return "dump"
    delimiter = find_delimiter(head)
    return None if delimiter is None else "tsv" if delimiter == "\t" else "csv"


def _is_whole(line: bytes) -> bool | None:
    """Say whether a line is one JSON value or several; None if it neither is nor begins any."""
    import ijson

    if _TOO_MANY_DIGITS.search(line):
        return None
    parser = ijson.basic_parse_coro(ijson.sendable_list(), multiple_values=True)
    try:
        parser.send(line + b"\n")
    except (ijson.JSONError, *NOT_JSON):
        return None
    try:
        parser.close()
    except (ijson.JSONError, *NOT_JSON):
        return False
    return True


# --- JSON that went through COPY -------------------------------------------------------------------------------------

_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
# What COPY writes: no other escapes, of which JSON has some.
_COPIED = re.compile(rb"(?:[^\\]|\\[bfnrtv\\])*+\\?", re.DOTALL)
_LETTERS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def _undo_copy(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Undo the escapes of Postgres's text format in JSON, where line breaks and tabs are nothing but white space."""
    rest = b""
    for block in blocks:
        text = rest + block
        # A backslash belongs to what follows it.
        half = (len(text) - len(text.rstrip(b"\\"))) % 2
        rest = text[len(text) - half :]
        yield _ESCAPE.sub(lambda found: b" " if found[1] in b"bfnrtv" else found[1], text[: len(text) - half])
    yield rest


def _is_copied(head: bytes, file: io.FileIO | None, source: str) -> bool:
    r"""Say whether JSON went through COPY in its text format, as by `\copy (SELECT row_to_json(t) …)`: escaped twice.

    Only lines with backslashes tell, and the first for which one reading alone makes sense decides. What is no file of
    lines is judged by its head.

    Raises:
        RequestError: Both readings make sense of all of them.
    """
    unclear = False
    for piece in [head] if file is None else _lines_with_backslashes(file):
        if b"\\" in piece:
            undone = _ESCAPE.sub(lambda found: _LETTERS.get(found[1], found[1]), piece)
            copied = _COPIED.fullmatch(piece) is not None and _makes_sense(undone, whole=file is not None)
            plain = _makes_sense(piece, whole=file is not None)
            if plain != copied:
                return copied
            unclear = unclear or plain
    if unclear:
        raise RequestError(
            f"{source} has backslashes in JSON, which COPY doubles in its text format: run the import again with"
            " --format text if psql's \\copy wrote it, or with --format ndjson or json if not."
        )
    return False


def _makes_sense(text: bytes, *, whole: bool) -> bool:
    return bool(_is_whole(text)) if whole else _is_whole(text) is not None


def _lines_with_backslashes(file: io.FileIO) -> Iterator[bytes]:
    place = file.tell()
    file.seek(0)
    try:
        for block in _line_blocks(_blocks(_Begun(file), [])):
            if isinstance(block, Block) and b"\\" in block.text:
                yield from (line for line in block.text.split(b"\n") if b"\\" in line)
    finally:
        file.seek(place)


# --- bytes -----------------------------------------------------------------------------------------------------------


class _Begun(io.RawIOBase):
    """A file whose first bytes are there to look at, however slowly they came."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self.size_bytes = 0  # at least so many bytes are to come, if that is known
        self.head = b""
        while len(self.head) < len(codecs.BOM_UTF8) and (more := raw.read(len(codecs.BOM_UTF8) - len(self.head))):
            self.head += more
        self._left = self.head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if not self._left:
            return self._raw.readinto(buffer)
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size


class _Patient(io.RawIOBase):
    """A file that is waited for in a way that notices the signal to stop, which a read that blocks would not."""

    def __init__(self, raw: io.FileIO, stop: Stop) -> None:
        self._raw = raw
        self._stop = stop

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        while not select.select([self._raw], [], [], 0.2)[0]:
            if self._stop():
                return 0
        return self._raw.readinto(buffer)


def _blocks(raw: _Begun, problems: list[Item]) -> Iterator[bytes]:
    """Yield a file's bytes, unzipped, without byte-order mark; a zipped one that ends too early leaves a problem."""
    mark, line, size = codecs.BOM_UTF8, 1, 0
    with io.BufferedReader(raw, BLOCK_BYTES) as buffered:
        file = gzip.GzipFile(fileobj=buffered) if raw.head.startswith(GZIP) else buffered
        decode = None
        try:
            while block := file.read1(BLOCK_BYTES):
                size += len(block)
                if mark and block.startswith(UTF_16):
                    # What is no character stays what is no UTF-8, and is found further on.
                    decode = codecs.getincrementaldecoder("utf-16")("surrogatepass").decode
                text = decode(block).encode("utf-8", "surrogatepass") if decode else block.removeprefix(mark)
                line += text.count(b"\n")
                mark = b""
                yield text
            if decode:
                decode(b"", final=True)
        except UnicodeDecodeError:
            problems.append(
                Item(line, None, "expected whole characters of UTF-16: from here on it is cut short or damaged")
            )
        except (EOFError, zlib.error, gzip.BadGzipFile):
            problems.append(Item(line, None, "expected a whole gzip file: from here on it is cut short or damaged"))
        if file is buffered and size < raw.size_bytes:
            problems.append(Item(line, None, "expected a file that stays as it is: it was cut short while it was read"))


def _line_blocks(
    blocks: Iterator[bytes], at: int | None = None, inode: int = 0, problems: Sequence[Item] = ()
) -> Iterator[Block | list[Item]]:
    """Cut bytes at the ends of lines; half a line at the end of a file that broke off is left out."""
    rest, line, skipping = b"", 1, False
    used = at or 0
    for block in chain(blocks, [b""]):
        rest += block
        if block and len(rest) < BLOCK_BYTES:
            continue
        if skipping:  # the rest of a line that was too long
            skipped, end, rest = rest.partition(b"\n")
            used += len(skipped) + len(end)
            if not end:
                continue
            line, skipping = line + 1, False
        cut = rest.rfind(b"\n") + 1 if block or problems else len(rest)
        if cut:
            text, rest = rest[:cut], rest[cut:]
            yield Block(line, text, at if at is None else used, inode)
            line += text.count(b"\n")
            used += len(text)
        elif len(rest) > MAX_RECORD_BYTES:
            yield [_too_long(line)]
            used += len(rest)
            rest, skipping = b"", True


def _too_long(line: int) -> Item:
    return Item(line, None, f"expected at most {MAX_RECORD_BYTES >> 20} MiB in a record")


# --- JSON ------------------------------------------------------------------------------------------------------------


def read_line(line: int, text: bytes, kind: Kind) -> Iterator[Item]:
    """Yield what one line of NDJSON holds: a record, or the records of a list that it wraps."""
    if len(text) > MAX_RECORD_BYTES:
        yield _too_long(line)
        return
    try:
        values = _json_values(text)
    except UnicodeDecodeError:
        problem = "expected UTF-8"
    except RecursionError:
        problem = "expected fewer levels of nesting"
    except ValueError as error:
        problem = str(error) if isinstance(error, TwiceError) else f"expected JSON: {error}"
    else:
        yield from (Item(line, record) for value in values for record in _unwrapped(value, kind))
        return
    yield Item(line, text.decode("utf-8", "backslashreplace"), problem)


def _json_values(text: bytes) -> list[Any]:
    """Read the JSON value of a line; or several, with nothing or white space between them."""
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
        # Read once more, because `msgspec` takes numbers and rare characters as the rest of the program does.
        values.append(decode_json(rest[:end]))
        rest = rest[end:].lstrip()
    return values


def _unwrapped(value: Any, kind: Kind) -> list[Any]:
    if isinstance(value, dict) and not _is_record(value):
        lists = {_plain(name): records for name, records in value.items() if isinstance(records, list)}
        for name in (*TABLES[kind], *WRAPPERS):
            if name in lists:
                return list(lists[name])
    return [value]


def _plain(name: str) -> str:
    """Write the name of a wrapper as that of a table: `apiKeys` is `api_keys`, `public.renders` is `renders`."""
    return snake(name.rpartition(".")[2].strip('"'))


def _is_record(value: dict[str, Any]) -> bool:
    """Say whether an object is a record itself, and no wrapper, whatever lists it has."""
    return any(snake(name) in ("id", "render_id") for name in value)


def _values(blocks: Iterator[bytes], kind: Kind) -> Iterator[Item]:
    import ijson

    events: Any = ijson.sendable_list()
    parser = ijson.basic_parse_coro(events, multiple_values=True)
    records = _Records(kind)
    line, pending, item, before = 1, 0, 1, b""

    def lost(problem: str) -> Item:
        return Item(line, None, f"{problem} (in item {item}); the rest of the file was not read")

    try:
        for piece in chain.from_iterable(map(_small_pieces, blocks)):
            pending += len(piece)
            before += piece
            unreadable, why = _find_unreadable(before)
            if unreadable:  # what precedes it is good; a space, because nothing at all would be the end
                piece = piece[: max(unreadable.start() - len(before), -len(piece))] or b" "
            try:
                parser.send(piece)
            finally:
                for value, problem in records.take(events):
                    yield Item(line, value, problem)
                    pending, item = 0, item + 1
                del events[:]
            if unreadable:
                yield lost(why)
                return
            if pending > MAX_RECORD_BYTES:
                yield lost(str(_too_long(line).problem))
                return
            line += piece.endswith(b"\n")
            before = b"" if piece.endswith(b"\n") else before[-MAX_DIGITS - 2 :]
        parser.close()
    except _TooDeepError:
        yield lost(f"expected at most {MAX_DEPTH} levels of nesting")
    except UnicodeDecodeError:
        yield lost("expected UTF-8")
    except NOT_JSON:
        yield lost("expected JSON whose numbers have at most 18 digits of exponent")
    except ijson.JSONError as error:
        # Quoted with its words is the text that it failed at, which may hold a key.
        words = error.args[0] if error.args else "it ends too early"
        words = words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
        yield lost(f"expected JSON: {words.splitlines()[0]}")


def _find_unreadable(text: bytes) -> tuple[re.Match[bytes] | None, str]:
    """Find what ijson must not see, because it dies of it, or takes it for something else without a word."""
    if len(text) > MAX_DIGITS and (found := _TOO_MANY_DIGITS.search(text)):
        return found, f"expected numbers of at most {MAX_DIGITS:,} digits"
    if (b"\\ud" in text or b"\\uD" in text) and (found := _HALF_CHARACTER.search(text)):
        return found, "expected Unicode, got half of a surrogate pair"
    return None, ""


# The first half of a surrogate pair without the second, which ijson reads as a question mark; not at the very end of a
# text, where the second is still to come.
_HALF_CHARACTER = re.compile(rb"(?<!\\)(?:\\\\)*+\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F]|(?:\\(?:u[dD]?)?)?\Z)")


def _small_pieces(block: bytes) -> Iterator[bytes]:
    """Cut bytes after each line, and within long ones, so that the parser can be watched while it reads them."""
    for line in block.splitlines(keepends=True):
        for at in range(0, len(line), PIECE_BYTES):
            yield line[at : at + PIECE_BYTES]


class _TooDeepError(Exception):
    pass


class _Records:
    """Puts parser events together to records: array elements, list elements of a wrapper, and other values."""

    def __init__(self, kind: Kind) -> None:
        from ijson import ObjectBuilder

        self._wrappers = {*TABLES[kind], *WRAPPERS}
        self._new = ObjectBuilder
        self._depth = 0
        self._level = 0  # the depth at which records begin
        self._record: Any = None  # what is being put together
        self._page: Any = None  # the wrapper whose list is being read
        self._wrapped = False  # whether the value at the top has turned out to be a wrapper
        self._name = ""  # the last one of the object at that level
        self._names: set[str] = set()  # all of them
        self._problem: str | None = None

    def take(self, events: list[tuple[str, Any]]) -> Iterator[tuple[Any, str | None]]:
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
                        self._problem = str(TwiceError(value))
                    self._name = value
                    self._names.add(value)
            self._depth += event in ("start_map", "start_array")
            if self._depth > MAX_DEPTH:
                raise _TooDeepError
            if self._record is not None and self._depth == self._level and event != "map_key":
                if self._level or not self._wrapped:
                    yield self._record.value, self._problem
                elif _is_record(self._record.value):
                    yield self._record.value, "expected its id before a list that looks like one of records"
                self._record, self._wrapped = None, self._wrapped and self._level > 0
                self._names, self._problem = set(), None

    def _begins_list(self, event: str) -> bool:
        return (
            event == "start_array"
            and (self._depth, self._level) == (1, 0)
            and self._record is not None
            and _plain(self._name) in self._wrappers
            and not _is_record(self._record.value)
        )


def _number(value: Any) -> Any:
    """Take a number as `decode_json` does: ijson gives whole ones as they are, and others as decimals."""
    return value if isinstance(value, int) else exact(str(value))


# --- tables ----------------------------------------------------------------------------------------------------------


def _text_lines(blocks: Iterator[bytes]) -> Iterator[str | Item]:
    for block in _line_blocks(blocks):
        if isinstance(block, Block):
            lines = block.text.removesuffix(b"\n").split(b"\n")
            yield from (line.decode("utf-8", "surrogateescape") + "\n" for line in lines)
        else:
            yield from block


@contextmanager
def _again(file: io.FileIO | None, whole: Iterator[bytes], problems: list[Item]) -> Iterator[Lines]:
    """Give the lines of a file as often as they are asked for; a pipe is kept in a temporary file for that."""
    with ExitStack() as stack:
        if file is None:
            with disk_errors(tempfile.gettempdir()):
                spool = stack.enter_context(tempfile.TemporaryFile())
                spool.writelines(whole)

        def lines() -> Iterator[str | Item]:
            if file is None:
                spool.seek(0)
                return _text_lines(iter(lambda: spool.read(BLOCK_BYTES), b""))
            file.seek(0)
            problems.clear()
            begun = _Begun(file)
            begun.size_bytes = os.fstat(file.fileno()).st_size
            return _text_lines(_blocks(begun, problems))

        yield lines
