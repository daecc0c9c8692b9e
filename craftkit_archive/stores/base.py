"""What a store is: a place that holds assets by key, and what goes into it and comes out of it."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from threading import local
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from craftkit_archive.errors import ArchiveError, AssetError, AssetUnreadableError, starvation
from craftkit_archive.values import valid_text

CHUNK_BYTES = 1 << 20
# What fits into the processor's cache is hashed and written in half the time.
BUFFER_BYTES = 256 << 10
MARKER = ".craftkit-archive"


class Stored(NamedTuple):
    """What a store took in: size in bytes, digest as 64 lower-case hex digits."""

    size_bytes: int
    sha256: str


class StagedAsset(NamedTuple):
    """Bytes that a store has received, and that may not have their name yet.

    Attributes:
        key: The name that they are to have.
        stored: What they are.
        path: Where they wait for it; None where the store has given it already.
        replace: Whether they may take the place of what has that name.
    """

    key: str
    stored: Stored
    path: str | None = None
    replace: bool = False


class Entry(NamedTuple):
    """One object in a listing."""

    key: str
    size_bytes: int


class SourceChecksums(NamedTuple):
    """What a place itself says about the bytes that it gives.

    Attributes:
        md5: Lower-case hex digits; None where it is silent.
        sha256: The same.
        by: Where it says the latter, as `digest_source` in the catalog has it.
    """

    md5: str | None = None
    sha256: str | None = None
    by: str = "s3-checksum"


class OpenAsset:
    """An asset opened for reading; a context manager.

    Attributes:
        key: Its asset key.
        file: Its bytes, from the first one on; seekable.
        size_bytes: How many there should be.
        checksums: What the place says about them.
        ask_closer: Asks the place once more, where its ETag turned out not to be the MD5 that it looked like.
    """

    def __init__(
        self,
        key: str,
        file: BinaryIO,
        size_bytes: int,
        checksums: SourceChecksums = SourceChecksums(),  # noqa: B008
        ask_closer: Callable[[], SourceChecksums] | None = None,
    ) -> None:
        self.key = key
        self.file = file
        self.size_bytes = size_bytes
        self.checksums = checksums
        self.ask_closer = ask_closer

    def chunks(self) -> Iterator[bytes]:
        """Read from where the file stands to its end, in non-empty pieces of at most 1 MiB.

        Raises:
            AssetUnreadableError: Reading failed.
        """
        with reading(self.key):
            # No more than is there: a buffer of 1 MiB for each small file would cost more than reading it.
            while chunk := self.file.read(min(CHUNK_BYTES, self.size_bytes + 1)):
                yield chunk

    def views(self) -> Iterator[memoryview]:
        """Read like `chunks`, into one buffer: each piece is good until the next is drawn, by the same thread.

        It costs a good deal less than a new piece of memory each time.

        Raises:
            AssetUnreadableError: Reading failed.
        """
        view, total = thread_buffer(), 0
        with reading(self.key):
            while count := self.file.readinto(view):  # type: ignore[attr-defined]
                yield view[:count]
                total += count
                if count < BUFFER_BYTES and total >= self.size_bytes:
                    return  # asking again just to hear "nothing more" would cost a small file a tenth

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


class Store(ABC):
    """A place that holds assets by key. Every implementation passes the suite in `tests/test_store.py`.

    Attributes:
        address: Says where it is, as `stores.address.open_store` reads it.
        lanes: How many assets one process should read or write at a time, to keep it busy.
    """

    address: str
    lanes: int

    @abstractmethod
    def check(self, archive_id: str | None = None) -> None:
        """Make sure that the store is there, and with an id, that it is that archive's.

        Raises:
            StoreOfflineError: It is missing, or its marker is.
            StoreMismatchError: Its marker names another archive.
            RemoteError: It is there and refuses, or keeps failing.
        """

    @abstractmethod
    def owner(self) -> str | None:
        """Return the id of the archive that the marker names; None without a marker.

        Raises:
            StoreOfflineError, RemoteError: It cannot be asked.
        """

    @abstractmethod
    def mark(self, archive_id: str) -> None:
        """Make the store if need be, and say in it which archive it belongs to.

        Raises:
            StoreMismatchError: It belongs to another archive already.
            NoSpaceError, NotWritableError, RemoteError: It refused.
        """

    @abstractmethod
    def check_writable(self) -> None:
        """See whether assets can be written, as far as that can be seen without leaving one.

        Raises:
            NotWritableError, NoSpaceError, RemoteError: They cannot.
        """

    @abstractmethod
    def stage(self, key: str, chunks: Iterable[bytes | memoryview], *, replace: bool = False) -> StagedAsset:
        """Take a stream in, to be stored under an asset key by `commit`.

        An error that `chunks` raises passes through, and nothing is left behind. Nothing is drawn from `chunks` if the
        key is taken from the start.

        Args:
            key: Asset key.
            chunks: Byte strings in order; read once, never held together.
            replace: Whether it may take the place of what is there: for what is derived, and for what is damaged.

        Raises:
            AssetExistsError: The key is taken.
            AssetKeyError: This store cannot hold the key.
            NoSpaceError, NotWritableError, RemoteError: The store refused.
        """

    @abstractmethod
    def commit(self, staged: Sequence[StagedAsset]) -> Mapping[StagedAsset, AssetError]:
        """Give staged assets their names once they will survive a power cut; return those without one, and why.

        It is `AssetExistsError` where the name was taken, and `AssetKeyError` where the store cannot hold it. A reader
        sees all bytes of an asset or none. Several at once cost much less than one by one.

        Raises:
            NoSpaceError, NotWritableError: The disk refused.
        """

    def write(self, key: str, chunks: Iterable[bytes | memoryview], *, replace: bool = False) -> Stored:
        """Store a stream under an asset key and return what landed: `stage` and `commit` in one.

        Raises:
            AssetExistsError, AssetKeyError, NoSpaceError, NotWritableError, RemoteError: As they do.
        """
        staged = self.stage(key, chunks, replace=replace)
        for error in self.commit([staged]).values():
            raise error
        return staged.stored

    @abstractmethod
    def find(self, key: str) -> Entry:
        """Look an asset up without reading it.

        Raises:
            AssetMissingError, AssetKeyError, AssetUnreadableError: As `open` does.
        """

    @abstractmethod
    def open(self, key: str) -> OpenAsset:
        """Open an asset for reading, at its first byte.

        Raises:
            AssetMissingError: Nothing is stored under the key.
            AssetKeyError: This store cannot hold the key.
            AssetUnreadableError: It is there, and cannot be opened.
            RemoteError: The remote end kept failing.
        """

    def measure(self, key: str) -> Stored:
        """Read an asset whole and say its size and digest: `digest` of what `open` gives, by the shortest way.

        Raises:
            AssetMissingError, AssetKeyError, AssetUnreadableError, RemoteError: As `open` and reading it would.
        """
        with self.open(key) as found:
            return digest(found.views())

    @abstractmethod
    def list(self) -> Iterator[Entry]:
        """List what is stored, in the order of the keys' bytes; lazily."""

    def keys(self) -> Iterator[str]:
        """List no more than the keys, in the same order: what it costs to look at each object is saved.

        Names that cannot be asset keys are included, in a form that cannot be one either: odd characters escaped with a
        backslash, and a folder that cannot be listed with a slash at its end.
        """
        return (entry.key for entry in self.list())

    @abstractmethod
    def sync(self, keys: Sequence[str]) -> None:
        """Make sure that assets that others have put there outlive a power cut.

        Raises:
            NoSpaceError, NotWritableError: The disk refused.
        """

    @abstractmethod
    def remove(self, key: str) -> str | None:
        """Delete an asset for good, with every version and unfinished upload of it that the store keeps.

        Folders that become empty go too. Deleting what is not there is no error: a call that was interrupted is made
        again.

        Returns:
            What of its bytes remains all the same, for people; None if nothing does.

        Raises:
            AssetKeyError: This store cannot hold the key.
            NotWritableError, RemoteError: The store refused; the asset may still be there.
        """

    @abstractmethod
    def remove_stale(self) -> int:
        """Remove what interrupted writes left behind, and return how many. Only the one writer may call it."""


