"""Where the bytes are: the Store protocol, the folder store, and the choice of a store by its address."""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from threading import local
from types import TracebackType
from typing import BinaryIO, NamedTuple, Protocol, Self

from craftkit_archive.errors import (
    AssetExistsError,
    AssetKeyError,
    AssetMissingError,
    AssetUnreadableError,
    RequestError,
    StoreMismatchError,
    StoreOfflineError,
    disk_errors,
)
from craftkit_archive.values import check_asset_key

CHUNK_BYTES = 1 << 20
BUFFER_BYTES = 256 << 10
MARKER = ".craftkit-archive"
INCOMING = ".incoming"
_OWN_NAMES = (MARKER, f"{INCOMING}/")
_PIECE = re.compile(r"[0-9a-f]{32}")


class Stored(NamedTuple):
    """What a store took in: size in bytes, digest as 64 lower-case hex digits."""

    size_bytes: int
    sha256: str


class Entry(NamedTuple):
    """One object in a listing."""

    key: str
    size_bytes: int


class OpenAsset:
    """An asset opened for reading; a context manager."""

    def __init__(self, key: str, file: BinaryIO, size_bytes: int) -> None:
        self.key = key
        self.file = file
        self.size_bytes = size_bytes

    def chunks(self) -> Iterator[bytes]:
        """Read from where the file stands to its end, in non-empty pieces of at most 1 MiB.

        Raises:
            AssetUnreadableError: Reading failed.
        """
        with _reading(self.key):
            # No more than is there: a buffer of 1 MiB for each small file would cost more than reading it.
            while chunk := self.file.read(min(CHUNK_BYTES, self.size_bytes + 1)):
                yield chunk

    def from_disk(self) -> Self:
        """Ask the system to forget what it holds of these bytes, so that they are read from the disk once more."""
        with suppress(OSError, AttributeError):  # no file of this machine, or a system that cannot
            os.posix_fadvise(self.file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()


class Store(Protocol):
    """A place that holds assets by key. Every implementation passes the suite in `tests/test_store.py`."""

    address: str

    def check(self, archive_id: str | None = None) -> None:
        """Make sure that the store is there, and with an id, that it is that archive's.

        Raises:
            StoreOfflineError: It is not there, or its marker is gone.
            StoreMismatchError: Its marker names another archive.
        """

    def mark(self, archive_id: str) -> None:
        """Make the store if need be, and say in it which archive it belongs to.

        Raises:
            StoreMismatchError: It belongs to another archive already.
            NoSpaceError, NotWritableError: The disk refused.
        """

    def write(self, key: str, chunks: Iterable[bytes], *, replace: bool = False) -> Stored:
        """Store a stream under an asset key and return what landed.

        A reader sees all bytes or none. An error that `chunks` raises passes through, and nothing is left behind.
        Nothing is drawn from `chunks` if the key is taken from the start.

        Args:
            key: Asset key.
            chunks: Byte strings in order; read once, never held together.
            replace: Whether it may take the place of what is there: for what is derived, never for assets.

        Raises:
            AssetExistsError: The key is taken.
            AssetKeyError: The key is no place in this store.
            NoSpaceError, NotWritableError: The disk refused.
        """

    def open(self, key: str) -> OpenAsset:
        """Open an asset for reading, at its first byte.

        Raises:
            AssetMissingError: Nothing is stored under the key.
            AssetKeyError: The key is no place in this store.
            AssetUnreadableError: It is there, and cannot be opened.
        """

    def measure(self, key: str) -> Stored:
        """Read an asset whole and say its size and digest: `digest` of what `open` gives, by the shortest way.

        Raises:
            AssetMissingError, AssetKeyError, AssetUnreadableError: As `open` and reading it would.
        """

    def list(self) -> Iterator[Entry]:
        """List what is stored, in the order of the keys' bytes; lazily."""

    def keys(self) -> Iterator[str]:
        """List no more than the keys, in the same order: what it costs to look at each object is saved."""

    def sync(self, key: str) -> None:
        """Make sure that an asset that others have put there outlives a power cut.

        Raises:
            NoSpaceError, NotWritableError: The disk refused.
        """

    def sweep(self) -> int:
        """Remove what interrupted writes left behind, and return how many pieces. Only the one writer may call it."""


@lru_cache(maxsize=64)
def open_store(address: str, base: Path | None = None, *, durable: bool = True) -> "FolderStore":
    """Return the store at an address, without touching it.

    Args:
        address: A folder's path.
        base: What a relative path is relative to; the current directory if not given.
        durable: See `FolderStore`.

    Raises:
        RequestError: The address is of a kind that this version does not know.
    """
    if "://" in address:
        raise RequestError(f"{mask_address(address)} is no folder, and this version reads and writes folders only.")
    return FolderStore((base or Path()) / address, durable=durable)


def digest(chunks: Iterable[bytes]) -> Stored:
    """Read a stream to its end and say what a store would say of it."""
    hashed, size = sha256(), 0
    for chunk in chunks:
        hashed.update(chunk)
        size += len(chunk)
    return Stored(size, hashed.hexdigest())


def mask_address(address: str) -> str:
    """Show an address without the password that a URL can carry."""
    scheme, separator, rest = address.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else address


class FolderStore:
    """A folder whose files' relative paths are the asset keys: the same tree as the bucket.

    A file is written in `.incoming/` of the same folder, so that what a killed writer leaves is found without walking
    the store, and renamed into place once it is whole.

    Args:
        root: The folder; made by the first `mark` or `write`.
        durable: Whether each file is on the disk, not only in the page cache, before it gets its name.
    """

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        # Absolute, because tasks carry it to other processes.
        self.address = self._root = os.path.realpath(root)
        self._durable = durable
        self._inside: set[str] = set()

    def check(self, archive_id: str | None = None) -> None:
        """See `Store.check`."""
        if not os.path.isdir(self._root):
            raise StoreOfflineError(f"There is no folder {self.address}: mount it, or mend the address.")
        if archive_id is None:
            return
        owner = self._owner()
        if owner is None:
            raise StoreOfflineError(f"{self.address} has no file {MARKER}: mount the archive's store there.")
        if owner != archive_id:
            raise StoreMismatchError(f"{self.address} belongs to archive {owner}, not to {archive_id}: mend the mount.")

    def mark(self, archive_id: str) -> None:
        """See `Store.mark`."""
        owner = self._owner()
        if owner not in (None, archive_id):
            raise StoreMismatchError(f"{self.address} belongs to archive {owner} already: choose another folder.")
        if owner is None:
            with disk_errors(self.address):
                self._make_folder(self._root)
                self._write_file(f"{self._root}/{MARKER}", [f"{archive_id}\n".encode()], replace=True)
            self.sweep()

    def _owner(self) -> str | None:
        try:
            return Path(self._root, MARKER).read_text("utf-8", "replace").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreOfflineError(f"{self.address} cannot be read ({error.strerror}): mend that first.") from error

    def write(self, key: str, chunks: Iterable[bytes], *, replace: bool = False) -> Stored:
        """See `Store.write`."""
        target = self._locate(key)
        if not replace and os.path.lexists(target):
            raise AssetExistsError(f"{key} is stored already, and nothing is overwritten: look at both copies.")
        with disk_errors(target):
            self._make_folder(os.path.dirname(target))
            return self._write_file(target, chunks, replace=replace)

    def _write_file(self, target: str, chunks: Iterable[bytes], *, replace: bool) -> Stored:
        incoming = f"{self._root}/{INCOMING}"
        os.makedirs(incoming, exist_ok=True)
        temporary = f"{incoming}/{token_hex(16)}"
        hashed, size = sha256(), 0
        try:
            with open(temporary, "xb", buffering=0) as file:
                for chunk in chunks:
                    view = memoryview(chunk)
                    while view:
                        view = view[file.write(view) :]
                    hashed.update(chunk)
                    size += len(chunk)
                if self._durable:
                    os.fsync(file.fileno())
            if replace:
                os.rename(temporary, target)
            else:
                _rename_new(temporary, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        if self._durable:
            _sync(os.path.dirname(target))
        return Stored(size, hashed.hexdigest())

    def _make_folder(self, folder: str) -> None:
        missing = []
        while not os.path.isdir(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        for made in reversed(missing):
            Path(made).mkdir(exist_ok=True)
            if self._durable:
                _sync(os.path.dirname(made))

    def open(self, key: str) -> OpenAsset:
        """See `Store.open`."""
        descriptor, size = self._open(key)
        return OpenAsset(key, os.fdopen(descriptor, "rb", buffering=0), size)

    def measure(self, key: str) -> Stored:
        """See `Store.measure`; one buffer serves all files, because a new one for each costs a tenth of the time."""
        descriptor, expected = self._open(key)
        try:
            buffer, view = _buffer()
            hashed, size, read = sha256(), 0, BUFFER_BYTES
            # A buffer that was not filled is the end, unless bytes are lacking: some file systems give fewer at once.
            while read == BUFFER_BYTES or (read and size < expected):
                read = os.readv(descriptor, [buffer])
                hashed.update(view[:read])
                size += read
            return Stored(size, hashed.hexdigest())
        except OSError as error:
            raise _unreadable(key, error) from error
        finally:
            os.close(descriptor)

    def _open(self, key: str) -> tuple[int, int]:
        """Open an asset's file, and return its descriptor and its size in bytes."""
        path = self._locate(key)
        try:
            try:
                descriptor = os.open(path, _READ | os.O_NOFOLLOW)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise AssetMissingError(f"{key} is not in {self.address}.") from error
            except OSError:
                # A link is followed only to a place inside the store.
                if not Path(path).is_symlink():
                    raise
                self._check_inside(os.path.realpath(path), key)
                descriptor = os.open(path, _READ)
            status = os.fstat(descriptor)
        except OSError as error:
            raise _unreadable(key, error) from error
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise AssetUnreadableError(f"{key} is not a file: look what is in its place in {self.address}.")
        return descriptor, status.st_size

    def list(self) -> Iterator[Entry]:
        """See `Store.list`; names that are no asset keys are left out, linked folders are not entered."""
        for key in self.keys():
            with suppress(OSError):
                status = os.stat(f"{self._root}/{key}")
                if stat.S_ISREG(status.st_mode):
                    yield Entry(key, status.st_size)

    def keys(self) -> Iterator[str]:
        """See `Store.keys`; what is no file, such as a linked folder, may be among them."""
        open_folders = [self._names("")]
        while open_folders:
            key = next(open_folders[-1], None)
            if key is None:
                open_folders.pop()
            elif key.endswith("/"):
                open_folders.append(self._names(key))
            else:
                yield key

    def _names(self, folder: str) -> Iterator[str]:
        """Yield the keys of what a folder holds, folders with a slash, in order."""
        try:
            # Bytes, and nothing but the names: a folder may hold a million files.
            with os.scandir(os.fsencode(f"{self._root}/{folder}")) as found:
                names = sorted(e.name + b"/" if e.is_dir(follow_symlinks=False) else e.name for e in found)
        except OSError as error:
            raise StoreOfflineError(f"{self.address}/{folder} cannot be listed ({error.strerror}).") from error
        for name in names:
            key = folder + os.fsdecode(name)
            if key in _OWN_NAMES:
                continue
            try:
                check_asset_key(key.removesuffix("/"))
            except AssetKeyError:
                continue
            yield key

    def quirks(self) -> tuple[str, ...] | None:
        """Say how the file system changes names, if it does; None if that cannot be tried."""
        folder = f"{self._root}/{INCOMING}.{token_hex(8)}"
        try:
            os.mkdir(folder)
        except OSError:
            return None
        try:
            Path(folder, "\u00e9a").touch()
            trials = (("\u00e9A", "ignores case"), ("e\u0301a", "takes differently composed accents for the same"))
            return tuple(words for name, words in trials if os.path.lexists(f"{folder}/{name}"))
        except OSError as error:
            return (f"refuses names that are not ASCII ({error.strerror})",)
        finally:
            for name in os.listdir(folder):
                os.unlink(f"{folder}/{name}")
            os.rmdir(folder)

    def sync(self, key: str) -> None:
        """See `Store.sync`."""
        path = self._locate(key)
        with disk_errors(path):
            _sync(path)
            _sync(os.path.dirname(path))

    def sweep(self) -> int:
        """See `Store.sweep`; only what is named as this store names its pieces is touched."""
        incoming = Path(self._root, INCOMING)
        with disk_errors(incoming):
            if not incoming.is_dir():
                return 0
            left = [piece for piece in incoming.iterdir() if _PIECE.fullmatch(piece.name)]
            for piece in left:
                piece.unlink(missing_ok=True)
            with suppress(OSError):  # others' files are in it
                incoming.rmdir()
        return len(left)

    def _locate(self, key: str) -> str:
        check_asset_key(key)
        if key.partition("/")[0] in (MARKER, INCOMING):
            raise AssetKeyError(f"The asset key {key!r} is a name that the store keeps for itself.")
        path = f"{self._root}/{key}"
        folder = path.rpartition("/")[0]
        if folder not in self._inside:
            self._check_inside(os.path.realpath(folder), key)
            if len(self._inside) < 10_000 and os.path.isdir(folder):
                self._inside.add(folder)
        return path

    def _check_inside(self, real_path: str, key: str) -> None:
        if os.path.commonpath([self._root, real_path]) != self._root:
            raise AssetKeyError(f"The asset key {key!r} leads out of {self.address} through a link.")


# Not blocking: a pipe in a file's place must not hang the reader.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK

_own = local()


def _buffer() -> tuple[bytearray, memoryview]:
    """Return this thread's buffer, and a view of it."""
    found: tuple[bytearray, memoryview] | None = getattr(_own, "buffer", None)
    if found is None:
        buffer = bytearray(BUFFER_BYTES)
        found = _own.buffer = buffer, memoryview(buffer)
    return found


def _rename_new(temporary: str, target: str) -> None:
    """Give a file its name, if nothing has that name."""
    try:
        os.link(temporary, target)
    except OSError as error:  # its name is taken, or the file system has no hard links
        if os.path.lexists(target):
            raise AssetExistsError(f"{target} has just been stored by another: look at both copies.") from error
        os.rename(temporary, target)
    else:
        os.unlink(temporary)


def _sync(path: str) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _reading(key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unreadable(key, error) from error


def _unreadable(key: str, error: OSError) -> AssetUnreadableError:
    return AssetUnreadableError(f"{key} cannot be read ({error.strerror}): check the disk and its rights.")
