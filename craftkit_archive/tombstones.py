"""The file `disposed.ndjson` lists disposed renders beside the catalog, so that no older catalog brings them back."""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from craftkit_archive.durable import flush
from craftkit_archive.errors import disk_errors
from craftkit_archive.records import Tombstone

DISPOSED_FILE = "disposed.ndjson"
# No line comes near this length; a longer one is not read into memory at once.
MAX_LINE_BYTES = 1 << 16


class _Line(msgspec.Struct, frozen=True):
    """A line of the file: a tombstone without the end of its disposal, which is unknown when the line is written."""

    by: str
    created_at: str | None
    disposed_at: str
    policy: str
    project_id: str
    render_id: str
    sha256: str | None
    size_bytes: int | None


_decode = msgspec.json.Decoder(_Line).decode


def encode_line(tombstone: Tombstone) -> bytes:
    """Return a tombstone as a line of the file."""
    fields = {name: getattr(tombstone, name) for name in _Line.__struct_fields__}
    return msgspec.json.encode(_Line(**fields)) + b"\n"


class DisposedFile:
    """The file, to which whole lines are appended, and which is never rewritten.

    Args:
        path: The file; created with the first line, readable only by its owner.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def size_bytes(self) -> int:
        """The size of the file in bytes; 0 if there is none."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def tombstones(self, offset: int = 0) -> Iterator[Tombstone]:
        """Yield the tombstones in the file from an offset on; incomplete and invalid lines are left out."""
        with disk_errors(self.path), suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(offset)
            while line := file.readline(MAX_LINE_BYTES):
                # A line that a crash has cut short is written again, because its row is in the catalog.
                with suppress(msgspec.MsgspecError, UnicodeError, RecursionError):
                    if line.endswith(b"\n"):
                        yield Tombstone(**msgspec.structs.asdict(_decode(line)))

    @contextmanager
    def locked(self) -> Iterator[BinaryIO]:
        """Hold the file's lock, and yield the file open for appending.

        Raises:
            NoSpaceError, NotWritableError: The disk refused.
        """
        with disk_errors(self.path):
            is_new = not self.path.exists()
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "r+b", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if is_new:
                    flush(self.path.parent)
                yield file

    def append(self, file: BinaryIO, tombstones: Iterable[Tombstone]) -> int:
        """Append tombstones, flush them to the disk, and return the new size of the file in bytes.

        Args:
            file: The file from `locked`.
            tombstones: The tombstones to append.
        """
        with disk_errors(self.path):
            size = os.fstat(file.fileno()).st_size
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":  # an interrupted write
                os.write(file.fileno(), b"\n")
            for tombstone in tombstones:
                line = memoryview(encode_line(tombstone))
                while line:
                    line = line[os.write(file.fileno(), line) :]
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size
