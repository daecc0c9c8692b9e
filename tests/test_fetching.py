"""Fetch: everything that is missing, checked on arrival, however often it is interrupted."""

import csv
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from hashlib import sha256
from io import StringIO
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from craftkit_archive.archive import CATALOG
from craftkit_archive.errors import AssetKeyError, NoSpaceError, StoreMismatchError, StoreOfflineError
from craftkit_archive.export.check import check_export
from craftkit_archive.export.run import export_assets
from craftkit_archive.fetch.run import fetch_assets
from craftkit_archive.records import Finding, Note, Planned, Record, Skipped, Summary
from craftkit_archive.repair.rebuild import rebuild_archive
from craftkit_archive.repair.run import repair_assets
from craftkit_archive.report.forms import write_csv
from craftkit_archive.report.gather import gather_report
from craftkit_archive.stores.address import open_store
from craftkit_archive.stores.base import OpenAsset, StagedAsset, digest
from craftkit_archive.stores.folder import INCOMING, FolderStore
from craftkit_archive.verify.run import verify_assets
from tests.services import BUCKET
from tests.test_store import NOT_FILES
from tests.worlds import (
    LIVE_KEY,
    ROOT,
    SOUTHWIND,
    World,
    fill,
    keys,
    live,
    load,
    pdf,
    program,
    projects,
    put,
    render,
    render_id,
    summary_of,
    write_ndjson,
)


def fetch(world: World, **options: Any) -> tuple[Summary, list[Record]]:
    records = list(fetch_assets(world.archive, str(world.bucket), **options))
    assert isinstance(records[-1], Summary)
    counts = records[-1].counts
    assert counts["expected"] == counts["copied"] + counts["adopted"] + counts["absent"] + counts["refused"]
    return records[-1], records[:-1]


def stored(world: World) -> set[str]:
    return {asset.render_id for asset in world.archive.catalog.stored_assets(world.archive.select())}


@pytest.fixture
def empty(tmp_path: Path) -> World:
    """Return an archive that expects ten renders, and a bucket that has them."""
    world = fill(tmp_path, count=0)
    rows = [render(number) for number in range(10)]
    for row in rows:
        put(world.bucket, row["asset_key"], pdf(row["id"]))
    load(world.archive, tmp_path, "renders", rows)
    return world


def test_fetch_copies_byte_for_byte_and_records_the_digest(empty: World) -> None:
    summary, _ = fetch(empty)
    assert (summary.outcome, summary.counts["copied"]) == ("ok", 10)
    for asset in empty.archive.catalog.stored_assets(empty.archive.select()):
        body = (empty.bucket / asset.key).read_bytes()
        assert Path(empty.archive.store.address, asset.key).read_bytes() == body
        assert (asset.size_bytes, asset.sha256) == digest([body])
    assert not Path(empty.archive.store.address, INCOMING).exists()


def test_fetch_twice_copies_once(empty: World) -> None:
    fetch(empty)
    before = {path: path.stat().st_mtime_ns for path in Path(empty.archive.store.address).rglob("*.pdf")}
    summary, _ = fetch(empty)
    assert (summary.outcome, summary.counts["expected"]) == ("ok", 0)
    assert before == {path: path.stat().st_mtime_ns for path in Path(empty.archive.store.address).rglob("*.pdf")}


def test_several_processes_do_what_one_does(tmp_path: Path) -> None:
    world = fill(tmp_path, count=0)
    rows = [render(number) for number in range(200)]
    for row in rows:
        put(world.bucket, row["asset_key"], pdf(row["id"]))
    load(world.archive, tmp_path, "renders", rows)
    summary, _ = fetch(world, jobs=2)
    assert summary.counts["copied"] == 200
    assert summary_of(verify_assets(world.archive, jobs=2)).counts == {"checked": 200, "ok": 200}


def test_only_succeeded_renders_are_expected(empty: World) -> None:
    load(empty.archive, empty.folder, "renders", [render(20, status="failed"), render(21, status="queued")])
    assert fetch(empty)[0].counts["expected"] == 10


def test_what_the_source_lacks_is_skipped_and_said(empty: World) -> None:
    (empty.bucket / render(3)["asset_key"]).unlink()
    summary, records = fetch(empty)
    assert (summary.outcome, summary.counts["copied"], summary.counts["absent"]) == ("incomplete", 9, 1)
    assert [record.render_id for record in records if isinstance(record, Skipped)] == [render_id(3)]


