"""The quarantine: damaged copies that a repair took out of the store, each with its finding beside it."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import msgspec

from craftkit_archive.errors import AssetError, AssetKeyError, AssetUnreadableError, RequestError, disk_errors
from craftkit_archive.records import Finding, Held
from craftkit_archive.stores.base import OpenAsset, StagedAsset, Store
from craftkit_archive.stores.folder import FolderStore

FOLDER = "quarantine"
_NOTE = ".finding.json"
# How many bytes of a name that is too long are kept, so that people recognize it.
SHORT_BYTES = 80


class Quarantine:
    """The folder `quarantine/` of an archive: `<run>/<asset key>`, and beside it the finding as JSON.

    It can be understood without the catalog. Only `drop` and `remove` delete from it.

    Args:
        archive: The archive's directory.
    """

    def __init__(self, archive: Path) -> None:
        self._folder = archive / FOLDER
        self._store = FolderStore(self._folder)

    def keep(self, store: Store, finding: Finding) -> Held:
        """Copy the asset that a finding is about into the quarantine; if it cannot be read, keep only the finding.

        Anything but a file, such as a folder or a link, is moved instead of copied, so that a file can take its place.

        Args:
            store: The store that has the damaged copy.
            finding: What is wrong with it; the number of its run names the folder.

        Raises:
            NoSpaceError, NotWritableError: The disk refused.
        """
        name = f"{finding.run_id}/{finding.key}"
        try:
            return self._keep(store, finding, name)
        except AssetKeyError:  # with the run and the suffix the name is too long, or another copy is in its way
            return self._keep(store, finding, f"{finding.run_id}/{_short(finding.key)}")

    def _keep(self, store: Store, finding: Finding, name: str) -> Held:
        odd = store.describe(finding.key) if isinstance(store, FolderStore) else None
        copy: StagedAsset | None = None
        if odd is None:
            copy = self._copy(store, finding.key, name)
        held = Held(
            name=name,
            key=finding.key,
            render_id=finding.render_id or "",
            verdict=finding.verdict,
            expected=finding.expected,
            detail=finding.detail if odd is None else f"{odd} was in its place",
            size_bytes=copy.stored.size_bytes if copy else None,
            sha256=copy.stored.sha256 if copy else None,
            kept_at=finding.found_at,
        )
        note = self._store.stage(f"{name}{_NOTE}", [msgspec.json.encode(held)], replace=True)
        # The finding is committed first, so that an interruption cannot leave a copy without one.
        for error in self._store.commit([note, *([copy] if copy else [])]).values():
            raise error
        if odd is not None and isinstance(store, FolderStore):
            store.move_aside(finding.key, self._folder / name)
        return held

    def _copy(self, store: Store, key: str, name: str) -> StagedAsset | None:
        """Stage a copy of an asset; None if the asset cannot be read."""
        try:
            found = store.open(key)
        except AssetError:
            return None
        with found, suppress(AssetUnreadableError):
            return self._store.stage(name, found.chunks(), replace=True)
        return None

    def names_by_owner(self) -> dict[str, Sequence[str]]:
        """Map render ids and asset keys to the names of the copies that are held for them."""
        found: dict[str, Sequence[str]] = {}
        for held in self.list():
            for owner in {held.render_id, held.key} - {""}:
                found[owner] = (*found.get(owner, ()), held.name)
        return found

    def list(self) -> Iterator[Held]:
        """Yield what is held, in the order of names.

        Raises:
            RequestError: The file of a finding is damaged; the message names it.
        """
        if not self._folder.is_dir():
            return
        for entry in self._store.list():
            if entry.key.endswith(_NOTE):
                yield self._read(entry.key.removesuffix(_NOTE))

    def find(self, name: str) -> Held:
        """Return what is held under a name.

        Raises:
            RequestError: Nothing is.
        """
        try:
            return self._read(name)
        except AssetError as error:
            raise RequestError(f"The quarantine holds nothing named {name!r}. See `quarantine list`.") from error

    def _read(self, name: str) -> Held:
        try:
            with self._store.open(f"{name}{_NOTE}") as note:
                held = msgspec.json.decode(b"".join(note.chunks()), type=Held)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise RequestError(f"{self._folder / name}{_NOTE} cannot be read. Look at it, then delete it.") from error
        # The name is taken from the path, so that a forged file cannot point to other files.
        return msgspec.structs.replace(held, name=name)

    def open(self, held: Held) -> OpenAsset:
        """Open a damaged copy.

        Raises:
            AssetMissingError: Only its finding was kept.
        """
        return self._store.open(held.name)

    def tidy(self) -> None:
        """Remove what interrupted copies left, and empty folders. Only the holder of the lock may call it."""
        self._store.remove_stale()
        for folder, _, _ in os.walk(self._folder, topdown=False):
            if folder != os.fspath(self._folder):
                with suppress(OSError):  # something is in it
                    Path(folder).rmdir()

    def remove(self, name: str) -> str | None:
        """Delete a copy and its finding for good, and return what remains of it; see `Store.remove`.

        The finding is deleted last, so that what an interruption leaves can still be found.
        """
        with disk_errors(self._folder):
            path = self._folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
        remains = self._store.remove(name)
        self._store.remove(f"{name}{_NOTE}")
        return remains

    def drop(self, held: Held) -> None:
        """Delete a copy and its finding; their folders stay until `tidy`, because another thread may be using them.

        Raises:
            NotWritableError: The disk refused.
        """
        with disk_errors(self._folder):
            for path in (self._folder / held.name, self._folder / f"{held.name}{_NOTE}"):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)


def _short(key: str) -> str:
    """Return a name for a key that is too long here: the same each time, and different for every key."""
    begin = key.rpartition("/")[2].encode()[:SHORT_BYTES].decode("utf-8", "ignore")
    return f"{begin}~{sha256(key.encode()).hexdigest()[:32]}"
