"""Where the PDFs are instead, if a folder or prefix was named that is one or two levels too high or too low."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice

from craftkit_archive.archive import Archive
from craftkit_archive.errors import ArchiveError, AssetError
from craftkit_archive.sources.base import Source
from craftkit_archive.sources.store import StoreSource
from craftkit_archive.stores.address import open_store

LEVELS = 2
# Of how many assets it is looked up whether they are above, and how many objects are looked at below.
TRIED = 20
LISTED = 20_000
_PAGE = 2_000


def suggest_address(archive: Archive, source: Source, address: str, wanted: Sequence[str]) -> str | None:
    """Return the address that was meant, if some of the wanted assets are there; None if that is unknown.

    It costs a few requests, so it is for where nothing was found.

    Args:
        archive: Whose catalog knows what the names below mean.
        source: Where nothing was found.
        address: Its address as a person wrote it.
        wanted: Asset keys that were looked for, the first of them.
    """
    if not isinstance(source, StoreSource) or not wanted:
        return None
    with suppress(ArchiveError):  # it is no more than a hint
        below = _below(archive, source)
        found = (candidate for candidate in _above(address) if _holds_any(candidate, wanted))
        return _joined(address, below) if below else next(found, None)
    return None


def _below(archive: Archive, source: StoreSource) -> str | None:
    """Find the folder under which keys are as the catalog has them."""
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
