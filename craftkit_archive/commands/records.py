"""Commands for records management: retention, hold, dispose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from craftkit_archive.columns import Column
from craftkit_archive.commands.completing import complete_projects
from craftkit_archive.commands.console import Console, open_archive
from craftkit_archive.commands.lists import write_list
from craftkit_archive.commands.options import by_option, dry_run_option, ids_option, sign_option

if TYPE_CHECKING:
    from craftkit_archive.retention.rules import CountedFrom

_RULES = [
    Column("FOR", lambda one: f"{one.scope} {one.name}".strip(), least=12, middle=True),
    Column("KEEP", lambda one: one.keep),
    Column("FROM", lambda one: one.counted_from),
]
_DUE = [
    Column("RENDER", lambda one: one.render_id, least=12, middle=True),
    Column("DUE ON", lambda one: one.due_on),
    Column("RULE", lambda one: f"{one.rule}: {one.keep}", least=12, middle=True),
    Column("HELD BY", lambda one: ", ".join(one.held_by) or "-", least=8),
]
_HOLDS = [
    Column("HOLD", lambda one: one.name, least=12, middle=True),
    Column("PLACED", lambda one: one.placed_at[:10]),
    Column("RELEASED", lambda one: (one.released_at or "-")[:10]),
    Column("COVERS", lambda one: f"{one.covers}", right=True),
]


@click.group()
def retention() -> None:
    """Set how long renders are kept, and list those that are due. Nothing is deleted."""


def _whose(command: click.decorators.FC) -> click.decorators.FC:
    command = click.option("--default", "default", is_flag=True, help="For renders that no other rule matches.")(
        command
    )
    command = click.option("--template", metavar="ID", help="For the renders of this template.")(command)
    return click.option(
        "--project", shell_complete=complete_projects, help="For the renders of this project (id or slug)."
    )(command)


def _check_whose(project: str | None, template: str | None, *, default: bool) -> None:
    if (project is not None) + (template is not None) + default != 1:
        raise click.UsageError("Pass one of --project, --template and --default.")


@retention.command("set")
@_whose
@click.option("--keep", metavar="PERIOD", required=True, help="How long: 10y, 1y6m or 90d.")
@click.option(
    "--from",
    "counted_from",
    type=click.Choice(["created", "completed"]),
    default="created",
    show_default=True,
    help="When the period begins.",
)
@by_option
@click.pass_obj
def set_rule(
    console: Console, project: str | None, template: str | None, default: bool, keep: str, counted_from: CountedFrom
) -> int:
    """Set how long the renders of a project or template, or all others, are kept.

    If a rule for its project and one for its template both match a render, the later end counts. If the period ends on
    a day that the month does not have, its last day counts; a PDF is kept through the last day of its period.
    """
    from craftkit_archive.retention.rules import set_retention

    _check_whose(project, template, default=default)
    with open_archive(console) as archive:
        rule = set_retention(archive, keep, project=project, template=template, counted_from=counted_from)
        return write_list(console, rule, _RULES)


@retention.command("list")
@click.pass_obj
def list_rules(console: Console) -> int:
    """List the retention rules."""
    from craftkit_archive.retention.rules import list_retention

    with open_archive(console, read_only=True) as archive:
        return write_list(console, list_retention(archive), _RULES)


@retention.command("remove")
@_whose
@by_option
@click.pass_obj
def remove_rule(console: Console, project: str | None, template: str | None, default: bool) -> int:
    """Remove a retention rule; its renders then follow the other rules, or are kept forever."""
    from craftkit_archive.retention.rules import remove_retention

    _check_whose(project, template, default=default)
    with open_archive(console) as archive:
        return write_list(console, remove_retention(archive, project=project, template=template), _RULES)


@retention.command("due")
@click.option("--by", "by_date", metavar="DATE", help="Due by this day, such as 2026-01-31.  [default: today]")
@click.pass_obj
def due(console: Console, by_date: str | None) -> int:
    """List the stored renders whose retention period is over, including held ones with their holds."""
    from craftkit_archive.retention.rules import list_due

    with open_archive(console, read_only=True) as archive:
        return write_list(console, list_due(archive, by=by_date), _DUE)


@click.group()
def hold() -> None:
    """Keep renders from being deleted while a dispute or an audit lasts."""


@hold.command("place")
@click.option("--name", required=True, help="The name of the hold; it cannot be used again.")
@click.option(
    "--reason", metavar="TEXT", required=True, help="The reason. Do not name persons: it stays in the log for good."
)
@click.option("--project", shell_complete=complete_projects, help="The renders of this project (id or slug).")
@click.option("--template", metavar="ID", help="The renders of this template.")
@click.option("--since", metavar="TIME", help="Renders created from TIME on: 2026-01-31 or a full time.")
@click.option("--until", metavar="TIME", help="Renders created before TIME; a date means its end.")
@ids_option
@by_option
@click.pass_obj
def place(
    console: Console,
    /,
    name: str,
    reason: str,
    project: str | None,
    template: str | None,
    since: str | None,
    until: str | None,
    ids: Path | None,
) -> int:
    """Place a hold on renders by ids or by rule; a rule also covers renders that are imported later."""
    from craftkit_archive.retention.rules import place_hold

    with open_archive(console) as archive:
        selection = archive.select(
            projects=() if project is None else project, since=since, until=until, template_id=template, ids=ids
        )
        return write_list(console, place_hold(archive, name, reason, selection), _HOLDS)


@hold.command("list")
@click.pass_obj
def list_them(console: Console) -> int:
    """List the holds, including released ones, and how many renders each covers now."""
    from craftkit_archive.retention.rules import list_holds

    with open_archive(console, read_only=True) as archive:
        return write_list(console, list_holds(archive), _HOLDS)


@hold.command("release")
@click.argument("name")
@click.option(
    "--reason", metavar="TEXT", required=True, help="The reason. Do not name persons: it stays in the log for good."
)
@by_option
@click.pass_obj
def release(console: Console, name: str, reason: str) -> int:
    """Release a hold; renders that another hold covers stay held."""
    from craftkit_archive.retention.rules import release_hold

    with open_archive(console) as archive:
        return write_list(console, release_hold(archive, name, reason), _HOLDS)


@click.command()
@click.option("--due", is_flag=True, help="All stored renders whose retention period is over; see `retention due`.")
@ids_option
@click.option(
    "--reason", metavar="TEXT", required=True, help="The reason. Do not name persons: it stays in the log for good."
)
@click.option(
    "--certificate",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a certificate of disposal, as FILE.html and FILE.json.",
)
@sign_option("Sign the certificate with this SSH key; a public key stands for its private half in the agent.")
@by_option
@dry_run_option
@click.pass_obj
def dispose(
    console: Console,
    due: bool,
    ids: Path | None,
    reason: str,
    certificate: Path | None,
    sign_with: Path | None,
    dry_run: bool,
) -> int:
    """Delete PDFs for good, in the store (every version in a bucket) and the quarantine, with their personal data.

    A tombstone stays: id, project, size, digest, dates, rule and user. No import, fetch, repair, rebuild or older
    backup of the catalog brings a disposed render back. Held renders are never deleted. The next dispose finishes an
    interrupted one.

    The certificate lists what was deleted, by which rule, what remains, and which exports still contain any of it.
    """
    from craftkit_archive.disposal.certificate import certificate_stem, write_certificate
    from craftkit_archive.disposal.run import dispose_renders

    if due == (ids is not None):
        raise click.UsageError("Pass either --due or --ids FILE.")
    if sign_with is not None and certificate is None:
        raise click.UsageError("--sign signs a certificate: pass --certificate FILE too.")
    if dry_run and certificate is not None:
        raise click.UsageError("--dry-run deletes nothing that a certificate could attest. Leave one of them out.")
    stem = None if certificate is None else certificate_stem(certificate, sign_with=sign_with)
    with open_archive(console) as archive:
        console.say("The reason stays in the audit log for good. It should not name or describe a person.")
        selection = None if ids is None else archive.select(ids=ids)
        disposed = dispose_renders(archive, reason, selection=selection, dry_run=dry_run, stop=console.stop)
        summary, code = console.show(disposed)
        if stem is not None and summary.run_id is not None:
            written = write_certificate(archive, summary.run_id, stem, sign_with=sign_with)
            summary.details["certificate"] = [str(path) for path in written]
            console.say(f"Wrote {', '.join(map(str, written))}.")
    console.close(summary)
    return code
