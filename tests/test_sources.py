"""Fetching from a bucket and from a live API, whatever the network does."""

import itertools
import os
import random
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import parse_qsl

import boto3
import pytest

from craftkit_archive.archive import Archive
from craftkit_archive.errors import (
    ArchiveError,
    ForbiddenError,
    RemoteError,
    RequestError,
    StoreOfflineError,
    UnauthorizedError,
)
from craftkit_archive.export.destination import Options
from craftkit_archive.export.run import export_assets
from craftkit_archive.fetch import arrival
from craftkit_archive.fetch import run as fetching
from craftkit_archive.fetch.run import fetch_assets
from craftkit_archive.parallel.batches import never
from craftkit_archive.records import Finding, Note, Planned, Record, Skipped, Summary
from craftkit_archive.sources import api as craftkit_api
from craftkit_archive.sources.api import CraftkitApi
from craftkit_archive.stores import aws
from craftkit_archive.stores import bucket as bucket_module
from craftkit_archive.stores.address import open_store
from craftkit_archive.stores.base import digest
from craftkit_archive.stores.bucket import BucketStore, bucket_address
from craftkit_archive.verify.run import verify_assets
from server.app import Settings
from tests.services import BUCKET, CREDENTIALS, Fault, FaultyProxy, RealService, answering
from tests.worlds import (
    GONE_KEY,
    LIVE_KEY,
    NORTHWIND,
    REVOKED_KEY,
    ROOT,
    World,
    command,
    fill,
    live,
    load,
    pdf,
    peak_kib,
    program,
    projects,
    put,
    render,
    render_id,
    summary_of,
)

