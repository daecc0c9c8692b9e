"""What the workers of an export do: copy PDFs and compare each with its digest on the way, into files or one file."""

import itertools
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from hashlib import sha256
from secrets import token_hex
from typing import Any, Literal, NamedTuple

from craftkit_archive.errors import (
    AssetDamagedError,
    AssetError,
    AssetKeyError,
    AssetMissingError,
    AssetUnavailableError,
    NotWritableError,
    RemoteError,
    RequestError,
    disk_errors,
)
from craftkit_archive.export.packing import FORMS
from craftkit_archive.parallel.threads import map_threads
from craftkit_archive.stores.address import open_store
from craftkit_archive.stores.base import CHUNK_BYTES, OpenAsset
from craftkit_archive.stores.folder import INCOMING
from craftkit_archive.stores.reach import prove_store

ExportOutcome = Literal[
    "written", "unchanged", "damaged", "gone", "unreadable", "unavailable", "unwritable", "disposed"
]


class ExportItem(NamedTuple):
    """A PDF to copy: where it is, what it must be, where it goes and the time it gets (seconds since 1970, UTC)."""

    key: str
    sha256: str
    size_bytes: int
    path: str
    modified: int


class Done(NamedTuple):
    """What became of it. In a packed file it takes up `length` bytes."""

    outcome: ExportOutcome
    detail: str | None = None
    length: int = 0
    crc: int = 0


def prove_target(store: str, archive_id: str, target: str | None, seen: Callable[[], object] | None) -> None:
    """See, on another machine, that store and target are the same; a target is a bucket, or a folder that is `seen`.

    Raises:
        ArchiveError: They are not, or cannot be reached from there.
    """
    prove_store(store, archive_id)
    if target is not None:
        open_store(target).check_writable()
    if seen is not None:
        seen()


def not_copied(error: AssetError) -> Done:
    """Return what became of a PDF that could not be copied."""
    if isinstance(error, AssetMissingError):
        return Done("gone", "recorded, but gone from the store")
    if isinstance(error, AssetUnavailableError):
        return Done("unavailable", str(error))
    return Done("damaged" if isinstance(error, AssetDamagedError) else "unreadable", str(error))


def open_stored(address: str, item: ExportItem) -> OpenAsset:
    """Open an asset of the archive's store; a service that keeps failing for it alone does not stop the export."""
    store = open_store(address)
    try:
        return store.open(item.key)
    except RemoteError as error:
        store.check()
        raise AssetUnavailableError(str(error), reason=error.reason) from error


def checked(found: OpenAsset, item: ExportItem) -> Iterator[memoryview]:
    """Pass the bytes on, and refuse them at their end if they are not the recorded ones.

    No more bytes come than are recorded. Each piece is good until the next is drawn (see `OpenAsset.views`).

    Raises:
        AssetDamagedError: They are others.
    """
    hashed, size = sha256(), 0
    for chunk in found.views():
        hashed.update(chunk)
        size += len(chunk)
        if size > item.size_bytes:
            break
        yield chunk
    if size != item.size_bytes or hashed.hexdigest() != item.sha256:
        raise AssetDamagedError(f"{item.key} is damaged: its bytes are not the recorded ones. Run verify.")


def run(task: Any) -> list[Done]:
    """Do a task, of whichever kind it is."""
    return task.run()  # type: ignore[no-any-return]


# --- into a folder ---------------------------------------------------------------------------------------------------


