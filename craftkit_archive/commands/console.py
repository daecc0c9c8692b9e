"""The output of commands: results, messages for people, JSON."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from craftkit_archive.commands.colour import paint_ending, paint_label, paint_record
from craftkit_archive.commands.signals import Signals
from craftkit_archive.values import escape_control, valid_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from craftkit_archive.archive import Archive
    from craftkit_archive.configuration import Configuration
    from craftkit_archive.parallel.progress import ProgressMode
    from craftkit_archive.records import Record, Summary


OK = 0

SHOWN = 20
KEPT = 1000
# Lines of a plan are written this many at a time: one write for each line took a third of the time of a plan.
PLANNED_AT_ONCE = 1000
DEFAULT_ARCHIVE = Path("data")
GIVEN = "craftkit_archive.given"  # the key of the command line's words in click's context


class OutputError(Exception):
    """Standard output cannot be written: its reader has exited, or its disk is full."""


class ReaderGoneError(OutputError):
    """The reader of standard output has exited, such as `head` when it has its lines."""


class Console:
    """Writes a command's output: results to stdout, messages to stderr; with `--json` everything to stdout."""

    def __init__(
        self,
        archive: Path,
        stop: Signals,
        *,
        as_json: bool,
        progress: ProgressMode,
        quiet: bool,
        verbose: bool,
        config: Path | None = None,
        configuration: Configuration | None = None,
    ) -> None:
        self.archive = archive
        self.stop = stop
        # The words of the command line, and the archive if they name one, for the suggestion of what to run next.
        context = click.get_current_context(silent=True)
        self.given: list[str] = context.meta.get(GIVEN, []) if context else []
        named = context and context.get_parameter_source("archive") == click.core.ParameterSource.COMMANDLINE
        self.named_archive = os.fspath(archive) if named and archive != DEFAULT_ARCHIVE else None
        self.json = as_json
        self.progress = progress
        self.quiet = quiet
        self.verbose = verbose
        self.by: str | None = None
        self.locked = False  # whether this process holds the writer's lock already
        self.config = config
        self.configuration = configuration

    def overrule(self, name: str, value: Any) -> None:
        """Set a global option that was given after the command."""
        setattr(self, {"as_json": "json"}.get(name, name), value)

    def say(self, text: str) -> None:
        """Write a message for the user to stderr."""
        if not self.quiet and not self.json:
            click.echo(escape_control(text), err=True)

    def put(self, result: str) -> None:
        """Write a line of the result."""
        write_line(escape_control(result))

    def rows(self, lines: Iterable[str]) -> None:
        """Write lines of a list."""
        with standard_output() as out:
            out.writelines(f"{line}\n" for line in lines)

    def line(self, record: Record) -> None:
        """Write a record as a line of JSON."""
        write_line(as_json(record))

    def show(self, records: Iterator[Record]) -> tuple[Summary, int]:
        """Write the records of an operation, and return its summary and the exit code.

        With `--quiet`, nothing is written about a success; otherwise the worst findings go to stderr, which cron mails.
        """
        from contextlib import closing

        import msgspec

        from craftkit_archive.outcomes import worst
        from craftkit_archive.parallel.progress import show_progress
        from craftkit_archive.records import Caution, Plan, Planned, Progress, Summary
        from craftkit_archive.report.lines import as_text

        summary, problems = None, 0
        planned: list[str] = []
        kept: list[Record] = []
        warned: list[Record] = []
        # Both are closed here whatever happens: a bar that is left to the garbage collector stays on the screen.
        shown = show_progress(records, mode="none" if self.quiet else self.progress)
        with closing(records), closing(shown):  # type: ignore[type-var]
            for record in shown:
                match record:
                    case Summary():
                        summary = record
                    case Plan() | Progress():
                        pass
                    case Planned():
                        planned.append(as_json(record) if self.json else escape_control(as_text(record)))
                        if len(planned) == PLANNED_AT_ONCE:
                            self.rows(planned)
                            planned.clear()
                    case Caution() if self.quiet and not self.json:
                        warned.append(record)
                    case _:
                        problem = self._show_one(record, problems)
                        problems += problem
                        if problem and self.quiet and not self.json:
                            kept.append(record)
                            if len(kept) > KEPT:  # so that a million of them do not fill the memory
                                kept = worst(kept, SHOWN)
        self.rows(planned)
        if summary is None:
            raise RuntimeError("An operation ended without a summary.")
        # The operation does not know which signal interrupted it, but the console does.
        code = self.stop.exit_code if summary.outcome == "interrupted" else summary.exit_code
        # Warnings of an import are shown only if it changed something: nobody would read the same ones every night.
        news = summary.command != "import" or any(summary.counts.get(name) for name in ("inserted", "updated"))
        for record in [*(warned if news else ()), *(worst(kept, SHOWN) if code != OK else ())]:
            self._tell(record)
        if problems > SHOWN and not self.json and (code != OK if self.quiet else not self.verbose):
            click.echo(f"  … and {problems - SHOWN:,} more: -v shows them all, --json too.", err=True)
        return msgspec.structs.replace(summary, exit_code=code), code

    def _show_one(self, record: Record, shown: int) -> bool:
        """Write one record, and return whether it is a problem; only `SHOWN` problems are shown without `--verbose`."""
        from craftkit_archive.records import (
            AuditFault,
            Caution,
            Diagnosis,
            Finding,
            Note,
            ProjectInfo,
            Reject,
            RunInfo,
            Skipped,
        )
        from craftkit_archive.report.lines import as_text

        problem = isinstance(record, (AuditFault, Finding, Note, Reject, Skipped))
        if self.json:
            self.line(record)
        elif self.quiet and isinstance(record, (Diagnosis, ProjectInfo, RunInfo)):
            # --quiet leaves these out; only a diagnosis with a fix counts as a problem.
            return isinstance(record, Diagnosis) and record.fix is not None
        elif not problem and not isinstance(record, Caution):
            text = escape_control(as_text(record, whole=self.verbose))
            write_line(paint_record(text, record, sys.stdout))
        elif not self.quiet and (isinstance(record, Caution) or shown < SHOWN or self.verbose):
            self._tell(record)
        return problem

    def _tell(self, record: Record) -> None:
        """Write a record to stderr, for people."""
        from craftkit_archive.report.lines import as_text

        text = escape_control(as_text(record, whole=self.verbose))
        click.echo(paint_record(text, record, sys.stderr), err=True)

    def finish(self, records: Iterator[Record]) -> int:
        """Write the records of an operation and its summary, and return the exit code."""
        summary, code = self.show(records)
        self.close(summary)
        return code

    def with_next(self, summary: Summary) -> Summary:
        """Return a summary with the command to run next, if there is anything to do."""
        import msgspec

        from craftkit_archive.next_steps import command_line, next_step

        words = next_step(summary, self.given)
        return msgspec.structs.replace(summary, next=command_line(words, self.named_archive)) if words else summary

    def close(self, summary: Summary, *, part: bool = False) -> None:
        """Write how a command ended and, unless it is only a part of one, what to run next."""
        from craftkit_archive.report.lines import as_text

        summary = summary if part else self.with_next(summary)
        if self.json:
            self.line(summary)
            return
        if self.quiet and summary.outcome not in ("problems", "incomplete", "limited"):
            return
        if text := as_text(summary):
            click.echo(paint_ending(escape_control(text), summary, sys.stderr), err=True)
        if summary.next:
            click.echo(paint_label(escape_control(f"Next: {summary.next}"), "bold", sys.stderr), err=True)


