"""Doctor: finds what is wrong with this installation or archive, and says how to fix it."""

import os
import platform
import shutil
import stat
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from hashlib import sha256
from importlib.metadata import distribution, version
from pathlib import Path

from craftkit_archive import __version__
from craftkit_archive.archive import CATALOG, Archive, Run
from craftkit_archive.errors import RECOVER, ArchiveError
from craftkit_archive.parallel.cluster import prove_by, survey
from craftkit_archive.parallel.pool import default_jobs
from craftkit_archive.pdf.readers import has_jbig2_decoder
from craftkit_archive.proof.audit_file import AUDIT_FILE, read_last_lines
from craftkit_archive.proof.events import is_intact, read_event
from craftkit_archive.records import Diagnosis, Record
from craftkit_archive.stores.folder import FolderStore
from craftkit_archive.stores.reach import try_store
from craftkit_archive.values import format_size, timestamp

PROGRAM = "craftkit-archive"
LEAST_FREE_BYTES = 1_000_000_000
LEAST_FREE_SHARE = 0.02
# How many events of the audit log are checked; `audit verify` checks all of them.
LAST_EVENTS = 200
LIBRARIES = ("pikepdf", "pypdfium2", "msgspec", "sqlite-utils", "click", "bottle", "waitress")


def examine_archive(archive: Archive, *, cluster: str | None = None) -> Iterator[Record]:
    """Check everything that is known to go wrong with an archive.

    Args:
        archive: May be open read-only. Nothing is changed, except for empty files in the store that are removed again.
        cluster: Address of a Dask scheduler whose workers are to be checked too.

    Yields:
        A `Diagnosis` for each check; at last the `Summary`, which is `problems` if one needs a fix.

    Example:
        >>> from craftkit_archive import Archive, examine_archive
        >>> with Archive("archive", read_only=True) as archive:
        ...     *diagnoses, summary = examine_archive(archive)
        >>> [seen.name for seen in diagnoses if seen.name == "store"]
        ['store']
    """
    run = Run(None, "doctor")
    run.counts.update({"good": 0, "problems": 0})
    for diagnose in (
        _versions,
        _program,
        _decoders,
        _catalog,
        _totals,
        _audit_log,
        _modes,
        _store,
        _names,
        _space,
        _clock,
        _killed_runs,
        _pdfs,
        _disposals,
        partial(_workers, cluster),
    ):
        for diagnosis in diagnose(archive):
            run.counts["problems" if diagnosis.fix else "good"] += 1
            yield diagnosis
    run.counts["to_mend"] = run.counts["problems"]  # its name until 1.0
    run.settle(problems=run.counts["problems"] > 0)
    standing = archive.catalog.standing()
    yield run.summary(damaged=True) if standing.damaged or standing.unreadable else run.summary()


def _versions(archive: Archive) -> Iterator[Diagnosis]:
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    system = f"{platform.system()} {platform.release()}, {default_jobs()} processors"
    python = f"Python {platform.python_version()}, SQLite {archive.catalog.sqlite_version}"
    yield Diagnosis("versions", f"craftkit-archive {__version__}, {python}, {libraries}; {system}")


def _program(_archive: Archive) -> Iterator[Diagnosis]:
    """Compare the program's files with the digests of the wheel; an editable installation has none."""
    changed = [
        str(file.locate())
        for file in distribution(PROGRAM).files or ()
        if file.hash is not None
        and not file.name.endswith(".pyc")
        and _record_hash(Path(file.locate())) != file.hash.value
    ]
    if changed:
        fix = f"Install {PROGRAM} again, in a virtual environment of its own."
        yield Diagnosis("program", f"{changed[0]} is not the file that was installed", fix, "program-changed")
    else:
        yield Diagnosis("program", "its files are those that were installed")


def _record_hash(file: Path) -> str:
    """Return a file's SHA-256 in the form of a wheel's RECORD: URL-safe base64 without padding."""
    if not file.is_file():
        return ""
    return urlsafe_b64encode(sha256(file.read_bytes()).digest()).rstrip(b"=").decode()


def _decoders(_archive: Archive) -> Iterator[Diagnosis]:
    """Report whether pikepdf's external decoder is installed; without it, checks find less, which is not a fault."""
    if has_jbig2_decoder():
        seen = "jbig2dec is installed, so verify --level pdf decodes JBIG2 images"
    else:
        seen = "jbig2dec is not installed, so verify --level pdf leaves JBIG2 images undecoded, and notes where"
    yield Diagnosis("decoders", seen)


