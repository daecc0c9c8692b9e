"""Reading an export of any form, without a catalog: what it lists, what is there, and the bytes of it."""

import csv
import io
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from craftkit_archive.errors import AssetKeyError, AssetMissingError, AssetUnreadableError, RequestError
from craftkit_archive.store import OpenAsset
from craftkit_archive.values import check_asset_key, restored

MANIFEST = "manifest-sha256.txt"
TAG_MANIFEST = "tagmanifest-sha256.txt"
DECLARATION = "bagit.txt"
INDEX = "index.csv"
MISSING = "missing.csv"
SEAL = "seal.txt"
CATALOGUE = "index.html"
MARKER = ".craftkit-export"

_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
_ESCAPE = re.compile(r"%(0[AaDd]|25)")
_LOCAL_HEADER = 30
_UTF8 = 1 << 11
_CRC_FOLLOWS = 1 << 3


class Listed(NamedTuple):
    """A PDF as an export's index lists it. The digest has 64 lower-case hex digits.

    An export that has a manifest and no index, such as a bag that others made, says no more than path and digest.
    """

    path: str
    sha256: str
    size_bytes: int | None = None
    asset_key: str | None = None
    render_id: str | None = None


class Part(NamedTuple):
    """Where the bytes of one file of an export are: `size_bytes` from `offset` on in `file`."""

    file: str
    offset: int
    size_bytes: int


