"""Verify: compares every stored asset with what is recorded about it, and records when that was."""

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeGuard

from craftkit_archive.archive import Archive, Run
from craftkit_archive.catalog.rows import Asset, Choice, Selection
from craftkit_archive.coverage import COVERAGE_DAYS
from craftkit_archive.errors import RemoteError
from craftkit_archive.parallel.batches import Stop, in_batches, never
from craftkit_archive.parallel.cluster import Cluster, clustered, details_of, prove_by, workers
from craftkit_archive.parallel.pool import map_ordered, workers_for
from craftkit_archive.pdf.ends import odd_on_arrival
from craftkit_archive.records import Finding, Note, Plan, Progress, Record, Skipped, one_of
from craftkit_archive.states import STATES, by_state
from craftkit_archive.stores.address import worker_setup
from craftkit_archive.stores.reach import prove_store
from craftkit_archive.values import format_time
from craftkit_archive.verify.fixity import Check, Level, Seen, Task, check_assets

# The assets, or their bytes, of one task. Each task wakes a thread of the parent, so large ones are cheaper; the bytes
# are limited so that progress is shown and a stop takes effect soon.
BATCH = 256
BATCH_BYTES = 16 << 20
LISTED = 2000
COMMIT_SECONDS = 2.0
DAY_SECONDS = 86_400

# Files that file managers leave behind, and names that begin with a dot, are not reported as extra.
NOT_OURS = re.compile(r"(?:^|/)(?:\.[^/]*|thumbs\.db|desktop\.ini)(?:/|$)", re.IGNORECASE)


class Scope(NamedTuple):
    """Which of the selected assets to check, by their last checks; all of them unless narrowed.

    Attributes:
        new: Those that were never checked.
        failed: Those whose last verdict is not `ok`.
        due_seconds: Both of the above, those last checked longer ago than this, and those dated in the future.
        share: Only a random share of them, above 0 and at most 1.
    """

    new: bool = False
    failed: bool = False
    due_seconds: int | None = None
    share: float | None = None


class Limits(NamedTuple):
    """The most time and bytes that one run may take; the asset with which a limit is reached is still read."""

    seconds: float | None = None
    size_bytes: int | None = None


