"""The workers of a Dask cluster in the place of processes: a real scheduler, real workers, a real S3."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from secrets import token_hex
from textwrap import dedent
from typing import Any, NamedTuple

import pytest

import craftkit_archive
from craftkit_archive.archive import Archive
from craftkit_archive.export.destination import Options
from craftkit_archive.export.run import export_assets
from craftkit_archive.fetch.run import fetch_assets
from craftkit_archive.parallel.cluster import WATCH_SECONDS
from craftkit_archive.records import Progress, Record, Summary
from craftkit_archive.stores.bucket import bucket_address
from tests.receivers import wait_until
from tests.services import BUCKET, DaskCluster, RealService, dask_cluster, rclone_server, s3_client
from tests.worlds import (
    NORTHWIND,
    ROOT,
    Done,
    command,
    fill,
    load,
    needs,
    pdf,
    program,
    projects,
    put,
    render,
    render_id,
    summary_of,
)

pytestmark = pytest.mark.long

COUNT = 300


@pytest.fixture(scope="module")
def rclone(_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealService]:
    """Return a real S3 server that takes what many write at a time."""
    with rclone_server(tmp_path_factory.mktemp("rclone"), "--dir-cache-time", "1h") as service:
        yield service


@pytest.fixture(scope="module")
def cluster(_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """Return a cluster of two workers that nobody kills."""
    with dask_cluster(tmp_path_factory.mktemp("dask")) as running:
        yield running


class Filled(NamedTuple):
    """An archive whose store is in a bucket, the folder whose files are its objects, and a mirror of what it holds."""

    archive: Path
    objects: Path
    mirror: Path


def key_of(number: int) -> str:
    """Return an asset key; few are in one folder."""
    return f"renders/{NORTHWIND}/{number // 20}/{render_id(number)}.pdf"


def fill_bucket(folder: Path, service: RealService, *, count: int = COUNT, fetched: bool = True) -> Filled:
    """Make an archive with its store in a bucket."""
    prefix = token_hex(8)
    archive = Archive.create(
        folder / "archive", store_address=bucket_address(f"s3://{BUCKET}/{prefix}", endpoint_url=service.url)
    )
    rows = [render(number, asset_key=key_of(number)) for number in range(count)]
    for number, row in enumerate(rows):
        body = pdf(f"render {number}")
        put(folder / "mirror", row["asset_key"], body)
        if fetched:
            put(service.bucket / prefix, row["asset_key"], body)
    load(archive, folder, "projects", projects())
    load(archive, folder, "renders", rows)
    service.look_again()
    if fetched:
        assert summary_of(fetch_assets(archive)).counts["adopted"] == count
    return Filled(folder / "archive", service.bucket / prefix, folder / "mirror")


def fill_folder(folder: Path, *, count: int = COUNT, fetched: bool = True) -> Filled:
    """Make an archive with its store in its own folder."""
    archive = Archive.create(folder / "archive")
    numbered = [render(number, asset_key=key_of(number)) for number in range(count)]
    for number, row in enumerate(numbered):
        put(folder / "mirror", row["asset_key"], pdf(f"render {number}"))
    load(archive, folder, "projects", projects())
    load(archive, folder, "renders", numbered)
    if fetched:
        assert summary_of(fetch_assets(archive, str(folder / "mirror"))).counts["copied"] == count
    return Filled(folder / "archive", folder / "archive/assets", folder / "mirror")


def of_another_version(folder: Path) -> Path:
    """Make a copy of the package that says it is older."""
    shutil.copytree(ROOT / "craftkit_archive", folder / "other/craftkit_archive")
    package = folder / "other/craftkit_archive/__init__.py"
    package.write_text(package.read_text().replace(f'"{craftkit_archive.__version__}"', '"0.0.9"'))
    return folder / "other"


def flip(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


def damage(filled: Filled) -> None:
    """Flip a bit of one object, cut one short, and delete one."""
    flip(filled.objects / key_of(1))
    (filled.objects / key_of(2)).write_bytes(b"%PDF-1.4\n")
    (filled.objects / key_of(COUNT - 1)).unlink()


def asked(*words: str | Path, archive: Path, cluster: DaskCluster, **env: str) -> Done:
    """Run a command whose work a cluster does, as JSON."""
    return command("--json", *words, archive=archive, env={"CRAFTKIT_ARCHIVE_CLUSTER": cluster.address, **env})


def findings(done: Done) -> Counter[tuple[str, str]]:
    """Return the keys and verdicts of a run."""
    return Counter((line["key"], line["verdict"]) for line in done.lines if line["type"] == "finding")


def rows(archive: Path, table: str) -> list[Any]:
    """Return the rows of a table of the catalog."""
    with closing(sqlite3.connect(f"file:{archive}/archive.db?mode=ro", uri=True)) as database, database:
        return database.execute(f"select * from {table}").fetchall()


# --- the five commands -----------------------------------------------------------------------------------------------


def test_verify_sees_the_same_on_a_cluster(tmp_path: Path, rclone: RealService, cluster: DaskCluster) -> None:
    filled = fill_bucket(tmp_path, rclone)
    damage(filled)
    rclone.look_again()
    alone = command("--json", "verify", archive=filled.archive)
    among = asked("verify", archive=filled.archive, cluster=cluster)
    assert among.code == 1
    assert findings(among) == findings(alone)
    assert len(findings(among)) == 3
    counts = [done.lines[-1]["counts"] for done in (alone, among)]
    assert counts[0] == counts[1]
    assert counts[1]["checked"] == COUNT
    details = among.lines[-1]["details"]["cluster"]
    assert details == {"scheduler": cluster.address, "workers": 2, "lost": 0, "left_out": []}
    assert "cluster" not in alone.lines[-1]["details"]


def test_fetch_copies_once_on_a_cluster(tmp_path: Path, rclone: RealService, cluster: DaskCluster) -> None:
    filled = fill_bucket(tmp_path, rclone, fetched=False)
    for copied in (COUNT, 0):
        done = asked("fetch", filled.mirror, archive=filled.archive, cluster=cluster)
        assert done.code == 0, done.out
        assert done.lines[-1]["counts"]["copied"] == copied
    assert len(rows(filled.archive, "assets")) == COUNT
    for number in range(COUNT):
        key = key_of(number)
        assert (filled.objects / key).read_bytes() == (filled.mirror / key).read_bytes()


def test_export_and_its_check_on_a_cluster(tmp_path: Path, rclone: RealService, cluster: DaskCluster) -> None:
    filled = fill_bucket(tmp_path, rclone)
    out = tmp_path / "out"
    done = asked("export", out, archive=filled.archive, cluster=cluster)
    assert done.code == 0, done.out
    assert done.lines[-1]["counts"]["written"] == COUNT
    assert subprocess.run(["sha256sum", "--check", "--quiet", "manifest-sha256.txt"], cwd=out).returncode == 0
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".craftkit-archive")]
    assert asked("export", out, archive=filled.archive, cluster=cluster).lines[-1]["counts"]["unchanged"] == COUNT
    checked = asked("export-check", out, archive=filled.archive, cluster=cluster)
    assert (checked.code, checked.lines[-1]["counts"]["checked"]) == (0, COUNT + 3)
    flip(next(out.rglob("*.pdf")))
    assert asked("export-check", out, archive=filled.archive, cluster=cluster).code == 1
    # Alone and among others, the same is written.
    assert command("export", tmp_path / "alone", archive=filled.archive).code == 0
    among, alone = ((folder / "index.csv").read_text() for folder in (out, tmp_path / "alone"))
    assert among == alone


def test_export_to_a_bucket_on_a_cluster(tmp_path: Path, rclone: RealService, cluster: DaskCluster) -> None:
    filled = fill_bucket(tmp_path, rclone)
    prefix = token_hex(8)
    place = bucket_address(f"s3://{BUCKET}/{prefix}", endpoint_url=rclone.url)
    done = asked("export", place, archive=filled.archive, cluster=cluster)
    assert (done.code, done.lines[-1]["counts"]["written"]) == (0, COUNT), done.out
    assert command("export-check", rclone.bucket / prefix).code == 0


@pytest.mark.parametrize("in_bucket", [True, False])
def test_repair_on_a_cluster_keeps_what_it_replaces(
    tmp_path: Path, rclone: RealService, cluster: DaskCluster, in_bucket: bool
) -> None:
    filled = fill_bucket(tmp_path, rclone) if in_bucket else fill_folder(tmp_path)
    damage(filled)
    rclone.look_again()
    flip(filled.mirror / key_of(2))  # the source's copy is wrong too
    assert asked("verify", archive=filled.archive, cluster=cluster).code == 1
    rehearsed = asked("repair", filled.mirror, "--dry-run", archive=filled.archive, cluster=cluster)
    done = asked("repair", filled.mirror, archive=filled.archive, cluster=cluster)
    for one in (rehearsed, done):
        counts = one.lines[-1]["counts"]
        assert (one.code, counts["damaged"], counts["repaired"], counts["refused"]) == (1, 3, 2, 1), one.out
    held = [line for line in command("--json", "quarantine", "list", archive=filled.archive).lines if "name" in line]
    assert [line["key"] for line in held] == [key_of(1)]
    put(filled.mirror, key_of(2), pdf("render 2"))
    assert asked("repair", filled.mirror, archive=filled.archive, cluster=cluster).code == 0
    assert command("verify", archive=filled.archive).code == 0


def test_level_pdf_opens_pdfs_at_workers(tmp_path: Path, cluster: DaskCluster) -> None:
    world = fill(tmp_path, count=20)
    body = world.asset(3).read_bytes()
    world.asset(3).write_bytes(body.replace(b"/Catalog", b"/Cattalo"))
    done = asked("verify", "--level", "pdf", archive=world.archive.path, cluster=cluster)
    assert (done.code, done.lines[-1]["counts"]["ok"]) == (1, 19), done.out
    notes = [line for line in done.lines if line["type"] == "note"]
    assert not any("died" in line["detail"] for line in notes)


def test_doctor_says_what_each_worker_can_do(tmp_path: Path, rclone: RealService, cluster: DaskCluster) -> None:
    filled = fill_bucket(tmp_path, rclone, count=1)
    before = {path: path.read_bytes() for path in filled.objects.rglob("*") if path.is_file()}
    done = command("doctor", "--cluster", cluster.address, archive=filled.archive)
    assert len(re.findall(r"^good +worker tcp://.*can read and write the store$", done.out, re.MULTILINE)) == 2
    assert {path: path.read_bytes() for path in filled.objects.rglob("*") if path.is_file()} == before


# --- packed volumes --------------------------------------------------------------------------------------------------


SPLIT = ("--split-size", "1MiB")


def spoil(filled: Filled, service: RealService | None = None) -> None:
    """Import a render without a PDF, and one whose key a spreadsheet would take for a formula; damage some PDFs."""
    odd = "=1+1, '\"ü.pdf"
    put(filled.objects, odd, pdf("odd"))
    if service is not None:
        service.look_again()
    with Archive(filled.archive) as archive:
        more = [render(COUNT, asset_key=key_of(COUNT)), render(COUNT + 1, asset_key=odd)]
        load(archive, filled.archive, "renders", more)
        assert summary_of(fetch_assets(archive)).counts["adopted"] == 1
    damage(filled)
    if service is not None:
        service.look_again()


def alike(ours: Path, theirs: Path, *, suffix: str) -> list[Path]:
    """See that two folders have the same volumes, byte by byte, and return those of the first."""
    first, second = (sorted(path for path in folder.iterdir() if path.suffix == suffix) for folder in (ours, theirs))
    assert [path.name for path in first] == [path.name for path in second]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    return first


def unfinished(service: RealService) -> list[str]:
    """Return the keys of the uploads in parts that were neither completed nor aborted."""
    client = s3_client(service.url)
    try:
        uploads = client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ())
    except client.exceptions.NoSuchUpload:  # how rclone says that there are none
        return []
    return [upload["Key"] for upload in uploads]


def told(done: Done) -> list[Any]:
    """Return what a run said of its renders, and counted."""
    skipped = sorted((line["render_id"], line["reason"]) for line in done.lines if line["type"] == "skipped")
    made = [{**one, "path": Path(one["path"]).name} for one in done.lines[-1]["details"]["exports"]]
    return [done.code, done.lines[-1]["outcome"], done.lines[-1]["counts"], skipped, made]


@pytest.mark.parametrize(
    ("name", "words", "good"),
    [
        ("out.zip", [], True),
        ("out.zip", [], False),
        ("out.tar", [], False),
        ("bag.zip", ["--format", "bagit"], False),
    ],
)
def test_volumes_of_a_cluster_are_those_of_one_machine(
    tmp_path: Path, cluster: DaskCluster, name: str, words: list[str], good: bool
) -> None:
    filled = fill_folder(tmp_path)
    if not good:
        spoil(filled)
    ids = tmp_path / "ids"
    ids.write_text("".join(f"{render_id(number)}\n" for number in range(COUNT + 3)))  # the last is not known
    words = [*words, *SPLIT, *([] if good else ["--ids", str(ids)])]
    alone = command("--json", "export", tmp_path / "alone" / name, *words, archive=filled.archive)
    place = tmp_path / "among" / name
    # An export that was killed has left a piece of a volume; the other files are somebody else's.
    place.parent.mkdir()
    stem, suffix = place.stem, place.suffix
    (place.parent / f".{stem}-001{suffix}.0123456789abcdef.part").touch()
    others = [place.parent / f".{stem}-009{suffix}.0123456789abcdef.part", place.parent / f".{stem}.part"]
    for other in others:
        other.touch()
    for target in (place, os.path.relpath(place)):  # the second takes the place of the first
        among = asked("export", target, *words, archive=filled.archive, cluster=cluster)
        assert told(among) == told(alone)
    assert among.code == (0 if good else 1), among.out
    assert among.lines[-1]["counts"]["written"] == (COUNT if good else COUNT - 2)
    volumes = alike(tmp_path / "among", tmp_path / "alone", suffix=Path(name).suffix)
    assert len(volumes) == 2
    assert sorted((tmp_path / "among").iterdir()) == sorted([*volumes, *others])
    for volume in volumes:
        assert command("export-check", volume).code == (0 if good else 3 if "missing" in listed(volume) else 0)
    made = {Path(row[1]).name: row for row in rows(filled.archive, "exports") if "/among/" in row[1]}
    assert len(made) == 2
    # Fewer volumes than an earlier export has left are refused.
    narrow = asked("export", place, *words, "--split-size", "1G", archive=filled.archive, cluster=cluster)
    assert (narrow.code, "a volume too many" in narrow.lines[0]["message"]) == (2, True), narrow.out


def listed(volume: Path) -> str:
    """Return the names of the files in a zip or tar."""
    if volume.suffix == ".zip":
        with zipfile.ZipFile(volume) as packed:
            return " ".join(packed.namelist())
    with tarfile.open(volume) as packed:
        return " ".join(packed.getnames())


@pytest.mark.parametrize("good", [pytest.param(True, marks=pytest.mark.long), False])
def test_volumes_in_a_bucket_are_those_on_a_disk(
    tmp_path: Path, rclone: RealService, cluster: DaskCluster, good: bool
) -> None:
    filled = fill_bucket(tmp_path, rclone)
    if not good:
        spoil(filled, rclone)
    alone = command("--json", "export", tmp_path / "alone/out.zip", *SPLIT, archive=filled.archive)
    prefix = token_hex(8)
    place = bucket_address(f"s3://{BUCKET}/{prefix}/out.zip", endpoint_url=rclone.url)
    # A worker that was killed has left the beginning of a volume.
    s3_client(rclone.url).create_multipart_upload(Bucket=BUCKET, Key=f"{prefix}/out-001.zip")
    assert unfinished(rclone) == [f"{prefix}/out-001.zip"]
    for _ in range(2 if good else 1):  # the second takes the place of the first
        among = asked("export", place, *SPLIT, archive=filled.archive, cluster=cluster)
        assert told(among)[:4] == told(alone)[:4]
    assert among.code == (0 if good else 1), among.out
    rclone.look_again()
    volumes = alike(rclone.bucket / prefix, tmp_path / "alone", suffix=".zip")
    assert len(volumes) == 2
    assert {path.name for path in (rclone.bucket / prefix).iterdir()} == {
        *(path.name for path in volumes),
        ".out.zip.craftkit-export",
    }
    assert not unfinished(rclone)
    if not good:
        return
    # One machine writes them too, and another archive does not.
    assert told(command("--json", "export", place, *SPLIT, archive=filled.archive))[:4] == told(alone)[:4]
    alike(rclone.bucket / prefix, tmp_path / "alone", suffix=".zip")
    stranger = fill_folder(tmp_path / "stranger", count=1)
    refused = command("export", place, *SPLIT, archive=stranger.archive)
    assert (refused.code, "export of something else" in refused.err) == (2, True), refused.err
    narrow = command("export", place, "--split-size", "1G", archive=filled.archive)
    assert (narrow.code, "a volume too many" in narrow.err) == (2, True), narrow.err
    (rclone.bucket / prefix / ".out.zip.craftkit-export").unlink()
    rclone.look_again()
    refused = command("export", place, *SPLIT, archive=stranger.archive)
    assert (refused.code, "not an export's" in refused.err) == (2, True), refused.err


def test_a_stop_leaves_whole_volumes_alone(tmp_path: Path, cluster: DaskCluster) -> None:
    filled = fill_folder(tmp_path, count=1000)
    stopped: list[Record] = []
    with Archive(filled.archive, read_only=True) as archive:
        for record in export_assets(
            archive,
            tmp_path / "out/out.zip",
            options=Options(split_bytes=1 << 20),
            jobs=1,
            cluster=cluster.address,
            stop=lambda: bool(stopped),
        ):
            if isinstance(record, Progress):
                stopped.append(record)
    assert isinstance(record, Summary)
    volumes = sorted((tmp_path / "out").iterdir())
    assert record.outcome == "interrupted"
    assert [Path(made["path"]) for made in record.details["exports"]] == volumes
    assert 0 < len(volumes) < 6
    assert record.counts["written"] == sum(made["pdfs"] for made in record.details["exports"])
    assert all(command("export-check", volume).code == 0 for volume in volumes)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("in_bucket", [True, False])
def test_a_worker_killed_in_a_volume_costs_a_second_try_of_it(
    tmp_path: Path, rclone: RealService, in_bucket: bool
) -> None:
    count = 1000
    filled = fill_folder(tmp_path, count=count)
    prefix = token_hex(8)
    place = bucket_address(f"s3://{BUCKET}/{prefix}/out.tar", endpoint_url=rclone.url)
    folder = rclone.bucket / prefix if in_bucket else tmp_path / "among"
    with dask_cluster(tmp_path, python_path=slow_disk(tmp_path)) as running:
        words = ["export", place if in_bucket else folder / "out.tar", *SPLIT]
        under_way = Running(*words, archive=filled.archive, cluster=running)
        under_way.wait_for_progress()
        os.kill(running.worker_process("worker-1"), signal.SIGSTOP)
        os.kill(running.worker_process("worker-0"), signal.SIGKILL)
        left = [] if in_bucket else [path for path in folder.glob(".*.part") if path.name.count(".") > 3]
        time.sleep(3 * WATCH_SECONDS)
        os.kill(running.worker_process("worker-1"), signal.SIGCONT)
        done = under_way.end()
    assert done.code == 0, done.out + done.err
    assert done.lines[-1]["details"]["cluster"]["lost"] >= 1
    assert done.lines[-1]["counts"]["written"] == count
    assert in_bucket or left  # pieces of volumes, which nobody finishes
    assert command("export", tmp_path / "alone/out.tar", *SPLIT, archive=filled.archive).code == 0
    rclone.look_again()
    volumes = alike(folder, tmp_path / "alone", suffix=".tar")
    assert len({path.name for path in folder.iterdir()} - {".out.tar.craftkit-export"}) == len(volumes) == 6
    assert all(command("export-check", volume).code == 0 for volume in volumes)
    assert not unfinished(rclone)


@pytest.mark.timeout(400)
def test_large_volumes_go_to_a_bucket_in_parts(tmp_path: Path, rclone: RealService, cluster: DaskCluster) -> None:
    """And what was uploaded of one with a damaged PDF at its end is taken back."""
    world = fill(tmp_path, count=12, size_bytes=9 << 20)
    flip(world.asset(11))
    prefix = token_hex(8)
    place = bucket_address(f"s3://{BUCKET}/{prefix}/out.tar", endpoint_url=rclone.url)
    words = ["--split-size", "60M"]
    assert asked("export", place, *words, archive=world.archive.path, cluster=cluster).code == 1
    assert command("export", tmp_path / "alone/out.tar", *words, archive=world.archive.path).code == 1
    rclone.look_again()
    assert len(alike(rclone.bucket / prefix, tmp_path / "alone", suffix=".tar")) == 2
    assert not unfinished(rclone)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["export", "out.zip"], 2, "A cluster cannot write one zip. Add --split-size"),
        (["export", "-", "--format", "tar"], 2, "Export to a folder that every worker sees"),
        (["export", "-", "--format", "tar", "--split-size", "1M"], 2, "not one stream"),
        (["export", "s3://bucket/out.zip", "--format", "zip"], 2, "Add --split-size, or export to a file"),
        (["export", "gs://bucket/out.zip", "--split-size", "1M"], 2, "Volumes are written to S3 buckets"),
        (["export", "s3://out.zip", "--split-size", "1M"], 2, "such as s3://bucket/prefix/export.zip"),
        (["export", "s3://bucket/out.tar", "--split-size", "1T"], 2, "more than an object in a bucket can have"),
        (["repair", "{export}"], 2, "runs on one machine"),
        (["export-check", "{packed}"], 2, "Leave --cluster out"),
        (["verify", "--cluster", "tcp://127.0.0.1:1"], 16, "Cannot reach the scheduler tcp://127.0.0.1:1"),
        (["verify", "--cluster", "nonsense://x"], 2, "is not the address of a Dask scheduler"),
    ],
)
def test_what_a_cluster_cannot_do_is_refused_with_a_sentence(
    tmp_path: Path, cluster: DaskCluster, words: list[str], code: int, said: str
) -> None:
    world = fill(tmp_path)
    assert command("export", tmp_path / "export", archive=world.archive.path).code == 0
    packed = tmp_path / "packed.tar.gz"
    subprocess.run(["tar", "-czf", packed, "-C", tmp_path, "export"], check=True)
    runs = len(rows(world.archive.path, "runs"))
    words = [word.format(export=tmp_path / "export", packed=packed) for word in words]
    done = command(*words, archive=world.archive.path, env={"CRAFTKIT_ARCHIVE_CLUSTER": cluster.address})
    assert done.code == code
    assert said in done.err
    assert "Traceback" not in done.err
    assert len(rows(world.archive.path, "runs")) == runs


def test_without_dask_the_extra_is_named(tmp_path: Path) -> None:
    world = fill(tmp_path)
    words = program("verify", "--cluster", "tcp://x:1", archive=world.archive.path, before="import sys; sys.modules['distributed'] = None")  # fmt: skip  # noqa: E501
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, "craftkit-archive[cluster]" in done.stderr) == (2, True)


def test_only_a_cluster_takes_more_jobs_than_processes(tmp_path: Path, cluster: DaskCluster) -> None:
    world = fill(tmp_path)
    assert command("verify", "--jobs", "65", archive=world.archive.path).code == 2
    assert asked("verify", "--jobs", "65", archive=world.archive.path, cluster=cluster).code == 0


@pytest.mark.timeout(400)
def test_a_worker_that_cannot_do_it_stops_the_command_before_the_work(tmp_path: Path, rclone: RealService) -> None:
    """Another version; no credentials; another folder in the place of the store, the source or the target."""
    needs("unshare")
    world = fill(tmp_path / "folder")
    filled = fill_bucket(tmp_path / "bucket", rclone, count=3)
    other = of_another_version(tmp_path)
    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()

    def covered(folder: Path) -> tuple[str, ...]:
        return ("unshare", "-rm", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder))

    store = Path(world.archive.store.address)
    trials: list[tuple[dict[str, Any], list[str | Path], Path, int, str]] = [
        ({"PYTHONPATH": str(other)}, ["verify"], world.archive.path, 2, "runs craftkit-archive 0.0.9"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, ["verify"], filled.archive, 16, "The worker tcp://"),
        ({"before": covered(store)}, ["verify"], world.archive.path, 14, "is not mounted at"),
        ({"before": covered(world.bucket)}, ["fetch", world.bucket], world.archive.path, 14, "other files there"),
        ({"before": covered(tmp_path)}, ["export", out], filled.archive, 14, "Mount the same one on every worker"),
        ({"before": covered(empty)}, ["export", empty], filled.archive, 14, "Mount the same one on every worker"),
        ({"before": covered(world.bucket)}, ["repair", world.bucket], world.archive.path, 14, "other files there"),
    ]
    for number, (start, words, archive, code, said) in enumerate(trials):
        (tmp_path / f"dask-{number}").mkdir()
        with dask_cluster(tmp_path / f"dask-{number}", workers=1) as running:
            running.start_worker("odd", **start)
            runs = len(rows(archive, "runs"))
            done = asked(*words, archive=archive, cluster=running)
            assert (done.code, said in done.lines[0]["message"]) == (code, True), (words, done.out)
            assert len(rows(archive, "runs")) == runs
            seen = command("doctor", "--cluster", running.address, archive=archive)
            assert seen.out.count("can read and write the store") == (2 if len(words) == 2 else 1), seen.out
    assert not out.exists()


# --- workers come and go ---------------------------------------------------------------------------------------------


class Running:
    """A command that is under way, with its progress as lines."""

    def __init__(self, *words: str | Path, archive: Path, cluster: DaskCluster) -> None:
        self.process = subprocess.Popen(
            program("--json", "--progress", "plain", *words, archive=archive),
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "COLUMNS": "", "CRAFTKIT_ARCHIVE_CLUSTER": cluster.address},
        )  # fmt: skip

    def wait_for_progress(self) -> None:
        """Wait until the first batches have come back."""
        assert self.process.stderr is not None
        assert self.process.stderr.readline(), self.end().out

    def end(self) -> Done:
        """Wait for its end."""
        out, err = self.process.communicate(timeout=300)
        return Done(self.process.returncode, out, err)


class Gate:
    """A gate in the workers: each does one task, then stands still in the next one until the gate opens.

    Attributes:
        python_path: The PYTHONPATH of workers that have the gate.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "gate"
        hook = f"""
            import os, sys, time
            tasks = 0

            def stand(event, given):
                global tasks
                if event == "pickle.find_class" and given == ("craftkit_archive.parallel.cluster", "_do"):
                    tasks += 1
                    if tasks == 2:
                        open("{self._folder}/" + str(os.getpid()), "w").close()
                        while not os.path.exists("{self._folder}/open"):
                            time.sleep(0.02)

            sys.addaudithook(stand)
        """
        self.python_path = _python_path(self._folder, hook)

    def wait_for(self, *workers: int) -> None:
        """Wait until processes stand at the gate."""
        wait_until(lambda: all((self._folder / str(worker)).exists() for worker in workers), seconds=60)

    def open(self) -> None:
        """Let the workers pass, now and later."""
        (self._folder / "open").touch()


