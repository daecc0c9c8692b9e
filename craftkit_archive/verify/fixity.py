"""Checks single assets: arriving bytes against what vouches for them, stored bytes against what is recorded."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from hashlib import sha256
from typing import IO, TYPE_CHECKING, Literal, NamedTuple

from craftkit_archive.errors import (
    AssetDamagedError,
    AssetError,
    AssetKeyError,
    AssetMissingError,
    AssetUnavailableError,
    RemoteError,
    disk_errors,
)
from craftkit_archive.parallel.isolated import IsolatedProcess
from craftkit_archive.parallel.pool import task_stop
from craftkit_archive.parallel.threads import map_threads
from craftkit_archive.pdf.ends import Ends
from craftkit_archive.pdf.readers import READERS, Structure, combine
from craftkit_archive.stores.address import open_store
from craftkit_archive.stores.base import Store, Stored, digest
from craftkit_archive.stores.reach import check_still_there

if TYPE_CHECKING:
    from craftkit_archive.records import Verdict  # `records` takes long to import, and workers do not need it

IN_MEMORY_BYTES = 64 << 20
INSPECT_SECONDS = 60.0
INSPECT_MEMORY_BYTES = 4 << 30

Level = Literal["size", "digest", "pdf"]

ACCEPT_HINT = "nothing vouches for these bytes; if they are right, fetch them with --accept-odd"


class Recorded(NamedTuple):
    """What is recorded about an asset: size in bytes and digest, None where unknown."""

    key: str
    size_bytes: int | None
    sha256: str | None


class Task(NamedTuple):
    """Assets to check, each as the fields of `Recorded`: plain tuples are sent to a worker in a third of the time."""

    store: str
    level: Level
    assets: list[tuple[str, int | None, str | None]]


class Check(NamedTuple):
    """The result of checking one asset.

    Attributes:
        position: Its place in the task.
        verdict: What the check found.
        expected: The recorded size or digest, whichever the verdict is about.
        found: The size or digest that was read.
        detail: The reason, in words.
        note: What is odd about a PDF that is otherwise good.
    """

    position: int
    verdict: Verdict
    expected: str | None = None
    found: str | None = None
    detail: str | None = None
    note: str | None = None


class Seen(NamedTuple):
    """The result of a task.

    Attributes:
        bytes_read: How many bytes were read.
        checks: The checks with another verdict than `ok`, or with a note; all others are `ok`.
        looked_at: How many of the assets, from the first on, were checked: fewer if the work was stopped.
    """

    bytes_read: int
    checks: list[Check]
    looked_at: int


class _Look(NamedTuple):
    """One look at an asset."""

    verdict: Verdict
    bytes_read: int = 0
    expected: str | None = None
    found: str | None = None
    detail: str | None = None
    note: str | None = None


class Arrival(NamedTuple):
    """What is known about the bytes of an asset once all of them have arrived.

    Attributes:
        ends: Their beginning, end and size.
        told_bytes: The length that the source gave.
        declared_bytes: The length in the metadata, if any.
        mismatches: The claims about their digests that are false, each as a sentence.
        vouched: Whether a matching digest proves that upstream stored these bytes.
    """

    ends: Ends
    told_bytes: int
    declared_bytes: int | None
    mismatches: Sequence[str]
    vouched: bool


def judge_arrival(arrival: Arrival, *, accept_odd: bool = False) -> tuple[Verdict, str] | None:
    """Return the verdict and the reason for which bytes that arrived must not be stored; None if they may.

    Bytes whose length and digest are vouched for are stored whatever they look like, because upstream did store them.
    Odd bytes that nothing vouches for are refused unless `accept_odd` is set. Bytes that contradict a length or digest
    are always refused; the verdict names the visible cause, such as `truncated`, if there is one.
    """
    size = arrival.ends.size_bytes
    if size != arrival.told_bytes:
        return "wrong-size", f"it has {arrival.told_bytes} bytes, and {size} arrived"
    symptom = arrival.ends.symptom()
    contradiction: tuple[Verdict, str] | None = None
    if arrival.declared_bytes not in (None, size):
        contradiction = "wrong-size", f"it has {size} bytes, and {arrival.declared_bytes} are declared"
    elif arrival.mismatches:
        contradiction = "wrong-digest", arrival.mismatches[0]
    if contradiction is not None:
        return contradiction if symptom is None else (symptom[0], f"{symptom[1]}; {contradiction[1]}")
    if symptom is None or arrival.vouched or accept_odd:
        return None
    return symptom[0], f"{symptom[1]}; {ACCEPT_HINT}"


def check_assets(task: Task) -> Seen:
    """Check the assets of a task; one that fails is read a second time before it is reported.

    Raises:
        RemoteError, StoreOfflineError: The whole store is gone.
    """
    store = open_store(task.store)
    bytes_read, checks = 0, []
    check = partial(_check_asset, store, task.level)
    looks = map_threads(check, task.assets, store.lanes, stop=task_stop())
    if any(seen is not None and seen.verdict == "missing" for _, seen in looks):
        check_still_there(store)
    for position, (read, seen) in enumerate(looks):
        bytes_read += read
        if seen is not None and (seen.verdict != "ok" or seen.note):
            checks.append(Check(position, seen.verdict, *seen[2:]))
    return Seen(bytes_read, checks, len(looks))


def _check_asset(store: Store, level: Level, fields: tuple[str, int | None, str | None]) -> tuple[int, _Look | None]:
    """Check one asset; return the bytes read and, unless it is plainly good, the result."""
    key, size_bytes, expected = fields
    try:
        read = 0
        if level == "digest":
            try:
                stored = store.measure(key)
            except AssetError as error:
                look = _look_failed(error, key)
            else:
                read = stored.size_bytes
                if stored.sha256 == expected and size_bytes in (None, read):
                    return read, None
                look = _compare(Recorded(*fields), stored)
        else:
            look = _look_at(store, level, Recorded(*fields))
        seen = _confirm(store, level, Recorded(*fields), look)
    except RemoteError as error:
        # Raises if the whole store is down; otherwise it keeps failing for this asset alone.
        store.check()
        return 0, _Look("unavailable", detail=str(error))
    return read + seen.bytes_read, seen


def _confirm(store: Store, level: Level, asset: Recorded, first: _Look) -> _Look:
    if first.verdict in ("ok", "unverified", "malformed"):
        return first
    second = _look_at(store, level, asset, again=True)
    if second.verdict not in ("ok", "malformed"):
        return second
    detail = f"{first.verdict} on the first reading, good on the second: look at the disk and the memory"
    return _Look("unreadable", second.bytes_read, first.expected, first.found, detail)


def _compare(asset: Recorded, stored: Stored) -> _Look:
    """Compare what was read with what is recorded, first by size, then by digest."""
    if asset.size_bytes not in (None, stored.size_bytes):
        return _Look("wrong-size", 0, str(asset.size_bytes), str(stored.size_bytes))
    if asset.sha256 is None:
        return _Look("unverified", 0, None, stored.sha256, "no digest is recorded")
    if asset.sha256 != stored.sha256:
        return _Look("wrong-digest", 0, asset.sha256, stored.sha256)
    return _Look("ok")


def _look_at(store: Store, level: Level, asset: Recorded, *, again: bool = False) -> _Look:
    """Check an asset and, if it is not as recorded, look for the cause; with `again`, read past the page cache."""
    try:
        if level == "size":
            size_bytes = store.find(asset.key).size_bytes
            if asset.size_bytes is None:
                return _Look("unverified", detail="no size is recorded")
            if asset.size_bytes == size_bytes:
                return _Look("ok")
        with store.open(asset.key) as found:
            ends = Ends()
            chunks = ends.watch((found.from_disk() if again else found).chunks())
            if level == "pdf":
                with _kept(chunks) as (stored, body):
                    return _judge(asset, _compare(asset, stored), ends, _inspected(body))
            stored = digest(chunks)
        look = _compare(asset, stored)._replace(bytes_read=stored.size_bytes)
        return look if look.verdict in ("ok", "unverified") else _name_cause(store, asset, look, ends)
    except AssetError as error:
        return _look_failed(error, asset.key)


def _look_failed(error: AssetError, key: str) -> _Look:
    verdict: Verdict = "unreadable"
    # If the store cannot hold the key, or a link leads out of the store, there are no bytes.
    if isinstance(error, (AssetMissingError, AssetKeyError)):
        verdict = "missing"
    elif isinstance(error, AssetDamagedError):
        verdict = "not-a-file"
    elif isinstance(error, AssetUnavailableError):
        verdict = "unavailable"
    return _Look(verdict, detail=str(error).removeprefix(f"{key} "))


def _name_cause(store: Store, asset: Recorded, look: _Look, ends: Ends) -> _Look:
    """Name the cause if the bytes show one. Without a header, the PDF readers are asked, since some do not need it."""
    symptom = ends.symptom()
    if symptom is not None and symptom[0] == "not-a-pdf":
        with store.open(asset.key) as found, _kept(found.chunks()) as (_, body):
            return _caused(asset, look, ends, _inspected(body))
    return _caused(asset, look, ends, None)


def _caused(asset: Recorded, look: _Look, ends: Ends, structure: Structure | None) -> _Look:
    symptom = ends.symptom()
    if symptom is None:
        return look
    cause, detail = symptom
    # A file counts as truncated only if it is shorter than recorded. And a flipped bit in the header does not make it
    # another type of file, so it is `not-a-pdf` only if no reader opens it.
    shorter = asset.size_bytes is not None and ends.size_bytes < asset.size_bytes
    closed = structure is not None and structure.opens is False
    if cause == "empty" or (cause == "truncated" and shorter) or (cause == "not-a-pdf" and closed):
        return look._replace(verdict=cause, detail=detail)
    return look


def _judge(asset: Recorded, look: _Look, ends: Ends, structure: Structure) -> _Look:
    """Add the findings of the PDF readers to the result of the comparison.

    A PDF with the recorded digest is what was stored: it is `malformed` if all readers examined it and none opens it,
    and otherwise odd at most. A PDF with another digest was changed since, so it is damaged rather than malformed.
    """
    look = look._replace(bytes_read=ends.size_bytes)
    closed = structure.opens is False
    if look.verdict in ("wrong-size", "wrong-digest"):
        look = _caused(asset, look, ends, structure)
        if look.detail is None and closed:
            look = look._replace(detail=f"it does not open any more: {'; '.join(structure.oddities)}")
        return look
    symptom = ends.symptom()
    oddities = [*([symptom[1]] if symptom else []), *structure.oddities]
    if closed:
        known = "it is what was stored" if look.verdict == "ok" else "no digest says what was stored"
        return look._replace(verdict="malformed", detail=f"nothing opens it, and {known}: {'; '.join(oddities)}")
    return look._replace(note="; ".join(oddities) or None)


@contextmanager
def _kept(chunks: Iterable[bytes]) -> Iterator[tuple[Stored, bytes | str]]:
    """Read a stream once and keep it in memory or, if it is large, in a temporary file; yield the bytes or the name."""
    hashed, size, held = sha256(), 0, bytearray()
    with ExitStack() as stack:
        file = None
        for chunk in chunks:
            hashed.update(chunk)
            size += len(chunk)
            if file is None and size <= IN_MEMORY_BYTES:
                held += chunk
                continue
            with disk_errors("a temporary file (TMPDIR names its folder)"):
                if file is None:
                    file = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".pdf", buffering=0))
                    _write_all(file, held)
                    held.clear()
                _write_all(file, chunk)
        yield Stored(size, hashed.hexdigest()), bytes(held) if file is None else file.name


def _write_all(file: IO[bytes], data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
    view.release()


def _inspected(body: bytes | str) -> Structure:
    """Examine a PDF with each reader, in separate processes that it may crash.

    If a reader crashes, hangs or uses too much memory, the PDF counts as not examined by it, not as damaged.
    """
    return combine({name: _seen_by(name, body) for name in READERS})


def _seen_by(name: str, body: bytes | str) -> Structure:
    try:
        return _reader(name)(body)
    except (TimeoutError, ChildProcessError) as error:
        return Structure(None, None, (str(error),))


@cache
def _reader(name: str) -> IsolatedProcess[bytes | str, Structure]:
    # A process for each reader, so that the crash of one does not lose the other's answer.
    return IsolatedProcess(READERS[name], seconds=INSPECT_SECONDS, memory_bytes=INSPECT_MEMORY_BYTES)