COUNT = 6


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the pauses short, but the patience long: a busy machine takes its time to answer."""
    monkeypatch.setattr(aws, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(craftkit_api, "PAUSE_SECONDS", 0.01)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up after a second whatever does not answer: for tests in which something stalls."""
    monkeypatch.setattr(bucket_module, "READ_SECONDS", 1.0)
    monkeypatch.setattr(craftkit_api, "TIMEOUT_SECONDS", 1.0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return an archive that expects some renders, and has none of them."""
    world = fill(tmp_path, count=0)
    load(world.archive, tmp_path, "renders", [render(number) for number in range(COUNT)])
    return world


@pytest.fixture
def proxy(moto: str) -> Iterator[FaultyProxy]:
    """Return a proxy in front of the mocked S3."""
    proxy = FaultyProxy(moto)
    yield proxy
    proxy.close()


@pytest.fixture
def bucket(proxy: FaultyProxy) -> BucketStore:
    """Return a place in a bucket that holds the expected renders, reached through the proxy."""
    store = BucketStore(bucket_address(f"s3://{BUCKET}/{token_hex(8)}", endpoint_url=proxy.url))
    for number in range(COUNT):
        store.write(render(number)["asset_key"], [pdf(f"render {number}")])
    proxy.asked.clear()
    return store


def fetch(world: World, source: str, **options: Any) -> tuple[Summary, list[Record]]:
    records = list(fetch_assets(world.archive, source, **options))
    assert isinstance(records[-1], Summary)
    return records[-1], records[:-1]


def proxy_of(bucket: BucketStore) -> str:
    """Return the URL of the service that a bucket is at."""
    return dict(parse_qsl(bucket.address.partition("?")[2]))["endpoint_url"]


def stored(world: World) -> set[str]:
    return {asset.render_id for asset in world.archive.catalog.stored_assets(world.archive.select())}


def vouched(world: World) -> set[str]:
    return {row[0] for row in world.archive.catalog._query("SELECT digest_source FROM assets")}


def all_is_well(world: World) -> None:
    """Make sure that everything is stored, byte for byte."""
    for number in range(COUNT):
        assert world.asset(number).read_bytes() == pdf(f"render {number}")
    assert summary_of(verify_assets(world.archive)).counts == {"checked": COUNT, "ok": COUNT}


# --- a bucket --------------------------------------------------------------------------------------------------------


def test_fetch_copies_a_bucket_and_its_etags_vouch(world: World, bucket: BucketStore) -> None:
    summary, _ = fetch(world, bucket.address)
    assert (summary.outcome, summary.counts["copied"]) == ("ok", COUNT)
    assert vouched(world) == {"etag"}
    all_is_well(world)
    assert fetch(world, bucket.address)[0].counts["expected"] == 0


def test_a_real_server_that_checks_signatures_gives_everything(world: World, rclone: RealService) -> None:
    for number in range(COUNT):
        put(rclone.bucket / "a placé", render(number)["asset_key"], pdf(f"render {number}"))
    place = bucket_address(f"s3://{BUCKET}/a placé", endpoint_url=rclone.url)
    assert fetch(world, place)[0].counts["copied"] == COUNT
    all_is_well(world)


def test_what_a_declared_digest_and_an_etag_vouch_for(world: World, bucket: BucketStore) -> None:
    whole = pdf("render 0")
    load(world.archive, world.folder, "renders", [render(0, sha256=sha256(whole).hexdigest(), size_bytes=len(whole))])
    fetch(world, bucket.address)
    assert vouched(world) == {"declared", "etag"}
    all_is_well(world)


def test_an_etag_of_several_parts_is_no_md5(world: World, bucket: BucketStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("craftkit_archive.stores.bucket.PART_BYTES", 5 << 20)
    large = pdf("large", size_bytes=12 << 20)
    chunks = [large[at : at + (1 << 20)] for at in range(0, len(large), 1 << 20)]
    assert bucket.write(render(0)["asset_key"], chunks, replace=True) == digest([large])
    summary, _ = fetch(world, bucket.address)
    assert summary.counts["copied"] == COUNT
    assert world.asset(0).read_bytes() == large
    assert vouched(world) == {"etag", "first-read"}


def test_an_upload_that_fails_leaves_no_parts(bucket: BucketStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("craftkit_archive.stores.bucket.PART_BYTES", 5 << 20)

    def broken() -> Iterator[bytes]:
        yield bytes(6 << 20)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        bucket.write("new.pdf", broken())
    client = boto3.client("s3", endpoint_url=proxy_of(bucket))
    assert not client.list_multipart_uploads(Bucket=BUCKET).get("Uploads")


HEALING = ["reset", "break", "stall", "503", "500"]


@pytest.mark.parametrize("kind", HEALING)
def test_a_fault_that_heals_is_lived_through(
    world: World, bucket: BucketStore, proxy: FaultyProxy, kind: Any, request: pytest.FixtureRequest
) -> None:
    if kind == "stall":
        request.getfixturevalue("impatient")
    proxy.faults = [Fault(kind, times=3)]
    summary, _ = fetch(world, bucket.address)
    assert (summary.outcome, summary.counts["copied"]) == ("ok", COUNT)
    assert proxy.faults[0].times == 0
    all_is_well(world)


LASTING = {
    "reset": "unavailable",
    "lengthen": "unavailable",
    "503": "unavailable",
    "500": "unavailable",
    "denied": "unavailable",
    "flip": "wrong-digest",
}


@pytest.mark.parametrize("kind", LASTING)
def test_a_fault_that_stays_is_one_finding(world: World, bucket: BucketStore, proxy: FaultyProxy, kind: Any) -> None:
    proxy.faults = [Fault(kind, where=render_id(2), times=1000)]
    summary, records = fetch(world, bucket.address)
    outcome, count = ("problems", "refused") if kind == "flip" else ("incomplete", "unavailable")
    assert (summary.outcome, summary.counts["copied"], summary.counts[count]) == (outcome, COUNT - 1, 1)
    [finding] = [record for record in records if isinstance(record, Finding)]
    assert (finding.render_id, finding.verdict) == (render_id(2), LASTING[kind]), finding.detail
    assert not world.asset(2).exists()
    proxy.faults.clear()
    assert fetch(world, bucket.address)[0].counts["copied"] == 1
    all_is_well(world)


@pytest.mark.parametrize(
    ("verdict", "body"),
    [("empty", b""), ("not-a-pdf", b"<!DOCTYPE html>" + b" " * 3000), ("truncated", pdf("x")[:300])],
)
def test_what_the_bucket_has_damaged_is_stored_only_if_its_etag_vouches(
    world: World, bucket: BucketStore, verdict: str, body: bytes
) -> None:
    bucket.write(render(2)["asset_key"], [body], replace=True)
    summary, records = fetch(world, bucket.address, ignore_etag=True)
    assert (summary.outcome, summary.counts["copied"], summary.counts["refused"]) == ("problems", COUNT - 1, 1)
    assert [record.verdict for record in records if isinstance(record, Finding)] == [verdict]
    assert not world.asset(2).exists()
    summary, records = fetch(world, bucket.address)
    assert (summary.outcome, summary.counts["copied"], summary.counts["odd"]) == ("ok", 1, 1)
    assert [record.detail[:15] for record in records if isinstance(record, Note)] == ["odd on arrival:"]
    assert world.asset(2).read_bytes() == body


def test_an_object_that_changes_in_mid_copy_is_noticed(world: World, bucket: BucketStore, proxy: FaultyProxy) -> None:
    """Two versions are never spliced."""
    direct = BucketStore(bucket_address(bucket.address, endpoint_url=proxy.upstream.geturl()))
    new = pdf("another render 2")
    proxy.change = lambda: direct.write(render(2)["asset_key"], [new], replace=True) and None
    proxy.faults = [Fault("change", where=render_id(2))]
    summary, _ = fetch(world, bucket.address)
    assert summary.counts["copied"] == COUNT
    assert world.asset(2).read_bytes() == new


def test_a_body_goes_on_where_it_broke_off(bucket: BucketStore, proxy: FaultyProxy) -> None:
    proxy.faults = [Fault("break")]
    with bucket.open(render(0)["asset_key"]) as found:
        assert b"".join(found.chunks()) == pdf("render 0")
        found.file.seek(-20, os.SEEK_END)
        assert found.file.read() == pdf("render 0")[-20:]
        found.file.seek(0)
        assert found.file.read(5) == b"%PDF-"


def test_what_the_bucket_lacks_and_what_no_render_has_are_told(world: World, bucket: BucketStore) -> None:
    client = boto3.client("s3", endpoint_url=proxy_of(bucket))
    client.delete_object(Bucket=BUCKET, Key=bucket._prefix + render(3)["asset_key"])
    bucket.write(f"renders/{NORTHWIND}/unknown.pdf", [pdf("unknown")])
    load(world.archive, world.folder, "renders", [render(20, status="failed", asset_key="odd/name.pdf")])
    bucket.write("odd/name.pdf", [pdf("of a failed render")])
    summary, records = fetch(world, bucket.address)
    assert (summary.outcome, summary.counts["absent"], summary.counts["unclaimed"]) == ("incomplete", 1, 1)
    assert summary.details["unclaimed"] == [f"renders/{NORTHWIND}/unknown.pdf"]
    assert [record.render_id for record in records if isinstance(record, Skipped)] == [render_id(3)]


def test_a_dry_run_tells_sizes_without_reading(world: World, bucket: BucketStore, proxy: FaultyProxy) -> None:
    summary, records = fetch(world, bucket.address, dry_run=True)
    assert [record.size_bytes for record in records if isinstance(record, Planned)] == [len(pdf("render 0"))] * COUNT
    assert summary.bytes_read == COUNT * len(pdf("render 0"))
    assert not [asked for asked in proxy.asked if asked.startswith("GET") and ".pdf" in asked]
    assert stored(world) == set()


def test_a_service_that_goes_away_stops_it_and_the_next_goes_on(
    world: World, bucket: BucketStore, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, moto: str
) -> None:
    monkeypatch.setattr(fetching, "BATCH", 1)
    monkeypatch.setattr(BucketStore, "lanes", 1)
    proxy.faults = [Fault("change", where=render_id(3), times=100)]
    proxy.change = proxy.close
    with pytest.raises(StoreOfflineError, match="Cannot reach"):
        fetch(world, bucket.address)
    assert 0 < len(stored(world)) < COUNT
    with pytest.raises(StoreOfflineError, match="Cannot reach"):
        fetch(world, bucket.address)
    fetch(world, bucket_address(bucket.address, endpoint_url=moto))
    all_is_well(world)


def test_a_bucket_that_is_not_there_stops_it(world: World, moto: str) -> None:
    for address in (f"s3://nobody-made-this?endpoint_url={moto}", f"s3://{BUCKET}/nowhere?endpoint_url={moto}"):
        with pytest.raises(StoreOfflineError, match="Check the bucket name"):
            fetch(world, address)
    with pytest.raises(StoreOfflineError, match="Cannot reach"):
        fetch(world, f"s3://{BUCKET}?endpoint_url=http://127.0.0.1:9")


@pytest.mark.parametrize(
    "address", ["s3://", "s3:///x", "s3://b?what=x", "s3://b?endpoint_url=http://a:b@h", "ftp://h"]
)
def test_an_address_that_is_none_is_refused(world: World, address: str) -> None:
    with pytest.raises(RequestError) as caught:
        fetch(world, address)
    assert "a:b" not in str(caught.value)


def test_wrong_credentials_stop_it_and_are_not_shown(world: World, rclone: RealService) -> None:
    wrong = {**CREDENTIALS, "AWS_SECRET_ACCESS_KEY": "a-wrong-secret"}
    done = command(
        "fetch",
        f"s3://{BUCKET}",
        "--endpoint-url",
        rclone.url,
        "--region",
        "eu-central-1",
        archive=world.archive.path,
        env=wrong,
    )
    assert (done.code, "Check AWS_ACCESS_KEY_ID" in done.err) == (16, True)
    assert "a-wrong-secret" not in done.err + done.out
    none = {name: "" for name in CREDENTIALS} | {"AWS_EC2_METADATA_DISABLED": "true", "HOME": os.devnull}
    done = command("fetch", f"s3://{BUCKET}", "--endpoint-url", rclone.url, archive=world.archive.path, env=none)
    assert (done.code, "No credentials" in done.err) == (16, True)


def test_an_etag_that_is_something_else_can_be_ignored(world: World, bucket: BucketStore, proxy: FaultyProxy) -> None:
    proxy.faults = [Fault("flip", where=render_id(2), times=1000)]  # bytes that do not fit their ETag
    assert fetch(world, bucket.address, ignore_etag=True)[0].counts["copied"] == COUNT
    assert vouched(world) == {"first-read"}


def test_the_pauses_grow_and_are_uneven() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aws, "PAUSE_SECONDS", 1.0)
        tries = [list(aws.pauses()) for _ in range(50)]
    assert {len(pauses) for pauses in tries} == {aws.ATTEMPTS}
    for number, middle in enumerate([1.0, 2.0, 4.0, 8.0]):
        found = {pauses[number] for pauses in tries}
        assert len(found) > 1
        assert all(pause is not None and 0.7 * middle < pause < 1.3 * middle for pause in found)


def test_a_bandwidth_limit_holds_for_all_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 0)
    slept: list[float] = []
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(time, "sleep", slept.append)
    throttle = arrival._Throttle()
    pauses = []
    for _ in range(4):
        slept.clear()
        throttle.take(500, 1000, never)
        pauses.append(round(sum(slept), 6))
    assert pauses == [0.5, 1.0, 1.5, 2.0]


# --- a bucket as the archive's own store -----------------------------------------------------------------------------


def test_an_archive_can_have_its_store_in_a_bucket(tmp_path: Path, moto: str) -> None:
    place = bucket_address(f"s3://{BUCKET}/{token_hex(8)}", endpoint_url=moto)
    archive = Archive.create(tmp_path / "archive", store_address=place)
    mirror = fill(tmp_path / "other", count=3, size_bytes=1 << 21)
    for kind, rows in (("projects", projects()), ("renders", [render(number) for number in range(3)])):
        load(archive, tmp_path, kind, rows)  # type: ignore[arg-type]
    assert summary_of(fetch_assets(archive, str(mirror.bucket))).counts["copied"] == 3
    assert summary_of(verify_assets(archive)).counts == {"checked": 3, "ok": 3}
    assert summary_of(verify_assets(archive, level="size")).outcome == "ok"
    assert summary_of(export_assets(archive, tmp_path / "out")).outcome == "ok"
    prefix = bucket_address(f"s3://{BUCKET}/{token_hex(8)}", endpoint_url=moto)
    for outcome in ("written", "unchanged"):
        assert summary_of(export_assets(archive, prefix)).counts[outcome] == 3
    with open_store(prefix).open("manifest-sha256.txt") as found:
        lines = b"".join(found.chunks()).splitlines()
    there = (tmp_path / "out/manifest-sha256.txt").read_bytes().splitlines()
    assert [line for line in lines if b".pdf" in line] == [line for line in there if b".pdf" in line]
    with pytest.raises(RequestError, match="hard links"):
        summary_of(export_assets(archive, tmp_path / "linked", options=Options(link=True)))
    volumes = bucket_address(f"s3://{BUCKET}/{token_hex(8)}", endpoint_url=moto)
    split = summary_of(export_assets(archive, volumes, options=Options(split_bytes=64 << 20)))
    assert [made["path"].partition("?")[0][-4:] for made in split.details["exports"]] == ["-001"]
    key = archive.create_key("northwind").key
    with live(archive, Settings(max_buffer_bytes=0)) as url:
        request = urllib.request.Request(f"{url}/v1/renders/{render_id(1)}/download")
        request.add_header("Authorization", f"Bearer {key}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.read() == mirror.asset(1).read_bytes()
    open_store(place).write(render(1)["asset_key"], [pdf("damaged")], replace=True)
    assert summary_of(verify_assets(archive)).outcome == "problems"
    other = Archive.create(tmp_path / "elsewhere")
    other.catalog._query("UPDATE settings SET value = ? WHERE name = 'store'", (place,))
    done2 = command("verify", archive=other.path)
    assert done2.code == 14


# --- in place --------------------------------------------------------------------------------------------------------


def test_a_mirror_is_adopted_without_copying_a_byte(tmp_path: Path) -> None:
    mirror = fill(tmp_path / "other", count=4).bucket
    before = {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in mirror.rglob("*.pdf")}
    put(mirror, "renders/stray.pdf", pdf("stray"))
    with Archive.create(tmp_path / "archive", store_address=str(mirror)) as archive:
        load(archive, tmp_path, "renders", [render(number) for number in range(5)])
        summary = summary_of(fetch_assets(archive))
        assert (summary.outcome, summary.counts["adopted"], summary.counts["absent"]) == ("incomplete", 4, 1)
        assert summary.counts["unclaimed"] == 1
        assert summary_of(verify_assets(archive)).counts == {"checked": 4, "ok": 4, "orphan": 1}
    assert before == {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in before}


# --- a live API ------------------------------------------------------------------------------------------------------


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """Return a proxy in front of another archive's server, which has the expected renders."""
    monkeypatch.setenv("CRAFTKIT_API_KEY", LIVE_KEY)
    other = fill(tmp_path / "other", count=COUNT)
    load(other.archive, tmp_path, "renders", [render(20, status="rendering"), render(21)])
    with live(other.archive) as url:
        proxy = FaultyProxy(url)
        yield proxy
        proxy.close()


def test_one_archive_can_fill_another(world: World, api: FaultyProxy) -> None:
    summary, _ = fetch(world, api.url)
    assert (summary.outcome, summary.counts["copied"]) == ("ok", COUNT)
    all_is_well(world)


def test_what_the_api_does_not_have_is_a_finding_each(world: World, api: FaultyProxy) -> None:
    load(world.archive, world.folder, "renders", [render(20), render(21), render(30)])
    summary, records = fetch(world, api.url)
    assert (summary.outcome, summary.counts["copied"], summary.counts["absent"]) == ("incomplete", COUNT, 3)
    findings = {record.render_id: record for record in records if isinstance(record, Finding)}
    assert set(findings) == {render_id(20), render_id(21), render_id(30)}
    assert "rendering" in (findings[render_id(20)].detail or "")


@pytest.mark.parametrize(("key", "error"), [(REVOKED_KEY, UnauthorizedError), (GONE_KEY, ForbiddenError)])
def test_a_key_that_is_refused_stops_it(
    world: World, api: FaultyProxy, monkeypatch: pytest.MonkeyPatch, key: str, error: type[Exception]
) -> None:
    monkeypatch.setenv("CRAFTKIT_API_KEY", key)
    with pytest.raises(error) as caught:
        fetch(world, f"{api.url}/")
    assert key not in str(caught.value)
    assert stored(world) == set()


def test_a_key_that_is_revoked_on_the_way_stops_it(world: World, api: FaultyProxy) -> None:
    api.faults = [Fault("denied", where=render_id(2), times=1000)]
    with pytest.raises(ForbiddenError):
        fetch(world, api.url)
    api.faults.clear()
    fetch(world, api.url)
    all_is_well(world)


@pytest.mark.parametrize("kind", [*HEALING, "lengthen"])
def test_the_api_is_asked_again_after_a_fault_that_heals(
    world: World, api: FaultyProxy, kind: Any, request: pytest.FixtureRequest
) -> None:
    if kind == "stall":
        request.getfixturevalue("impatient")
    api.faults = [Fault(kind, where="/download", times=3)]
    assert fetch(world, api.url)[0].counts["copied"] == COUNT
    all_is_well(world)


def test_ids_bring_their_metadata_along(tmp_path: Path, api: FaultyProxy) -> None:
    archive = Archive.create(tmp_path / "archive")
    load(archive, tmp_path, "projects", projects())
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join([render_id(0), render_id(1), render_id(20), "unknown"]))
    with pytest.raises(RequestError, match="--project"):
        list(fetch_assets(archive, api.url, selection=archive.select(ids=ids)))
    selection = archive.select(ids=ids, projects=("northwind",))
    summary = summary_of(fetch_assets(archive, api.url, selection=selection))
    assert summary.outcome == "incomplete"
    assert {name: summary.counts[name] for name in ("described", "unknown", "copied")} == {
        "described": 3,
        "unknown": 1,
        "copied": 2,
    }
    rows = archive.catalog.known("renders", [render_id(0), render_id(20)])
    assert [rows[render_id(number)][1:4:2] for number in (0, 20)] == [
        (NORTHWIND, "succeeded"),
        (NORTHWIND, "rendering"),
    ]


