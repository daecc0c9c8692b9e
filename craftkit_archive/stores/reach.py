"""Proofs that another machine sees the same stores and files as this one: made here, and checked there."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from secrets import token_hex

from craftkit_archive.errors import ArchiveError, RequestError, StoreOfflineError, disk_errors
from craftkit_archive.stores.address import open_store
from craftkit_archive.stores.base import MARKER, Store, mask_address
from craftkit_archive.stores.folder import FolderStore

# How many names are compared in a place that has no marker.
NAMES = 32
TAIL_BYTES = 64 << 10
# A network file system may show a new file only after a moment.
APPEAR_SECONDS = 5.0
_NAME = ".craftkit-archive."


def prove_store(address: str, archive_id: str) -> None:
    """Check that the store at an address belongs to an archive.

    Raises:
        ArchiveError: See `Store.check`.
    """
    open_store(address).check(archive_id)


def check_still_there(store: Store) -> None:
    """Check, where an asset of an archive's store is missing, that the store is not: it still has its marker.

    The check belongs on the machine that misses the asset. A folder whose mount was lost is an empty folder, and there
    every asset seems to be missing.

    Raises:
        StoreOfflineError: The marker is missing.
        RemoteError: The store cannot be asked.
    """
    if store.owner() is None:
        where = mask_address(store.address)
        raise StoreOfflineError(f"The store is not mounted at {where} (no {MARKER} file). Mount it, then run again.")


def check_mounted(store: Store) -> None:
    """Check, before something is written, that a folder is still the archive's store, and not where it was mounted.

    A bucket is not asked: it has no mount to lose, and a request for each task would take longer than all else here.

    Raises:
        StoreOfflineError: The marker is missing.
    """
    if isinstance(store, FolderStore):
        check_still_there(store)


def try_store(address: str, archive_id: str) -> None:
    """Check that the store at an address belongs to an archive, and can be written.

    Raises:
        ArchiveError: See `Store.check` and `Store.check_writable`.
    """
    prove_store(address, archive_id)
    try:
        open_store(address).check_writable()
    except ArchiveError as error:
        raise type(error)(f"It can read the store, but not write it: {error}") from error


def first_names(store: Store) -> list[str]:
    """Return the first names in a place that may have no marker."""
    return list(islice(store.keys(), NAMES))


def prove_names(address: str, names: list[str]) -> None:
    """Check that the first names in a place are those that were listed on the other machine.

    Raises:
        StoreOfflineError: The names differ.
    """
    store = open_store(address)
    store.check()
    if first_names(store) != names:
        raise StoreOfflineError(f"{mask_address(address)} holds other files there. Mount the same folder.")


@contextmanager
def shown_folder(path: Path) -> Iterator[Callable[[], object]]:
    """Yield a proof that another machine sees the same folder: it looks for a file that exists inside this block.

    Args:
        path: The folder, or one yet to be made; then the proof is in its nearest existing parent.

    Raises:
        NoSpaceError, NotWritableError: The disk refused.
    """
    folder = path.absolute()
    while not folder.is_dir():
        folder = folder.parent
    token = folder / f"{_NAME}{token_hex(16)}"
    try:
        with disk_errors(token):
            token.touch(exist_ok=False)
        yield partial(prove_token, os.fspath(folder), token.name)
    finally:
        token.unlink(missing_ok=True)


def prove_token(folder: str, name: str) -> None:
    """Check that a folder has a file of this name, which another machine made there, and can be written.

    Raises:
        StoreOfflineError: It has not, or cannot.
    """
    until = time.monotonic() + APPEAR_SECONDS
    while not os.path.lexists(f"{folder}/{name}"):
        if time.monotonic() > until:
            raise StoreOfflineError(f"{folder} is another folder there, or none. Mount the same one on every worker.")
        time.sleep(0.05)
    if not os.access(folder, os.W_OK):
        raise StoreOfflineError(f"{folder} cannot be written there. Make it writable for the user of the worker.")


def shown_file(path: str) -> Callable[[], object]:
    """Return a proof that another machine sees the same file: it compares the size, and a digest of the end.

    Raises:
        RequestError: It cannot be read.
    """
    try:
        return partial(_prove_file, path, *_measure_end(path))
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror}). Check its rights and the disk.") from error


def _measure_end(path: str) -> tuple[int, str]:
    with Path(path).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - TAIL_BYTES, 0))
        return size, sha256(file.read()).hexdigest()


def _prove_file(path: str, size_bytes: int, digest: str) -> None:
    try:
        same = _measure_end(path) == (size_bytes, digest)
    except OSError as error:
        raise StoreOfflineError(
            f"{path} cannot be read there ({error.strerror}). Mount the same folder on every worker."
        ) from error
    if not same:
        raise StoreOfflineError(f"{path} is another file there. Mount the same folder on every worker.")
