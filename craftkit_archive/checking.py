"""Check an export without an archive: every file, every digest, nothing besides, and the seal."""

import csv
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from craftkit_archive.archive import Clock, Run, utc_now
from craftkit_archive.errors import AssetError
from craftkit_archive.exports import INDEX, MANIFEST, MARKER, MISSING, SEAL, TAG_MANIFEST, Export, open_part
from craftkit_archive.folder import INCOMING
from craftkit_archive.records import Finding, Plan, Progress, Record, Verdict
from craftkit_archive.seal import Sealing
from craftkit_archive.store import digest
from craftkit_archive.unpacking import Part
from craftkit_archive.values import format_time, mark_of
from craftkit_archive.work import Stop, in_batches, never, processes, spread, workers_for

BATCH = 256
BATCH_BYTES = 16 << 20
# What file managers leave behind wherever they look; no alarm is raised for it.
_HARMLESS = (".DS_Store", "Thumbs.db", "desktop.ini", MARKER)
_INCOMPLETE = ("unreadable",)


class _Look(NamedTuple):
    """A file to look at; `part` is None if it is not there."""

    path: str
    sha256: str
    part: Part | None


class _Seen(NamedTuple):
    verdict: Verdict
    found: str | None = None
    detail: str | None = None


def check_export(path: Path, *, jobs: int = 1, stop: Stop = never, clock: Clock = utc_now) -> Iterator[Record]:
    """Check an export of any form against its own manifests, index and seal; nothing is written.

    A file is read once more before it is accused.

    Args:
        path: The folder or file.
        jobs: How many processes read.
        stop: Asked between batches.
        clock: Tells the time, in UTC.

    Yields:
        `Plan`; a `Finding` for each file that is not what the export says, is not there, or is not listed (`orphan`);
        `Progress`; at last the `Summary`, whose counts are checked, ok, one for each other verdict, and lacking: how
        many renders the export itself says that it lacks. Its details have the seal.

    Raises:
        RequestError: There is no export.
        AssetUnreadableError: Its lists cannot be understood.
    """
    export = Export(path)
    run = Run(None, "export-check")
    run.counts.update({"checked": 0, "ok": 0})
    found = _findings(export, run, jobs, stop)
    for record in found:
        if isinstance(record, _Problem):
            run.counts[record.seen.verdict] += 1
            yield Finding(
                run_id=0,
                render_id=None,
                key=record.path.encode(errors="backslashreplace").decode(),  # of any bytes that a disk takes
                verdict=record.seen.verdict,
                found_at=format_time(clock()),
                expected=record.expected,
                found=record.seen.found,
                detail=record.seen.detail,
            )
        else:
            yield record
    lacking = _lacking(export)
    if lacking:
        run.counts["lacking"] = lacking
    bad = sum(run.counts.values()) - sum(run.counts[name] for name in ("checked", "ok", "lacking", *_INCOMPLETE))
    incomplete = lacking > 0 or any(run.counts[name] for name in _INCOMPLETE)
    run.settle(problems=bad > 0, incomplete=incomplete, stopped=stop())
    yield run.summary(export=str(path), bag=export.is_bag, seal=export.said().get("Seal"))


class _Problem(NamedTuple):
    path: str
    seen: _Seen
    expected: str | None = None


