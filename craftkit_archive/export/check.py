"""Checks an export without an archive: every file and digest, that nothing else is there, and the seal.

Source: RFC 8493, section 3 (complete and valid bags).
"""

import csv
import hashlib
import os
from array import array
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise, zip_longest
from pathlib import Path
from typing import NamedTuple

from craftkit_archive.archive import Run
from craftkit_archive.errors import AssetDamagedError, AssetError, AssetMissingError, RequestError
from craftkit_archive.export.bagit import FETCH, PAYLOAD
from craftkit_archive.export.reader import (
    INDEX,
    MARKER,
    MISSING,
    SEAL,
    SIGNATURE,
    Export,
    ListedFile,
    Manifest,
    open_part,
)
from craftkit_archive.export.unpacking import Part, is_system_file
from craftkit_archive.parallel.batches import Stop, in_batches, never
from craftkit_archive.parallel.cluster import Cluster, clustered, details_of, prove_by, workers
from craftkit_archive.parallel.pool import map_ordered, workers_for
from craftkit_archive.proof.seal import SealBuilder
from craftkit_archive.proof.signatures import SignatureRefusedError, find_signer
from craftkit_archive.records import Finding, Note, Plan, Progress, Record, Skipped, Verdict
from craftkit_archive.stores.folder import INCOMING
from craftkit_archive.stores.reach import shown_file
from craftkit_archive.values import Clock, format_time, mark_of, sorted_marks, utc_now

# The files, or their bytes, of one task. Each task wakes a thread of the parent, so large ones are cheaper; the bytes
# are limited so that progress is shown and a stop takes effect soon.
BATCH = 256
BATCH_BYTES = 16 << 20
_INCOMPLETE = ("unreadable",)
_NO_PROBLEM = ("checked", "ok", "lacking", "not_stored", "acknowledged", "disposed", *_INCOMPLETE)
MAX_SIGNED_BYTES = 1 << 16  # of a seal, or of its signature
_SIGNATURES = (".asc", ".gpg", ".sig", ".sign")


class _FileLook(NamedTuple):
    """A file to check; `part` is None if there is nothing to read."""

    path: str
    digests: tuple[tuple[str, str], ...]  # algorithm and hex digits, the strongest first
    part: Part | None
    problem: str | None
    unreadable: bool


class _Seen(NamedTuple):
    verdict: Verdict
    expected: str | None = None
    found: str | None = None
    detail: str | None = None


class _FileProblem(NamedTuple):
    path: str
    seen: _Seen


