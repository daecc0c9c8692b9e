"""Packed volumes that a worker writes, and what can go wrong at any worker: its mounts, its disk, the names."""

import csv
import errno
import os
import sqlite3
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from secrets import token_hex
from typing import Any
from urllib.parse import parse_qsl

import pytest

from craftkit_archive.archive import Archive
from craftkit_archive.errors import NoSpaceError, RemoteError, RequestError, StoreOfflineError
from craftkit_archive.export import run as export_run
from craftkit_archive.export.check import check_export
from craftkit_archive.export.destination import Options
from craftkit_archive.export.reader import INDEX, MISSING
from craftkit_archive.export.run import export_assets
from craftkit_archive.export.volumes import VolumeTask
from craftkit_archive.fetch import run as fetch_run
from craftkit_archive.fetch.run import fetch_assets
from craftkit_archive.records import Record, Skipped, Summary
from craftkit_archive.repair import run as repair_run
from craftkit_archive.repair.run import repair_assets
from craftkit_archive.stores import reach
from craftkit_archive.stores.address import open_store
from craftkit_archive.stores.bucket import PART_BYTES, bucket_address
from craftkit_archive.verify import run as verify_run
from craftkit_archive.verify.run import verify_assets
from tests.services import BUCKET, s3_client
from tests.worlds import World, fill, load, pdf, projects, put, render, render_id, summary_of

SPLIT = Options(split_bytes=1 << 20)
AT_A_WORKER = (
    (export_run, "run_volume"),
    (export_run, "run"),
    (verify_run, "check_assets"),
    (fetch_run, "copy_assets"),
    (repair_run, "look_at"),
    (repair_run, "bring_copies"),
)


