"""The quarantine: damaged copies that a repair took out of the store, each beside what was found of it."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from craftkit_archive.errors import AssetError, RequestError, disk_errors
from craftkit_archive.folder import FolderStore
from craftkit_archive.records import Finding, Held
from craftkit_archive.store import OpenAsset, Store

FOLDER = "quarantine"
_NOTE = ".finding.json"


class Quarantine:
    """The folder `quarantine/` of an archive: `<run>/<asset key>`, and beside it the finding as JSON.

    It can be understood without the catalog. Nothing but `drop` deletes from it.

    Args:
        archive: The archive's directory.
    """

    def __init__(self, archive: Path) -> None:
        self._folder = archive / FOLDER
        self._store = FolderStore(self._folder)

    def keep(self, store: Store, finding: Finding) -> Held:
        """Copy what lies in a store under a finding's key; if it cannot be read, keep the finding alone.

        Args:
            store: Where the damaged copy is.
            finding: What is wrong with it; its run names the folder.

        Raises:
            NoSpaceError, NotWritableError: The disk refused.
        """
        name = f"{finding.run_id}/{finding.key}"
        size, digest = None, None
        with suppress(AssetError), store.open(finding.key) as found:
            size, digest = self._store.write(name, found.chunks(), replace=True)
        held = Held(
            name=name,
            key=finding.key,
            render_id=finding.render_id or "",
            verdict=finding.verdict,
            expected=finding.expected,
            detail=finding.detail,
            size_bytes=size,
            sha256=digest,
            kept_at=finding.found_at,
        )
        self._store.write(f"{name}{_NOTE}", [msgspec.json.encode(held)], replace=True)
        return held

    def list(self) -> Iterator[Held]:
        """Yield what is held, in the order of names.

        Raises:
            RequestError: A note is damaged; the text names the file.
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
            raise RequestError(f"Nothing is held as {name!r}: `quarantine list` shows the names.") from error

    def _read(self, name: str) -> Held:
        try:
            with self._store.open(f"{name}{_NOTE}") as note:
                held = msgspec.json.decode(b"".join(note.chunks()), type=Held)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise RequestError(
                f"{self._folder / name}{_NOTE} cannot be understood: look at it, and delete it."
            ) from error
        # Where it lies is what counts: what a note says must not lead to other files.
        return msgspec.structs.replace(held, name=name)

    def open(self, held: Held) -> OpenAsset:
        """Open a damaged copy.

        Raises:
            AssetMissingError: Only its finding was kept.
        """
        return self._store.open(held.name)

    def tidy(self) -> None:
        """Remove what interrupted copying and `drop` left behind; for the one who writes, at the end."""
        self._store.sweep()
        for folder, _, _ in os.walk(self._folder, topdown=False):
            if folder != os.fspath(self._folder):
                with suppress(OSError):  # something is in it
                    Path(folder).rmdir()

    def drop(self, held: Held) -> None:
        """Delete a copy and its finding; the folders that they were in stay until `tidy`, others may be using them.

        Raises:
            NotWritableError: The disk refused.
        """
        with disk_errors(self._folder):
            for name in (held.name, f"{held.name}{_NOTE}"):
                (self._folder / name).unlink(missing_ok=True)
