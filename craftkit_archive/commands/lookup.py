"""Commands that look things up: status, report, seal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from craftkit_archive import errors
from craftkit_archive.commands.console import OK, Console, open_archive, standard_output
from craftkit_archive.commands.options import by_option

if TYPE_CHECKING:
    from craftkit_archive.archive import Archive
    from craftkit_archive.records import Summary

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option(
    "--nagios", is_flag=True, help="One line for a monitor; exits with 0 OK, 1 warning, 2 critical or 3 unknown."
)
@click.pass_obj
def status(console: Console, nagios: bool) -> int:
    """Say what the archive holds, how much of it was read of late, and what was last done to it.

    Exits with 1 while any PDF is damaged, and with 3 while any is unreadable or unverified.

    For a monitor, damaged PDFs are critical; a warning is an unreadable or unverified one, less than 95 % read within
    the days of the last verification's --due (30 if it had none), or no verification for 48 hours.
    """
    from craftkit_archive.report.gather import describe_archive, nagios_status

    if nagios:
        try:
            with open_archive(console, read_only=True) as archive:
                code, line = nagios_status(archive)
        except errors.ArchiveError as error:
            code, line = 3, f"CRAFTKIT-ARCHIVE UNKNOWN - {error}"
        console.put(line)
        return code
    with open_archive(console, read_only=True) as archive:
        return console.finish(describe_archive(archive))


@click.command()
@click.argument("run", type=click.IntRange(1), required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "ndjson", "csv", "junit", "prometheus", "html"]),
    help="What to write.  [default: as FILE's suffix says, or text]",
)
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Write here, not to stdout."
)
@click.pass_obj
def report(console: Console, run: int | None, form: Any, output: Path | None) -> int:
    """Write the report of a verification again, the last one or that of number RUN. Nothing is read but the catalog.

    A file is replaced when the new one is whole, as Prometheus' textfile collector needs it. Its suffix says the form:
    .txt, .ndjson, .csv, .xml (JUnit), .prom (Prometheus), .html.
    """
    from craftkit_archive.records import Summary
    from craftkit_archive.report.gather import WRITERS, form_of, gather_report, write_report

    with open_archive(console, read_only=True) as archive:
        gathered = gather_report(archive, run)
        if output:
            write_report(gathered, form or form_of(output), output)
        else:
            with standard_output() as out:
                WRITERS[form or ("ndjson" if console.json else "text")](gathered, out)
    details = {"run": gathered.run.id, "file": str(output) if output else None}
    summary = Summary(command="report", outcome="ok", details=details)
    if console.json:
        console.close(summary)
    return OK


@click.command()
@click.option("--project", help="Only this project's (id or slug).")
@click.option("--check", metavar="HEX", help="Compare it with one that was written down; 1 if it is another.")
@click.option("--sign", "sign_with", metavar="KEY", type=_FILE, help="Write FILE, signed with this SSH key: FILE.sig.")
@click.option(
    "--timestamp", "authority", metavar="URL", help="Write FILE, stamped by this RFC 3161 authority: FILE.tsr."
)
@click.option(
    "--timestamp-request", "request", metavar="ASK", type=_FILE, help="Write FILE, and into ASK what asks for it."
)
@click.option("--timestamp-reply", "reply", metavar="REPLY", type=_FILE, help="Keep an authority's REPLY as FILE.tsr.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=_FILE,
    default="seal.txt",
    show_default=True,
    help="Where the seal is written that is signed or stamped.",
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

    It is what `sha256sum` of the assets, sorted by LC_ALL=C sort, has as its own sha256sum. Nothing is read but the
    catalog: after a verify it stands for the files too.

    With --sign or --timestamp, it is written to FILE, with the last event of the audit log, so that ssh-keygen -Y
    verify and openssl ts -verify prove who vouches for both, and since when they exist. On a machine without a network,
    carry what --timestamp-request writes to one that has it, and give the answer to --timestamp-reply; FILE must still
    be there.
    """
    if check is not None and (sign_with or authority or request or reply):
        raise errors.RequestError("--check compares, and signs nothing: leave it out.")
    if reply is not None and (sign_with or authority or request):
        raise errors.RequestError("--timestamp-reply is for the FILE that is there already: give it alone.")
    from craftkit_archive.report.gather import seal_archive
    from craftkit_archive.sealing import stamp

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
    from craftkit_archive.sealing import seal_text, write_request, write_signed

    written = [str(path) for path in write_signed(file, seal_text(archive, sealed), sign_with=sign_with)]
    if request is not None:
        write_request(file, request)
        written.append(str(request))
        console.say(f"Keep {file} as it is until the authority's answer is there.")
    console.say(f"Wrote {', '.join(written)}.")
    return written
