"""The formats zip and tar, byte by byte: what comes before, between and after the bodies of files.

The length of every header is known before the body is read, so several processes can write to one file at once. The
output is reproducible: it depends neither on the machine nor on the current time.

Headers are packed by hand, which takes 6 to 7 µs a file; `zipfile` takes 10 to 17 and `tarfile` 24 to 28.

Source: APPNOTE.TXT 6.3.10 (zip, zip64), POSIX.1-2001 pax (tar).
"""

import struct
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import BinaryIO

from craftkit_archive.overriding import override

MODE = 0o644
CHUNK_BYTES = 1 << 20
_LIMIT = 0xFFFFFFFF
_MANY = 0xFFFF
_LOCAL_BYTES = 30
_UTF8 = 1 << 11
_UNIX = 3 << 8
_FIRST_DOS = 315_532_800  # 1980-01-01
_LAST_DOS = 4_354_819_198  # 2107-12-31


class Packing(ABC):
    """A format that packs files into one. Sizes are in bytes, times in seconds since 1970, UTC.

    A path that ends with a slash is a folder; only empty folders need an entry.
    """

    has_crc: bool
    media_type: str

    @abstractmethod
    def head(self, path: str, size: int, modified: int, crc: int) -> bytes:
        """Return the header before a body; its length does not depend on the checksum."""

    @abstractmethod
    def tail(self, size: int) -> bytes:
        """Return the padding after a body."""

    @abstractmethod
    def measure(self, path: str, size: int) -> int:
        """Return the length of head, body and tail together."""

    @abstractmethod
    def record(self, path: str, size: int, modified: int, crc: int, offset: int) -> bytes:
        """Return the central directory's entry for a file whose head begins at `offset`; empty without a directory."""

    @abstractmethod
    def end(self, count: int, offset: int, size: int) -> bytes:
        """Return what follows a central directory of `count` records and `size` bytes that begins at `offset`."""

    def wrap(self, path: str, size: int, modified: int, crc: int, body: Iterable[bytes]) -> Iterator[bytes]:
        """Yield a packed file: head, body, tail."""
        yield self.head(path, size, modified, crc)
        yield from body
        yield self.tail(size)


class Zip(Packing):
    """A zip without compression, because PDFs are compressed already; zip64 only where sizes or offsets require it."""

    has_crc = True
    media_type = "application/zip"

    @override
    def head(self, path: str, size: int, modified: int, crc: int) -> bytes:
        name, extra = path.encode(), _utc(modified)
        large = size >= _LIMIT
        if large:
            extra += struct.pack("<HHQQ", 1, 16, size, size)
        shown = _LIMIT if large else size
        version = 45 if large else 20
        fields = (b"PK\3\4", version, _UTF8, 0, _dos(modified), crc, shown, shown, len(name), len(extra))
        return struct.pack("<4sHHHIIIIHH", *fields) + name + extra

    @override
    def tail(self, size: int) -> bytes:
        return b""

    @override
    def measure(self, path: str, size: int) -> int:
        return _LOCAL_BYTES + len(path.encode()) + len(_utc(0)) + (20 if size >= _LIMIT else 0) + size

    @override
    def record(self, path: str, size: int, modified: int, crc: int, offset: int) -> bytes:
        name, extra = path.encode(), _utc(modified)
        wide = ([size, size] if size >= _LIMIT else []) + ([offset] if offset >= _LIMIT else [])
        if wide:
            extra += struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide)
        version = 45 if wide else 20
        shown = min(size, _LIMIT)
        fields = (
            *(b"PK\1\2", _UNIX | version, version, _UTF8, 0, _dos(modified), crc, shown, shown, len(name), len(extra)),
            *(0, 0, 0, _attributes(path), min(offset, _LIMIT)),
        )
        return struct.pack("<4sHHHHIIIIHHHHHII", *fields) + name + extra

    @override
    def end(self, count: int, offset: int, size: int) -> bytes:
        wide = b""
        if count >= _MANY or offset >= _LIMIT or size >= _LIMIT:
            fields = (b"PK\6\6", 44, _UNIX | 45, 45, 0, 0, count, count, size, offset)
            wide = struct.pack("<4sQHHIIQQQQ", *fields) + struct.pack("<4sIQI", b"PK\6\7", 0, offset + size, 1)
        shown = min(count, _MANY)
        return wide + struct.pack(
            "<4sHHHHIIH", b"PK\5\6", 0, 0, shown, shown, min(size, _LIMIT), min(offset, _LIMIT), 0
        )


