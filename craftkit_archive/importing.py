"""Import: records from files into the catalog, and back to their sender what is refused."""

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from craftkit_archive.archive import Archive, Run
from craftkit_archive.catalog import COLUMNS
from craftkit_archive.reading import read_items
from craftkit_archive.records import KINDS, Kind, Progress, Reject, Summary, mask, read_record
from craftkit_archive.work import Stop, in_batches, never

BATCH = 5000
Row = tuple[Any, ...]

_RANK = {"queued": 0, "rendering": 1}
_FINAL = 2


class _Given(NamedTuple):
    """A record of a file: its row, or the reason why it is refused."""

    source: str
    line: int
    value: Any
    row: Row | None
    reason: str | None


def import_records(
    archive: Archive, kind: Kind, sources: Sequence[str], *, project: str | None = None, stop: Stop = never
) -> Iterator[Progress | Reject | Summary]:
    """Bring the records of files into the catalog; a record that is there already is brought up to date.

    It is idempotent: a field that a record lacks, or gives as null, keeps its value; a render's status never goes
    back; a revoked key stays revoked. Every batch of records is a transaction of its own.

    Args:
        archive: Open for writing.
        kind: What the files hold.
        sources: Paths, or `-` for standard input.
        project: Id or slug of the project of records that name none.
        stop: Asked between batches.

    Yields:
        A `Reject` for each record that is refused, a `Progress` for each batch, and at last the `Summary` with the
        counts read, inserted, updated, unchanged and rejected, of which the first is the sum of the rest.

    Raises:
        RequestError: A file cannot be read, or the project is unknown.
        LockedError: Another command is writing.
    """
    with archive.lock(f"import {kind}"), archive.run("import", {"kind": kind, "files": list(sources)}) as run:
        run.counts.update({"read": 0, "inserted": 0, "updated": 0, "unchanged": 0, "rejected": 0})
        project_id = _project_id(archive, project)
        for batch in in_batches(_given(kind, sources, project_id, stop), BATCH):
            rejects = _apply(archive, kind, batch, run)
            yield from rejects
            yield Progress(count=len(batch))
            if stop():
                break
        run.settle(problems=run.counts["rejected"] > 0, stopped=stop())
    yield run.summary()


def _project_id(archive: Archive, project: str | None) -> str | None:
    if project is None:
        return None
    # An id that nothing knows yet is fine here: its records may be the first to arrive.
    found = archive.catalog.find_projects(project)
    return archive.find_project(project) if len(found) > 1 else found[0] if found else project


def _given(kind: Kind, sources: Sequence[str], project_id: str | None, stop: Stop) -> Iterator[_Given]:
    columns = attrgetter(*COLUMNS[kind][:-1])
    for source in sources:
        for line, value, problem in read_items(source, stop=stop):
            row, reason = None, problem
            if problem is None:
                try:
                    record = read_record(KINDS[kind], value, project_id=project_id)
                    row = (*columns(record), _encode(record.extra))
                except ValueError as error:
                    reason = str(error)
                except RecursionError:
                    reason = "expected fewer levels of nesting"
            yield _Given(source, line, value, row, reason)


def _encode(extra: dict[str, Any]) -> str | None:
    return msgspec.json.encode(extra, order="deterministic").decode() if extra else None


def _apply(archive: Archive, kind: Kind, batch: list[_Given], run: Run) -> list[Reject]:
    rejects = []
    changed: dict[str, Row] = {}
    with archive.catalog.transaction():
        rows = [given.row for given in batch if given.row is not None]
        known = archive.catalog.known(kind, [row[0] for row in rows])
        hash_owners = archive.catalog.key_owners([row[4] for row in rows]) if kind == "keys" else {}
        for given in batch:
            reason = given.reason
            if given.row is not None:
                old = known.get(given.row[0])
                reason = _conflict(kind, old, given.row, hash_owners)
                if reason is None:
                    new = given.row if old is None else _merged(kind, old, given.row)
                    run.counts["inserted" if old is None else "unchanged" if new == old else "updated"] += 1
                    if new != old:
                        known[new[0]] = changed[new[0]] = new
            if reason is not None:
                run.counts["rejected"] += 1
                rejects.append(_reject(given, reason))
        archive.catalog.put(kind, changed.values())
        run.counts["read"] += len(batch)
    return rejects


def _conflict(kind: Kind, old: Row | None, new: Row, hash_owners: dict[str, str]) -> str | None:
    if kind == "projects":
        return None
    if old is not None and old[1] != new[1]:
        return f"project_id: expected {old[1]}, the project that this id belongs to already, got {new[1]!r}"
    if kind == "keys":
        owner = hash_owners.setdefault(new[4], new[0])
        if owner != new[0]:
            return f"key_hash: expected a key of its own, got that of {owner}"
        if old is not None and old[4] != new[4]:
            return "key_hash: expected the one that this id has already; a new key needs a new id"
    return None


def _merged(kind: Kind, old: Row, new: Row) -> Row:
    if old == new:
        return old
    columns = COLUMNS[kind]
    merged = [was if given is None else given for was, given in zip(old, new, strict=True)]
    if kind == "renders":
        status = columns.index("status")
        if _RANK.get(new[status], _FINAL) < _RANK.get(old[status], _FINAL):
            merged = [given if was is None else was for was, given in zip(old, new, strict=True)]
    if kind == "keys":
        revoked = columns.index("revoked_at")
        merged[revoked] = old[revoked] or new[revoked]
    if old[-1] is not None and new[-1] is not None and old[-1] != new[-1]:
        merged[-1] = _encode(msgspec.json.decode(old[-1]) | msgspec.json.decode(new[-1]))
    return tuple(merged)


def _reject(given: _Given, reason: str) -> Reject:
    try:
        text = msgspec.json.encode(given.value).decode()
        record = msgspec.json.decode(mask(text)) if "ck_" in text else given.value
    except RecursionError:
        record = None
    return Reject(source=given.source, line=given.line, reason=mask(reason), record=record)
