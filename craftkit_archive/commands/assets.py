"""Commands for stored PDFs: fetch, verify, repair, quarantine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from craftkit_archive import errors
from craftkit_archive.commands.completing import complete_files
from craftkit_archive.commands.configuring import resolve_source
from craftkit_archive.commands.console import Console, open_archive
from craftkit_archive.commands.lists import acceptance_columns, held_columns, write_list
from craftkit_archive.commands.options import (
    DURATION,
    SHARE,
    SIZE,
    by_option,
    cluster_option,
    cluster_options,
    dry_run_option,
    ids_option,
    selection_options,
    service_options,
)

if TYPE_CHECKING:
    from craftkit_archive.archive import Archive


@click.command()
@click.argument("source", required=False, shell_complete=complete_files)
@selection_options(until=False)
@ids_option
@click.option("--limit", type=click.IntRange(min=1), help="At most this many assets.")
@click.option("--bwlimit", type=SIZE, help="Read at most this many bytes a second, such as 5M.")
@click.option("--ignore-etag", is_flag=True, help="For a bucket whose ETags look like MD5s but are not.")
@click.option("--accept-odd", is_flag=True, help="Store odd bytes too, even if nothing vouches for them.")
@service_options
@cluster_options
@dry_run_option
@by_option
@click.pass_obj
def fetch(
    console: Console,
    /,
    source: str | None,
    projects: tuple[str, ...],
    since: str | None,
    ids: Path | None,
    limit: int | None,
    bwlimit: int | None,
    ignore_etag: bool,
    accept_odd: bool,
    jobs: int | None,
    cluster: str | None,
    dry_run: bool,
    **service: str | None,
) -> int:
    """Copy what is missing from SOURCE, and check it on arrival.

    SOURCE is a folder that mirrors the bucket, the bucket itself (s3://, gs:// or az://bucket/prefix), or a live API
    (https://host), which is asked with the key in CRAFTKIT_API_KEY or in the file that CRAFTKIT_API_KEY_FILE names, and
    with --ids also for renders that the catalog does not have; or it is the name of a source in the configuration.
    Without SOURCE, unrecorded files in the archive's own store are checked and recorded.

    Bytes that do not look like a whole PDF are stored if something vouches for them: a digest in the metadata, an ETag
    or a checksum of the service. A note then says what is odd. Otherwise they are refused, unless --accept-odd is
    given.

    After an interruption, the next fetch does the rest.
    """
    from craftkit_archive.fetch.run import fetch_assets

    if source is not None:
        source = resolve_source(console, source, **service)
    with open_archive(console) as archive:
        selection = archive.select(projects=projects, since=since, ids=ids)
        return console.finish(
            fetch_assets(
                archive,
                source,
                selection=selection,
                limit=limit,
                jobs=jobs,
                cluster=cluster,
                bytes_per_second=bwlimit,
                ignore_etag=ignore_etag,
                accept_odd=accept_odd,
                dry_run=dry_run,
                stop=console.stop,
            )
        )


@click.command()
@click.option(
    "--level",
    type=click.Choice(["size", "digest", "pdf"]),
    default="digest",
    show_default=True,
    help="size: only lengths; digest: every byte; pdf: also opening it, with its pages and streams.",
)
@click.option("--due", metavar="AGE", type=DURATION, help="Assets not checked for AGE (30d), never checked, or bad.")
@click.option("--new", is_flag=True, help="Assets that were never checked.")
@click.option("--failed", is_flag=True, help="Assets that were bad when they were last checked.")
@selection_options(until=False)
@ids_option
@click.option("--sample", metavar="SHARE", type=SHARE, help="Only a random sample, such as 5%, a new one for each run.")
@click.option("--time-limit", metavar="DURATION", type=DURATION, help="Stop after a time such as 2h; --due continues.")
@click.option("--max-bytes", metavar="SIZE", type=SIZE, help="Stop after reading a number of bytes, such as 50GiB.")
@cluster_options
@click.option(
    "--report",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a report too: .html, .csv, .xml (JUnit), .prom (Prometheus), .ndjson or .txt.",
)
@by_option
@click.pass_obj
def verify(
    console: Console,
    level: Any,
    due: int | None,
    new: bool,
    failed: bool,
    projects: tuple[str, ...],
    since: str | None,
    ids: Path | None,
    sample: float | None,
    time_limit: int | None,
    max_bytes: int | None,
    jobs: int | None,
    cluster: str | None,
    report: Path | None,
) -> int:
    """Check stored assets against what is recorded about them, and record the results.

    --due, --new and --failed can be combined: an asset is checked if any of them selects it. Assets that were never
    checked come first, then bad ones, then the oldest. If the run is stopped, what was read still counts. Files in the
    store that no render claims are listed when everything is checked, and do not change the exit code.
    """
    from craftkit_archive.verify.run import Limits, Scope, verify_assets

    if report:
        from craftkit_archive.report.gather import form_of, gather_report, write_report

    form = form_of(report) if report else None
    with open_archive(console) as archive:
        records = verify_assets(
            archive,
            level=level,
            selection=archive.select(projects=projects, since=since, ids=ids),
            scope=Scope(new, failed, due, sample),
            limits=Limits(time_limit, max_bytes),
            jobs=jobs,
            cluster=cluster,
            stop=console.stop,
        )
        summary, code = console.show(records)
        if report and form:
            write_report(gather_report(archive, summary.run_id), form, report)
        console.close(summary)
        return code


@click.command()
@click.argument("source", shell_complete=complete_files)
@selection_options(until=False)
@ids_option
@service_options
@cluster_option
@dry_run_option
@by_option
@click.pass_obj
def repair(
    console: Console,
    /,
    source: str,
    projects: tuple[str, ...],
    since: str | None,
    ids: Path | None,
    cluster: str | None,
    dry_run: bool,
    **service: str | None,
) -> int:
    """Replace what the last verify found damaged or missing with good copies from SOURCE.

    SOURCE is the same as for fetch, or an export: a folder, zip, tar or bag. A copy is used only if it has the recorded
    digest; the file that it replaces is kept in quarantine/.
    """
    from craftkit_archive.repair.run import repair_assets

    source = resolve_source(console, source, **service)
    with open_archive(console) as archive:
        selection = archive.select(projects=projects, since=since, ids=ids)
        return console.finish(
            repair_assets(archive, source, selection=selection, cluster=cluster, dry_run=dry_run, stop=console.stop)
        )


@click.command()
@ids_option
@click.option("--reason", metavar="TEXT", help="Why nothing can be done; reports show it.")
@click.option("--list", "listed", is_flag=True, help="List what was accepted.")
@click.option("--revoke", is_flag=True, help="Revoke the acceptance of the renders in --ids.")
@by_option
@click.pass_obj
def accept(console: Console, ids: Path | None, reason: str | None, listed: bool, revoke: bool) -> int:
    """Accept that PDFs are lost, so that commands exit with 0 in spite of them and report only new losses.

    --ids FILE names the renders. Only the present state of each PDF is accepted: not stored, damaged, unreadable or
    unverified. Reports still list it. An acceptance ends by itself when the PDF is fetched, repaired or found good.
    """
    from craftkit_archive.repair.accept import accept_losses, list_acceptances, revoke_acceptances

    if sum([listed, revoke, reason is not None]) != 1:
        raise errors.RequestError("accept needs --ids FILE --reason TEXT, --list, or --revoke --ids FILE.")
    if listed:
        with open_archive(console, read_only=True) as archive:
            return write_list(console, list_acceptances(archive), acceptance_columns(verbose=console.verbose))
    with open_archive(console) as archive:
        selection = archive.select(ids=ids)
        if revoke:
            return console.finish(revoke_acceptances(archive, selection))
        return console.finish(accept_losses(archive, selection, reason or ""))


@click.group()
def quarantine() -> None:
    """List, restore or delete damaged copies that repairs took out of the store."""


@quarantine.command("list")
@click.pass_obj
def quarantine_list(console: Console) -> int:
    """List the copies with their renders, verdicts, sizes, dates and names."""
    from craftkit_archive.repair.run import list_quarantine

    with open_archive(console, read_only=True) as archive:
        return write_list(console, list_quarantine(archive), held_columns(verbose=console.verbose))


@quarantine.command("restore")
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@by_option
@click.pass_obj
def quarantine_restore(console: Console, names: tuple[str, ...]) -> int:
    """Put copies back into the store: a good copy replaces a bad file, any copy goes where no file is.

    NAME is a name that `quarantine list -v` shows, or the id of a render for all copies of its PDF.
    """
    from craftkit_archive.repair.run import restore_quarantined

    with open_archive(console) as archive:
        return console.finish(restore_quarantined(archive, names))


@quarantine.command("drop")
@click.argument("names", metavar="NAME…", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All copies; those whose assets are still bad stay.")
@click.option("--yes", is_flag=True, help="With --all: do not ask for confirmation.")
@click.option("--force", is_flag=True, help="Delete copies even if the asset in the store is still bad.")
@by_option
@click.pass_obj
def quarantine_drop(console: Console, names: tuple[str, ...], every: bool, yes: bool, force: bool) -> int:
    """Delete copies whose assets are good again.

    NAME is a name that `quarantine list -v` shows, or the id of a render for all copies of its PDF.
    """
    from craftkit_archive.repair.run import drop_quarantined

    if every == bool(names):
        raise errors.RequestError("Name copies, or pass --all. See `quarantine list`.")
    with open_archive(console) as archive:
        if every and not yes:
            _confirm_drop(console, archive, force=force)
        return console.finish(drop_quarantined(archive, names or None, force=force))


def _confirm_drop(console: Console, archive: Archive, *, force: bool) -> None:
    from craftkit_archive.records import Held
    from craftkit_archive.repair.run import list_quarantine
    from craftkit_archive.values import format_size

    held = size_bytes = 0
    for record in list_quarantine(archive):
        if isinstance(record, Held):
            held, size_bytes = held + 1, size_bytes + (record.size_bytes or 0)
    if not held:
        return
    if console.json or not sys.stdin.isatty():
        raise errors.RequestError("Nobody is there to ask. Pass --yes to drop all copies without a question.")
    which = "also those whose assets are not good" if force else "those whose assets are good again"
    click.confirm(
        f"Delete {held:,} {'copy' if held == 1 else 'copies'} ({format_size(size_bytes)}): {which}?",
        abort=True,
        err=True,
    )
