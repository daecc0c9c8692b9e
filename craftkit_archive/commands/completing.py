"""What a shell offers for values: names out of the archive that the command line names, and files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import click
    from click.shell_completion import CompletionItem

    from craftkit_archive.catalog.names import NameKind

    Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]

# Where an --archive that stands after the command is noted while a shell asks.
ARCHIVE_AFTER = "craftkit_archive.completing"
# Where a shell says that it asks.
COMPLETE_VARIABLE = "_CRAFTKIT_ARCHIVE_COMPLETE"


def _names(*kinds: NameKind) -> Complete:
    def complete(context: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem[str]]:
        from click.shell_completion import CompletionItem

        from craftkit_archive.archive import CATALOG
        from craftkit_archive.catalog.names import names_that_begin

        found = names_that_begin(_archive(context) / CATALOG, typed, kinds)
        return [CompletionItem(name, help=words or None) for name, words in found]

    return complete


def _archive(context: click.Context) -> Path:
    """Return the archive that the line names so far; the shell hands it over before it has replaced ~ and variables."""
    given = context.meta.get(ARCHIVE_AFTER) or context.find_root().params.get("archive") or "data"
    return Path(os.path.expandvars(given)).expanduser()


# Ids only where no slug begins like this: people do not type the UUID of a project that has a name.
complete_projects = _names("projects", "project-ids")
complete_project_ids = _names("project-ids")
complete_runs = _names("runs")
complete_verifications = _names("verifications")
complete_run_commands = _names("commands")
complete_keys = _names("keys")


def complete_files(_context: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem[str]]:
    """Let the shell offer files, for what may be an address too."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(typed, type="file")]
