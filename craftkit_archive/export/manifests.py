"""The manifests, tables, seal and pages of an export."""

import io
import tempfile
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from craftkit_archive.catalog.exports import member_of
from craftkit_archive.errors import disk_errors
from craftkit_archive.export import bagit as bag
from craftkit_archive.export.index import INDEX_COLUMNS, IndexRow, Volume, csv_line
from craftkit_archive.export.pages import Pages, page_name
from craftkit_archive.export.reader import (
    DECLARATION,
    INDEX,
    MANIFEST,
    MISSING,
    ODD,
    SEAL,
    SIGNATURE,
    TAG_MANIFEST,
    TIMESTAMP,
)
from craftkit_archive.export.targets import OwnFiles
from craftkit_archive.proof.seal import SealBuilder
from craftkit_archive.stores.base import CHUNK_BYTES, Stored, digest

MISSING_COLUMNS = ("render_id", "project_id", "project_slug", "asset_key", "reason", "detail",
                   "acknowledged")  # fmt: skip
ODD_COLUMNS = ("path", "render_id", "asset_key", "detail")


class Manifests:
    """The manifests and pages of one export, kept in temporary files until they are complete; a context manager.

    Args:
        archive_id: Id of the archive whose PDFs are exported.
        title: Title of the pages.
        bag_info: Labels and values for bag-info.txt; None makes no bag.
        folder: Where the temporary files are created; None for the system's temporary folder.
        volume: Which part of the export this is.
        today: The date (YYYY-MM-DD), for bag-info.txt.
        vouchers: By name, the files that vouch for `seal.txt` (signature, timestamp), each as a function that makes the
            file's bytes from those of `seal.txt`.
    """

    def __init__(
        self,
        archive_id: str,
        *,
        title: str,
        bag_info: Sequence[tuple[str, str]] | None,
        folder: Path | None,
        volume: Volume,
        today: str,
        vouchers: Mapping[str, Callable[[bytes], bytes]] = MappingProxyType({}),
    ) -> None:
        self._archive_id = archive_id
        self._bag_info = bag_info
        self._folder = folder
        self._volume = volume
        self._today = today
        self._vouchers = vouchers
        self._stack = ExitStack()
        self._pages = Pages(self._open, title, volume)
        self._missing_count = 0
        self._odd_count = 0
        self._modified = 0
        self.count = self.size_bytes = 0
        self.members = array("Q")

    def _open(self) -> BinaryIO:
        return self._stack.enter_context(tempfile.TemporaryFile(dir=self._folder))

    def __enter__(self) -> "Manifests":
        with disk_errors(self._folder or tempfile.gettempdir()):
            self._seal = self._stack.enter_context(SealBuilder())
            self._manifest, self._index, self._missing, self._odd = (self._open() for _ in range(4))
            self._index.write(csv_line(INDEX_COLUMNS).encode())
            self._missing.write(csv_line(MISSING_COLUMNS).encode())
            self._odd.write(csv_line(ODD_COLUMNS).encode())
        return self

    def __exit__(self, *_error: object) -> None:
        with suppress(OSError):  # what a full disk did not take is not missed here
            self._stack.close()

    def add(self, held: Sequence[tuple[IndexRow, str, int]]) -> None:
        """Record exported PDFs: for each its cells, their line by `csv_line`, and its time (seconds since 1970)."""
        self.count += len(held)
        self._modified = max(self._modified, *(modified for _, _, modified in held), 0)
        self.members.extend(member_of(cells.render_id) for cells, _, _ in held)
        with disk_errors(self._folder or tempfile.gettempdir()):
            self._manifest.write("".join(bag.manifest_line(cells.sha256, cells.path) for cells, _, _ in held).encode())
            self._index.write("".join(line for _, line, _ in held).encode())
            for cells, _, _ in held:
                size = int(cells.size_bytes)
                self.size_bytes += size
                self._seal.add(cells.sha256, cells.asset_key)
                self._pages.add(cells, size)

    def lack(self, cells: Sequence[str]) -> None:
        """Record a missing render; its cells are in the order of `MISSING_COLUMNS`."""
        self._missing_count += 1
        with disk_errors(self._folder or tempfile.gettempdir()):
            self._missing.write(csv_line(cells).encode())

    def note_odd(self, cells: IndexRow, odd: str) -> None:
        """Record what was odd about an exported PDF when it arrived in the archive."""
        self._odd_count += 1
        with disk_errors(self._folder or tempfile.gettempdir()):
            self._odd.write(csv_line((cells.path, cells.render_id, cells.asset_key, odd)).encode())

    def store(self, target: OwnFiles) -> str:
        """Write all of them into the export, the manifest last, and return the seal."""
        with disk_errors(self._folder or tempfile.gettempdir()):
            return self._store(target)

    def _store(self, target: OwnFiles) -> str:
        seal = self._seal.result()
        own: list[tuple[str, BinaryIO]] = [(INDEX, self._index)]
        if self._missing_count or not target.removes:  # an earlier one must not stay
            own.append((MISSING, self._missing))
        else:
            target.remove(MISSING)
        if self._odd_count or not target.removes:
            own.append((ODD, self._odd))
        else:
            target.remove(ODD)
        pages = self._pages.finish(self._missing_count)
        own += pages
        for number in count(len(pages)):
            if not target.remove(page_name(number)):
                break
        own.append((SEAL, io.BytesIO(self._sealed(seal))))
        for name in (SIGNATURE, TIMESTAMP):
            if name in self._vouchers:
                own.append((name, io.BytesIO(self._vouchers[name](self._sealed(seal)))))
            else:
                target.remove(name)  # one of an earlier seal
        if self._bag_info is not None:
            if not self.count:
                target.add(bag.PAYLOAD, io.BytesIO(), self._modified)
            own += [(DECLARATION, io.BytesIO(bag.DECLARATION_TEXT)), (bag.INFO, io.BytesIO(self._info(seal)))]
        written = [(path, self._put(target, path, file)) for path, file in own]
        lines = "".join(bag.manifest_line(stored.sha256, path) for path, stored in written).encode()
        if self._bag_info is None:
            self._manifest.write(lines)
        else:
            held = digest(_rewound(self._manifest))
            tags = lines + bag.manifest_line(held.sha256, MANIFEST).encode()
            self._put(target, TAG_MANIFEST, io.BytesIO(tags))
        self._put(target, MANIFEST, self._manifest)
        return seal

    def _put(self, target: OwnFiles, path: str, file: BinaryIO) -> Stored:
        target.add(path, file, self._modified)
        return digest(_rewound(file))

    def _sealed(self, seal: str) -> bytes:
        said = {"Seal": seal, "PDFs": self.count, "Bytes": self.size_bytes, "Archive": self._archive_id}
        return "".join(f"{label}: {value}\n" for label, value in said.items()).encode()

    def _info(self, seal: str) -> bytes:
        fields = list(self._bag_info or ())
        if self._volume.total > 1:
            fields.append(("Bag-Count", f"{self._volume.number} of {self._volume.total}"))
            fields.append(("Bag-Group-Identifier", self._archive_id))
        fields += [
            ("Bagging-Date", self._today),
            ("External-Identifier", f"sha256:{seal}"),
            ("Payload-Oxum", f"{self.size_bytes}.{self.count}"),
        ]
        return bag.info(fields)


def _rewound(file: BinaryIO) -> Iterable[bytes]:
    file.seek(0)
    while chunk := file.read(CHUNK_BYTES):
        yield chunk
