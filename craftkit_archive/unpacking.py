"""Where the files in a zip or tar are, read from its own directory, in little memory however many they are.

Source: APPNOTE.TXT 6.3.10 (zip, zip64), POSIX.1-2001 pax (tar).
"""

import os
import struct
import tarfile
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from craftkit_archive.errors import AssetUnreadableError
from craftkit_archive.values import mark_of

_LIMIT = 0xFFFFFFFF
# No file has as much.
_BEYOND = 1 << 62
_END, _END_BYTES = b"PK\5\6", 22
_LOCATOR, _LOCATOR_BYTES = b"PK\6\7", 20
_WIDE_END, _WIDE_END_BYTES = b"PK\6\6", 56
_RECORD, _RECORD_BYTES = b"PK\1\2", 46
_HEAD, _HEAD_BYTES = b"PK\3\4", 30
_MOST_COMMENT = 0xFFFF
_WIDE_FIELD = 1
_ENCRYPTED, _CRC_FOLLOWS, _UTF8 = 1, 1 << 3, 1 << 11
_STORED = 0
_NEWEST_VERSION = 63


class Part(NamedTuple):
    """Where the bytes of one file of an export are: `size_bytes` from `offset` on in `file`."""

    file: str
    offset: int
    size_bytes: int


class _Entry(NamedTuple):
    path: str
    offset: int
    size_bytes: int  # below nothing if it is no plain file


class _DamagedError(Exception):
    """The directory, or what stands before a file, is not as it must be."""


class Places:
    """Where the files in a zip or tar are: 24 bytes each, and none of their names.

    Args:
        path: The file.
        root: What lies in the folder that paths are relative to: the top, or the one folder around everything.

    Raises:
        AssetUnreadableError: It is damaged, cut short, compressed, or has a name twice.
    """

    def __init__(self, path: Path, root: str) -> None:
        self._path = path
        self._file = os.path.realpath(path)
        marks, offsets, sizes = array("Q"), array("q"), array("q")
        around: set[str] = set()
        at_top = False
        for entry in _entries(path, thorough=True):
            marks.append(mark_of(entry.path))
            offsets.append(entry.offset)
            sizes.append(entry.size_bytes)
            at_top = at_top or entry.path == root
            if len(around) < 2:
                around.add(entry.path.partition("/")[0])
        self._prefix = "" if at_top or len(around) != 1 else f"{around.pop()}/"
        order = sorted(range(len(marks)), key=marks.__getitem__)
        self._marks = array("Q", (marks[place] for place in order))
        self._offsets = array("q", (offsets[place] for place in order))
        self._sizes = array("q", (sizes[place] for place in order))
        twice = {one for one, next_one in zip(self._marks, self._marks[1:], strict=False) if one == next_one}
        if twice:
            name = next(entry.path for entry in _entries(path) if mark_of(entry.path) in twice)
            raise AssetUnreadableError(f"{path} holds {name!r} twice: make the export again.")

    def find(self, path: str) -> Part | None:
        """Return where a file is; None if it is not there."""
        one = mark_of(self._prefix + path)
        place = bisect_left(self._marks, one)
        if place == len(self._marks) or self._marks[place] != one:
            return None
        return Part(self._file, self._offsets[place], self._sizes[place])

    def __iter__(self) -> Iterator[tuple[str, Part]]:
        for entry in _entries(self._path):
            yield entry.path.removeprefix(self._prefix), Part(self._file, entry.offset, entry.size_bytes)


def _entries(path: Path, *, thorough: bool = False) -> Iterator[_Entry]:
    """Yield what a zip or tar holds, in its order, without folders; lazily.

    Args:
        path: The file.
        thorough: Whether to compare what stands before each file in a zip, by which unpackers go too.
    """
    try:
        with path.open("rb") as file:
            zipped = _find_end(file)
            file.seek(0)
            found = _tar_entries(path, file) if zipped is None else _zip_entries(path, file, *zipped, thorough=thorough)
            for entry in found:
                if not 0 <= entry.offset + max(entry.size_bytes, 0) < _BEYOND:
                    raise _DamagedError(f"{entry.path!r} cannot be where it says")
                yield entry
    except (
        _DamagedError,
        tarfile.TarError,
        EOFError,
        UnicodeDecodeError,
        OSError,
        OverflowError,
        struct.error,
    ) as error:
        raise AssetUnreadableError(f"{path} is no whole zip or tar ({error}): make the export again.") from error


# --- zip -------------------------------------------------------------------------------------------------------------


