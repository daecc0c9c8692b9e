"""Import: brings records from files and databases into the catalog, and reports those that are refused."""

import os
import stat
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import msgspec

from craftkit_archive.archive import Archive, Run
from craftkit_archive.catalog.imports import COLUMNS
from craftkit_archive.decoding import DecodedItem, LineReader, read_record, snake
from craftkit_archive.errors import RequestError, disk_errors
from craftkit_archive.importer.cautions import OWING_LOOKED_AT, describe_next, find_cautions
from craftkit_archive.importer.files import FileForm, read_source
from craftkit_archive.importer.json_values import read_line, unwrap_reject
from craftkit_archive.importer.kinds import refuse_other_kind
from craftkit_archive.importer.merge import STATUS, ColumnValues, Declared, Merge, OnDuplicate
from craftkit_archive.importer.postgres import is_database, read_table
from craftkit_archive.importer.streams import Block, Span
from craftkit_archive.parallel.batches import Stop, in_batches, never
from craftkit_archive.parallel.pool import default_jobs, map_ordered, processes
from craftkit_archive.records import (
    KINDS,
    Caution,
    Incoming,
    Kind,
    Plan,
    Progress,
    Refusal,
    RefusedError,
    Reject,
    Render,
    Summary,
    one_of,
)
from craftkit_archive.retention.rules import keep_held
from craftkit_archive.values import hide, mask, without_password

TRANSACTION_RECORDS = 10_000
# A file with fewer blocks than this is read in this process: starting another one would take as long.
INLINE_BLOCKS = 4

R = TypeVar("R")


class _ReadTask(NamedTuple):
    kind: Kind
    project_id: str | None
    source: str
    piece: Block | Span | list[DecodedItem]


class _Read(msgspec.Struct, array_like=True):
    """The content of a piece of a file.

    Attributes:
        source: The file's name.
        rows: Line number, row, and what the record declares about its asset.
        rejects: Line number, reason, and the record as JSON.
    """

    source: str
    rows: list[tuple[int, ColumnValues, Declared | None]]
    rejects: list[tuple[int, Refusal, str]]


class _Discard(Exception):
    pass


