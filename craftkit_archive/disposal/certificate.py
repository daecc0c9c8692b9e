"""The certificate of a disposal: as JSON for machines, and as a page for people and for paper."""

from collections.abc import Iterator
from hashlib import file_digest
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from craftkit_archive.archive import Archive
from craftkit_archive.durable import replaced_when_whole
from craftkit_archive.errors import RequestError, disk_errors
from craftkit_archive.html.pages import generate_page
from craftkit_archive.proof import signatures
from craftkit_archive.records import ExportMade, Tombstone

MOST_ROWS = 5000
_SUFFIXES = (".json", ".html", ".htm")


def certificate_stem(file: Path, *, sign_with: Path | None = None) -> Path:
    """Return the common path of the certificate's files, without a suffix; call it before anything is deleted.

    Raises:
        RequestError: The folder does not exist, the suffix is of another form, or the key cannot sign.
    """
    if not file.parent.is_dir():
        raise RequestError(f"Cannot write the certificate: there is no folder {file.parent}. Create it first.")
    if file.suffix.lower() not in _SUFFIXES:
        raise RequestError(f"Cannot tell the certificate's form from {file}. End its name in .html or .json.")
    if sign_with is not None:
        signatures.sign_text(b"", sign_with)
    return file.with_suffix("")


def write_certificate(archive: Archive, run_id: int, stem: Path, *, sign_with: Path | None = None) -> list[Path]:
    """Write the certificate of a disposal as JSON and as a page, and sign both; return the paths of the files.

    The JSON lists every render, and the page quotes the digest of the JSON. The reason is in neither; it is in the
    audit log.

    Args:
        archive: May be open read-only.
        run_id: The number of the run of `dispose_renders`.
        stem: The path from `certificate_stem`.
        sign_with: An SSH key; the files are not signed if it is not given.

    Raises:
        RequestError: The run does not exist or is not a disposal, or the key cannot sign.
        NoSpaceError, NotWritableError: The disk refused.

    Example:
        >>> from pathlib import Path
        >>> from craftkit_archive import Archive, Selection, dispose_renders, list_renders, write_certificate
        >>> with Archive("archive") as archive:
        ...     first, *_ = list_renders(archive)
        ...     chosen = Selection(render_ids=(first.id,))
        ...     *_, summary = dispose_renders(archive, "asked for", selection=chosen)
        ...     files = write_certificate(archive, summary.run_id, Path("certificate"))
        >>> [file.name for file in files]
        ['certificate.json', 'certificate.html']
    """
    facts = _Facts(archive, run_id)
    whole, page = (stem.with_name(f"{stem.name}{suffix}") for suffix in (".json", ".html"))
    _write(whole, facts.json_parts())
    with disk_errors(whole), whole.open("rb") as written:
        digest = file_digest(written, "sha256").hexdigest()
    _write(page, facts.page_parts(whole.name, digest))
    files = [whole, page]
    for file in (whole, page):
        beside = file.with_name(f"{file.name}{signatures.SUFFIX}")
        with disk_errors(beside):
            beside.unlink(missing_ok=True)  # one of an earlier certificate
            if sign_with is not None:
                beside.write_bytes(signatures.sign_file(file, sign_with))
                files.append(beside)
    return files


def _write(file: Path, parts: Iterator[str]) -> None:
    with (
        replaced_when_whole(file) as new,
        new.open("x", encoding="utf-8", newline="", errors="backslashreplace") as out,
    ):
        out.writelines(parts)


class _Facts:
    """The content of a certificate; tombstones are read one by one, so that memory stays flat."""

    def __init__(self, archive: Archive, run_id: int) -> None:
        run = archive.catalog.find_run(run_id, "dispose")
        if run is None:
            raise RequestError(f"Run {run_id} is not a disposal. See `runs list --command dispose`.")
        self._archive, self._run = archive, run
        self._event = archive.catalog.first_event_of(run_id, "dispose")
        self._head = archive.catalog.audit_head()
        self._exports = list(archive.catalog.exports_holding(run_id))

    def json_parts(self) -> Iterator[str]:
        """Yield the JSON: the facts about the disposal, then a tombstone on each line."""
        said = {
            "type": "certificate-of-disposal",
            "version": 1,
            "archive": self._archive.id,
            "run": self._run.id,
            "began": self._run.started_at,
            "ended": self._run.finished_at,
            "counts": {name: count for name, count in self._run.counts.items() if count},
            "first_event": self._event,
            "audit_head": self._head._asdict(),
            "exports_that_hold_any": [_untyped(one) for one in self._exports],
        }
        yield f'{msgspec.json.encode(said).decode()[:-1]},"disposed":['
        for number, tombstone in enumerate(self._archive.catalog.tombstones_of(self._run.id)):
            yield f"{',' if number else ''}\n{msgspec.json.encode(_untyped(tombstone)).decode()}"
        yield "\n]}\n"

    def page_parts(self, json_name: str, digest: str) -> Iterator[str]:
        """Yield the page, with the first `MOST_ROWS` tombstones."""
        counts = self._run.counts
        facts = {
            "Archive": self._archive.id,
            "Run": self._run.id,
            "Began": self._run.started_at,
            "Ended": self._run.finished_at or "not ended",
            **{words: f"{counts.get(name, 0):,}" for name, words in _COUNTED.items()},
            "Last event of the audit log": f"{self._head.number}, {self._head.hash}",
            "All of it, for machines": f"{json_name}, SHA-256 {digest}",
        }
        return generate_page(
            "disposal/certificate.html",
            {
                "run": self._run,
                "facts": facts,
                "disposed": islice(self._archive.catalog.tombstones_of(self._run.id), MOST_ROWS),
                "more": counts.get("disposed", 0) - MOST_ROWS,
                "exports": self._exports,
                "event": self._event or "-",
                "json_name": json_name,
            },
        )


_COUNTED = {
    "disposed": "Disposed",
    "held": "Kept, because held",
    "early": "Disposed before the end of their period",
    "remains": "Of which bytes remain",
    "failed": "Could not be deleted yet",
}


def _untyped(record: Tombstone | ExportMade) -> dict[str, Any]:
    """Return the fields of a record without its `type`."""
    return {name: getattr(record, name) for name in record.__struct_fields__}
