"""Completion of values in a shell: names from the archive that the command line names, and files."""

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

# The key in click's context for an --archive after the command, during completion.
ARCHIVE_AFTER = "craftkit_archive.completing"
# The variable by which a shell asks for completions.
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
    """Return the archive that the line names so far; ~ and variables in it are not expanded yet by the shell."""
    given = context.meta.get(ARCHIVE_AFTER) or context.find_root().params.get("archive") or "data"
    return Path(os.path.expandvars(given)).expanduser()


# Ids only if no slug matches: nobody types the UUID of a project that has a slug.
complete_projects = _names("projects", "project-ids")
complete_project_ids = _names("project-ids")
complete_runs = _names("runs")
complete_verifications = _names("verifications")
complete_run_commands = _names("commands")
complete_keys = _names("keys")


def complete_files(_context: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem[str]]:
    """Let the shell complete files, for an argument that may also be an address."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(typed, type="file")]
