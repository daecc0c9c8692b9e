"""Reading an export of any form, without a catalog: what it lists, what is there, and the bytes of it."""

import csv
import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from craftkit_archive.errors import AssetKeyError, AssetMissingError, AssetUnreadableError, RequestError
from craftkit_archive.store import OpenAsset
from craftkit_archive.unpacking import Part, Places
from craftkit_archive.values import check_asset_key, restored

MANIFEST = "manifest-sha256.txt"
TAG_MANIFEST = "tagmanifest-sha256.txt"
DECLARATION = "bagit.txt"
INDEX = "index.csv"
MISSING = "missing.csv"
ODD = "odd.csv"
SEAL = "seal.txt"
CATALOGUE = "index.html"
MARKER = ".craftkit-export"

_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
_ESCAPE = re.compile(r"%(0[AaDd]|25)")


class Listed(NamedTuple):
    """A PDF as an export's index lists it. The digest has 64 lower-case hex digits.

    An export that has a manifest and no index, such as a bag that others made, says no more than path and digest.
    """

    path: str
    sha256: str
    size_bytes: int | None = None
    asset_key: str | None = None
    render_id: str | None = None


class Export:
    """An export opened for reading: a folder, a zip or a tar; plain or a bag.

    Paths are relative to the folder that holds the manifest, also in a zip or tar that has a folder around it. Of a
    zip or tar the places of all files are held in memory, 24 bytes each; of a folder nothing is.

    Args:
        path: The folder, or the file.

    Raises:
        RequestError: There is nothing, or nothing that has a manifest.
        AssetUnreadableError: It is a zip or tar that is damaged or cut short.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: Places | None = None
        if path.is_dir():
            self._root = os.path.realpath(path)
        elif path.is_file():
            self._places = Places(path, MANIFEST)
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
            yield from self._places
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
            return self._places.find(path)
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