def _catalog(archive: Archive) -> Iterator[Diagnosis]:
    problems = archive.catalog.quick_check()
    if problems:
        yield Diagnosis("catalog", f"SQLite finds {problems[0]}", RECOVER, "catalog-damaged")
    else:
        size = archive.catalog.path.stat().st_size
        yield Diagnosis("catalog", f"{archive.catalog.path} is sound ({format_size(size)})")
    log = archive.catalog.path.with_name(f"{CATALOG}-wal")
    if log.exists() and log.stat().st_size > (1 << 30):
        yield Diagnosis(
            "log",
            f"{log} has {format_size(log.stat().st_size)}",
            "End the command that keeps it open, then any other ends it.",
            "log-large",
        )


def _totals(archive: Archive) -> Iterator[Diagnosis]:
    """Compare the running totals, which `status` shows, with a count of everything."""
    if archive.catalog.has_right_totals():
        yield Diagnosis("totals", "what status shows is what the catalog holds")
    else:
        seen = "what status shows is not what the catalog holds, which another program may have changed"
        yield Diagnosis(
            "totals", seen, "Run `verify --level size` of everything: it recounts everything.", "totals-wrong"
        )


def _audit_log(archive: Archive) -> Iterator[Diagnosis]:
    """Check the end of the audit log: table and file must agree, and each event must continue the one before."""
    head = archive.catalog.audit_head()
    first = max(head.number - LAST_EVENTS, 0)
    rows = [line for _, line in archive.catalog.event_lines(first)]
    prove = "Run `audit verify`, which says where, and keep archive.db and audit.ndjson as they are until you know why."
    problem = _chain_problem(rows)
    lines = read_last_lines(archive.path / AUDIT_FILE, LAST_EVENTS)
    if problem is None and lines and lines[-1] not in rows:
        problem = f"{AUDIT_FILE} does not end with an event that the catalog has"
    if problem is not None:
        yield Diagnosis("audit log", problem, prove, "audit-log-broken")
    elif head.number and (not lines or lines[-1] != rows[-1]):
        behind = len(rows) - (rows.index(lines[-1]) + 1 if lines else 0)
        seen = f"{AUDIT_FILE} is {behind:,} events behind; the next command that writes adds them"
        yield Diagnosis("audit log", seen, problem="audit-log-behind")
    else:
        yield Diagnosis("audit log", f"the last {len(rows):,} of {head.number:,} events agree in table and file")


def _chain_problem(rows: list[bytes]) -> str | None:
    """Return what is wrong with consecutive events; None if nothing is."""
    before = None
    for line in rows:
        try:
            event = read_event(line)
        except ValueError as error:
            return f"a row of its table cannot be read: {error}"
        if not is_intact(event, line):
            return f"event {event.number} was changed"
        if before is not None and (event.prev, event.number) != (before.hash, before.number + 1):
            return f"event {event.number} does not continue the one before"
        before = event
    return None


def _modes(archive: Archive) -> Iterator[Diagnosis]:
    path = archive.catalog.path
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        yield Diagnosis(
            "file modes", f"{path} can be read by others ({mode:04o})", f"chmod 600 {path}", "catalog-readable"
        )
    else:
        yield Diagnosis("file modes", f"{path} is its owner's alone ({mode:04o})")
    if not os.access(archive.path, os.W_OK) or not os.access(path, os.W_OK):
        owner = path.stat().st_uid
        fix = f"Run commands as its owner (user {owner})."
        yield Diagnosis("rights", f"{path} cannot be written by you", fix, "not-writable")


def _store(archive: Archive) -> Iterator[Diagnosis]:
    try:
        archive.store.check(archive.id)
    except ArchiveError as error:
        # The last sentence of an error says what to do, the others what happened.
        seen, _, fix = str(error).rpartition(". ")
        fix = fix if seen else "Try again later."
        yield Diagnosis("store", seen or str(error).removesuffix("."), fix, "store-unusable")
        return
    yield Diagnosis("store", f"{archive.store.address} is this archive's")
    if isinstance(archive.store, FolderStore) and not os.access(archive.store.address, os.W_OK):
        yield Diagnosis(
            "store rights",
            f"{archive.store.address} cannot be written by you",
            "Make it writable for you, or run commands as its owner.",
            "store-not-writable",
        )


