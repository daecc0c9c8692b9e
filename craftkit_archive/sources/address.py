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
from craftkit_archive.stores.base import mask_address
from craftkit_archive.stores.folder import FolderStore
from craftkit_archive.stores.reach import first_names, prove_names, prove_store

_BUCKETS = ("s3://", "gs://", "az://")


def open_source(address: str, *, exports: bool = False) -> Source:
    """Return the source at an address.

    Args:
        address: A folder's path, `s3://bucket/prefix`, or `https://host` of a live API.
        exports: Whether to open a folder, zip or tar with a manifest as an export.

    Raises:
        RequestError: It is empty, or an address of an unknown kind.
    """
    if not address:  # a path would take it for the current directory
        raise RequestError("SOURCE is empty. Name a folder, s3://bucket/prefix, or https://host.")
    return _open_source(absolute_address(address), exports)


def names_at(source: Source) -> list[str] | None:
    """Return the first names in a folder, which other machines must see too; None for an address that is global."""
    if isinstance(source, StoreSource) and isinstance(source.store, FolderStore):
        return first_names(source.store)
    return None


def prove_source(store: str, archive_id: str, source: str, names: list[str] | None) -> None:
    """Check, on another machine, that store and source are the same; a folder must have the names from `names_at`.

    Raises:
        ArchiveError: They are not, or cannot be reached from there.
    """
    prove_store(store, archive_id)
    if names is not None:
        prove_names(source, names)
    else:
        open_source(source).check()


# Cached, so that the tasks of a worker, each of which names its source by address, share its connections.
@lru_cache(maxsize=8)
def _open_source(address: str, exports: bool) -> Source:
    if address.startswith(("https://", "http://")):
        return CraftkitApi(address)
    path = Path(address)
    # Not Path.is_file, which raises if a folder may not be searched.
    seen = os.path.isfile
    if exports and "://" not in address and (seen(path) or seen(path / MANIFEST)):
        return ExportSource(path)
    if "://" in address and not address.startswith(_BUCKETS):
        raise RequestError(
            f"{mask_address(address)} cannot be a source. Name a folder, s3://bucket/prefix, gs://bucket/prefix,"
            " az://container/prefix, or https://host of a live API."
        )
    return StoreSource(open_store(address))
