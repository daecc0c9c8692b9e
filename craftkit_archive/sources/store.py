"""A store as a source."""

from craftkit_archive.sources.base import Source
from craftkit_archive.stores.base import OpenAsset, Store


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