def check_export(
    path: str | Path,
    *,
    jobs: int | None = None,
    cluster: str | None = None,
    allowed_signers: Path | None = None,
    stop: Stop = never,
    clock: Clock = utc_now,
) -> Iterator[Record]:
    """Check an export of any form against its manifests, its index and its seal; nothing is written.

    A bad file is read a second time before it is reported. All digests that the manifests have for a file are compared.
    A bag is good if it is valid by RFC 8493; files that its `fetch.txt` names are `Skipped`, and never fetched.

    Args:
        path: The folder or file, made by any program.
        jobs: How many processes read, one if not given; with a cluster, how many batches are in flight.
        cluster: Address of a Dask scheduler whose workers read instead (see `docs/scale.md`); each must see the export.
        allowed_signers: A file of allowed signers as in `ssh-keygen(1)`, one of which must have signed the seal; if not
            given, the signature is not checked.
        stop: Asked between batches.
        clock: Returns the time, in UTC.

    Yields:
        `Plan`; a `Finding` for each file that differs from its record, is missing, or is not listed (`orphan`), and for
        each table that violates the rules (`malformed`); a `Note` for each allowed oddity; `Progress`; at last the
        `Summary`, whose counts are checked, ok, one for each other verdict, and not_stored (until 1.0 also as
        `lacking`), the number of files that the export itself lists as missing; and acknowledged and disposed, those
        accepted as lost or deleted for good. Its details have the seal and its signer.

    Raises:
        RequestError: The path is not an export.
        AssetUnreadableError: Its lists cannot be understood, or it breaks the rules for bags as a whole.
        NoSpaceError: There is no space to unpack a compressed tar.
        StoreOfflineError: A worker of the cluster does not see the export.
        RemoteError: The cluster cannot be reached, or was lost.

    Example:
        >>> from craftkit_archive import Archive, check_export, export_assets
        >>> with Archive("archive") as archive:
        ...     *_, exported = export_assets(archive, "out")
        >>> *_, summary = check_export("out")
        >>> summary.outcome, summary.exit_code
        ('ok', 0)
    """
    export = Export(Path(path))
    run = Run(None, "export-check")
    run.counts.update({"checked": 0, "ok": 0})
    now = format_time(clock())
    signer, unsigned = (None, []) if allowed_signers is None else _find_signer(export, allowed_signers)
    with clustered(cluster, jobs, prove_by(_seen_from_afar(export) if cluster is not None else never)) as team:
        for record in chain(_Check(export, run, team, jobs or 1, stop).results(), unsigned):
            if isinstance(record, _FileProblem):
                verdict, expected, found, detail = record.seen
                run.counts[verdict] += 1
                key = _shown(record.path)
                yield Finding(0, None, key, verdict, now, expected=expected, found=found, detail=detail)
            elif isinstance(record, _Remark):
                yield Note(0, None, _shown(record.path), record.detail, now)
            else:
                yield record
    missing, accepted, disposed = _missing(export) if export.is_ours else (0, 0, 0)
    if disposed:
        run.counts["disposed"] = disposed
    if missing:
        run.counts["lacking"] += missing
    if accepted:
        run.counts["acknowledged"] = accepted
    if run.counts["lacking"]:
        run.counts["not_stored"] = run.counts["lacking"]
    incomplete = any(run.counts[name] for name in ("lacking", *_INCOMPLETE))
    run.settle(problems=_count_problems(run) > 0, incomplete=incomplete, stopped=stop())
    seal = export.said().get("Seal") if export.is_ours else None
    yield run.summary(export=str(path), bag=export.is_bag, seal=seal, signer=signer, **details_of(team))


def _seen_from_afar(export: Export) -> Callable[[], object]:
    """Return the proof that a worker of a cluster sees the export, by the file of the manifest."""
    part = export.find(export.manifests[0].name)
    if part is None or not f"{part.file}/".startswith(f"{os.path.realpath(export.path)}/"):
        raise RequestError(
            f"{export.path} is unpacked into a file of this machine, which no worker sees. Leave --cluster out."
        )
    return shown_file(part.file)


def _find_signer(export: Export, allowed_signers: Path) -> tuple[str | None, list[_FileProblem]]:
    """Return who signed the seal, or the problem with the signature."""
    try:
        text, signature = (_bytes_of(export, name) for name in (SEAL, SIGNATURE))
        return find_signer(text, signature, allowed_signers), []
    except AssetMissingError:
        return None, [_FileProblem(SIGNATURE, _Seen("missing", detail="the seal is not signed"))]
    except AssetError as error:
        return None, [_FileProblem(SIGNATURE, _Seen("unreadable", detail=str(error)))]
    except SignatureRefusedError as error:
        return None, [_FileProblem(SIGNATURE, _Seen("wrong-digest", detail=f"the signature is not good: {error}"))]


def _bytes_of(export: Export, name: str) -> bytes:
    part = export.find(name)
    if part is None:
        raise AssetMissingError(f"{name} is not there")
    with open_part(name, part) as found:
        return found.file.read(MAX_SIGNED_BYTES)


def _count_problems(run: Run) -> int:
    return sum(count for name, count in run.counts.items() if name not in _NO_PROBLEM)


class _Remark(NamedTuple):
    path: str
    detail: str


_Result = _FileProblem | _Remark | Plan | Progress | Skipped


