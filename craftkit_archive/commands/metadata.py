"""The command that imports metadata: import."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from craftkit_archive import errors
from craftkit_archive.commands.completing import complete_project_ids
from craftkit_archive.commands.configuring import resolve_metadata
from craftkit_archive.commands.console import Console, open_archive
from craftkit_archive.commands.options import by_option, dry_run_option
from craftkit_archive.values import DATABASE_SCHEME

if TYPE_CHECKING:
    from craftkit_archive.importer.files import FileForm
    from craftkit_archive.importer.merge import OnDuplicate
    from craftkit_archive.records import Kind


class Metadata(click.Path):
    """A file of records, or the address of a database."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Leave an address and the name of a source as they are; for anything else, check that the file exists."""
        # During completion, there is no console yet.
        configuration = None if ctx is None else getattr(ctx.find_root().obj, "configuration", None)
        if DATABASE_SCHEME.match(value) or (configuration is not None and value in configuration.sources):
            return value
        return super().convert(value, param, ctx)


@click.command("import")
@click.argument("kind", type=click.Choice(["projects", "keys", "renders"]))
@click.argument(
    "sources",
    metavar="SOURCE...",
    nargs=-1,
    required=True,
    type=Metadata(exists=True, dir_okay=False, allow_dash=True),
)
@click.option(
    "--table", metavar="NAME", help="The table to read of a database or dump.  [default: projects, api_keys or renders]"
)
@click.option(
    "--where", metavar="SQL", help="Read only the rows for which this is true: \"created_at >= '2026-01-01'\"."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "ndjson", "csv", "tsv", "text", "dump"]),
    help="The form of the files; text: by Postgres's COPY; dump: by pg_dump.  [default: recognized by content]",
)
@click.option(
    "--null",
    metavar="TEXT",
    help="The text that, without quotes, stands for null in a table.  [default: an empty cell]",
)
@click.option(
    "--project",
    metavar="ID",
    shell_complete=complete_project_ids,
    help="The project of records that name none, such as those from a log of webhooks.",
)
@click.option(
    "--on-duplicate",
    type=click.Choice(["update", "skip", "fail"]),
    default="update",
    show_default=True,
    help="What to do with a record whose id exists already. update: its fields replace the old ones, but a render's"
    " status never goes back, an older record only adds what is missing, and a revoked key stays revoked whatever the"
    " file says; skip: the old record stays as it is; fail: the new record is refused.",
)
@click.option("--all-or-nothing", is_flag=True, help="Import nothing if any record is refused.")
@click.option(
    "--rejects", type=click.Path(path_type=Path, dir_okay=False), help="Write refused records here, as NDJSON."
)
@dry_run_option
@by_option
@click.pass_obj
def import_(
    console: Console,
    kind: Kind,
    sources: tuple[str, ...],
    table: str | None,
    where: str | None,
    form: FileForm | None,
    null: str | None,
    project: str | None,
    on_duplicate: OnDuplicate,
    all_or_nothing: bool,
    rejects: Path | None,
    dry_run: bool,
) -> int:
    """Bring metadata into the catalog, from Craftkit's database or from files.

    SOURCE is a database (postgresql://user@host:5432/database), a file, - for standard input, or a source that the
    configuration names.

    A database is read in a read-only transaction. What the address leaves out comes from the environment and
    ~/.pgpass, as for psql. Give the password as PGPASSWORD or in ~/.pgpass: other users of the machine can see a
    command's arguments. It is never printed or recorded. Needs pip install 'craftkit-archive[postgres]'.

    A file is JSON (an array, objects, objects that wrap a list), NDJSON, CSV or TSV with a header, Postgres's text
    format with a header, or a dump of pg_dump (plain, without --inserts), each also gzipped. The form is recognized by
    the content; a file that could be read in two ways is refused, and the message names the option that decides.

    In CSV, "" is an empty text and an empty cell is null, as Postgres writes them. camelCase and snake_case names mean
    the same. Importing twice changes nothing. Plain keys are hashed while they are read and never stored. A file of
    rejects can be corrected and imported as it is.
    """
    from craftkit_archive.importer.run import import_records, keep_rejects

    sources = tuple(resolve_metadata(console, kind, sources))
    if rejects is not None:
        inputs = {os.path.realpath(source) for source in sources if source != "-"}
        if os.path.realpath(rejects) in inputs or rejects.resolve().parent == console.archive.resolve():
            raise errors.RequestError(f"{rejects} is an input or part of the archive: name another file for rejects.")
    with open_archive(console) as archive:
        records = import_records(
            archive,
            kind,
            sources,
            form=form,
            null=null,
            table=table,
            where=where,
            project=project,
            on_duplicate=on_duplicate,
            all_or_nothing=all_or_nothing,
            dry_run=dry_run,
            stop=console.stop,
        )
        return console.finish(keep_rejects(records, rejects) if rejects else records)