def _names(archive: Archive) -> Iterator[Diagnosis]:
    """Check whether the store's file system alters or confuses names."""
    store = archive.store
    if not isinstance(store, FolderStore) or not Path(store.address).is_dir():
        return
    quirks = store.quirks()
    if quirks is None:
        seen = "not examined, because the store cannot be written by you"
        yield Diagnosis("names", seen, problem="names-not-examined")
    elif quirks:
        fix = "Move the store to a file system that keeps names as they are, such as ext4, XFS or ZFS."
        seen = f"the store's file system {' and '.join(quirks)}: two keys could be one file"
        yield Diagnosis("names", seen, fix, "names-collide")
    else:
        yield Diagnosis("names", "the store's file system keeps names apart as they are")


def _space(archive: Archive) -> Iterator[Diagnosis]:
    places = {"archive": archive.path}
    if isinstance(archive.store, FolderStore):
        places["store"] = Path(archive.store.address)
    for name, path in places.items():
        if not path.is_dir():
            continue
        usage = shutil.disk_usage(path)
        seen = f"{format_size(usage.free)} of {format_size(usage.total)} are free beside the {name}"
        low = usage.free < LEAST_FREE_BYTES or usage.free < LEAST_FREE_SHARE * usage.total
        if low:
            yield Diagnosis("free space", seen, f"Free some of the disk of {path}.", "space-low")
        else:
            yield Diagnosis("free space", seen)


def _clock(archive: Archive) -> Iterator[Diagnosis]:
    now = archive.clock()
    latest = archive.catalog.latest_time()
    if latest and timestamp(latest) > timestamp((now + timedelta(minutes=5)).isoformat()):
        seen = f"it is {archive.now()}, and the catalog has {latest}, which is yet to come"
        fix = "Set the clock (timedatectl set-ntp true); what is dated in the future counts as due."
        yield Diagnosis("clock", seen, fix, "clock-behind")
    else:
        yield Diagnosis("clock", f"it is {archive.now()}, and nothing in the catalog is later")


def _killed_runs(archive: Archive) -> Iterator[Diagnosis]:
    """Look for runs that were killed; a run in progress does not count."""
    if archive.is_being_written():
        return
    killed = [run for run in archive.catalog.last_runs(20) if run.finished_at is None and run.command != "verify"]
    if killed:
        names = ", ".join(f"{run.command} ({run.id})" for run in killed[:3])
        seen = f"ended early, and continued by the next such command: {names}"
        yield Diagnosis("runs", seen, problem="runs-killed")


def _workers(cluster: str | None, archive: Archive) -> Iterator[Diagnosis]:
    """Check what each worker of a cluster can do with its own credentials."""
    if cluster is None:
        return
    try:
        found = survey(cluster, prove_by(partial(try_store, archive.store.address, archive.id)))
    except ArchiveError as error:
        seen, _, fix = str(error).rpartition(". ")
        yield Diagnosis("cluster", seen, fix, "cluster-unreachable")
        return
    if not found:
        fix = f"Start some with `dask worker {cluster}`."
        yield Diagnosis("cluster", f"{cluster} has no workers", fix, "cluster-empty")
    for worker in found:
        name = f"worker {worker.address}"
        if worker.problem is None:
            threads = "1 thread" if worker.threads == 1 else f"{worker.threads} threads"
            yield Diagnosis(name, f"has this version and {threads}, and can read and write the store")
        else:
            seen, _, fix = str(worker.problem).rpartition(". ")
            yield Diagnosis(name, seen.removeprefix(f"The {name} "), fix, "worker-unfit")


def _pdfs(archive: Archive) -> Iterator[Diagnosis]:
    """Report what the last checks found; the PDFs themselves are not read."""
    standing = archive.catalog.standing()
    if standing.damaged or standing.unreadable:
        fix = "Run `report` to see which, then `repair SOURCE`."
        yield Diagnosis("PDFs", standing.text, fix, "pdfs-damaged")
    elif standing.unverified:
        fix = "Run `report` to see which: nothing is recorded to compare them with."
        yield Diagnosis("PDFs", standing.text, fix, "pdfs-unverified")
    else:
        yield Diagnosis("PDFs", standing.text)


def _disposals(archive: Archive) -> Iterator[Diagnosis]:
    """Report interrupted disposals, if anything was ever disposed."""
    disposed, begun = archive.catalog.count_disposed()
    if begun and not archive.is_being_written():
        seen = f"{begun:,} of {disposed:,} disposals have begun and are not finished"
        fix = "Run `dispose --due --reason TEXT`, which finishes them first."
        yield Diagnosis("disposals", seen, fix, "disposals-unfinished")
    elif disposed:
        yield Diagnosis("disposals", f"{disposed:,} renders were disposed")
