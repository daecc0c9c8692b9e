"""The command line: words to calls, records to lines, errors to exit codes."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from craftkit_archive import __version__, errors
from craftkit_archive.values import harmless

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from types import FrameType

    from craftkit_archive.archive import Archive
    from craftkit_archive.merging import OnDuplicate
    from craftkit_archive.reading import Form
    from craftkit_archive.records import KeyInfo, Kind, Record, Summary
    from craftkit_archive.work import ProgressMode
    from server.bodies import VerifyReads

OK = 0
USAGE = 2
OWN_BUG = 70

# How a command that came to its end has ended.
OUTCOMES = {"ok": OK, "problems": 1, "incomplete": 3}

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
    1: "finished, and found problems (damaged assets, rejected records)",
    2: "usage: what was asked for makes no sense",
    3: "finished, nothing bad, but incomplete (something was skipped, or could not be read or compared)",
    10: "no archive here",
    11: "another command holds the lock",
    13: "the catalog is newer than this program, or damaged",
    14: "the store or source is offline, or is not the one that this archive belongs to",
    15: "no space, or not writable (standard output too)",
    16: "the remote end refused or kept failing",
    70: "our own bug: the traceback is on stderr",
    130: "SIGINT: stopped cleanly, what was done is recorded",
    143: "SIGTERM: stopped cleanly, what was done is recorded",
}

SHOWN = 20
LISTEN = "127.0.0.1:8080"


class Signals:
    """The first SIGINT or SIGTERM asks the work to end cleanly, the second ends it at once."""

    def __init__(self) -> None:
        self.first = 0

    def __enter__(self) -> Signals:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Say whether the work is to end."""
        return self.first != 0

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.first:
            raise KeyboardInterrupt
        self.first = number
        if os.isatty(2):
            os.write(2, b"\nStopping when what is under way is done; once more stops at once.\n")

    @property
    def exit_code(self) -> int:
        """The exit code of work that they ended."""
        return 128 + (self.first or signal.SIGINT)


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
        import msgspec

        _write(msgspec.json.encode(record).decode())

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
        from craftkit_archive.records import Finding, Reject, Skipped
        from craftkit_archive.reporting import as_text

        problem = isinstance(record, (Finding, Reject, Skipped))
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


def _write(text: str) -> None:
    try:
        click.echo(text)
    except OSError as error:
        raise OutputError(f"Standard output cannot be written ({error.strerror}).") from error


