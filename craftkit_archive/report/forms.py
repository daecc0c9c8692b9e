"""The content of a report, and its forms for terminals and machines: text, NDJSON, CSV, JUnit XML, Prometheus."""

import csv
import re
import textwrap
from collections.abc import Callable, Iterator
from datetime import datetime
from html import escape
from typing import Any, Literal, NamedTuple, TextIO

import msgspec

from craftkit_archive.columns import Column, Table, one_line, short_digest
from craftkit_archive.coverage import Coverage
from craftkit_archive.outcomes import describe_counts
from craftkit_archive.parallel.batches import in_batches
from craftkit_archive.records import Acknowledgement, Finding, Keeping, Note, ProjectInfo, RunInfo
from craftkit_archive.states import STATES, Standing, by_state, describe_states, word_of
from craftkit_archive.values import escape_formula, format_duration, format_size

ReportForm = Literal["text", "ndjson", "csv", "junit", "prometheus", "html"]
SUFFIXES: dict[str, ReportForm] = {
    ".txt": "text",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "ndjson",
    ".csv": "csv",
    ".xml": "junit",
    ".prom": "prometheus",
    ".html": "html",
    ".htm": "html",
}
# Counts of a run that are not verdicts.
NO_VERDICTS = ("checked", "same_size", "unknown", "notes", "acknowledged")
# Verdicts for assets that could not be compared, or that are not stored.
UNCERTAIN = tuple(verdict for verdict, state in STATES.items() if state in ("unreadable", "unverified", "not-stored"))
PAGE = 500
_COLUMNS = ("run_id", "verdict", "render_id", "key", "expected", "found", "detail", "found_at", "acknowledged")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class ReadingDay(NamedTuple):
    """The assets that were last read on a day (2026-06-05); with None, those never read, or not good now."""

    day: str | None
    assets: int
    size_bytes: int


class Report(NamedTuple):
    """Everything that a report contains: one verification, and the state of the archive when the report is made.

    Attributes:
        archive: The archive's directory.
        archive_id: Its id.
        store: The store's address, without a password.
        made_at: When the report was made, in UTC.
        run: The verification.
        coverage: The coverage now.
        history: The verifications that recorded their coverage, oldest first.
        days: When the stored assets were last read.
        projects: Counts and sizes by project.
        seal: The seal of the archive.
        findings: Returns the findings of the run, from the first one at each call.
        standing: The number of PDFs in each state now.
        accepted: The losses that were accepted.
        keeping: What is due soon, held, and disposed.
    """

    archive: str
    archive_id: str
    store: str
    made_at: str
    run: RunInfo
    coverage: Coverage
    history: list[RunInfo]
    days: list[ReadingDay]
    projects: list[ProjectInfo]
    seal: str
    findings: Callable[[], Iterator[Finding | Note]]
    standing: Standing
    accepted: list[Acknowledgement]
    keeping: Keeping

    @property
    def bad(self) -> int:
        """How many assets this run found damaged, without those accepted as lost."""
        return by_state(self.run.counts).get("damaged", 0)

    @property
    def uncertain(self) -> int:
        """How many assets could not be read or compared."""
        return sum(self.run.counts.get(name, 0) for name in (*UNCERTAIN, "unknown"))

    @property
    def is_part(self) -> bool:
        """Whether the run checked less than everything: a run over everything has only its level as an argument."""
        return bool(set(self.run.arguments) - {"level"}) or self.run.outcome in ("limited", "interrupted", "failed")

    @property
    def seconds(self) -> float | None:
        """How long the run took, in seconds; None if it did not end."""
        if self.run.finished_at is None:
            return None
        times = [datetime.fromisoformat(time) for time in (self.run.started_at, self.run.finished_at)]
        return (times[1] - times[0]).total_seconds()

    @property
    def headline(self) -> str:
        """The report in one sentence; the state of the whole archive is added if the run does not show it."""
        found, bad = by_state(self.run.counts), self.standing.bad
        if not self.is_part and {state: found.get(state, 0) for state in bad} == bad and bool(bad) == self._is_bad:
            return self._verified
        return f"{self._verified}. The whole archive: {describe_states(bad) or 'nothing is damaged'}"

    @property
    def _is_bad(self) -> bool:
        return bool(self.bad or self.uncertain)

    @property
    def _verified(self) -> str:
        checked = self.run.counts.get("checked", 0)
        if self.run.finished_at is None or self.run.outcome == "failed":
            return f"This verification did not finish; {checked:,} PDFs were checked"
        if self.bad:
            return f"{self.bad:,} of {checked:,} PDFs {'is' if self.bad == 1 else 'are'} not what was stored"
        if self.uncertain:
            return f"{self.uncertain:,} of {checked:,} PDFs could not be read or compared"
        orphans = self.run.counts.get("orphan", 0)
        if not checked and orphans:
            return f"No PDF was checked: none is recorded, and the store holds {orphans:,} files that no render claims"
        if not checked:
            return "Nothing was due: no PDF was checked"
        same_size = self.run.counts.get("same_size", 0)
        if same_size:
            return f"{same_size:,} of {checked:,} PDFs have the recorded size; their bytes were not read"
        whole = "" if self.run.outcome == "ok" else ", as far as this run came"
        return f"All {checked:,} PDFs are what was stored{whole}" if checked > 1 else f"The one PDF is as stored{whole}"