def _find_end(file: BinaryIO) -> tuple[int, int, int] | None:
    """Find the end of a zip: how many records its directory has, where that begins, and where it ends."""
    size = file.seek(0, os.SEEK_END)
    begin = max(size - _END_BYTES - _MOST_COMMENT, 0)
    file.seek(begin)
    tail = file.read()
    place = tail.rfind(_END)
    while place >= 0:
        comment = int.from_bytes(tail[place + 20 : place + 22], "little")
        if len(tail) - place == _END_BYTES + comment:
            break
        place = tail.rfind(_END, 0, place)
    else:
        return None
    at = begin + place
    _, disk, _, _, count, length, offset, _ = struct.unpack_from("<4sHHHHIIH", tail, place)
    if _LIMIT in (length, offset) or count == 0xFFFF:
        file.seek(max(at - _LOCATOR_BYTES, 0))
        found, _, where, _ = struct.unpack("<4sIQI", file.read(_LOCATOR_BYTES))
        if found == _LOCATOR:
            file.seek(where)
            at = where
            found, _, _, _, disk, _, _, count, length, offset = struct.unpack(
                "<4sQHHIIQQQQ", file.read(_WIDE_END_BYTES)
            )
            if found != _WIDE_END:
                raise _DamagedError("its end is damaged")
    if disk or offset + length != at:
        raise _DamagedError("its directory is not where its end says")
    return count, offset, at


def _zip_entries(path: Path, file: BinaryIO, count: int, offset: int, end: int, *, thorough: bool) -> Iterator[_Entry]:
    file.seek(offset)
    with path.open("rb", buffering=512) as heads:
        for _ in range(count):
            entry, crc, flags, head_at = _zip_record(path, file)
            if entry.path.endswith("/"):
                continue
            heads.seek(head_at)
            head = heads.read(_HEAD_BYTES)
            name_bytes, extra_bytes = struct.unpack_from("<HH", head, 26)
            begin = head_at + _HEAD_BYTES + name_bytes + extra_bytes
            if thorough:
                name = heads.read(name_bytes).decode(_coding(flags))
                told = int.from_bytes(head[14:18], "little")
                if head[:4] != _HEAD or name != entry.path or (told != crc and not flags & _CRC_FOLLOWS):
                    raise _DamagedError(f"what stands before {entry.path!r} is damaged")
            yield entry._replace(path=entry.path.removeprefix("./"), offset=begin)
        if file.tell() != end:
            raise _DamagedError("its directory is longer than its end says")


def _zip_record(path: Path, file: BinaryIO) -> tuple[_Entry, int, int, int]:
    """Read one record of a directory: the file, its checksum, its flags, and where its head is."""
    fields = struct.unpack("<4sHHHHIIIIHHHHHII", file.read(_RECORD_BYTES))
    found, _, needed, flags, method, _, crc, packed, size, name_bytes, extra_bytes, comment_bytes, *_, at = fields
    if found != _RECORD:
        raise _DamagedError("its directory is damaged")
    if needed & 0xFF > _NEWEST_VERSION:
        raise _DamagedError(f"it needs version {needed & 0xFF} of the format")
    name = file.read(name_bytes).decode(_coding(flags))
    extra = file.read(extra_bytes)
    if len(extra) != extra_bytes or len(file.read(comment_bytes)) != comment_bytes or not name or "\0" in name:
        raise _DamagedError("its directory is damaged")
    size, packed, at = _widened(extra, size, packed, at)
    if method != _STORED or flags & _ENCRYPTED or packed != size:
        raise AssetUnreadableError(f"{path} was packed again, compressed or encrypted: unpack it, and name the folder.")
    return _Entry(name, 0, size), crc, flags, at


def _coding(flags: int) -> str:
    return "utf-8" if flags & _UTF8 else "cp437"


def _widened(extra: bytes, *values: int) -> list[int]:
    """Put the numbers that need 64 bits in the place of those that are full."""
    found = list(values)
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == _WIDE_FIELD:
            numbers = iter(struct.unpack_from(f"<{length // 8}Q", extra, 4))
            try:
                found = [next(numbers) if value == _LIMIT else value for value in found]
            except (StopIteration, RuntimeError) as error:
                raise _DamagedError("its directory is damaged") from error
        extra = extra[4 + length :]
    return found


# --- tar -------------------------------------------------------------------------------------------------------------


def _tar_entries(path: Path, file: BinaryIO) -> Iterator[_Entry]:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (entry := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # it would keep them all
            if archive.offset <= entry.offset:
                raise tarfile.ReadError("it leads back to where it was")
            if not entry.isdir():
                yield _Entry(entry.name.removeprefix("./"), entry.offset_data, entry.size if entry.isreg() else -1)
        end = archive.offset
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        # To tarfile, a damaged head is the end.
        raise tarfile.ReadError("the head of a file is damaged")
    if path.stat().st_size < end:
        raise tarfile.ReadError("it is cut short")
