"""Commands for exports: export, export-check."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from craftkit_archive import errors
from craftkit_archive.commands.completing import complete_files
from craftkit_archive.commands.console import Console, open_archive
from craftkit_archive.commands.options import (
    SIZE,
    by_option,
    cluster_options,
    dry_run_option,
    ids_option,
    resolve_address,
    selection_options,
    service_options,
    sign_option,
    status_option,
)

if TYPE_CHECKING:
    from craftkit_archive.export.destination import ExportForm


@click.command()
@click.argument("target", metavar="DEST", shell_complete=complete_files)
@click.option(
    "--format",
    "form",
    type=click.Choice(["dir", "zip", "tar", "bagit"]),
    help="The form; a bag is packed if DEST ends in .zip or .tar.  [default: by the suffix of DEST, or dir]",
)
@selection_options()
@click.option("--template", metavar="ID", help="Only renders of this template.")
@status_option("Only renders of this status; repeatable.  [default: succeeded; with --ids, any]")
@ids_option
@click.option(
    "--name",
    metavar="TEMPLATE",
    default="{project_slug}/{created:%Y}/{created:%m}/{id}.pdf",
    show_default=True,
    help="How PDFs are named. Fields: id, template_id, status, created, completed, project_id, project_slug,"
    " project_name; times take a format of %Y %m %d %H %M %S.",
)
@click.option("--link", is_flag=True, help="Make hard links to the store's files; only sizes are compared.")
@click.option("--verify-links", is_flag=True, help="With --link: read and compare every byte all the same.")
@click.option("--prune", is_flag=True, help="Remove files of earlier exports that are no longer selected.")
@click.option(
    "--split-size",
    type=SIZE,
    help="Make numbered volumes of at most this size, each complete in itself. Required for a zip or tar in a bucket or"
    " written by a cluster.",
)
@click.option(
    "--bag-info", multiple=True, metavar="KEY=VALUE", help="A line for bag-info.txt, such as Contact-Name; repeatable."
)
@click.option("--sync", is_flag=True, help="Flush everything to the disk before the end.")
@sign_option("Sign seal.txt with this SSH key; a public key stands for its private half in the agent.")
@click.option(
    "--timestamp", "authority", metavar="URL", help="Have this RFC 3161 authority timestamp seal.txt (seal.txt.tsr)."
)
@service_options
@cluster_options
@dry_run_option
@by_option
@click.pass_obj
def export(
    console: Console,
    /,
    target: str,
    form: ExportForm | None,
    projects: tuple[str, ...],
    since: str | None,
    until: str | None,
    template: str | None,
    statuses: tuple[str, ...],
    ids: Path | None,
    name: str,
    link: bool,
    verify_links: bool,
    prune: bool,
    split_size: int | None,
    bag_info: tuple[str, ...],
    sync: bool,
    sign_with: Path | None,
    authority: str | None,
    jobs: int | None,
    cluster: str | None,
    dry_run: bool,
    **service: str | None,
) -> int:
    """Copy PDFs to DEST, a folder, zip, tar or bag that proves itself; each is compared with its digest on the way.

    DEST is a folder, a file that ends in .zip or .tar, - for standard output, or s3://bucket/prefix; with --split-size
    also s3://bucket/prefix/export.zip or .tar. The export contains a manifest for `sha256sum -c`, index.csv, index.html
    for browsing, and seal.txt; missing PDFs are listed in missing.csv. Repeating an export to a folder leaves unchanged
    files alone and does the rest; files of earlier exports stay, and stay listed, unless they are pruned.
    """
    from craftkit_archive.export.bagit import parse_info
    from craftkit_archive.export.destination import Options
    from craftkit_archive.export.run import export_assets

    if target == "-" and not dry_run and (console.json or os.isatty(1)):
        taken = "--json writes there" if console.json else "it is a terminal"
        raise errors.RequestError(f"Standard output cannot take the export: {taken}. Name a file, or pipe it.")
    target = resolve_address(target, **service)
    options = Options(
        form=form,
        name=name,
        link=link,
        verify_links=verify_links,
        prune=prune,
        split_bytes=split_size,
        bag_info=tuple(map(parse_info, bag_info)),
        sync=sync,
        sign_with=sign_with,
        authority=authority,
    )
    with open_archive(console, read_only=True) as archive:
        selection = archive.select(
            projects=projects, since=since, until=until, template_id=template, ids=ids, statuses=statuses
        )
        return console.finish(
            export_assets(
                archive,
                target,
                selection=selection,
                options=options,
                jobs=jobs,
                cluster=cluster,
                dry_run=dry_run,
                stop=console.stop,
            )
        )


@click.command("export-check")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--allowed-signers",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The seal must be signed by one of these; see ALLOWED SIGNERS in ssh-keygen(1) for the file.",
)
@cluster_options
@click.pass_obj
def export_check(
    console: Console, path: Path, allowed_signers: Path | None, jobs: int | None, cluster: str | None
) -> int:
    """Check an export without an archive: every file and digest, that nothing else is there, and the seal.

    PATH is a folder, a .zip or a .tar (also .tar.gz, .tar.bz2, .tar.xz) made by any program: a BagIt bag, or files with
    a manifest such as manifest-sha256.txt or SHA256SUMS. Files that a bag's fetch.txt names are reported, not fetched.
    """
    from craftkit_archive.export.check import check_export

    return console.finish(
        check_export(path, jobs=jobs, cluster=cluster, allowed_signers=allowed_signers, stop=console.stop)
    )
