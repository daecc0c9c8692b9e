"""Where an export goes: a folder, a bucket, or one zip or tar in a file or on standard output."""

import fcntl
import os
import shutil
import tempfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO, Self

import msgspec

from craftkit_archive.archive import Archive
from craftkit_archive.errors import ArchiveError, AssetError, AssetMissingError, LockedError, RequestError, disk_errors
from craftkit_archive.export.packing import FORMS, Directory
from craftkit_archive.export.reader import INDEX, MANIFEST, MARKER, SIGNATURE, TIMESTAMP, Export
from craftkit_archive.export.workers import Done, ExportItem, FilesTask, PackTask, StoreTask
from craftkit_archive.lock import LOCK, hold_lock
from craftkit_archive.overriding import override
from craftkit_archive.stores.base import CHUNK_BYTES, Store, digest, mask_address
from craftkit_archive.stores.folder import INCOMING, FolderStore
from craftkit_archive.values import check_asset_key

LEDGER = f"{INCOMING}/ledger.csv"
# The media types of an export's own files in a bucket; a browser shows a page only if the service says that it is one.
_MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "txt": "text/plain; charset=utf-8",
}


class OwnFiles(ABC):
    """Where an export writes its own files, beside the PDFs: its manifest, tables, seal and pages.

    `removes` is true if no such file of an earlier export can remain: `remove` deletes it, or there never is one.
    """

    removes: bool

    @abstractmethod
    def add(self, path: str, file: BinaryIO, modified: int) -> None:
        """Write one of the export's own files; a path that ends with a slash is an empty folder."""

    def remove(self, path: str) -> bool:
        """Remove a file of an earlier export and return whether there was one; always False where none can be."""
        return False


class Target(OwnFiles):
    """Where one export is written. Every implementation passes the suite in `tests/test_exporting.py`.

    A context manager: leaving it without `close` leaves nothing behind that looks like a complete export.
    `has_earlier` is valid inside: whether earlier exports may have written something here.
    """

    has_earlier: bool

    @abstractmethod
    def __enter__(self) -> Self:
        """Lock the target against other exports, where it can be locked.

        Raises:
            LockedError: Another export is writing to it.
            RequestError: Something else is there.
        """

    @abstractmethod
    def __exit__(self, *_error: object) -> None:
        """Unlock the target, and remove what is incomplete."""

    @abstractmethod
    def earlier(self) -> Iterator[str]:
        """Yield the index lines of earlier exports to this target, line ends included."""

    @abstractmethod
    def task(self, items: list[ExportItem], lines: str) -> Any:
        """Make a worker's task of these items, and note their lines of the index, `lines`, before it may write."""

    @abstractmethod
    def settle(self, task: Any, done: list[Done]) -> None:
        """Take the results of a task, one for each item. Tasks are settled in the order in which they were made."""

    def holds(self, path: str, size_bytes: int | None, sha256: str) -> bool:
        """Return whether a file of an earlier export is there, unchanged; always False where none can be."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Complete the export under its final name."""


class Claim(msgspec.Struct, frozen=True):
    """The content of an export's marker: the id of its archive, and whether it is a bag."""

    archive: str
    bag: bool = False


CLAIM_TYPE = "application/json"