def _findings(export: Export, run: Run, jobs: int, stop: Stop) -> Iterator[Any]:
    """Yield the problems, between the plan and the progress."""
    count = size = 0
    for _, part in export.parts():
        count, size = count + 1, size + max(part.size_bytes, 0)
    yield Plan(count=count, size_bytes=size)
    listed, payload = array("Q"), 0
    jobs = workers_for(count, size, jobs)
    under_way: deque[list[_Look]] = deque()

    def batches() -> Iterator[list[_Look]]:
        nonlocal payload
        own = set(_own_papers(export))
        for batch in in_batches(_looks(export), BATCH, weigh=_weigh, limit=BATCH_BYTES):
            listed.extend(mark_of(look.path) for look in batch)
            payload += sum(mark_of(f"{look.sha256} {look.path}") for look in batch if look.path not in own)
            under_way.append(batch)
            yield batch

    with processes(jobs) as executor:
        for seen in spread(executor, _check_batch, batches(), jobs=jobs, stop=stop):
            batch = under_way.popleft()
            size = sum(_weigh(look) for look in batch)
            run.counts["checked"] += len(batch)
            run.bytes_read += size
            for look, one in zip(batch, seen, strict=True):
                if one.verdict == "ok":
                    run.counts["ok"] += 1
                else:
                    yield _Problem(look.path, one, look.sha256 if one.found else None)
            yield Progress(count=len(batch), size_bytes=size)
    if not stop():
        yield from _unlisted(export, sorted(listed))
        yield from _check_index(export, payload)


def _looks(export: Export) -> Iterator[_Look]:
    names = [MANIFEST, TAG_MANIFEST] if export.is_bag and export.find(TAG_MANIFEST) else [MANIFEST]
    for path, sha256 in chain.from_iterable(map(export.manifest, names)):
        try:
            yield _Look(path, sha256, export.find(path))
        except AssetError:  # it leads out
            yield _Look(path, sha256, None)


def _weigh(look: _Look) -> int:
    return look.part.size_bytes if look.part else 0


def _check_batch(batch: list[_Look]) -> list[_Seen]:
    return [_check(look) for look in batch]


def _check(look: _Look) -> _Seen:
    if look.part is None:
        return _Seen("missing")
    seen = [_read(look.path, look.part)]
    if seen[0].found != look.sha256:
        seen.append(_read(look.path, look.part))
    if seen[-1].found == look.sha256:
        return _Seen("ok") if len(seen) == 1 else _Seen("unreadable", detail="bad at first, good when read again")
    return seen[-1]


def _read(path: str, part: Part) -> _Seen:
    try:
        with open_part(path, part) as found:
            return _Seen("wrong-digest", digest(found.chunks()).sha256)
    except AssetError as error:
        return _Seen("unreadable", detail=str(error))


def _unlisted(export: Export, listed: list[int]) -> Iterator[_Problem]:
    """Find files that no manifest lists."""
    own = {MANIFEST, TAG_MANIFEST} if export.is_bag else {MANIFEST}
    for path, _ in export.parts():
        mark = mark_of(path)
        place = bisect_left(listed, mark)
        if place < len(listed) and listed[place] == mark:
            continue
        name = path.rpartition("/")[2]
        if path in own or name in _HARMLESS or name.startswith("._") or path.startswith(f"{INCOMING}/"):
            continue
        yield _Problem(path, _Seen("orphan", detail="no manifest lists it"))


def _check_index(export: Export, payload: int) -> Iterator[_Problem]:
    """Compare the index with the manifest, and the seal with the index."""
    if export.find(INDEX) is None:
        return
    with Sealing() as sealing:
        for listed in export.listed():
            payload -= mark_of(f"{listed.sha256} {listed.path}")
            sealing.add(listed.sha256, listed.asset_key or "")
        sealed = sealing.result()
    if payload != 0:
        yield _Problem(INDEX, _Seen("wrong-digest", detail="it lists other files than the manifest"))
    told = export.said().get("Seal")
    if told != sealed:
        yield _Problem(SEAL, _Seen("wrong-digest", sealed, "the seal is not that of the index"), told)


def _own_papers(export: Export) -> Iterator[str]:
    """Yield the names of what is no PDF of the export."""
    names = [TAG_MANIFEST] if export.is_bag else [MANIFEST]
    for name in names:
        if export.find(name):
            yield from (path for path, _ in export.manifest(name) if "/" not in path and not path.endswith(".pdf"))


def _lacking(export: Export) -> int:
    if export.find(MISSING) is None:
        return 0
    with export.text(MISSING) as lines:
        return max(sum(1 for _ in csv.reader(lines)) - 1, 0)
