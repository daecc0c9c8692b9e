"""The errors that can stop an operation, in one tree.

    ArchiveError
    ├── RequestError              the request is invalid
    ├── NoArchiveError            no archive here
    ├── LockedError               another command is writing to the archive
    ├── CatalogError
    │   ├── CatalogNewerError     written by a newer version of this program
    │   └── CatalogDamagedError   SQLite cannot read it
    ├── StoreError
    │   ├── StoreOfflineError     the store or source is missing
    │   └── StoreMismatchError    it belongs to another archive
    ├── AssetError
    │   ├── AssetKeyError         a name that the store cannot hold, or that its file system refuses
    │   ├── AssetExistsError      bytes are stored under this key already
    │   ├── AssetMissingError     no bytes are stored under this key
    │   ├── AssetUnreadableError  the bytes are there, and reading them fails
    │   ├── AssetUnavailableError the bytes are at a remote end that does not give them now
    │   └── AssetDamagedError     the bytes are not the recorded ones
    ├── DiskError
    │   ├── NoSpaceError          the disk is full, or memory or open files run out
    │   └── NotWritableError      the disk or the file refuses writing
    ├── RemoteError               the remote end kept failing
    └── AccessError
        ├── UnauthorizedError     the key is missing, invalid or revoked
        ├── ForbiddenError        the key's project no longer exists
        ├── RenderNotFoundError   no such render in the key's project
        └── RenderConflictError   the render has no PDF to give

The message of each says what happened and then what to do. Problems in the data (a damaged asset, a rejected record)
are not errors: operations yield them as records. Exit codes are in `cli.py`, HTTP statuses in `server/errors.py`.
"""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What to do about a catalog that is missing or cannot be read; the same in every message.
RECOVER = "Restore a backup with `craftkit-archive restore FILE`, or make it again with `craftkit-archive rebuild`."


class ArchiveError(Exception):
    """Root of everything that stops the work and is not a bug."""


class RequestError(ArchiveError):
    """The request is invalid, or names something that does not exist."""


class NoArchiveError(ArchiveError):
    """There is no archive here."""


class LockedError(ArchiveError):
    """Another command is writing to the archive."""


class CatalogError(ArchiveError):
    """The catalog cannot be used."""


class CatalogNewerError(CatalogError):
    """The catalog was written by a newer version of this program."""


class CatalogDamagedError(CatalogError):
    """SQLite cannot read the catalog."""


class StoreError(ArchiveError):
    """The store or source cannot be used as a whole."""


class StoreOfflineError(StoreError):
    """The store or source is missing: unmounted, removed or never created."""


class StoreMismatchError(StoreError):
    """The store belongs to another archive."""


class AssetError(ArchiveError):
    """One asset cannot be read or written."""


class AssetKeyError(AssetError):
    """The store cannot hold the name, or its file system refuses it."""


class AssetExistsError(AssetError):
    """Bytes are stored under this key already, and nothing is ever overwritten."""


class AssetMissingError(AssetError):
    """No bytes are stored under this key."""


class AssetUnreadableError(AssetError):
    """The bytes are there, and reading them fails."""


class AssetUnavailableError(AssetError):
    """The bytes are at a remote end, which does not give them now: archived, forbidden, or broken off too often.

    Attributes:
        reason: The reason in the remote end's words; empty if it concerns this asset alone.
    """

    def __init__(self, text: str, *, reason: str = "") -> None:
        super().__init__(text)
        self.reason = reason


class AssetDamagedError(AssetError):
    """The bytes are not the recorded ones."""


class DiskError(ArchiveError):
    """The file system refused to write."""


class NoSpaceError(DiskError):
    """The disk or the quota is full, or the process may have no more memory or open files."""


class NotWritableError(DiskError):
    """The file, folder or file system may not be written."""


class RemoteError(ArchiveError):
    """The remote end kept failing, or gave an unexpected answer.

    Attributes:
        reason: The reason in the remote end's words, by which equal refusals are recognized.
        status: The HTTP status of its refusal; 0 if there was none.
    """

    def __init__(self, text: str, *, reason: str = "", status: int = 0) -> None:
        super().__init__(text)
        self.reason = reason
        self.status = status