def _shown(path: str) -> str:
    """Return a file name, which may be of any bytes, as one line of text."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in path)


class _Marks:
    """The set of paths in a list, as 8 bytes of a hash of each in a sorted array, so that memory stays small."""

    def __init__(self) -> None:
        self._marks = array("Q")
        self._is_sorted = True

    def add(self, path: str) -> None:
        self._marks.append(mark_of(path))
        self._is_sorted = False

    def __contains__(self, mark: int) -> bool:
        marks = self._sorted()
        place = bisect_left(marks, mark)
        return place < len(marks) and marks[place] == mark

    def twice(self) -> set[int]:
        """Return the marks of the paths that are listed more than once."""
        return {one for one, following in pairwise(self._sorted()) if one == following}

    def _sorted(self) -> "array[int]":
        if not self._is_sorted:
            self._marks, self._is_sorted = sorted_marks(self._marks), True
        return self._marks


class _Check:
    """One check of an export; of each line of its lists, it keeps 8 bytes."""

    def __init__(self, export: Export, run: Run, team: Cluster | None, jobs: int, stop: Stop) -> None:
        self._export, self._run, self._team, self._jobs, self._stop = export, run, team, jobs, stop
        self._named = {manifest.name: _Marks() for manifest in [*export.manifests, *export.tag_manifests]}
        manifests = {*self._named, *export.unknown}
        # Files that need not be listed.
        self._own = manifests | {f"{name}{ending}" for name in manifests for ending in _SIGNATURES}
        self._holes = _Marks()
        self._held = 0
        self._respelled: list[str] = []

    def results(self) -> Iterator[_Result]:
        """Yield the plan, the problems, and the progress."""
        count, size = self._export.measure()
        yield Plan(count=count, size_bytes=size)
        for _, path, fetched in self._export.holes():
            if fetched is None:
                self._holes.add(path)
        yield from self._compare(workers_for(count, size, self._jobs))
        if not self._stop():
            yield from self._check_lists()
            yield from self._check_files()
            if self._export.is_ours:
                yield from _check_index(self._export, self._held)

    # --- every digest ---

    def _compare(self, jobs: int) -> Iterator[_Result]:
        under_way: deque[list[_FileLook]] = deque()

        def batches() -> Iterator[list[_FileLook]]:
            for batch in in_batches(self._looks(), BATCH, weigh=_look_bytes, limit=BATCH_BYTES):
                under_way.append(batch)
                yield batch

        with workers(self._team, jobs, lambda: never) as executor:
            for seen in map_ordered(executor, _check_batch, batches(), jobs=jobs, stop=self._stop):
                batch = under_way.popleft()
                size = sum(_look_bytes(look) for look in batch)
                self._run.counts["checked"] += len(batch)
                self._run.bytes_read += size
                for look, one in zip(batch, seen, strict=True):
                    if one.verdict == "ok":
                        self._run.counts["ok"] += 1
                    elif one.verdict == "missing" and not one.detail and mark_of(look.path) in self._holes:
                        self._run.counts["lacking"] += 1
                        yield Skipped(None, _shown(look.path), f"not fetched: {FETCH} names its source")
                    else:
                        yield _FileProblem(look.path, one)
                yield Progress(count=len(batch), size_bytes=size, file=_shown(batch[-1].path) if batch else None)
        yield from (_Remark(path, "found under another spelling of its name") for path in self._respelled)

    def _looks(self) -> Iterator[_FileLook]:
        """Yield each file once, if all manifests have the same order, as they do when one program wrote them."""
        for manifests in (self._export.manifests, self._export.tag_manifests):
            is_payload = manifests is self._export.manifests
            for row in zip_longest(*(self._named_by(manifest) for manifest in manifests)):
                entries: dict[str, list[ListedFile]] = {}
                for entry in filter(None, row):
                    entries.setdefault(entry.path, []).append(entry)
                for path, same in entries.items():
                    if is_payload and self._export.is_ours and ("/" in path or path.endswith(".pdf")):
                        self._held += sum(mark_of(f"{one.digest} {path}") for one in same if one.algorithm == "sha256")
                    yield self._look(same, is_payload=is_payload)

    def _named_by(self, manifest: Manifest) -> Iterator[ListedFile]:
        marks = self._named[manifest.name]
        for entry in self._export.entries(manifest):
            marks.add(entry.path)
            if entry.respelled and len(self._respelled) < BATCH:
                self._respelled.append(entry.path)
            yield entry

    def _look(self, same: list[ListedFile], *, is_payload: bool) -> _FileLook:
        first, problem = same[0], same[0].problem
        if is_payload and self._export.is_bag and not problem and not first.path.startswith(PAYLOAD):
            problem = f"a payload manifest lists what is in {PAYLOAD}, and nothing else"
        digests = tuple((entry.algorithm, entry.digest) for entry in same)
        return _FileLook(first.path, digests, None if problem else first.part, problem, first.unreadable)

    # --- no file twice, and no other files ---

    def _check_lists(self) -> Iterator[_Result]:
        export, standard = self._export, self._export.declaration is not None and self._export.declaration.is_standard
        for manifest in [*export.manifests, *export.tag_manifests]:
            twice = self._named[manifest.name].twice()
            for entry in export.entries(manifest) if twice else ():
                mark = mark_of(entry.path)
                if mark in twice:
                    twice.remove(mark)
                    detail = f"it lists {_shown(entry.path)} twice"
                    yield (
                        _FileProblem(manifest.name, _malformed(detail)) if standard else _Remark(manifest.name, detail)
                    )
        for name in export.unknown:
            yield _Remark(name, "not compared: its algorithm is unknown")
        for number, path, _ in export.holes():
            if not all(self._named_in(path, all_of=standard)):
                detail = f"line {number} names {_shown(path)}, which not every manifest lists"
                yield _FileProblem(FETCH, _malformed(detail))

    def _named_in(self, path: str, *, all_of: bool) -> list[bool]:
        """Return for each payload manifest whether it lists a path; or, unless `all_of`, whether any of them does."""
        mark = mark_of(path)
        named = [mark in self._named[manifest.name] for manifest in self._export.manifests]
        return named if all_of else [any(named)]

    def _check_files(self) -> Iterator[_Result]:
        """Find files that no manifest lists, and compare a bag's `Payload-Oxum` with its payload."""
        own = {mark_of(name) for name in self._own}
        if not self._export.is_bag and self._export.is_known_by_marks(lambda mark: mark in own or self._is_named(mark)):
            return
        count = size = 0
        for path, part in self._export.parts():
            if self._export.is_bag and path.startswith(PAYLOAD):
                named = self._named_in(path, all_of=True)
                if any(named):
                    count, size = count + 1, size + max(part.size_bytes, 0)
                if problem := self._unnamed_payload(path, named):
                    yield problem
            elif not self._is_expected(path):
                yield _FileProblem(path, _Seen("orphan", detail="no manifest lists it"))
        if self._export.is_bag and not self._export.has(PAYLOAD):
            yield _FileProblem(PAYLOAD, _Seen("missing", detail="a bag has this folder, even if it is empty"))
        # If something is missing or changed, the `Payload-Oxum` would only report that again.
        is_whole = not self._run.counts["lacking"] and not _count_problems(self._run)
        for name, oxum in self._export.oxums():
            if oxum != (size, count) and is_whole:
                expected = f"{oxum[0]}.{oxum[1]}" if oxum else None
                detail = "Payload-Oxum: bytes and files of the payload"
                yield _FileProblem(name, _Seen("wrong-size", expected, f"{size}.{count}", detail))

    def _unnamed_payload(self, path: str, named: list[bool]) -> _FileProblem | None:
        declaration = self._export.declaration
        if not any(named):
            return None if is_system_file(path) else _FileProblem(path, _Seen("orphan", detail="no manifest lists it"))
        if all(named) or declaration is None or not declaration.is_standard:
            return None
        name = self._export.manifests[named.index(False)].name
        return _FileProblem(path, _Seen("orphan", detail=f"{name} does not list it"))

    def _is_expected(self, path: str) -> bool:
        """Return whether a file outside a bag's payload is allowed."""
        export = self._export
        if self._is_named(mark_of(path)):
            return True
        if export.is_bag and not export.is_ours:
            return True  # unlisted tag files are allowed
        name = path.rpartition("/")[2]
        if is_system_file(path) or name == MARKER or path.startswith(f"{INCOMING}/"):
            return True
        return path in self._own

    def _is_named(self, mark: int) -> bool:
        return any(mark in marks for marks in self._named.values())