_own = local()


def thread_buffer() -> memoryview:
    """Return this thread's buffer of `BUFFER_BYTES`."""
    found: memoryview | None = getattr(_own, "buffer", None)
    if found is None:
        found = _own.buffer = memoryview(bytearray(BUFFER_BYTES))
    return found


def digest(chunks: Iterable[bytes | memoryview]) -> Stored:
    """Read a stream to its end and say what a store would say about it."""
    hashed, size = sha256(), 0
    for chunk in chunks:
        hashed.update(chunk)
        size += len(chunk)
    return Stored(size, hashed.hexdigest())


def mask_address(address: str) -> str:
    """Show an address without the password that a URL can carry, and with bytes that are not UTF-8 escaped."""
    scheme, separator, rest = address.partition("://")
    shown = f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else address
    return valid_text(shown)


@contextmanager
def reading(key: str) -> Iterator[None]:
    """Turn what the operating system says while an asset is read into the tree's words.

    Raises:
        AssetUnreadableError: Anything that keeps it from being read.
        NoSpaceError: Memory or open files have run out, which says nothing of the asset.
    """
    try:
        yield
    except OSError as error:
        raise unreadable(key, error) from error


def unreadable(key: str, error: OSError) -> ArchiveError:
    """Say in the tree's words why an asset cannot be read."""
    return starvation(error) or AssetUnreadableError(
        f"{key} cannot be read ({error.strerror}). Check the disk and its rights."
    )
