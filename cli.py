"""The command line: words to calls, records to lines, errors to exit codes."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click

from craftkit_archive import __version__, errors
from craftkit_archive.values import DATABASE_SCHEME, harmless, parse_duration, parse_share, parse_size, valid_text

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from types import FrameType

    from craftkit_archive.archive import Archive
    from craftkit_archive.destination import Form as ExportForm
    from craftkit_archive.merging import OnDuplicate
    from craftkit_archive.reading import Form
    from craftkit_archive.records import KeyInfo, Kind, Record, Summary
    from craftkit_archive.work import ProgressMode
    from server.access_log import LogFormat
    from server.bodies import VerifyReads

OK = 0
USAGE = 2
OWN_BUG = 70

# How a command that came to its end has ended.
OUTCOMES = {"ok": OK, "problems": 1, "incomplete": 3, "limited": 101}

# What stopped it otherwise: each leaf of the error tree.
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

# For people: the whole table, as the help and docs/cli.md show it.
EXIT_CODE_WORDS = {
    0: "all that was asked for was done, and is good",
    1: "finished, and found problems (damaged assets, rejected records, a seal that does not match)",
    2: "usage: what was asked for makes no sense",
    3: "finished, nothing bad, but incomplete (something was skipped, or could not be read or compared)",
    10: "no archive here",
    11: "another command holds the lock",
    13: "the catalog is newer than this program, or damaged",
    14: "the store or source is offline, or is not the one that this archive belongs to",
    15: "no space on the disk, too little memory or too few open files, or not writable (standard output too)",
    16: "the remote end refused or kept failing",
    70: "our own bug: the traceback is on stderr",
    101: "stopped at --time-limit or --max-bytes, clean so far",
    130: "SIGINT: stopped cleanly, what was done is recorded",
    143: "SIGTERM: stopped cleanly, what was done is recorded",
}

SHOWN = 20
LISTEN = "127.0.0.1:8080"


# `timeout` sends its signal to the command, and then to the command's whole group: that is one request, not two. People
# send SIGINT, and may press the keys twice in a second.
MERGE_SECONDS = {signal.SIGTERM: 1.0, signal.SIGINT: 0.1}
# How long after the first signal work may still end by itself, and how long after the second.
END_SECONDS = 8.0
LAST_SECONDS = 1.5


class Signals:
    """The first SIGINT or SIGTERM asks the work to end cleanly, a later one ends it at once.

    What has not ended some seconds after the first is ended as by a second one.
    """

    def __init__(self) -> None:
        self.first = 0
        self.at_last: Callable[[], object] = lambda: None
        self._noted_at = 0.0
        self._over = threading.Event()

    def __enter__(self) -> Signals:
        # Python runs a handler only when the main thread comes back from a library, which may wait for a network there.
        # The number of a signal is written to this pipe at once, and another thread reads it.
        numbers, self._bell = os.pipe()
        os.set_blocking(self._bell, False)
        self._bell_before = signal.set_wakeup_fd(self._bell, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(numbers,), daemon=True).start()
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._bell_before)
        self._over.set()
        os.close(self._bell)  # which ends the thread that reads the other end

    def __call__(self) -> bool:
        """Say whether the work is to end."""
        return self.first != 0

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.first:
            if time.monotonic() - self._noted_at >= MERGE_SECONDS.get(signal.Signals(number), 0.0):
                raise KeyboardInterrupt
            return
        self.first = number
        self._noted_at = time.monotonic()
        if os.isatty(2):
            os.write(2, b"\nStopping when what is under way is done; once more stops at once.\n")

    def _watch(self, numbers: int) -> None:
        """Read the numbers of signals from a pipe, and end what does not end by itself after the first one."""
        try:
            while came := os.read(numbers, 1):
                if came[0] in (signal.SIGINT, signal.SIGTERM):
                    self._end(came[0])
                    return
        finally:
            os.close(numbers)

    def _end(self, number: int) -> None:
        """End what does not look whether it is to end, such as one long statement of SQLite."""
        if self._over.wait(END_SECONDS):
            return
        if not self.first:  # the main thread has not seen it yet: to end at once is all that is left
            self.first, self._noted_at = number, float("-inf")
        # A real signal: it also ends what the main thread waits for.
        signal.pthread_kill(threading.main_thread().ident or 0, self.first)
        if not self._over.wait(LAST_SECONDS):
            self.at_last()
            _leave(self.exit_code)

    @property
    def exit_code(self) -> int:
        """The exit code of work that they ended."""
        return 128 + (self.first or signal.SIGINT)


def _leave(code: int) -> NoReturn:
    """End the process now: Python would wait for every thread that is still at work."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


class OutputError(Exception):
    """Standard output cannot be written: its reader has gone, or its disk is full."""


