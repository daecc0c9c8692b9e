"""Packed volumes that a worker writes as a whole: a zip or tar as one stream, into a folder or a bucket.

A worker cannot make the manifests: the catalog and the key that signs them are at the command. So a task carries the
export's own files, made as if every PDF were good, and the index among them says which PDFs to read. If a PDF is not
good, the worker writes nothing, checks the rest and returns what it found; the command makes the files again without
those PDFs, and sends the task a second time.
"""

import io
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import compress
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import msgspec

from craftkit_archive.archive import Archive
from craftkit_archive.durable import remove_unfinished, replaced_when_whole
from craftkit_archive.errors import (
    ArchiveError,
    AssetError,
    AssetMissingError,
    RemoteError,
    RequestError,
    disk_errors,
)
from craftkit_archive.export.destination import Destination
from craftkit_archive.export.index import IndexRow, read_cells
from craftkit_archive.export.packing import FORMS, Directory
from craftkit_archive.export.reader import INDEX, MARKER
from craftkit_archive.export.targets import CLAIM_TYPE, Claim, OwnFiles, check_claim, lock_part, part_path
from craftkit_archive.export.workers import Done, ExportItem, checked, modified_at, not_copied, open_stored
from craftkit_archive.overriding import override
from craftkit_archive.parallel.batches import in_batches
from craftkit_archive.parallel.pool import StoppedError, task_stop
from craftkit_archive.parallel.threads import map_threads, prefetch
from craftkit_archive.stores.address import open_store, split_object
from craftkit_archive.stores.base import CHUNK_BYTES, Store
from craftkit_archive.stores.reach import prove_token

# How many PDFs, or bytes of them, are read at a time, in lanes, while the batch before is written.
BATCH = 256
BATCH_BYTES = 8 << 20
_DEFLATED_BYTES = 64 << 10


# --- the files that travel with a task -------------------------------------------------------------------------------


class PackedFile(NamedTuple):
    """One of an export's own files, compressed for sending; `size_bytes` and `crc` are of the uncompressed bytes."""

    path: str
    modified: int
    size_bytes: int
    crc: int
    deflated: bytes

    def chunks(self) -> Iterator[bytes]:
        """Yield the uncompressed bytes."""
        # In slices: of what it cannot take at once, zlib makes a copy each time.
        inflate, deflated = zlib.decompressobj(), memoryview(self.deflated)
        for start in range(0, len(deflated), _DEFLATED_BYTES):
            yield inflate.decompress(deflated[start : start + _DEFLATED_BYTES])
        yield inflate.flush()


class CollectedFiles(OwnFiles):
    """The own files of a volume, in the order in which they are to be written."""

    removes = True  # there is never anything to remove

    def __init__(self) -> None:
        self.files: list[PackedFile] = []

    @override
    def add(self, path: str, file: BinaryIO, modified: int) -> None:
        # At the fastest level: the files are compressed only to be sent to a worker.
        deflate, crc, pieces = zlib.compressobj(1), 0, []
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        for chunk in iter(partial(file.read, CHUNK_BYTES), b""):
            crc = zlib.crc32(chunk, crc)
            pieces.append(deflate.compress(chunk))
        pieces.append(deflate.flush())
        self.files.append(PackedFile(path, modified, size, crc, b"".join(pieces)))


# --- at a worker -----------------------------------------------------------------------------------------------------


class LeftOut(NamedTuple):
    """A PDF that a volume cannot contain: its path in the index, its render, and why."""

    path: str
    render_id: str
    done: Done


class VolumeDone(NamedTuple):
    """The result of a volume's task; one that is not written has PDFs that are left out, or the work is to end."""

    left_out: list[LeftOut]
    is_written: bool


class _LeftOutError(Exception):
    """A PDF cannot be copied, so the volume cannot be written as planned."""


class _TakenPDF(NamedTuple):
    """A PDF that was read: the result, and its bytes if they are the recorded ones."""

    render_id: str
    item: ExportItem
    done: Done
    body: BinaryIO


