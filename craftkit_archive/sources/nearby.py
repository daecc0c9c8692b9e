"""Suggests the right address if a folder or prefix was named that is one or two levels too high or too low."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice

from craftkit_archive.archive import Archive
from craftkit_archive.errors import ArchiveError, AssetError
from craftkit_archive.sources.base import Source
from craftkit_archive.sources.store import StoreSource
from craftkit_archive.stores.address import open_store

LEVELS = 2
# How many assets are looked up in the folders above, and how many objects are listed below.
TRIED = 20
LISTED = 20_000
_PAGE = 2_000


def suggest_address(archive: Archive, source: Source, address: str, wanted: Sequence[str]) -> str | None:
    """Return the address that was probably meant, because some of the wanted assets are there; None if there is none.

    It costs a few requests, so call it only when nothing was found.

    Args:
        archive: The archive, whose catalog tells which names below are asset keys.
        source: The source in which nothing was found.
        address: Its address as the user wrote it.
        wanted: Some of the asset keys that were looked for.
    """
    if not isinstance(source, StoreSource) or not wanted:
        return None
    with suppress(ArchiveError):  # it is no more than a hint
        below = _below(archive, source)
        found = (candidate for candidate in _above(address) if _holds_any(candidate, wanted))
        return _joined(address, below) if below else next(found, None)
    return None


def _below(archive: Archive, source: StoreSource) -> str | None:
    """Find the folder below which the source's keys are those of the catalog."""
    keys = islice(source.store.keys(), LISTED)
    while page := list(islice(keys, _PAGE)):
        inner = {key.split("/", level)[-1]: key for level in (LEVELS, 1) for key in page if key.count("/") > level}
        unknown = set(archive.catalog.unclaimed(list(inner)))
        for name, key in inner.items():
            if name not in unknown:
                return key.removesuffix(f"/{name}")
    return None


def _above(address: str) -> Iterator[str]:
    bare, mark, options = address.partition("?") if "://" in address else (address, "", "")
    for _ in range(LEVELS):
        bare, slash, name = bare.rstrip("/").rpartition("/")
        if not slash or not name or not bare or bare.endswith("/"):
            return
        yield f"{bare}{mark}{options}"


def _joined(address: str, name: str) -> str:
    bare, mark, options = address.partition("?") if "://" in address else (address, "", "")
    return f"{bare.rstrip('/')}/{name}{mark}{options}"


def _holds_any(address: str, keys: Sequence[str]) -> bool:
    store = open_store(address)
    for key in keys[:TRIED]:
        with suppress(AssetError):
            store.find(key)
            return True
    return False
