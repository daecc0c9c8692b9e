"""Computes the seal of what is stored; writes it and the head of the audit log as texts to be signed and stamped."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from craftkit_archive.archive import Archive, Run
from craftkit_archive.durable import replaced_when_whole
from craftkit_archive.errors import RequestError, disk_errors
from craftkit_archive.proof import signatures, timestamps
from craftkit_archive.proof.seal import seal_line
from craftkit_archive.records import Plan, Progress, Record, Summary
from craftkit_archive.values import format_time

SEAL_FILE = Path("seal.txt")
HEAD_FILE = Path("audit-head.txt")
STAMPED = "seal timestamp"
SEALED_AT_ONCE = 10_000  # how many assets pass between two reports of progress


def seal_archive(archive: Archive, *, project: str | None = None, expected: str | None = None) -> Iterator[Record]:
    """Compute the seal of everything stored, or of one project, and compare it with a seal that was noted earlier.

    Args:
        archive: May be open read-only. A seal that is computed and not compared is recorded as an event.
        project: Id or slug.
        expected: The seal to compare with.

    Yields:
        The `Summary`, with the seal in its details; its outcome is `problems` if the seal differs, and `incomplete` if
        there are assets without a known digest, which a seal cannot cover.

    Raises:
        RequestError: The project does not exist, or the expected text is not a seal.

    Example:
        >>> from craftkit_archive import Archive, seal_archive
        >>> with Archive("archive", read_only=True) as archive:
        ...     *_, summary = seal_archive(archive)
        >>> len(summary.details["seal"])
        64
    """
    wanted = None if expected is None else expected.strip().lower()
    if wanted is not None and (len(wanted) != 64 or set(wanted) - set("0123456789abcdef")):
        raise RequestError(f"{expected!r} is not a seal: a seal has 64 hex digits.")
    run = Run(None, "seal")
    project_id = archive.find_project(project) if project else None
    stored, _ = archive.catalog.count_stored(archive.select(projects=(project_id,) if project_id else ()))
    yield Plan(count=stored)
    hashed, sealed = sha256(), 0
    for digest, key in archive.catalog.held(project_id):
        hashed.update(seal_line(digest, key))
        sealed += 1
        if sealed % SEALED_AT_ONCE == 0:
            yield Progress(count=SEALED_AT_ONCE, file=key)
    run.counts["sealed"], found = sealed, hashed.hexdigest()
    if stored > run.counts["sealed"]:
        run.counts["without_digest"] = stored - run.counts["sealed"]
    run.settle(problems=wanted not in (None, found), incomplete=stored > run.counts["sealed"])
    if wanted is None:
        yield from archive.record_apart("seal", run.counts, seal=found, project=project_id)
    yield run.summary(seal=found, expected=wanted, project=project_id)


def seal_text(archive: Archive, sealed: Summary) -> bytes:
    """Return the result of `seal_archive` as the text to sign, with a label and a value on each line.

    It includes the last event of the audit log, so that one signature covers both.
    """
    head = archive.catalog.audit_head()
    said = {
        "Seal": sealed.details["seal"],
        "PDFs": sealed.counts["sealed"],
        "Archive": archive.id,
        "Project": sealed.details.get("project"),
        "Sealed": archive.now(),
        "Audit-Event": f"{head.number} {head.hash}" if head.number else None,
    }
    return _lines(said)


def head_text(archive: Archive, head: Summary) -> bytes:
    """Return the head of the audit log as the text to sign."""
    event = f"{head.details['number']} {head.details['hash']}"
    return _lines({"Audit-Event": event, "Archive": archive.id, "Time": archive.now()})


def _lines(said: dict[str, object]) -> bytes:
    return "".join(f"{label}: {value}\n" for label, value in said.items() if value is not None).encode()


def write_signed(file: Path, text: bytes, *, sign_with: Path | None = None) -> list[Path]:
    """Write a text, and its signature beside it as `<file>.sig`; return the paths of the files.

    The signature and the timestamp of an earlier text are removed. If signing fails, nothing is written.

    Raises:
        RequestError: The key cannot sign.
        NoSpaceError, NotWritableError: The disk refused.
    """
    signature = signatures.sign_text(text, sign_with) if sign_with else None
    beside = {suffix: file.with_name(f"{file.name}{suffix}") for suffix in (signatures.SUFFIX, timestamps.SUFFIX)}
    with disk_errors(file):
        for old in beside.values():
            old.unlink(missing_ok=True)
    written = [file]
    _replace_file(file, text)
    if signature is not None:
        written.append(beside[signatures.SUFFIX])
        _replace_file(written[-1], signature)
    return written


def stamp(archive: Archive, file: Path, *, url: str | None = None, reply_file: Path | None = None) -> Iterator[Record]:
    """Write the timestamp of a text beside it, as `<file>.tsr`.

    Args:
        archive: May be open read-only; the timestamp is recorded as an event.
        file: The text, as `write_signed` wrote it.
        url: The authority to ask.
        reply_file: The answer of an authority, if this machine cannot reach one.

    Yields:
        The `Summary`, with the time in its details.

    Raises:
        RequestError: A file cannot be read.
        RemoteError: The authority does not answer, refuses, or has stamped something else.
        NoSpaceError, NotWritableError: The disk refused.
    """
    text = _read_seal(file)
    if url is not None:
        reply, time = timestamps.fetch_timestamp(text, url)
    else:
        path = reply_file or file
        reply = _read_seal(path)
        time = timestamps.read_reply(reply, text, str(path))
    stamped = file.with_name(f"{file.name}{timestamps.SUFFIX}")
    _replace_file(stamped, reply)
    run = Run(None, "seal")
    digest, at = sha256(text).hexdigest(), format_time(time)
    yield from archive.record_apart(STAMPED, sha256=digest, time=at)
    yield run.summary(file=str(stamped), authority=url, sha256=digest, time=at)


def write_request(file: Path, request_file: Path) -> None:
    """Write the request for a timestamp of a text to a file, to be sent from a machine that reaches an authority.

    Raises:
        RequestError: The text cannot be read, or rfc3161-client is not installed.
        NoSpaceError, NotWritableError: The disk refused.
    """
    _replace_file(request_file, timestamps.make_request(_read_seal(file)))


def _read_seal(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise RequestError(f"Cannot read {file} ({error.strerror}). Name a file that is there.") from error


def _replace_file(file: Path, content: bytes) -> None:
    with replaced_when_whole(file) as new:
        new.write_bytes(content)
