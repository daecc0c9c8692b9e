"""Commands for API keys: keys list, create, revoke."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from craftkit_archive.commands.completing import complete_keys, complete_projects
from craftkit_archive.commands.console import OK, Console, OutputError, open_archive
from craftkit_archive.commands.lists import key_columns, write_list
from craftkit_archive.commands.options import DURATION, by_option
from craftkit_archive.values import format_time

if TYPE_CHECKING:
    from craftkit_archive.archive import Archive
    from craftkit_archive.records import KeyInfo


@click.group()
def keys() -> None:
    """Manage the API keys that this archive accepts."""


def _show_keys(console: Console, command: str, shown: list[KeyInfo], **details: object) -> int:
    from craftkit_archive.records import Record, Summary

    summary = Summary(command=command, outcome="ok", counts={"keys": len(shown)}, details=details)
    records: list[Record] = [*shown, summary]
    return write_list(console, iter(records), key_columns(verbose=console.verbose))


def _show_new_key(console: Console, key: KeyInfo) -> int:
    from craftkit_archive.records import Summary

    if console.json:
        console.line(key)
    else:
        console.put(key.key or "")
    console.close(Summary(command="keys create", outcome="ok", counts={"keys": 1}))
    return OK


@keys.command("list")
@click.option("--project", shell_complete=complete_projects, help="Only this project's (id or slug).")
@click.option(
    "--unused", metavar="AGE", type=DURATION, help="Only valid keys at least AGE (90d) old and not used for that long."
)
@click.pass_obj
def list_keys(console: Console, project: str | None, unused: int | None) -> int:
    """List keys: id, project, prefix, state, last use, name. The keys themselves are not stored.

    The time of last use comes from access logs that were recorded in the audit log: see `serve --audit-access` and
    `audit access-log`. The log that the server is still writing does not count yet.
    """
    with open_archive(console, read_only=True) as archive:
        found = archive.list_keys(project) if unused is None else archive.unused_keys(unused, project)
        span = archive.catalog.key_use_span() or (None, None)
        if span[0] is not None or unused is not None:
            console.say(_what_is_known(archive, span, unused))
        return _show_keys(
            console,
            "keys list",
            found,
            use_known_from=span[0],
            use_known_until=span[1],
            filtered=project is not None or unused is not None,
            projects=len(archive.catalog.project_slugs(1)),
        )


def _what_is_known(archive: Archive, span: tuple[str | None, str | None], unused: int | None) -> str:
    """Return a sentence on the period for which access logs tell which keys were used."""
    known_from, known_until = span
    if known_from is None or known_until is None:
        return "No access log says when keys were used. Run serve with --access-log FILE and --audit-access daily."
    first, last = (time[:16].replace("T", " ") for time in (known_from, known_until))
    text = f"Access logs say which keys were used from {first} to {last} (UTC)."
    begin = format_time(archive.clock() - timedelta(seconds=unused or 0))
    return f"{text} What was used before is not known." if unused is not None and begin < known_from else text


@keys.command("create")
@click.option("--project", required=True, shell_complete=complete_projects, help="Id or slug.")
@click.option("--name", help="A name for people.")
@click.option("--test", is_flag=True, help="Create a test key (ck_test_…).")
@by_option
@click.pass_obj
def create_key(console: Console, project: str, name: str | None, test: bool) -> int:
    """Create a key and print it; it is never shown again."""
    with open_archive(console) as archive:
        key = archive.create_key(project, name=name, test=test)
        console.say(f"Key {key.id} is shown only this once. Save it now.")
        try:
            return _show_new_key(console, key)
        except OutputError as error:
            archive.revoke_key(key.id)
            raise OutputError(f"{error} Nobody saw the new key, so it was revoked.") from error


@keys.command("revoke")
@click.argument("keys", metavar="KEY…", nargs=-1, required=True, shell_complete=complete_keys)
@by_option
@click.pass_obj
def revoke_key(console: Console, keys: tuple[str, ...]) -> int:
    """Revoke keys; they stop working with the next request.

    KEY is its id, the whole key, or its beginning of at least 12 characters.
    """
    with open_archive(console) as archive:
        revoked = []
        for name in keys:
            revoked.append(archive.revoke_key(name))
            console.say(f"Revoked key {revoked[-1].id}, found by {_MATCHED[revoked[-1].matched or 'id']}.")
        return _show_keys(console, "keys revoke", revoked)


_MATCHED = {
    "id": "its id",
    "hash": "the whole key",
    "prefix": "its beginning, which is all that is stored of it",
}