def _attributes(path: str) -> int:
    """Return an entry's external attributes: Unix type and permissions, and for folders the DOS bit."""
    return 0o40755 << 16 | 0x10 if path.endswith("/") else (0o100000 | MODE) << 16


def _dos(modified: int) -> int:
    """Return a time in the DOS format of zip: from 1980 to 2107, in steps of 2 s."""
    when = datetime.fromtimestamp(min(max(modified, _FIRST_DOS), _LAST_DOS), UTC)
    date = (when.year - 1980) << 9 | when.month << 5 | when.day
    return date << 16 | when.hour << 11 | when.minute << 5 | when.second // 2


def _utc(modified: int) -> bytes:
    """Return the extra field with the time in UTC; unpackers take the DOS time for local time."""
    return struct.pack("<HHBi", 0x5455, 5, 1, min(max(modified, 0), 0x7FFFFFFF))


class Tar(Packing):
    """A pax tar, which every current tar reads; entries that fit a ustar header get no pax header."""

    has_crc = False
    media_type = "application/x-tar"

    @override
    def head(self, path: str, size: int, modified: int, crc: int) -> bytes:
        if not _is_plain(path, size) or not 0 <= modified <= _OCTAL:
            entry = tarfile.TarInfo(path)
            entry.size, entry.mtime, entry.mode = size, min(max(modified, 0), _OCTAL), MODE
            if path.endswith("/"):
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            return entry.tobuf(tarfile.PAX_FORMAT)
        # The same bytes as tarfile's, in a fifth of the time.
        before = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (path.encode().ljust(100, b"\0"), MODE, 0, 0, size, modified)
        after = _AFTER_CHECKSUM
        return before + b"%06o\0 " % (sum(before) + sum(after) + 8 * ord(" ")) + after

    @override
    def tail(self, size: int) -> bytes:
        return bytes(-size % tarfile.BLOCKSIZE)

    @override
    def measure(self, path: str, size: int) -> int:
        head = tarfile.BLOCKSIZE if _is_plain(path, size) else len(self.head(path, size, 0, 0))
        return head + size + -size % tarfile.BLOCKSIZE

    @override
    def record(self, path: str, size: int, modified: int, crc: int, offset: int) -> bytes:
        """Return nothing: a tar has no directory."""
        return b""

    @override
    def end(self, count: int, offset: int, size: int) -> bytes:
        return bytes(2 * tarfile.BLOCKSIZE + -(offset + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE)


_OCTAL = 0o77777777777
_AFTER_CHECKSUM = (b"0".ljust(101, b"\0") + b"ustar\x0000").ljust(356, b"\0")


def _is_plain(path: str, size: int) -> bool:
    return len(path) <= 100 and size <= _OCTAL and path.isascii() and not path.endswith("/")


FORMS: dict[str, Packing] = {"zip": Zip(), "tar": Tar()}


class Directory:
    """The central directory of a packed file, collected while files are written and appended at the end.

    Args:
        form: How the files are packed.
        file: A temporary file, so that memory stays flat.
    """

    def __init__(self, form: Packing, file: BinaryIO) -> None:
        self._form = form
        self._file = file
        self._count = 0

    def record(self, path: str, size: int, modified: int, crc: int, offset: int) -> None:
        """Add a file whose head begins at `offset`."""
        self._count += 1
        self._file.write(self._form.record(path, size, modified, crc, offset))

    def end(self, offset: int) -> Iterator[bytes]:
        """Yield everything after the last file, which ends at `offset`."""
        size = self._file.tell()
        self._file.seek(0)
        yield from iter(partial(self._file.read, CHUNK_BYTES), b"")
        yield self._form.end(self._count, offset, size)
