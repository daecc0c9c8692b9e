"""Files and pipes as blocks of lines, decompressed and decoded."""

import codecs
import gzip
import io
import os
import select
import stat
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from craftkit_archive.decoding import DecodedItem
from craftkit_archive.errors import RequestError, disk_errors
from craftkit_archive.importer.tables import Lines
from craftkit_archive.parallel.batches import Stop
from craftkit_archive.records import Refusal

BLOCK_BYTES = 1 << 20
MAX_RECORD_BYTES = 16 << 20
TOO_LONG = Refusal("too-large", f"expected at most {MAX_RECORD_BYTES >> 20} MiB in a record")
STDIN = "-"
GZIP = b"\x1f\x8b"
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # what PowerShell writes into files


class Block(NamedTuple):
    """Whole lines of NDJSON, not yet decoded.

    Attributes:
        line: The number of the first line.
        text: The lines.
        at: The offset of the text in its file; None if the file does not hold it literally, such as in gzip.
        inode: The inode of that file, by which a reader notices that the file was replaced.
    """

    line: int
    text: bytes
    at: int | None
    inode: int = 0


class Span(NamedTuple):
    """A block for another process to read from the file itself: sending the text costs as much as decoding it."""

    line: int
    source: str
    at: int
    size_bytes: int
    inode: int

    def read(self) -> Block:
        """Read the block.

        Raises:
            RequestError: The file can no longer be read, or has changed.
        """
        with opening_of(self.source), Path(self.source).open("rb", buffering=0) as file:
            text = os.pread(file.fileno(), self.size_bytes, self.at)
            if len(text) != self.size_bytes or os.fstat(file.fileno()).st_ino != self.inode:
                raise RequestError(f"{self.source} changed while it was being read. Import it again.")
        return Block(self.line, text, self.at, self.inode)


@contextmanager
def opening_of(source: str) -> Iterator[None]:
    """Map the system's errors about a source that cannot be opened to a `RequestError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RequestError(f"Cannot read {source} ({reason}). Correct the name or its permissions.") from error


def text_at(raw: io.FileIO) -> int | None:
    """Return the offset at which a file's text begins; None if the file does not hold it literally."""
    if not stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
        return None
    start = os.pread(raw.fileno(), 3, 0)
    return None if start.startswith((GZIP, *UTF_16)) else 3 if start == codecs.BOM_UTF8 else 0


class BegunStream(io.RawIOBase):
    """A file whose first bytes can be inspected before it is read, however slowly they arrive."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self.size_bytes = 0  # at least this many bytes will come; 0 if unknown
        self.head = b""
        while len(self.head) < len(codecs.BOM_UTF8) and (more := raw.read(len(codecs.BOM_UTF8) - len(self.head))):
            self.head += more
        self._left = self.head

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read the bytes that were inspected, then the rest of the file."""
        if not self._left:
            return self._raw.readinto(buffer)
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size


class PatientStream(io.RawIOBase):
    """A file that is waited for with `select`, because a blocking read would not notice the signal to stop."""

    def __init__(self, raw: io.FileIO, stop: Stop) -> None:
        self._raw = raw
        self._stop = stop

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read what is available; return 0 once the work is to end."""
        while not select.select([self._raw], [], [], 0.2)[0]:
            if self._stop():
                return 0
        return self._raw.readinto(buffer)


def read_blocks(raw: BegunStream, problems: list[DecodedItem]) -> Iterator[bytes]:
    """Yield a file's bytes as UTF-8, unzipped and without a byte-order mark; a damaged end is added to `problems`."""
    mark, line, size = codecs.BOM_UTF8, 1, 0
    with io.BufferedReader(raw, BLOCK_BYTES) as buffered:
        file = gzip.GzipFile(fileobj=buffered) if raw.head.startswith(GZIP) else buffered
        decode = None
        try:
            while block := file.read1(BLOCK_BYTES):
                size += len(block)
                if mark and block.startswith(UTF_16):
                    # An invalid character stays invalid in UTF-8, and is rejected later.
                    decode = codecs.getincrementaldecoder("utf-16")("surrogatepass").decode
                text = decode(block).encode("utf-8", "surrogatepass") if decode else block.removeprefix(mark)
                line += text.count(b"\n")
                mark = b""
                yield text
            if decode:
                decode(b"", final=True)
        except UnicodeDecodeError:
            problems.append(
                _cut_short(line, "expected whole characters of UTF-16: from here on it is cut short or damaged")
            )
        except (EOFError, zlib.error, gzip.BadGzipFile):
            problems.append(_cut_short(line, "expected a whole gzip file: from here on it is cut short or damaged"))
        if file is buffered and size < raw.size_bytes:
            problems.append(_cut_short(line, "expected a file that stays as it is: it was cut short while it was read"))


def line_blocks(
    blocks: Iterator[bytes], at: int | None = None, inode: int = 0, problems: Sequence[DecodedItem] = ()
) -> Iterator[Block | list[DecodedItem]]:
    """Cut bytes into blocks at the ends of lines; if the file broke off, half a line at its end is left out."""
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
            yield [too_long(line)]
            used += len(rest)
            rest, skipping = b"", True


def too_long(line: int) -> DecodedItem:
    """Return the refused item for a record of more than `MAX_RECORD_BYTES`."""
    return DecodedItem(line, None, TOO_LONG)


def _cut_short(line: int, text: str) -> DecodedItem:
    return DecodedItem(line, None, Refusal("cut-short", text))


def _text_lines(blocks: Iterator[bytes]) -> Iterator[str | DecodedItem]:
    for block in line_blocks(blocks):
        if isinstance(block, Block):
            lines = block.text.removesuffix(b"\n").split(b"\n")
            yield from (line.decode("utf-8", "surrogateescape") + "\n" for line in lines)
        else:
            yield from block


@contextmanager
def reread(file: io.FileIO | None, whole: Iterator[bytes], problems: list[DecodedItem]) -> Iterator[Lines]:
    """Yield a function that reads a file's lines from the start each time; a pipe is copied to a temporary file."""
    with ExitStack() as stack:
        if file is None:
            with disk_errors(tempfile.gettempdir()):
                spool = stack.enter_context(tempfile.TemporaryFile())
                spool.writelines(whole)

        def lines() -> Iterator[str | DecodedItem]:
            if file is None:
                spool.seek(0)
                return _text_lines(iter(lambda: spool.read(BLOCK_BYTES), b""))
            file.seek(0)
            problems.clear()
            begun = BegunStream(file)
            begun.size_bytes = os.fstat(file.fileno()).st_size
            return _text_lines(read_blocks(begun, problems))

        yield lines
