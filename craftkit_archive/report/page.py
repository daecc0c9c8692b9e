"""The report as one HTML page that needs nothing else: pictures in SVG, findings that sort and filter, fit to print."""

from __future__ import annotations

import base64
from datetime import datetime
from hashlib import sha256
from html import escape
from itertools import islice
from string import Template
from typing import TYPE_CHECKING, NamedTuple

from craftkit_archive.coverage import percent
from craftkit_archive.parallel.progress import format_duration, format_size
from craftkit_archive.records import Finding
from craftkit_archive.report.forms import NO_VERDICTS, UNCERTAIN
from craftkit_archive.states import word_of, words
from craftkit_archive.values import escape_control

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

    from craftkit_archive.records import Note, ProjectInfo, RunInfo
    from craftkit_archive.report.forms import Report

MOST_FINDINGS = 5000
MOST_PROJECTS = 40
_MARKS = {
    "good": '<path class="mark" d="M15 27l8 8 15-17"/>',
    "bad": '<path class="mark" d="M17 17l18 18M35 17L17 35"/>',
    "warn": '<path class="mark" d="M26 14v15M26 37v.5"/>',
}
_STATES: dict[str, str] = {"ok": "good", "extra": "note", "note": "note", **dict.fromkeys(UNCERTAIN, "warn")}


class _Part(NamedTuple):
    """A part of a picture: what it is called, how much it is, and its colour's class."""

    name: str
    amount: int
    colour: str
    shown: str


def write_html(report: Report, out: TextIO) -> None:
    """Write the page; of very many findings it holds the first 5,000, and says so."""
    script = _resource("report.js")
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    unfinished = report.run.finished_at is None or report.run.outcome == "failed"
    state = "good"
    if report.bad or report.standing.damaged:
        state = "bad"
    elif unfinished or report.run.outcome != "ok" or report.standing.bad:
        state = "warn"
    out.write(
        Template(_resource("report.html")).substitute(
            title=_escaped(f"{report.headline} · {report.archive}"),
            script_digest=f"sha256-{digest}",
            script=script,
            state=state,
            mark=f'<svg viewBox="0 0 52 52" aria-hidden="true"><circle class="mark-disc" cx="26" cy="26" r="26"/>'
            f"{_MARKS[state]}</svg>",
            headline=_escaped(report.headline),
            subline=_subline(report),
            days=report.coverage.days,
            verdicts=_verdicts(report),
            covered=_covered(report),
            history=_history(report.history),
            ages=_ages(report),
            projects=_projects(report.projects),
            findings=_findings(report) + _accepted_section(report),
            proof=_proof(report),
        )
    )


def _resource(name: str) -> str:
    from importlib.resources import files  # takes long to import, and only a page needs it

    return files("craftkit_archive.report").joinpath(name).read_text("utf-8")


def _escaped(text: str) -> str:
    """Show what steers a terminal or turns the direction of writing in foreign text as an escape."""
    return escape(escape_control(text).replace("\n", " "))


def _short_time(time: str | None) -> str:
    return f"{time[:10]} {time[11:16]} UTC" if time else "–"


def _subline(report: Report) -> str:
    run = report.run
    took = f" in {format_duration(report.seconds)}" if report.seconds is not None else ""
    parts = [
        f"Verification {run.id} of <code>{_escaped(report.archive)}</code>",
        f"{_short_time(run.started_at)}, {format_size(run.bytes_read)} read{took}",
        f"level {_escaped(str(run.arguments.get('level', 'digest')))}",
    ]
    ends = {
        "limited": "stopped at its limit; what was read counts, and the next night goes on",
        "interrupted": "interrupted; what was read counts",
        "failed": "failed; what was read counts",
        "incomplete": "some could not be read or compared",
    }
    said = ends.get(run.outcome or "failed")
    return " · ".join(parts) + (f"<br>{said[0].upper()}{said[1:]}." if said else "")


# --- pictures --------------------------------------------------------------------------------------------------------