def _malformed(detail: str) -> _Seen:
    return _Seen("malformed", detail=detail)


def _look_bytes(look: _FileLook) -> int:
    return look.part.size_bytes if look.part else 0


def _check_batch(batch: list[_FileLook]) -> list[_Seen]:
    return [_check_look(look) for look in batch]


def _check_look(look: _FileLook) -> _Seen:
    if look.part is None:
        return _Seen("unreadable" if look.unreadable else "missing", detail=look.problem)
    seen = _read_part(look, look.part)
    if seen.verdict == "ok":
        return seen
    seen = _read_part(look, look.part)
    return seen if seen.verdict != "ok" else _Seen("unreadable", detail="bad at first, good when read again")


def _read_part(look: _FileLook, part: Part) -> _Seen:
    strongest, *weaker = look.digests
    try:
        with open_part(look.path, part) as found:
            digests = _digests(found.chunks(), {algorithm for algorithm, _ in look.digests})
    except AssetDamagedError as error:
        return _Seen("wrong-digest", detail=str(error))
    except AssetError as error:
        return _Seen("unreadable", detail=str(error))
    if digests[strongest[0]] != strongest[1]:
        return _Seen("wrong-digest", strongest[1], digests[strongest[0]])
    for algorithm, digest in weaker:
        if digests[algorithm] != digest:
            detail = f"its {algorithm} is wrong, its {strongest[0]} is right"
            return _Seen("wrong-digest", digest, digests[algorithm], detail)
    return _Seen("ok")


