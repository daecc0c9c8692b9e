"""Commands that look things up: status, report, seal; renders, runs and findings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from craftkit_archive import errors
from craftkit_archive.columns import Table, one_line, window_width
from craftkit_archive.commands.colour import painter
from craftkit_archive.commands.completing import (
    complete_projects,
    complete_run_commands,
    complete_runs,
    complete_verifications,
)
from craftkit_archive.commands.console import OK, Console, open_archive, standard_output
from craftkit_archive.commands.lists import (
    finding_columns,
    project_columns,
    render_columns,
    run_columns,
    run_facts,
    write_list,
)
from craftkit_archive.commands.options import (
    by_option,
    selection_options,
    sign_option,
    status_option,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from craftkit_archive.archive import Archive
    from craftkit_archive.commands.lists import ListForm
    from craftkit_archive.records import ProjectInfo, Record, RunInfo, Summary
    from craftkit_archive.report.forms import Report, ReportForm
    from craftkit_archive.states import State

LAST_RUNS = 50
_FILE = click.Path(path_type=Path, dir_okay=False)
PDF_STATES = ("ok", "unchecked", "damaged", "unreadable", "unverified", "not-stored", "acknowledged", "disposed")


@click.command()
@click.option(
    "--nagios", is_flag=True, help="One line for a monitor; exits with 0 OK, 1 warning, 2 critical or 3 unknown."
)
@click.option(
    "--watch",
    metavar="[SECONDS]",
    is_flag=False,
    flag_value="2",
    type=click.FloatRange(min=0.5),
    help="Update it at this interval in seconds (2 if not given), until Ctrl-C.",
)
@click.pass_obj
def status(console: Console, nagios: bool, watch: float | None) -> int:
    """Show what the archive holds, how much of it was read recently, and the last runs.

    Exits with 1 if any PDF is damaged, and with 3 if any is unreadable or unverified.

    For a monitor, damaged PDFs are critical; a warning is an unreadable or unverified one, less than 95 % read within
    the days of the last verification's --due (30 if it had none), or no verification for 48 hours.
    """
    from craftkit_archive.report.gather import describe_archive, nagios_status

    if nagios and watch is not None:
        raise errors.RequestError("--watch and --nagios exclude each other. Leave one of them out.")
    if watch is not None:
        return _watch_status(console, watch)
    if nagios:
        try:
            with open_archive(console, read_only=True) as archive:
                code, line = nagios_status(archive)
        except errors.ArchiveError as error:
            code, line = 3, f"CRAFTKIT-ARCHIVE UNKNOWN - {error}"
        console.put(line)
        return code
    with open_archive(console, read_only=True) as archive:
        if console.json or console.quiet:
            return console.finish(describe_archive(archive))
        return _show_status(console, describe_archive(archive))


def _watch_status(console: Console, seconds: float) -> int:
    """Show the status repeatedly, until a signal; in place on a terminal."""
    from craftkit_archive.commands.frames import Frames
    from craftkit_archive.report.gather import describe_archive
    from craftkit_archive.report.lines import as_text
    from craftkit_archive.values import escape_control

    frames = Frames(console.stop)
    while True:
        with open_archive(console, read_only=True) as archive:
            if console.json:
                console.finish(describe_archive(archive))
            else:
                lines, summary = _status_lines(console, describe_archive(archive), None)
                now = archive.now()
                title = f"{now[:10]} {now[11:19]} (UTC), every {seconds:g} s, Ctrl-C ends it: {console.archive}"
                frames.show(map(escape_control, [title, "", *lines, "", as_text(summary)]))
        if not frames.wait(seconds):
            return console.stop.exit_code


def _show_status(console: Console, records: Iterator[Record]) -> int:
    """Write the status as a table of projects and one of runs."""
    lines, summary = _status_lines(console, records, painter(sys.stdout))
    with standard_output() as out:
        out.writelines(f"{line}\n" for line in lines)
    console.close(summary)
    return summary.exit_code


def _status_lines(
    console: Console, records: Iterator[Record], paint: Callable[[str, str], str] | None
) -> tuple[list[str], Summary]:
    """Return the lines of a table of projects and one of runs, and the summary."""
    from craftkit_archive.records import ProjectInfo, RunInfo, Summary

    projects: list[ProjectInfo] = []
    runs: list[RunInfo] = []
    for record in records:
        match record:
            case ProjectInfo():
                projects.append(record)
            case RunInfo():
                runs.append(record)
            case Summary():
                summary = record
    window = window_width(verbose=console.verbose)
    tables = [
        list(Table(columns, window, paint).lines(rows))
        for columns, rows in (
            (project_columns(summary.details["standing"]), projects),
            (run_columns(verbose=console.verbose), runs),
        )
        if rows
    ]
    return "\n\n".join("\n".join(lines) for lines in tables).splitlines(), summary


@click.command()
@click.argument("run", type=click.IntRange(1), required=False, shell_complete=complete_verifications)
@click.option("--list", "listed", is_flag=True, help="List the verifications that can be reported on.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "ndjson", "csv", "junit", "prometheus", "html"]),
    help="The form.  [default: by FILE's suffix, or text]",
)
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Write here, not to stdout."
)
@click.pass_obj
def report(console: Console, run: int | None, listed: bool, form: Any, output: Path | None) -> int:
    """Write a report on the last verification, or on the one with the number RUN, from the catalog alone.

    A file is replaced in one step, as Prometheus' textfile collector requires. Its suffix determines the form: .txt,
    .ndjson, .csv, .xml (JUnit), .prom (Prometheus), .html.
    """
    from craftkit_archive.records import Summary
    from craftkit_archive.report.gather import form_of, gather_report, write_report

    if listed:
        if run or form or output:
            raise errors.RequestError("--list takes no RUN, --format or --output. Leave them out.")
        return _list_runs(console, "verify", None, called="report --list")
    with open_archive(console, read_only=True) as archive:
        gathered = gather_report(archive, run)
        if output:
            write_report(gathered, form or form_of(output), output)
            console.say(f"Wrote {output}.")
        else:
            _print_report(console, gathered, form or ("ndjson" if console.json else "text"))
    standing = gathered.standing
    details = {"run": gathered.run.id, "file": str(output) if output else None}
    damaged = {"damaged": True} if standing.damaged or standing.unreadable else {}
    console.close(Summary(command="report", outcome="ok", details=details | damaged))
    return OK


def _print_report(console: Console, gathered: Report, form: ReportForm) -> None:
    from craftkit_archive.report.forms import write_text
    from craftkit_archive.report.gather import WRITERS

    with standard_output() as out:
        if form == "text":
            window = window_width(verbose=console.verbose)
            write_text(gathered, out, window=window, short=not console.verbose)
        else:
            WRITERS[form](gathered, out)


@click.command()
@click.option("--project", shell_complete=complete_projects, help="Only this project's (id or slug).")
@click.option("--check", metavar="HEX", help="Compare it with a seal noted earlier; exits with 1 if it differs.")
@sign_option("Write FILE, and sign it with this SSH key (FILE.sig).")
@click.option(
    "--timestamp", "authority", metavar="URL", help="Write FILE, timestamped by this RFC 3161 authority (FILE.tsr)."
)
@click.option(
    "--timestamp-request", "request", metavar="ASK", type=_FILE, help="Write FILE, and a timestamp request to ASK."
)
@click.option("--timestamp-reply", "reply", metavar="REPLY", type=_FILE, help="Keep an authority's REPLY as FILE.tsr.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=_FILE,
    default="seal.txt",
    show_default=True,
    help="Where to write the seal that is signed or timestamped.",
)
@by_option
@click.pass_obj
def seal(
    console: Console,
    project: str | None,
    check: str | None,
    sign_with: Path | None,
    authority: str | None,
    request: Path | None,
    reply: Path | None,
    output: Path,
) -> int:
    """Print the seal: one SHA-256 over the digests and keys of all stored PDFs.

    It is the sha256sum of what `sha256sum` prints for the assets, sorted by LC_ALL=C sort. Only the catalog is read;
    after a verify, the seal stands for the files too.

    With --sign or --timestamp, it is written to FILE together with the last event of the audit log, so that ssh-keygen
    -Y verify proves who vouches for both, and openssl ts -verify since when they exist. On a machine without a network,
    carry what --timestamp-request writes to one that has a network, and pass the authority's answer to
    --timestamp-reply; FILE must still be there.
    """
    if check is not None and (sign_with or authority or request or reply):
        raise errors.RequestError("--check cannot be combined with --sign or --timestamp. Leave one of them out.")
    if reply is not None and (sign_with or authority or request):
        raise errors.RequestError(
            "--timestamp-reply works on the existing FILE. Give it without --sign and --timestamp."
        )
    from craftkit_archive.audit.sealing import seal_archive, stamp

    with open_archive(console, read_only=True) as archive:
        if reply is not None:
            return console.finish(stamp(archive, output, reply_file=reply))
        summary, code = console.show(seal_archive(archive, project=project, expected=check))
        if sign_with or authority or request:
            summary.details["files"] = _write(console, archive, summary, output, sign_with, request)
        if authority:
            stamped, _ = console.show(stamp(archive, output, url=authority))
            console.say(f"Wrote {stamped.details['file']}: stamped at {stamped.details['time']}.")
            summary.details["timestamp"] = stamped.details
        if not console.json:
            console.put(summary.details["seal"])
        console.close(summary)
        return code


def _write(
    console: Console, archive: Archive, sealed: Summary, file: Path, sign_with: Path | None, request: Path | None
) -> list[str]:
    from craftkit_archive.audit.sealing import seal_text, write_request, write_signed

    written = [str(path) for path in write_signed(file, seal_text(archive, sealed), sign_with=sign_with)]
    if request is not None:
        write_request(file, request)
        written.append(str(request))
        console.say(f"Keep {file} as it is until the authority's answer is there.")
    console.say(f"Wrote {', '.join(written)}.")
    return written


# --- renders, runs, findings -----------------------------------------------------------------------------------------


def _form_option(*forms: str) -> Callable[[Any], Any]:
    ids = "; ids: for --ids of other commands" if "ids" in forms else ""
    words = f"How to write the list; json: an object on each line{ids}."
    return click.option("--format", "form", type=click.Choice(forms), default="table", show_default=True, help=words)


limit_option = click.option("--limit", type=click.IntRange(min=1), help="At most this many.")


@click.group()
def renders() -> None:
    """Look renders up."""


@renders.command("list")
@click.option("--not-stored", is_flag=True, help="Succeeded renders whose PDF is not in the store.")
@click.option("--damaged", is_flag=True, help="Renders whose PDF is damaged: its bytes are wrong or gone.")
@click.option("--disposed", is_flag=True, help="Renders whose PDF was deleted for good by a disposal.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(PDF_STATES),
    help="Renders whose PDF is in this state; repeatable. With several of these four options, any match counts.",
)
@selection_options()
@status_option("Only renders of this status; repeatable.")
@click.option("--search", metavar="TEXT", help="Text to find in the id, template id, asset key or error message.")
@limit_option
@_form_option("table", "csv", "json", "ids")
@click.pass_obj
def show_renders(
    console: Console,
    not_stored: bool,
    damaged: bool,
    disposed: bool,
    states: tuple[State, ...],
    projects: tuple[str, ...],
    since: str | None,
    until: str | None,
    statuses: tuple[str, ...],
    search: str | None,
    limit: int | None,
    form: ListForm,
) -> int:
    """List renders and the states of their PDFs, in the order of their ids.

    `renders list --damaged --format ids` prints ids for `--ids -` of fetch, verify, repair, export and accept.
    """
    from craftkit_archive import lookup

    asked: dict[State, bool] = {"not-stored": not_stored, "damaged": damaged, "disposed": disposed}
    wanted = [*states, *(state for state, given in asked.items() if given)]
    with open_archive(console, read_only=True) as archive:
        selection = archive.select(projects=projects, since=since, until=until, statuses=statuses)
        found = lookup.list_renders(archive, selection=selection, states=wanted, search=search, limit=limit)
        return write_list(console, found, render_columns(verbose=console.verbose), form=form)


@click.group()
def runs() -> None:
    """Look up runs: each import, fetch, verification, repair and so on is one."""


@runs.command("list")
@click.option(
    "--command",
    metavar="NAME",
    shell_complete=complete_run_commands,
    help="Only runs of this command, such as verify.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=LAST_RUNS,
    show_default=True,
    help="At most this many, the newest first.",
)
@_form_option("table", "csv", "json")
@click.pass_obj
def show_runs(console: Console, command: str | None, limit: int, form: ListForm) -> int:
    """List runs, the newest first."""
    return _list_runs(console, command, limit, form)


def _list_runs(
    console: Console, command: str | None, limit: int | None, form: ListForm = "table", *, called: str | None = None
) -> int:
    from craftkit_archive import lookup

    with open_archive(console, read_only=True) as archive:
        found = lookup.list_runs(archive, command=command, limit=limit)
        return write_list(console, found, run_columns(verbose=console.verbose), form=form, called=called)


@runs.command("show")
@click.argument("run", type=click.IntRange(1), shell_complete=complete_runs)
@click.pass_obj
def show_run_details(console: Console, run: int) -> int:
    """Show everything that is known about one run."""
    from craftkit_archive import lookup
    from craftkit_archive.records import RunInfo, Summary

    with open_archive(console, read_only=True) as archive:
        records = list(lookup.show_run(archive, run))
    found, summary = records
    if not isinstance(found, RunInfo) or not isinstance(summary, Summary):
        raise RuntimeError("A look-up of a run gave something else.")
    if console.json:
        console.line(found)
        console.close(summary)
        return OK
    with standard_output() as out:
        for name, value in run_facts(found, summary.counts["findings"]):
            out.write(f"{name:<10} {one_line(value)}\n")
    if summary.counts["findings"]:
        console.say(f"Next: findings list --run {run}")
    return OK


@click.group()
def findings() -> None:
    """Look up what is wrong with PDFs and files in the store."""


@findings.command("list")
@click.option(
    "--run",
    metavar="N",
    type=click.IntRange(1),
    shell_complete=complete_runs,
    help="Only findings of this run, including those that were fixed since.",
)
@click.option("--project", shell_complete=complete_projects, help="Only this project's (id or slug).")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(["damaged", "unreadable", "unverified", "not-stored", "extra", "acknowledged"]),
    help="Only findings that mean this state; repeatable.",
)
@click.option("--since", metavar="TIME", help="Only findings from TIME on: 2026-01-31 or a full time.")
@click.option("--until", metavar="TIME", help="Only findings before TIME; a date means its end.")
@click.option("--search", metavar="TEXT", help="Text to find in the render id, asset key or detail.")
@limit_option
@_form_option("table", "csv", "json", "ids")
@click.pass_obj
def show_findings(
    console: Console,
    run: int | None,
    project: str | None,
    states: tuple[State, ...],
    since: str | None,
    until: str | None,
    search: str | None,
    limit: int | None,
    form: ListForm,
) -> int:
    """List the latest finding on everything that is wrong now; with --run, the findings of one run.

    Without --run, PDFs that were repaired or found good since are not listed. Renders that were never stored have no
    findings: see `renders list --not-stored`.
    """
    from craftkit_archive import lookup

    with open_archive(console, read_only=True) as archive:
        found = lookup.list_findings(
            archive,
            run_id=run,
            project=project,
            states=states,
            since=since,
            until=until,
            search=search,
            limit=limit,
        )
        return write_list(console, found, finding_columns(verbose=console.verbose), form=form)
