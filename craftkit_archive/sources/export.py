"""An export as a source of repairs."""

from collections.abc import Iterable
from pathlib import Path

from craftkit_archive.errors import AssetMissingError
from craftkit_archive.export.reader import Export
from craftkit_archive.overriding import override
from craftkit_archive.sources.base import Source
from craftkit_archive.stores.base import OpenAsset


class ExportSource(Source):
    """An export, in which assets are found by their digests."""

    lanes = 1

    def __init__(self, path: Path) -> None:
        self._export = Export(path)
        self.address = str(path)
        self._paths: dict[str, str] = {}

    @override
    def check(self) -> None:
        """Do nothing: an export that is not whole could not have been opened."""

    def look_for(self, digests: Iterable[str]) -> None:
        """Find the files with these digests, in one pass over the export's index."""
        wanted = set(digests)
        self._paths = {listed.sha256: listed.path for listed in self._export.listed() if listed.sha256 in wanted}

    @override
    def size(self, _render_id: str, _key: str) -> int | None:
        return None

    @override
    def open(self, _render_id: str, key: str, sha256: str | None = None) -> OpenAsset:
        """Open the file that `look_for` has found for a digest; render id and key are ignored."""
        path = self._paths.get(sha256 or "")
        if path is None:
            raise AssetMissingError(f"{key} is not in {self.address}.")
        return self._export.open(path)