DAMAGED = {
    "empty": b"",
    "not-a-pdf": b"<!DOCTYPE html><title>Sign in</title>" + b" " * 3000,
    "truncated": pdf("cut", size_bytes=4000)[:3000],
}


@pytest.mark.parametrize("verdict", DAMAGED)
def test_what_arrives_damaged_is_not_stored_and_stops_nothing(empty: World, verdict: str) -> None:
    put(empty.bucket, render(3)["asset_key"], DAMAGED[verdict])
    summary, records = fetch(empty)
    assert (summary.outcome, summary.counts["copied"], summary.counts["refused"]) == ("problems", 9, 1)
    [finding] = [record for record in records if isinstance(record, Finding)]
    assert (finding.verdict, finding.render_id) == (verdict, render_id(3))
    assert not empty.asset(3).exists()
    put(empty.bucket, render(3)["asset_key"], pdf("mended"))
    assert fetch(empty)[0].counts["copied"] == 1


# --- odd bytes, and who vouches for them -----------------------------------------------------------------------------

WHOLE = pdf("a whole one")
ODD: dict[str, tuple[bytes, str]] = {
    **{verdict: (body, verdict) for verdict, body in DAMAGED.items()},
    "much padding": (WHOLE + b"\n" * 70_000, "odd"),
    "no %%EOF": (WHOLE.replace(b"%%EOF\n", b""), "truncated"),
    "frames of aws-chunked": (b"4d2;chunk-signature=" + b"0a" * 32 + b"\r\n" + WHOLE + b"\r\n0\r\n\r\n", "odd"),
    "junk before it": (b"junk\n" + WHOLE, "odd"),
    "much junk before it": (b"junk\n" * 300 + WHOLE, "not-a-pdf"),
    "an update that is cut": (WHOLE + b"5 0 obj\n<< /Half", "truncated"),
}


def declare(world: World, number: int, body: bytes, **other: Any) -> None:
    declared: dict[str, Any] = {"size_bytes": len(body), "sha256": sha256(body).hexdigest()} | other
    load(world.archive, world.folder, "renders", [render(number, **declared)])


def notes(records: list[Record]) -> list[Note]:
    return [record for record in records if isinstance(record, Note)]


@pytest.mark.parametrize("oddity", ODD)
def test_what_is_vouched_for_is_stored_whatever_it_looks_like(empty: World, oddity: str) -> None:
    body = ODD[oddity][0]
    put(empty.bucket, render(3)["asset_key"], body)
    declare(empty, 3, body)
    summary, records = fetch(empty)
    assert (summary.outcome, summary.counts["copied"], summary.counts["odd"]) == ("ok", 10, 1)
    [note] = notes(records)
    assert note.render_id == render_id(3)
    assert note.detail.startswith("odd on arrival: ")
    assert empty.asset(3).read_bytes() == body
    assert list(empty.archive.catalog.findings_of(summary.run_id or 0)) == [note], "it is kept"


@pytest.mark.parametrize("oddity", ODD)
def test_odd_bytes_that_nobody_vouches_for_are_refused_unless_asked_for(empty: World, oddity: str) -> None:
    body, verdict = ODD[oddity]
    put(empty.bucket, render(3)["asset_key"], body)
    summary, records = fetch(empty)
    assert (summary.outcome, summary.counts["copied"], summary.counts["refused"]) == ("problems", 9, 1)
    [finding] = [record for record in records if isinstance(record, Finding)]
    assert finding.verdict == verdict
    assert "nothing vouches" in (finding.detail or "")
    assert "--accept-odd" in (finding.detail or "")
    summary, records = fetch(empty, accept_odd=True)
    assert (summary.outcome, summary.counts["copied"], summary.counts["odd"]) == ("ok", 1, 1)
    assert empty.asset(3).read_bytes() == body
    assert len(notes(records)) == 1


@pytest.mark.parametrize("oddity", ODD)
@pytest.mark.parametrize("declared", [{"size_bytes": 12_345}, {"sha256": "0" * 64}])
def test_what_contradicts_its_declaration_is_refused_even_if_odd_bytes_are_asked_for(
    empty: World, oddity: str, declared: dict[str, Any]
) -> None:
    body, verdict = ODD[oddity]
    put(empty.bucket, render(3)["asset_key"], body)
    declare(empty, 3, body, **declared)
    summary, records = fetch(empty, accept_odd=True)
    assert summary.counts["refused"] == 1
    [finding] = [record for record in records if isinstance(record, Finding)]
    assert finding.verdict == verdict
    assert "declared" in (finding.detail or "")
    assert "--accept-odd" not in (finding.detail or "")