class Commands(click.Group):
    """The group of all commands; the one place where errors become exit codes."""

    def main(self, args: Any = None, prog_name: str | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Run a command and exit with its code, which is one of the table."""
        given = list(sys.argv[1:] if args is None else args)
        _open_streams()
        with Signals() as signals:
            extra.update(standalone_mode=False, obj=signals)
            try:
                code = super().main(given, prog_name, **extra) or OK
            except click.ClickException as error:
                code = self._fail(given, error, USAGE)
            except errors.ArchiveError as error:
                code = self._fail(given, error, EXIT_CODES[type(error)])
            except (KeyboardInterrupt, click.Abort):
                stopped = KeyboardInterrupt("Stopped at once; what was recorded until then stays.")
                code = self._fail(given, stopped, signals.exit_code)
            except OutputError as error:
                code = EXIT_CODES[errors.NotWritableError]
                click.echo(f"craftkit-archive: {error}", err=True)
                # Python would write to it once more at its end.
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            except Exception as error:  # noqa: BLE001 - the last edge: whatever it is, it is a bug of ours
                import traceback

                traceback.print_exception(error)
                bug = RuntimeError("This is a bug in craftkit-archive: please report the traceback.")
                code = self._fail(given, bug, OWN_BUG)
        sys.exit(code)

    def _fail(self, given: list[str], error: BaseException, code: int) -> int:
        if "--json" in given:
            import msgspec

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
                click.echo(msgspec.json.encode(line))
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


def _jobs(context: click.Context, _parameter: click.Parameter, value: int | None) -> int:
    from craftkit_archive.work import default_jobs

    return value or default_jobs()


def _addresses(_context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> frozenset[str]:
    from ipaddress import ip_address

    try:
        return frozenset(str(ip_address(address)) for address in value)
    except ValueError as error:
        raise click.BadParameter(f"{error}: give it as 127.0.0.1 or ::1.") from error


def _size(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    from craftkit_archive.values import read_size

    try:
        return read_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


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
_dry_run_option = click.option("--dry-run", is_flag=True, help="Change nothing; print what would be done.")


@main.command()
@click.option("--store", default="assets", show_default=True, help="The assets' folder, relative to the archive.")
@click.pass_obj
def init(console: Console, store: str) -> int:
    """Make an empty archive."""
    from craftkit_archive.archive import Archive
    from craftkit_archive.records import Summary

    with Archive.create(console.archive, store_address=store) as archive:
        details = {"archive": str(archive.path), "archive_id": archive.id, "store": archive.store.address}
    console.say(f"Made an archive in {console.archive}, with its assets in {details['store']}.")
    console.close(Summary(command="init", outcome="ok", details=details))
    return OK


@main.command("import")
@click.argument("kind", type=click.Choice(["projects", "keys", "renders"]))
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "ndjson", "csv", "tsv"]),
    help="What the files are.  [default: as their content says]",
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
    files: tuple[str, ...],
    form: Form | None,
    project: str | None,
    on_duplicate: OnDuplicate,
    all_or_nothing: bool,
    rejects: Path | None,
    dry_run: bool,
) -> int:
    """Bring metadata into the catalog; - is standard input.

    A file is JSON (an array, objects, objects that wrap a list), NDJSON, CSV or TSV with a header, each also gzipped;
    its content says which. camelCase and snake_case names mean the same. Importing twice changes nothing. Plain keys
    are hashed while they are read and never stored. The file of rejects, mended, can be imported as it is.
    """
    from craftkit_archive.importing import import_records, keep_rejects

    if rejects is not None:
        inputs = {os.path.realpath(file) for file in files if file != "-"}
        if os.path.realpath(rejects) in inputs or rejects.resolve().parent == console.archive.resolve():
            raise errors.RequestError(f"{rejects} is an input or part of the archive: name another file for rejects.")
    with _open(console) as archive:
        records = import_records(
            archive,
            kind,
            files,
            form=form,
            project=project,
            on_duplicate=on_duplicate,
            all_or_nothing=all_or_nothing,
            dry_run=dry_run,
            stop=console.stop,
        )
        return console.finish(keep_rejects(records, rejects) if rejects else records)


@main.command()
@click.argument("source")
@_selecting(until=False)
@click.option("--limit", type=click.IntRange(min=1), help="At most so many assets.")
@_jobs_option
@_dry_run_option
@click.pass_obj
def fetch(
    console: Console,
    source: str,
    projects: tuple[str, ...],
    since: str | None,
    limit: int | None,
    jobs: int,
    dry_run: bool,
) -> int:
    """Copy what is missing from SOURCE, a folder that mirrors the bucket, and check it on arrival.

    Whatever interrupts it, the next fetch does the rest.
    """
    from craftkit_archive.fetching import fetch_assets

    if not source:
        raise errors.RequestError("SOURCE is empty: name a folder that mirrors the bucket.")
    with _open(console) as archive:
        selection = archive.select(projects=projects, since=since)
        return console.finish(
            fetch_assets(
                archive, source, selection=selection, limit=limit, jobs=jobs, dry_run=dry_run, stop=console.stop
            )
        )


@main.command()
@click.option(
    "--level", type=click.Choice(["size", "digest"]), default="digest", show_default=True, help="What to compare."
)
@click.option("--project", "projects", multiple=True, help="Only this project (id or slug); repeatable.")
@_jobs_option
@click.pass_obj
def verify(console: Console, level: Any, projects: tuple[str, ...], jobs: int) -> int:
    """Check stored assets against what is recorded of them, and write down what was seen."""
    from craftkit_archive.verifying import verify_assets

    with _open(console) as archive:
        selection = archive.select(projects=projects)
        return console.finish(verify_assets(archive, level=level, selection=selection, jobs=jobs, stop=console.stop))


@main.command()
@click.argument("target", metavar="DEST", type=click.Path(path_type=Path, file_okay=False))
@click.option("--format", "form", type=click.Choice(["dir"]), default="dir", show_default=True, help="What to make.")
@_selecting()
@click.option("--template", metavar="ID", help="Only renders of this template.")
@_jobs_option
@_dry_run_option
@click.pass_obj
def export(
    console: Console,
    target: Path,
    form: str,
    projects: tuple[str, ...],
    since: str | None,
    until: str | None,
    template: str | None,
    jobs: int,
    dry_run: bool,
) -> int:
    """Copy PDFs to the folder DEST, each checked on its way, with a manifest for `sha256sum -c` and an index.

    A repeated export leaves unchanged files untouched and does the rest. What is lacking stands in missing.csv.
    """
    from craftkit_archive.exporting import export_assets

    with _open(console, read_only=True) as archive:
        selection = archive.select(projects=projects, since=since, until=until, template_id=template)
        return console.finish(
            export_assets(archive, target, selection=selection, jobs=jobs, dry_run=dry_run, stop=console.stop)
        )


def _address(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, int]:
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
@_listen_option(LISTEN)
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
@click.option("--public-url", metavar="URL", help="Where clients reach this server.  [default: as each request says]")
@click.option(
    "--s3-public-url", metavar="URL", envvar="S3_PUBLIC_URL", show_envvar=True, help="Where clients reach the bucket."
)
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    metavar="ADDRESS",
    multiple=True,
    callback=_addresses,
    help="The address of a proxy in front, whose X-Forwarded-For and -Proto are believed; repeatable.",
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
    metavar="SIZE",
    default="64MiB",
    show_default=True,
    callback=_size,
    help="In each process: memory for PDFs above 256 KiB while they are sent; for more, they are read twice.",
)
@click.option(
    "--access-log",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Append a line of JSON for each answer; opened anew on SIGHUP.",
)
@click.option("--sealed", is_flag=True, help="The archive never changes, as on read-only media: write nothing to it.")
@click.pass_obj
def serve(
    console: Console,
    listen: tuple[str, int],
    workers: int,
    threads: int,
    public_url: str | None,
    s3_public_url: str | None,
    trusted_proxies: frozenset[str],
    verify_reads: VerifyReads,
    max_buffer: int,
    access_log: Path | None,
    sealed: bool,
) -> int:
    """Serve GET /v1/renders/:id/download and its companions, as Craftkit does, to whoever has a key.

    At / there is a page for people: it asks for a key, lists the renders of its project, and opens their PDFs.
    """
    from server.app import Settings
    from server.run import bind, url_of
    from server.workers import Plan, crew

    with _open(console, read_only=True, sealed=sealed) as archive:
        archive.store.check(archive.id)
    if access_log is not None:
        with errors.disk_errors(access_log), access_log.open("a"):
            pass
    listener = bind(*listen)
    url = url_of(listener)
    settings = Settings(
        public_url=public_url,
        s3_public_url=s3_public_url,
        listen_url=url,
        verify_reads=verify_reads,
        max_buffer_bytes=max_buffer,
        trusted_proxies=trusted_proxies,
    )
    plan = Plan(console.archive, settings, threads, access_log, sealed, console.quiet)
    with crew(plan, listener, workers) as mend:
        _wait(console, url, mend)
    return _served(console, "serve")


@contextmanager
def _serving(console: Console, address: tuple[str, int]) -> Iterator[socket.socket]:
    from server.app import Settings, create_app
    from server.run import bind, running, url_of

    with _open(console, read_only=True) as archive:
        archive.store.check(archive.id)
        listener = bind(*address)
        with running(create_app(archive, Settings(listen_url=url_of(listener))), listener):
            yield listener


def _wait(console: Console, url: str, meanwhile: Callable[[], None] = lambda: None) -> None:
    if console.json:
        _write(f'{{"type":"listening","url":"{url}"}}')
    console.say(f"Listening on {url}; Ctrl-C ends it.")
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
@click.argument("key", metavar="ID_OR_PREFIX")
@click.pass_obj
def revoke_key(console: Console, key: str) -> int:
    """Revoke a key; it stops working with the next request."""
    with _open(console) as archive:
        return _show_keys(console, "keys revoke", [archive.revoke_key(key)])


@main.command()
@click.pass_obj
def status(console: Console) -> int:
    """Say what the archive holds and what was last done to it."""
    from craftkit_archive.reporting import describe_archive

    with _open(console, read_only=True) as archive:
        return console.finish(describe_archive(archive))


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
    from server.run import url_of

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
            _wait(console, url_of(listener))
    if not once:
        return _served(console, "quickstart")
    outcome = next(name for name, code in OUTCOMES.items() if code == worst)
    console.close(Summary(command="quickstart", outcome=outcome, exit_code=worst, counts={"downloaded": 1}))
    return worst