class Export:
    """An export opened for reading: a folder, a zip or a tar; plain or a bag.

    Paths are relative to the folder that holds the manifest, also in a zip or tar that has a folder around it. Of a
    zip or tar the places of all files are held in memory, up to 1 kB each; of a folder nothing is.

    Args:
        path: The folder, or the file.

    Raises:
        RequestError: There is nothing, or nothing that has a manifest.
        AssetUnreadableError: It is a zip or tar that is damaged or cut short.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, Part] | None = None
        if path.is_dir():
            self._root = os.path.realpath(path)
        elif path.is_file():
            self._places = _strip(_places_of(path))
        else:
            raise RequestError(f"There is no export {path}: name a folder, a .zip or a .tar.")
        if self.find(MANIFEST) is None:
            raise RequestError(f"{path} is no export: it has no {MANIFEST}. An export that was interrupted has none.")
        self.is_bag = self.find(DECLARATION) is not None

    def listed(self) -> Iterator[Listed]:
        """Yield the PDFs that the export says it holds, in its own order; lazily.

        Raises:
            AssetUnreadableError: Its index or manifest cannot be understood.
        """
        if self.find(INDEX) is None:
            yield from (Listed(path, digest) for path, digest in self.manifest())
            return
        with self.text(INDEX) as lines:
            rows = csv.DictReader(lines)
            for row in rows:
                try:
                    cells = {name: restored(value) for name, value in row.items()}
                    size = int(cells["size_bytes"])
                    digest, key, render = cells["sha256"], cells.get("asset_key"), cells["render_id"]
                    yield Listed(cells["path"], digest, size, key, render)
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    raise self._damaged(INDEX, rows.line_num) from error

    def manifest(self, name: str = MANIFEST) -> Iterator[tuple[str, str]]:
        """Yield the path and digest of each line of a manifest; lazily.

        Raises:
            AssetUnreadableError: A line cannot be understood.
        """
        with self.text(name) as lines:
            for number, line in enumerate(lines, 1):
                found = _LINE.fullmatch(line.rstrip("\r\n"))
                if found is None:
                    raise self._damaged(name, number)
                digest, path = found.groups()
                # RFC 8493, 2.1.3: these three, and no others.
                path = _ESCAPE.sub(lambda code: chr(int(code[1], 16)), path) if self.is_bag else path
                yield path.removeprefix("./"), digest.lower()

    def said(self) -> dict[str, str]:
        """Return what `seal.txt` says, by label (`Seal`, `PDFs`, `Bytes`, `Archive`); nothing if there is none."""
        if self.find(SEAL) is None:
            return {}
        with self.text(SEAL) as lines:
            pairs = (line.partition(": ") for line in lines)
            return {label: value.strip() for label, _, value in pairs}

    @contextmanager
    def text(self, name: str) -> Iterator[Iterator[str]]:
        """Open one of its tables for reading, line by line.

        Raises:
            AssetUnreadableError: It is no UTF-8, or reading it fails.
        """
        with self.open(name) as found:
            try:
                yield io.TextIOWrapper(io.BufferedReader(found.file), "utf-8", newline="")  # type: ignore[type-var]
            except (UnicodeDecodeError, csv.Error, OSError) as error:
                raise self._damaged(name) from error

    def parts(self) -> Iterator[tuple[str, Part]]:
        """Yield the path and the place of every file that is there, listed or not; in no order, lazily."""
        if self._places is not None:
            yield from self._places.items()
            return
        for folder, below, names in os.walk(self._root):
            relative = os.path.relpath(folder, self._root)
            prefix = "" if relative == "." else f"{relative}/"
            for name in [*names, *(name for name in below if Path(folder, name).is_symlink())]:
                size = os.lstat(f"{folder}/{name}").st_size
                yield f"{prefix}{name}", Part(f"{folder}/{name}", 0, size)

    def find(self, path: str) -> Part | None:
        """Return where a file of the export is; None if it is not there, or is no file.

        Raises:
            AssetKeyError: The path leads out of the export.
        """
        if self._places is not None:
            return self._places.get(path)
        file = f"{self._root}/{check_asset_key(path)}"
        try:
            status = os.lstat(file)
        except OSError:
            return None
        if os.path.commonpath([self._root, os.path.realpath(file.rpartition("/")[0])]) != self._root:
            raise AssetKeyError(f"{path!r} leads out of {self.path} through a link.")
        return Part(file, 0, status.st_size) if stat.S_ISREG(status.st_mode) else None

    def open(self, path: str) -> OpenAsset:
        """Open one of its files for reading; a context manager.

        Raises:
            AssetMissingError: It is not there.
            AssetUnreadableError: It cannot be opened.
            AssetKeyError: The path leads out of the export.
        """
        part = self.find(path)
        if part is None:
            raise AssetMissingError(f"{path} is not in {self.path}.")
        return open_part(path, part)

    def _damaged(self, name: str, line: int | None = None) -> AssetUnreadableError:
        where = f", line {line}," if line else ""
        return AssetUnreadableError(f"{name}{where} of {self.path} cannot be understood: make the export again.")


def open_part(path: str, part: Part) -> OpenAsset:
    """Open the bytes that are in a place; for those that had it from an `Export`, in other processes too.

    Raises:
        AssetUnreadableError: They cannot be opened.
    """
    try:
        descriptor = os.open(part.file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        raise AssetUnreadableError(f"{path} cannot be opened ({error.strerror}): check the disk.") from error
    return OpenAsset(path, _Slice(descriptor, part), part.size_bytes)  # type: ignore[arg-type]


class _Slice(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, descriptor: int, part: Part) -> None:
        self._descriptor = descriptor
        self._at, self._end = part.offset, part.offset + part.size_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer)[: self._end - self._at]
        count = os.preadv(self._descriptor, [view], self._at) if view else 0
        self._at += count
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def _places_of(path: Path) -> dict[str, Part]:
    """Find where the bytes of each file in a zip or tar are."""
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                return _zip_places(path, file)
            file.seek(0)
            return _tar_places(path, file)
    except (
        *(zipfile.BadZipFile, tarfile.TarError, EOFError),
        *(UnicodeDecodeError, OSError, OverflowError, NotImplementedError),
    ) as error:
        raise AssetUnreadableError(f"{path} is no whole zip or tar ({error}): make the export again.") from error


def _zip_places(path: Path, file: BinaryIO) -> dict[str, Part]:
    places: dict[str, Part] = {}
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.is_dir():
                continue
            if entry.compress_type != zipfile.ZIP_STORED:
                raise AssetUnreadableError(f"{path} was packed again, compressed: unpack it, and name the folder.")
            file.seek(entry.header_offset)
            header = file.read(_LOCAL_HEADER)
            name_length, more = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
            offset = entry.header_offset + _LOCAL_HEADER + name_length + more
            # Unpackers go by what stands before the bytes, too.
            name = file.read(name_length).decode("utf-8" if entry.flag_bits & _UTF8 else "cp437")
            crc = int.from_bytes(header[14:18], "little")
            crc_follows = entry.flag_bits & _CRC_FOLLOWS
            if header[:4] != b"PK\3\4" or name != entry.orig_filename or (crc != entry.CRC and not crc_follows):
                raise zipfile.BadZipFile(f"what stands before {entry.filename!r} is damaged")
            _add(places, entry.filename, Part(os.path.realpath(path), offset, entry.file_size))
    return places


def _tar_places(path: Path, file: BinaryIO) -> dict[str, Part]:
    places: dict[str, Part] = {}
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (entry := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # it would keep them all
            if entry.isdir():
                continue
            size = entry.size if entry.isreg() else -1
            _add(places, entry.name, Part(os.path.realpath(path), entry.offset_data, size))
        end = archive.offset
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        # To tarfile, a damaged head is the end.
        raise tarfile.ReadError("the head of a file is damaged")
    if path.stat().st_size < end:
        raise tarfile.ReadError("it is cut short")
    return places


def _add(places: dict[str, Part], name: str, part: Part) -> None:
    name = name.removeprefix("./")
    if name in places:
        raise AssetUnreadableError(f"{part.file} holds {name!r} twice: make the export again.")
    places[name] = part


def _strip(places: dict[str, Part]) -> dict[str, Part]:
    """Take away the one folder that a packed bag has around it."""
    if MANIFEST in places:
        return places
    around = {name.partition("/")[0] for name in places}
    if len(around) != 1:
        return places
    prefix = f"{around.pop()}/"
    return {name.removeprefix(prefix): part for name, part in places.items()}