def import_records(
    archive: Archive,
    kind: Kind,
    sources: Sequence[str],
    *,
    form: FileForm | None = None,
    null: str | None = None,
    table: str | None = None,
    where: str | None = None,
    project: str | None = None,
    on_duplicate: OnDuplicate = "update",
    all_or_nothing: bool = False,
    dry_run: bool = False,
    stop: Stop = never,
) -> Iterator[Plan | Progress | Reject | Caution | Summary]:
    """Bring the records of files, or of the tables of a database, into the catalog.

    Importing the same records again changes nothing. Records are committed in transactions of about 10,000, so that
    after an interruption the next call does the rest.

    Args:
        archive: Open for writing.
        kind: The kind of the records.
        sources: Paths, `-` for standard input, or `postgresql://…`, whose password is neither recorded nor shown.
        form: The form of the files; recognized by their content if not given.
        null: The text that stands for null in a table, instead of the usual one for its form.
        table: The table of a database or a dump to read; by default the one that Craftkit has for this kind.
        where: An SQL condition; only rows of a database for which it is true are read.
        project: Id or slug of the project of records that name none.
        on_duplicate: What becomes of a record whose id exists already. `update`: its fields replace the existing ones,
            except for fields that are missing or null; a render's state never goes back, and a record with an earlier
            state, or with an earlier `updated_at`, only adds what is missing; a revoked key stays revoked. `skip`: the
            existing record stays as it is. `fail`: the new one is refused.
        all_or_nothing: Whether a single refused record keeps all of them out.
        dry_run: Whether to roll everything back at the end.
        stop: Asked between batches.

    Yields:
        A `Reject` for each record that is refused; a `Progress` for each batch; a `Caution` for each sort of record
        that was accepted and will cause trouble later; at last the `Summary` with the counts read, inserted, updated,
        unchanged and rejected (and disposed, for renders that stay as their disposal left them; and, if all of them
        were kept out, discarded). `read` is the sum of the others.

    Raises:
        RequestError: A file or table cannot be read, or holds something else, or the project is unknown.
        StoreOfflineError, RemoteError: A database cannot be reached, or the connection broke.
        LockedError: Another command is writing.

    Example:
        >>> from craftkit_archive import Archive, import_records
        >>> with Archive("archive") as archive:
        ...     *_, summary = import_records(archive, "renders", ["renders.ndjson"])
        >>> summary.counts["inserted"], summary.counts["unchanged"]
        (1, 5)
    """
    one_of("kind", kind, Kind)
    one_of("way with duplicates", on_duplicate, OnDuplicate)
    if form is not None:
        one_of("form", form, FileForm)
    if where is not None and not any(map(is_database, sources)):
        raise RequestError("--where is for a database. Name one as postgresql://user@host/database.")
    arguments: dict[str, Any] = {
        "kind": kind,
        "files": list(map(without_password, sources)),
        "on_duplicate": on_duplicate,
    }
    arguments |= {
        name: value for name, value in (("null", null), ("table", table), ("where", where)) if value is not None
    }
    details: dict[str, Any] = {"dry_run": True} if dry_run else {}
    with archive.lock(f"import {kind}"), archive.run("import", arguments, dry=dry_run) as run:
        run.counts.update({"read": 0, "inserted": 0, "updated": 0, "unchanged": 0, "rejected": 0})
        project_id = _project_id(archive, project)

        def pieces(source: str) -> Iterator[Block | list[DecodedItem]]:
            if is_database(source):
                found: Iterator[Block | list[DecodedItem]] = read_table(
                    source, kind, table=table, where=where, stop=stop
                )
            else:
                found = read_source(source, kind=kind, form=form, null=null, table=table, stop=stop)
            return refuse_other_kind(found, kind, without_password(source))

        drawn = _Drawn()

        def drawn_tasks() -> Iterator[_ReadTask]:
            for source in sources:
                drawn.source = without_password(source)
                for piece in pieces(source):
                    drawn.size_bytes += len(piece.text) if isinstance(piece, Block) else 0
                    yield _ReadTask(kind, project_id, drawn.source, piece)

        tasks = drawn_tasks()
        if (size := _known_size(sources)) is not None:
            yield Plan(count=0, size_bytes=size)
        whole: AbstractContextManager[None] = nullcontext()
        reads = _read_all(tasks, stop)
        owing: list[str] = []  # the first imported renders that should have a PDF
        if all_or_nothing or dry_run:
            whole, reads = archive.catalog.transaction(), _spooled(reads)
        try:
            with whole:
                apply = partial(_apply, archive, kind, on_duplicate=on_duplicate, run=run, owing=owing)
                yield from _write_batches(archive, kind, reads, apply, drawn, stop)
                discard = all_or_nothing and (stop() or run.counts["rejected"])
                if not discard:
                    yield from (cautions := find_cautions(archive, kind))
                    details |= describe_next(archive, kind, owing, cautions)
                if dry_run or discard:
                    raise _Discard
        except _Discard:
            if not dry_run:
                run.counts["discarded"] = sum(run.counts.pop(name) for name in ("inserted", "updated", "unchanged"))
        run.settle(problems=run.counts["rejected"] > 0, stopped=stop())
    yield run.summary(**details)


class _Drawn:
    """What was drawn from the sources since the last `Progress`."""

    source = ""
    size_bytes = 0


def _write_batches(
    archive: Archive,
    kind: Kind,
    reads: Iterator[_Read],
    apply: Callable[[list[_Read]], list[Reject]],
    drawn: _Drawn,
    stop: Stop,
) -> Iterator[Reject | Progress]:
    """Write records to the catalog batch by batch, and report the refused ones."""
    with archive.catalog.filling(kind):
        for batch in in_batches(reads, TRANSACTION_RECORDS, weigh=_count, limit=TRANSACTION_RECORDS):
            yield from apply(batch)
            yield Progress(count=sum(map(_count, batch)), size_bytes=drawn.size_bytes, file=drawn.source)
            drawn.size_bytes = 0
            if stop():
                return