class Team(ThreadPoolExecutor):
    """A cluster of one worker in this process, so that a test can look over its shoulder."""

    size = 1

    def __init__(self) -> None:
        super().__init__(1)

    def details(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return an archive with five PDFs."""
    return fill(tmp_path)


@pytest.fixture
def bucket(moto: str) -> str:
    """Return the address of an empty place in a bucket."""
    return bucket_address(f"s3://{BUCKET}/{token_hex(8)}", endpoint_url=moto)


def in_it(place: str, name: str) -> str:
    """Return the address of an object there."""
    bare, mark, service = place.partition("?")
    return f"{bare}/{name}{mark}{service}"


def fill_store(folder: Path, store: str) -> World:
    """Make an archive whose store is in a bucket, with one PDF."""
    archive = Archive.create(folder / "archive", store_address=store)
    load(archive, folder, "projects", projects())
    load(archive, folder, "renders", [render(0)])
    put(folder / "bucket", render(0)["asset_key"], pdf("render 0"))
    assert summary_of(fetch_assets(archive, str(folder / "bucket"))).counts["copied"] == 1
    return World(archive, folder / "bucket", folder)


@pytest.fixture(autouse=True)
def _team(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def clustered(address: str | None, *_: object) -> Iterator[Team | None]:
        if address is None:
            yield None
            return
        with Team() as team:
            yield team

    for module in {module for module, _ in AT_A_WORKER}:
        monkeypatch.setattr(module, "clustered", clustered)
    monkeypatch.setattr(reach, "APPEAR_SECONDS", 0)


def exported(world: World, target: str | Path, options: Options = SPLIT) -> Iterator[Record]:
    """Export by a worker of the cluster."""
    return export_assets(world.archive, target, options=options, cluster="tcp://worker")


def export(world: World, target: str | Path, options: Options = SPLIT) -> Summary:
    """Do so to the end."""
    return summary_of(exported(world, target, options))


def before_each_task(monkeypatch: pytest.MonkeyPatch, happens: Callable[[Any], object]) -> None:
    """Let something happen at the worker before it runs a task."""

    def run(real: Callable[[Any], Any], task: Any) -> Any:
        happens(task)
        return real(task)

    for module, function in AT_A_WORKER:
        monkeypatch.setattr(module, function, partial(run, getattr(module, function)))


# --- an archive that changes meanwhile -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_volume_holds_what_its_manifest_says_whatever_happens_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Between plan and write, PDFs are damaged, cut, removed and repaired; and every third was never stored."""
    chance, count = Random(seed), 600
    world = fill(tmp_path, count=0)
    load(world.archive, tmp_path, "renders", [render(number) for number in range(count)])
    good = {number: pdf(f"render {number}") for number in range(count) if number % 3}
    for number, body in good.items():
        put(world.bucket, render(number)["asset_key"], body)
    assert summary_of(fetch_assets(world.archive, str(world.bucket))).counts["copied"] == len(good)

    def change(_: object) -> None:
        for number in chance.sample(sorted(good), 3):
            body = chance.choice([good[number], good[number].swapcase(), good[number][:99], b""])
            world.asset(number).unlink(missing_ok=True)
            if body:
                world.asset(number).write_bytes(body)

    before_each_task(monkeypatch, change)
    *records, summary = exported(world, tmp_path / "out/out.zip")
    assert isinstance(summary, Summary)
    skipped = [record.render_id or "" for record in records if isinstance(record, Skipped)]
    volumes = sorted((tmp_path / "out").iterdir())
    assert [str(volume) for volume in volumes] == [made["path"] for made in summary.details["exports"]]
    assert len(volumes) == 3
    listed: dict[str, list[str]] = {INDEX: [], MISSING: []}
    for volume in volumes:
        assert summary_of(check_export(volume)).outcome in ("ok", "incomplete")
        with zipfile.ZipFile(volume) as packed:
            for name, ids in listed.items():
                ids += [row["render_id"] for row in csv.DictReader(packed.read(name).decode().splitlines())]
    assert sorted(listed[MISSING]) == sorted(skipped)
    assert sorted(listed[INDEX] + skipped) == [render_id(number) for number in range(count)]
    counts = summary.counts
    assert (counts["written"], counts["failed"] + counts["excluded"]) == (len(listed[INDEX]), len(skipped))
    assert counts["failed"] > 0


# --- a worker that does not see what the command sees ----------------------------------------------------------------


def test_a_worker_whose_target_is_another_folder_writes_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that is lost leaves an empty folder, on the worker's own disk."""
    shared = tmp_path / "shared"

    def lose(_: VolumeTask) -> None:
        shared.rename(tmp_path / "away")
        shared.mkdir()

    before_each_task(monkeypatch, lose)
    with pytest.raises(StoreOfflineError, match="Mount the same one on every worker"):
        export(world, shared / "out.zip")
    assert not list(shared.iterdir())


def test_a_worker_makes_no_folder(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared"
    before_each_task(monkeypatch, lambda _: shared.rename(tmp_path / "away"))
    with pytest.raises(StoreOfflineError, match="Mount the same one on every worker"):
        export(world, shared / "out.zip")
    assert not shared.exists()


@pytest.mark.parametrize("name", ["out", "out.zip", "out.tar", "verify", "fetch", "repair"])
def test_a_worker_that_lost_the_store_ends_the_command(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """All PDFs seem to be gone at the worker alone: no finding, no gap of an export, and no place to write to."""
    empty, among = tmp_path / "empty", "tcp://worker"
    empty.mkdir()
    load(world.archive, tmp_path, "renders", [render(5)])
    put(world.bucket, render(5)["asset_key"], pdf("render 5"))
    world.asset(0).write_bytes(b"damaged")
    assert summary_of(verify_assets(world.archive)).outcome == "problems"

    def without(real: Callable[[Any], Any], task: Any) -> Any:
        return real(task._replace(store=str(empty)))

    for module, function in AT_A_WORKER:
        monkeypatch.setattr(module, function, partial(without, getattr(module, function)))
    commands: dict[str, Iterator[Record]] = {
        "verify": verify_assets(world.archive, cluster=among),
        "fetch": fetch_assets(world.archive, str(world.bucket), cluster=among),
        "repair": repair_assets(world.archive, str(world.bucket), cluster=among),
    }
    options = SPLIT if name != "out" else Options()
    with pytest.raises(StoreOfflineError, match=r"not mounted at .*/empty"):
        summary_of(commands.get(name) or exported(world, tmp_path / "exports" / name, options))
    assert not list(empty.iterdir())
    assert not list((tmp_path / "exports").rglob("*-001*"))


# --- the worker's disk -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_bucket", [True, False])
def test_a_full_temporary_folder_is_named(
    world: World, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, in_bucket: bool
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before_each_task(monkeypatch, lambda _: monkeypatch.setattr(tempfile, "TemporaryFile", full))
    with pytest.raises(NoSpaceError, match=f"to write {tempfile.gettempdir()}\\."):
        export(world, in_it(bucket, "out.zip") if in_bucket else tmp_path / "out.zip")
    monkeypatch.undo()


@pytest.mark.parametrize("name", ["out.zip", "o\nut.zip", "o.0123456789abcdef.part.zip", "*[a].zip"])
def test_pieces_of_a_killed_worker_are_removed_whatever_their_name(world: World, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "exports"
    folder.mkdir()
    volume = name.replace(".zip", "-001.zip")
    (folder / f".{volume}.0123456789abcdef.part").touch()
    others = {folder / f".x{volume}.0123456789abcdef.part", folder / f".{volume}.0123.part"}
    for other in others:
        other.touch()
    export(world, folder / name)
    assert set(folder.iterdir()) == {folder / volume, *others}


@pytest.mark.parametrize("among", [True, False])
def test_volumes_before_an_error_are_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, among: bool) -> None:
    """They stay where they are, so a disposal has to know of them."""
    world = fill(tmp_path, count=400)
    begun: list[object] = []

    def fill_the_disk(task: object) -> None:
        begun.append(task)
        if len(begun) == 3:
            raise NoSpaceError("full")

    before_each_task(monkeypatch, fill_the_disk)
    target = tmp_path / "exports/out.zip"
    with pytest.raises(NoSpaceError, match="full"):
        summary_of(export_assets(world.archive, target, options=SPLIT, cluster="tcp://worker" if among else None))
    volumes = sorted(map(str, target.parent.iterdir()))
    assert len(volumes) == 2
    with closing(sqlite3.connect(world.archive.path / "archive.db")) as database:
        assert [target for (target,) in database.execute("SELECT target FROM exports ORDER BY target")] == volumes


# --- the bucket ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.zip", "OUT.ZIP", "out.tar", "out", "page.html"])
def test_a_bucket_says_what_a_volume_is_whatever_its_name(world: World, bucket: str, name: str) -> None:
    form: Any = "tar" if name in ("out", "page.html") else None
    [volume] = export(world, in_it(bucket, name), SPLIT._replace(form=form)).details["exports"]
    [mark] = [key for key in keys_in(bucket) if key.endswith("craftkit-export")]
    types = [media_type(volume["path"]), media_type(in_it(bucket, mark))]
    assert types == ["application/zip" if name.lower().endswith("zip") else "application/x-tar", "application/json"]


@pytest.mark.parametrize("large", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("key", ["renders/x.html", "x.csv", "x.zip", "x"])
def test_an_asset_in_a_bucket_is_a_pdf_whatever_its_key(bucket: str, key: str, large: bool) -> None:
    """A browser would run a page that somebody passes off as a PDF."""
    open_store(bucket).write(key, [b"<script>" * (PART_BYTES if large else 1)])
    assert media_type(in_it(bucket, key)) == "application/pdf"


def media_type(address: str) -> str:
    """Return what the service says that an object is."""
    place, _, service = address.partition("?")
    url = dict(parse_qsl(service))["endpoint_url"]
    found = s3_client(url).head_object(Bucket=BUCKET, Key=place.removeprefix(f"s3://{BUCKET}/"))
    return str(found["ContentType"])


def keys_in(place: str) -> list[str]:
    """Return the names of the objects in a place."""
    return sorted(open_store(place).keys())


@pytest.mark.parametrize("target", ["out.zip", "sub/out.zip", "sub", ""])
@pytest.mark.parametrize("dry_run", [True, False])
def test_nothing_is_exported_into_a_store_in_a_bucket(tmp_path: Path, bucket: str, target: str, dry_run: bool) -> None:
    world = fill_store(tmp_path, bucket)
    before = keys_in(bucket)
    options = SPLIT if target.endswith("zip") else Options()
    with pytest.raises(RequestError, match="lies in the archive's store"):
        summary_of(export_assets(world.archive, in_it(bucket, target), options=options, dry_run=dry_run))
    assert keys_in(bucket) == before
    beside = bucket.replace("?", "-beside/out.zip?")
    assert summary_of(export_assets(world.archive, beside, options=SPLIT)).outcome == "ok"


@pytest.mark.parametrize("name", ["a\\b.zip", "a\x01b.zip", "a\nb.zip", "\udcff.zip"])
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_name_that_no_bucket_takes_is_refused_before_the_work(
    world: World, bucket: str, name: str, dry_run: bool
) -> None:
    with pytest.raises(RequestError, match="cannot be the name of an object"):
        summary_of(export_assets(world.archive, in_it(bucket, name), options=SPLIT, dry_run=dry_run))


@pytest.mark.parametrize("status", [409, 412, 500])
@pytest.mark.parametrize("replace", [True, False])
def test_an_error_of_the_source_is_not_taken_for_one_of_the_upload(bucket: str, status: int, replace: bool) -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(PART_BYTES)
        raise RemoteError("the source fails", status=status)

    with pytest.raises(RemoteError, match="the source fails"):
        open_store(bucket).write("x.pdf", chunks(), replace=replace)
    assert not keys_in(bucket)
