"""Where assets are copied from: a store, or a live API."""

from functools import lru_cache
from typing import Protocol

from craftkit_archive.craftkit_api import CraftkitApi
from craftkit_archive.places import open_store
from craftkit_archive.store import OpenAsset, Store


class Source(Protocol):
    """A place that gives assets away.

    Attributes:
        address: Says where it is, as `open_source` reads it.
        lanes: How many assets one process should read at a time, to keep it busy.
    """

    address: str
    lanes: int

    def check(self) -> None:
        """Make sure that it is there.

        Raises:
            StoreOfflineError: It is not.
            RemoteError, AccessError: It refuses, or keeps failing.
        """

    def size(self, render_id: str, key: str) -> int | None:
        """Return how many bytes an asset has there, or None if that cannot be known without reading it.

        Raises:
            AssetError, AccessError, RemoteError: As `open`.
        """

    def open(self, render_id: str, key: str) -> OpenAsset:
        """Open an asset for reading, at its first byte.

        Raises:
            AssetMissingError, RenderNotFoundError, RenderConflictError: It is not there.
            AssetUnreadableError: It is there, and cannot be read.
            UnauthorizedError, ForbiddenError: The key is refused.
            RemoteError: The remote end kept failing.
        """


class StoreSource:
    """A store, which knows assets by their keys."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.address = store.address
        self.lanes = store.lanes

    def check(self) -> None:
        """See `Source.check`."""
        self.store.check()

    def size(self, _render_id: str, key: str) -> int | None:
        """See `Source.size`."""
        return self.store.find(key).size_bytes

    def open(self, _render_id: str, key: str) -> OpenAsset:
        """See `Source.open`."""
        return self.store.open(key)


@lru_cache(maxsize=8)
def open_source(address: str) -> Source:
    """Return the source at an address, without touching it.

    Args:
        address: A folder's path, `s3://bucket/prefix`, or `https://host` of a live API.

    Raises:
        RequestError: The address is of no kind that is known.
    """
    if address.startswith(("https://", "http://")):
        return CraftkitApi(address)
    return StoreSource(open_store(address))