def _file_chunks(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    return iter(partial(file.read, CHUNK_BYTES), b"")


class FolderTarget(Target):
    """A folder; it must be empty, absent, or hold an export of the same archive and form.

    Args:
        archive: Whose PDFs are written.
        path: The folder.
        bag: Whether it becomes a bag.
        link: Whether files are hard links to the store's.
        read: Whether linked files are read and compared all the same.

    Raises:
        RequestError: The folder holds something else.
        LockedError: Another export is writing to it.
    """

    removes = True

    def __init__(self, archive: Archive, path: Path, *, bag: bool, link: bool = False, read: bool = True) -> None:
        self.path = path
        self._archive = archive
        self._claim = Claim(archive.id, bag)
        self._link, self._read = link, read
        self._folder = FolderStore(path, durable=False)
        self._token = token_hex(8)
        self._stack = ExitStack()
        self.has_earlier = False
        self._check()

    def _check(self) -> None:
        with disk_errors(self.path):
            store = self._archive.store
            if self._link and not isinstance(store, FolderStore):
                raise RequestError(f"--link makes hard links to files, and {store.address} has none. Leave it out.")
            check_outside(store, self.path)
            self._is_new = not os.path.lexists(self.path) or not next(self.path.iterdir(), None)
            if self._is_new:
                return
            # An export that was killed before it wrote its marker has left its lock.
            if {path.name for path in islice(self.path.iterdir(), 2)} <= {INCOMING}:
                return
            marker = self.path / MARKER
            check_claim(marker.read_bytes() if marker.exists() else None, self._claim, self.path)

    @override
    def __enter__(self) -> Self:
        incoming = self.path / INCOMING
        with disk_errors(self.path):
            incoming.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(hold_lock(incoming, "export", self._archive.clock))
            self._folder.remove_stale()
            with disk_errors(self.path):
                incoming.mkdir(exist_ok=True)
                self._folder.write(MARKER, [msgspec.json.encode(self._claim)], replace=True)
                # An export without a manifest counts as incomplete.
                (self.path / MANIFEST).unlink(missing_ok=True)
                self._ledger = stack.enter_context((self.path / LEDGER).open("a+b"))
                self._take_index()
            self._stack = stack.pop_all()
        return self

    def _take_index(self) -> None:
        """Append the last export's index to the ledger, before anything else is written."""
        index = self.path / INDEX
        if self._ledger.tell():
            self._ledger.write(b"\r\n")  # the last line may be torn
        with suppress(FileNotFoundError):
            with index.open("rb") as last:
                last.readline()
                shutil.copyfileobj(last, self._ledger, CHUNK_BYTES)
                self._ledger.flush()
            index.unlink()
        self._earlier_bytes = self._ledger.tell()
        self.has_earlier = self._earlier_bytes > 0

    @override
    def __exit__(self, *_error: object) -> None:
        with suppress(OSError):  # what a full disk did not take is not missed here
            self._stack.close()

    @override
    def earlier(self) -> Iterator[str]:
        with (self.path / LEDGER).open("rb") as lines:
            left = self._earlier_bytes
            for line in lines:
                if left <= 0:
                    return
                left -= len(line)
                # Torn by a full disk, or saved again by a spreadsheet.
                with suppress(UnicodeDecodeError):
                    yield line.decode()

    @override
    def task(self, items: list[ExportItem], lines: str) -> FilesTask:
        with disk_errors(self.path):
            self._ledger.write(lines.encode())
            self._ledger.flush()
        store, folder = self._archive.store.address, self._folder.address
        return FilesTask(store, folder, items, self._is_new, self._link, self._read, self._token)

    @override
    def settle(self, task: FilesTask, done: list[Done]) -> None:
        """Do nothing: the workers have written everything."""

    @override
    def add(self, path: str, file: BinaryIO, modified: int) -> None:
        if path.endswith("/"):
            with disk_errors(self.path):
                (self.path / path).mkdir(exist_ok=True)
            return
        self._folder.write(path, _file_chunks(file), replace=True)

    @override
    def holds(self, path: str, size_bytes: int | None, sha256: str) -> bool:
        try:
            with self._folder.open(path) as found:
                return found.size_bytes == size_bytes and digest(found.chunks()).sha256 == sha256
        except AssetError:
            return False

    @override
    def remove(self, path: str) -> bool:
        """Remove a file, and the folders that become empty."""
        file = self.path / check_asset_key(path)
        with disk_errors(file):
            try:
                file.unlink()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return False
            with suppress(OSError):
                for folder in islice(file.parents, path.count("/")):
                    folder.rmdir()
        return True

    @override
    def close(self) -> None:
        with disk_errors(self.path):
            (self.path / LEDGER).unlink()
            (self.path / INCOMING / LOCK).unlink()
        self._folder.remove_stale()


def check_outside(store: Store, address: str | Path) -> None:
    """Check that an export does not lie in the archive's store, where its files would be taken for assets.

    Raises:
        RequestError: It does.
    """
    if store.contains(os.fspath(address)):
        where = mask_address(os.fspath(address))
        raise RequestError(f"{where} lies in the archive's store. Choose a place outside of it.")


def check_claim(found: bytes | None, claim: Claim, where: object) -> None:
    """Compare what a marker says with what it must say; None where there are files and no marker.

    Raises:
        RequestError: Something else is there.
    """
    if found is None:
        raise RequestError(f"{where} holds files that are not an export's. Choose an empty folder.")
    with suppress(msgspec.MsgspecError):
        if msgspec.json.decode(found, type=Claim) == claim:
            return
    raise RequestError(f"{where} holds an export of something else, as its {MARKER} says. Choose an empty folder.")


class StoreTarget(Target):
    """A bucket. It cannot be locked, and only the signature and timestamp of an earlier seal are removed from it."""

    has_earlier = False
    removes = False

    def __init__(self, archive: Archive, store: Store, *, bag: bool) -> None:
        self._archive = archive
        self._store = store
        self._claim = Claim(archive.id, bag)

    @override
    def __enter__(self) -> Self:
        try:
            with self._store.open(MARKER) as found:
                check_claim(b"".join(found.chunks()), self._claim, self._store.address)
        except AssetMissingError:
            if next(self._store.list(), None) is not None:
                check_claim(None, self._claim, self._store.address)
        self._store.write(MARKER, [msgspec.json.encode(self._claim)], replace=True, media_type=CLAIM_TYPE)
        return self

    @override
    def __exit__(self, *_error: object) -> None:
        return

    @override
    def earlier(self) -> Iterator[str]:
        """Yield nothing: files of earlier exports stay, but are not part of this one."""
        return iter(())

    @override
    def task(self, items: list[ExportItem], lines: str) -> StoreTask:
        return StoreTask(self._archive.store.address, self._store.address, items)

    @override
    def settle(self, task: StoreTask, done: list[Done]) -> None:
        """Do nothing: the workers have written everything."""

    @override
    def add(self, path: str, file: BinaryIO, modified: int) -> None:
        """Write a file; skip an empty folder, which a bucket cannot hold."""
        if not path.endswith("/"):
            media_type = _MEDIA_TYPES.get(path.rpartition(".")[2], "application/octet-stream")
            self._store.write(path, _file_chunks(file), replace=True, media_type=media_type)

    @override
    def remove(self, path: str) -> bool:
        """Remove a signature or timestamp; leave PDFs and pages, which others may be reading and no list here names."""
        if path not in (SIGNATURE, TIMESTAMP):
            return False
        try:
            self._store.find(path)
        except AssetMissingError:
            return False
        self._store.remove(path)
        return True

    @override
    def close(self) -> None:
        return


class PackedTarget(Target):
    """One zip or tar, in a file or on standard output.

    Workers write their pieces of a file at the same time, each at its offset; the file gets its name when it is
    complete. Where an asset is left out, the pieces after it move up. For standard output, each piece is written to a
    temporary file and sent after the pieces before it.

    Args:
        archive: Whose PDFs are written.
        path: The file; None is standard output.
        form: `zip` or `tar`.
        prefix: A folder, with its slash, that everything is put into; empty for none.

    Raises:
        RequestError: It would be inside the store, or a file of that name is not an export of this archive.
        LockedError: Another export is writing it.
    """

    has_earlier = False
    removes = True  # there is never anything to remove

    def __init__(self, archive: Archive, path: Path | None, form: str, *, prefix: str = "") -> None:
        self.path = path
        self._archive = archive
        self._form, self._name, self._prefix = FORMS[form], form, prefix
        self._at = self._planned = 0
        self._stack = ExitStack()
        if path is not None:
            check_packed(archive, path, form)

    @override
    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self.path is None:
                self._pieces = stack.enter_context(tempfile.TemporaryDirectory())
                self._file = 1
                self._directory = Directory(self._form, stack.enter_context(tempfile.TemporaryFile()))
            else:
                with disk_errors(self.path):
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    self._part = part_path(self.path)
                    self._file = lock_part(stack, self.path)
                    listing = stack.enter_context(tempfile.TemporaryFile(dir=self.path.parent))
                    self._directory = Directory(self._form, listing)
            self._stack = stack.pop_all()
        return self

    @override
    def __exit__(self, *_error: object) -> None:
        with suppress(OSError):  # what a full disk did not take is not missed here
            self._stack.close()

    @override
    def earlier(self) -> Iterator[str]:
        """Yield nothing: a packed file is always written from its beginning."""
        return iter(())

    @override
    def task(self, items: list[ExportItem], lines: str) -> PackTask:
        items = [item._replace(path=self._prefix + item.path) for item in items] if self._prefix else items
        offset = self._planned
        self._planned += sum(self._form.measure(item.path, item.size_bytes) for item in items)
        if self.path is None:
            return PackTask(self._archive.store.address, self._name, f"{self._pieces}/{offset}", 0, items)
        return PackTask(self._archive.store.address, self._name, os.fspath(self._part), offset, items)

    @override
    def settle(self, task: PackTask, done: list[Done]) -> None:
        length, at = sum(one.length for one in done), self._at
        for item, one in zip(task.items, done, strict=True):
            if one.outcome == "written":
                self._record(item.path, item.size_bytes, item.modified, one.crc, at)
                at += one.length
        if self.path is None:
            piece = Path(task.file)
            with piece.open("rb") as file:
                self._write(iter(partial(file.read, CHUNK_BYTES), b""))
            piece.unlink()
        elif length and task.offset != self._at:
            self._write(_read_range(self._file, task.offset, length))
        else:
            self._at = at

    def _record(self, path: str, size: int, modified: int, crc: int, offset: int) -> None:
        with disk_errors(self.path or tempfile.gettempdir()):
            self._directory.record(path, size, modified, crc, offset)

    def _write(self, chunks: Iterable[bytes]) -> None:
        """Write after the last settled piece."""
        with disk_errors(self.path or "standard output"):
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    count = os.write(1, view) if self.path is None else os.pwrite(self._file, view, self._at)
                    self._at += count
                    view = view[count:]

    @override
    def add(self, path: str, file: BinaryIO, modified: int) -> None:
        size, crc = file.seek(0, os.SEEK_END), 0
        for chunk in _file_chunks(file):
            crc = zlib.crc32(chunk, crc)
        path = self._prefix + path
        self._record(path, size, modified, crc, self._at)
        self._write(self._form.wrap(path, size, modified, crc, _file_chunks(file)))

    @override
    def close(self) -> None:
        self._write(self._directory.end(self._at))
        if self.path is not None:
            with disk_errors(self.path):
                os.ftruncate(self._file, self._at)
                self._part.rename(self.path)


def _read_range(descriptor: int, offset: int, length: int) -> Iterator[bytes]:
    end = offset + length
    while offset < end:
        chunk = os.pread(descriptor, min(CHUNK_BYTES, end - offset), offset)
        if not chunk:
            raise OSError("a piece of the export has vanished")
        offset += len(chunk)
        yield chunk


def check_packed(archive: Archive, path: Path, form: str) -> None:
    """Check that a zip or tar can be written at a path: nothing is there, or an export of this archive.

    Raises:
        RequestError: Something else is there, or the path is inside the archive's store.
    """
    if os.path.isdir(path):  # noqa: PTH112 - Path raises for a name that no file can have
        raise RequestError(f"{path} is a folder, and a {form} is one file. Name a file, such as {path.name}.{form}.")
    check_outside(archive.store, path)
    if not os.path.lexists(path):
        return
    try:
        owner = Export(path).said().get("Archive")
    except ArchiveError as error:
        raise RequestError(f"{path} exists and is not a complete export. Remove it, or name another.") from error
    if owner != archive.id:
        raise RequestError(f"{path} is an export of another archive or form. Remove it, or name another.")


def part_path(path: Path) -> Path:
    """Return where a zip or tar is written until it is complete; that file is locked while an export writes it."""
    return path.with_name(f".{path.name}.part")


def lock_part(stack: ExitStack, path: Path) -> int:
    """Lock the `part_path` of a zip or tar until the stack is closed, and return a descriptor of the empty file.

    Raises:
        LockedError: Another export is writing it.
    """
    part = part_path(path)
    file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    stack.callback(os.close, file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise LockedError(f"Another export is writing {path}. Wait until it ends, or stop it.") from error
    stack.callback(part.unlink, missing_ok=True)
    os.ftruncate(file, 0)
    return file