class Console:
    """Where a command's output goes: results to stdout, words to stderr; with `--json` everything to stdout."""

    def __init__(
        self, archive: Path, stop: Signals, *, as_json: bool, progress: ProgressMode, quiet: bool, verbose: bool
    ) -> None:
        self.archive = archive
        self.stop = stop
        self.json = as_json
        self.progress = progress
        self.quiet = quiet
        self.verbose = verbose

    def say(self, text: str) -> None:
        """Tell a person something."""
        if not self.quiet and not self.json:
            click.echo(harmless(text), err=True)

    def put(self, result: str) -> None:
        """Write a line of the result."""
        _write(harmless(result))

    def line(self, record: Record) -> None:
        """Write a record as a line of JSON."""
        _write(_as_json(record))

    def show(self, records: Iterator[Record]) -> tuple[Summary, int]:
        """Write what an operation yields, and return its summary and the exit code."""
        from contextlib import closing

        import msgspec

        from craftkit_archive.records import Plan, Progress, Summary
        from craftkit_archive.work import show_progress

        summary, told = None, 0
        with closing(records):  # type: ignore[type-var]
            for record in show_progress(records, mode="none" if self.quiet else self.progress):
                match record:
                    case Summary():
                        summary = record
                    case Plan() | Progress():
                        pass
                    case _:
                        told += self._show_one(record, told)
        if told > SHOWN and not self.verbose:
            self.say(f"  … and {told - SHOWN} more: -v shows them all, --json too.")
        if summary is None:
            raise RuntimeError("An operation ended without a summary.")
        code = self.stop.exit_code if summary.outcome == "interrupted" else OUTCOMES[summary.outcome]
        return msgspec.structs.replace(summary, exit_code=code), code

    def _show_one(self, record: Record, told: int) -> int:
        """Write one record; problems are told to people up to a number. Return how many were told."""
        from craftkit_archive.records import Finding, Note, Reject, Skipped
        from craftkit_archive.reporting import as_text

        problem = isinstance(record, (Finding, Note, Reject, Skipped))
        if self.json:
            self.line(record)
        elif not problem:
            self.put(as_text(record))
        elif told < SHOWN or self.verbose:
            self.say(as_text(record))
        return problem

    def finish(self, records: Iterator[Record]) -> int:
        """Write what an operation yields and how it ended, and return the exit code."""
        summary, code = self.show(records)
        self.close(summary)
        return code

    def close(self, summary: Summary) -> None:
        """Write the last line."""
        from craftkit_archive.reporting import as_text

        if self.json:
            self.line(summary)
        else:
            self.say(as_text(summary))


def _as_json(record: object) -> str:
    """Write a record as JSON; what is not Unicode in it, such as the name of a file, is escaped."""
    import msgspec

    try:
        return msgspec.json.encode(record).decode()
    except UnicodeEncodeError:
        return msgspec.json.encode(_valid(msgspec.to_builtins(record))).decode()


def _valid(value: Any) -> Any:
    if isinstance(value, str):
        return valid_text(value)
    if isinstance(value, list):
        return [_valid(part) for part in value]
    return {_valid(name): _valid(part) for name, part in value.items()} if isinstance(value, dict) else value


def _write(text: str) -> None:
    with _stdout() as out:
        click.echo(text, out)


@contextmanager
def _stdout() -> Iterator[TextIO]:
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        raise OutputError(f"Standard output cannot be written ({error.strerror}).") from error


