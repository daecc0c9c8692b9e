"""Commands for the configuration: config show, init, schema."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from craftkit_archive.commands.configuring import PREFIX, option_table, plain, settings, template, variables
from craftkit_archive.commands.console import OK, Console
from craftkit_archive.commands.lists import setting_columns, write_list

if TYPE_CHECKING:
    from collections.abc import Iterator

    from craftkit_archive.configuration import Configuration
    from craftkit_archive.records import Record

# Variables of this program that do not belong to an option.
KNOWN_VARIABLES = (
    "CRAFTKIT_ARCHIVE_CONFIG",
    "CRAFTKIT_ARCHIVE_SMTP_PASSWORD",
    "CRAFTKIT_ARCHIVE_APPRISE_URLS",
    "CRAFTKIT_ARCHIVE_WEBHOOK_TOKEN",
    "CRAFTKIT_ARCHIVE_WEBHOOK_URL",
    "CRAFTKIT_ARCHIVE_PING_URL",
)

HEADER = """\
# The configuration of an archive, for craftkit-archive. Each setting is shown with its default, or with an example.
# Remove the # before those that you want. The command line overrides the environment, which overrides this file.
# `craftkit-archive config show` lists what is set, and where. `craftkit-archive config schema` is for editors."""


@click.group()
def config() -> None:
    """Show the configuration, or write a new one.

    A file craftkit-archive.toml in the archive's directory, or the one that --config names, holds defaults for the
    options of every command, named sources, and the steps of a night. The command line overrides the environment
    (CRAFTKIT_ARCHIVE_VERIFY_DUE is verify --due), which overrides the file.

    Secrets do not belong in it, and it is refused with one: see docs/configuration.md.
    """


@config.command("show")
@click.pass_obj
def show_config(console: Console) -> int:
    """List the options that the environment or the file sets, and where; with -v, all options."""
    import difflib

    from craftkit_archive.configuration import Configuration
    from craftkit_archive.records import Summary

    root = click.get_current_context().find_root().command
    configuration = console.configuration or Configuration()
    every = list(settings(root, configuration))
    unknown = sorted({name for name in os.environ if _is_ours(name)} - variables(root))
    for name in unknown:
        near = difflib.get_close_matches(name, variables(root), n=1)
        meant = f" Did you mean {near[0]}?" if near else ""
        click.echo(f"craftkit-archive: {name} sets nothing: no option has this variable.{meant}", err=True)
    shown: list[Record] = [one for one in every if console.verbose or console.json or one.origin is not None]
    shown += _table_settings(configuration)
    summary = Summary(
        command="config show",
        outcome="ok",
        counts={"set": sum(one.origin is not None for one in every), "options": len(every), "unknown": len(unknown)},
        details={"file": None if configuration.file is None else str(configuration.file)},
    )
    return write_list(console, iter([*shown, summary]), setting_columns())


def _is_ours(name: str) -> bool:
    return name.startswith(f"{PREFIX}_") and name.removesuffix("_FILE") not in KNOWN_VARIABLES


def _table_settings(configuration: Configuration) -> Iterator[Record]:
    """Yield the settings of the file that are not options: sources, the night, notifications."""
    from craftkit_archive.records import Setting

    for at, value in configuration.others():
        origin = f"{configuration.file}:{configuration.line(at)}"
        yield Setting(command=".".join(at[:-1]), option=at[-1], value=plain(value), origin=origin)


@config.command("init")
@click.pass_obj
def init_config(console: Console) -> int:
    """Write a configuration in which every setting is commented out, and print where it is.

    It is written to the archive's directory, or to the FILE of --config; an existing file is not changed.
    """
    from craftkit_archive.configuration import FILE, TEMPLATE
    from craftkit_archive.errors import NoArchiveError, RequestError, disk_errors
    from craftkit_archive.records import Summary

    root = click.get_current_context().find_root().command
    file = console.config or console.archive / FILE
    if console.config is None and not console.archive.is_dir():
        raise NoArchiveError(
            f"There is no archive in {console.archive}. Make one with `init`, or name one with --archive."
        )
    with disk_errors(file):
        try:
            with file.open("x", encoding="utf-8") as out:
                out.write("\n".join([HEADER, *template(root), TEMPLATE]))
        except FileExistsError as error:
            raise RequestError(
                f"{file} exists. Edit it, or run `craftkit-archive --config NEW.toml config init` to write another."
            ) from error
    console.say(f"Wrote {file}: every setting is commented out. Remove the # before those that you want.")
    console.close(Summary(command="config init", outcome="ok", details={"file": str(file)}))
    return OK


@config.command("schema")
@click.pass_obj
def show_schema(console: Console) -> int:
    """Print the JSON Schema of the configuration, with which editors check and complete it."""
    import msgspec

    from craftkit_archive.configuration import schema
    from craftkit_archive.records import Summary

    text = schema(option_table(click.get_current_context().find_root().command))
    console.put(msgspec.json.format(msgspec.json.encode(text)).decode())
    console.close(Summary(command="config schema", outcome="ok"))
    return OK
