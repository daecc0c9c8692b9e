"""The tasks of an export's workers: copy PDFs into a folder, bucket, zip or tar, and compare each with its digest."""

import itertools
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
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
from craftkit_archive.stores.reach import check_still_there, prove_store

ExportOutcome = Literal[
    "written", "unchanged", "damaged", "gone", "unreadable", "unavailable", "unwritable", "disposed"
]


class ExportItem(NamedTuple):
    """A PDF to copy: its key, recorded digest and size, its path in the export, and its time in seconds since 1970."""

    key: str
    sha256: str
    size_bytes: int
    path: str
    modified: int


_UNKNOWN_TIME = 315_532_800  # 1980, the first that a zip can hold


def modified_at(completed_at: str | None, created_at: str | None) -> int:
    """Return a PDF's time in seconds since 1970: when its render was completed, or else created."""
    text = completed_at or created_at
    return int(datetime.fromisoformat(text).timestamp()) if text else _UNKNOWN_TIME


class Done(NamedTuple):
    """The result for one item; in a packed file it takes up `length` bytes, header and padding included."""

    outcome: ExportOutcome
    detail: str | None = None
    length: int = 0
    crc: int = 0


def prove_target(store: str, archive_id: str, target: str | None, seen: Callable[[], object] | None) -> None:
    """Check, on another machine, that it sees the same store and target; the target is a bucket or a `seen` folder.

    Raises:
        ArchiveError: They differ, or cannot be reached from there.
    """
    prove_store(store, archive_id)
    if target is not None:
        open_store(target).check_writable()
    if seen is not None:
        seen()


def not_copied(error: AssetError) -> Done:
    """Return the result for a PDF that could not be copied."""
    if isinstance(error, AssetMissingError):
        return Done("gone", "recorded, but gone from the store")
    if isinstance(error, AssetUnavailableError):
        return Done("unavailable", str(error))
    return Done("damaged" if isinstance(error, AssetDamagedError) else "unreadable", str(error))


def open_stored(address: str, item: ExportItem) -> OpenAsset:
    """Open an asset of the archive's store; a service that keeps failing for this asset alone does not end the export.

    Raises:
        AssetError: The asset cannot be read, or its size is not the recorded one.
        StoreOfflineError, RemoteError: The whole store is gone, or its service fails for all of it.
    """
    store = open_store(address)
    try:
        found = store.open(item.key)
    except AssetMissingError:
        check_still_there(store)
        raise
    except RemoteError as error:
        store.check()
        raise AssetUnavailableError(str(error), reason=error.reason) from error
    if found.size_bytes != item.size_bytes:
        found.file.close()
        raise AssetDamagedError(f"{item.key} is damaged: its size is not the recorded one. Run verify.")
    return found


def checked(found: OpenAsset, item: ExportItem) -> Iterator[memoryview]:
    """Yield an asset's bytes, and raise at the end if size or digest differ from the recorded ones.

    Never yields more bytes than are recorded. Each view is valid until the next one (see `OpenAsset.views`).

    Raises:
        AssetDamagedError: They differ.
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
    """Run a task of any kind."""
    return task.run()  # type: ignore[no-any-return]


# --- into a folder ---------------------------------------------------------------------------------------------------


class FilesTask(NamedTuple):
    """Copy PDFs into a folder.

    Attributes:
        store: Address of the store that they are in.
        root: The folder.
        items: What to copy.
        is_new: Whether the folder was empty before, so that no file needs to be compared.
        link: Whether hard links are made instead.
        read: Whether linked files are read and compared all the same.
        export: A token that is unique to the export. It is a key of the caches of folders, so that no export relies on
            a folder that another one saw.
    """

    store: str
    root: str
    items: list[ExportItem]
    is_new: bool
    link: bool
    read: bool
    export: str

    def run(self) -> list[Done]:
        """Run the task; files that are there with the right bytes are left alone."""
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
        """Remove what an earlier export wrote of an asset that can no longer be copied, and return why."""
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
    """Return whether there is a regular file of this size (None: any) and SHA-256 digest."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # `fdopen` raises for a folder, and a pipe may never end
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


# Names of temporary files: a count is enough in a folder that one process has to itself, and the names are as long as
# those of `FolderStore`. The folder is named by a random token, because processes on several machines may have one id.
_numbers = itertools.count(1)
_process = token_hex(8)


@lru_cache(maxsize=8)
def _own_folder(root: str, _export: str) -> str:
    """Return this process's own folder for temporary files.

    Workers that share one folder wait for each other; giving each its own saved a sixth of the time. Cached, so that it
    is created once, not for each PDF.
    """
    folder = f"{root}/{INCOMING}/{_process}"
    with disk_errors(folder):
        os.makedirs(folder, exist_ok=True)
    return folder


# Cached, so that a folder is created and checked once, not for each PDF; the bound keeps memory flat.
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
        """Run the task; objects that are there with the right bytes are left alone."""
        return map_threads(self._one, self.items, max(open_store(self.store).lanes, open_store(self.target).lanes))

    def _one(self, item: ExportItem) -> Done:
        target = open_store(self.target)
        try:
            with target.open(item.path) as there:
                for _ in checked(there, item):
                    pass
            return Done("unchanged")
        except AssetError:
            pass  # it is missing, or has other bytes
        try:
            with open_stored(self.store, item) as found:
                target.write(item.path, checked(found, item), replace=True)
        except AssetError as error:
            return not_copied(error)
        return Done("written")


# --- into one file ---------------------------------------------------------------------------------------------------


class PackTask(NamedTuple):
    """Write a piece of a zip or tar into a file, from `offset` on.

    A PDF that fails is left out, and the ones after it move up: the piece has no gaps, but may be shorter than planned.
    """

    store: str
    form: str
    file: str
    offset: int
    items: list[ExportItem]

    def run(self) -> list[Done]:
        """Run the task."""
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
                length, tail = form.measure(item.path, item.size_bytes), form.tail(item.size_bytes)
                end, crc = at + length - len(tail), 0
                with disk_errors(self.file):
                    written = end - item.size_bytes
                    for chunk in checked(found, item):
                        crc = zlib.crc32(chunk, crc) if form.has_crc else 0
                        written += _write_at(descriptor, chunk, written)
                    # The head is written after the body, because it contains the checksum.
                    _write_at(descriptor, form.head(item.path, item.size_bytes, item.modified, crc), at)
                    _write_at(descriptor, tail, end)
        except AssetError as error:
            return not_copied(error)
        return Done("written", length=length, crc=crc)


def _write_at(descriptor: int, chunk: bytes | memoryview, at: int) -> int:
    """Write all of a chunk at an offset, and return its length."""
    count = 0
    while count < len(chunk):
        count += os.pwrite(descriptor, chunk[count:] if count else chunk, at + count)
    return count
