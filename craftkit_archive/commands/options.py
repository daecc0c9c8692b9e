"""Options that several commands share, and the readers of their values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from craftkit_archive.commands.completing import ARCHIVE_AFTER, complete_projects
from craftkit_archive.commands.examples import examples
from craftkit_archive.values import STDIN, parse_duration, parse_rotation, parse_share, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable


class Parsed(click.ParamType[Any]):
    """An option's value that one of the library's own readers understands."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it; a text that is not valid is a usage error."""
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


SIZE = Parsed("SIZE", parse_size)
DURATION = Parsed("DURATION", parse_duration)
SHARE = Parsed("SHARE", parse_share)
ROTATION = Parsed("DAILY|SIZE", parse_rotation)


def global_options(command: Any) -> Any:
    """Add the options of the whole program to its group."""
    for option in reversed(GLOBAL_OPTIONS):
        command = option(command)
    return command


GLOBAL_OPTIONS: list[Callable[[Any], Any]] = [
    click.option(
        "--archive",
        type=click.Path(path_type=Path, file_okay=False, readable=False),
        default=Path("data"),
        envvar="CRAFTKIT_ARCHIVE",
        show_default=True,
        show_envvar=True,
        help="The archive's directory. Before status, verify and report it can be given several times: then each"
        " archive is done, with one summary and the worst exit code.",
    ),
    click.option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="CRAFTKIT_ARCHIVE_CONFIG",
        show_envvar=True,
        help="The configuration.  [default: craftkit-archive.toml in the archive, if it is there]",
    ),
    click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout; the last is the summary."),
    click.option(
        "--progress",
        type=click.Choice(["auto", "bar", "plain", "none"]),
        default="auto",
        show_default=True,
        help="How progress is shown on stderr; auto: a bar on a terminal, a line now and then elsewhere.",
    ),
    click.option(
        "-q",
        "--quiet",
        is_flag=True,
        help="Say nothing of a success; of anything else how it ended, and the worst findings.",
    ),
    click.option(
        "-v",
        "--verbose",
        is_flag=True,
        help="Show every finding, reject and skipped asset, and in tables every column, digest and time whole.",
    ),
]
EVERYWHERE = (
    "--archive, --config, --json, --progress, -q and -v can stand here too, as before the command; the last one counts."
)


def take_everywhere(command: click.Command, *path: str) -> None:
    """Let a command, and those below it, take the program's own options after its name too.

    They are hidden there, so that each help has its own options; its end has examples, and names them.
    """
    for option in GLOBAL_OPTIONS:
        shown = option(click.Command(None)).params[-1]
        # Without a default and the environment: what was not given here must not undo what stands before.
        hidden = type(shown)(
            [*shown.opts, shown.name or ""],
            type=shown.type,
            is_flag=shown.is_flag,
            default=None,
            hidden=True,
            expose_value=False,
            callback=_overrule,
            help=shown.help,
        )
        command.params.append(hidden)
    command.epilog = f"{examples(' '.join(path))}\n\n{EVERYWHERE}"
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            take_everywhere(inner, *path, name)


def _overrule(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Let an option that stands after the command take the place of the same one before it."""
    if parameter.name == "archive" and context.resilient_parsing and value is not None:
        context.meta[ARCHIVE_AFTER] = value
    if value not in (None, False) and not context.resilient_parsing:
        context.obj.overrule(parameter.name, value)


MOST_PROCESSES = 64


def count_processes(context: click.Context, _parameter: click.Parameter, value: int | None) -> int | None:
    """Return the number of processes: as given, or one for each processor; a cluster counts by itself."""
    if context.resilient_parsing:  # a shell that completes has no use for it
        return value or 1
    from craftkit_archive.parallel.pool import default_jobs

    if context.params.get("cluster") is not None:
        return value
    if value is not None and value > MOST_PROCESSES:
        raise click.BadParameter(f"{value} is more than {MOST_PROCESSES} processes. Only a --cluster takes that many.")
    return value or default_jobs()


jobs_option = click.option(
    "--jobs",
    type=click.IntRange(1, MOST_PROCESSES),
    callback=count_processes,
    help="Worker processes.  [default: one a processor]",
)
_address_option = click.option(
    "--cluster",
    metavar="ADDRESS",
    envvar="CRAFTKIT_ARCHIVE_CLUSTER",
    show_envvar=True,
    callback=lambda _context, _parameter, value: value or None,
    is_eager=True,  # --jobs means something else with it
    help="Let the workers of the Dask scheduler at ADDRESS do the work, such as tcp://scheduler:8786.",
)


def cluster_options(command: Any) -> Any:
    """Add the options that say how many do the work, and where."""
    jobs = click.option(
        "--jobs",
        metavar="COUNT",
        type=click.IntRange(1),
        callback=count_processes,
        help=f"Worker processes, up to {MOST_PROCESSES}; with --cluster, batches in flight."
        "  [default: one process a processor; two batches a thread of the cluster]",
    )
    return _address_option(jobs(command))


def cluster_option(command: Any) -> Any:
    """Add the option that names a cluster, alone."""
    return _address_option(command)


ids_option = click.option(
    "--ids",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=lambda _context, _parameter, value: STDIN if value == Path("-") else value,
    help="Only the renders whose ids stand in FILE, one a line; - for standard input.",
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Change nothing; print what would be done.")


def _act_as(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    from craftkit_archive.proof.events import check_who

    try:
        context.obj.by = None if value is None else check_who(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


by_option = click.option(
    "--by",
    metavar="NAME",
    envvar="CRAFTKIT_ARCHIVE_BY",
    show_envvar=True,
    callback=_act_as,
    expose_value=False,
    help="Who does this, for the audit log.  [default: user@host]",
)


def selection_options(*, until: bool = True) -> Callable[[Any], Any]:
    """Add the options that select renders."""

    def add(command: Any) -> Any:
        if until:
            command = click.option("--until", metavar="TIME", help="Only renders made before; a date: up to its end.")(
                command
            )
        command = click.option(
            "--since", metavar="TIME", help="Only renders made at or after 2026-01-31 or a full time."
        )(command)
        return click.option(
            "--project",
            "projects",
            multiple=True,
            shell_complete=complete_projects,
            help="Only this project (id or slug); repeatable.",
        )(command)

    return add


def status_option(words: str) -> Callable[[Any], Any]:
    """Add the option that selects renders by their status."""
    return click.option(
        "--status",
        "statuses",
        multiple=True,
        type=click.Choice(["queued", "rendering", "succeeded", "failed", "cancelled"]),
        help=words,
    )


def sign_option(words: str) -> Callable[[Any], Any]:
    """Add the option that names the SSH key to sign with."""
    return click.option(
        "--sign", "sign_with", metavar="KEY", type=click.Path(path_type=Path, dir_okay=False), help=words
    )


def service_options(command: Any) -> Any:
    """Add the options that say which S3 service a bucket is at."""
    for name, metavar, words in (
        ("--profile", "NAME", "For a bucket: the profile of the AWS files to take."),
        ("--region", "NAME", "For a bucket: its region."),
        ("--endpoint-url", "URL", "For a bucket: the service, if it is not AWS."),
    ):
        command = click.option(name, metavar=metavar, help=words)(command)
    words = "For a public bucket: ask without credentials."
    return click.option("--no-sign-request", flag_value="true", default=None, help=words)(command)


def resolve_address(address: str, **service: str | None) -> str:
    """Join an address and the service that it is at."""
    given = {name: value for name, value in service.items() if value is not None}
    if not given:
        return address
    from craftkit_archive.stores.bucket import bucket_address

    return bucket_address(address, **given)
