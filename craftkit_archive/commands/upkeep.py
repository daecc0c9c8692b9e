"""Commands for the archive as a whole: init, backup, restore, rebuild, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from craftkit_archive.commands.console import OK, Console, open_archive
from craftkit_archive.commands.options import by_option, cluster_option, jobs_option, resolve_address, service_options

if TYPE_CHECKING:
    from craftkit_archive.records import Kind


@click.command()
@click.option(
    "--store",
    default="assets",
    show_default=True,
    help="The store: a folder, relative to the archive, or a bucket (s3://, gs:// or az://bucket/prefix).",
)
@service_options
@by_option
@click.pass_obj
def init(
    console: Console,
    /,
    store: str,
    **service: str | None,
) -> int:
    """Create an empty archive.

    A store that holds PDFs already, such as a mirror of the bucket, is used as it is: after the import of their
    metadata, `fetch` without a source checks and records them without copying a byte.
    """
    from craftkit_archive.archive import Archive
    from craftkit_archive.records import Summary

    store = resolve_address(store, **service)
    with Archive.create(console.archive, store_address=store, by=console.by) as archive:
        details = {"archive": str(archive.path), "archive_id": archive.id, "store": archive.store.address}
    console.say(f"Made an archive in {console.archive}, with its assets in {details['store']}.")
    console.close(Summary(command="init", outcome="ok", details=details))
    return OK


@click.command()
@click.option("--projects", multiple=True, type=click.Path(exists=True, dir_okay=False), help="A file; repeatable.")
@click.option("--keys", "key_files", multiple=True, type=click.Path(exists=True, dir_okay=False), help="The same.")
@click.option("--renders", multiple=True, type=click.Path(exists=True, dir_okay=False), help="The same.")
@click.option("--store", default="assets", show_default=True, help="The store, as for `init`.")
@service_options
@jobs_option
@by_option
@click.pass_obj
def rebuild(
    console: Console,
    /,
    projects: tuple[str, ...],
    key_files: tuple[str, ...],
    renders: tuple[str, ...],
    store: str,
    jobs: int,
    **service: str | None,
) -> int:
    """Recreate a lost catalog from the store and files of metadata, and report what is lost for good."""
    from craftkit_archive.repair.rebuild import LOST, rebuild_archive

    store = resolve_address(store, **service)
    files: dict[Kind, tuple[str, ...]] = {"projects": projects, "keys": key_files, "renders": renders}
    rebuilding = rebuild_archive(
        console.archive, files, store_address=store, jobs=jobs, by=console.by, stop=console.stop
    )
    summary, code = console.show(rebuilding)
    # Said here, because `close` ends the output with what to run next.
    console.say("What cannot be known any more: " + "; ".join(LOST) + ".")
    console.close(summary)
    return code


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def backup(console: Console, file: Path) -> int:
    """Write a consistent copy of the catalog to FILE, even while other commands write.

    `restore FILE` puts it back.
    """
    from craftkit_archive.records import Summary

    with open_archive(console, read_only=True) as archive:
        size = archive.catalog.back_up(file)
    details = {"file": str(file), "size_bytes": size}
    console.say(f"Wrote {file}: {size:,} bytes.")
    console.close(Summary(command="backup", outcome="ok", details=details))
    return OK


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--new-store", is_flag=True, help="The store was lost too: mark the one at its address as this archive's store."
)
@by_option
@click.pass_obj
def restore(console: Console, file: Path, new_store: bool) -> int:
    """Replace the catalog with the backup FILE, and report what is newer than the backup.

    FILE is checked first: it must be complete, and the store must belong to its archive. The old catalog is kept as
    archive.db.replaced-<time>. Warnings name what is newer than the backup: PDFs in the store, keys that were revoked
    since and work again, keys that were created since and are gone. Stop any verify first; the server may keep running.
    """
    from craftkit_archive.repair.restore import restore_catalog

    return console.finish(restore_catalog(console.archive, file, new_store=new_store, by=console.by, stop=console.stop))


@click.command()
@cluster_option
@click.pass_obj
def doctor(console: Console, cluster: str | None) -> int:
    """Check this installation and archive; each line says `good`, or `FIX` and how. Changes nothing.

    With --cluster, each worker reports its version, and whether it can read and write the store with its credentials.
    """
    from craftkit_archive.doctor import examine_archive

    with open_archive(console, read_only=True) as archive:
        return console.finish(examine_archive(archive, cluster=cluster))