def slow_disk(folder: Path) -> str:
    """Return a PYTHONPATH with which it takes 10 ms to open a PDF in a folder."""
    hook = """
        import sys, time
        sys.addaudithook(
            lambda event, given: time.sleep(0.01) if event == "open" and str(given[0]).endswith(".pdf") else None
        )
    """
    return _python_path(folder / "slow", hook)


def _python_path(folder: Path, hook: str) -> str:
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(dedent(hook))
    return f"{folder}:{ROOT}"


@pytest.mark.timeout(400)
@pytest.mark.parametrize("verb", ["verify", "fetch", "export"])
def test_a_killed_worker_costs_a_second_try_and_nothing_twice(tmp_path: Path, rclone: RealService, verb: str) -> None:
    count = 2000
    filled = fill_bucket(tmp_path, rclone, count=count, fetched=verb != "fetch")
    words: dict[str, list[str | Path]] = {
        "verify": ["verify"],
        "fetch": ["fetch", filled.mirror],
        "export": ["export", tmp_path / "out"],
    }
    gate = Gate(tmp_path)
    with dask_cluster(tmp_path, python_path=gate.python_path) as running:
        under_way = Running(*words[verb], archive=filled.archive, cluster=running)
        dies, stays = running.worker_process("worker-0"), running.worker_process("worker-1")
        gate.wait_for(dies, stays)
        os.kill(dies, signal.SIGKILL)
        time.sleep(3 * WATCH_SECONDS)  # the other one does not end the work before the death is noticed
        gate.open()
        done = under_way.end()
    assert done.code == 0, done.out + done.err
    summary = done.lines[-1]
    assert summary["details"]["cluster"]["lost"] >= 1
    counts = summary["counts"]
    if verb == "verify":
        assert (counts["checked"], counts["ok"]) == (count, count)
        assert not rows(filled.archive, "findings")
    elif verb == "fetch":
        assert counts["copied"] + counts["adopted"] == count
        assert len(rows(filled.archive, "assets")) == count
    else:
        assert counts["written"] + counts["unchanged"] == count
        assert command("export-check", tmp_path / "out").code == 0
        assert len((tmp_path / "out/manifest-sha256.txt").read_text().splitlines()) == count + 3