def write_text(report: Report, out: TextIO, *, window: int | None = None, short: bool = False) -> None:
    """Write a report as text for a terminal or a mail.

    Args:
        report: The report.
        out: The file to write to.
        window: The most characters in a line; None for no limit.
        short: Whether to shorten the digests of findings to what distinguishes them.
    """
    run = report.run
    took = "" if report.seconds is None else f", {format_duration(report.seconds)}"
    facts = {
        "run": f"{run.id}, {run.started_at}{took}, {run.outcome or 'not ended'}",
        "archive": f"{report.archive} ({report.archive_id})",
        "counts": describe_counts(run.counts),
        "now": report.standing.text,
        "read": format_size(run.bytes_read),
        "coverage": report.coverage.details()["text"],
        "keeping": report.keeping.text,
        "seal": report.seal,
    }
    out.write(_wrapped(f"{report.headline}.", window))
    out.write("\n")
    for name, fact in facts.items():
        if fact:
            out.write(_wrapped(f"{name:<10}{one_line(fact)}", window, " " * 10))
    tables: list[tuple[list[Column], Iterator[Any]]] = [
        (_finding_columns(short=short), report.findings()),
        (_ACCEPTED_COLUMNS, iter(report.accepted)),
    ]
    for columns, rows in tables:
        table = Table(columns, window)
        for number, page in enumerate(in_batches(rows, PAGE)):
            out.write("" if number else "\n")
            out.writelines(f"{line}\n" for line in table.lines(page))


def _wrapped(text: str, window: int | None, indent: str = "") -> str:
    if window is None:
        return f"{text}\n"
    lines = textwrap.wrap(text, window, subsequent_indent=indent, break_on_hyphens=False)
    return "".join(f"{line}\n" for line in lines)


def _finding_columns(*, short: bool) -> list[Column]:
    def seen(one: Finding | Note) -> str:
        if isinstance(one, Note):
            return one.detail
        digests = [short_digest(text, verbose=not short) or "-" for text in (one.expected, one.found)]
        compared = f"{digests[0]} → {digests[1]}" if one.expected or one.found else ""
        accepted = f"acknowledged: {one.acknowledged}" if one.acknowledged else ""
        return "; ".join(filter(None, [compared, one.detail, accepted])) or "-"

    return [
        Column("VERDICT", lambda one: word_of(one.verdict) if isinstance(one, Finding) else "note"),
        Column("RENDER OR FILE", lambda one: one.render_id or one.key, least=36, middle=True),
        Column("EXPECTED → FOUND, OR WHAT", seen, least=20),
        Column("ASSET KEY", lambda one: one.key, least=92, drop=1, middle=True),
    ]


_ACCEPTED_COLUMNS = [
    Column("ACCEPTED AS LOST", lambda one: one.render_id, least=36, middle=True),
    Column("STATE", lambda one: one.state.replace("-", " ")),
    Column("SINCE", lambda one: one.accepted_at[:10]),
    Column("REASON", lambda one: one.reason, least=12),
]


def _accepted_note(found: Finding | Note) -> str:
    reason = found.acknowledged if isinstance(found, Finding) else None
    return f" [acknowledged: {reason}]" if reason else ""


def write_ndjson(report: Report, out: TextIO) -> None:
    """Write a report as NDJSON: the findings and notes as in `--json verify`, then the run and its coverage."""
    for found in report.findings():
        out.write(msgspec.json.encode(found).decode() + "\n")
    for one in report.accepted:
        out.write(msgspec.json.encode(one).decode() + "\n")
    details = {
        "archive_id": report.archive_id,
        "seal": report.seal,
        "coverage": report.coverage.details(),
        "standing": report.standing,
        "keeping": report.keeping,
        "headline": report.headline,
    }
    out.write(msgspec.json.encode({**msgspec.to_builtins(report.run), **details}).decode() + "\n")


def write_csv(report: Report, out: TextIO) -> None:
    """Write the findings and notes of a report as CSV; cells that a spreadsheet would take for formulas are escaped."""
    table = csv.writer(out)
    table.writerow(_COLUMNS)
    for found in report.findings():
        cells = {"verdict": "note", **msgspec.to_builtins(found)}
        table.writerow(escape_formula(cells.get(name)) for name in _COLUMNS)