@pytest.mark.parametrize("oddity", ODD)
def test_adopting_a_mirror_follows_the_same_rules_and_leaves_nothing_unsaid(empty: World, oddity: str) -> None:
    body = ODD[oddity][0]
    put(empty.bucket, render(3)["asset_key"], body)
    put(empty.bucket, render(4)["asset_key"], body)
    declare(empty, 4, body)
    shutil.copytree(empty.bucket, empty.archive.store.address, dirs_exist_ok=True)
    summary = summary_of(fetch_assets(empty.archive))
    assert (summary.counts["adopted"], summary.counts["odd"], summary.counts["refused"]) == (9, 1, 1)
    summary = summary_of(verify_assets(empty.archive))
    assert (summary.outcome, summary.counts["unrecorded"]) == ("incomplete", 1)
    summary = summary_of(fetch_assets(empty.archive, accept_odd=True))
    assert (summary.counts["adopted"], summary.counts["odd"]) == (1, 1)
    assert summary_of(verify_assets(empty.archive)).counts == {"checked": 10, "ok": 10, "notes": 2}


@pytest.mark.parametrize("level", ["digest", "pdf"])
def test_every_verification_repeats_what_was_odd_on_arrival(empty: World, level: Any) -> None:
    put(empty.bucket, render(3)["asset_key"], b"junk\n" + WHOLE)
    fetch(empty, accept_odd=True)
    records = list(verify_assets(empty.archive, level=level))
    [note] = notes(records)
    said = "5 bytes before %PDF-: they begin with 'junk\\n'"
    assert note.detail.startswith(f"odd on arrival: {said}")
    assert note.detail.count(said) == 1
    with StringIO() as out:
        write_csv(gather_report(empty.archive), out)
        assert "odd on arrival" in out.getvalue()
    empty.asset(3).write_bytes(WHOLE)
    assert [type(record) for record in verify_assets(empty.archive) if isinstance(record, (Note, Finding))] == [Finding]


@pytest.mark.parametrize("oddity", ODD)
def test_odd_assets_are_exported_served_repaired_and_rebuilt_as_others_are(empty: World, oddity: str) -> None:
    body, folder = ODD[oddity][0], empty.folder
    put(empty.bucket, render(3)["asset_key"], body)
    declare(empty, 3, body)
    load(empty.archive, folder, "projects", projects())
    load(empty.archive, folder, "keys", keys())
    fetch(empty)
    with live(empty.archive) as url:
        asked = urllib.request.Request(f"{url}/v1/renders/{render_id(3)}/download")
        asked.add_header("Authorization", f"Bearer {LIVE_KEY}")
        with urllib.request.urlopen(asked, timeout=30) as answer:
            assert (answer.status, answer.read()) == (200, body)
        assert summary_of(export_assets(empty.archive, folder / "export")).outcome == "ok"
        assert summary_of(check_export(folder / "export")).outcome == "ok"
        with (folder / "export" / "odd.csv").open(newline="") as file:
            [listed] = csv.DictReader(file)
        assert (listed["render_id"], listed["detail"].partition(":")[0]) == (render_id(3), "odd on arrival")
        assert (folder / "export" / listed["path"]).read_bytes() == body
    empty.asset(3).write_bytes(b"changed")
    assert summary_of(verify_assets(empty.archive)).outcome == "problems"
    assert summary_of(repair_assets(empty.archive, str(empty.bucket))).counts["repaired"] == 1
    assert empty.asset(3).read_bytes() == body
    rows = write_ndjson(folder / "all.ndjson", [render(number) for number in range(10)])
    empty.archive.catalog.close()
    (empty.archive.path / CATALOG).unlink()
    summary = summary_of(rebuild_archive(empty.archive.path, {"renders": [str(rows)]}))
    assert (summary.counts["adopted"], summary.counts["odd"], summary.counts["refused"]) == (10, 1, 0)


def fill_bucket(url: str, folder: Path) -> str:
    """Put a folder's files under a prefix of their own into a bucket, and return its address."""
    address = f"s3://{BUCKET}/{token_hex(8)}?endpoint_url={url}"
    store = open_store(address)
    for entry in FolderStore(folder).list():
        store.write(entry.key, [(folder / entry.key).read_bytes()])
    return address


