"""Import: records from files into the catalog, and back to their sender what is refused."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, islice
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import msgspec

from craftkit_archive.archive import Archive, Run
from craftkit_archive.catalog import COLUMNS, Expectation
from craftkit_archive.decoding import LineReader, encode_extra, read_record
from craftkit_archive.reading import Block, Form, Item, Span, read_line, read_source
from craftkit_archive.records import KINDS, Incoming, Kind, Progress, Reject, Render, Summary
from craftkit_archive.values import hide, mask
from craftkit_archive.work import Stop, default_jobs, never, processes, spread

TRANSACTION_RECORDS = 10_000
# A file with fewer blocks than this is read without a second process, which costs as much to start.
INLINE_BLOCKS = 4

OnDuplicate = Literal["update", "skip", "fail"]
Row = tuple[Any, ...]
Declared = tuple[int | None, str | None]  # size in bytes, digest

KEY_HASH = COLUMNS["keys"].index("key_hash")
REVOKED_AT = COLUMNS["keys"].index("revoked_at")
STATUS = COLUMNS["renders"].index("status")
ASSET_KEY = COLUMNS["renders"].index("asset_key")
UPDATED_AT = COLUMNS["projects"].index("updated_at")

_RANK = {"queued": 0, "rendering": 1}
_FINAL = 2


class _Task(NamedTuple):
    kind: Kind
    project_id: str | None
    source: str
    piece: Block | Span | list[Item]


class _Read(msgspec.Struct, array_like=True):
    """What a piece of a file holds: (line, row, what it declares of its asset), and (line, reason, record)."""

    source: str
    rows: list[tuple[int, Row, Declared | None]]
    rejects: list[tuple[int, str, Any]]


class _Discard(Exception):
    pass


def import_records(
    archive: Archive,
    kind: Kind,
    sources: Sequence[str],
    *,
    form: Form | None = None,
    project: str | None = None,
    on_duplicate: OnDuplicate = "update",
    all_or_nothing: bool = False,
    dry_run: bool = False,
    stop: Stop = never,
) -> Iterator[Progress | Reject | Summary]:
    """Bring the records of files into the catalog.

    It is idempotent, and whatever interrupts it, the next call does the rest: records land in transactions of about
    10,000.

    Args:
        archive: Open for writing.
        kind: What the files hold.
        sources: Paths, or `-` for standard input.
        form: What the files are; found by looking at them if not given.
        project: Id or slug of the project of records that name none.
        on_duplicate: What becomes of a record whose id is there already. `update`: its fields replace those that are
            there, but for fields that it lacks or gives as null; a render's state never goes back, and a record of an
            earlier state, or of an earlier `updated_at`, only adds what is missing; a revoked key stays revoked.
            `skip`: what is there stays as it is. `fail`: it is refused.
        all_or_nothing: Whether one refused record keeps all of them out.
        dry_run: Whether to do everything but let it stay.
        stop: Asked between batches.

    Yields:
        A `Reject` for each record that is refused, a `Progress` for each batch, and at last the `Summary` with the
        counts read, inserted, updated, unchanged and rejected (and, if all of them were kept out, discarded); read is
        the sum of the others.

    Raises:
        RequestError: A file cannot be read, or the project is unknown.
        LockedError: Another command is writing.
    """
    arguments = {"kind": kind, "files": list(sources), "on_duplicate": on_duplicate}
    with archive.lock(f"import {kind}"), archive.run("import", arguments, dry=dry_run) as run:
        run.counts.update({"read": 0, "inserted": 0, "updated": 0, "unchanged": 0, "rejected": 0})
        project_id = _project_id(archive, project)
        tasks = (
            _Task(kind, project_id, source, piece)
            for source in sources
            for piece in read_source(source, form=form, stop=stop)
        )
        whole: AbstractContextManager[None] = nullcontext()
        if all_or_nothing or dry_run:
            whole = archive.catalog.transaction()
        try:
            with whole:
                for batch in _in_transactions(_read_all(tasks, stop)):
                    rejects = _apply(archive, kind, batch, on_duplicate, run)
                    yield from rejects
                    yield Progress(count=sum(len(read.rows) + len(read.rejects) for read in batch))
                    if stop():
                        break
                if dry_run or (all_or_nothing and (stop() or run.counts["rejected"])):
                    raise _Discard
        except _Discard:
            if not dry_run:
                run.counts["discarded"] = sum(run.counts.pop(name) for name in ("inserted", "updated", "unchanged"))
        run.settle(problems=run.counts["rejected"] > 0, stopped=stop())
    yield run.summary(dry_run=True) if dry_run else run.summary()


def _project_id(archive: Archive, project: str | None) -> str | None:
    if project is None:
        return None
    # An id that nothing knows yet is fine here: its records may be the first to arrive.
    found = archive.catalog.find_projects(project)
    return archive.find_project(project) if len(found) > 1 else found[0] if found else project


def _read_all(tasks: Iterator[_Task], stop: Stop) -> Iterator[_Read]:
    """Read pieces of files in order; many of them in other processes, while this one writes."""
    first = list(islice(tasks, INLINE_BLOCKS))
    if len(first) < INLINE_BLOCKS or not isinstance(first[-1].piece, Block):
        yield from map(_read, chain(first, tasks))
        return
    jobs = default_jobs()
    with processes(jobs) as executor:
        for _ in range(jobs):
            executor.submit(default_jobs)  # they start while this process reads the first pieces itself
        yield from map(_read, first)
        for packed in spread(executor, _read_packed, map(_lightened, tasks), jobs=jobs, stop=stop):
            yield msgspec.msgpack.decode(packed, type=_Read)


def _lightened(task: _Task) -> _Task:
    piece = task.piece
    if isinstance(piece, Block) and piece.at is not None:
        return task._replace(piece=Span(piece.line, task.source, piece.at, len(piece.text)))
    return task


def _in_transactions(reads: Iterable[_Read]) -> Iterator[list[_Read]]:
    batch: list[_Read] = []
    size = 0
    for read in reads:
        batch.append(read)
        size += len(read.rows) + len(read.rejects)
        if size >= TRANSACTION_RECORDS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


# --- into the catalog ------------------------------------------------------------------------------------------------


def _apply(archive: Archive, kind: Kind, batch: list[_Read], on_duplicate: OnDuplicate, run: Run) -> list[Reject]:
    rejects = [
        Reject(source=read.source, line=line, reason=reason, record=record)
        for read in batch
        for line, reason, record in read.rejects
    ]
    counts = {"inserted": 0, "updated": 0, "unchanged": 0}
    with archive.catalog.transaction():
        merge = _Merge(archive, kind, [entry for read in batch for entry in read.rows], on_duplicate)
        if merge.all_new():
            counts["inserted"] = len(merge.changed)
            batch = []
        for read in batch:
            for line, row, declared in read.rows:
                if declared is None and merge.is_known(row):
                    counts["unchanged"] += 1
                    continue
                outcome, reason = merge.add(row, declared)
                if reason is None:
                    counts[outcome] += 1
                else:
                    rejects.append(Reject(source=read.source, line=line, reason=reason, record=_record(kind, row)))
        archive.catalog.put(kind, merge.changed.values())
        archive.catalog.expect(merge.expected.values())
    run.counts.update(counts)
    run.counts["rejected"] += len(rejects)
    run.counts["read"] += sum(counts.values()) + len(rejects)
    return rejects


class _Merge:
    """Decides what becomes of each row of a batch, next to what the catalog holds and the rows before it."""

    def __init__(
        self,
        archive: Archive,
        kind: Kind,
        entries: list[tuple[int, Row, Declared | None]],
        on_duplicate: OnDuplicate,
    ) -> None:
        catalog = archive.catalog
        self.changed: dict[str, Row] = {}
        self.expected: dict[str, Expectation] = {}
        self._kind = kind
        self._on_duplicate = on_duplicate
        ids = [row[0] for _, row, _ in entries]
        later = bool(ids) and min(ids) > catalog.last_id(kind)
        self._known = {} if later else catalog.known(kind, ids)
        self._hash_owners = catalog.key_owners([row[4] for _, row, _ in entries]) if kind == "keys" else {}
        self._entries = entries
        declaring = [row for _, row, declared in entries if declared is not None]
        self._declaring = bool(declaring)
        self._assets = {asset.render_id: asset for asset in catalog.expectations([row[0] for row in declaring])}
        self._claims = catalog.claimed_by([row[ASSET_KEY] for row in declaring]) if declaring else {}

    def all_new(self) -> bool:
        """Take all rows at once, if none is known, none comes twice, and none declares anything: a first import."""
        if self._known or self._declaring or self._kind == "keys":
            return False
        rows = {row[0]: row for _, row, _ in self._entries}
        if len(rows) < len(self._entries):
            return False
        self.changed = rows
        return True

    def is_known(self, row: Row) -> bool:
        """Say whether a row is there just like this: what most rows of a second import are."""
        return self._known.get(row[0]) == row and self._on_duplicate != "fail"

    def add(self, row: Row, declared: Declared | None) -> tuple[str, str | None]:
        """Return inserted, updated or unchanged; and a reason if the row is refused."""
        old = self._known.get(row[0])
        reason = self._conflict(old, row)
        if reason is not None:
            return "", reason
        skipped = old is not None and self._on_duplicate == "skip"
        new = row if old is None else old if skipped else _merged(self._kind, old, row)
        news = False
        if declared is not None and not skipped:
            news, reason = self._expect(new, *declared)
            if reason is not None:
                return "", reason
        if new is not old:
            self._known[new[0]] = self.changed[new[0]] = new
        return "inserted" if old is None else "updated" if news or new is not old else "unchanged", None

    def _conflict(self, old: Row | None, new: Row) -> str | None:
        if old is not None and self._kind != "projects" and old[1] != new[1]:
            return f"project_id: expected {old[1]}, the project that this id belongs to already, got {new[1]!r}"
        if self._kind == "keys":
            if old is not None and old[KEY_HASH] != new[KEY_HASH]:
                return "key_hash: expected the one that this id has already; a new key needs a new id"
            owner = self._hash_owners.get(new[KEY_HASH], new[0])
            if owner != new[0]:
                return f"key_hash: expected a key of its own, got that of {owner}"
        if old is not None and self._on_duplicate == "fail":
            return "id: expected a new one, this is there already"
        if self._kind == "keys":
            self._hash_owners[new[KEY_HASH]] = new[0]
        return None

    def _expect(self, row: Row, size_bytes: int | None, sha256: str | None) -> tuple[bool, str | None]:
        """Expect an asset to have this size and digest; say whether that is news, and what speaks against it."""
        render_id, key = row[0], row[ASSET_KEY]
        if key is None:
            return False, None
        owner = self._claims.setdefault(key, render_id)
        if owner != render_id:
            return False, f"asset_key: expected one of its own, got that of {owner}"
        old = self._assets.get(render_id)
        if old is not None and old.stored:
            if sha256 not in (None, old.sha256):
                return False, f"sha256: expected {old.sha256}, which is stored and recorded, got {sha256!r}"
            if size_bytes not in (None, old.size_bytes):
                return False, f"size_bytes: expected {old.size_bytes}, which is stored and recorded, got {size_bytes}"
            return False, None
        if old is not None:
            size_bytes = old.size_bytes if size_bytes is None else size_bytes
            sha256 = old.sha256 if sha256 is None else sha256
        new = Expectation(render_id, key, size_bytes, sha256, False)
        self._assets[render_id] = self.expected[render_id] = new
        return new != old, None


def _merged(kind: Kind, old: Row, new: Row) -> Row:
    """Bring a row up to date; of two states, the further one says what its fields are."""
    if old == new:
        return old
    first, second = (new, old) if _is_older(kind, new, old) else (old, new)
    merged = [was if given is None else given for was, given in zip(first, second, strict=True)]
    if kind == "keys":
        merged[REVOKED_AT] = min(filter(None, (old[REVOKED_AT], new[REVOKED_AT])), default=None)
    if first[-1] is not None and second[-1] is not None:
        merged[-1] = encode_extra(msgspec.json.decode(first[-1]) | msgspec.json.decode(second[-1]))
    result = tuple(merged)
    return old if result == old else result


def _is_older(kind: Kind, new: Row, old: Row) -> bool:
    if kind == "renders":
        return _RANK.get(new[STATUS], _FINAL) < _RANK.get(old[STATUS], _FINAL)
    return kind == "projects" and (new[UPDATED_AT] or "") < (old[UPDATED_AT] or "")


def _record(kind: Kind, row: Row) -> dict[str, Any]:
    """Write a row as a record that can be mended and imported again."""
    fields = {name: value for name, value in zip(COLUMNS[kind], row, strict=True) if value is not None}
    extra: dict[str, Any] = msgspec.json.decode(fields.pop("extra", "{}"))
    return fields | extra


# --- in the worker ---------------------------------------------------------------------------------------------------


def _read_packed(task: _Task) -> bytes:
    return msgspec.msgpack.encode(_read(task))


def _read(task: _Task) -> _Read:
    kind = KINDS[task.kind]
    columns = attrgetter(*COLUMNS[task.kind])
    lines = LineReader(kind, task.project_id)
    read = _Read(task.source, [], [])

    def look(item: Item) -> None:
        line, value, problem = item
        if problem is None:
            try:
                record = read_record(kind, value, project_id=task.project_id)
            except ValueError as error:
                problem = str(error)
            except RecursionError:
                problem = "expected fewer levels of nesting"
            else:
                read.rows.append((line, columns(record), _declared(record)))
                lines.learn(value)
                return
        read.rejects.append((line, mask(problem), _masked(value)))

    piece = task.piece.read() if isinstance(task.piece, Span) else task.piece
    if isinstance(piece, Block):
        for line, text in enumerate(piece.text.split(b"\n"), piece.line):
            record = lines.read(text)
            if record is not None:
                read.rows.append((line, columns(record), _declared(record)))
            elif text and not text.isspace():
                for item in chain.from_iterable(map(_mended, read_line(line, text))):
                    look(item)
    else:
        for item in chain.from_iterable(map(_mended, piece)):
            look(item)
    return read


def _mended(item: Item) -> Iterator[Item]:
    """Take the record out of a line of a file of rejects; what was no JSON stands there as a text."""
    value = item.value
    if isinstance(value, dict) and value.get("type") == "reject" and "record" in value:
        record = value["record"]
        return read_line(item.line, record.encode()) if isinstance(record, str) else iter([Item(item.line, record)])
    return iter([item])


def _declared(record: Incoming) -> Declared | None:
    if isinstance(record, Render) and (record.size_bytes is not None or record.sha256 is not None):
        return record.size_bytes, record.sha256
    return None


def _masked(value: Any) -> Any:
    if isinstance(value, dict) and isinstance(value.get("key"), str):
        value = {**value, "key": hide(value["key"])}
    try:
        text = msgspec.json.encode(value).decode()
        return msgspec.json.decode(mask(text)) if "ck_" in text else value
    except (RecursionError, ValueError):
        return None
