"""Check: what arrives against what vouches for it, and what the store has against what is recorded of it."""

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

if TYPE_CHECKING:
    from craftkit_archive.records import Verdict  # what reads records takes long to import, and workers need none

IN_MEMORY_BYTES = 64 << 20
INSPECT_SECONDS = 60.0
INSPECT_MEMORY_BYTES = 4 << 30

Level = Literal["size", "digest", "pdf"]

ACCEPT_HINT = "nothing vouches for these bytes; if they are right, fetch them with --accept-odd"


class Recorded(NamedTuple):
    """What is recorded of an asset; None where nothing is."""

    key: str
    size_bytes: int | None
    sha256: str | None


class Task(NamedTuple):
    """Assets to check: the fields of `Recorded` of each. As plain tuples they are sent in a third of the time."""

    store: str
    level: Level
    assets: list[tuple[str, int | None, str | None]]


class Check(NamedTuple):
    """What was seen of one asset; `expected` and `found` are sizes or digests, as the verdict has it.

    `note` is what is odd about a PDF that is good otherwise.
    """

    position: int
    verdict: Verdict
    expected: str | None = None
    found: str | None = None
    detail: str | None = None
    note: str | None = None


class Seen(NamedTuple):
    """What came of a task: the bytes read, and the checks that say more than `ok`; all others are `ok`.

    `looked_at` is how many of its assets, from the first on, it is about: fewer if the work was stopped.
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
    """What is known of bytes when the last of them has arrived.

    Attributes:
        ends: What passed by.
        told_bytes: The length that the source gave.
        declared_bytes: The length in the metadata, if any.
        mismatches: Which of the claims about their digests do not hold, each as a sentence.
        vouched: Whether a digest that does hold says what upstream stored.
    """

    ends: Ends
    told_bytes: int
    declared_bytes: int | None
    mismatches: Sequence[str]
    vouched: bool


def judge_arrival(arrival: Arrival, *, accept_odd: bool = False) -> tuple[Verdict, str] | None:
    """Say why bytes that arrived are not to be stored, or None if they are.

    What upstream really stored is never refused: bytes whose length and digest are vouched for are stored whatever they
    look like. Odd bytes are refused if nothing vouches for them, unless they are asked for. Bytes that contradict what
    vouches for them are always refused, and named by what is wrong with them, where that shows.
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
    """Check the assets of a task; each that is not good at the first look is looked at once more.

    Raises:
        RemoteError, StoreOfflineError: The store as a whole went away.
    """
    store = open_store(task.store)
    bytes_read, checks = 0, []
    check = partial(_check_asset, store, task.level)
    looks = map_threads(check, task.assets, store.lanes, stop=task_stop())
    for position, (read, seen) in enumerate(looks):
        bytes_read += read
        if seen is not None and (seen.verdict != "ok" or seen.note):
            checks.append(Check(position, seen.verdict, *seen[2:]))
    return Seen(bytes_read, checks, len(looks))


def _check_asset(store: Store, level: Level, fields: tuple[str, int | None, str | None]) -> tuple[int, _Look | None]:
    """Check one asset, and return the bytes read, and what was seen if it is not plainly good."""
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
        # Whether the whole store is down, or keeps failing for this asset alone.
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
    """Compare what was read with what is recorded; what differs in size is not compared by digest."""
    if asset.size_bytes not in (None, stored.size_bytes):
        return _Look("wrong-size", 0, str(asset.size_bytes), str(stored.size_bytes))
    if asset.sha256 is None:
        return _Look("unverified", 0, None, stored.sha256, "no digest is recorded")
    if asset.sha256 != stored.sha256:
        return _Look("wrong-digest", 0, asset.sha256, stored.sha256)
    return _Look("ok")


def _look_at(store: Store, level: Level, asset: Recorded, *, again: bool = False) -> _Look:
    """Look at an asset, and where it is not as recorded, for the cause; a second look is at the disk itself."""
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
    # A key that the store cannot hold, or that a link leads out of it, has no bytes there.
    if isinstance(error, (AssetMissingError, AssetKeyError)):
        verdict = "missing"
    elif isinstance(error, AssetDamagedError):
        verdict = "not-a-file"
    elif isinstance(error, AssetUnavailableError):
        verdict = "unavailable"
    return _Look(verdict, detail=str(error).removeprefix(f"{key} "))


def _name_cause(store: Store, asset: Recorded, look: _Look, ends: Ends) -> _Look:
    """Name the cause where the bytes show one; what has no header is looked into, for some readers need none."""
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
    # Only a shorter file was cut; and one flipped bit in the header does not make it something else.
    shorter = asset.size_bytes is not None and ends.size_bytes < asset.size_bytes
    closed = structure is not None and structure.opens is False
    if cause == "empty" or (cause == "truncated" and shorter) or (cause == "not-a-pdf" and closed):
        return look._replace(verdict=cause, detail=detail)
    return look


def _judge(asset: Recorded, look: _Look, ends: Ends, structure: Structure) -> _Look:
    """Say what the structure of a PDF adds to the comparison of its bytes.

    What has its digest is what was stored: it is `malformed` if each reader looked into it and none opens it, and odd
    at most otherwise. What has another digest was changed since, and cannot be malformed by birth.
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
    """Read a stream once, and keep it: small ones in memory, large ones in a file, whose name is given."""
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
    """Look into a PDF with each reader, in processes that may die of it.

    A reader that dies, hangs or wants too much memory is not the PDF's fault: the PDF was not examined, that is all.
    """
    return combine({name: _seen_by(name, body) for name in READERS})


def _seen_by(name: str, body: bytes | str) -> Structure:
    try:
        return _reader(name)(body)
    except (TimeoutError, ChildProcessError) as error:
        return Structure(None, None, (str(error),))


@cache
def _reader(name: str) -> IsolatedProcess[bytes | str, Structure]:
    # A process for each: the death of one must not take the other's answer along.
    return IsolatedProcess(READERS[name], seconds=INSPECT_SECONDS, memory_bytes=INSPECT_MEMORY_BYTES)