def _known_size(sources: Sequence[str]) -> int | None:
    """Return the number of bytes to read; None if only reading tells, as for pipes and gzip."""
    size = 0
    for source in sources:
        try:
            status = Path(source).stat()
            if source == "-" or not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
                return None
            with Path(source).open("rb") as file:
                if file.read(2) == b"\x1f\x8b":
                    return None
        except (OSError, ValueError):  # a database, or a fault that the import itself will report
            return None
        size += status.st_size
    return size


def _project_id(archive: Archive, project: str | None) -> str | None:
    if project is None:
        return None
    # An unknown id is accepted here: its records may arrive before its project.
    found = archive.catalog.find_projects(project)
    return archive.find_project(project) if len(found) > 1 else found[0] if found else project


def _read_all(tasks: Iterator[_ReadTask], stop: Stop) -> Iterator[_Read]:
    """Read pieces of files in order; if there are many, in other processes while this one writes."""
    first = list(islice(tasks, INLINE_BLOCKS))
    if len(first) < INLINE_BLOCKS or not isinstance(first[-1].piece, Block):
        yield from map(_read_batch, chain(first, tasks))
        return
    jobs = default_jobs()
    with processes(jobs) as executor:
        for _ in range(jobs):
            executor.submit(default_jobs)  # they start while this process reads the first pieces itself
        yield from map(_read_batch, first)
        for packed in map_ordered(executor, _read_packed, map(_lightened, tasks), jobs=jobs, stop=stop):
            yield msgspec.msgpack.decode(packed, type=_Read)


def _spooled(reads: Iterator[_Read]) -> Iterator[_Read]:
    """Read everything into a temporary file first, so that no transaction stays open while waiting for input."""
    with ExitStack() as stack, disk_errors(tempfile.gettempdir()):
        spool = stack.enter_context(tempfile.TemporaryFile())
        for read in reads:
            packed = msgspec.msgpack.encode(read)
            spool.write(len(packed).to_bytes(8) + packed)
        spool.seek(0)
        stack.pop_all()
    return _unspooled(spool)


def _unspooled(spool: IO[bytes]) -> Iterator[_Read]:
    with spool:
        while size := int.from_bytes(spool.read(8)):
            yield msgspec.msgpack.decode(spool.read(size), type=_Read)


def _lightened(task: _ReadTask) -> _ReadTask:
    piece = task.piece
    if isinstance(piece, Block) and piece.at is not None:
        return task._replace(piece=Span(piece.line, task.source, piece.at, len(piece.text), piece.inode))
    return task


def _count(read: _Read) -> int:
    return len(read.rows) + len(read.rejects)


def keep_rejects(records: Iterator[R], path: Path) -> Iterator[R]:
    """Pass records through, and write the rejects among them to a file as NDJSON, to be corrected and imported again.

    They are written to a temporary file, which replaces the named one at the end, so that an import that fails to begin
    leaves an earlier file alone. Only its owner can read the file, because it may hold personal data.

    Raises:
        NoSpaceError, NotWritableError: The disk refused.
    """
    with disk_errors(path):
        path = path.resolve()
        if path.exists() and not path.is_file():
            raise RequestError(f"Cannot write rejects to {path}: it is not a file. Name a file.")
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
        file, new = os.fdopen(descriptor, "wb"), Path(name)
    done = False
    try:
        with file:
            for record in records:
                if isinstance(record, Reject):
                    with disk_errors(new):
                        file.write(msgspec.json.encode(record) + b"\n")
                yield record
        done = True
    finally:
        with disk_errors(path):
            if done or new.stat().st_size:
                new.replace(path)
            else:
                new.unlink()


# --- into the catalog ------------------------------------------------------------------------------------------------


