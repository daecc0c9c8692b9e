"""Commands for the audit log: audit log, head, verify, access-log."""

from __future__ import annotations

from pathlib import Path

import click

from craftkit_archive.commands.console import OK, Console, open_archive
from craftkit_archive.commands.lists import event_columns, write_list
from craftkit_archive.commands.options import (
    by_option,
    sign_option,
)


@click.group()
def audit() -> None:
    """Show and verify the audit log: what was done to this archive, by whom and when."""


@audit.command("log")
@click.option("--since", metavar="TIME", help="Only from 2026-01-31 or a full time on.")
@click.pass_obj
def audit_log(console: Console, since: str | None) -> int:
    """List the events: number, time, user, command and counts.

    The batches of one run are shown as one line; with --json, every event is shown as it is in audit.ndjson.
    """
    from craftkit_archive.audit.log import list_events

    with open_archive(console, read_only=True) as archive:
        events = list_events(archive, since=since, merge=not console.json)
        return write_list(console, events, event_columns(verbose=console.verbose))


@audit.command("head")
@sign_option("Write it to FILE too, signed with this SSH key: FILE.sig.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    default="audit-head.txt",
    show_default=True,
    help="Where --sign writes it.",
)
@click.pass_obj
def audit_head(console: Console, sign_with: Path | None, output: Path) -> int:
    """Print the number and hash of the last event, to be kept elsewhere.

    With it, `audit verify --head` proves that no event up to it was changed since.
    """
    from craftkit_archive.audit.log import read_head

    with open_archive(console, read_only=True) as archive:
        summary = read_head(archive)
        if sign_with is not None:
            from craftkit_archive.audit.sealing import head_text, write_signed

            written = write_signed(output, head_text(archive, summary), sign_with=sign_with)
            console.say(f"Wrote {' and '.join(map(str, written))}.")
    if not console.json:
        console.put(f"{summary.details['number']} {summary.details['hash']}")
    else:
        console.close(summary)
    return OK


@audit.command("verify")
@click.option("--head", metavar="HASH", help="A head that `audit head` printed: it must still be in the log.")
@click.option(
    "--access-logs",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Also verify that every recorded access log is in this folder, unchanged; compressed ones too.",
)
@click.pass_obj
def audit_verify(console: Console, head: str | None, access_logs: Path | None) -> int:
    """Verify that the audit log is as it was written, in audit.ndjson and in the catalog.

    Events that were changed, removed, moved, added or cut off are named by their numbers (exit code 1). Lines that a
    killed command had no time to write make it 3; the next command that changes something adds them.
    """
    from craftkit_archive.audit.log import verify_log

    with open_archive(console, read_only=True) as archive:
        return console.finish(verify_log(archive, head=head, access_logs=access_logs))


@audit.command("access-log")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@by_option
@click.pass_obj
def audit_access_log(console: Console, file: Path) -> int:
    """Record the digest of a finished access log, its first and last time and its number of lines.

    For logrotate's postrotate, after the server's SIGHUP. It waits until no program has FILE open for writing.
    """
    from craftkit_archive.audit.access import record_access_log

    with open_archive(console) as archive:
        return console.finish(record_access_log(archive, file))