class FilesTask(NamedTuple):
    """Copy PDFs into a folder.

    Attributes:
        store: Address of the store that they are in.
        root: The folder.
        items: What to copy.
        is_new: Whether the folder had nothing in it before, so that nothing needs to be looked for.
        link: Whether hard links are made instead.
        read: Whether linked files are read all the same.
        export: Another text for each export, so that none trusts what was seen during another.
    """

    store: str
    root: str
    items: list[ExportItem]
    is_new: bool
    link: bool
    read: bool
    export: str

    def run(self) -> list[Done]:
        """Do it; files that are there and right are left untouched."""
        return map_threads(self._one, self.items, open_store(self.store).lanes)

    def _one(self, item: ExportItem) -> Done:
        try:
            return self._put(item, f"{self.root}/{item.path}")
        except AssetKeyError as error:  # the folder's file system does not take the name, or something is in its way
            return Done("unwritable", str(error))

    def _put(self, item: ExportItem, target: str) -> Done:
        with disk_errors(target, key=item.path):
            _make_folder(self.root, target.rpartition("/")[0], self.export)
        present = not self.is_new and os.path.lexists(target)
        if present and is_file_of(target, item.size_bytes, item.sha256):
            return Done("unchanged")
        try:
            found = open_stored(self.store, item)
        except AssetError as error:
            return self._without(error, target, present=present)
        with found:
            try:
                with disk_errors(target, key=item.path):
                    if self.link:
                        self._link(found, item, target)
                    else:
                        self._write(found, item, target)
            except AssetKeyError:
                raise
            except AssetError as error:
                return self._without(error, target, present=present)
        return Done("written")

    def _without(self, error: AssetError, target: str, *, present: bool) -> Done:
        """Take away what an earlier export put there of an asset that is not good any more."""
        if present and (os.path.islink(target) or not os.path.isdir(target)):
            with disk_errors(target):
                os.unlink(target)
        return not_copied(error)

    def _write(self, found: OpenAsset, item: ExportItem, target: str) -> None:
        temporary = f"{_own_folder(self.root, self.export)}/{next(_numbers):032x}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            try:
                written = 0
                for chunk in checked(found, item):
                    written += _write_at(descriptor, chunk, written)
                os.utime(descriptor, (item.modified, item.modified))
            finally:
                os.close(descriptor)
            os.rename(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise

    def _link(self, found: OpenAsset, item: ExportItem, target: str) -> None:
        if self.read:
            for _ in checked(found, item):
                pass
        elif found.size_bytes != item.size_bytes:
            raise AssetDamagedError(f"{item.key} is damaged: its size is not the recorded one. Run verify.")
        temporary = f"{_own_folder(self.root, self.export)}/{next(_numbers):032x}"
        try:
            os.link(os.path.realpath(f"{self.store}/{item.key}"), temporary)
        except OSError as error:
            raise NotWritableError(
                f"{target} cannot be a hard link ({error.strerror}). Export to the store's file system, or copy."
            ) from error
        os.rename(temporary, target)
        if os.path.lexists(temporary):  # both were links to one file already
            os.unlink(temporary)


def is_file_of(path: str, size_bytes: int | None, digest: str) -> bool:
    """Say whether there is a file that has these bytes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # Python makes no file of a folder, and a pipe has no end
        os.close(descriptor)
        return False
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if size_bytes is not None and os.fstat(descriptor).st_size != size_bytes:
            return False
        hashed = sha256()
        try:
            while chunk := file.read(min(CHUNK_BYTES, (size_bytes or CHUNK_BYTES) + 1)):
                hashed.update(chunk)
        except OSError:
            return False
    return hashed.hexdigest() == digest


# In a folder of its own, a process needs no more to tell its files apart; as long as `FolderStore` names its pieces.
# The process's number would not tell those of several machines apart.
_numbers = itertools.count(1)
_process = token_hex(8)


@lru_cache(maxsize=8)
def _own_folder(root: str, _export: str) -> str:
    """Return where this process writes what has no name yet: in one folder for all, they would wait for each other."""
    folder = f"{root}/{INCOMING}/{_process}"
    with disk_errors(folder):
        os.makedirs(folder, exist_ok=True)
    return folder


@lru_cache(maxsize=10_000)
def _make_folder(root: str, folder: str, _export: str) -> None:
    os.makedirs(folder, exist_ok=True)
    if os.path.commonpath([root, os.path.realpath(folder)]) != root:
        raise RequestError(f"{folder} leads out of {root} through a link. Export to another folder.")


class StoreTask(NamedTuple):
    """Copy PDFs into a bucket."""

    store: str
    target: str
    items: list[ExportItem]

    def run(self) -> list[Done]:
        """Do it; what is there and right is left untouched."""
        return map_threads(self._one, self.items, max(open_store(self.store).lanes, open_store(self.target).lanes))

    def _one(self, item: ExportItem) -> Done:
        target = open_store(self.target)
        try:
            with target.open(item.path) as there:
                for _ in checked(there, item):
                    pass
            return Done("unchanged")
        except AssetError:
            pass  # it is missing, or not the right one
        try:
            with open_stored(self.store, item) as found:
                target.write(item.path, checked(found, item), replace=True)
        except AssetError as error:
            return not_copied(error)
        return Done("written")


# --- into one file ---------------------------------------------------------------------------------------------------


class PackTask(NamedTuple):
    """Write a piece of a zip or tar into a file, from `offset` on.

    What fails is left out, and what follows it moves up: the piece has no gaps, but may be shorter than planned.
    """

    store: str
    form: str
    file: str
    offset: int
    items: list[ExportItem]

    def run(self) -> list[Done]:
        """Do it."""
        with disk_errors(self.file):
            descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            done, at = [], self.offset
            for item in self.items:
                done.append(self._one(item, descriptor, at))
                at += done[-1].length
            return done
        finally:
            os.close(descriptor)

    def _one(self, item: ExportItem, descriptor: int, at: int) -> Done:
        form = FORMS[self.form]
        try:
            with open_stored(self.store, item) as found:
                if found.size_bytes != item.size_bytes:
                    raise AssetDamagedError(f"{item.key} is damaged: its size is not the recorded one. Run verify.")
                length, tail = form.measure(item.path, item.size_bytes), form.tail(item.size_bytes)
                end, crc = at + length - len(tail), 0
                with disk_errors(self.file):
                    written = end - item.size_bytes
                    for chunk in checked(found, item):
                        crc = zlib.crc32(chunk, crc) if form.has_crc else 0
                        written += _write_at(descriptor, chunk, written)
                    # The checksum stands in the head, which is therefore written last.
                    _write_at(descriptor, form.head(item.path, item.size_bytes, item.modified, crc), at)
                    _write_at(descriptor, tail, end)
        except AssetError as error:
            return not_copied(error)
        return Done("written", length=length, crc=crc)


def _write_at(descriptor: int, chunk: bytes | memoryview, at: int) -> int:
    """Write a piece at a place, and return how many bytes it has."""
    count = 0
    while count < len(chunk):
        count += os.pwrite(descriptor, chunk[count:] if count else chunk, at + count)
    return count
