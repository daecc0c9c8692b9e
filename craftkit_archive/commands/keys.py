"""Commands for API keys: keys list, create, revoke."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from craftkit_archive.commands.completing import complete_keys, complete_projects
from craftkit_archive.commands.console import OK, Console, OutputError, open_archive
from craftkit_archive.commands.lists import key_columns, write_list
from craftkit_archive.commands.options import by_option

if TYPE_CHECKING:
    from craftkit_archive.records import KeyInfo


@click.group()
def keys() -> None:
    """Manage the API keys that this archive accepts."""


def _show_keys(console: Console, command: str, shown: list[KeyInfo]) -> int:
    from craftkit_archive.records import Record, Summary

    records: list[Record] = [*shown, Summary(command=command, outcome="ok", counts={"keys": len(shown)})]
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
@click.pass_obj
def list_keys(console: Console, project: str | None) -> int:
    """List keys: id, project, prefix, state, name. The keys themselves are known to nobody."""
    with open_archive(console, read_only=True) as archive:
        return _show_keys(console, "keys list", archive.list_keys(project))


@keys.command("create")
@click.option("--project", required=True, shell_complete=complete_projects, help="Id or slug.")
@click.option("--name", help="What people call it.")
@click.option("--test", is_flag=True, help="Make a ck_test_ key.")
@by_option
@click.pass_obj
def create_key(console: Console, project: str, name: str | None, test: bool) -> int:
    """Make a key and print it, this once."""
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

    KEY is its id, the key itself, as it was leaked, or its beginning: 12 characters or more.
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
