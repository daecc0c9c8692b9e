"""Report: what an archive holds and what was last done to it."""

from collections import Counter
from collections.abc import Iterator

from craftkit_archive import records
from craftkit_archive.archive import Archive
from craftkit_archive.records import ProjectInfo, Record, Summary
from craftkit_archive.work import format_size

LAST_RUNS = 5


def describe_archive(archive: Archive) -> Iterator[Record]:
    """Say what is held, from the catalog alone.

    Yields:
        A `ProjectInfo` for each project, a `RunInfo` for each of the last runs, newest first, and the `Summary`, whose
        counts are the sums over the projects.
    """
    counts: Counter[str] = Counter()
    size = 0
    for project in archive.catalog.project_summaries():
        for name in ("renders", "succeeded", "stored", "not_stored", "verified_ok", "damaged"):
            counts[name] += getattr(project, name)
        size += project.stored_bytes
        yield project
    yield from archive.catalog.last_runs(LAST_RUNS)
    details = {"archive": str(archive.path), "store": archive.store.address, "stored_bytes": size}
    yield Summary(command="status", outcome="ok", counts=dict(counts), details=details)


def as_text(record: Record) -> str:
    """Write a record as a line for a person; foreign characters in it are for the caller to make harmless."""
    match record:
        case records.Finding():
            seen = f": expected {record.expected}, found {record.found}" if record.expected else ""
            return f"  {record.verdict}  {record.key}{seen}{f' ({record.detail})' if record.detail else ''}"
        case records.Note():
            return f"  note  {record.key}: {record.detail}"
        case records.Reject():
            return f"  rejected  {record.source}:{record.line}: {record.reason}"
        case records.Skipped():
            return f"  skipped  {record.key or record.render_id}: {record.reason}"
        case records.KeyInfo():
            state = f"revoked {record.revoked_at}" if record.revoked_at else "valid"
            cells = (record.id, record.project_id, record.prefix or "-", state, record.name or "")
            return "\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in cells)
        case records.Planned():
            return f"{record.size_bytes}\t{record.path}"
        case records.ProjectInfo():
            return _project_line(record)
        case records.RunInfo():
            counts = ", ".join(f"{count:,} {name}" for name, count in record.counts.items())
            return f"run {record.id}  {record.started_at}  {record.command}  {record.outcome or 'not ended'}  {counts}"
        case records.Summary():
            counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in record.counts.items())
            size = f", {format_size(record.bytes_read)} read" if record.bytes_read else ""
            covered = record.details.get("coverage")
            return f"{record.command}: {record.outcome}: {counts}{size}" + (f"; {covered['text']}" if covered else "")
    raise TypeError(record)


def _project_line(project: ProjectInfo) -> str:
    deleted = f"  deleted {project.deleted_at}" if project.deleted_at else ""
    name = (project.slug or project.id).replace("\n", " ")
    return (
        f"{name}: {project.renders:,} renders, {project.succeeded:,} succeeded,"
        f" {project.stored:,} stored ({format_size(project.stored_bytes)}), {project.not_stored:,} not stored,"
        f" {project.verified_ok:,} verified, {project.damaged:,} damaged{deleted}"
    )
