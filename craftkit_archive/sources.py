"""Where assets are copied from: a store, a live API, or an export."""

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from craftkit_archive.craftkit_api import CraftkitApi
from craftkit_archive.errors import AssetMissingError
from craftkit_archive.exports import MANIFEST, Export
from craftkit_archive.places import absolute_address, open_store
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

    def open(self, render_id: str, key: str, sha256: str | None = None) -> OpenAsset:
        """Open an asset for reading, at its first byte.

        Args:
            render_id: Its render.
            key: Its asset key.
            sha256: Its digest, if it is known.

        Raises:
            AssetMissingError, RenderNotFoundError, RenderConflictError: It is not there.
            AssetUnreadableError: It is there, and cannot be read.
            UnauthorizedError, ForbiddenError: The key is refused.
            RemoteError: The remote end kept failing.
        """


class StoreSource(Source):
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

    def open(self, _render_id: str, key: str, _sha256: str | None = None) -> OpenAsset:
        """See `Source.open`."""
        return self.store.open(key)


class ExportSource(Source):
    """An export, in which an asset is whatever file has its digest."""

    lanes = 1

    def __init__(self, path: Path) -> None:
        self._export = Export(path)
        self.address = str(path)
        self._paths: dict[str, str] = {}

    def check(self) -> None:
        """See `Source.check`; that it could be opened says so."""

    def look_for(self, digests: Iterable[str]) -> None:
        """Find out, in one pass over the export's index, where the assets with these digests are."""
        wanted = set(digests)
        self._paths = {listed.sha256: listed.path for listed in self._export.listed() if listed.sha256 in wanted}

    def size(self, _render_id: str, _key: str) -> int | None:
        """See `Source.size`."""
        return None

    def open(self, _render_id: str, key: str, sha256: str | None = None) -> OpenAsset:
        """See `Source.open`; `look_for` comes first."""
        path = self._paths.get(sha256 or "")
        if path is None:
            raise AssetMissingError(f"{key} is not in {self.address}.")
        return self._export.open(path)


def open_source(address: str, *, exports: bool = False) -> Source:
    """Return the source at an address.

    Args:
        address: A folder's path, `s3://bucket/prefix`, or `https://host` of a live API.
        exports: Whether a folder, zip or tar with a manifest is to be taken as an export.

    Raises:
        RequestError: The address is of no kind that is known.
    """
    return _open_source(absolute_address(address), exports)


@lru_cache(maxsize=8)
def _open_source(address: str, exports: bool) -> Source:
    if address.startswith(("https://", "http://")):
        return CraftkitApi(address)
    path = Path(address)
    # Not Path.is_file, which raises where a folder may not be looked into.
    seen = os.path.isfile
    if exports and "://" not in address and (seen(path) or seen(path / MANIFEST)):
        return ExportSource(path)
    return StoreSource(open_store(address))