class Commands(click.Group):
    """The group of all commands; the one place where errors become exit codes."""

    def main(self, args: Any = None, prog_name: str | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Run a command and exit with its code, which is one of the table."""
        given = list(sys.argv[1:] if args is None else args)
        # Workers would import this program anew before they begin, for nothing.
        vars(sys.modules["__main__"]).pop("__file__", None)
        _open_streams()
        with Signals() as signals:
            extra.update(standalone_mode=False, obj=signals)
            stopped = KeyboardInterrupt("Stopped at once; what was recorded until then stays.")
            signals.at_last = lambda: self._fail(given, stopped, signals.exit_code)
            try:
                code = super().main(given, prog_name, **extra) or OK
            except click.ClickException as error:
                code = self._fail(given, error, USAGE)
            except errors.ArchiveError as error:
                code = self._fail(given, error, EXIT_CODES[type(error)])
            except (KeyboardInterrupt, click.Abort):
                code = self._fail(given, stopped, signals.exit_code)
                if signals.first:
                    _leave(code)
            except OutputError as error:
                code = EXIT_CODES[errors.NotWritableError]
                click.echo(f"craftkit-archive: {error}", err=True)
                # Python would write to it once more at its end.
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            except Exception as error:  # noqa: BLE001 - the last edge: whatever it is, it is a bug of ours
                code = self._fail_unforeseen(given, error)
        work = sys.modules.get("craftkit_archive.work")
        if work is not None and work.has_given_up():
            _leave(code)
        sys.exit(code)

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
                click.echo(_as_json(line))
        elif isinstance(error, click.ClickException):
            error.show()
        else:
            click.echo(f"craftkit-archive: {harmless(str(error))}", err=True)
        return code

    def _named(self, given: list[str]) -> str | None:
        """Find the words of the command among the arguments."""
        names: list[str] = []
        group: click.Command = self
        words = iter(given)
        for word in words:
            if word in ("--archive", "--progress"):
                next(words, None)
            elif isinstance(group, click.Group) and word in group.commands:
                names.append(word)
                group = group.commands[word]
        return " ".join(names) or None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _open_streams() -> None:
    """Give the program the three streams that it may have been started without, and make them take any text."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number: nothing that is opened later may be taken for a stream.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if number == 0 else "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


EPILOG = "\b\nExit codes:\n" + "\n".join(f"{code:>5}  {words}" for code, words in EXIT_CODE_WORDS.items())


@click.group(cls=Commands, epilog=EPILOG, context_settings={"max_content_width": 120})
@click.version_option(__version__, message="craftkit-archive %(version)s")
@click.option(
    "--archive",
    type=click.Path(path_type=Path, file_okay=False, readable=False),
    default=Path("data"),
    envvar="CRAFTKIT_ARCHIVE",
    show_default=True,
    show_envvar=True,
    help="The archive's directory.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout; the last is the summary.")
@click.option(
    "--progress",
    type=click.Choice(["auto", "bar", "plain", "none"]),
    default="auto",
    show_default=True,
    help="How progress is shown on stderr; auto: a bar on a terminal, a line now and then elsewhere.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but results and errors.")
@click.option("-v", "--verbose", is_flag=True, help="Show every finding, reject and skipped asset.")
@click.pass_context
def main(
    context: click.Context, archive: Path, as_json: bool, progress: ProgressMode, quiet: bool, verbose: bool
) -> None:
    """Keep, check, export and serve the PDFs of a Craftkit project, outside Craftkit."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise errors.RequestError("The current directory is gone: change to another one.") from error
    context.obj = Console(archive, context.obj, as_json=as_json, progress=progress, quiet=quiet, verbose=verbose)


def _open(console: Console, *, read_only: bool = False, sealed: bool = False) -> Archive:
    from craftkit_archive.archive import Archive

    return Archive(console.archive, read_only=read_only, sealed=sealed)


class Parsed(click.ParamType[Any]):
    """An option's value that one of the library's own readers understands."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it; what is none is a usage error."""
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


SIZE = Parsed("SIZE", parse_size)
DURATION = Parsed("DURATION", parse_duration)
SHARE = Parsed("SHARE", parse_share)


def _jobs(context: click.Context, _parameter: click.Parameter, value: int | None) -> int:
    from craftkit_archive.work import default_jobs

    return value or default_jobs()


def _addresses(_context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> frozenset[str]:
    from server.addresses import TrustedProxies

    try:
        TrustedProxies(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}: write 127.0.0.1, ::1, 10.0.0.0/8 or unix.") from error
    return frozenset(value)


def _hosts(_context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> frozenset[str]:
    from server.addresses import is_host

    for host in value:
        if not is_host(host):
            raise click.BadParameter(f"{host!r} is not a host: write pdfs.example.org or pdfs.example.org:8443.")
    return frozenset(host.lower() for host in value)


def _url(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    from urllib.parse import urlsplit

    from server.addresses import is_host

    try:
        parts = urlsplit(value or "http://x")
        good = parts.scheme in ("http", "https") and is_host(parts.netloc) and not (parts.query or parts.fragment)
    except ValueError:
        good = False
    if not good:
        raise click.BadParameter(f"{value!r} is not a URL such as https://pdfs.example.org.")
    return value


def _origins(_context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> frozenset[str]:
    for origin in value:
        if origin not in ("*", "null") and (not _url(_context, _parameter, origin) or origin.count("/") != 2):
            raise click.BadParameter(f"{origin!r} is not an origin such as https://app.example.org, or *.")
    return frozenset(value)


def _selecting(*, until: bool = True) -> Callable[[Any], Any]:
    """Add the options that select renders."""

    def add(command: Any) -> Any:
        if until:
            command = click.option("--until", metavar="TIME", help="Only renders made before; a date: up to its end.")(
                command
            )
        command = click.option(
            "--since", metavar="TIME", help="Only renders made at or after 2026-01-31 or a full time."
        )(command)
        return click.option("--project", "projects", multiple=True, help="Only this project (id or slug); repeatable.")(
            command
        )

    return add


_jobs_option = click.option(
    "--jobs", type=click.IntRange(1, 64), callback=_jobs, help="Worker processes.  [default: one a processor]"
)
_ids_option = click.option(
    "--ids",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Only the renders whose ids stand in FILE, one a line.",
)
_dry_run_option = click.option("--dry-run", is_flag=True, help="Change nothing; print what would be done.")


def _service_options(command: Any) -> Any:
    """Add the options that say which S3 service a bucket is at."""
    for name, metavar, words in (
        ("--profile", "NAME", "For a bucket: the profile of the AWS files to take."),
        ("--region", "NAME", "For a bucket: its region."),
        ("--endpoint-url", "URL", "For a bucket: the service, if it is not AWS."),
    ):
        command = click.option(name, metavar=metavar, help=words)(command)
    words = "For a public bucket: ask without credentials."
    return click.option("--no-sign-request", flag_value="true", default=None, help=words)(command)


def _place(address: str, **service: str | None) -> str:
    """Join an address and the service that it is at."""
    given = {name: value for name, value in service.items() if value is not None}
    if not given:
        return address
    from craftkit_archive.bucket import bucket_address

    return bucket_address(address, **given)


def _source(address: str, **service: str | None) -> str:
    if not address:  # a path would take it for the current directory
        raise errors.RequestError("SOURCE is empty: name a folder, s3://bucket/prefix, or https://host.")
    return _place(address, **service)


@main.command()
@click.option(
    "--store",
    default="assets",
    show_default=True,
    help="Where the assets are: a folder, relative to the archive, or a bucket (s3://, gs:// or az://bucket/prefix).",
)
@_service_options
@click.pass_obj
def init(
    console: Console,
    store: str,
    endpoint_url: str | None,
    region: str | None,
    profile: str | None,
    no_sign_request: str | None,
) -> int:
    """Make an empty archive.

    A store that holds PDFs already, such as a mirror of the bucket, is taken over as it is: after the import of their
    metadata, `fetch` without a source checks and records them without copying a byte.
    """
    from craftkit_archive.archive import Archive
    from craftkit_archive.records import Summary

    store = _place(store, endpoint_url=endpoint_url, region=region, profile=profile, no_sign_request=no_sign_request)
    with Archive.create(console.archive, store_address=store) as archive:
        details = {"archive": str(archive.path), "archive_id": archive.id, "store": archive.store.address}
    console.say(f"Made an archive in {console.archive}, with its assets in {details['store']}.")
    console.close(Summary(command="init", outcome="ok", details=details))
    return OK


class Metadata(click.Path):
    """A file of records, or the address of a database."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Leave an address as it is, and look whether a file is there."""
        return value if DATABASE_SCHEME.match(value) else super().convert(value, param, ctx)


@main.command("import")
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
    help="What the files are; text: of Postgres's COPY; dump: of pg_dump.  [default: as their content says]",
)
@click.option(
    "--null",
    metavar="TEXT",
    help="What stands for null in a table where it is not quoted.  [default: an empty cell]",
)
@click.option("--project", metavar="ID", help="The project of records that name none, as in a log of webhooks.")
@click.option(
    "--on-duplicate",
    type=click.Choice(["update", "skip", "fail"]),
    default="update",
    show_default=True,
    help="What becomes of a record whose id is there already. update: the fields that it gives replace the old ones,"
    " but a render's status never goes back, an older record only adds what is missing, and a revoked key never comes"
    " back to life, whatever the file says; skip: the old one stays as it is; fail: the new one is refused.",
)
@click.option("--all-or-nothing", is_flag=True, help="One refused record keeps all of them out.")
@click.option(
    "--rejects", type=click.Path(path_type=Path, dir_okay=False), help="Write refused records here, as NDJSON."
)
@_dry_run_option
@click.pass_obj
def import_(
    console: Console,
    kind: Kind,
    sources: tuple[str, ...],
    table: str | None,
    where: str | None,
    form: Form | None,
    null: str | None,
    project: str | None,
    on_duplicate: OnDuplicate,
    all_or_nothing: bool,
    rejects: Path | None,
    dry_run: bool,
) -> int:
    """Bring metadata into the catalog, from Craftkit's database or from files.

    SOURCE is a database (postgresql://user@host:5432/database), a file, or - for standard input.

    A database is read in a read-only transaction. What the address leaves out comes from the environment and
    ~/.pgpass, as for psql. Give the password as PGPASSWORD or in ~/.pgpass: other users of the machine can see a
    command's arguments. It is never printed or recorded. Needs pip install 'craftkit-archive[postgres]'.

    A file is JSON (an array, objects, objects that wrap a list), NDJSON, CSV or TSV with a header, Postgres's text
    format with a header, or a dump of pg_dump (plain, without --inserts), each also gzipped; its content says which.
    What could be read in two ways is refused as a whole, with the option that says which.

    In CSV, "" is the empty text and an empty cell is null, as Postgres writes them. camelCase and snake_case names mean
    the same. Importing twice changes nothing. Plain keys are hashed while they are read and never stored. The file of
    rejects, once corrected, can be imported as it is.
    """
    from craftkit_archive.importing import import_records, keep_rejects

    if rejects is not None:
        inputs = {os.path.realpath(source) for source in sources if source != "-"}
        if os.path.realpath(rejects) in inputs or rejects.resolve().parent == console.archive.resolve():
            raise errors.RequestError(f"{rejects} is an input or part of the archive: name another file for rejects.")
    with _open(console) as archive:
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


@main.command()
@click.argument("source", required=False)
@_selecting(until=False)
@_ids_option
@click.option("--limit", type=click.IntRange(min=1), help="At most so many assets.")
@click.option("--bwlimit", type=SIZE, help="Read at most so many bytes a second, such as 5M.")
@click.option("--ignore-etag", is_flag=True, help="For a bucket whose ETags look like MD5s and are something else.")
@click.option("--accept-odd", is_flag=True, help="Store odd bytes too, though nothing vouches for them.")
@_service_options
@_jobs_option
@_dry_run_option
@click.pass_obj
def fetch(
    console: Console,
    source: str | None,
    projects: tuple[str, ...],
    since: str | None,
    ids: Path | None,
    limit: int | None,
    bwlimit: int | None,
    ignore_etag: bool,
    accept_odd: bool,
    endpoint_url: str | None,
    region: str | None,
    profile: str | None,
    no_sign_request: str | None,
    jobs: int,
    dry_run: bool,
) -> int:
    """Copy what is missing from SOURCE, and check it on arrival.

    SOURCE is a folder that mirrors the bucket, the bucket itself (s3://, gs:// or az://bucket/prefix), or a live API
    (https://host), which is asked with the key in CRAFTKIT_API_KEY, and with --ids also for renders that the catalog
    does not have. Without SOURCE, what lies in the archive's own store already is checked and recorded where it lies.

    What does not look like a whole PDF is stored if something vouches for it: a digest in the metadata, an ETag or a
    checksum of the service. A note then says what is odd. If nothing does, it is refused unless --accept-odd is given.

    Whatever interrupts it, the next fetch does the rest.
    """
    from craftkit_archive.fetching import fetch_assets

    if source is not None:
        source = _source(
            source, endpoint_url=endpoint_url, region=region, profile=profile, no_sign_request=no_sign_request
        )
    with _open(console) as archive:
        selection = archive.select(projects=projects, since=since, ids=ids)
        return console.finish(
            fetch_assets(
                archive,
                source,
                selection=selection,
                limit=limit,
                jobs=jobs,
                bytes_per_second=bwlimit,
                ignore_etag=ignore_etag,
                accept_odd=accept_odd,
                dry_run=dry_run,
                stop=console.stop,
            )
        )


@main.command()
@click.option(
    "--level",
    type=click.Choice(["size", "digest", "pdf"]),
    default="digest",
    show_default=True,
    help="size: lengths alone; digest: every byte; pdf: every byte, and whether it opens, its pages and its streams.",
)
@click.option("--due", metavar="AGE", type=DURATION, help="What was not checked for AGE (30d), or never, or was bad.")
@click.option("--new", is_flag=True, help="What was never checked.")
@click.option("--failed", is_flag=True, help="What was bad when it was last checked.")
@click.option("--project", "projects", multiple=True, help="Only this project (id or slug); repeatable.")
@_ids_option
@click.option("--sample", metavar="SHARE", type=SHARE, help="Only a part, such as 5%, drawn anew for each run.")
@click.option("--time-limit", metavar="DURATION", type=DURATION, help="Stop after 2h, say; the next --due goes on.")
@click.option("--max-bytes", metavar="SIZE", type=SIZE, help="Stop after reading 50GiB, say.")
@_jobs_option
@click.option(
    "--report",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a report too: .html, .csv, .xml (JUnit), .prom (Prometheus), .ndjson or .txt.",
)
@click.pass_obj
def verify(
    console: Console,
    level: Any,
    due: int | None,
    new: bool,
    failed: bool,
    projects: tuple[str, ...],
    ids: Path | None,
    sample: float | None,
    time_limit: int | None,
    max_bytes: int | None,
    jobs: int,
    report: Path | None,
) -> int:
    """Check stored assets against what is recorded of them, and write down what was seen.

    With --due, --new and --failed together: what any of them names. Never checked ones come first, then what was bad,
    then the oldest. What was read counts, whatever stops the rest. Files in the store that no render claims are told
    when everything is checked, and change no exit code.
    """
    from craftkit_archive.verifying import Limits, Scope, verify_assets

    if report:
        from craftkit_archive.reporting import form_of, gather_report, write_report

    form = form_of(report) if report else None
    with _open(console) as archive:
        records = verify_assets(
            archive,
            level=level,
            selection=archive.select(projects=projects, ids=ids),
            scope=Scope(new, failed, due, sample),
            limits=Limits(time_limit, max_bytes),
            jobs=jobs,
            stop=console.stop,
        )
        summary, code = console.show(records)
        if report and form:
            write_report(gather_report(archive, summary.run_id), form, report)
        console.close(summary)
        return code


@main.command()
@click.argument("target", metavar="DEST")
@click.option(
    "--format",
    "form",
    type=click.Choice(["dir", "zip", "tar", "bagit"]),
    help="What to make; bagit is packed if DEST ends in .zip or .tar.  [default: as the end of DEST says, or dir]",
)
@_selecting()
@click.option("--template", metavar="ID", help="Only renders of this template.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice(["queued", "rendering", "succeeded", "failed", "cancelled"]),
    help="Only renders of this status; repeatable.  [default: succeeded; with --ids, any]",
)
@_ids_option
@click.option(
    "--name",
    metavar="TEMPLATE",
    default="{project_slug}/{created:%Y}/{created:%m}/{id}.pdf",
    show_default=True,
    help="How PDFs are named. Fields: id, template_id, status, created, completed, project_id, project_slug,"
    " project_name; times take a format of %Y %m %d %H %M %S.",
)
@click.option("--link", is_flag=True, help="Make hard links to the store's files; only sizes are compared.")
@click.option("--verify-links", is_flag=True, help="With --link: read and compare every byte all the same.")
@click.option("--prune", is_flag=True, help="Remove what earlier exports wrote and the selection no longer has.")
@click.option("--split-size", type=SIZE, help="Make numbered volumes of at most this size, each complete in itself.")
@click.option(
    "--bag-info", multiple=True, metavar="KEY=VALUE", help="A line for bag-info.txt, such as Contact-Name; repeatable."
)
@click.option("--sync", is_flag=True, help="Bring everything from memory to the disk before the end.")
@_service_options
@_jobs_option
@_dry_run_option
@click.pass_obj
def export(
    console: Console,
    target: str,
    form: ExportForm | None,
    projects: tuple[str, ...],
    since: str | None,
    until: str | None,
    template: str | None,
    statuses: tuple[str, ...],
    ids: Path | None,
    name: str,
    link: bool,
    verify_links: bool,
    prune: bool,
    split_size: int | None,
    bag_info: tuple[str, ...],
    sync: bool,
    endpoint_url: str | None,
    region: str | None,
    profile: str | None,
    no_sign_request: str | None,
    jobs: int,
    dry_run: bool,
) -> int:
    """Copy PDFs to DEST, each compared with its digest on its way: a folder, a zip, a tar or a bag that proves itself.

    DEST is a folder, a file that ends in .zip or .tar, - for standard output, or s3://bucket/prefix. It gets a
    manifest for `sha256sum -c`, index.csv, index.html to browse it, and seal.txt; what is lacking stands in
    missing.csv. A repeated export into a folder leaves unchanged files untouched and does the rest; what earlier
    exports wrote there stays in the lists, unless it is pruned.
    """
    from craftkit_archive.bag import parse_info
    from craftkit_archive.destination import Options
    from craftkit_archive.exporting import export_assets

    if target == "-" and not dry_run and (console.json or os.isatty(1)):
        taken = "--json writes there" if console.json else "it is a terminal"
        raise errors.RequestError(f"Standard output cannot take the export: {taken}. Name a file, or pipe it.")
    target = _place(target, endpoint_url=endpoint_url, region=region, profile=profile, no_sign_request=no_sign_request)
    options = Options(
        form=form,
        name=name,
        link=link,
        verify_links=verify_links,
        prune=prune,
        split_bytes=split_size,
        bag_info=tuple(map(parse_info, bag_info)),
        sync=sync,
    )
    with _open(console, read_only=True) as archive:
        selection = archive.select(
            projects=projects, since=since, until=until, template_id=template, ids=ids, statuses=statuses
        )
        return console.finish(
            export_assets(
                archive, target, selection=selection, options=options, jobs=jobs, dry_run=dry_run, stop=console.stop
            )
        )


@main.command("export-check")
@click.argument("path", type=click.Path(path_type=Path))
@_jobs_option
@click.pass_obj
def export_check(console: Console, path: Path, jobs: int) -> int:
    """Check an export without an archive: every file, every digest, nothing besides, and the seal.

    PATH is a folder, a .zip or a .tar (also .tar.gz, .tar.bz2, .tar.xz), whoever made it: a BagIt bag, or files with a
    manifest such as manifest-sha256.txt or SHA256SUMS. Files that a bag leaves to be fetched are reported, not fetched.
    """
    from craftkit_archive.checking import check_export

    return console.finish(check_export(path, jobs=jobs, stop=console.stop))


@main.command()
@click.argument("source")
@_selecting(until=False)
@_ids_option
@_service_options
@_dry_run_option
@click.pass_obj
def repair(
    console: Console,
    source: str,
    projects: tuple[str, ...],
    since: str | None,
    ids: Path | None,
    endpoint_url: str | None,
    region: str | None,
    profile: str | None,
    no_sign_request: str | None,
    dry_run: bool,
) -> int:
    """Replace what the last verify found damaged or missing by right copies from SOURCE.

    SOURCE is what it is for fetch, or an export: a folder, zip, tar or bag. A copy is taken only if its digest is the
    recorded one; what it replaces is kept in quarantine/.
    """
    from craftkit_archive.repairing import repair_assets

    source = _source(source, endpoint_url=endpoint_url, region=region, profile=profile, no_sign_request=no_sign_request)
    with _open(console) as archive:
        selection = archive.select(projects=projects, since=since, ids=ids)
        return console.finish(repair_assets(archive, source, selection=selection, dry_run=dry_run, stop=console.stop))


@main.group()
def quarantine() -> None:
    """Look at damaged copies that repairs took out of the store."""


@quarantine.command("list")
@click.pass_obj
def quarantine_list(console: Console) -> int:
    """List what is held: name, verdict, size, time."""
    from craftkit_archive.repairing import list_quarantine

    with _open(console, read_only=True) as archive:
        return console.finish(list_quarantine(archive))


@quarantine.command("restore")
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@click.pass_obj
def quarantine_restore(console: Console, names: tuple[str, ...]) -> int:
    """Put copies back: one that is right after all in place of what is wrong, any where there is nothing."""
    from craftkit_archive.repairing import restore_quarantined

    with _open(console) as archive:
        return console.finish(restore_quarantined(archive, names))


@quarantine.command("drop")
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Even if the asset in the store is not good.")
@click.pass_obj
def quarantine_drop(console: Console, names: tuple[str, ...], force: bool) -> int:
    """Delete copies whose assets are good again."""
    from craftkit_archive.repairing import drop_quarantined

    with _open(console) as archive:
        return console.finish(drop_quarantined(archive, names, force=force))


@main.command()
@click.option("--projects", multiple=True, type=click.Path(exists=True, dir_okay=False), help="A file; repeatable.")
@click.option("--keys", "key_files", multiple=True, type=click.Path(exists=True, dir_okay=False), help="The same.")
@click.option("--renders", multiple=True, type=click.Path(exists=True, dir_okay=False), help="The same.")
@click.option("--store", default="assets", show_default=True, help="Where the assets are, as `init` was told.")
@_service_options
@_jobs_option
@click.pass_obj
def rebuild(
    console: Console,
    projects: tuple[str, ...],
    key_files: tuple[str, ...],
    renders: tuple[str, ...],
    store: str,
    endpoint_url: str | None,
    region: str | None,
    profile: str | None,
    no_sign_request: str | None,
    jobs: int,
) -> int:
    """Make a lost catalog again, from the store and the files of metadata, and say what cannot be known any more."""
    from craftkit_archive.rebuilding import LOST, rebuild_archive

    store = _place(store, endpoint_url=endpoint_url, region=region, profile=profile, no_sign_request=no_sign_request)
    files: dict[Kind, tuple[str, ...]] = {"projects": projects, "keys": key_files, "renders": renders}
    code = console.finish(rebuild_archive(console.archive, files, store_address=store, jobs=jobs, stop=console.stop))
    console.say("What cannot be known any more: " + "; ".join(LOST) + ".")
    return code


def _address(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, int] | None:
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise click.BadParameter(f"{value!r} is not HOST:PORT, such as {LISTEN} or [::1]:8080.")
    return host.strip("[]"), int(port)


def _listen_option(default: str) -> Callable[[Any], Any]:
    return click.option(
        "--listen",
        metavar="HOST:PORT",
        default=default,
        show_default=True,
        callback=_address,
        help="Where to listen; port 0 takes a free one.",
    )


@main.command()
@click.option(
    "--listen",
    "addresses",
    metavar="ADDRESS",
    default=(LISTEN,),
    show_default=LISTEN,
    multiple=True,
    help="Where to listen: HOST:PORT (port 0 takes a free one), unix:/path, or fd:3 for systemd's socket; repeatable.",
)
@click.option(
    "--workers", type=click.IntRange(1, 64), callback=_jobs, help="Processes that answer.  [default: one a processor]"
)
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    help="In each process: how many requests that take long are worked on at a time.",
)
@click.option(
    "--public-url",
    metavar="URL",
    callback=_url,
    help="The URL under which clients reach this server.  [default: as each request says]",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    metavar="HOST",
    multiple=True,
    callback=_hosts,
    help="A host that requests may name as this server's own, in place of the public URL; repeatable.",
)
@click.option(
    "--s3-public-url",
    metavar="URL",
    envvar="S3_PUBLIC_URL",
    show_envvar=True,
    help="The URL under which clients reach the bucket.",
)
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    metavar="NETWORK",
    multiple=True,
    callback=_addresses,
    help="A proxy in front (127.0.0.1, 10.0.0.0/8, or unix for a Unix socket) whose X-Forwarded-For, -Proto and -Host,"
    " or Forwarded, are believed; repeatable.",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    metavar="ORIGIN",
    multiple=True,
    callback=_origins,
    help="An origin whose scripts may read answers in a browser, or * for all; repeatable.  [default: none]",
)
@click.option(
    "--metrics",
    metavar="HOST:PORT",
    callback=_address,
    help="Where Prometheus finds /metrics, without a key.  [default: nowhere]",
)
@click.option(
    "--verify-reads",
    type=click.Choice(["always", "size", "never"]),
    default="always",
    show_default=True,
    help="What of a PDF is compared with the record before its first byte is sent: every byte, its size, nothing.",
)
@click.option(
    "--max-buffer",
    type=SIZE,
    default="64MiB",
    show_default=True,
    help="In each process: memory for PDFs above 256 KiB while they are sent; for more, they are read twice.",
)
@click.option(
    "--access-log",
    metavar="FILE",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Append a line for each answer to this file or pipe, or - for standard output; opened again on SIGHUP.",
)
@click.option(
    "--access-log-format",
    "log_format",
    type=click.Choice(["json", "combined"]),
    default="json",
    show_default=True,
    help="The form of a line: an object of JSON, or Apache's combined format.",
)
@click.option("--sealed", is_flag=True, help="The archive never changes, as on read-only media: write nothing to it.")
@click.pass_obj
def serve(
    console: Console,
    addresses: tuple[str, ...],
    workers: int,
    threads: int,
    public_url: str | None,
    allowed_hosts: frozenset[str],
    s3_public_url: str | None,
    trusted_proxies: frozenset[str],
    cors_origins: frozenset[str],
    metrics: tuple[str, int] | None,
    verify_reads: VerifyReads,
    max_buffer: int,
    access_log: str | None,
    log_format: LogFormat,
    sealed: bool,
) -> int:
    """Serve GET /v1/renders/:id/download and its companions, as Craftkit does, to whoever has a key.

    At / there is a page for people: it asks for a key, lists the renders of its project, and opens their PDFs.
    """
    from server.access_log import AccessLog
    from server.app import Settings
    from server.serve import Plan, listen, supervised, url_of

    with _open(console, read_only=True, sealed=sealed) as archive:
        archive.store.check(archive.id)
    if access_log is not None:
        AccessLog(access_log).close()
    listeners = [listen(address) for address in addresses]
    urls = [url_of(listener) for listener in listeners]
    settings = Settings(
        public_url=public_url,
        allowed_hosts=allowed_hosts,
        s3_public_url=s3_public_url,
        listen_url=f"http://{min(allowed_hosts)}" if allowed_hosts else urls[0],
        verify_reads=verify_reads,
        max_buffer_bytes=max_buffer,
        trusted_proxies=trusted_proxies,
        cors_origins=cors_origins,
        log_folder=Path(access_log).absolute().parent if access_log not in (None, "-") else None,
    )
    plan = Plan(console.archive, settings, threads, access_log, log_format, sealed, console.quiet, metrics)
    with supervised(plan, listeners, workers) as (supervisor, metrics_url):
        _wait(console, urls, supervisor.restart_dead, metrics_url)
    return _served(console, "serve")


@contextmanager
def _serving(console: Console, address: tuple[str, int]) -> Iterator[socket.socket]:
    from server.app import Settings, create_app
    from server.serve import bind, running, url_of

    with _open(console, read_only=True) as archive:
        archive.store.check(archive.id)
        listener = bind(*address)
        with running(create_app(archive, Settings(listen_url=url_of(listener))), listener):
            yield listener


def _wait(
    console: Console, urls: list[str], meanwhile: Callable[[], None] = lambda: None, metrics_url: str | None = None
) -> None:
    if console.json:
        import msgspec

        told = {"type": "listening", "url": urls[0], "urls": urls, "metrics": metrics_url}
        _write(msgspec.json.encode(told).decode())
    console.say(f"Listening on {', '.join(urls)}; Ctrl-C ends it.")
    if metrics_url:
        console.say(f"Metrics are at {metrics_url}.")
    while not console.stop():
        meanwhile()
        time.sleep(0.1)


def _served(console: Console, command: str) -> int:
    from craftkit_archive.records import Summary

    code = console.stop.exit_code
    console.close(Summary(command=command, outcome="interrupted", exit_code=code))
    return code


@main.group()
def keys() -> None:
    """Manage the API keys that this archive accepts."""


def _show_keys(console: Console, command: str, shown: list[KeyInfo]) -> int:
    from craftkit_archive.records import Summary
    from craftkit_archive.reporting import as_text

    for key in shown:
        if console.json:
            console.line(key)
        else:
            console.put(key.key or as_text(key))
    console.close(Summary(command=command, outcome="ok", counts={"keys": len(shown)}))
    return OK


@keys.command("list")
@click.option("--project", help="Only this project's (id or slug).")
@click.pass_obj
def list_keys(console: Console, project: str | None) -> int:
    """List keys: id, project, prefix, state, name. The keys themselves are known to nobody."""
    with _open(console, read_only=True) as archive:
        return _show_keys(console, "keys list", archive.list_keys(project))


@keys.command("create")
@click.option("--project", required=True, help="Id or slug.")
@click.option("--name", help="What people call it.")
@click.option("--test", is_flag=True, help="Make a ck_test_ key.")
@click.pass_obj
def create_key(console: Console, project: str, name: str | None, test: bool) -> int:
    """Make a key and print it, this once."""
    with _open(console) as archive:
        key = archive.create_key(project, name=name, test=test)
        console.say(f"This is the only time that key {key.id} is shown: keep it now.")
        try:
            return _show_keys(console, "keys create", [key])
        except OutputError as error:
            archive.revoke_key(key.id)
            raise OutputError(f"{error} Nobody saw the new key, so it was revoked.") from error


@keys.command("revoke")
@click.argument("key", metavar="KEY")
@click.pass_obj
def revoke_key(console: Console, key: str) -> int:
    """Revoke a key; it stops working with the next request.

    KEY is its id, the key itself, as it was leaked, or its beginning: 12 characters or more.
    """
    with _open(console) as archive:
        revoked = archive.revoke_key(key)
        console.say(f"Revoked key {revoked.id}: {_MATCHED[revoked.matched or 'id']}.")
        return _show_keys(console, "keys revoke", [revoked])


_MATCHED = {
    "id": "it has this id",
    "hash": "its hash is the SHA-256 of the key that was given",
    "prefix": "it begins as what was given does, and nothing more of it is known to compare",
}


@main.command()
@click.option(
    "--nagios", is_flag=True, help="One line for a monitor; exits with 0 OK, 1 warning, 2 critical or 3 unknown."
)
@click.pass_obj
def status(console: Console, nagios: bool) -> int:
    """Say what the archive holds, how much of it was read of late, and what was last done to it.

    For a monitor, bad PDFs are critical; a warning is what could not be compared, less than 95 % read within the days
    of the last verification's --due (30 if it had none), or no verification for 48 hours.
    """
    from craftkit_archive.reporting import describe_archive, nagios_status

    if nagios:
        try:
            with _open(console, read_only=True) as archive:
                code, line = nagios_status(archive)
        except errors.ArchiveError as error:
            code, line = 3, f"CRAFTKIT-ARCHIVE UNKNOWN - {error}"
        console.put(line)
        return code
    with _open(console, read_only=True) as archive:
        return console.finish(describe_archive(archive))


@main.command()
@click.argument("run", type=click.IntRange(1), required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "ndjson", "csv", "junit", "prometheus", "html"]),
    help="What to write.  [default: as FILE's suffix says, or text]",
)
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Write here, not to stdout."
)
@click.pass_obj
def report(console: Console, run: int | None, form: Any, output: Path | None) -> int:
    """Write the report of a verification again, the last one or that of number RUN. Nothing is read but the catalog.

    A file is replaced when the new one is whole, as Prometheus' textfile collector needs it. Its suffix says the form:
    .txt, .ndjson, .csv, .xml (JUnit), .prom (Prometheus), .html.
    """
    from craftkit_archive.records import Summary
    from craftkit_archive.reporting import WRITERS, form_of, gather_report, write_report

    with _open(console, read_only=True) as archive:
        gathered = gather_report(archive, run)
        if output:
            write_report(gathered, form or form_of(output), output)
        else:
            with _stdout() as out:
                WRITERS[form or ("ndjson" if console.json else "text")](gathered, out)
    details = {"run": gathered.run.id, "file": str(output) if output else None}
    summary = Summary(command="report", outcome="ok", details=details)
    if console.json:
        console.close(summary)
    return OK