def test_what_an_s3_service_vouches_for_is_stored(empty: World, moto: str) -> None:
    """Its ETag is an MD5 of what was uploaded."""
    body = ODD["no %%EOF"][0]
    put(empty.bucket, render(3)["asset_key"], body)
    address = fill_bucket(moto, empty.bucket)
    records = list(fetch_assets(empty.archive, address))
    assert isinstance(records[-1], Summary)
    assert (records[-1].outcome, records[-1].counts["odd"]) == ("ok", 1)


def test_what_a_server_of_ours_vouches_for_is_stored(
    empty: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Repr-Digest is the SHA-256 of what it holds."""
    body = ODD["frames of aws-chunked"][0]
    put(empty.bucket, render(3)["asset_key"], body)
    load(empty.archive, empty.folder, "projects", projects())
    load(empty.archive, empty.folder, "keys", keys())
    fetch(empty, accept_odd=True)
    other = fill(tmp_path / "other", count=0)
    load(other.archive, tmp_path, "renders", [render(3)])
    monkeypatch.setenv("CRAFTKIT_API_KEY", LIVE_KEY)
    with live(empty.archive) as url:
        summary = summary_of(fetch_assets(other.archive, url))
    assert (summary.outcome, summary.counts["copied"], summary.counts["odd"]) == ("ok", 1, 1)
    assert other.asset(3).read_bytes() == body


def test_an_etag_that_is_to_be_ignored_vouches_for_nothing(empty: World, moto: str) -> None:
    put(empty.bucket, render(3)["asset_key"], ODD["no %%EOF"][0])
    address = fill_bucket(moto, empty.bucket)
    assert summary_of(fetch_assets(empty.archive, address, ignore_etag=True)).counts["refused"] == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_an_object_that_cannot_be_read_is_a_finding(empty: World, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    path, real = str(empty.bucket / render(3)["asset_key"]), os.open

    def refuse(name: str, *given: Any, **names: Any) -> int:
        if name == path:
            raise OSError(number, os.strerror(number))
        return real(name, *given, **names)

    monkeypatch.setattr(os, "open", refuse)
    summary, records = fetch(empty)
    assert summary.counts["refused"] == 1
    assert [record.verdict for record in records if isinstance(record, Finding)] == ["unreadable"]


def test_bytes_that_are_in_the_store_already_are_recorded(empty: World) -> None:
    put(Path(empty.archive.store.address), render(3)["asset_key"], pdf(render_id(3)))
    summary, _ = fetch(empty)
    assert (summary.counts["copied"], summary.counts["adopted"]) == (9, 1)


def test_other_bytes_in_the_store_are_a_finding_and_stay(empty: World) -> None:
    path = put(Path(empty.archive.store.address), render(3)["asset_key"], pdf("other"))
    summary, records = fetch(empty)
    assert (summary.outcome, summary.counts["refused"]) == ("problems", 1)
    assert [record.verdict for record in records if isinstance(record, Finding)] == ["wrong-digest"]
    assert path.read_bytes() == pdf("other")
    assert render_id(3) not in stored(empty)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_source_that_changes_while_it_is_read_is_refused(
    empty: World, monkeypatch: pytest.MonkeyPatch, change: int
) -> None:
    real = FolderStore.open

    def other_size(store: FolderStore, key: str) -> OpenAsset:
        found = real(store, key)
        if key == render(3)["asset_key"]:
            found.size_bytes += change
        return found

    monkeypatch.setattr(FolderStore, "open", other_size)
    summary, records = fetch(empty)
    assert summary.counts["refused"] == 1
    assert [record.verdict for record in records if isinstance(record, Finding)] == ["wrong-size"]
    assert not empty.asset(3).exists()


def test_an_asset_that_nobody_has_is_claimed_by_nobody(empty: World) -> None:
    key = "elsewhere/x.pdf"
    load(empty.archive, empty.folder, "renders", [render(20, asset_key=key), render(21, asset_key=key)])
    _, records = fetch(empty)
    assert [record.reason for record in records if isinstance(record, Skipped)] == [
        "not stored: the source does not have it"
    ] * 2


def test_two_renders_cannot_claim_one_asset(empty: World) -> None:
    load(empty.archive, empty.folder, "renders", [render(20, asset_key=render(3)["asset_key"])])
    summary, records = fetch(empty)
    assert (summary.outcome, summary.counts["copied"], summary.counts["absent"]) == ("incomplete", 10, 1)
    assert [record.reason for record in records if isinstance(record, Skipped)] == [
        f"not stored: render {render_id(3)} has this asset key"
    ]


def test_a_selection_and_a_limit_narrow_it(empty: World) -> None:
    later = render(20, project_id=SOUTHWIND, created_at="2026-07-01")
    put(empty.bucket, later["asset_key"], pdf("later"))
    load(empty.archive, empty.folder, "renders", [later])
    assert fetch(empty, limit=2)[0].counts["copied"] == 2
    assert fetch(empty, selection=empty.archive.select(since="2026-07-01"))[0].counts["copied"] == 1
    assert fetch(empty, selection=empty.archive.select(projects=("northwind",)))[0].counts["copied"] == 8


def test_a_dry_run_changes_nothing(empty: World) -> None:
    (empty.bucket / render(3)["asset_key"]).unlink()
    runs = len(empty.archive.catalog.last_runs(100))
    summary, records = fetch_dry(empty)
    assert (summary.outcome, summary.counts["expected"], summary.counts["absent"]) == ("incomplete", 10, 1)
    planned = [record for record in records if isinstance(record, Planned)]
    assert {record.size_bytes for record in planned} == {len(pdf(render_id(0)))}
    assert len(planned) == 9
    assert stored(empty) == set()
    assert len(empty.archive.catalog.last_runs(100)) == runs


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_stop_in_the_middle_of_a_batch_keeps_what_has_arrived(tmp_path: Path, jobs: int) -> None:
    world = fill(tmp_path, count=0)
    rows = [render(number) for number in range(200)]
    for row in rows:
        put(world.bucket, row["asset_key"], pdf(row["id"], size_bytes=20_000))
    load(world.archive, tmp_path, "renders", rows)
    store = Path(world.archive.store.address)
    words = program(
        "--json", "fetch", world.bucket, "--bwlimit", "100k", "--jobs", str(jobs), archive=world.archive.path
    )
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE) as running:
        while len(list(store.glob(f"{INCOMING}/*"))) < 4:
            time.sleep(0.02)
        began = time.monotonic()
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=30) == 143
        assert time.monotonic() - began < 10
    assert 2 <= len(stored(world)) < 200
    assert not (store / INCOMING).exists()
    assert fetch(world)[0].outcome == "ok"
    assert len(stored(world)) == 200


@pytest.mark.parametrize("make", NOT_FILES.values(), ids=list(NOT_FILES))
def test_what_is_not_a_file_at_the_source_is_told_and_stops_nothing(
    empty: World, make: Callable[[Path], object]
) -> None:
    in_place = empty.bucket / render(3)["asset_key"]
    in_place.unlink()
    make(in_place)
    summary, records = fetch(empty)
    assert [record.verdict for record in records if isinstance(record, Finding)] == ["not-a-file"]
    assert (summary.counts["copied"], summary.counts["refused"]) == (9, 1)


def test_names_that_the_store_refuses_are_told_and_stop_nothing(empty: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = FolderStore.stage

    def refuse(store: FolderStore, key: str, *given: Any, **names: Any) -> StagedAsset:
        if key == render(3)["asset_key"]:
            raise AssetKeyError("Cannot write it: file name too long.")
        return real(store, key, *given, **names)

    monkeypatch.setattr(FolderStore, "stage", refuse)
    summary, _ = fetch(empty)
    assert (summary.outcome, summary.counts["copied"], summary.counts["absent"]) == ("incomplete", 9, 1)


def fetch_dry(world: World) -> tuple[Summary, list[Record]]:
    records = list(fetch_assets(world.archive, str(world.bucket), dry_run=True))
    assert isinstance(records[-1], Summary)
    return records[-1], records[:-1]


def test_a_store_or_source_that_is_not_there_stops_it(empty: World, tmp_path: Path) -> None:
    with pytest.raises(StoreOfflineError):
        list(fetch_assets(empty.archive, str(tmp_path / "nowhere")))
    store = Path(empty.archive.store.address)
    store.rename(tmp_path / "unmounted")
    with pytest.raises(StoreOfflineError):
        fetch(empty)
    store.mkdir()
    with pytest.raises(StoreOfflineError):
        fetch(empty)
    FolderStore(store).mark("another")
    with pytest.raises(StoreMismatchError):
        fetch(empty)


def test_a_full_disk_stops_it_and_keeps_what_was_good(empty: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("craftkit_archive.fetch.run.BATCH", 2)
    real, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 15:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(NoSpaceError, match="Free some"):
        fetch(empty)
    monkeypatch.undo()
    kept = len(stored(empty))
    assert 0 < kept < 10
    assert summary_of(verify_assets(empty.archive)).outcome == "ok"
    summary, _ = fetch(empty)
    assert summary.counts["copied"] + summary.counts["adopted"] == 10 - kept


def test_a_stop_ends_it_after_what_is_under_way(empty: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("craftkit_archive.fetch.run.BATCH", 1)
    monkeypatch.setattr("craftkit_archive.parallel.pool.AHEAD", 1)
    summary, _ = fetch(empty, stop=lambda: bool(stored(empty)))
    assert summary.outcome == "interrupted"
    assert 0 < summary.counts["copied"] < 10
    assert fetch(empty)[0].outcome == "ok"
    assert len(stored(empty)) == 10


# --- killed ----------------------------------------------------------------------------------------------------------

KILLS = 12


@pytest.mark.long
def test_killing_fetch_at_any_moment_leaves_an_archive_that_is_good(tmp_path: Path) -> None:
    """A row never speaks of bytes that are not whole in the store, and a last fetch does the rest."""
    count = 600
    world = fill(tmp_path, count=0)
    rows = [render(number) for number in range(count)]
    for row in rows:
        put(world.bucket, row["asset_key"], pdf(row["id"], size_bytes=20_000))
    load(world.archive, tmp_path, "projects", projects())
    load(world.archive, tmp_path, "renders", rows)
    words = program("fetch", world.bucket, "--jobs", "2", archive=world.archive.path)
    chance = random.Random(20260605)
    store = Path(world.archive.store.address)
    kept = 0
    halfway = 0
    for _ in range(KILLS):
        with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as fetching:
            enough = _count(store) + chance.randrange(90)
            while fetching.poll() is None and _count(store) < enough:
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.03))
            fetching.send_signal(signal.SIGKILL)
        for asset in world.archive.catalog.stored_assets(world.archive.select()):
            body = Path(world.archive.store.address, asset.key).read_bytes()
            assert (asset.size_bytes, asset.sha256) == digest([body])
        now = len(stored(world))
        assert now >= kept, "what was recorded stays recorded"
        kept = now
        halfway += 0 < kept < count
    assert halfway, "no kill came at a moment that shows anything"
    summary, _ = fetch(world)
    assert summary.outcome == "ok"
    assert summary_of(verify_assets(world.archive)).counts == {"checked": count, "ok": count}
    assert {path.name for path in Path(world.archive.store.address).iterdir()} == {"renders", ".craftkit-archive"}


def _count(store: Path) -> int:
    return sum(1 for _ in (store / "renders").rglob("*.pdf"))


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, sys, time\n"
        "from craftkit_archive.parallel.pool import processes, map_ordered\n"
        "from tests.test_fetching import report_and_sleep\n"
        "if __name__ == '__main__':\n"
        "    with processes(2) as executor:\n"
        "        list(map_ordered(executor, report_and_sleep, [sys.argv[1]] * 2, jobs=2))\n"
    )
    file = tmp_path / "main.py"
    file.write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, file, tmp_path], env=environment) as parent:
        workers = _eventually(
            lambda: [int(path.name) for path in tmp_path.glob("[0-9]*")], lambda found: len(found) == 2
        )
        parent.send_signal(signal.SIGKILL)
    assert _eventually(lambda: [pid for pid in workers if Path(f"/proc/{pid}").exists()], lambda left: not left) == []


def report_and_sleep(folder: str) -> None:
    """Say which process this is, and stay busy."""
    Path(folder, str(os.getpid())).touch()
    time.sleep(60)


def _eventually(look: Any, enough: Any) -> Any:
    for _ in range(200):
        found = look()
        if enough(found):
            return found
        time.sleep(0.05)
    return look()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_second_signal_waits_for_nothing(tmp_path: Path, jobs: int) -> None:
    world = fill(tmp_path, count=0)
    rows = [render(number) for number in range(200)]
    for row in rows:
        put(world.bucket, row["asset_key"], pdf(row["id"], size_bytes=20_000))
    load(world.archive, tmp_path, "renders", rows)
    store = Path(world.archive.store.address)
    words = program("fetch", world.bucket, "--bwlimit", "2k", "--jobs", str(jobs), archive=world.archive.path)
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE) as running:
        while not list(store.glob(f"{INCOMING}/*")):
            time.sleep(0.02)
        began = time.monotonic()
        # However late the program comes to see the first one, and whichever the system merges: one is a second.
        while running.poll() is None:
            running.send_signal(signal.SIGINT)
            time.sleep(0.2)
        assert (running.returncode, time.monotonic() - began < 5) == (130, True)
    fetch(world)
    assert len(stored(world)) == 200