class AccessError(ArchiveError):
    """A request to the download API was refused."""


class UnauthorizedError(AccessError):
    """The key is missing, invalid or revoked."""


class ForbiddenError(AccessError):
    """The key's project no longer exists."""


class RenderNotFoundError(AccessError):
    """No render with this id is in the key's project."""


class RenderConflictError(AccessError):
    """The render has not succeeded yet, or has no stored asset."""


def install_hint(extra: str) -> str:
    """Return how to install an extra, with the Python that runs this: another one's pip would install it elsewhere."""
    return f"Run {sys.executable} -m pip install 'craftkit-archive[{extra}]'."


def leaves(root: type[ArchiveError] = ArchiveError) -> list[type[ArchiveError]]:
    """List the classes of the tree without subclasses, in the order of the drawing."""
    children = root.__subclasses__()
    return [leaf for child in children for leaf in leaves(child)] if children else [root]


# Errors of a file system about a name rather than the disk: they concern one asset, and do not stop the others.
NAME_TROUBLE = frozenset(
    {errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EINVAL, errno.EILSEQ}
    | {errno.ELOOP}
)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_STARVED = {
    errno.EMFILE: "Too many files are open: raise the limit (ulimit -n), or use fewer --jobs.",
    errno.ENFILE: "The system has too many files open: end other programs, or use fewer --jobs.",
    errno.ENOMEM: "Memory has run out: end other programs or raise the limit (ulimit -v), or use fewer --jobs.",
    errno.EAGAIN: "No more processes or threads can be started: raise the limit (ulimit -u), or use fewer --jobs.",
}


@contextmanager
def disk_errors(path: str | Path, *, key: str | None = None) -> Iterator[None]:
    """Map the operating system's errors while `path` is written to ours.

    Args:
        path: The path that is written, for the message.
        key: The asset key, if an asset is written: trouble with its name is then an error of this asset alone.

    Raises:
        AssetKeyError: With a key: the file system refuses the name, or something else is in its place.
        NoSpaceError: The disk or the quota is full, or the process may have no more memory or open files.
        NotWritableError: Anything else that keeps the path from being written.
    """
    try:
        yield
    except OSError as error:
        starved = starvation(error)
        if starved is not None:
            raise starved from error
        if error.errno in _DISK_FULL:
            raise NoSpaceError(f"No space is left to write {path}. Free some, then run the command again.") from error
        reason = error.strerror or str(error)
        folder = Path(path).parent
        if error.errno == errno.ENOENT and key is None and not folder.is_dir():
            raise NotWritableError(f"Cannot write {path}: there is no folder {folder}. Create it first.") from error
        if key is not None and error.errno in NAME_TROUBLE:
            raise name_refused(key, error) from error
        raise NotWritableError(f"Cannot write {path} ({reason}). Fix that, then run the command again.") from error


def name_refused(key: str, error: OSError) -> AssetKeyError:
    """Return the error for a name that a file system cannot hold, or in whose place something else is."""
    why = (error.strerror or str(error)).lower()
    if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ELOOP):
        hint = "Another file, folder or link is in its way: move that away, then run the command again."
    else:
        hint = "The file system cannot hold this name: shorten or change it at the source, then run the command again."
    return AssetKeyError(f"Cannot write {key}: {why}. {hint}")


def starvation(error: BaseException) -> NoSpaceError | None:
    """Return our error if another one means that memory, open files or processes have run out; None otherwise."""
    if isinstance(error, MemoryError):
        return NoSpaceError(_STARVED[errno.ENOMEM])
    if isinstance(error, OSError) and error.errno in _STARVED:
        return NoSpaceError(_STARVED[error.errno])
    # Python's errors for an extension that cannot be mapped, and for a thread that cannot start, have no errno.
    if isinstance(error, ImportError) and "llocate memory" in str(error):
        return NoSpaceError(_STARVED[errno.ENOMEM])
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return NoSpaceError(_STARVED[errno.EAGAIN])
    return None