def _digests(chunks: Iterable[bytes], algorithms: set[str]) -> dict[str, str]:
    """Hash a stream with several algorithms in one pass."""
    hashed = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    updates: list[Callable[[bytes], None]] = [one.update for one in hashed.values()]
    for chunk in chunks:
        for update in updates:
            update(chunk)
    return {name: one.hexdigest() for name, one in hashed.items()}


def _check_index(export: Export, held: int) -> Iterator[_FileProblem]:
    """Compare the index with the manifest, and the seal with the index."""
    with SealBuilder() as sealing:
        for listed in export.listed():
            held -= mark_of(f"{listed.sha256} {listed.path}")
            sealing.add(listed.sha256, listed.asset_key or "")
        sealed = sealing.result()
    if held != 0:
        yield _FileProblem(INDEX, _Seen("wrong-digest", detail="it lists other files than the manifest"))
    noted = export.said().get("Seal")
    if noted != sealed:
        yield _FileProblem(SEAL, _Seen("wrong-digest", noted, sealed, "the seal is not that of the index"))


def _missing(export: Export) -> tuple[int, int, int]:
    """Count the files that the export itself lists as missing: not accepted as lost, accepted, and disposed."""
    if export.find(MISSING) is None:
        return 0, 0, 0
    counts: Counter[str] = Counter()
    with export.text(MISSING) as lines:
        for row in csv.DictReader(lines):
            disposed, accepted = row.get("reason") == "disposed", bool(row.get("acknowledged"))
            counts["disposed" if disposed else "acknowledged" if accepted else "missing"] += 1
    return counts["missing"], counts["acknowledged"], counts["disposed"]