def test_asking_for_metadata_can_be_stopped(world: World, api: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "BATCH", 1)
    ids = world.folder / "ids.txt"
    ids.write_text("\n".join(render_id(number) for number in range(20, 22)))
    summary, _ = fetch(world, api.url, selection=world.archive.select(ids=ids), stop=lambda: len(api.asked) > 1)
    assert (summary.outcome, summary.counts["described"]) == ("interrupted", 1)


@pytest.mark.parametrize(
    ("address", "key"),
    [("https://user:pw@host", LIVE_KEY), ("https://", LIVE_KEY), ("http://h?x", LIVE_KEY), ("https://host", "")],
)
def test_an_api_that_cannot_be_asked_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, address: str, key: str
) -> None:
    monkeypatch.setenv("CRAFTKIT_API_KEY", key)
    with pytest.raises(RequestError) as caught:
        fetch(world, address)
    assert "pw" not in str(caught.value)


FOUND = b"HTTP/1.1 200 OK\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\n"
ODD_ANSWERS = {
    "an error cut short": NOT_FOUND + b"Content-Length: 100\r\n\r\n<Code>",
    "an error that is not packed as it says": NOT_FOUND + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\n<a>",
    "an error in broken chunks": NOT_FOUND + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "an error that is no text": NOT_FOUND + b'Content-Length: 29\r\n\r\n{"error":{"message":"\xff\xfe\xfd"}}',
    "an error that is nested": NOT_FOUND + b'Content-Length: 60000\r\n\r\n{"x":' + b"[" * 59_995,
    "a length that is no number": FOUND + b"Content-Length: abc\r\n\r\nabc",
    "a length below nothing": FOUND + b"Content-Length: -5\r\n\r\nabc",
    "a length beyond everything": FOUND + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nabc",
    "no length": FOUND + b"\r\nabc",
    "a checksum that is none": FOUND + b"x-amz-checksum-sha256: \xe9\r\nContent-Length: 3\r\n\r\nabc",
    "a digest that is none": FOUND + b"Repr-Digest: sha-256=:" + b"A" * 41 + b"===:\r\nContent-Length: 3\r\n\r\nabc",
    "a redirection": b"HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("answer", ODD_ANSWERS)
def test_no_answer_however_odd_is_a_bug_of_ours(answer: str, monkeypatch: pytest.MonkeyPatch, moto: str) -> None:
    monkeypatch.setenv("CRAFTKIT_API_KEY", LIVE_KEY)
    with answering(ODD_ANSWERS[answer]) as url:
        store, api = BucketStore(bucket_address(f"s3://{BUCKET}", endpoint_url=url)), CraftkitApi(url)
        for ask in (
            lambda: store.find("a.pdf"),
            lambda: store.measure("a.pdf"),
            api.check,
            lambda: api.size("a", "a.pdf"),
            lambda: api.open("a", "a.pdf").file.close(),
        ):
            with suppress(ArchiveError):
                ask()


def test_metadata_that_breaks_off_is_not_taken_for_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAFTKIT_API_KEY", LIVE_KEY)
    with answering(FOUND + b"Content-Length: 100\r\n\r\n{}") as url, pytest.raises(RemoteError, match="broke off"):
        CraftkitApi(url).describe(render_id(1))


def test_an_answer_without_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAFTKIT_API_KEY", LIVE_KEY)
    chunk = b"2000\r\n" + b" " * 0x2000 + b"\r\n"
    for status in (b"503 Busy", b"404 Not Found", b"200 OK"):
        head = b"HTTP/1.1 " + status + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
        with answering(head, endless=chunk) as url, pytest.raises(RemoteError):
            CraftkitApi(url).describe(render_id(1))


def test_a_key_that_the_api_sends_back_is_stored_nowhere(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAFTKIT_API_KEY", "a-key-like-no-other")
    said = b'{"error":{"code":"conflict","message":"not for a-key-like-no-other"}}'
    with answering(b"HTTP/1.1 409 Conflict\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said)) as url:
        monkeypatch.setattr(CraftkitApi, "check", lambda _: None)
        summary, records = fetch(world, url)
    assert (summary.outcome, summary.counts["absent"]) == ("incomplete", COUNT)
    assert all("not for …" in (record.detail or "") for record in records if isinstance(record, Finding))
    assert ("a-key-like-no-other",) not in world.archive.catalog._query("SELECT detail FROM findings")


@pytest.mark.parametrize(
    "url",
    [
        *("https://[::1", "https://host:abc", "https://host:99999", "https://ho st", "host:9000", "https://h\u00f6st"),
        *("https://host/a b", "https://host/\u00e9"),
    ],
)
def test_a_mistyped_url_is_refused(url: str, monkeypatch: pytest.MonkeyPatch, moto: str) -> None:
    monkeypatch.setenv("CRAFTKIT_API_KEY", LIVE_KEY)
    with pytest.raises(RequestError):
        CraftkitApi(url)
    with pytest.raises(RequestError):
        BucketStore(bucket_address(f"s3://{BUCKET}", endpoint_url=url)).owner()
    with pytest.raises(RequestError) as caught:
        CraftkitApi("https://user:pw@host?x=1")
    assert "pw" not in str(caught.value)


def test_what_is_no_craftkit_api_stops_it(world: World, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAFTKIT_API_KEY", LIVE_KEY)
    with pytest.raises(StoreOfflineError, match="does not answer as a Craftkit API"):
        fetch(world, proxy.url)


# --- long ------------------------------------------------------------------------------------------------------------

KILLS = 50


@pytest.mark.long
@pytest.mark.timeout(900)
def test_killing_a_fetch_from_a_bucket_at_any_moment_leaves_an_archive_that_is_good(
    tmp_path: Path, rclone: RealService
) -> None:
    """A row never speaks of bytes that are not whole in the store, and a last fetch does the rest."""
    count = 1500
    world = fill(tmp_path, count=0)
    rows = [render(number) for number in range(count)]
    for row in rows:
        put(rclone.bucket / "killed", row["asset_key"], pdf(row["id"], size_bytes=20_000))
    load(world.archive, tmp_path, "renders", rows)
    source = bucket_address(f"s3://{BUCKET}/killed", endpoint_url=rclone.url)
    small = "from craftkit_archive.fetch import run; run.BATCH = 8"
    words = program("fetch", source, "--jobs", "2", archive=world.archive.path, before=small)
    chance = random.Random(20260606)
    store = Path(world.archive.store.address)
    folder = store / Path(rows[0]["asset_key"]).parent
    folder.mkdir(parents=True)
    before = 0
    halfway = 0
    for _ in range(KILLS):
        with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as running:
            enough = len(list(folder.iterdir())) + chance.randrange(30)
            deadline = time.monotonic() + 20
            while running.poll() is None and len(list(folder.iterdir())) < enough and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.05))
            running.send_signal(signal.SIGKILL)
        assets = list(world.archive.catalog.stored_assets(world.archive.select()))
        for asset in assets[before:]:
            assert (asset.size_bytes, asset.sha256) == digest([(store / asset.key).read_bytes()])
        assert len(assets) >= before, "what was recorded stays recorded"
        halfway += before < len(assets) < count
        before = len(assets)
    assert halfway > KILLS / 2, "too few kills came at a moment that shows anything"
    fetch(world, source)
    assert summary_of(verify_assets(world.archive)).counts == {"checked": count, "ok": count}


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_large_object_is_streamed(tmp_path: Path, rclone: RealService) -> None:
    size = 1 << 30
    world = fill(tmp_path, count=0)
    file = put(rclone.bucket / "large", render(0)["asset_key"], pdf("large"))
    with file.open("r+b") as large:
        end = large.read()[-200:]
        large.seek(size - len(end))
        large.write(end)
    load(world.archive, tmp_path, "renders", [render(0)])
    source = bucket_address(f"s3://{BUCKET}/large", endpoint_url=rclone.url)
    assert peak_kib("fetch", source, archive=world.archive.path) < 200_000
    assert world.asset(0).stat().st_size == size
    file.unlink()
