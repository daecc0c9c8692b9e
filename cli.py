"""The command line: the group of all commands, and the only place where errors become exit codes."""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from craftkit_archive import __version__, errors
from craftkit_archive.commands.colour import paint_label
from craftkit_archive.commands.completing import COMPLETE_VARIABLE
from craftkit_archive.commands.configuring import configure, name_variables
from craftkit_archive.commands.console import GIVEN, OK, Console, OutputError, ReaderGoneError, as_json
from craftkit_archive.commands.examples import examples
from craftkit_archive.commands.families import Families
from craftkit_archive.commands.options import global_options
from craftkit_archive.commands.signals import Signals, leave
from craftkit_archive.values import escape_control

if TYPE_CHECKING:
    from collections.abc import Iterator

    from craftkit_archive.parallel.progress import ProgressMode


PROGRAM = "craftkit-archive"
USAGE = 2
OWN_BUG = 70
# The key of the configuration in click's context.
CONFIGURATION = "craftkit_archive.configuration"
# The exit code that a shell gives for a program that SIGPIPE ended.
READER_GONE = 128 + signal.SIGPIPE

# The exit code of each leaf of the error tree.
EXIT_CODES: dict[type[errors.ArchiveError], int] = {
    errors.RequestError: USAGE,
    errors.NoArchiveError: 10,
    errors.LockedError: 11,
    errors.CatalogNewerError: 13,
    errors.CatalogDamagedError: 13,
    errors.StoreOfflineError: 14,
    errors.StoreMismatchError: 14,
    errors.AssetKeyError: 1,
    errors.AssetExistsError: 1,
    errors.AssetMissingError: 1,
    errors.AssetUnreadableError: 1,
    errors.AssetUnavailableError: 3,
    errors.AssetDamagedError: 1,
    errors.NoSpaceError: 15,
    errors.NotWritableError: 15,
    errors.RemoteError: 16,
    errors.UnauthorizedError: 16,
    errors.ForbiddenError: 16,
    errors.RenderNotFoundError: 16,
    errors.RenderConflictError: 16,
}


# All exit codes in words, for the help and docs/cli.md.
EXIT_CODE_WORDS = {
    0: "all that was asked for was done, and is good",
    1: "finished, and found problems (damaged assets, rejected records, a seal that does not match)",
    2: "usage error: invalid option, argument or request",
    3: "finished, nothing bad, but incomplete (something was skipped, or could not be read or compared)",
    10: "no archive here",
    11: "another command holds the lock",
    13: "the catalog is newer than this program, or damaged",
    14: "the store or source is offline, or is not the one that this archive belongs to",
    15: "no space on the disk, too little memory or too few open files, or not writable (standard output too)",
    16: "the remote end refused or kept failing",
    70: "internal error (please report; traceback on stderr)",
    101: "stopped at --time-limit or --max-bytes, clean so far",
    130: "SIGINT: stopped cleanly, what was done is recorded",
    141: "the reader of the output went away, such as `head` that has its lines; what was done is recorded",
    143: "SIGTERM: stopped cleanly, what was done is recorded",
}


# The module and name of each command, in the order in which a configuration shows them.
COMMANDS = {
    "init": "upkeep.init",
    "rebuild": "upkeep.rebuild",
    "backup": "upkeep.backup",
    "restore": "upkeep.restore",
    "doctor": "upkeep.doctor",
    "import": "metadata.import_",
    "fetch": "assets.fetch",
    "verify": "assets.verify",
    "repair": "assets.repair",
    "accept": "assets.accept",
    "quarantine": "assets.quarantine",
    "export": "exporting.export",
    "export-check": "exporting.export_check",
    "keys": "keys.keys",
    "status": "lookup.status",
    "renders": "lookup.renders",
    "findings": "lookup.findings",
    "runs": "lookup.runs",
    "report": "lookup.report",
    "seal": "lookup.seal",
    "audit": "audit.audit",
    "retention": "records.retention",
    "hold": "records.hold",
    "dispose": "records.dispose",
    "completion": "completion.completion",
    "config": "config.config",
    "notify": "notifying.notify",
    "nightly": "nightly.nightly",
    "serve": "serving.serve",
    "quickstart": "serving.quickstart",
}


