"""Which store an address names."""

from functools import lru_cache
from pathlib import Path

from craftkit_archive.errors import RequestError
from craftkit_archive.folder import FolderStore
from craftkit_archive.store import Store, mask_address


@lru_cache(maxsize=64)
def open_store(address: str, base: Path | None = None, *, durable: bool = True) -> Store:
    """Return the store at an address, without touching it.

    Args:
        address: A folder's path, or `s3://bucket/prefix` (see `s3.S3Store`).
        base: What a relative path is relative to; the current directory if not given.
        durable: See `FolderStore`.

    Raises:
        RequestError: The address is of no kind that is known.
    """
    if address.startswith("s3://"):
        from craftkit_archive.s3 import S3Store

        return S3Store(address)
    if "://" in address:
        raise RequestError(f"{mask_address(address)} is no store: name a folder, or s3://bucket/prefix.")
    return FolderStore((base or Path()) / address, durable=durable)
