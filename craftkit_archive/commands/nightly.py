"""The command that runs the steps of a night: nightly."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from craftkit_archive.commands.configuring import PREFIX
from craftkit_archive.commands.console import OK, Console, open_archive
from craftkit_archive.commands.options import DURATION, by_option, dry_run_option
from craftkit_archive.values import escape_control, parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from craftkit_archive.archive import Archive, Run
    from craftkit_archive.configuration import Configuration
    from craftkit_archive.nightly.steps import Step
    from craftkit_archive.notify.message import StepResult
    from craftkit_archive.records import NightStep, Record, Summary

# The step that the night's time limit stops; the others end by themselves.
TIMED = "verify"
# The age for a night's verification, unless the configuration selects assets in another way.
DUE = "30d"
CATALOG_GONE = 13
CHOICES = ["import", "fetch", "verify", "report", "due", "backup", "seal", "head"]


class Recorder(Console):
    """The console of a step: it shows problems, hides results, and keeps the summary."""

    def __init__(self, console: Console) -> None:
        self.__dict__.update(vars(console))
        self.locked = True
        self.summary: Summary | None = None
        self.worst: list[Record] = []
        self.showing = False
        self.result = ""

    def say(self, text: str) -> None:
        """Show messages about findings only; the last of the others is kept as the result."""
        if self.showing:
            super().say(text)
        else:
            self.result = text

    def put(self, result: str) -> None:
        """Hide results; the last one is kept, for commands without a summary."""
        self.result = result

    def rows(self, lines: Iterable[str]) -> None:
        """Hide lists."""

    def _show_one(self, record: Record, shown: int) -> bool:
        from craftkit_archive.notify.message import WORST
        from craftkit_archive.outcomes import worst

        self.showing = True
        problem = super()._show_one(record, shown)
        self.showing = False
        if problem:
            self.worst = worst([*self.worst, record], WORST)
        return problem

    def close(self, summary: Summary, *, part: bool = False) -> None:
        """Keep the summary."""
        self.summary = self.with_next(summary)


@click.command()
@click.option("--skip", type=click.Choice(CHOICES), multiple=True, help="Leave out this kind of step; repeatable.")
@click.option(
    "--time-limit", metavar="DURATION", type=DURATION, help="End the verification when the night has taken this long."
)
@dry_run_option
@by_option
@click.pass_obj
def nightly(console: Console, skip: tuple[str, ...], time_limit: int | None, dry_run: bool) -> int:
    """Run the steps of a night as the configuration says, and notify whom it names.

    In this order: import from the sources, fetch, verify (what was not read for 30 days, unless [verify] says
    otherwise), write reports, list what is due by the retention rules (nothing is disposed of), back up the catalog,
    compute the seal and the head of the audit log, write the page of the night, notify.

    A failed step does not stop the others, except for those that depend on it. The exit code is that of the worst step,
    in this order: 70, 13, 1, 15, 14, 16, 11, 10, 2, 3, 101, 0. The archive's lock is held from the first step to the
    last.
    """
    from craftkit_archive.configuration import Configuration
    from craftkit_archive.errors import RequestError

    configuration = console.configuration or Configuration()
    if configuration.nightly is None:
        where = configuration.file or "craftkit-archive.toml"
        raise RequestError(
            f"Nothing says what a night does. Add [nightly] to {where};"
            " `craftkit-archive --config NEW.toml config init` writes an example."
        )
    try:
        with open_archive(console, read_only=dry_run) as archive:
            night = _Night(console, archive, configuration, time_limit)
            steps = night.plan(skip)
            if dry_run:
                return night.show_plan(steps)
            with archive.lock("nightly"):
                return night.run(steps)
    except Exception as error:
        # Report also a night that could not even begin.
        if not dry_run:
            _announce_failure(console, configuration, error)
        raise


def _announce_failure(console: Console, configuration: Configuration, error: Exception) -> None:
    """Report a night that ended with an error, such as a lost catalog or another command that writes."""
    from craftkit_archive.notify.message import Notice, state_of
    from craftkit_archive.notify.send import announce_end
    from craftkit_archive.values import format_time, utc_now

    now = format_time(utc_now())
    notice = Notice(
        archive=str(console.archive.resolve()),
        host=socket.gethostname(),
        outcome="failed",
        exit_code=click.get_current_context().find_root().command.code_of(error),  # type: ignore[attr-defined]
        started_at=now,
        finished_at=now,
        sentence=str(error) or type(error).__name__,
        state=state_of("failed", [], [str(error)]),
    )
    for text in announce_end(configuration.notify, notice, None):
        click.echo(f"craftkit-archive: {escape_control(text)}", err=True)


class _Night:
    """A night in progress."""

    def __init__(
        self, console: Console, archive: Archive, configuration: Configuration, time_limit: int | None
    ) -> None:
        self.console = console
        self.archive = archive
        self.configuration = configuration
        self.root = click.get_current_context().find_root()
        self.ends_at = None if time_limit is None else time.monotonic() + time_limit
        self.started_at = archive.now()
        self.results: list[NightStep] = []
        self.worst: list[Record] = []
        self.next: str | None = None
        self.next_code = OK
        self.notify = configuration.notify
        self.verify_run: int | None = None

    def plan(self, skip: Iterable[str]) -> list[Step]:
        from craftkit_archive.nightly.steps import plan_night

        left_out = set(skip)
        steps = plan_night(self.configuration, self.archive.catalog.last_good_step, self.archive.clock())
        kinds = {"retention": "due", "audit": "head"}
        return [step for step in steps if kinds.get(step.words[0], step.words[0]) not in left_out]

    def show_plan(self, steps: list[Step]) -> int:
        """Show what a night would do."""
        from craftkit_archive.records import NightStep, Summary

        for step in steps:
            now, command = self.archive.now(), self._command_line(step)
            outcome, words = ("skipped", step.skipped) if step.skipped else ("planned", command)
            self._show(NightStep(step.name, command, outcome, 0, words, now, now))
        details = {"sentence": f"{len(steps)} steps planned", "dry_run": True}
        self.console.close(Summary(command="nightly", outcome="ok", counts={"steps": len(steps)}, details=details))
        return OK

    def run(self, steps: list[Step]) -> int:
        """Run the steps, show their results, and notify; return the exit code."""
        from craftkit_archive.nightly.steps import describe_night, outcome_of
        from craftkit_archive.notify.send import announce_start
        from craftkit_archive.outcomes import WORST_STEP_FIRST, worst_code
        from craftkit_archive.records import Summary

        troubles = announce_start(self.notify)
        with self.archive.run("nightly", {"steps": [step.name for step in steps]}) as run:
            for position, step in enumerate(steps, 1):
                skipped = step.skipped or self._reason_to_skip(step)
                result = self._skip(step, skipped) if skipped else self._do(step)
                self.results.append(result)
                self.archive.catalog.put_step(run.id or 0, position, result)
                self._show(result)
            stopped = [self.console.stop.exit_code] if self.console.stop() else []
            code = worst_code([*stopped, *(one.exit_code for one in self.results)], WORST_STEP_FIRST)
            run.outcome, sentence = outcome_of(code), describe_night(self.results)
            ends = Counter(one.outcome for one in self.results)
            run.counts.update({"steps": len(self.results), "failed": ends["failed"], "skipped": ends["skipped"]})
            state = self._state(run.outcome)
            self.archive.catalog.put_night(run.id or 0, code, sentence, state)
        page = self._write_page(troubles)
        troubles += self._announce(run, code, sentence, state, page)
        for text in troubles:
            click.echo(f"craftkit-archive: {escape_control(text)}", err=True)
        self.console.close(
            Summary(
                command="nightly",
                outcome=run.outcome,
                exit_code=code,
                counts=dict(run.counts),
                run_id=run.id,
                details={"sentence": sentence, "page": page, "troubles": troubles},
                next=self.next,
            )
        )
        return code

    def _reason_to_skip(self, step: Step) -> str | None:
        if self.console.stop():
            return "the night was stopped"
        ended = {one.name: one for one in self.results}
        if any(one.exit_code == CATALOG_GONE for one in self.results):
            return "the catalog cannot be used"
        if step.needs in ended and ended[step.needs].outcome in ("failed", "skipped"):
            return f"{step.needs} did not run"
        if step.words[0] == TIMED and self.ends_at is not None and self.ends_at - time.monotonic() < 1:
            return "no time is left"
        return None

    def _skip(self, step: Step, why: str) -> NightStep:
        from craftkit_archive.records import NightStep

        now = self.archive.now()
        return NightStep(step.name, self._command_line(step), "skipped", 0, why, now, now)

    def _do(self, step: Step) -> NightStep:
        """Run the command of a step in this process, as the command line would, and return how it ended."""
        from craftkit_archive.errors import ArchiveError
        from craftkit_archive.nightly.steps import outcome_of
        from craftkit_archive.outcomes import describe_outcome
        from craftkit_archive.records import NightStep

        started_at, recorder = self.archive.now(), Recorder(self.console)
        code_of: Callable[[Exception], int] = self.root.command.code_of  # type: ignore[attr-defined]
        outcome, sentence = "failed", ""
        try:
            code = self._invoke(self._limited(step), recorder)
            outcome, sentence = outcome_of(code), recorder.result
            if recorder.summary is not None:
                outcome = recorder.summary.outcome
                sentence = describe_outcome(recorder.summary).partition(": ")[2] or sentence
            if step.words[0] == "backup":
                sentence = self._prune(Path(step.words[1]))
        except click.ClickException as error:
            code, sentence = code_of(error), error.format_message()
        except ArchiveError as error:
            code, sentence = code_of(error), str(error)
        except Exception as error:  # noqa: BLE001 - a bug in one step must not cost the others their night
            import traceback

            traceback.print_exception(error)
            code, sentence = code_of(error), f"internal error ({type(error).__name__}): the traceback is on stderr"
        self._keep(recorder, code)
        return NightStep(step.name, self._command_line(step), outcome, code, sentence, started_at, self.archive.now())

    def _invoke(self, words: list[str], recorder: Recorder) -> int:
        group = self.root.command
        assert isinstance(group, click.Group)  # noqa: S101 - for the types
        context = group.commands[words[0]].make_context(words[0], words[1:], parent=self.root, obj=recorder)
        with context:
            return context.command.invoke(context) or OK

    def _limited(self, step: Step) -> list[str]:
        """Return the words of a step; a verification gets an age and a time limit besides its configured ones."""
        if step.words[0] != TIMED:
            return step.words
        words = [*step.words]
        if not any(self._is_set(option) for option in ("due", "new", "failed", "sample", "ids")):
            words += ["--due", DUE]
        if self.ends_at is not None:
            left = max(1, int(self.ends_at - time.monotonic()))
            limit = self.configuration.option((TIMED, "time-limit"))
            words += ["--time-limit", f"{min(left, parse_duration(limit)) if limit else left}s"]
        return words

    def _is_set(self, option: str) -> bool:
        return bool(self.configuration.option((TIMED, option)) or os.environ.get(f"{PREFIX}_{TIMED}_{option}".upper()))

    def _prune(self, written: Path) -> str:
        """Delete the oldest backups, and return a sentence on what was written and deleted."""
        from craftkit_archive.errors import disk_errors
        from craftkit_archive.nightly.steps import prune_backups

        night = self.configuration.nightly
        keep = night.backup.keep if night and night.backup else 1
        with disk_errors(written):
            gone = prune_backups(written.parent, keep)
        return f"{written.name}" + (f"; deleted {len(gone)} older than the last {keep}" if gone else "")

    def _keep(self, recorder: Recorder, code: int) -> None:
        """Keep the worst findings of a step, and what to run next if the step is the worst so far."""
        from craftkit_archive.notify.message import WORST
        from craftkit_archive.outcomes import WORST_STEP_FIRST, worst, worst_code

        self.worst = worst([*self.worst, *recorder.worst], WORST)
        summary = recorder.summary
        if summary is None:
            return
        if summary.command == "verify":
            self.verify_run = summary.run_id
        night = self.configuration.nightly
        # A fetch is what the night does itself, so it is not suggested; and the source of a repair is known.
        leads = worst_code([code, self.next_code], WORST_STEP_FIRST) == code != OK
        if summary.next and summary.command != "fetch" and leads:
            source = night.fetch[0] if night and night.fetch else "SOURCE"
            self.next, self.next_code = summary.next.replace("SOURCE", source), code

    def _state(self, outcome: str) -> str:
        from craftkit_archive.notify.message import state_of
        from craftkit_archive.records import Note

        found = self.archive.catalog.findings_of(self.verify_run) if self.verify_run is not None else ()
        return state_of(
            outcome,
            self._told_steps(),
            (f"{one.detail if isinstance(one, Note) else one.verdict} {one.key}" for one in found),
        )

    def _told_steps(self) -> list[StepResult]:
        from craftkit_archive.notify.message import StepResult

        return [
            StepResult(name=one.name, outcome=one.outcome, exit_code=one.exit_code, sentence=one.sentence)
            for one in self.results
        ]

    def _write_page(self, troubles: list[str]) -> str | None:
        """Write the page of the night, and return its path; an error is reported, but does not fail the night."""
        from craftkit_archive.errors import ArchiveError
        from craftkit_archive.nightly.page import NIGHTS, write_night_page

        night = self.configuration.nightly
        if night is None or not night.page:
            return None
        file = Path(self.configuration.place(night.page))
        try:
            write_night_page(file, str(self.archive.path.resolve()), self.archive.catalog.nights(NIGHTS), self.worst)
        except ArchiveError as error:
            troubles.append(f"The page of the night was not written. {error}")
            return None
        return str(file)

    def _announce(self, run: Run, code: int, sentence: str, state: str, page: str | None) -> list[str]:
        """Notify whom the configuration names, and return a sentence for each outlet that could not be reached."""
        from craftkit_archive.notify.message import Notice
        from craftkit_archive.notify.send import announce_end
        from craftkit_archive.report.lines import as_text

        notice = Notice(
            archive=str(self.archive.path.resolve()),
            host=socket.gethostname(),
            outcome=run.outcome,
            exit_code=code,
            started_at=self.started_at,
            finished_at=self.archive.now(),
            sentence=sentence,
            steps=self._told_steps(),
            findings=[as_text(one).strip() for one in self.worst],
            next=self.next,
            page=page,
            state=state,
        )
        troubles = announce_end(self.notify, notice, self.archive.catalog.told_state())
        if not troubles and run.id is not None:
            self.archive.catalog.mark_told(run.id)
        return troubles

    def _command_line(self, step: Step) -> str:
        from craftkit_archive.next_steps import command_line

        config = ["--config", str(self.console.config)] if self.console.config else []
        return command_line([*config, *step.words], self.console.named_archive)

    def _show(self, result: NightStep) -> None:
        from craftkit_archive.notify.message import GOOD_CODES
        from craftkit_archive.report.lines import as_text

        if self.console.json:
            self.console.line(result)
        elif not self.console.quiet or result.exit_code not in GOOD_CODES:
            click.echo(escape_control(as_text(result)), err=True)