class Commands(click.Group):
    """The group of all commands; the only place where errors become exit codes."""

    def main(self, args: Any = None, prog_name: str | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Run a command and exit with its code, which is one of the table."""
        given = list(sys.argv[1:] if args is None else args)
        _open_streams()
        with Signals() as signals:
            try:
                code = self._run(given, prog_name, signals, **extra)
            except KeyboardInterrupt:  # another signal, while the last output was written
                leave(signals.exit_code)
            signals.settle()
        work = sys.modules.get("craftkit_archive.parallel.pool")
        if work is not None and work.has_given_up():
            leave(code)
        sys.exit(code)

    def _run(self, given: list[str], prog_name: str | None, signals: Signals, **extra: Any) -> int:
        stopped = KeyboardInterrupt("Stopped at once; what was recorded until then stays.")
        signals.at_last = lambda: self._fail(given, stopped, signals.exit_code)
        try:
            if COMPLETE_VARIABLE in os.environ:
                from craftkit_archive.commands import completion as completion  # importing it replaces click's shells

            if given.count("--archive") + sum(word.startswith("--archive=") for word in given) > 1:
                from craftkit_archive.commands.fleet import archives_before, run_fleet

                archives, options, words = archives_before(given)
                if len(archives) > 1 and "--help" not in given:
                    return run_fleet(archives, options, words, signals)
            return super().main(given, prog_name, standalone_mode=False, obj=signals, **extra) or OK
        except (click.ClickException, errors.ArchiveError) as error:
            return self._fail(given, error, self.code_of(error))
        except (KeyboardInterrupt, click.Abort):
            signals.settle()
            code = self._fail(given, stopped, signals.exit_code)
            if signals.first:
                leave(code)
            return code
        except ReaderGoneError:
            return _end_for_readers()
        except OutputError as error:
            click.echo(f"craftkit-archive: {error}", err=True)
            _forget(1)
            return EXIT_CODES[errors.NotWritableError]
        except Exception as error:  # noqa: BLE001 - the last edge: any other error is a bug of ours
            if isinstance(error, BrokenPipeError) and any(map(_reader_is_gone, (1, 2))):
                return _end_for_readers()
            return self._fail_unforeseen(given, error)

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Parse a command line, with defaults from the configuration; keep its words, to suggest what to run next."""
        context.meta[GIVEN] = list(args)
        if not context.resilient_parsing and not {"--help", "--version"} & set(args):
            context.meta[CONFIGURATION] = configure(context, args)
        return super().parse_args(context, args)

    def code_of(self, error: Exception) -> int:
        """Return the exit code of an error that ended a command."""
        if isinstance(error, click.ClickException):
            return USAGE
        found = error if isinstance(error, errors.ArchiveError) else errors.starvation(error)
        return OWN_BUG if found is None else EXIT_CODES[type(found)]

    def _fail_unforeseen(self, given: list[str], error: Exception) -> int:
        starved = next(filter(None, map(errors.starvation, _causes(error))), None)
        if starved is not None:
            return self._fail(given, starved, EXIT_CODES[type(starved)])
        import traceback

        traceback.print_exception(error)
        bug = RuntimeError("This is a bug in craftkit-archive: please report the traceback.")
        return self._fail(given, bug, OWN_BUG)

    def _fail(self, given: list[str], error: BaseException, code: int) -> int:
        if "--json" in given:
            message = error.format_message() if isinstance(error, click.ClickException) else str(error)
            kind = type(error).__name__
            outcome = "interrupted" if isinstance(error, KeyboardInterrupt) else "error"
            problem = {"type": "error", "error": kind, "message": message, "exit_code": code}
            end: dict[str, object] = {
                "type": "summary",
                "command": self._named(given),
                "outcome": outcome,
                "exit_code": code,
                "counts": {},
            }
            for line in (problem, end):
                click.echo(as_json(line))
        elif isinstance(error, click.ClickException):
            error.show()
        else:
            text = escape_control(f"craftkit-archive: {error}")
            click.echo(paint_label(text, "red", sys.stderr), err=True)
        return code

    def _named(self, given: list[str]) -> str | None:
        """Find the words of the command among the arguments."""
        names: list[str] = []
        group: click.Command = self
        words = iter(given)
        for word in words:
            if word in ("--archive", "--config", "--progress"):
                next(words, None)
            elif isinstance(group, click.Group) and word in group.commands:
                names.append(word)
                group = group.commands[word]
        return " ".join(names) or None


def _end_for_readers() -> int:
    """End silently, because the reader has what it wanted."""
    for number in filter(_reader_is_gone, (1, 2)):
        _forget(number)
    return READER_GONE


def _reader_is_gone(number: int) -> bool:
    import select

    poll = select.poll()
    poll.register(number, select.POLLOUT)
    return any(what & (select.POLLERR | select.POLLNVAL) for _, what in poll.poll(0))


def _forget(number: int) -> None:
    """Redirect a stream to /dev/null, because Python flushes it once more when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _open_streams() -> None:
    """Open standard streams that the program was started without, and make them accept any text."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # It takes the lowest free number, so that no file that is opened later becomes a standard stream.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if number == 0 else "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


EPILOG = f"{examples('')}\n\n\b\nExit codes:\n" + "\n".join(
    f"{code:>5}  {words}" for code, words in EXIT_CODE_WORDS.items()
)


@click.group(cls=Commands, epilog=EPILOG, context_settings={"max_content_width": 120})
@click.version_option(__version__, message="craftkit-archive %(version)s")
@global_options
@click.pass_context
def main(
    context: click.Context,
    archive: Path,
    config: Path | None,
    as_json: bool,
    progress: ProgressMode,
    quiet: bool,
    verbose: bool,
) -> None:
    """Keep, check, export and serve the PDFs of a Craftkit project, outside Craftkit."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise errors.RequestError("The current directory is gone: change to another one.") from error
    context.obj = Console(
        archive,
        context.obj,
        as_json=as_json,
        progress=progress,
        quiet=quiet,
        verbose=verbose,
        config=config,
        configuration=context.meta.get(CONFIGURATION),
    )


name_variables(main)
main.commands = Families(COMMANDS)
