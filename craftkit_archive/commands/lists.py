"""The columns of each list, and how a list is written: as a table, CSV, JSON, or ids."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

from craftkit_archive import errors
from craftkit_archive.columns import Column, Table, short_digest, window_width
from craftkit_archive.commands.colour import painter
from craftkit_archive.commands.console import Console, as_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from craftkit_archive.records import FindingInfo, Record, RunInfo, Summary

ListForm = Literal["table", "csv", "json", "ids"]
PAGE = 500
_TINTS = {
    "ok": "green",
    "damaged": "red",
    "problems": "red",
    "failed": "red",
    **dict.fromkeys(("unreadable", "unverified", "not stored", "incomplete", "interrupted", "not ended"), "yellow"),
}
# The length of a UUID, as Craftkit's ids are; longer ids may be cut.
ID_CHARS = 36


def write_list(
    console: Console,
    records: Iterator[Record],
    columns: Sequence[Column],
    *,
    form: ListForm = "table",
    called: str | None = None,
) -> int:
    """Write the records of a look-up to stdout and its summary to stderr, and return the exit code.

    The form `json` writes each record as a line; `--json` adds the summary.

    Args:
        console: The console.
        records: The records; the last one is the summary.
        columns: The columns of the table.
        form: How to write the list.
        called: The command's name in the summary, if it is not that of the look-up.

    Raises:
        RequestError: `--json` is combined with another form.
        OutputError: Standard output cannot be written.
    """
    import msgspec

    from craftkit_archive.records import Summary

    if console.json and form not in ("table", "json"):
        raise errors.RequestError(f"--json and --format {form} exclude each other. Leave one of them out.")
    writer = _WRITERS["json" if console.json else form](console, columns)
    page: list[Record] = []
    summary: Summary | None = None
    for record in records:
        if isinstance(record, Summary):
            summary = record
        else:
            page.append(record)
        if len(page) == PAGE or (summary and page):
            console.rows(writer(page))
            page = []
    if summary is None:
        raise RuntimeError("A look-up ended without a summary.")
    console.close(msgspec.structs.replace(summary, command=called or summary.command))
    return summary.exit_code


class _Rows:
    def __init__(self, console: Console, columns: Sequence[Column]) -> None:
        self._table = Table(columns, window_width(verbose=console.verbose), painter(sys.stdout))

    def __call__(self, page: Sequence[Record]) -> Iterator[str]:
        return self._table.lines(page)


class _Cells:
    """CSV with the fields of the records; cells that a spreadsheet would take for formulas are escaped."""

    def __init__(self, _console: Console, _columns: Sequence[Column]) -> None:
        self._headed = False

    def __call__(self, page: Sequence[Record]) -> Iterator[str]:
        import csv
        import io

        import msgspec

        from craftkit_archive.values import escape_formula, valid_text

        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        if not self._headed:
            table.writerow(page[0].__struct_fields__)
            self._headed = True
        for record in page:
            values = msgspec.structs.astuple(record)
            table.writerow(escape_formula(valid_text(value) if isinstance(value, str) else value) for value in values)
        yield text.getvalue().removesuffix("\n")


class _Lines:
    def __init__(self, _console: Console, _columns: Sequence[Column]) -> None:
        pass

    def __call__(self, page: Sequence[Record]) -> Iterator[str]:
        return map(as_json, page)


class _Ids:
    """The ids of renders, each once, for `--ids -` of another command."""

    def __init__(self, _console: Console, _columns: Sequence[Column]) -> None:
        self._last: str | None = None

    def __call__(self, page: Sequence[Any]) -> Iterator[str]:
        for record in page:
            render_id = record.id if hasattr(record, "id") else record.render_id
            if render_id is not None and render_id != self._last:
                yield render_id
                self._last = render_id


_WRITERS: dict[ListForm, Any] = {"table": _Rows, "csv": _Cells, "json": _Lines, "ids": _Ids}


# --- the columns -----------------------------------------------------------------------------------------------------


def render_columns(*, verbose: bool) -> list[Column]:
    """Return the columns of a list of renders."""
    when = _whole if verbose else _day
    return [
        Column("ID", lambda one: one.id, least=ID_CHARS, middle=True),
        Column("PROJECT", lambda one: one.project_slug or one.project_id, least=8),
        Column("PROJECT ID", lambda one: one.project_id, least=ID_CHARS, drop=9, middle=True),
        Column("TEMPLATE", lambda one: one.template_id or "-", least=12, drop=6, middle=True),
        Column("STATUS", lambda one: one.status, drop=5),
        # A render that did not succeed has no PDF; its status is shown instead.
        Column("PDF", lambda one: _state(one.state) or f"({one.status})", tint=_TINTS.get),
        Column("SIZE", lambda one: _size(one.size_bytes), right=True, drop=2),
        Column("CREATED", lambda one: when(one.created_at), drop=1),
        Column("VERIFIED", lambda one: when(one.verified_at), drop=4),
        Column("SHA-256", lambda one: short_digest(one.sha256, verbose=verbose) or "-", drop=7),
        Column("ASSET KEY", lambda one: one.key or "-", least=40, drop=8, middle=True),
    ]


def finding_columns(*, verbose: bool) -> list[Column]:
    """Return the columns of a list of findings; a file that no render claims is shown by its key instead of an id."""
    from craftkit_archive.states import word_of

    when = _whole if verbose else _day
    return [
        Column("RENDER OR FILE", lambda one: one.render_id or one.key, least=ID_CHARS, middle=True),
        Column("PROJECT", lambda one: one.project_slug or one.project_id or "-", least=8, drop=2),
        Column("TEMPLATE", lambda one: one.template_id or "-", least=12, drop=4, middle=True),
        Column("PDF", lambda one: _state(one.state), drop=1, tint=_TINTS.get),
        Column("VERDICT", lambda one: word_of(one.verdict)),
        Column("FOUND", lambda one: when(one.found_at), drop=3),
        Column("RUN", lambda one: str(one.run_id), right=True, drop=5),
        Column("EXPECTED → FOUND, OR WHAT", lambda one: _what(one, verbose=verbose), least=26),
        Column("ASSET KEY", lambda one: one.key, least=40, drop=6, middle=True),
    ]


def run_columns(*, verbose: bool) -> list[Column]:
    """Return the columns of a list of runs."""
    from craftkit_archive.outcomes import describe_run
    from craftkit_archive.values import format_size

    when = _whole if verbose else _minute
    return [
        Column("RUN", lambda one: str(one.id), right=True),
        Column("STARTED (UTC)", lambda one: when(one.started_at)),
        Column("TOOK", _took, right=True, drop=2),
        Column("COMMAND", lambda one: one.command, least=12),
        Column("OUTCOME", lambda one: one.outcome or "not ended", tint=_TINTS.get),
        Column("READ", lambda one: format_size(one.bytes_read) if one.bytes_read else "-", right=True, drop=1),
        Column("COUNTS", lambda one: describe_run(one) or "-", least=16),
    ]


def project_columns(standing: object) -> list[Column]:
    """Return the columns of the projects in `status`; rare states have a column only if any PDF is in them."""
    from craftkit_archive.values import format_size

    def count(head: str, name: str, drop: int = 0, tint: str | None = None) -> Column:
        def colour(cell: str) -> str | None:
            return None if cell == "0" else tint

        return Column(head, lambda one: f"{getattr(one, name):,}", right=True, drop=drop, tint=colour)

    rare = [name for name in ("unreadable", "unverified", "acknowledged", "disposed") if getattr(standing, name)]
    return [
        Column("PROJECT", lambda one: one.slug or one.name, least=8),
        Column("ID", lambda one: one.id, least=ID_CHARS, drop=9, middle=True),
        count("RENDERS", "renders", 2),
        count("SUCCEEDED", "succeeded", 3),
        count("STORED", "stored"),
        Column("SIZE", lambda one: format_size(one.stored_bytes), right=True, drop=1),
        count("NOT STORED", "not_stored", tint="yellow"),
        count("VERIFIED", "verified_ok", 4),
        count("DAMAGED", "damaged", tint="red"),
        *(count(name.upper(), name) for name in rare),
        Column("DELETED", lambda one: _day(one.deleted_at), drop=8),
    ]


def key_columns(*, verbose: bool) -> list[Column]:
    """Return the columns of a list of API keys."""
    when = _whole if verbose else _day
    return [
        Column("ID", lambda one: one.id, least=ID_CHARS, middle=True),
        Column("PROJECT", lambda one: one.project_slug or one.project_id, least=8),
        Column("PROJECT ID", lambda one: one.project_id, least=ID_CHARS, drop=3, middle=True),
        Column("PREFIX", lambda one: one.prefix or "-", least=16),
        Column("STATE", lambda one: "revoked" if one.revoked_at else "valid"),
        Column("REVOKED", lambda one: when(one.revoked_at), drop=2),
        Column("CREATED", lambda one: when(one.created_at), drop=1),
        Column("LAST USED", lambda one: when(one.last_used_at)),
        Column("NAME", lambda one: one.name or "-", least=8),
    ]


def setting_columns() -> list[Column]:
    """Return the columns of a list of settings."""
    return [
        Column("COMMAND", lambda one: one.command or "(all)"),
        Column("SETTING", lambda one: one.option),
        Column("VALUE", lambda one: one.value or "-", least=24),
        Column("FROM", lambda one: one.origin or "default", least=24, middle=True),
    ]


def acceptance_columns(*, verbose: bool) -> list[Column]:
    """Return the columns of a list of accepted losses."""
    when = _whole if verbose else _day
    return [
        Column("RENDER", lambda one: one.render_id, least=ID_CHARS, middle=True),
        Column("PDF", lambda one: _state(one.state)),
        Column("ACCEPTED", lambda one: when(one.accepted_at), drop=1),
        Column("IN FORCE", lambda one: "yes" if one.in_force else "no longer in this state", least=8),
        Column("REASON", lambda one: one.reason, least=16),
        Column("ASSET KEY", lambda one: one.key or "-", least=40, drop=2, middle=True),
    ]


def event_columns(*, verbose: bool) -> list[Column]:
    """Return the columns of a list of events of the audit log."""
    from craftkit_archive.report.lines import describe_event

    when = _whole if verbose else _minute
    return [
        Column("EVENT", lambda one: f"{one.number}" if one.last is None else f"{one.number}-{one.last}", right=True),
        Column("TIME (UTC)", lambda one: when(one.time)),
        Column("WHO", lambda one: one.who, least=12, middle=True),
        Column("WHAT", lambda one: one.what),
        Column("COUNTS AND DETAILS", lambda one: describe_event(one) or "-", least=16),
    ]


def held_columns(*, verbose: bool) -> list[Column]:
    """Return the columns of a list of quarantined copies."""
    when = _whole if verbose else _day
    return [
        Column("RENDER", lambda one: one.render_id or "-", least=ID_CHARS, middle=True),
        Column("VERDICT", lambda one: one.verdict),
        Column("SIZE", lambda one: _size(one.size_bytes), right=True),
        Column("KEPT", lambda one: when(one.kept_at)),
        Column("SHA-256", lambda one: short_digest(one.sha256, verbose=verbose) or "-", drop=1),
        Column("NAME", lambda one: one.name, least=40, drop=2, middle=True),
    ]


def run_facts(run: RunInfo, findings: int) -> Iterator[tuple[str, str]]:
    """Yield names and values of everything that is known about a run."""
    import msgspec

    from craftkit_archive.outcomes import describe_counts
    from craftkit_archive.values import format_size

    yield "run", str(run.id)
    yield "command", run.command
    asked = msgspec.json.encode(run.arguments).decode()
    yield "arguments", asked if run.arguments else "-"
    yield "started", run.started_at
    yield "ended", run.finished_at or "-"
    yield "took", _took(run)
    yield "outcome", run.outcome or "not ended"
    yield "counts", describe_counts(run.counts) or "-"
    yield "read", format_size(run.bytes_read)
    if run.stored_bytes is not None:
        covered = f"{format_size(run.covered_bytes or 0)} of {format_size(run.stored_bytes)}"
        yield "covered", f"{covered} read and good within {run.coverage_days} days, when it ended"
    yield "findings", f"{findings:,}"


def _state(state: str | None) -> str:
    return (state or "").replace("-", " ")


def _what(found: FindingInfo, *, verbose: bool) -> str:
    seen = ""
    if found.expected or found.found:
        both = [short_digest(value, verbose=verbose) or "-" for value in (found.expected, found.found)]
        seen = f"{both[0]} → {both[1]}"
    accepted = f"accepted: {found.acknowledged}" if found.acknowledged else ""
    return "; ".join(filter(None, [seen, found.detail, accepted])) or "-"


def _day(time: str | None) -> str:
    return time[:10] if time else "-"


def _minute(time: str | None) -> str:
    return f"{time[:10]} {time[11:16]}" if time else "-"


def _whole(time: str | None) -> str:
    return time or "-"


def _size(size_bytes: int | None) -> str:
    from craftkit_archive.values import format_size

    return "-" if size_bytes is None else format_size(size_bytes)


def _took(run: RunInfo) -> str:
    from datetime import datetime

    from craftkit_archive.values import format_duration

    if run.finished_at is None:
        return "-"
    times = [datetime.fromisoformat(time) for time in (run.started_at, run.finished_at)]
    return format_duration((times[1] - times[0]).total_seconds())
