"""The report as one self-contained HTML page: charts in SVG, findings that can be sorted and filtered, printable."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from craftkit_archive.coverage import percent
from craftkit_archive.html.pages import write_page
from craftkit_archive.records import Finding
from craftkit_archive.report.forms import NO_VERDICTS, UNCERTAIN
from craftkit_archive.states import describe_states, word_of
from craftkit_archive.values import format_duration, format_size

if TYPE_CHECKING:
    from typing import TextIO

    from craftkit_archive.records import Acknowledgement, Note, ProjectInfo, RunInfo
    from craftkit_archive.report.forms import Report

MOST_FINDINGS = 5000
MOST_PROJECTS = 40
_STATES: dict[str, str] = {"ok": "good", "extra": "note", "note": "note", **dict.fromkeys(UNCERTAIN, "warn")}
_ENDINGS = {
    "limited": "Stopped at its limit; what was read counts, and the next night goes on.",
    "interrupted": "Interrupted; what was read counts.",
    "failed": "Failed; what was read counts.",
    "incomplete": "Some could not be read or compared.",
}


def write_html(report: Report, out: TextIO) -> None:
    """Write a report as an HTML page; it shows the first `MOST_FINDINGS` findings, and says so if there are more."""
    found = list(islice(report.findings(), MOST_FINDINGS + 1))
    held = sorted((one for one in report.projects if one.renders), key=lambda one: -one.stored_bytes)
    write_page(
        "report/report.html",
        out,
        {
            "report": report,
            "state": _page_state(report),
            "facts": _facts(report.run, report.seconds),
            "ending": _ENDINGS.get(report.run.outcome or "failed"),
            "verdicts": _verdicts(report.run.counts),
            "covered": _covered(report),
            "history": _history(report.history),
            "ages": _ages(report),
            "projects": [_project_row(one) for one in held[:MOST_PROJECTS]],
            "more_projects": len(held) - MOST_PROJECTS,
            "findings": [_finding_row(one) for one in found[:MOST_FINDINGS]],
            "more_findings": len(found) > MOST_FINDINGS,
            "elsewhere": describe_states(report.standing.bad),
            "accepted": [_loss_row(one) for one in report.accepted[:MOST_FINDINGS]],
            "keeping": report.keeping,
            "due_soon_size": format_size(report.keeping.due_soon_bytes),
            "made_at": _short_time(report.made_at),
        },
    )


def _page_state(report: Report) -> str:
    if report.bad or report.standing.damaged:
        return "bad"
    return "warn" if report.run.outcome != "ok" or not report.run.finished_at or report.standing.bad else "good"


def _short_time(time: str | None) -> str:
    return f"{time[:10]} {time[11:16]} UTC" if time else "–"


def _facts(run: RunInfo, seconds: float | None) -> list[str]:
    took = f" in {format_duration(seconds)}" if seconds is not None else ""
    return [
        f"{_short_time(run.started_at)}, {format_size(run.bytes_read)} read{took}",
        f"level {run.arguments.get('level', 'digest')}",
    ]


# --- charts, computed here and drawn by the template -----------------------------------------------------------------


class _Part(NamedTuple):
    """A part of a ring: its name, its amount as a number and in words, and the CSS class of its colour."""

    name: str
    amount: int
    colour: str
    shown: str


class _Arc(NamedTuple):
    """An arc of a ring, in percent of the circle."""

    colour: str
    length: str
    rest: str
    offset: str


class _Ring(NamedTuple):
    """A ring of parts, with text in its middle and a legend beside it."""

    parts: list[_Part]
    arcs: list[_Arc]
    middle: str
    below: str
    described: str
    also: str


def _ring(parts: list[_Part], middle: str, below: str, also: str = "") -> _Ring:
    total = sum(part.amount for part in parts)
    arcs, at = [], 0.0
    for part in parts:
        if part.amount and total:
            # Even the smallest part must be visible.
            length = max(100 * part.amount / total, 1.2)
            arcs.append(_Arc(part.colour, f"{length:.2f}", f"{100 - length:.2f}", f"{-at:.2f}"))
            at = min(at + length, 98.8)
    described = ", ".join(f"{part.name} {part.shown}" for part in parts)
    return _Ring(parts, arcs, middle.replace(" %", "%"), below, described, also)


def _verdicts(counts: dict[str, int]) -> _Ring:
    parts = [_Part("ok", counts.get("ok", 0), "good", f"{counts.get('ok', 0):,}")]
    for name, count in sorted(counts.items(), key=lambda pair: -pair[1]):
        if name not in (*NO_VERDICTS, "ok", "orphan") and count:
            parts.append(_Part(name, count, "warn" if name in UNCERTAIN else "bad", f"{count:,}"))
    checked = counts.get("checked", 0)
    also = [f"{counts[name]:,} {words}" for name, words in (
        ("orphan", "extra, claimed by no render"), ("acknowledged", "acknowledged as lost"),
        ("notes", "odd, but open"), ("unknown", "unknown ids")
    ) if counts.get(name)]  # fmt: skip
    return _ring(parts, percent(counts.get("ok", 0) / checked) if checked else "–", "ok", ", ".join(also))


def _covered(report: Report) -> _Ring:
    coverage = report.coverage
    rest = coverage.stored_bytes - coverage.covered_bytes - coverage.due_bytes
    parts = [
        _Part("read and good", coverage.covered_bytes, "good", format_size(coverage.covered_bytes)),
        _Part("due", coverage.due_bytes, "track", format_size(coverage.due_bytes)),
    ]
    if rest:
        parts.append(_Part("read and bad", rest, "bad", format_size(rest)))
    return _ring(parts, percent(coverage.share), f"of {format_size(coverage.stored_bytes)}")


class _Point(NamedTuple):
    """A verification in the chart of coverage, and in the table below it."""

    run: int
    ended: str
    share: str
    read: str
    outcome: str
    x: str
    y: str
    bar_x: str
    bar_y: str
    bar_height: str


class _GridLine(NamedTuple):
    y: int
    shown: str


class _History(NamedTuple):
    """The chart of coverage: a line for the share after each verification, and bars for the bytes that each read."""

    points: list[_Point]
    grid: list[_GridLine]
    line: str
    area: str
    most_read: str
    left: int
    right: int
    low: int

    @property
    def first(self) -> _Point:
        """The oldest verification."""
        return self.points[0]

    @property
    def last(self) -> _Point:
        """The newest verification."""
        return self.points[-1]


def _history(runs: list[RunInfo]) -> _History | None:
    """Lay out the chart; None if no verification has recorded its coverage yet."""
    runs = [run for run in runs if run.finished_at]
    if not runs:
        return None
    times = [datetime.fromisoformat(run.finished_at or "").timestamp() for run in runs]
    first, span = times[0], (times[-1] - times[0]) or 1.0
    most = max(run.bytes_read for run in runs) or 1
    left, width, top, height, low = 40, 450, 12, 130, 196
    points = []
    for run, time in zip(runs, times, strict=True):
        x = left + width * (time - first) / span if len(runs) > 1 else left + width / 2
        bar = 34 * run.bytes_read / most
        points.append(
            _Point(
                run=run.id,
                ended=_short_time(run.finished_at),
                share=percent(_share(run)),
                read=format_size(run.bytes_read),
                outcome=run.outcome or "",
                x=f"{x:.1f}",
                y=f"{top + height * (1 - _share(run)):.1f}",
                bar_x=f"{x - 2:.1f}",
                bar_y=f"{low - bar:.1f}",
                bar_height=f"{bar:.1f}",
            )
        )
    line = " ".join(f"{point.x},{point.y}" for point in points)
    area = f"{points[0].x},{top + height} {line} {points[-1].x},{top + height}"
    grid = [_GridLine(round(top + height * (1 - part)), f"{part:.0%}") for part in (0, 0.5, 1)]
    return _History(points, grid, line, area, format_size(most), left, left + width, low)


def _share(run: RunInfo) -> float:
    return (run.covered_bytes or 0) / run.stored_bytes if run.stored_bytes else 1.0


class _Age(NamedTuple):
    """A bar: the bytes that were last read within a range of days."""

    name: str
    size: str
    shown: str
    colour: str
    y: int
    length: float


def _ages(report: Report) -> list[_Age]:
    today = datetime.fromisoformat(report.made_at).date()
    limits = [(0, "today"), (1, "1 day"), (7, "2–7 days"), (14, "8–14 days"), (30, "15–30 days"), (90, "31–90 days")]
    sizes = dict.fromkeys([*(name for _, name in limits), "longer ago", "never, or bad"], 0)
    counts = dict.fromkeys(sizes, 0)
    within: dict[str, bool] = {name: days <= report.coverage.days for days, name in limits}
    for day, assets, size in report.days:
        name = "never, or bad"
        if day is not None:
            ago = (today - datetime.fromisoformat(day).date()).days
            # A date in the future does not tell when the asset was read, so it counts as never.
            name = next((name for days, name in limits if 0 <= ago <= days), "longer ago") if ago >= 0 else name
        sizes[name] += size
        counts[name] += assets
    most = max(sizes.values()) or 1
    ages = []
    for number, (name, size) in enumerate(sizes.items()):
        colour = "never" if name == "never, or bad" else "blue" if within.get(name) else "old"
        shown = f"{format_size(size)} · {counts[name]:,}" if counts[name] else "–"
        length = max(250 * size / most, 3) if size else 0
        ages.append(_Age(name, format_size(size), shown, colour, number * 26 + 4, length))
    return ages


class _BarPart(NamedTuple):
    """A part of a project's bar, in percent of the bar."""

    colour: str
    x: str
    width: str