def write_junit(report: Report, out: TextIO) -> None:
    """Write a report as JUnit XML: one test case for all good PDFs, one for each finding; orphans and notes as skipped.

    Source: the schema of Jenkins' xUnit plugin.
    """
    counts = report.run.counts
    passed = [f"{counts.get('ok', 0)} assets are what was stored"] if counts.get("ok") else []
    if counts.get("same_size"):
        passed.append(f"{counts['same_size']} assets have the recorded size")
    skipped = sum(counts.get(name, 0) for name in ("orphan", "notes", "acknowledged"))
    total = len(passed) + report.bad + report.uncertain - counts.get("unknown", 0) + skipped
    attributes = (
        f'name="craftkit-archive verify" tests="{total}" failures="{report.bad}"'
        f' errors="{report.uncertain - counts.get("unknown", 0)}" skipped="{skipped}"'
        f' time="{report.seconds or 0:.3f}" timestamp="{report.run.started_at}"'
    )
    out.write(f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n<testsuite {attributes}>\n')
    for name in passed:
        out.write(f"<testcase classname={_attribute(report.archive)} name={_attribute(name)}/>\n")
    for found in report.findings():
        verdict = found.verdict if isinstance(found, Finding) else "note"
        kind = (
            "skipped"
            if verdict in ("orphan", "note") or _accepted_note(found)
            else "error"
            if verdict in UNCERTAIN
            else "failure"
        )
        seen = (
            f"expected {found.expected}, found {found.found}" if isinstance(found, Finding) and found.expected else ""
        )
        text = escape(
            _NOT_XML.sub("?", "; ".join(part for part in (found.detail, seen, _accepted_note(found)) if part))
        )
        out.write(
            f'<testcase classname="{verdict}" name={_attribute(found.key)}>'
            f'<{kind} message="{verdict}">{text}</{kind}></testcase>\n'
        )
    out.write("</testsuite>\n</testsuites>\n")


def _attribute(text: str) -> str:
    return f'"{escape(_NOT_XML.sub("?", text))}"'


def write_prometheus(report: Report, out: TextIO) -> None:
    """Write a report as metrics for the textfile collector of Prometheus' node exporter.

    Source: Prometheus' text exposition format, version 0.0.4.
    """
    run, coverage = report.run, report.coverage
    verdicts = {name: count for name, count in run.counts.items() if name not in NO_VERDICTS}
    stored = sum(project.stored for project in report.projects)
    metrics: list[tuple[str, str, list[tuple[str, float]]]] = [
        ("last_verify_success", "1 if the last verification found no problem.", [("", not report.bad)]),
        ("last_verify_started_timestamp_seconds", "When it began.", [("", _seconds(run.started_at))]),
        ("last_verify_timestamp_seconds", "When it ended; 0 if it did not.", [("", _seconds(run.finished_at))]),
        ("last_verify_bytes_read", "How much it read.", [("", run.bytes_read)]),
        ("last_verify_assets", "Assets by its verdict.", [(f'verdict="{n}"', count) for n, count in verdicts.items()]),
        ("stored_assets", "Assets that are stored.", [("", stored)]),
        ("stored_bytes", "Their bytes.", [("", coverage.stored_bytes)]),
        ("not_stored", "Succeeded renders whose PDF is not stored.", [("", report.standing.not_stored)]),
        ("bad_assets", "Assets that are damaged.", [("", report.standing.damaged)]),
        ("assets", "Assets, and files in the store, by state.", _states(report.standing)),
        (
            "coverage_ratio",
            "Part of the bytes that was read and found good within the days.",
            [(f'days="{coverage.days}"', coverage.share)],
        ),
        ("retention_due", "Stored renders whose retention period is over.", [("", report.keeping.due)]),
        (
            "retention_due_soon",
            "Stored renders whose retention period is over within the days.",
            [(f'days="{report.keeping.days}"', report.keeping.due_soon)],
        ),
        ("held", "Stored renders that a legal hold covers.", [("", report.keeping.held)]),
        ("disposals_begun", "Renders whose disposal is not finished.", [("", report.keeping.begun)]),
        ("due_bytes", "Bytes that were not read within the days.", [("", coverage.due_bytes)]),
    ]
    for name, meaning, samples in metrics:
        out.write(f"# HELP craftkit_archive_{name} {meaning}\n# TYPE craftkit_archive_{name} gauge\n")
        for labels, value in samples:
            both = ",".join(part for part in (f'archive="{report.archive_id}"', labels) if part)
            out.write(f"craftkit_archive_{name}{{{both}}} {float(value):.15g}\n")


def _states(standing: Standing) -> list[tuple[str, float]]:
    counts = msgspec.structs.asdict(standing)
    return [(f'state="{name.replace("_", "-")}"', count) for name, count in counts.items() if name != "stored"]


def _seconds(time: str | None) -> float:
    return datetime.fromisoformat(time).timestamp() if time else 0.0
