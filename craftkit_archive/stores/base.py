"""The interface of stores, which hold assets by key, and the types that go into a store and come out of it."""

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
# Small enough that data is hashed and written while it is still in the processor's cache. One such buffer for all
# files, instead of new memory for each, took a quarter off the time of an export's workers.
BUFFER_BYTES = 256 << 10
MARKER = ".craftkit-archive"
PDF = "application/pdf"


class Stored(NamedTuple):
    """What a store received: size in bytes, SHA-256 as 64 lower-case hex digits."""

    size_bytes: int
    sha256: str


class StagedAsset(NamedTuple):
    """An asset that a store has received, and that may still be without its name.

    Attributes:
        key: Its asset key.
        stored: Its size and digest.
        path: Its temporary file; None if it has its name already.
        replace: Whether it may replace an existing asset.
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
    """The digests that a source itself reports for an asset.

    Attributes:
        md5: 32 lower-case hex digits; None if it reports none.
        sha256: 64 lower-case hex digits; None if it reports none.
        by: How it reports the SHA-256: a value for `digest_source` in the catalog.
    """

    md5: str | None = None
    sha256: str | None = None
    by: str = "s3-checksum"


class OpenAsset:
    """An asset opened for reading; a context manager.

    Attributes:
        key: Its asset key.
        file: Its bytes, positioned at the first one; seekable.
        size_bytes: The length that the source gives.
        checksums: The digests that the source reports.
        ask_closer: Asks the source for its digests again, for when an ETag looked like an MD5 and was not one.
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
        """Read from the present position to the end, in non-empty pieces of at most 1 MiB.

        Raises:
            AssetUnreadableError: Reading failed.
        """
        with reading(self.key):
            # Ask for no more than there is: a buffer of 1 MiB for each small file would cost more than reading it.
            while chunk := self.file.read(min(CHUNK_BYTES, self.size_bytes + 1)):
                yield chunk

    def views(self) -> Iterator[memoryview]:
        """Read like `chunks`, but into the thread's one buffer: a piece is valid until the next one is drawn.

        That saves allocating memory for each piece (see `BUFFER_BYTES`).

        Raises:
            AssetUnreadableError: Reading failed.
        """
        view, total = thread_buffer(), 0
        with reading(self.key):
            while count := self.file.readinto(view):  # type: ignore[attr-defined]
                yield view[:count]
                total += count
                if count < BUFFER_BYTES and total >= self.size_bytes:
                    return  # another read, only to find the end, would cost a small file a tenth of its time

    def from_disk(self) -> Self:
        """Drop these bytes from the page cache, so that they are read from the disk again."""
        with suppress(OSError, AttributeError):  # not a local file, or a platform without posix_fadvise
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
        address: Its address, which `stores.address.open_store` opens.
        lanes: How many assets one process should read or write at the same time.
    """

    address: str
    lanes: int

    @abstractmethod
    def check(self, archive_id: str | None = None) -> None:
        """Make sure that the store exists and, if an id is given, that it belongs to that archive.

        Raises:
            StoreOfflineError: It is missing, or its marker is.
            StoreMismatchError: Its marker names another archive.
            RemoteError: It refuses access, or keeps failing.
        """

    @abstractmethod
    def contains(self, address: str) -> bool:
        """Return whether a folder or prefix lies in this store, or is the same."""

    @abstractmethod
    def owner(self) -> str | None:
        """Return the id of the archive that the marker names; None without a marker.

        Raises:
            StoreOfflineError, RemoteError: The marker cannot be read.
        """

    @abstractmethod
    def mark(self, archive_id: str) -> None:
        """Create the store if it does not exist, and write the marker that names its archive.

        Raises:
            StoreMismatchError: It belongs to another archive already.
            NoSpaceError, NotWritableError, RemoteError: It refused.
        """

    @abstractmethod
    def check_writable(self) -> None:
        """Check that assets can be written, as far as that is possible without leaving one behind.

        Raises:
            NotWritableError, NoSpaceError, RemoteError: They cannot.
        """

    @abstractmethod
    def stage(
        self, key: str, chunks: Iterable[bytes | memoryview], *, replace: bool = False, media_type: str = PDF
    ) -> StagedAsset:
        """Receive a stream, which `commit` then stores under an asset key.

        An error that `chunks` raises passes through, and nothing is left behind. If the key is taken already, nothing
        is drawn from `chunks`.

        Args:
            key: Asset key.
            chunks: Byte strings in order; read once, never held together.
            replace: Whether it may replace an existing asset; for derived files, and for damaged ones.
            media_type: The media type to report to a service. An asset is a PDF whatever its key is, so that no browser
                runs it as a page.

        Raises:
            AssetExistsError: The key is taken.
            AssetKeyError: This store cannot hold the key.
            NoSpaceError, NotWritableError, RemoteError: The store refused.
        """

    @abstractmethod
    def commit(self, staged: Sequence[StagedAsset]) -> Mapping[StagedAsset, AssetError]:
        """Give staged assets their names once their bytes will survive a power cut; return the refused ones, and why.

        The error is `AssetExistsError` if a name is taken, and `AssetKeyError` if the store cannot hold it. A reader
        sees all bytes of an asset or none. Commit many at once: flushing costs a folder 0.07 ms a file in a batch, and
        1.2 ms for a single file.

        Raises:
            NoSpaceError, NotWritableError: The disk refused.
        """

    def write(
        self, key: str, chunks: Iterable[bytes | memoryview], *, replace: bool = False, media_type: str = PDF
    ) -> Stored:
        """Store a stream under an asset key, and return its size and digest: `stage` and `commit` in one call.

        Raises:
            AssetExistsError, AssetKeyError, NoSpaceError, NotWritableError, RemoteError: See `stage`.
        """
        staged = self.stage(key, chunks, replace=replace, media_type=media_type)
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
            AssetUnreadableError: It exists, but cannot be opened.
            RemoteError: The remote end kept failing.
        """

    def measure(self, key: str) -> Stored:
        """Read an asset to its end, and return its size and digest; a store may do it faster than `open` and `digest`.

        Raises:
            AssetMissingError, AssetKeyError, AssetUnreadableError, RemoteError: See `open`.
        """
        with self.open(key) as found:
            return digest(found.views())

    @abstractmethod
    def list(self) -> Iterator[Entry]:
        """List the stored assets lazily, in the byte order of their keys."""

    def keys(self) -> Iterator[str]:
        """List the keys alone, in the same order, without looking at each object.

        Names that are not valid asset keys are included, in a form that is never valid either: odd characters are
        escaped with a backslash, and a folder that cannot be listed ends with a slash.
        """
        return (entry.key for entry in self.list())

    @abstractmethod
    def sync(self, keys: Sequence[str]) -> None:
        """Flush assets that another program has put there, so that they survive a power cut.

        Raises:
            NoSpaceError, NotWritableError: The disk refused.
        """

    @abstractmethod
    def remove(self, key: str) -> str | None:
        """Delete an asset for good, with every version and unfinished upload of it that the store keeps.

        Folders that become empty are removed too. Deleting a missing asset succeeds, so that an interrupted call can be
        repeated.

        Returns:
            What remains of its bytes all the same, in words for people; None if nothing does.

        Raises:
            AssetKeyError: This store cannot hold the key.
            NotWritableError, RemoteError: The store refused; the asset may still be there.
        """

    def abort_writes(self, key: str) -> None:  # noqa: B027 - most stores have nothing to do
        """End the writes of one key that never became complete, such as those of a process that was killed.

        Raises:
            RemoteError: The service refused.
        """

    @abstractmethod
    def remove_stale(self) -> int:
        """Remove what interrupted writes left, and return how many files. Only the holder of the lock may call it."""


