"""What a source is: where assets are copied from."""

from abc import ABC, abstractmethod

from craftkit_archive.stores.base import OpenAsset


class Source(ABC):
    """A place that gives assets away.

    Attributes:
        address: Says where it is, as `open_source` reads it.
        lanes: How many assets one process should read at a time, to keep it busy.
    """

    address: str
    lanes: int

    @abstractmethod
    def check(self) -> None:
        """Make sure that it is there.

        Raises:
            StoreOfflineError: It is not.
            RemoteError, AccessError: It refuses, or keeps failing.
        """

    @abstractmethod
    def size(self, render_id: str, key: str) -> int | None:
        """Return how many bytes an asset has there, or None if that cannot be known without reading it.

        Raises:
            AssetError, AccessError, RemoteError: As `open`.
        """

    @abstractmethod
    def open(self, render_id: str, key: str, sha256: str | None = None) -> OpenAsset:
        """Open an asset for reading, at its first byte.

        Args:
            render_id: Its render.
            key: Its asset key.
            sha256: Its digest, if it is known.

        Raises:
            AssetMissingError, RenderNotFoundError, RenderConflictError: The source does not have it.
            AssetUnreadableError: It is there, and cannot be read.
            UnauthorizedError, ForbiddenError: The key is refused.
            RemoteError: The remote end kept failing.
        """