def _apply(
    archive: Archive, kind: Kind, batch: list[_Read], *, on_duplicate: OnDuplicate, run: Run, owing: list[str]
) -> list[Reject]:
    """Write a batch in one transaction, and return the refused records."""
    rejects = [
        _rejected(read.source, line, why, msgspec.json.decode(record))
        for read in batch
        for line, why, record in read.rejects
    ]
    counts = Counter(inserted=0, updated=0, unchanged=0)
    with archive.catalog.transaction():
        merge = Merge(archive.catalog, kind, [entry for read in batch for entry in read.rows], on_duplicate)
        if merge.all_new():
            counts["inserted"] = len(merge.changed)
            batch = []
        for read in batch:
            for line, row, declared in read.rows:
                if declared is None and merge.is_known(row):
                    counts["unchanged"] += 1
                    continue
                outcome, why = merge.add(row, declared)
                if why is None:
                    counts[outcome] += 1
                else:
                    rejects.append(_rejected(read.source, line, why, _as_record(kind, row)))
        keep_held(archive, merge.moved)
        archive.catalog.put(kind, merge.changed.values())
        archive.catalog.expect(merge.expected.values())
        archive.catalog.aim_disposal(merge.aims)
        if counts["inserted"] or counts["updated"]:
            archive.record_event(f"import {kind}", {**counts, "rejected": len(rejects)}, run=run.id)
    if kind == "renders" and len(owing) < OWING_LOOKED_AT:
        changed = (row[0] for row in merge.changed.values() if row[STATUS] == "succeeded")
        owing.extend(islice(changed, OWING_LOOKED_AT - len(owing)))
    run.counts.update(counts)
    run.counts["rejected"] += len(rejects)
    run.counts["read"] += sum(counts.values()) + len(rejects)
    return rejects


def _rejected(source: str, line: int, why: Refusal, record: Any) -> Reject:
    return Reject(source=source, line=line, reason=why.text, record=record, problem=why.problem)


def _as_record(kind: Kind, row: ColumnValues) -> dict[str, Any]:
    """Return a row as a record that can be corrected and imported again."""
    fields = {name: value for name, value in zip(COLUMNS[kind], row, strict=True) if value is not None}
    extra: dict[str, Any] = msgspec.json.decode(fields.pop("extra", "{}"))
    return fields | extra


# --- in the worker ---------------------------------------------------------------------------------------------------


def _read_packed(task: _ReadTask) -> bytes:
    return msgspec.msgpack.encode(_read_batch(task))


def _read_batch(task: _ReadTask) -> _Read:
    kind = KINDS[task.kind]
    columns = attrgetter(*COLUMNS[task.kind])
    lines = LineReader(kind, task.project_id)
    read = _Read(task.source, [], [])

    def look(item: DecodedItem) -> None:
        line, value, problem = item
        if problem is None:
            try:
                record = read_record(kind, value, project_id=task.project_id)
            except RefusedError as error:
                problem = error.refusal
            except UnicodeError:  # a name of a column that is not UTF-8
                problem = Refusal("not-utf-8", "expected UTF-8")
            except ValueError as error:
                problem = Refusal("wrong-value", str(error))
            except RecursionError:
                problem = Refusal("too-large", "expected fewer levels of nesting")
            else:
                read.rows.append((line, columns(record), _declared(record)))
                lines.learn(value)
                return
        read.rejects.append((line, problem._replace(text=mask(problem.text)), _masked(value)))

    unwrap = partial(unwrap_reject, kind=task.kind)
    piece = task.piece.read() if isinstance(task.piece, Span) else task.piece
    if isinstance(piece, Block):
        for line, text in enumerate(piece.text.split(b"\n"), piece.line):
            record = lines.read(text)
            if record is not None:
                read.rows.append((line, columns(record), _declared(record)))
            elif text and not text.isspace():
                for item in chain.from_iterable(map(unwrap, read_line(line, text, task.kind))):
                    look(item)
    else:
        for item in chain.from_iterable(map(unwrap, piece)):
            look(item)
    return read


def _declared(record: Incoming) -> Declared | None:
    if isinstance(record, Render) and (record.size_bytes is not None or record.sha256 is not None):
        return record.size_bytes, record.sha256
    return None


def _masked(value: Any) -> str:
    """Return a refused record as JSON, with API keys masked."""
    if isinstance(value, dict):
        value = {n: hide(v) if snake(n) == "key" and isinstance(v, str) else v for n, v in value.items()}
    try:
        return mask(msgspec.json.encode(value).decode())
    except (RecursionError, ValueError):
        return "null"
