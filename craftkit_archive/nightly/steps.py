"""The steps of a night as command lines, in the order in which they run, and the outcome of them all."""

import os
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from craftkit_archive.configuration import Configuration, NamedSource, Nightly
from craftkit_archive.notify.message import GOOD_CODES
from craftkit_archive.outcomes import WORST_STEP_FIRST, code_rank
from craftkit_archive.records import OUTCOME_CODES, NightStep, Outcome
from craftkit_archive.values import DATABASE_SCHEME, format_time

# How far back an import from a database looks before the last one: a row may have been written before that import began
# and committed after it. An hour is longer than any transaction of a web application, and than the difference between
# two machines' clocks.
OVERLAP = timedelta(hours=1)
BACKUP = "archive-%Y%m%dT%H%M%SZ.db"

INTERRUPTED = (130, 143)

# Given the name of a step, returns when its latest successful execution began; None if there was none.
LastGood = Callable[[str], str | None]


class Step(NamedTuple):
    """One step of a night.

    Attributes:
        name: Its name for people and in the catalog, which is the same every night.
        words: The command line, without the program's name.
        needs: The name of a step that must have run before; without it, this step makes no sense.
        skipped: Why it is not run; None if it is.
    """

    name: str
    words: list[str]
    needs: str | None = None
    skipped: str | None = None


def plan_night(configuration: Configuration, last_good: LastGood, now: datetime) -> Iterator[Step]:
    """Yield the steps that a configuration asks for.

    Args:
        configuration: Its `[nightly]` names the steps, its `[sources]` the sources.
        last_good: Returns when a step last succeeded.
        now: The time of the night, in UTC, for the name of the backup.
    """
    night = configuration.nightly or Nightly()
    for name in night.import_:
        yield from _imports(configuration, name, configuration.sources[name], last_good)
    yield from (Step(f"fetch {name}", ["fetch", name]) for name in night.fetch)
    if night.verify:
        yield Step("verify", ["verify"])
    for file in night.report:
        words = ["report", "--output", configuration.place(file)]
        yield Step(f"report {file}", words, needs="verify" if night.verify else None)
    if night.due:
        yield Step("retention due", ["retention", "due"])
    if night.backup is not None:
        copy = Path(configuration.place(night.backup.directory)) / now.astimezone(UTC).strftime(BACKUP)
        yield Step("backup", ["backup", str(copy)])
    if night.seal:
        yield Step("seal", ["seal"])
    if night.head:
        yield Step("audit head", ["audit", "head"])


def _imports(configuration: Configuration, name: str, source: NamedSource, last_good: LastGood) -> Iterator[Step]:
    for kind in source.kinds:
        step = Step(f"import {kind} {name}", ["import", kind, name])
        since = last_good(step.name)
        if files := source.files(kind):
            yield _of_files(step, [configuration.place(file) for file in files], since)
        elif source.address is not None and DATABASE_SCHEME.match(source.address):
            yield _of_database(step, source.changed.get(kind), configuration.option(("import", "where")), since)


def _of_files(step: Step, files: Iterable[str], since: str | None) -> Step:
    """Skip the import of files that have not changed since their last import began."""
    if since is None:
        return step
    try:
        # A copy may keep the original's time of modification, but its inode has changed since.
        changed = max(max(status.st_mtime, status.st_ctime) for status in map(os.stat, files))
    except OSError:
        return step  # the import itself reports what is wrong
    if format_time(datetime.fromtimestamp(changed, UTC)) >= since:
        return step
    return step._replace(skipped=f"unchanged since {since[:10]}")


def _of_database(step: Step, changed: str | None, where: str | None, since: str | None) -> Step:
    """Read only rows that were changed since the last import began, if the configuration names a column for that."""
    if changed is None or since is None:
        return step
    column = changed.replace('"', '""')
    condition = f"\"{column}\" >= '{format_time(datetime.fromisoformat(since) - OVERLAP)}'"
    return step._replace(words=[*step.words, "--where", f"({where}) AND {condition}" if where else condition])


def outcome_of(code: int) -> Outcome:
    """Return the outcome that an exit code of a night stands for."""
    if code in INTERRUPTED:
        return "interrupted"
    known: dict[int, Outcome] = {code: outcome for outcome, code in OUTCOME_CODES.items()}
    return known.get(code, "problems")


def describe_night(steps: Iterable[NightStep]) -> str:
    """Describe a night in one sentence: the steps that failed, or how many were done."""
    steps = list(steps)
    bad = [step for step in steps if step.exit_code not in GOOD_CODES]
    bad.sort(key=lambda step: code_rank(step.exit_code, WORST_STEP_FIRST))
    skipped = [step for step in steps if step.outcome == "skipped"]
    done = f"{len(steps) - len(skipped)} of {len(steps)} steps done" if skipped else f"{len(steps)} steps done"
    return "; ".join(f"{step.name}: {(step.sentence or step.outcome).rstrip('.')}" for step in bad) if bad else done


def prune_backups(directory: Path, keep: int) -> list[Path]:
    """Delete all but the newest `keep` backups that nights wrote, and return the deleted files.

    Files with other names are left alone.

    Raises:
        OSError: The directory cannot be read, or a file cannot be deleted.
    """
    ours = sorted(file for file in directory.iterdir() if _is_backup(file.name))
    old = ours[: max(len(ours) - keep, 0)]
    for file in old:
        file.unlink()
    return old


def _is_backup(name: str) -> bool:
    try:
        datetime.strptime(name, BACKUP)  # noqa: DTZ007 - only its form counts
    except ValueError:
        return False
    return True
