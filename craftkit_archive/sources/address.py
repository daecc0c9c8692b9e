"""Which source an address names."""

import os
from functools import lru_cache
from pathlib import Path

from craftkit_archive.errors import RequestError
from craftkit_archive.export.reader import MANIFEST
from craftkit_archive.sources.api import CraftkitApi
from craftkit_archive.sources.base import Source
from craftkit_archive.sources.export import ExportSource
from craftkit_archive.sources.store import StoreSource
from craftkit_archive.stores.address import absolute_address, open_store


def open_source(address: str, *, exports: bool = False) -> Source:
    """Return the source at an address.

    Args:
        address: A folder's path, `s3://bucket/prefix`, or `https://host` of a live API.
        exports: Whether a folder, zip or tar with a manifest is to be taken as an export.

    Raises:
        RequestError: The address is empty, or of an unknown kind.
    """
    if not address:  # a path would take it for the current directory
        raise RequestError("SOURCE is empty. Name a folder, s3://bucket/prefix, or https://host.")
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