def verify_assets(
    archive: Archive,
    *,
    level: Level = "digest",
    selection: Selection | None = None,
    scope: Scope | None = None,
    limits: Limits | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    stop: Stop = never,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[Record]:
    """Check stored assets, and record the verdicts in the catalog.

    A bad asset is read a second time before it is reported. Verdicts are committed every few seconds, so that an
    interruption loses little. Only reading every byte proves that an asset is good, so the size level records nothing
    but problems. If all assets are checked, files in the store that no render claims, and those that a render claims
    and no fetch has recorded, are reported too.

    Args:
        archive: Open for writing. The writer's lock is not taken, so that other commands can run meanwhile.
        level: `size` compares lengths, `digest` reads every byte, `pdf` also opens the PDF.
        selection: The renders whose assets to check; all if not given.
        scope: Which of these to check; with an age, assets that were never checked come first, then those whose last
            check failed, then the oldest.
        limits: When to stop; the outcome is then `limited` if everything was good so far.
        jobs: How many processes read, one if not given; with a cluster, how many batches are in flight.
        cluster: Address of a Dask scheduler whose workers read instead (see `docs/scale.md`).
        stop: Asked between batches.
        monotonic: A clock in seconds, for the commits and the limits.

    Yields:
        `Plan`; a `Finding` for each asset that is not `ok`; a `Note` for each oddity; a `Skipped` for each selected id
        that no render has; `Progress`; at last the `Summary`, whose counts are checked, ok, one for each other verdict,
        and, if there are any, acknowledged (bad, and accepted as lost), unknown, notes, orphan and unrecorded.

    Raises:
        StoreOfflineError, StoreMismatchError: The store is missing, or belongs to another archive, or a worker of the
            cluster does not see it. No asset is then reported as missing; verdicts recorded before stay.
        NoSpaceError: A worker was killed because memory ran out, or the disk is full.
        RemoteError: The cluster cannot be reached, or is gone.

    Example:
        >>> from craftkit_archive import Archive, Finding, verify_assets
        >>> with Archive("archive") as archive:
        ...     for record in verify_assets(archive, jobs=2):
        ...         if isinstance(record, Finding):
        ...             print(record.key, record.verdict)
        >>> record.counts, record.exit_code  # the last one is the summary
        ({'checked': 5, 'ok': 5}, 0)
    """
    one_of("level", level, Level)
    selection, scope, limits = selection or Selection(), scope or Scope(), limits or Limits()
    began = monotonic()
    archive.store.check(archive.id)
    with ExitStack() as stack:
        proof = prove_by(partial(prove_store, archive.store.address, archive.id))
        team = stack.enter_context(clustered(cluster, jobs, proof))
        run = stack.enter_context(archive.run("verify", {"level": level, **_told(selection, scope, limits)}))
        choice = _choice(archive, scope, run)
        if choice.whole:
            count, size = archive.catalog.count_stored(selection)
            assets = archive.catalog.stored_assets(selection)
        else:
            count, size = archive.catalog.choose(selection, choice)
            assets = archive.catalog.chosen_assets()
        yield Plan(count=count, size_bytes=size)
        run.counts.update({"checked": 0, "ok": 0})
        for render_id in archive.catalog.unknown_ids(selection):
            run.counts["unknown"] += 1
            yield Skipped(render_id=render_id, key="", reason="no render has this id")
        budget = _Budget(limits, level, lambda: monotonic() - began)
        over = budget.or_(stop)
        everything = choice.whole and selection == Selection() and limits == Limits()
        strays = _strays(archive, run) if everything else iter(())
        ledger = _Ledger(archive, run, level, monotonic)
        try:
            working = workers_for(count, size, jobs or 1)
            for found in _checks(archive, level, budget.cut(assets), team, working, over):
                yield from ledger.note(*found)
                last = found[0][-1].key if found[0] else None
                yield Progress(count=len(found[0]), size_bytes=found[1].bytes_read, file=last)
                # While the workers are busy, this process looks for files that no render claims.
                yield from ledger.keep(next(strays, []))
                ledger.commit_now_and_then()
            while not over() and (listed := next(strays, None)) is not None:
                yield from ledger.keep(listed)
        finally:
            ledger.commit()
        states = by_state(run.counts)
        # Nothing is stored, and there are files that no render claims: that is not a good archive.
        nothing = not run.counts["checked"] and run.counts["orphan"] > 0
        gaps = any(states.get(state) for state in ("unreadable", "unverified", "not-stored"))
        cut_short = budget.spent and run.counts["checked"] < count
        run.settle(
            problems="damaged" in states,
            incomplete=gaps or nothing or run.counts["unknown"] > 0,
            stopped=stop(),
            limited=cut_short,
        )
        if level == "size" and everything:
            archive.catalog.count_anew()
        run.coverage = archive.coverage(_days(scope.due_seconds))
    more = {} if count else _nothing_due(archive, scope)
    more |= details_of(team)
    yield run.summary(level=level, coverage=run.coverage.details(run.bytes_read if cut_short else 0), **more)


def _nothing_due(archive: Archive, scope: Scope) -> dict[str, Any]:
    """Return how much is stored and when something will be due, for a run that had nothing to check."""
    stored, _, oldest = archive.catalog.stored_totals()
    if scope.due_seconds is None or oldest is None:
        alone = "new" if scope.new and not scope.failed else "failed" if scope.failed and not scope.new else None
        named = {"scope": alone} if alone and scope.share is None and scope.due_seconds is None else {}
        return {"stored": stored, "renders": archive.catalog.has_renders(), **named}
    due = datetime.fromisoformat(oldest) + timedelta(seconds=scope.due_seconds)
    return {"stored": stored, "next_due": format_time(due)}


def _told(selection: Selection, scope: Scope, limits: Limits) -> dict[str, Any]:
    """Return the arguments for the run's row; of a list of ids only the length."""
    asked: dict[str, Any] = {
        "projects": list(selection.project_ids) or None,
        "since": selection.since,
        "before": selection.before,
        "template": selection.template_id,
        "statuses": list(selection.statuses) or None,
        "ids": None if selection.render_ids is None else len(selection.render_ids),
        **scope._asdict(),
        "time_limit_seconds": limits.seconds,
        "max_bytes": limits.size_bytes,
    }
    return {name: value for name, value in asked.items() if value not in (None, False)}


def _choice(archive: Archive, scope: Scope, run: Run) -> Choice:
    now = archive.clock()
    due = None if scope.due_seconds is None else format_time(now - timedelta(seconds=scope.due_seconds))
    return Choice(scope.new, scope.failed, due, format_time(now), scope.share, run.id or 0)


def _days(due_seconds: int | None) -> int:
    return max(due_seconds // DAY_SECONDS, 1) if due_seconds else COVERAGE_DAYS


class _Budget:
    """The limits of a run, and whether one of them was reached."""

    def __init__(self, limits: Limits, level: Level, elapsed: Callable[[], float]) -> None:
        self._limits = limits
        self._weigh = level != "size"
        self._elapsed = elapsed
        self.spent = False

    def cut(self, assets: Iterator[Asset]) -> Iterator[Asset]:
        """Pass assets on until their bytes add up to the limit."""
        if self._limits.size_bytes is None or not self._weigh:
            yield from assets
            return
        planned = 0
        for asset in assets:
            if planned >= self._limits.size_bytes:
                self.spent = True
                return
            planned += asset.size_bytes or 0
            yield asset

    def or_(self, stop: Stop) -> Stop:
        """Return a stop signal that is also true when the time is up."""
        seconds = self._limits.seconds

        def over() -> bool:
            if seconds is not None and self._elapsed() >= seconds:
                self.spent = True
            return stop() or (seconds is not None and self.spent)

        return over


def _checks(
    archive: Archive, level: Level, assets: Iterator[Asset], team: Cluster | None, jobs: int, stop: Stop
) -> Iterator[tuple[list[Asset], Seen]]:
    """Yield batches of assets with the results of their checks."""
    sent: deque[list[Asset]] = deque()

    def tasks() -> Iterator[Task]:
        for batch in in_batches(assets, BATCH, weigh=lambda asset: asset.size_bytes or 0, limit=BATCH_BYTES):
            sent.append(batch)
            yield Task(archive.store.address, level, [asset[1:] for asset in batch])

    with workers(team, jobs, partial(worker_setup, archive.store.address)) as executor:
        for seen in map_ordered(executor, check_assets, tasks(), jobs=jobs, stop=stop):
            # Results come in the order of the tasks.
            batch = sent.popleft()[: seen.looked_at]
            if any(check.verdict == "missing" for check in seen.checks):
                # If the store was unmounted meanwhile, this raises, instead of a thousand files counting as missing.
                archive.store.check(archive.id)
            yield batch, seen


class _Ledger:
    """Counts verdicts and findings, and commits them every few seconds."""

    def __init__(self, archive: Archive, run: Run, level: Level, monotonic: Callable[[], float]) -> None:
        self._archive = archive
        self._run = run
        self._proves = level != "size"
        self._monotonic = monotonic
        self._committed_at = monotonic()
        self._verdicts: dict[str, list[str]] = {}
        self._findings: list[Finding | Note] = []
        self._any_odd = self._proves and bool(archive.catalog.oddities())

    def note(self, batch: list[Asset], seen: Seen) -> list[Finding | Note]:
        """Add the results of a batch, and return what to report about it."""
        run = self._run
        batch, seen = self._without_disposed(batch, seen)
        reported = {check.position: check for check in seen.checks}
        for position, asset in enumerate(batch):
            verdict = reported[position].verdict if position in reported else "ok"
            if self._proves or verdict != "ok":
                self._verdicts.setdefault(verdict, []).append(asset.render_id)
        checks = self._recall(batch, reported) if self._any_odd else seen.checks
        run.bytes_read += seen.bytes_read
        run.counts["checked"] += len(batch)
        run.counts["ok" if self._proves else "same_size"] += len(batch) - len(checks)
        accepted = self._archive.catalog.accepted([batch[c.position].render_id for c in checks if c.verdict != "ok"])
        records: list[Finding | Note] = []
        for check in checks:
            asset = batch[check.position]
            reason = accepted.get((asset.render_id, STATES[check.verdict]))
            run.counts["acknowledged" if reason else check.verdict] += 1
            if check.note:
                run.counts["notes"] += 1
            records.append(self._tell(asset, check, reason))
        return self.keep(records)

    def _without_disposed(self, batch: list[Asset], seen: Seen) -> tuple[list[Asset], Seen]:
        """Leave out assets that were disposed of while the batch was read: their bytes are gone on purpose."""
        bad = [batch[check.position].render_id for check in seen.checks if check.verdict != "ok"]
        disposed = self._archive.catalog.disposed(bad) if bad else ()
        if not disposed:
            return batch, seen
        kept = [position for position, asset in enumerate(batch) if asset.render_id not in disposed]
        moved = {position: place for place, position in enumerate(kept)}
        checks = [check._replace(position=moved[check.position]) for check in seen.checks if check.position in moved]
        return [batch[position] for position in kept], seen._replace(checks=checks)

    def _recall(self, batch: list[Asset], reported: dict[int, Check]) -> list[Check]:
        """Add notes on what was odd about PDFs when they arrived, if they are unchanged since."""
        oddities = self._archive.catalog.oddities([asset.render_id for asset in batch])
        for position, asset in enumerate(batch):
            odd = oddities.get(asset.render_id)
            check = reported.get(position, Check(position, "ok"))
            if odd is not None and check.verdict == "ok":
                seen = (check.note or "").removeprefix(odd).removeprefix("; ")
                reported[position] = check._replace(note="; ".join(filter(None, (odd_on_arrival(odd), seen))))
        return [reported[position] for position in sorted(reported)]

    def _tell(self, asset: Asset, check: Check, accepted: str | None) -> Finding | Note:
        run_id, now = self._run.id or 0, self._archive.now()
        if check.verdict == "ok":
            return Note(run_id, asset.render_id, asset.key, check.note or "", now)
        detail = "; ".join(part for part in (check.detail, check.note) if part) or None
        return Finding(
            run_id, asset.render_id, asset.key, check.verdict, now, check.expected, check.found, detail, accepted
        )

    def keep(self, findings: list[Finding | Note]) -> list[Finding | Note]:
        """Keep findings for the next commit."""
        self._findings += findings
        return findings

    def commit_now_and_then(self) -> None:
        """Commit if the last commit was more than `COMMIT_SECONDS` ago."""
        if self._monotonic() - self._committed_at > COMMIT_SECONDS:
            self.commit()
            self._committed_at = self._monotonic()

    def commit(self) -> None:
        """Commit what has been collected; it is not tried again if that fails."""
        verdicts, findings = self._verdicts, self._findings
        self._verdicts, self._findings = {}, []
        if not verdicts and not findings:
            return
        now = self._archive.now()
        with self._archive.catalog.transaction():
            for verdict, render_ids in verdicts.items():
                self._archive.catalog.record_checks(now, verdict, render_ids)
            self._archive.catalog.add_findings(findings)
            bad = Counter[str](found.verdict for found in findings if _is_damage(found))
            if bad:
                self._archive.record_event("verify", bad, run=self._run.id)


def _is_damage(found: Finding | Note) -> TypeGuard[Finding]:
    """Return whether a finding is about a stored PDF whose loss was not accepted."""
    is_stray = isinstance(found, Finding) and found.verdict in ("orphan", "unrecorded")
    return isinstance(found, Finding) and not is_stray and found.acknowledged is None


def _strays(archive: Archive, run: Run) -> Iterator[list[Finding | Note]]:
    """Look for files that no render claims, some thousand at a time."""
    listing = archive.store.keys()
    while True:
        try:
            listed = list(islice(listing, LISTED))
        except RemoteError as error:  # the list only adds findings, and its failure undoes no check
            run.counts["notes"] += 1
            yield [
                Note(run.id or 0, None, "", f"files that no render claims were not looked for: {error}", archive.now())
            ]
            return
        if not listed:
            return
        found = [key for key in archive.catalog.unrecorded(listed) if not NOT_OURS.search(key)]
        if found:
            # A command that is writing stores bytes before it records them, so these may be its own. When none is, all
            # rows are there, and the catalog is asked again.
            found = [] if archive.is_being_written() else archive.catalog.unrecorded(found)
        yield _stray_findings(archive, run, found)


def _stray_findings(archive: Archive, run: Run, keys: list[str]) -> list[Finding | Note]:
    """Report files that no render claims, and files that a render claims and no fetch has recorded."""
    orphans = set(archive.catalog.unclaimed(keys)) if keys else set()
    expecting = archive.catalog.expecting([key for key in keys if key not in orphans]) if keys else {}
    findings: list[Finding | Note] = []
    now = archive.now()
    for key in keys:
        if key in orphans:
            run.counts["orphan"] += 1
            findings.append(Finding(run.id or 0, None, key, "orphan", now, detail="no render claims it"))
        elif key in expecting:
            run.counts["unrecorded"] += 1
            detail = "it is in the store and was never checked: `fetch` without a source records it, or says why not"
            findings.append(Finding(run.id or 0, expecting[key], key, "unrecorded", now, detail=detail))
    return findings
