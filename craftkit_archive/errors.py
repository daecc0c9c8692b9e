"""What can stop the work, as one tree.

    ArchiveError
    ├── RequestError              what was asked for makes no sense
    ├── NoArchiveError            there is no archive in this place
    ├── LockedError               another command is writing to the archive
    ├── CatalogError
    │   ├── CatalogNewerError     written by a newer version of this program
    │   └── CatalogDamagedError   SQLite cannot read it
    ├── StoreError
    │   ├── StoreOfflineError     the store or source is not there
    │   └── StoreMismatchError    it belongs to another archive
    ├── AssetError
    │   ├── AssetKeyError         a name that is no place in a store
    │   ├── AssetExistsError      bytes are stored under this key already
    │   ├── AssetMissingError     no bytes are stored under this key
    │   ├── AssetUnreadableError  the bytes are there, and reading them fails
    │   ├── AssetUnavailableError the bytes are at a remote end that does not give them now
    │   └── AssetDamagedError     the bytes are not the recorded ones
    ├── DiskError
    │   ├── NoSpaceError          the disk is full
    │   └── NotWritableError      the disk or the file refuses writing
    ├── RemoteError               the remote end kept failing
    └── AccessError
        ├── UnauthorizedError     the key is missing, invalid or revoked
        ├── ForbiddenError        the key's project no longer exists
        ├── RenderNotFoundError   no such render in the key's project
        └── RenderConflictError   the render has no PDF to give

The text of each is one sentence that says what to do next. Problems in the data (a damaged asset, a rejected record)
are not errors: operations yield them as records. Exit codes stand in `cli.py`, HTTP statuses in `server/errors.py`.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ArchiveError(Exception):
    """Root of everything that stops the work and is not a bug."""


class RequestError(ArchiveError):
    """What was asked for makes no sense, or asks for something that is not there."""


class NoArchiveError(ArchiveError):
    """There is no archive in this place."""


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
    """The store or source is not there: unmounted, removed, or never made."""


class StoreMismatchError(StoreError):
    """The store belongs to another archive."""


class AssetError(ArchiveError):
    """One asset cannot be read or written."""


class AssetKeyError(AssetError):
    """The name is no place in a store."""


class AssetExistsError(AssetError):
    """Bytes are stored under this key already, and nothing is ever overwritten."""


class AssetMissingError(AssetError):
    """No bytes are stored under this key."""


class AssetUnreadableError(AssetError):
    """The bytes are there, and reading them fails."""


class AssetUnavailableError(AssetError):
    """The bytes are at a remote end, which does not give them now: archived, forbidden, or broken off too often.

    Attributes:
        reason: Why, in the remote end's words; empty where it is a matter of this asset alone.
    """

    def __init__(self, text: str, *, reason: str = "") -> None:
        super().__init__(text)
        self.reason = reason


class AssetDamagedError(AssetError):
    """The bytes are not the recorded ones."""


class DiskError(ArchiveError):
    """The file system refused to write."""


class NoSpaceError(DiskError):
    """The disk or the quota is full."""


class NotWritableError(DiskError):
    """The file, folder or file system may not be written."""


class RemoteError(ArchiveError):
    """The remote end kept failing, or answered something else than it should.

    Attributes:
        reason: Why, in the remote end's words, so that equal refusals can be told from different ones.
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


def leaves(root: type[ArchiveError] = ArchiveError) -> list[type[ArchiveError]]:
    """List the classes of the tree that have no subclass, in the order in which they are drawn."""
    children = root.__subclasses__()
    return [leaf for child in children for leaf in leaves(child)] if children else [root]


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Turn what the operating system says while `path` is written into the tree's words.

    Raises:
        NoSpaceError: The disk or the quota is full.
        NotWritableError: Anything else that keeps the path from being written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError(f"No space is left to write {path}: free some, then run the command again.") from error
        reason = error.strerror or str(error)
        raise NotWritableError(f"{path} cannot be written ({reason}): mend that, then run it again.") from error