def as_json(record: object) -> str:
    """Return a record as JSON; bytes that are not Unicode, as in file names, are escaped."""
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


def write_line(text: str) -> None:
    """Write a line to standard output.

    Raises:
        OutputError: Its reader has exited, or its disk is full.
    """
    with standard_output() as out:
        out.write(
            f"{text}\n"
        )  # not click.echo, which searches for colours to strip, and takes longer than all the rest


@contextmanager
def standard_output() -> Iterator[TextIO]:
    """Yield standard output, and flush it at the end of the block.

    Raises:
        OutputError: Its reader has exited, or its disk is full.
    """
    try:
        yield sys.stdout
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise ReaderGoneError(f"Standard output cannot be written ({error.strerror}).") from error
    except OSError as error:
        raise OutputError(f"Standard output cannot be written ({error.strerror}).") from error


def open_archive(console: Console, *, read_only: bool = False, sealed: bool = False) -> Archive:
    """Open the archive that the command line names."""
    from craftkit_archive.archive import Archive

    archive = Archive(console.archive, read_only=read_only, sealed=sealed, by=console.by, locked=console.locked)
    for notice in archive.notices:
        # Even with --quiet, so that it is in the mail of a nightly job.
        click.echo(f"craftkit-archive: {escape_control(notice)}", err=True)
    return archive