_own = local()


def thread_buffer() -> memoryview:
    """Return this thread's buffer of `BUFFER_BYTES`."""
    found: memoryview | None = getattr(_own, "buffer", None)
    if found is None:
        found = _own.buffer = memoryview(bytearray(BUFFER_BYTES))
    return found


def digest(chunks: Iterable[bytes | memoryview]) -> Stored:
    """Read a stream to its end, and return its size and SHA-256."""
    hashed, size = sha256(), 0
    for chunk in chunks:
        hashed.update(chunk)
        size += len(chunk)
    return Stored(size, hashed.hexdigest())


def mask_address(address: str) -> str:
    """Return an address for messages: without the password of a URL, and with bytes that are not UTF-8 escaped."""
    scheme, separator, rest = address.partition("://")
    shown = f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else address
    return valid_text(shown)


@contextmanager
def reading(key: str) -> Iterator[None]:
    """Map the operating system's errors while an asset is read to ours.

    Raises:
        AssetUnreadableError: The asset cannot be read.
        NoSpaceError: Memory or open files have run out, which is not the asset's fault.
    """
    try:
        yield
    except OSError as error:
        raise unreadable(key, error) from error


def unreadable(key: str, error: OSError) -> ArchiveError:
    """Return the error for an asset that cannot be read."""
    return starvation(error) or AssetUnreadableError(
        f"{key} cannot be read ({error.strerror}). Check the disk and its rights."
    )
