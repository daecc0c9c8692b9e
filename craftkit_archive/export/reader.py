"""Reads an export of any form without a catalog: what it lists, which files exist, and their bytes."""

import csv
import errno
import io
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple, NoReturn, TextIO

from craftkit_archive.errors import (
    AssetDamagedError,
    AssetError,
    AssetKeyError,
    AssetMissingError,
    AssetUnreadableError,
    RequestError,
)
from craftkit_archive.export import bagit as bag
from craftkit_archive.export.manifest_lines import (
    MOST_LINE,
    Line,
    manifest_name,
    parse_bag_line,
    parse_sum,
    spellings,
    strength,
)
from craftkit_archive.export.unpacking import MemberIndex, Part, is_unsafe
from craftkit_archive.stores.base import OpenAsset
from craftkit_archive.values import unescape_formula

MANIFEST = "manifest-sha256.txt"
TAG_MANIFEST = "tagmanifest-sha256.txt"
DECLARATION = "bagit.txt"
INDEX = "index.csv"
MISSING = "missing.csv"
ODD = "odd.csv"
SEAL = "seal.txt"
SIGNATURE = "seal.txt.sig"
TIMESTAMP = "seal.txt.tsr"
CATALOGUE = "index.html"
MARKER = ".craftkit-export"

_SEAL = re.compile(r"[0-9a-f]{64}")
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EILSEQ)


class Listed(NamedTuple):
    """A PDF in an export's index. The digest has 64 lower-case hex digits.

    An export with a manifest but no index, such as a bag of another program, gives only path and digest.
    """

    path: str
    sha256: str
    size_bytes: int | None = None
    asset_key: str | None = None
    render_id: str | None = None


class ListedFile(NamedTuple):
    """A file in a manifest.

    Attributes:
        path: Its path in the export.
        algorithm: The algorithm of the digest, by `hashlib`'s name.
        digest: The digest, in lower-case hex digits.
        part: Where its bytes are; None if it is missing or cannot be examined.
        problem: What is wrong with the path or the file; None if nothing is.
        unreadable: Whether the disk failed, so that it is unknown whether the file exists.
        respelled: Whether it was found under another spelling than the one that the standard prescribes.
    """

    path: str
    algorithm: str
    digest: str
    part: Part | None
    problem: str | None = None
    unreadable: bool = False
    respelled: bool = False


class Manifest(NamedTuple):
    """A manifest of a known algorithm: its path in the export, and the algorithm by `hashlib`'s name."""

    name: str
    algorithm: str