class VolumeTask(NamedTuple):
    """Write a packed volume.

    Attributes:
        store: Address of the store that the PDFs are in.
        form: `zip` or `tar`.
        address: Where the volume is written: a path, or the address of an object.
        prefix: A folder, with its slash, that everything is put into; empty for none.
        files: The export's own files, including the index.
        sync: Whether a file is flushed to the disk before it gets its name.
        lock: The file that the command has locked in the same folder; None in a bucket. A worker that does not see it
            sees another folder, or the command has ended.
    """

    store: str
    form: str
    address: str
    prefix: str
    files: list[PackedFile]
    sync: bool
    lock: str | None

    def run(self) -> VolumeDone:
        """Run the task: write the whole volume, or nothing."""
        left_out: list[LeftOut] = []
        pdfs = self._pdfs()
        if self.lock is not None:
            prove_token(*os.path.split(self.lock))
        try:
            try:
                _write_volume(self.address, self._chunks(pdfs, left_out), FORMS[self.form].media_type, sync=self.sync)
            except _LeftOutError:
                for pdf in pdfs:
                    pdf.body.close()
                    if pdf.done.outcome != "written":
                        left_out.append(_left_out(pdf))
                return VolumeDone(left_out, is_written=False)
        except StoppedError:
            return VolumeDone([], is_written=False)
        return VolumeDone([], is_written=True)

    def _chunks(self, pdfs: Iterator[_TakenPDF], left_out: list[LeftOut]) -> Iterator[bytes]:
        """Yield the volume from its first byte to its last."""
        form, at = FORMS[self.form], 0
        # What can fail in here is the disk of the temporary files; that of the volume is its writer's matter.
        with disk_errors(tempfile.gettempdir()), tempfile.TemporaryFile() as listing:
            directory = Directory(form, listing)

            def put(path: str, size: int, modified: int, crc: int, body: Iterable[bytes]) -> Iterator[bytes]:
                nonlocal at
                directory.record(self.prefix + path, size, modified, crc, at)
                for chunk in form.wrap(self.prefix + path, size, modified, crc, body):
                    at += len(chunk)
                    yield chunk

            for pdf in pdfs:
                with pdf.body as body:
                    if pdf.done.outcome != "written":
                        left_out.append(_left_out(pdf))
                        raise _LeftOutError
                    item, pieces = pdf.item, iter(partial(body.read, CHUNK_BYTES), b"")
                    yield from put(item.path, item.size_bytes, item.modified, pdf.done.crc, pieces)
            for file in self.files:
                yield from put(file.path, file.size_bytes, file.modified, file.crc, file.chunks())
            yield from directory.end(at)

    def _pdfs(self) -> Iterator[_TakenPDF]:
        """Yield the PDFs of the index, read and compared with their digests.

        Raises:
            StoppedError: The work is to end.
        """
        stop, lanes = task_stop(), open_store(self.store).lanes
        index = next(file for file in self.files if file.path == INDEX)
        batches = in_batches(_indexed(index), BATCH, weigh=lambda cells: int(cells.size_bytes), limit=BATCH_BYTES)
        # One batch ahead, so that the store does not wait while the target takes what was read.
        for _, read in prefetch(lambda batch: map_threads(self._take, batch, lanes), batches, 2):
            if stop():
                raise StoppedError
            yield from read()

    def _take(self, cells: IndexRow) -> _TakenPDF:
        modified = modified_at(cells.completed_at, cells.created_at)
        item = ExportItem(cells.asset_key, cells.sha256, int(cells.size_bytes), cells.path, modified)
        form, body = FORMS[self.form], cast("BinaryIO", io.BytesIO())
        try:
            with open_stored(self.store, item) as found:
                crc = 0
                with disk_errors(tempfile.gettempdir()):
                    if item.size_bytes > BATCH_BYTES:
                        body = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it is written
                    for chunk in checked(found, item):
                        crc = zlib.crc32(chunk, crc) if form.has_crc else 0
                        body.write(chunk)
                    body.seek(0)
        except AssetError as error:
            return _TakenPDF(cells.render_id, item, not_copied(error), body)
        return _TakenPDF(cells.render_id, item, Done("written", crc=crc), body)


def run_volume(task: VolumeTask) -> VolumeDone:
    """Run a task."""
    return task.run()


def _left_out(pdf: _TakenPDF) -> LeftOut:
    return LeftOut(pdf.item.path, pdf.render_id, pdf.done)


def _indexed(index: PackedFile) -> Iterator[IndexRow]:
    """Yield the rows of an index, without its header."""
    lines = io.TextIOWrapper(io.BufferedReader(_Chunked(index.chunks())), "utf-8", newline="")
    return iter(read_cells(lines))


