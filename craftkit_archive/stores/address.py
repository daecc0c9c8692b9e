"""Which store an address names."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from craftkit_archive.errors import RequestError
from craftkit_archive.stores.base import Store, mask_address
from craftkit_archive.stores.folder import FolderStore

if TYPE_CHECKING:
    from craftkit_archive.stores.aws import BucketAccess


def open_store(address: str, base: Path | None = None, *, durable: bool = True) -> Store:
    """Return the store at an address, without touching it.

    Args:
        address: A folder's path, or a bucket's address (see `bucket.BucketStore`).
        base: The folder that a relative path starts from; the current directory if not given.
        durable: See `FolderStore`.

    Raises:
        RequestError: It is an address of an unknown kind.
    """
    return _open_store(absolute_address(address, base), durable)


def absolute_address(address: str, base: Path | None = None) -> str:
    """Return an address that stays the same when the program changes its directory."""
    # `..` is not resolved here, because after a link it means the parent of the link's target.
    return address if "://" in address else os.fspath((Path(base or "") / address).absolute())


def split_object(address: str) -> tuple[str, str]:
    """Split the address of an object into the address of the bucket and prefix that it is in, and its name there."""
    place, mark, service = address.partition("?")
    parent, _, name = place.rpartition("/")
    return f"{parent}{mark}{service}", name


# Cached, so that the tasks of a worker, each of which names its store by address, share its connections.
@lru_cache(maxsize=64)
def _open_store(address: str, durable: bool) -> Store:
    if address.startswith(("s3://", "gs://", "az://")):
        from craftkit_archive.stores.bucket import BucketStore

        return BucketStore(address)
    if "://" in address:
        raise RequestError(
            f"{mask_address(address)} cannot be a store. Name a folder, s3://bucket/prefix, gs://bucket/prefix or "
            "az://container/prefix."
        )
    return FolderStore(Path(address), durable=durable)


def worker_setup(*addresses: str) -> Callable[[], object]:
    """Return the function that a worker process calls first, which opens the stores at these addresses.

    The AWS settings are read here, once, which takes botocore a third of a second. The result is picklable and may hold
    credentials.

    Raises:
        RequestError, RemoteError: The settings are contradictory, or there are no credentials.
    """
    if not any(address.startswith("s3://") for address in addresses):
        return partial(_open_all, addresses, {})
    from craftkit_archive.stores.bucket import BucketStore, learned_access

    stores = map(open_store, (address for address in addresses if address.startswith("s3://")))
    access = learned_access(store for store in stores if isinstance(store, BucketStore))
    return partial(_open_all, addresses, access)


def _open_all(addresses: Sequence[str], access: Mapping[str, "BucketAccess"]) -> None:
    if access:
        from craftkit_archive.stores.bucket import learn_access

        learn_access(access)
    for address in addresses:
        open_store(address)