class Export:
    """An export opened for reading, made by any program: a folder, a zip or a tar; plain or a bag.

    Paths are relative to the folder that holds the manifests, also if a zip or tar has a folder around it. For a zip or
    tar, the positions of all files are held in memory, 24 bytes each; for a folder, nothing is.

    Args:
        path: The folder, or the file.

    Attributes:
        declaration: The content of a bag's `bagit.txt`; None if it is not a bag.
        manifests: The manifests, the strongest algorithm first. Those of a bag list its payload.
        tag_manifests: The manifests of a bag that list everything else.
        unknown: The names of manifests with unknown algorithms.
        is_ours: Whether it has an index and a seal, as exports of this program have.

    Raises:
        RequestError: There is no export: nothing is there, or it has no manifest.
        AssetUnreadableError: It is a damaged or truncated zip or tar, or a bag that violates the standard.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._members: MemberIndex | None = None
        self._known_folder = ""
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a folder may not be looked into
            self._root = os.path.realpath(path)
            with self._looking("."):
                top = [name for name in os.listdir(self._root) if _is_top(name)]  # noqa: PTH208
        elif os.path.isfile(path):  # noqa: PTH113
            self._members = MemberIndex(path, _is_top)
            top = self._members.top
        else:
            raise RequestError(f"There is no export at {path}. Name a folder, a .zip or a .tar.")
        self.declaration = self._declared() if DECLARATION in top else None
        named = [found for name in sorted(top) if (found := manifest_name(name)) and self._counts(name)]
        ordered = sorted(named, key=lambda one: -strength(one.algorithm) if one.algorithm else 0)
        known = [(Manifest(one.name, one.algorithm), one.of_tags) for one in ordered if one.algorithm]
        self.manifests = [manifest for manifest, of_tags in known if not of_tags]
        self.tag_manifests = [manifest for manifest, of_tags in known if of_tags]
        self.unknown = [one.name for one in ordered if not one.algorithm]
        if not self.manifests:
            self._refuse()
        self.is_ours = self._is_ours()

    @property
    def is_bag(self) -> bool:
        """Whether it is a bag of any version."""
        return self.declaration is not None

    def _is_ours(self) -> bool:
        try:
            return self.find(INDEX) is not None and _SEAL.fullmatch(self.said().get("Seal", "")) is not None
        except AssetError:  # a seal.txt of another program
            return False

    def _declared(self) -> bag.Declaration:
        with self.open(DECLARATION) as found:
            text = b"".join(islice(found.chunks(), 1)) if found.size_bytes <= bag.MOST_DECLARATION_BYTES else b""
        try:
            return bag.parse_declaration(text)
        except ValueError as error:
            raise AssetUnreadableError(
                f"{self.path} is not a valid bag: {DECLARATION} is wrong ({error}). Make the bag again."
            ) from error

    def _counts(self, name: str) -> bool:
        """Return whether a manifest of this name counts: in a bag only those of bags do, elsewhere only plain ones."""
        bagged = name.startswith(("manifest-", "tagmanifest-"))
        return bagged if self.is_bag else not name.startswith("tagmanifest-")

    def _refuse(self) -> NoReturn:
        if self.unknown:
            names = ", ".join(self.unknown)
            raise AssetUnreadableError(
                f"Cannot check {self.path}: the algorithm of {names} is unknown. Use the program that made it."
            )
        why = f"it has no {MANIFEST}. An export that was interrupted has none: run it again."
        if self.is_bag:
            raise AssetUnreadableError(f"{self.path} is not a valid bag: {why}")
        raise RequestError(f"{self.path} is not an export: {why}")

    def listed(self) -> Iterator[Listed]:
        """Yield the PDFs that the export lists, in its own order, lazily.

        If another program made it, those are the files in a manifest with SHA-256.

        Raises:
            AssetUnreadableError: Its index or manifest cannot be parsed.
        """
        if not self.is_ours:
            for manifest in self.manifests:
                entries = (entry for entry in self.entries(manifest) if entry.algorithm == "sha256")
                yield from (Listed(entry.path, entry.digest) for entry in entries)
            return
        with self.text(INDEX) as lines:
            rows = csv.reader(lines)
            names = next(rows, None)
            if names is None:
                return
            try:
                # Columns are looked up by position, because a dictionary for each line would take twice the time.
                path, digest, size, render = map(names.index, ("path", "sha256", "size_bytes", "render_id"))
                key = names.index("asset_key") if "asset_key" in names else None
            except ValueError as error:
                raise self._damaged(INDEX, rows.line_num) from error
            for row in filter(None, rows):
                try:
                    if len(row) != len(names):
                        raise ValueError("a line of another length")
                    yield Listed(
                        unescape_formula(row[path]),
                        row[digest],
                        int(row[size]),
                        None if key is None else unescape_formula(row[key]),
                        unescape_formula(row[render]),
                    )
                except ValueError as error:
                    raise self._damaged(INDEX, rows.line_num) from error

    def entries(self, manifest: Manifest) -> Iterator[ListedFile]:
        """Yield the files that a manifest lists, with their positions, lazily.

        Raises:
            AssetUnreadableError: A line cannot be parsed.
        """
        parse = parse_bag_line if self.is_bag else parse_sum
        for number, text in self._tag_lines(manifest.name):
            if not text or (text.startswith("#") and not self.is_bag):  # comments, as in sha256sum
                continue
            line = parse(text, manifest.algorithm)
            if line is None:
                raise self._damaged(manifest.name, number)
            yield self._entry(line)

    def holes(self) -> Iterator[tuple[int, str, Part | None]]:
        """Yield the line number, the path, and the position of each file in a bag's `fetch.txt`; nothing is fetched.

        Raises:
            AssetUnreadableError: A line cannot be parsed, or names a file that a bag's payload cannot contain.
        """
        if not self.is_bag or self.find(bag.FETCH) is None:
            return
        for number, text in self._tag_lines(bag.FETCH):
            if not text:
                continue
            hole = bag.parse_fetch_line(text)
            if hole is None:
                raise self._damaged(bag.FETCH, number)
            entry = self._entry(Line("", "", hole.path))
            if entry.problem or not entry.path.startswith(bag.PAYLOAD):
                why = entry.problem or f"it is not in {bag.PAYLOAD}"
                raise AssetUnreadableError(
                    f"{self.path} is not a valid bag: line {number} of {bag.FETCH} names {hole.path!r} ({why})."
                )
            yield number, entry.path, entry.part

    def oxums(self) -> Iterator[tuple[str, tuple[int, int] | None]]:
        """Yield each `Payload-Oxum` of a bag: the file that has it, and bytes and files (None if it is malformed).

        Raises:
            AssetUnreadableError: The file does not consist of labels and values.
        """
        for name in (bag.INFO, bag.OLD_INFO):
            if self.declaration is not None and self.find(name) is not None:
                try:
                    with self.text(name, self.declaration.encoding) as lines:
                        yield from ((name, oxum) for oxum in bag.parse_oxums(lines))
                except ValueError as error:
                    raise AssetUnreadableError(f"{name} of {self.path} cannot be understood: {error}.") from error

    def _tag_lines(self, name: str) -> Iterator[tuple[int, str]]:
        """Yield the number and text of each line of a manifest or of `fetch.txt`."""
        if self.declaration is not None:
            opened = self.text(name, self.declaration.encoding)
        else:
            # sha256sum writes names with the bytes that the disk has, and ends lines with a line feed only.
            opened = self.text(name, "utf-8-sig", errors="surrogateescape", newline="\n")
        with opened as lines:
            yield from ((number, line.rstrip("\n").removesuffix("\r")) for number, line in enumerate(lines, 1))

    def _entry(self, line: Line) -> ListedFile:
        """Find the file of a line: the first of the possible spellings of its path that exists."""
        if self.declaration is None:
            names = [line.path.removeprefix("./")]
        else:
            names = list(spellings(line.path, percent=self.declaration.is_standard))
        problem, unreadable = None, False
        for name in names:
            try:
                part = self.find(name)
            except AssetError as error:
                problem, unreadable = str(error), isinstance(error, AssetUnreadableError)
                break
            if part is not None:
                return ListedFile(name, line.algorithm, line.digest, part, respelled=name != names[0])
        return ListedFile(names[0], line.algorithm, line.digest, None, problem, unreadable)

    def said(self) -> dict[str, str]:
        """Return the content of `seal.txt` by label (`Seal`, `PDFs`, `Bytes`, `Archive`); empty if there is none."""
        if self.find(SEAL) is None:
            return {}
        with self.text(SEAL) as lines:
            pairs = (line.partition(": ") for line in lines)
            return {label: value.strip() for label, _, value in pairs}

    @contextmanager
    def text(
        self, name: str, encoding: str = "utf-8", *, errors: str = "strict", newline: str = ""
    ) -> Iterator[Iterator[str]]:
        """Open one of its text files for reading, line by line.

        Raises:
            AssetUnreadableError: It is not in this encoding, has a line of more than `MOST_LINE` characters, or cannot
                be read.
            AssetDamagedError: It is in a zip, and cannot be unpacked.
        """
        with self.open(name) as found:
            try:
                file = io.BufferedReader(found.file)  # type: ignore[type-var]
                yield self._lines(name, io.TextIOWrapper(file, encoding, errors, newline))
            except (UnicodeError, csv.Error, OSError) as error:
                raise self._damaged(name) from error

    def _lines(self, name: str, file: TextIO) -> Iterator[str]:
        """Yield lines; one of gigabytes is refused before it fills the memory."""
        number = 0
        while line := file.readline(MOST_LINE):
            number += 1
            if len(line) == MOST_LINE:
                raise self._damaged(name, number)
            yield line

    def measure(self) -> tuple[int, int]:
        """Return the number of files, listed or not, and their total size in bytes.

        Raises:
            AssetUnreadableError: A folder cannot be read.
        """
        if self._members is not None:
            return self._members.measure()
        count = size = 0
        for _, part in self.parts():
            count, size = count + 1, size + max(part.size_bytes, 0)
        return count, size

    def is_known_by_marks(self, is_known: Callable[[int], bool]) -> bool:
        """Return whether the marks of all names are known, which is faster than reading the names again.

        That works only for a zip or tar without a folder around everything; for others, False means nothing.
        """
        return self._members is not None and self._members.is_known_by_marks(is_known)

    def parts(self) -> Iterator[tuple[str, Part]]:
        """Yield the path and the position of every file, listed or not, in no particular order, lazily.

        Raises:
            AssetUnreadableError: A folder cannot be read.
        """
        if self._members is not None:
            yield from self._members
            return
        # Not os.walk, which silently skips folders that it cannot read, and descends by recursion.
        folders = [""]
        while folders:
            prefix = folders.pop()
            with self._looking(prefix or "."), os.scandir(f"{self._root}/{prefix}") as found:
                for file in found:
                    if file.is_dir(follow_symlinks=False):
                        folders.append(f"{prefix}{file.name}/")
                    else:
                        size = file.stat(follow_symlinks=False).st_size
                        yield f"{prefix}{file.name}", Part(file.path, 0, size)

    @contextmanager
    def _looking(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise AssetUnreadableError(
                f"Cannot look into {path} of {self.path} ({error.strerror}). Check its rights, then run it again."
            ) from error

    def has(self, folder: str) -> bool:
        """Return whether a folder exists; always True for a zip or tar, which need not list folders."""
        return self._members is not None or os.path.isdir(f"{self._root}/{folder}")  # noqa: PTH112

    def find(self, path: str) -> Part | None:
        """Return the position of a file of the export; None if it is missing or not a file.

        A link counts as its target.

        Raises:
            AssetKeyError: The path leads out of the export, by itself or through a link.
            AssetUnreadableError: The disk failed, so that it is unknown whether the file exists.
        """
        if is_unsafe(path):
            raise AssetKeyError(f"the path {path!a} leads out of the export")
        if self._members is not None:
            return self._members.find(path)
        file = f"{self._root}/{path}"
        folder = file.rpartition("/")[0]
        try:
            status = os.lstat(file)
            if folder != self._known_folder or stat.S_ISLNK(status.st_mode):
                file = os.path.realpath(file)
                if os.path.commonpath([self._root, file]) != self._root:
                    raise AssetKeyError(f"a link takes {path!a} out of the export")
                if stat.S_ISLNK(status.st_mode):
                    status = os.lstat(file)
                else:
                    self._known_folder = folder
        except UnicodeEncodeError:
            return None
        except OSError as error:
            if error.errno in _NOT_THERE:
                return None
            raise AssetUnreadableError(f"{path} cannot be looked at ({error.strerror}). Check the disk.") from error
        return Part(file, 0, status.st_size) if stat.S_ISREG(status.st_mode) else None

    def open(self, path: str) -> OpenAsset:
        """Open one of its files for reading; a context manager.

        Raises:
            AssetMissingError: It is missing.
            AssetUnreadableError: It cannot be opened.
            AssetKeyError: The path leads out of the export.
        """
        part = self.find(path)
        if part is None:
            raise AssetMissingError(f"{path} is not in {self.path}.")
        return open_part(path, part)

    def _damaged(self, name: str, line: int | None = None) -> AssetUnreadableError:
        where = f", line {line}," if line else ""
        return AssetUnreadableError(f"{name}{where} of {self.path} cannot be read. Make the export again.")


def _is_top(name: str) -> bool:
    return name == DECLARATION or manifest_name(name) is not None


def open_part(path: str, part: Part) -> OpenAsset:
    """Open a file of an export by its position, without the `Export`, as other processes do.

    Reading it raises `AssetDamagedError` if it cannot be unpacked.

    Raises:
        AssetUnreadableError: It cannot be opened.
    """
    try:
        descriptor = os.open(part.file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        raise AssetUnreadableError(f"{path} cannot be opened ({error.strerror}). Check the disk.") from error
    file = _Inflated(path, descriptor, part) if part.deflated else _Slice(descriptor, part)
    return OpenAsset(path, file, part.size_bytes)  # type: ignore[arg-type]


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


class _Inflated(io.RawIOBase):
    """A deflated part of a file, as a file; it raises if it is not exactly as long as the zip's directory says."""

    def __init__(self, path: str, descriptor: int, part: Part) -> None:
        self._path = path
        self._descriptor = descriptor
        self._at, self._left = part.offset, part.size_bytes
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = b""
        while not data and not self._inflate.eof:
            data = self._step(len(buffer))
        self._left -= len(data)
        # Only the last call, which returns nothing, shows whether the stream ended at the right length.
        if self._left < 0 or (self._left and not data):
            raise self._damaged("its length is not what the directory says")
        buffer[: len(data)] = data
        return len(data)

    def _step(self, most: int) -> bytes:
        packed = self._inflate.unconsumed_tail
        if not packed:
            packed = os.pread(self._descriptor, _PACKED_BYTES, self._at)
            self._at += len(packed)
        if not packed:
            raise self._damaged("it is cut short")
        try:
            return self._inflate.decompress(packed, most)
        except zlib.error as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, why: str) -> AssetDamagedError:
        return AssetDamagedError(f"{self._path} cannot be unpacked ({why}). Make the export again.")

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


_PACKED_BYTES = 64 << 10