class _Chunked(io.RawIOBase):
    """A readable file of chunks of bytes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__()
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read into a buffer and return how many bytes were read; 0 only at the end."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _write_volume(address: str, chunks: Iterable[bytes], media_type: str, *, sync: bool) -> None:
    """Write a file or an object that appears under its name only when it is complete."""
    if "://" not in address:
        _write_file(Path(address), chunks, sync=sync)
        return
    store, name = split_object(address)
    try:
        open_store(store).write(name, chunks, replace=True, media_type=media_type)
    except AssetError as error:  # the volume's own object failed, not a PDF
        raise RemoteError(str(error)) from error


def _write_file(path: Path, chunks: Iterable[bytes], *, sync: bool) -> None:
    # Beside a worker that was presumed dead and may still be writing the same volume, under another temporary name.
    with replaced_when_whole(path) as new, new.open("xb", buffering=CHUNK_BYTES) as file:
        for chunk in chunks:
            file.write(chunk)
        if sync:
            file.flush()
            os.fsync(file.fileno())


# --- at the command --------------------------------------------------------------------------------------------------


class VolumePlaces:
    """The places of an export's volumes while workers write them; a context manager.

    Args:
        archive: The archive whose PDFs are exported.
        destination: Where the export goes.
        addresses: The addresses of the volumes, and last that of the volume after them, which must not exist.

    Attributes:
        lock: The file that shows a worker that it sees the same folder (see `VolumeTask`).
    """

    def __init__(self, archive: Archive, destination: Destination, addresses: Sequence[str]) -> None:
        self._archive = archive
        self._destination = destination
        self._addresses = addresses
        self.lock = None if destination.in_bucket else os.fspath(part_path(Path(addresses[0])))
        self._under_way: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> "VolumePlaces":
        """Lock the volumes' files, or mark the bucket as an export of this archive.

        Raises:
            LockedError: Another export is writing there.
            RequestError: Something else is there.
        """
        with ExitStack() as stack:
            if self._destination.store is None:
                self._take_files(stack, [Path(address) for address in self._addresses[:-1]])
            else:
                self._take_objects(open_store(self._destination.store))
                stack.callback(self._abort_all)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        """Unlock them, and remove what killed workers have left."""
        with suppress(OSError):
            self._stack.close()

    def begin(self, address: str) -> None:
        """Note that a worker may be writing a volume."""
        self._under_way.add(address)

    def settle(self, address: str) -> None:
        """Note that a volume is written, and abort the uploads of workers that died while writing it."""
        self._under_way.discard(address)
        if self._destination.in_bucket:
            _abort(address)

    def _take_files(self, stack: ExitStack, paths: Sequence[Path]) -> None:
        first = paths[0]
        with disk_errors(first):
            first.parent.mkdir(parents=True, exist_ok=True)
            lock_part(stack, first)
            # Another export on this machine locks only the volume that it is writing, so each is tried. Only one lock
            # is kept, because the number of open files is limited.
            for path in paths[1:]:
                with ExitStack() as tried:
                    lock_part(tried, path)
            remove = partial(remove_unfinished, first.parent, {path.name for path in paths})
            remove()
            stack.callback(remove)

    def _take_objects(self, store: Store) -> None:
        """Check by the marker that objects of these names belong to an export of this archive, and write the marker."""
        names = [split_object(address)[1] for address in self._addresses]
        there = map_threads(partial(_is_there, store), names, store.lanes)
        found = list(compress(names, there))
        marker = f".{split_object(self._destination.address)[1]}{MARKER}"
        claim = Claim(self._archive.id, self._destination.bag)
        try:
            with store.open(marker) as opened:
                check_claim(b"".join(opened.chunks()), claim, self._destination.address)
        except AssetMissingError:
            if found:
                check_claim(None, claim, self._destination.address)
        if names[-1] in found:
            raise RequestError(
                f"{names[-1]} is a volume too many, this export has only {len(names) - 1}. Remove it and those after"
                " it, or name another place."
            )
        store.write(marker, [msgspec.json.encode(claim)], replace=True, media_type=CLAIM_TYPE)

    def _abort_all(self) -> None:
        for address in self._under_way:
            _abort(address)


def _is_there(store: Store, name: str) -> bool:
    try:
        store.find(name)
    except AssetMissingError:
        return False
    return True


def _abort(address: str) -> None:
    store, name = split_object(address)
    with suppress(ArchiveError):  # a leftover upload does not make the volume incomplete
        open_store(store).abort_writes(name)