def _ring(parts: list[_Part], middle: str, below: str) -> str:
    """Draw a ring of parts with words in its middle, and a legend beside it."""
    total = sum(part.amount for part in parts)
    arcs, at = [], 0.0
    for part in parts:
        if part.amount and total:
            # A part that is there is seen, however small it is.
            length = max(100 * part.amount / total, 1.2)
            arcs.append(
                f'<circle class="s-{part.colour}" cx="66" cy="66" r="52" fill="none" stroke-width="16" pathLength="100"'
                f' stroke-dasharray="{length:.2f} {100 - length:.2f}" stroke-dashoffset="{-at:.2f}"'
                ' transform="rotate(-90 66 66)"/>'
            )
            at = min(at + length, 98.8)
    words = ", ".join(f"{part.name} {part.shown}" for part in parts)
    legend = "".join(
        f'<li><span class="swatch bg-{part.colour}"></span>{_escaped(part.name)}<b>{part.shown}</b></li>'
        for part in parts
    )
    return (
        f'<svg viewBox="0 0 132 132" role="img" aria-label="{_escaped(words)}">'
        f'<circle class="s-track" cx="66" cy="66" r="52" fill="none" stroke-width="16"/>{"".join(arcs)}'
        f'<text class="big" x="66" y="70" text-anchor="middle">{middle}</text>'
        f'<text x="66" y="86" text-anchor="middle">{below}</text></svg><ul class="legend">{legend}</ul>'
    )


def _verdicts(report: Report) -> str:
    counts = report.run.counts
    parts = [_Part("ok", counts.get("ok", 0), "good", f"{counts.get('ok', 0):,}")]
    for name, count in sorted(counts.items(), key=lambda pair: -pair[1]):
        if name not in (*NO_VERDICTS, "ok", "orphan") and count:
            parts.append(_Part(name, count, "warn" if name in UNCERTAIN else "bad", f"{count:,}"))
    checked = counts.get("checked", 0)
    more = [f"{counts[name]:,} {words}" for name, words in (
        ("orphan", "extra, claimed by no render"), ("acknowledged", "acknowledged as lost"),
        ("notes", "odd, but open"), ("unknown", "unknown ids")
    ) if counts.get(name)]  # fmt: skip
    said = f'<li class="soft small">also {", ".join(more)}</li>' if more else ""
    share = percent(counts.get("ok", 0) / checked) if checked else "–"
    return _ring(parts, share.replace(" %", "%"), "ok").replace("</ul>", f"{said}</ul>")


def _covered(report: Report) -> str:
    coverage = report.coverage
    rest = coverage.stored_bytes - coverage.covered_bytes - coverage.due_bytes
    parts = [
        _Part("read and good", coverage.covered_bytes, "good", format_size(coverage.covered_bytes)),
        _Part("due", coverage.due_bytes, "track", format_size(coverage.due_bytes)),
    ]
    if rest:
        parts.append(_Part("read and bad", rest, "bad", format_size(rest)))
    return _ring(parts, percent(coverage.share).replace(" %", "%"), f"of {format_size(coverage.stored_bytes)}")


