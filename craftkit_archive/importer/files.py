"""Cuts a file of any supported form into records, with no more than one block of them in memory."""

import io
import os
import re
import stat
from collections.abc import Iterator
from itertools import chain
from typing import Literal

from craftkit_archive.decoding import DecodedItem
from craftkit_archive.errors import RequestError
from craftkit_archive.importer.foreign import refuse_foreign
from craftkit_archive.importer.json_values import NOT_JSON, TOO_MANY_DIGITS, json_records
from craftkit_archive.importer.streams import (
    BLOCK_BYTES,
    MAX_RECORD_BYTES,
    STDIN,
    BegunStream,
    Block,
    PatientStream,
    line_blocks,
    opening_of,
    read_blocks,
    reread,
    text_at,
)
from craftkit_archive.importer.tables import (
    TableForm,
    export_command,
    find_delimiter,
    is_dump,
    read_table_file,
    refuse_form,
)
from craftkit_archive.parallel.batches import Stop, in_batches
from craftkit_archive.records import Kind, Refusal

FileForm = Literal["json", "ndjson"] | TableForm
BLOCK_RECORDS = 2000


def read_source(
    source: str,
    *,
    kind: Kind,
    form: FileForm | None = None,
    null: str | None = None,
    table: str | None = None,
    stop: Stop,
) -> Iterator[Block | list[DecodedItem]]:
    """Yield a file of records piece by piece, lazily.

    Args:
        source: A path, or `-` for standard input; plain or gzipped.
        kind: The kind of records. Lists of other kinds, which an object may hold beside the wanted one, are ignored.
        form: The form of the file; recognized by its content if not given. `json` is an array, objects one after
            another over any number of lines, or objects that wrap a list; `ndjson` has one of these on each line, and a
            broken line does not affect the next; `csv` and `tsv` begin with a header, and an empty cell without quotes
            is null; `text` is the format of Postgres's COPY, with a header; `dump` is what pg_dump writes. The encoding
            is UTF-8, or UTF-16 with a byte-order mark.
        null: The text that stands for null in a table.
        table: The table of a dump to read, if it is not the usual one.
        stop: Asked while waiting for standard input.

    Raises:
        RequestError: The file cannot be opened or read, or is a table that can be read in more than one way.
    """
    # Standard input by its number: `select` does not see what the buffer of `sys.stdin` holds already.
    descriptor = 0 if source == STDIN else source
    with opening_of(source), open(descriptor, "rb", buffering=0, closefd=source != STDIN) as raw:
        at = None if source == STDIN else text_at(raw)
        twice = source != STDIN and stat.S_ISREG(os.fstat(raw.fileno()).st_mode)
        problems: list[DecodedItem] = []
        begun = BegunStream(PatientStream(raw, stop) if source == STDIN else raw)
        begun.size_bytes = 0 if at is None else os.fstat(raw.fileno()).st_size
        blocks = read_blocks(begun, problems)
        head = b""
        for block in blocks:
            head += block
            start = head.lstrip()
            if start.startswith(b"[") or start.count(b"\n") >= 2 or len(head) > MAX_RECORD_BYTES:
                break
        if not head.strip() and stop():
            return
        inode = 0 if at is None else os.fstat(raw.fileno()).st_ino
        refuse_foreign(head, source, kind)
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
            raise RequestError(f"{source} is not a dump and holds only one table. Leave --table out.")
        match form:
            case "ndjson":
                yield from line_blocks(whole, at, inode, problems)
            case "json":
                yield from in_batches(json_records(whole, kind), BLOCK_RECORDS)
            case "csv" | "tsv" | "text" | "dump" as tabular:
                delimiter = "\t" if tabular == "tsv" else find_delimiter(head) or ","
                with reread(raw if twice else None, whole, problems) as lines:
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
                yield [DecodedItem(1, None, Refusal("no-records", "expected records, got an empty file"))]
            case _:
                # The content is not quoted, because it may be a key.
                text = f"expected JSON, NDJSON, or a table whose header names id, as from {export_command(kind)}"
                yield [DecodedItem(1, None, Refusal("no-records", text))]
        if problems:
            yield problems


def _form(head: bytes) -> FileForm | None:
    """Return the form of a file by how it begins; None if it is not recognized."""
    first, _, rest = head.strip().partition(b"\n")
    second = rest.lstrip().partition(b"\n")[0]
    if first.startswith(b"["):
        return "json"
    if first.startswith(b"{"):
        # If the first line is not the beginning of any JSON value, alone or with the next, and the next looks like an
        # object, it is one broken line of many.
        whole = _is_whole(first)
        broken = whole is None or (whole is False and _is_whole(first + b"\n" + second) is None)
        one_of_many = not second or second.startswith(b"{")
        return "ndjson" if whole or (broken and one_of_many) else "json"
    if is_dump(head):
        return "dump"
    delimiter = find_delimiter(head)
    return None if delimiter is None else "tsv" if delimiter == "\t" else "csv"


def _is_whole(line: bytes) -> bool | None:
    """Return True if a line is one or more JSON values, False if it only begins one, and None if it does neither."""
    import ijson

    if TOO_MANY_DIGITS.search(line):
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


_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)

# Text with only the escapes that COPY writes; JSON has others besides.
_COPIED = re.compile(rb"(?:[^\\]|\\[bfnrtv\\])*+\\?", re.DOTALL)
_LETTERS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def _undo_copy(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Undo the escapes of Postgres's text format in JSON, in which line breaks and tabs are only white space."""
    rest = b""
    for block in blocks:
        text = rest + block
        # A backslash at the end of a block is kept for the next block, because it escapes what follows.
        half = (len(text) - len(text.rstrip(b"\\"))) % 2
        rest = text[len(text) - half :]
        yield _ESCAPE.sub(lambda found: b" " if found[1] in b"bfnrtv" else found[1], text[: len(text) - half])
    yield rest


def _is_copied(head: bytes, file: io.FileIO | None, source: str) -> bool:
    r"""Return whether JSON is escaped twice because COPY wrote it as text, as in `\copy (SELECT row_to_json(t) …)`.

    Only lines with backslashes tell, and the first that is valid in only one of the two readings decides. If the file
    does not consist of lines, its beginning decides.

    Raises:
        RequestError: Every such line is valid in both readings.
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
            f"{source} has backslashes in JSON, which COPY doubles in its text format. Run the import again with"
            " --format text if psql's \\copy wrote it, or with --format ndjson or json if not."
        )
    return False


def _makes_sense(text: bytes, *, whole: bool) -> bool:
    return bool(_is_whole(text)) if whole else _is_whole(text) is not None


def _lines_with_backslashes(file: io.FileIO) -> Iterator[bytes]:
    place = file.tell()
    file.seek(0)
    try:
        for block in line_blocks(read_blocks(BegunStream(file), [])):
            if isinstance(block, Block) and b"\\" in block.text:
                yield from (line for line in block.text.split(b"\n") if b"\\" in line)
    finally:
        file.seek(place)