@main.command()
@click.option("--project", help="Only this project's (id or slug).")
@click.option("--check", metavar="HEX", help="Compare it with one that was written down; 1 if it is another.")
@click.pass_obj
def seal(console: Console, project: str | None, check: str | None) -> int:
    """Print the seal: one SHA-256 over the digests and keys of all stored PDFs.

    It is what `sha256sum` of the assets, sorted by LC_ALL=C sort, has as its own sha256sum. Nothing is read but the
    catalog: after a verify it stands for the files too.
    """
    from craftkit_archive.reporting import seal_archive

    with _open(console, read_only=True) as archive:
        summary, code = console.show(seal_archive(archive, project=project, expected=check))
        if not console.json:
            console.put(summary.details["seal"])
        console.close(summary)
        return code


@main.command()
@click.pass_obj
def doctor(console: Console) -> int:
    """Look whether this set-up is sound: each line is good, or says how to mend it. Changes nothing."""
    from craftkit_archive.doctor import examine_archive

    with _open(console, read_only=True) as archive:
        return console.finish(examine_archive(archive))


@main.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def backup(console: Console, file: Path) -> int:
    """Write a consistent copy of the catalog to FILE, whatever other commands do meanwhile.

    To restore it, put it in the place of archive.db while no command runs, and remove archive.db-wal and -shm.
    """
    from craftkit_archive.records import Summary

    with _open(console, read_only=True) as archive:
        size = archive.catalog.back_up(file)
    details = {"file": str(file), "size_bytes": size}
    console.say(f"Wrote {file}: {size:,} bytes.")
    console.close(Summary(command="backup", outcome="ok", details=details))
    return OK


