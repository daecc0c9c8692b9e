"""Report: what an archive holds and what was last done to it."""

from collections import Counter
from collections.abc import Iterator

from craftkit_archive.archive import Archive
from craftkit_archive.records import Record, Summary

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