@pytest.mark.timeout(400)
def test_workers_that_join_late_help_if_they_can(tmp_path: Path) -> None:
    filled = fill_folder(tmp_path, count=1500, fetched=False)
    with dask_cluster(tmp_path, workers=1) as running:
        # Some forty seconds for one, so that there is time to join.
        under_way = Running("fetch", filled.mirror, "--bwlimit", "20k", archive=filled.archive, cluster=running)
        under_way.wait_for_progress()
        running.start_worker("late")
        running.start_worker("stranger", PYTHONPATH=str(of_another_version(tmp_path)))
        done = under_way.end()
        assert (done.code, done.lines[-1]["counts"]["copied"]) == (0, 1500), done.out + done.err
    details = done.lines[-1]["details"]["cluster"]
    assert details["workers"] == 2
    assert "runs craftkit-archive 0.0.9" in details["left_out"][0]["problem"]


@pytest.mark.timeout(400)
def test_when_the_only_worker_dies_its_successor_does_the_rest(tmp_path: Path, rclone: RealService) -> None:
    filled = fill_bucket(tmp_path, rclone, count=3000)
    gate = Gate(tmp_path)
    with dask_cluster(tmp_path, workers=1, python_path=gate.python_path) as running:
        under_way = Running("verify", archive=filled.archive, cluster=running)
        gate.wait_for(running.worker_process("worker-0"))
        running.kill("worker-0")
        running.start_worker("next")
        done = under_way.end()
    assert (done.code, done.lines[-1]["counts"]["ok"]) == (0, 3000), done.out + done.err


