"""Verify: every stored asset against what is recorded of it, and a ledger of when that was."""

import time
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from craftkit_archive.archive import Archive, Run
from craftkit_archive.catalog import Asset, Selection
from craftkit_archive.errors import AssetError, AssetMissingError
from craftkit_archive.pdf import Ends, opens
from craftkit_archive.places import open_store
from craftkit_archive.records import Finding, Plan, Progress, Record, Verdict
from craftkit_archive.store import OpenAsset, Store, digest
from craftkit_archive.work import Stop, in_batches, never, processes, spread, workers_for

BATCH = 256
BATCH_BYTES = 16 << 20
COMMIT_SECONDS = 2.0

Level = Literal["size", "digest"]

_INCOMPLETE = ("unreadable", "unverified")


class _Task(NamedTuple):
    store: str
    level: Level
    assets: list[Asset]


class _Check(NamedTuple):
    """What was seen of one asset; `expected` and `found` are sizes or digests, as the verdict has it."""

    asset: Asset
    verdict: Verdict
    bytes_read: int = 0
    expected: str | None = None
    found: str | None = None
    detail: str | None = None


def verify_assets(
    archive: Archive,
    *,
    level: Level = "digest",
    selection: Selection | None = None,
    jobs: int = 1,
    stop: Stop = never,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[Record]:
    """Check stored assets, and write into the ledger what was seen.

    An asset is read once more before it is accused. What was read counts, whatever stops the rest: verdicts are
    committed every few seconds. Only the digest level proves an asset good: the size level writes down what it finds
    wrong, and nothing else.

    Args:
        archive: Open for writing. The writer's lock is not taken, so that other commands can go on.
        level: `size` compares lengths, `digest` reads every byte.
        selection: Which renders' assets; all if not given.
        jobs: How many processes read.
        stop: Asked between batches.
        monotonic: Tells seconds, for the commits.

    Yields:
        `Plan`; a `Finding` for each asset that is not `ok`; `Progress`; at last the `Summary`, whose counts are
        checked, ok, and one for each other verdict.

    Raises:
        StoreOfflineError, StoreMismatchError: The store is not there, or not this archive's, or no longer. Then no
            asset is called missing; what was seen before stays recorded.
    """
    selection = selection or Selection()
    archive.store.check(archive.id)
    with archive.run("verify", {"level": level}) as run:
        count, size = archive.catalog.count_stored(selection)
        yield Plan(count=count, size_bytes=size)
        run.counts.update({"checked": 0, "ok": 0})
        jobs = workers_for(count, size, jobs)
        assets = archive.catalog.stored_assets(selection)
        batches = in_batches(assets, BATCH, weigh=lambda asset: asset.size_bytes or 0, limit=BATCH_BYTES)
        tasks = (_Task(archive.store.address, level, batch) for batch in batches)
        pending = _Pending()
        committed_at = monotonic()
        try:
            with processes(jobs) as executor:
                for checks in spread(executor, _check, tasks, jobs=jobs, stop=stop):
                    if any(check.verdict == "missing" for check in checks):
                        # A store that went away in the meantime is not a thousand deleted files.
                        archive.store.check(archive.id)
                    findings = _count(checks, run, archive.now())
                    pending.add(checks, findings)
                    yield from findings
                    yield Progress(count=len(checks), size_bytes=sum(check.bytes_read for check in checks))
                    if monotonic() - committed_at > COMMIT_SECONDS:
                        pending.commit(archive, level)
                        committed_at = monotonic()
        finally:
            pending.commit(archive, level)
        bad = {verdict for verdict in run.counts if run.counts[verdict]} - {"checked", "ok"}
        run.settle(problems=bool(bad.difference(_INCOMPLETE)), incomplete=bool(bad), stopped=stop())
    yield run.summary()


def _count(checks: list[_Check], run: Run, now: str) -> list[Finding]:
    """Add checks to the counts of a run, and return what is not ok."""
    for check in checks:
        run.counts["checked"] += 1
        run.counts[check.verdict] += 1
        run.bytes_read += check.bytes_read
    return [
        Finding(
            run_id=run.id or 0,
            render_id=check.asset.render_id,
            key=check.asset.key,
            verdict=check.verdict,
            expected=check.expected,
            found=check.found,
            detail=check.detail,
            found_at=now,
        )
        for check in checks
        if check.verdict != "ok"
    ]


class _Pending:
    """What has been seen and is not in the ledger yet."""

    def __init__(self) -> None:
        self._checks: list[_Check] = []
        self._findings: list[Finding] = []

    def add(self, checks: list[_Check], findings: list[Finding]) -> None:
        self._checks += checks
        self._findings += findings

    def commit(self, archive: Archive, level: Level) -> None:
        """Write it into the ledger, once, whether that succeeds or not."""
        checks, findings = self._checks, self._findings
        self._checks, self._findings = [], []
        if not checks:
            return
        now = archive.now()
        proven = [check for check in checks if level != "size" or check.verdict != "ok"]
        with archive.catalog.transaction():
            archive.catalog.record_checks((now, check.verdict, check.asset.render_id) for check in proven)
            archive.catalog.add_findings(findings)


# --- in the workers --------------------------------------------------------------------------------------------------


def _check(task: _Task) -> list[_Check]:
    store = open_store(task.store)
    return [_check_one(store, task.level, asset) for asset in task.assets]


def _check_one(store: Store, level: Level, asset: Asset) -> _Check:
    first = _look(store, level, asset)
    if first.verdict in ("ok", "unverified"):
        return first
    second = _look(store, level, asset)
    if second.verdict != "ok":
        return second
    detail = f"{first.verdict} on the first reading, good on the second: look at the disk and the memory"
    return second._replace(verdict="unreadable", detail=detail)


def _look(store: Store, level: Level, asset: Asset) -> _Check:
    try:
        with store.open(asset.key) as found:
            if asset.size_bytes is not None and found.size_bytes != asset.size_bytes:
                return _accuse(asset, found, "wrong-size", str(asset.size_bytes), str(found.size_bytes))
            if level == "size":
                return _Check(asset, "ok" if asset.size_bytes is not None else "unverified")
            stored = digest(found.chunks())
            if asset.sha256 is None:
                return _Check(asset, "unverified", stored.size_bytes, None, stored.sha256, "no digest is recorded")
            if stored.sha256 != asset.sha256:
                return _accuse(asset, found, "wrong-digest", asset.sha256, stored.sha256)
            return _Check(asset, "ok", stored.size_bytes)
    except AssetMissingError as error:
        return _Check(asset, "missing", detail=str(error))
    except AssetError as error:
        return _Check(asset, "unreadable", detail=str(error))


def _accuse(asset: Asset, found: OpenAsset, verdict: Verdict, expected: str, got: str) -> _Check:
    """Name the cause where the bytes show one, and otherwise what differs."""
    found.file.seek(0)
    ends = Ends()
    for _chunk in ends.watch(found.chunks()):
        pass
    symptom = ends.symptom()
    if symptom is not None:
        cause, detail = symptom
        # Only a shorter file was cut; and one flipped bit in the header does not make it something else.
        shorter = asset.size_bytes is not None and ends.size_bytes < asset.size_bytes
        if cause == "empty" or (cause == "truncated" and shorter) or (cause == "not-a-pdf" and not opens(found.file)):
            return _Check(asset, cause, ends.size_bytes, expected, got, detail)
    return _Check(asset, verdict, ends.size_bytes, expected, got)