@main.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--once", is_flag=True, help="Download one PDF from itself and stop, instead of serving on.")
@_listen_option("127.0.0.1:0")
@click.pass_obj
def quickstart(console: Console, directory: Path, once: bool, listen: tuple[str, int]) -> int:
    """See it all at work: make an archive, import, fetch, verify and export DIR, then serve it.

    DIR holds projects, keys and renders (.json or .ndjson) and the PDFs in bucket/. It can be run again. What the
    bucket lacks is told, and is no failure here.
    """
    from craftkit_archive.archive import CATALOG, Archive
    from craftkit_archive.quickstart import choose_download, download, quickstart_steps
    from craftkit_archive.records import Summary
    from craftkit_archive.work import default_jobs
    from server.serve import url_of

    if not (console.archive / CATALOG).exists():
        Archive.create(console.archive).catalog.close()
    worst = OK
    with _open(console) as archive:
        export_to = console.archive / "export"
        for title, records in quickstart_steps(archive, directory, export_to, jobs=default_jobs(), stop=console.stop):
            console.say(title)
            summary, code = console.show(records)
            console.close(summary)
            if console.stop():
                return code
            if code != OUTCOMES["incomplete"]:
                worst = max(worst, code)
        asset, key = choose_download(archive)
    with _serving(console, listen) as listener:
        url = f"{url_of(listener)}/v1/renders/{asset.render_id}/download"
        if once:
            size = download(url, key, asset)
            console.say(f"Downloaded {url}: {size} bytes, whose digest is the recorded one.")
        else:
            console.say("Download one with:")
            curl = f"curl --fail --output sample.pdf --header 'Authorization: Bearer {key.key}' {url}"
            click.echo(curl, err=console.json)
            _wait(console, [url_of(listener)])
    if not once:
        return _served(console, "quickstart")
    outcome = next(name for name, code in OUTCOMES.items() if code == worst)
    console.close(Summary(command="quickstart", outcome=outcome, exit_code=worst, counts={"downloaded": 1}))
    return worst
