"""The interface of sources, from which assets are copied."""

from abc import ABC, abstractmethod

from craftkit_archive.stores.base import OpenAsset


class Source(ABC):
    """A place from which assets are copied.

    Attributes:
        address: Its address, which `open_source` opens.
        lanes: How many assets one process should read at the same time.
    """

    address: str
    lanes: int

    @abstractmethod
    def check(self) -> None:
        """Make sure that the source can be read.

        Raises:
            StoreOfflineError: It does not exist, or cannot be reached.
            RemoteError, AccessError: It refuses access, or keeps failing.
        """

    @abstractmethod
    def size(self, render_id: str, key: str) -> int | None:
        """Return the size of an asset in bytes; None if only reading it would tell.

        Raises:
            AssetError, AccessError, RemoteError: See `open`.
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
            AssetUnreadableError: The source has it, but it cannot be read.
            UnauthorizedError, ForbiddenError: The API key is refused.
            RemoteError: The remote end kept failing.
        """