class _Project(NamedTuple):
    """A line of the table of projects, with a bar: covered, read and bad, due."""

    name: str
    deleted: bool
    stored: int
    size: str
    bars: list[_BarPart]
    share: str
    damaged: int
    not_stored: int


def _project_row(project: ProjectInfo) -> _Project:
    total = project.stored_bytes or 1
    rest = max(project.stored_bytes - project.covered_bytes - project.due_bytes, 0)
    at, bars = 0.0, []
    for amount, colour in ((project.covered_bytes, "good"), (rest, "bad"), (project.due_bytes, "track")):
        length = max(100 * amount / total, 0)  # the totals may lack rows that another program inserted
        bars.append(_BarPart(colour, f"{at:.2f}", f"{length:.2f}"))
        at += length
    return _Project(
        name=project.slug or project.name,
        deleted=bool(project.deleted_at),
        stored=project.stored,
        size=format_size(project.stored_bytes),
        bars=bars,
        share=percent(project.covered_bytes / project.stored_bytes) if project.stored_bytes else "–",
        damaged=project.damaged,
        not_stored=project.not_stored,
    )


# --- tables ----------------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    """A line of the table of findings."""

    verdict: str
    state: str
    key: str
    compared: str
    what: str
    seen: str


def _finding_row(one: Finding | Note) -> _Row:
    if not isinstance(one, Finding):
        return _Row("note", "note", one.key, "", one.detail or "", _short_time(one.found_at))
    verdict = word_of(one.verdict)
    compared = f"{one.expected or '–'} → {one.found or '–'}" if one.expected or one.found else ""
    accepted = f"acknowledged: {one.acknowledged}" if one.acknowledged else None
    what = "; ".join(filter(None, [one.detail, accepted]))
    return _Row(verdict, _STATES.get(verdict, "bad"), one.key, compared, what, _short_time(one.found_at))


class _Loss(NamedTuple):
    """A line of the table of accepted losses."""

    key: str
    state: str
    reason: str
    accepted_at: str


def _loss_row(one: Acknowledgement) -> _Loss:
    return _Loss(one.key, one.state.replace("-", " "), one.reason, _short_time(one.accepted_at))