@pytest.mark.timeout(400)
def test_a_scheduler_that_dies_ends_the_command_with_what_was_recorded(tmp_path: Path, rclone: RealService) -> None:
    filled = fill_bucket(tmp_path, rclone, count=2000, fetched=False)
    gate = Gate(tmp_path)
    with dask_cluster(tmp_path, python_path=gate.python_path) as running:
        under_way = Running("fetch", filled.mirror, archive=filled.archive, cluster=running)
        gate.wait_for(running.worker_process("worker-0"))
        wait_until(lambda: rows(filled.archive, "assets"))
        began = time.monotonic()
        running.kill("scheduler")
        done = under_way.end()
        assert time.monotonic() - began < 30
        assert (done.code, "has gone" in done.lines[0]["message"]) == (16, True), done.out + done.err
    assert 0 < len(rows(filled.archive, "assets")) < 2000
    assert command("fetch", filled.mirror, archive=filled.archive).code == 0
    assert len(rows(filled.archive, "assets")) == 2000


@pytest.mark.timeout(400)
def test_ctrl_c_cancels_what_waits_at_the_cluster(tmp_path: Path, rclone: RealService) -> None:
    filled = fill_bucket(tmp_path, rclone, count=3000)
    gate = Gate(tmp_path)
    with dask_cluster(tmp_path, python_path=gate.python_path) as running:
        under_way = Running("verify", archive=filled.archive, cluster=running)
        gate.wait_for(running.worker_process("worker-0"), running.worker_process("worker-1"))
        time.sleep(WATCH_SECONDS)  # what they have done reaches the command
        under_way.process.send_signal(signal.SIGINT)
        gate.open()
        done = under_way.end()
        summary = done.lines[-1]
        assert (done.code, summary["outcome"]) == (130, "interrupted"), done.out + done.err
        assert 0 < summary["counts"]["checked"] < 3000
        recorded = [row for row in rows(filled.archive, "assets where verified_at is not null")]
        assert len(recorded) == summary["counts"]["checked"]
        # The cluster has nothing left to do, and takes the next command.
        assert asked("verify", "--due", "1d", archive=filled.archive, cluster=running).code == 0


def test_nothing_secret_travels_in_a_task(tmp_path: Path, rclone: RealService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is handed to Dask is looked through for the secret key."""
    import pickletools

    from craftkit_archive.parallel import cluster as seam
    from craftkit_archive.verify.fixity import Task, check_assets

    filled = fill_bucket(tmp_path, rclone, count=2)
    with Archive(filled.archive, read_only=True) as archive:
        archive.store.check(archive.id)  # the credentials are found, and held by the store
        task = Task(archive.store.address, "digest", [("a.pdf", 1, None)])
        packed = seam._packed(seam._do, "run", check_assets, task)
    assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in packed
    words = [argument for _, argument, _ in pickletools.genops(packed) if isinstance(argument, str)]
    assert "check_assets" in words


def test_json_of_the_cluster_is_one_object(tmp_path: Path, cluster: DaskCluster) -> None:
    world = fill(tmp_path)
    done = asked("verify", archive=world.archive.path, cluster=cluster)
    assert [json.loads(line)["type"] for line in done.out.splitlines()] == ["summary"]