def _history(runs: list[RunInfo]) -> str:
    """Draw the covered part after each verification as a line, and what each read as bars below."""
    points = [run for run in runs if run.finished_at]
    if not points:
        return '<p class="soft">The picture begins with the next verification.</p>'
    times = [datetime.fromisoformat(run.finished_at or "").timestamp() for run in points]
    first, span = times[0], (times[-1] - times[0]) or 1.0
    most = max(run.bytes_read for run in points) or 1
    left, width, top, height, low = 40, 450, 12, 130, 196
    xs = [left + width * (time - first) / span if len(points) > 1 else left + width / 2 for time in times]
    ys = [top + height * (1 - _share(run)) for run in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    area = f"{xs[0]:.1f},{top + height} {line} {xs[-1]:.1f},{top + height}"
    grid = "".join(
        f'<line class="s-line" x1="{left}" x2="{left + width}" y1="{top + height * (1 - part):.0f}"'
        f' y2="{top + height * (1 - part):.0f}"/><text x="{left - 6}" y="{top + height * (1 - part) + 4:.0f}"'
        f' text-anchor="end">{part:.0%}</text>'
        for part in (0, 0.5, 1)
    )
    bars = "".join(
        f'<rect class="f-old" x="{x - 2:.1f}" width="4" y="{low - 34 * run.bytes_read / most:.1f}"'
        f' height="{34 * run.bytes_read / most:.1f}">'
        f"<title>{_short_time(run.finished_at)}: {format_size(run.bytes_read)} read</title></rect>"
        for x, run in zip(xs, points, strict=True)
    )
    dots = "".join(
        f'<circle class="f-blue" cx="{x:.1f}" cy="{y:.1f}" r="3">'
        f"<title>{_short_time(run.finished_at)}: {percent(_share(run))} covered</title></circle>"
        for x, y, run in zip(xs, ys, points, strict=True)
    )
    rows = "".join(
        f'<tr><td>{run.id}</td><td>{_short_time(run.finished_at)}</td><td class="number">{percent(_share(run))}</td>'
        f'<td class="number">{format_size(run.bytes_read)}</td><td>{_escaped(run.outcome or "")}</td></tr>'
        for run in reversed(points)
    )
    summary = f"{percent(_share(points[0]))} on {_short_time(points[0].finished_at)}, {percent(_share(points[-1]))} now"
    end = f'<text x="{left + width}" y="214" text-anchor="end">{_short_time(points[-1].finished_at)[:10]}</text>'
    return (
        f'<svg class="picture" viewBox="0 0 500 220" role="img" aria-label="Covered part of the bytes: {summary}">'
        f'{grid}<polygon class="f-area" points="{area}"/><polyline class="s-blue" points="{line}"/>{dots}{bars}'
        f'<line class="s-line" x1="{left}" x2="{left + width}" y1="{low}" y2="{low}"/>'
        f'<text x="{left}" y="214">{_short_time(points[0].finished_at)[:10]}</text>{end if len(points) > 1 else ""}'
        f'<text x="{left + width}" y="{low - 38}" text-anchor="end">read, up to {format_size(most)}</text></svg>'
        f"<details><summary>As a table</summary><table><thead><tr><th>Run</th><th>Ended</th><th class='number'>Covered"
        f"</th><th class='number'>Read</th><th>Outcome</th></tr></thead><tbody>{rows}</tbody></table></details>"
    )


def _share(run: RunInfo) -> float:
    return (run.covered_bytes or 0) / run.stored_bytes if run.stored_bytes else 1.0


def _ages(report: Report) -> str:
    """Draw how many bytes were last read how many days ago."""
    today = datetime.fromisoformat(report.made_at).date()
    limits = [(0, "today"), (1, "1 day"), (7, "2–7 days"), (14, "8–14 days"), (30, "15–30 days"), (90, "31–90 days")]
    sizes = dict.fromkeys([*(name for _, name in limits), "longer ago", "never, or bad"], 0)
    counts = dict.fromkeys(sizes, 0)
    within: dict[str, bool] = {name: days <= report.coverage.days for days, name in limits}
    for day, assets, size in report.days:
        name = "never, or bad"
        if day is not None:
            ago = (today - datetime.fromisoformat(day).date()).days
            # A date in the future says nothing of when it was.
            name = next((name for days, name in limits if 0 <= ago <= days), "longer ago") if ago >= 0 else name
        sizes[name] += size
        counts[name] += assets
    most, rows = max(sizes.values()) or 1, []
    for number, (name, size) in enumerate(sizes.items()):
        y, length = number * 26 + 4, 250 * size / most
        colour = "never" if name == "never, or bad" else "blue" if within.get(name) else "old"
        length = max(length, 3) if size else 0
        said = f"{format_size(size)} · {counts[name]:,}" if counts[name] else "–"
        rows.append(
            f'<text class="ink" x="96" y="{y + 13}" text-anchor="end">{name}</text>'
            f'<rect class="f-{colour}" x="106" y="{y}" width="{length:.1f}" height="18" rx="3"/>'
            f'<text x="{114 + length:.1f}" y="{y + 13}">{said}</text>'
        )
    words = "; ".join(f"{name}: {format_size(size)}" for name, size in sizes.items())
    head = f'<svg class="picture" viewBox="0 0 500 {len(sizes) * 26 + 6}" role="img" aria-label="{words}">'
    return f"{head}{''.join(rows)}</svg>"


def _projects(projects: list[ProjectInfo]) -> str:
    """Draw a bar for each project, the largest first: covered, due, and the rest, which was read and is bad."""
    held = sorted((project for project in projects if project.renders), key=lambda project: -project.stored_bytes)
    rows = []
    for project in held[:MOST_PROJECTS]:
        total = project.stored_bytes or 1
        rest = max(project.stored_bytes - project.covered_bytes - project.due_bytes, 0)
        at, rects = 0.0, []
        for amount, colour in ((project.covered_bytes, "good"), (rest, "bad"), (project.due_bytes, "track")):
            length = 100 * amount / total
            rects.append(f'<rect class="f-{colour}" x="{at:.2f}" width="{length:.2f}" height="10"/>')
            at += length
        share = percent(project.covered_bytes / project.stored_bytes) if project.stored_bytes else "–"
        bad = f'<span class="badge bad">{project.damaged:,}</span>' if project.damaged else "0"
        name = _escaped(project.slug or project.name) + (
            ' <span class="soft">(deleted)</span>' if project.deleted_at else ""
        )
        rows.append(
            f'<tr><td class="whole">{name}</td><td class="number" data-label="PDFs">{project.stored:,}</td>'
            f'<td class="number">{format_size(project.stored_bytes)}</td><td class="gap">'
            f'<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{share} covered">'
            f'<rect class="f-track" width="100" height="10"/>{"".join(rects)}</svg></td>'
            f'<td class="number">{share}</td><td class="number" data-label="Damaged">{bad}</td>'
            f'<td class="number" data-label="Not stored">{project.not_stored:,}</td></tr>'
        )
    left = len(held) - MOST_PROJECTS
    more = f'<p class="soft small">{left:,} smaller projects are not shown.</p>' if left > 0 else ""
    classes = {"Project": "", "Read and good": "gap"}
    head = "".join(
        f'<th class="{classes.get(name, "number")}">{name}</th>'
        for name in ("Project", "PDFs", "Size", "Read and good", "", "Damaged", "Not stored")
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>{more}'
    )


# --- findings and proof ----------------------------------------------------------------------------------------------


def _findings(report: Report) -> str:
    found = list(islice(report.findings(), MOST_FINDINGS + 1))
    if not found:
        elsewhere = words(report.standing.bad)
        if elsewhere:
            return f"<p>None in this verification. <b>In the whole archive: {elsewhere}.</b></p>"
        return '<p class="soft">None: every PDF that was checked is what was stored.</p>'
    shown = found[:MOST_FINDINGS]
    verdicts = sorted({_verdict(one) for one in shown})
    options = "".join(f"<option>{verdict}</option>" for verdict in verdicts)
    head = "".join(
        f'<th><button type="button">{name}</button></th>'
        for name in ("Verdict", "Asset", "Expected, found", "What", "Seen")
    )
    more = ""
    if len(found) > MOST_FINDINGS:
        command = f"craftkit-archive report {report.run.id} --format csv"
        more = f'<p class="soft small">These are the first {MOST_FINDINGS:,}; <code>{command}</code> writes all.</p>'
    return (
        '<div class="tools"><input id="words" type="search" placeholder="Filter by any words" aria-label="Filter">'
        f'<select id="verdict" aria-label="Verdict"><option value="">every verdict</option>{options}</select>'
        '<span id="shown" class="soft small" role="status"></span></div>'
        f'<div class="scroll"><table id="findings"><thead><tr>{head}</tr></thead><tbody>'
        f"{''.join(_rows(shown))}</tbody></table></div>{more}"
    )


def _accepted_section(report: Report) -> str:
    """List the losses that were accepted, whenever that was."""
    if not report.accepted:
        return ""
    rows = "".join(
        f'<tr><td class="mono whole">{_escaped(one.key)}</td><td>{_escaped(one.state.replace("-", " "))}</td>'
        f"<td>{_escaped(one.reason)}</td><td>{_short_time(one.accepted_at)}</td></tr>"
        for one in report.accepted[:MOST_FINDINGS]
    )
    head = "".join(f"<th>{name}</th>" for name in ("Asset", "State", "Reason", "Accepted"))
    return (
        f"<h3>{len(report.accepted):,} accepted as lost</h3>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _verdict(found: Finding | Note) -> str:
    return word_of(found.verdict) if isinstance(found, Finding) else "note"


def _rows(found: Iterable[Finding | Note]) -> Iterable[str]:
    for one in found:
        verdict, seen = _verdict(one), ""
        if isinstance(one, Finding) and (one.expected or one.found):
            seen = f"{_escaped(one.expected or '–')} → {_escaped(one.found or '–')}"
        accepted = one.acknowledged if isinstance(one, Finding) else None
        what = "; ".join(filter(None, [one.detail, f"acknowledged: {accepted}" if accepted else None]))
        yield (
            f'<tr data-verdict="{verdict}"><td><span class="badge {_STATES.get(verdict, "bad")}">{verdict}</span></td>'
            f'<td class="mono whole">{_escaped(one.key)}</td><td class="mono whole">{seen}</td>'
            f'<td class="whole">{_escaped(what)}</td>'
            f"<td>{_short_time(one.found_at)}</td></tr>\n"
        )


def _proof(report: Report) -> str:
    facts = [
        ("Seal", f'<code id="seal">{report.seal}</code>'),
        ("Archive", f"<code>{_escaped(report.archive_id)}</code>"),
        ("Store", f"<code>{_escaped(report.store)}</code>"),
        ("Report made", _short_time(report.made_at)),
    ]
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)
    return (
        f"<dl>{listed}</dl><p class='soft small' style='margin-top:12px'>The seal is one SHA-256 over the digest and"
        " key of every stored PDF. Written down, it shows later that neither files nor catalog were changed:</p>"
        f"<pre>craftkit-archive seal --check {report.seal}</pre>"
        "<p class='soft small' style='margin-top:8px'>Without this program, in the store's folder, where it holds"
        " nothing but what is recorded:</p>"
        "<pre>find renders -type f -print0 | xargs -0 sha256sum | LC_ALL=C sort | sha256sum</pre>"
    )
