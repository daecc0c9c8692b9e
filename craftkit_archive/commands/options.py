"""Options that several commands share, and the types of their values."""

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
    """A type of option values that a function of the library parses."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse a value; raises a usage error if it is not valid."""
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
    """Add the global options to the group of all commands."""
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
        help="The archive's directory. Before status, verify and report it can be given several times, which runs the"
        " command for each archive, with one summary and the worst exit code.",
    ),
    click.option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="CRAFTKIT_ARCHIVE_CONFIG",
        show_envvar=True,
        help="The configuration.  [default: craftkit-archive.toml in the archive, if it exists]",
    ),
    click.option("--json", "as_json", is_flag=True, help="Write JSON lines to stdout; the last one is the summary."),
    click.option(
        "--progress",
        type=click.Choice(["auto", "bar", "plain", "none"]),
        default="auto",
        show_default=True,
        help="How to show progress on stderr; auto: a bar on a terminal, a line now and then elsewhere.",
    ),
    click.option(
        "-q",
        "--quiet",
        is_flag=True,
        help="Print nothing on success; otherwise the outcome and the worst findings.",
    ),
    click.option(
        "-v",
        "--verbose",
        is_flag=True,
        help="Show every finding, reject and skipped asset, and tables with all columns and full digests and times.",
    ),
]
EVERYWHERE = (
    "--archive, --config, --json, --progress, -q and -v can be given here as well as before the command; the last one"
    " counts."
)


def take_everywhere(command: click.Command, *path: str) -> None:
    """Let a command, and those below it, accept the global options after its name too.

    They are hidden there, so that each help lists only its own options; the end of the help names them.
    """
    for option in GLOBAL_OPTIONS:
        shown = option(click.Command(None)).params[-1]
        # Without a default or a variable: an option that is not given here must not override one before the command.
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
    """Let a global option after the command override the same one before it."""
    if parameter.name == "archive" and context.resilient_parsing and value is not None:
        context.meta[ARCHIVE_AFTER] = value
    if value not in (None, False) and not context.resilient_parsing:
        context.obj.overrule(parameter.name, value)


MOST_PROCESSES = 64


def count_processes(context: click.Context, _parameter: click.Parameter, value: int | None) -> int | None:
    """Return the number of processes: as given, or one for each processor; with a cluster, as given or None."""
    if context.resilient_parsing:  # completion does not need it
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
    help="Worker processes.  [default: one for each processor]",
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
    """Add the options for the number of workers, and for a cluster."""
    jobs = click.option(
        "--jobs",
        metavar="COUNT",
        type=click.IntRange(1),
        callback=count_processes,
        help=f"Worker processes, up to {MOST_PROCESSES}; with --cluster, batches in flight."
        "  [default: one process for each processor; two batches for each thread of the cluster]",
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
    help="Only renders whose ids are in FILE, one on each line; - for standard input.",
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
            command = click.option(
                "--until", metavar="TIME", help="Only renders created before TIME; a date means its end."
            )(command)
        command = click.option(
            "--since", metavar="TIME", help="Only renders created from TIME on: 2026-01-31 or a full time."
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
    """Add the options for the S3 service of a bucket."""
    for name, metavar, words in (
        ("--profile", "NAME", "For a bucket: the profile to use from the AWS files."),
        ("--region", "NAME", "For a bucket: its region."),
        ("--endpoint-url", "URL", "For a bucket: the service, if it is not AWS."),
    ):
        command = click.option(name, metavar=metavar, help=words)(command)
    words = "For a public bucket: send requests without credentials."
    return click.option("--no-sign-request", flag_value="true", default=None, help=words)(command)


def resolve_address(address: str, **service: str | None) -> str:
    """Return the address with the options of its service added."""
    given = {name: value for name, value in service.items() if value is not None}
    if not given:
        return address
    from craftkit_archive.stores.bucket import bucket_address

    return bucket_address(address, **given)
