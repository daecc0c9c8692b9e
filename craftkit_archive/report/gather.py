"""Gathers what `status` and `report` show: what is stored, the last runs, and the findings of a verification."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

from craftkit_archive import records
from craftkit_archive.archive import Archive
from craftkit_archive.coverage import COVERAGE_DAYS, NOTHING, describe
from craftkit_archive.durable import replaced_when_whole
from craftkit_archive.errors import RequestError
from craftkit_archive.proof.seal import compute_seal
from craftkit_archive.records import Record, Summary
from craftkit_archive.report.forms import (
    SUFFIXES,
    ReadingDay,
    Report,
    ReportForm,
    write_csv,
    write_junit,
    write_ndjson,
    write_prometheus,
    write_text,
)
from craftkit_archive.report.page import write_html
from craftkit_archive.retention.rules import keeping
from craftkit_archive.states import Standing
from craftkit_archive.stores.base import mask_address
from craftkit_archive.values import format_time

LAST_RUNS = 5
_COUNTED = ("renders", "succeeded", "stored", "not_stored", "verified_ok", "unchecked", "damaged", "unreadable",
            "unverified", "acknowledged", "disposed")  # fmt: skip
HISTORY = 120
# When `nagios_status` warns: if no verification ended within this many hours (two nights), or coverage is lower.
SILENT_HOURS = 48
ENOUGH_COVERAGE = 0.95

WRITERS: dict[ReportForm, Callable[[Report, TextIO], None]] = {
    "text": write_text,
    "ndjson": write_ndjson,
    "csv": write_csv,
    "junit": write_junit,
    "prometheus": write_prometheus,
    "html": write_html,
}


def describe_archive(archive: Archive) -> Iterator[Record]:
    """Describe what is stored, from the catalog alone.

    Yields:
        A `ProjectInfo` for each project; a `RunInfo` for each of the last runs, newest first; at last the `Summary`,
        whose counts are the sums over the projects. Its outcome is `problems` if anything is damaged, and `incomplete`
        if anything is unreadable or unverified.

    Example:
        >>> from craftkit_archive import Archive, describe_archive
        >>> with Archive("archive", read_only=True) as archive:
        ...     *_, summary = describe_archive(archive)
        >>> summary.counts["stored"]
        5
    """
    counts: Counter[str] = Counter()
    stored = covered = due = projects = 0
    days = coverage_days(archive)
    now = archive.clock()
    for project in archive.catalog.project_summaries(format_time(now - timedelta(days=days)), format_time(now)):
        for name in _COUNTED:
            counts[name] += getattr(project, name)
        stored, covered, due = (
            stored + project.stored_bytes,
            covered + project.covered_bytes,
            due + project.due_bytes,
        )
        projects += 1
        yield project
    yield from archive.catalog.last_runs(LAST_RUNS)
    counts["extra"] = archive.catalog.count_extra()
    standing = Standing(
        **{name: counts["verified_ok" if name == "ok" else name] for name in Standing.__struct_fields__}
    )
    details: dict[str, Any] = {"archive": str(archive.path), "store": archive.store.address, "stored_bytes": stored}
    text = describe(covered / stored if stored else 1.0, stored, days) if counts["stored"] else NOTHING
    coverage = {"days": days, "stored_bytes": stored, "covered_bytes": covered, "due_bytes": due, "text": text}
    details |= {"coverage": coverage, "standing": standing, "projects": projects}
    yield Summary(command="status", outcome=standing.outcome, counts=dict(counts), details=details)


def coverage_days(archive: Archive) -> int:
    """Return the number of days within which the last verification was to have read everything."""
    last = archive.catalog.covering_runs(1)
    return (last[0].coverage_days if last else None) or COVERAGE_DAYS


def nagios_status(archive: Archive) -> tuple[int, str]:
    """Return the state of an archive for a monitor, from the catalog alone: exit code 0, 1 or 2, and one line of text.

    Source: the Nagios plugin guidelines (0 OK, 1 warning, 2 critical, 3 unknown; performance data after a bar).
    """
    coverage = archive.coverage(coverage_days(archive))
    standing = archive.catalog.standing()
    last = archive.catalog.find_run(None, "verify")
    ended = last.finished_at if last else None
    warnings = []
    if coverage.share < ENOUGH_COVERAGE and coverage.assets:
        warnings.append("not enough was read")
    if last is None or ended is None or last.outcome == "failed":
        warnings.append("the last verification did not finish" if last else "never verified")
    elif archive.clock() - datetime.fromisoformat(ended) > timedelta(hours=SILENT_HOURS):
        warnings.append(f"last verified {ended[:16]}Z")
    worried = warnings or standing.outcome != "ok"
    code, word = (2, "CRITICAL") if standing.damaged else (1, "WARNING") if worried else (0, "OK")
    # An archive into which nothing was ever fetched is not OK.
    if not coverage.assets and not standing.damaged:
        code, word = 1, "WARNING"
    said = [standing.text, *warnings, coverage.details()["text"]]
    measured = (
        f"bad={standing.damaged};;0 coverage={coverage.share * 100:.1f}%;{ENOUGH_COVERAGE * 100:g}:"
        f" due={coverage.due_bytes}B assets={coverage.assets} unreadable={standing.unreadable};0"
        f" unverified={standing.unverified};0"
    )
    return code, f"CRAFTKIT-ARCHIVE {word} - {', '.join(said)} | {measured}"


def gather_report(archive: Archive, run_id: int | None = None) -> Report:
    """Gather the content of a report on a verification, from the catalog alone.

    Args:
        archive: May be open read-only.
        run_id: The number of the run; the last verification if not given.

    Raises:
        RequestError: The verification does not exist.

    Example:
        >>> from craftkit_archive import Archive, gather_report, verify_assets
        >>> with Archive("archive") as archive:
        ...     *_, verified = verify_assets(archive)
        ...     report = gather_report(archive, verified.run_id)
        ...     len(list(report.findings()))
        0
    """
    run = archive.catalog.find_run(run_id, "verify")
    if run is None:
        raise RequestError(_no_such_verification(archive, run_id))
    days = run.coverage_days or COVERAGE_DAYS
    now = archive.clock()
    found_in = run.id
    return Report(
        archive=str(archive.path.resolve()),
        archive_id=archive.id,
        store=mask_address(archive.store.address),
        made_at=format_time(now),
        run=run,
        coverage=archive.coverage(days),
        history=archive.catalog.covering_runs(HISTORY),
        days=[ReadingDay(*row) for row in archive.catalog.reading_days()],
        projects=archive.catalog.project_summaries(format_time(now - timedelta(days=days)), format_time(now)),
        seal=compute_seal(archive.catalog.held()),
        findings=lambda: archive.catalog.findings_of(found_in),
        standing=archive.catalog.standing(),
        accepted=archive.catalog.acknowledgements(None),
        keeping=keeping(archive),
    )


def _no_such_verification(archive: Archive, run_id: int | None) -> str:
    if run_id is None:
        return "There is no verification to report on yet. Run `verify` first."
    other = archive.catalog.find_run(run_id)
    if other is None:
        return f"There is no run {run_id}. See `report --list`."
    article = "an" if other.command[0] in "aeiou" else "a"
    return f"Run {run_id} is {article} {other.command}, not a verification. See `report --list`."


def form_of(file: Path) -> ReportForm:
    """Return the form of a report by the suffix of its file; call it before the work that the report is about.

    Raises:
        RequestError: The suffix is unknown, or the folder does not exist.
    """
    if not file.parent.is_dir():
        raise RequestError(f"Cannot write the report: there is no folder {file.parent}. Create it first.")
    form = SUFFIXES.get(file.suffix.lower())
    if form is None:
        raise RequestError(f"Cannot tell the report's form from {file}. Use one of the suffixes {', '.join(SUFFIXES)}.")
    return form


def write_report(report: Report, form: ReportForm, file: str | Path) -> None:
    """Write a report to a file, which is replaced in one step, so that no reader sees half of it.

    Raises:
        NoSpaceError, NotWritableError: The disk refused.

    Example:
        >>> from craftkit_archive import Archive, gather_report, verify_assets, write_report
        >>> with Archive("archive") as archive:
        ...     *_, verified = verify_assets(archive)
        ...     write_report(gather_report(archive), "html", "report.html")
    """
    records.one_of("form", form, ReportForm)
    file = Path(file)
    with (
        replaced_when_whole(file) as new,
        new.open("x", encoding="utf-8", newline="", errors="backslashreplace") as out,
    ):
        WRITERS[form](report, out)
