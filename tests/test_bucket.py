"""Buckets at services other than AWS: all that is there arrives, and what does not is explained."""

import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.exceptions import GenericError

from craftkit_archive.archive import Archive
from craftkit_archive.catalog.rows import Selection
from craftkit_archive.errors import (
    ArchiveError,
    AssetExistsError,
    AssetUnavailableError,
    RemoteError,
    RequestError,
    StoreOfflineError,
)
from craftkit_archive.export.run import export_assets
from craftkit_archive.fetch import arrival
from craftkit_archive.fetch.run import fetch_assets
from craftkit_archive.parallel.batches import never
from craftkit_archive.pdf.ends import Ends
from craftkit_archive.records import Finding, Note, Record, Summary
from craftkit_archive.stores import aws, bucket
from craftkit_archive.stores.base import digest
from craftkit_archive.stores.bucket import BucketStore, bucket_address
from craftkit_archive.stores.refusals import ServiceRefusal
from craftkit_archive.verify.run import verify_assets
from tests.quirky_s3 import REGION, QuirkyS3, quirky_s3
from tests.services import CREDENTIALS
from tests.worlds import World, command, fill, load, pdf, render, render_id, summary_of

COUNT = 5
BODY = b"%PDF-1.4\nwhatever\n"


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch, _credentials: None) -> None:
    """Keep the pauses short."""
    monkeypatch.setattr(aws, "PAUSE_SECONDS", 0.01)


@contextmanager
def offering(world: World, *quirks: str, count: int = COUNT, **options: Any) -> Iterator[QuirkyS3]:
    """Run a quirky service that holds what an archive expects."""
    load(world.archive, world.folder, "renders", [render(number) for number in range(count)])
    with quirky_s3(*quirks, **options) as service:
        service.objects |= {render(number)["asset_key"]: pdf(f"render {number}") for number in range(count)}
        yield service


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return an archive that has nothing yet."""
    return fill(tmp_path, count=0)


def address(service: QuirkyS3, **options: str) -> str:
    return bucket_address("s3://bucket", endpoint_url=service.url, **options)


def fetch(world: World, source: str, **options: Any) -> tuple[Summary, list[Record]]:
    records = list(fetch_assets(world.archive, source, **options))
    assert isinstance(records[-1], Summary)
    return records[-1], records[:-1]


def findings(records: list[Record]) -> list[tuple[str, str]]:
    return [(record.verdict, record.detail or "") for record in records if isinstance(record, Finding)]


def vouched(world: World) -> set[str]:
    return {row[0] for row in world.archive.catalog._query("SELECT digest_source FROM assets")}


# --- reading ---------------------------------------------------------------------------------------------------------

# What vouches for the bytes that come from a service with these quirks.
READABLE: dict[tuple[str, ...], str] = {
    (): "etag",
    ("no-checksum-mode",): "etag",
    ("checksum-mode-501",): "etag",
    ("last-modified",): "etag",
    ("bare-etag",): "etag",
    ("upper-case-etag",): "etag",
    ("gzips",): "etag",
    ("no-etag",): "first-read",
    ("no-etag", "checksum"): "s3-checksum",
    ("no-etag", "no-checksum-mode"): "first-read",
    ("in-parts",): "first-read",
    ("in-parts", "checksum-mode-501"): "first-read",
    ("encrypted",): "first-read",
    ("encrypted", "checksum"): "s3-checksum",
    ("encrypted", "no-checksum-mode"): "first-read",
    ("no-list",): "etag",
    ("names-region",): "etag",
    ("redirects",): "etag",
    ("list-goes-on-nowhere",): "etag",
    ("list-repeats-itself",): "etag",
    ("list-without-sizes",): "etag",
    **{
        (f"once-{status}-{code}".rstrip("-"),): "etag"
        for status, code in [
            *((400, code) for code in ("RequestTimeout", "IncompleteBody", "PriorRequestNotComplete")),
            (409, "OperationAborted"),
            *((status, "") for status in (408, 425, 429, 500, 502, 503, 504, 509, 520, 521, 522, 523, 524, 530)),
            (503, "SlowDown"),
        ]
    },
}


@pytest.mark.parametrize("quirks", READABLE, ids="+".join)
def test_all_that_is_there_arrives(world: World, quirks: tuple[str, ...]) -> None:
    with offering(world, *quirks) as service:
        summary, records = fetch(world, address(service))
    assert (summary.outcome, summary.counts["copied"], findings(records)) == ("ok", COUNT, [])
    assert vouched(world) == {READABLE[quirks]}
    assert summary_of(verify_assets(world.archive)).counts["ok"] == COUNT


def test_a_region_that_the_service_names_is_asked_for_once(world: World) -> None:
    with offering(world, "names-region", count=300) as service:
        assert fetch(world, address(service), jobs=2)[0].counts["copied"] == 300
    malformed = [headers for headers in service.headers if REGION not in headers.get("authorization", "")]
    assert len(malformed) == 1


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({"AWS_REGION": "r-1", "AWS_DEFAULT_REGION": "r-2"}, "r-1"),
        ({"AWS_REGION": "", "AWS_DEFAULT_REGION": "r-2"}, "r-2"),
    ],
)
def test_both_variables_name_the_region(
    variables: dict[str, str], region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with quirky_s3() as service:
        assert BucketStore(address(service)).access.region == region
        assert BucketStore(address(service, region="r-3")).access.region == "r-3"


def test_a_wrong_checksum_is_a_finding(world: World) -> None:
    with offering(world, "no-etag", "wrong-checksum", where=render_id(2)) as service:
        summary, records = fetch(world, address(service))
    assert (summary.outcome, summary.counts["copied"], summary.counts["refused"]) == ("problems", COUNT - 1, 1)
    [(verdict, detail)] = findings(records)
    assert (verdict, "the source says" in detail) == ("wrong-digest", True)


def test_bytes_that_contradict_an_etag_are_refused_whatever_encryption_there_is_elsewhere(world: World) -> None:
    with offering(world, "checksum") as service:
        real = service.objects[render(1)["asset_key"]]
        service.objects[render(1)["asset_key"]] = real + b"\n"
        store = BucketStore(address(service))
        with store.open(render(1)["asset_key"]) as found:
            checksums = found.checksums._replace(md5="0" * 32)
            # The service says, asked more closely, that the object is not encrypted.
            found.checksums, found.ask_closer = checksums, lambda: checksums
            task = arrival.FetchTask("", "", [], None, False, False, "")
            asset = next(iter(world.archive.catalog.expected_assets(Selection())))
            checked = arrival._checked(found, asset, task, Ends(), never)
            with pytest.raises(arrival._RefusedError, match="ETag") as caught:
                list(checked)
    assert caught.value.verdict == "wrong-digest"


@pytest.mark.parametrize("quirk", ["archived", "no-length", "always-403-AccessDenied", "always-400-InvalidArgument"])
def test_one_object_that_cannot_be_had_is_unavailable_and_stops_nothing(world: World, quirk: str) -> None:
    with offering(world, quirk, where=render_id(2)) as service:
        summary, records = fetch(world, address(service))
    assert (summary.outcome, summary.counts["copied"], summary.counts["unavailable"]) == ("incomplete", COUNT - 1, 1)
    [(verdict, detail)] = findings(records)
    assert verdict == "unavailable"
    words = {"archived": "restore-object", "no-length": "how long", "always-400-InvalidArgument": "InvalidArgument"}
    assert words.get(quirk, "AccessDenied") in detail


def test_a_bucket_whose_objects_are_all_archived_is_no_refusal_of_the_service(world: World) -> None:
    with offering(world, "archived", count=20) as service:
        summary, records = fetch(world, address(service))
    assert (summary.outcome, summary.counts["unavailable"]) == ("incomplete", 20)
    assert {verdict for verdict, _ in findings(records)} == {"unavailable"}


@pytest.mark.parametrize("quirk", ["always-403-AccessDenied", "always-400-InvalidRequest", "always-500", "always-520"])
def test_what_refuses_everything_is_the_service_and_is_said_once(world: World, quirk: str) -> None:
    with offering(world, quirk, count=40) as service:
        with pytest.raises(RemoteError, match=f"first {arrival.SAME_REFUSALS} PDFs") as caught:
            fetch(world, address(service))
        asked = {key for method, key in service.asked if method == "GET" and key}
    assert "what the service says" in str(caught.value)
    assert len(asked) <= arrival.SAME_REFUSALS + 2 * BucketStore.lanes
    assert world.archive.catalog._query("SELECT COUNT(*) FROM findings WHERE verdict <> 'unavailable'") == [(0,)]


def test_what_worked_once_is_no_service_that_refuses(world: World) -> None:
    with offering(world, "always-403-AccessDenied", count=40, where="0000-0000000000") as service:
        service.where = "0000-00000000002"  # render 32 and its like: the earlier ones came
        summary, _ = fetch(world, address(service))
    assert summary.counts["copied"] + summary.counts["unavailable"] == 40


def test_wrong_credentials_end_it_at_the_first_request(world: World) -> None:
    with (
        offering(world, "bad-key") as service,
        pytest.raises(RemoteError, match=r"InvalidAccessKeyId.*what the service"),
    ):
        fetch(world, address(service))
    assert len(service.asked) == 1


def test_a_public_bucket_needs_no_credentials(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CREDENTIALS:
        if name != "AWS_EC2_METADATA_DISABLED":
            monkeypatch.delenv(name, raising=False)
    with offering(world, "anonymous-only") as service:
        with pytest.raises(RemoteError, match="--no-sign-request"):
            fetch(world, address(service))
        done = command(
            "fetch", "s3://bucket", "--endpoint-url", service.url, "--no-sign-request", archive=world.archive.path
        )
    assert (done.code, done.err.count("copied")) == (0, 1), done.err


def test_the_style_of_addresses_that_the_aws_files_ask_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    config = tmp_path / "config"
    config.write_text("[default]\ns3 =\n    addressing_style = virtual\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    with offering(world) as service:
        # As a proxy, it is asked for any host.
        monkeypatch.setenv("HTTP_PROXY", service.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        place = bucket_address("s3://bucket", endpoint_url="http://s3.example.org")
        assert BucketStore(place).access.endpoint == "http://bucket.s3.example.org"
        assert fetch(world, place)[0].counts["copied"] == COUNT
    assert {headers["host"] for headers in service.headers} == {"bucket.s3.example.org"}


def test_a_body_that_drips_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "READ_SECONDS", 0.3)
    with offering(world, "drips", where=render_id(2)) as service:
        began = time.monotonic()
        summary, records = fetch(world, address(service))
    assert (summary.counts["copied"], summary.counts["unavailable"]) == (COUNT - 1, 1), findings(records)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("quirk", ["list-goes-on-nowhere", "list-repeats-itself", "list-without-sizes"])
def test_a_list_that_breaks_off_is_never_taken_for_all_of_it(world: World, quirk: str) -> None:
    with offering(world, quirk) as service:
        store = BucketStore(address(service))
        with pytest.raises(RemoteError, match="bucket"):
            list(store.list())
        summary, _ = fetch(world, address(service))
    assert "unclaimed" not in summary.counts
    assert summary.details["unclaimed_error"]


def test_names_that_no_store_could_hold_hide_no_others(world: World) -> None:
    with offering(world) as service:
        odd = ["a//b", "../up", "dir/", "new\nline", "a/./b", "back\\slash", "ends/", "/leads", "x\x7f"]
        service.objects |= dict.fromkeys(odd, b"")
        service.objects["other.pdf"] = BODY
        store = BucketStore(address(service))
        store.check()
        assert {entry.key for entry in store.list()} == {render(n)["asset_key"] for n in range(COUNT)} | {"other.pdf"}
        assert fetch(world, address(service))[0].counts["copied"] == COUNT


@pytest.mark.long
@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\\"), min_size=1, max_size=40))
def test_any_key_is_asked_for_as_it_is(name: str) -> None:
    key = f"renders/{name}.pdf"
    with quirky_s3() as service:
        service.objects[key] = BODY
        store = BucketStore(address(service))
        try:
            store._check_key(key)
        except ArchiveError:
            return
        with store.open(key) as found:
            assert b"".join(found.chunks()) == BODY
        assert [entry.key for entry in store.list()] == [key]


@pytest.mark.parametrize("quirks", [(), ("no-if-match",), ("no-etag",), ("in-parts",)], ids="+".join)
def test_a_large_object_is_read_from_anywhere_and_never_spliced(quirks: tuple[str, ...]) -> None:
    size = 2 * bucket.WHOLE_BYTES + 7
    body = os.urandom(size)
    with quirky_s3(*quirks) as service:
        service.objects["a.pdf"] = body
        store = BucketStore(address(service))
        with store.open("a.pdf") as found:
            assert digest(found.views()) == digest([body])
            assert (found.file.seek(-5, os.SEEK_END), found.file.read(9)) == (size - 5, body[-5:])
            assert found.file.tell() == size
            found.file.seek(bucket.WHOLE_BYTES - 3)
            assert b"".join(found.chunks()) == body[bucket.WHOLE_BYTES - 3 :]
        if {"in-parts", "no-etag"} & set(quirks):
            return  # this service says nothing that would tell two of its objects from each other
        with store.open("a.pdf") as found:
            assert found.file.read(5) == body[:5]
            service.objects["a.pdf"] = body[::-1]
            found.file.seek(bucket.WHOLE_BYTES)
            with pytest.raises(AssetUnavailableError, match="changed"):
                found.file.read(1)


# --- a store at such a service ---------------------------------------------------------------------------------------


@contextmanager
def stored(folder: Path) -> Iterator[tuple[Archive, QuirkyS3]]:
    """Return an archive whose store is in a bucket, and the service, still without quirks."""
    with quirky_s3(where=render_id(2)) as service:
        place = address(service)
        with Archive.create(folder / "in-a-bucket", store_address=place) as archive:
            load(archive, folder, "renders", [render(number) for number in range(COUNT)])
            for number in range(COUNT):
                archive.store.write(render(number)["asset_key"], [pdf(f"render {number}")])
            assert summary_of(fetch_assets(archive)).counts["adopted"] == COUNT
            yield archive, service


@pytest.mark.parametrize("quirk", ["archived", "always-503-SlowDown", "always-400-Whatever", "always-403-AccessDenied"])
def test_one_asset_that_the_store_does_not_give_is_no_damage(tmp_path: Path, quirk: str) -> None:
    with stored(tmp_path) as (archive, service):
        service.quirks = {quirk}
        summary = summary_of(verify_assets(archive))
        assert (summary.outcome, summary.counts["ok"], summary.counts["unavailable"]) == ("incomplete", COUNT - 1, 1)
        summary = summary_of(export_assets(archive, tmp_path / "export"))
        assert (summary.outcome, summary.counts["written"], summary.counts["excluded"]) == ("incomplete", COUNT - 1, 1)
        assert "unavailable" in (tmp_path / "export/missing.csv").read_text()
        service.quirks = set()
        assert summary_of(verify_assets(archive)).outcome == "ok"
        assert summary_of(export_assets(archive, tmp_path / "export")).outcome == "ok"


def test_a_list_that_breaks_off_undoes_no_verification(tmp_path: Path) -> None:
    with stored(tmp_path) as (archive, service):
        service.quirks = {"list-goes-on-nowhere"}
        records = list(verify_assets(archive))
    assert summary_of(iter(records)).counts["ok"] == COUNT
    assert any(isinstance(record, Note) and "were not looked for" in record.detail for record in records)


# --- writing ---------------------------------------------------------------------------------------------------------

WRITABLE = [
    *("object-lock", "no-checksums", "no-conditions-501", "no-conditions-400", "conflicts-once", "loses-answers"),
    *(f"once-{status}" for status in (408, 500, 503, 520)),
    *("once-400-RequestTimeout", "once-400-BadDigest", "once-409-OperationAborted"),
]


@pytest.mark.parametrize("quirk", WRITABLE)
def test_a_service_takes_our_writes(quirk: str) -> None:
    with quirky_s3(quirk) as service:
        service.objects["other.pdf"] = b"other"
        store = BucketStore(address(service))
        assert store.write("a.pdf", [BODY]) == digest([BODY])
        assert store.write("b.pdf", [BODY[:5], BODY[5:]]) == digest([BODY])
        with pytest.raises(AssetExistsError):
            store.write("other.pdf", [BODY])
        assert service.objects == {"a.pdf": BODY, "b.pdf": BODY, "other.pdf": b"other"}


def test_what_a_service_refused_once_is_left_out_afterwards() -> None:
    with quirky_s3("no-conditions-400", "no-checksums") as service:
        store = BucketStore(address(service))
        for name in ("a.pdf", "b.pdf", "c.pdf"):
            store.write(name, [BODY])
        assert [service.seen["PUT", name] for name in ("b.pdf", "c.pdf")] == [1, 1]
        assert set(service.objects) == {"a.pdf", "b.pdf", "c.pdf"}


def test_a_refusal_that_no_header_explains_is_raised_in_its_words() -> None:
    with quirky_s3("always-400-InvalidRequest") as service:
        store = BucketStore(address(service))
        with pytest.raises(RemoteError, match="InvalidRequest: what the service says"):
            store._put("a.pdf", BODY, replace=True)


def test_a_name_that_is_taken_by_other_bytes_while_we_write_is_left_alone() -> None:
    with quirky_s3() as service:
        store = BucketStore(address(service))

        def slow() -> Iterator[bytes]:
            yield BODY
            service.objects["a.pdf"] = b"first"

        with pytest.raises(AssetExistsError):
            store.write("a.pdf", slow())
        assert service.objects["a.pdf"] == b"first"


def test_a_bucket_at_google_is_an_address_like_any_other(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with offering(world, "last-modified", where="") as service:
        account = tmp_path / "account.json"
        account.write_text(
            json.dumps(
                {
                    "gcs_base_url": service.url,
                    "disable_oauth": True,
                    "client_email": "",
                    "private_key": "",
                    "private_key_id": "",
                }
            )
        )
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(account))
        summary, records = fetch(world, "gs://bucket")
        assert (summary.counts["copied"], findings(records)) == (COUNT, [])
        assert vouched(world) == {"first-read"}
        store = BucketStore("gs://bucket/prefix")
        store.mark("an-archive")
        store.check("an-archive")
        assert store.write("a.pdf", [BODY]) == digest([BODY])
        with pytest.raises(AssetExistsError):
            store.write("a.pdf", [BODY[::-1]])
        assert [entry.key for entry in store.list()] == ["a.pdf"]
        with pytest.raises(StoreOfflineError, match="nothing below"):
            BucketStore("gs://bucket/nowhere").check()


def test_a_large_object_is_never_sent_again_without_what_was_read_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []

    def breaks_off(store: object, path: str, file: Iterator[bytes], **_options: object) -> None:
        sent.append(next(iter(file)))
        raise GenericError("HTTP error: error sending request")

    monkeypatch.setattr("obstore.put", breaks_off)
    monkeypatch.setattr(BucketStore, "_object_store", lambda _self, **_how: None)
    with pytest.raises(RemoteError):
        BucketStore("gs://bucket").write("a.pdf", [bytes(bucket.PART_BYTES), b"the rest"], replace=True)
    assert sent == [bytes(bucket.PART_BYTES)]


@pytest.mark.parametrize("place", ["gs://", "az://x?region=y", "gs://b?endpoint_url=http://h", "s3://b?what=x"])
def test_an_address_that_is_wrong_is_a_usage_error(place: str) -> None:
    with pytest.raises(RequestError):
        BucketStore(place)


# --- credentials -----------------------------------------------------------------------------------------------------


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Return what makes the AWS files name a credential process that works so many times, for so many seconds each."""

    def make(times: int, seconds: int) -> None:
        script = tmp_path / "credentials.py"
        count = tmp_path / "count"
        script.write_text(
            f"#!{sys.executable}\nimport datetime, json, pathlib, sys\n"
            f"count = pathlib.Path({str(count)!r})\n"
            "count.write_text(count.read_text() + 'x' if count.exists() else 'x')\n"
            f"if len(count.read_text()) > {times}:\n    sys.exit('the token has expired')\n"
            f"until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds={seconds})\n"
            "print(json.dumps({'Version': 1, 'AccessKeyId': 'A' * 16, 'SecretAccessKey': 's',"
            " 'Expiration': until.isoformat()}))\n"
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        config = tmp_path / "config"
        config.write_text(f"[profile renewed]\ncredential_process = {script}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))

    return make


@pytest.mark.parametrize("times", [0, 1, 2])
def test_credentials_that_cannot_be_renewed_end_it_with_a_sentence(
    world: World, process: Callable[[int, int], None], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    process(times, 1)
    monkeypatch.setattr(bucket, "RENEWAL_SECONDS", 0)
    with offering(world, count=40) as service:

        def fetch_on_and_on() -> None:
            while True:
                fetch(world, address(service, profile="renewed"))
                time.sleep(1.1)

        with pytest.raises(RemoteError, match="credential") as caught:
            fetch_on_and_on()
    assert "expired" in str(caught.value) or "refresh" in str(caught.value)


def test_credentials_are_renewed_and_shown_nowhere(world: World, process: Callable[[int, int], None]) -> None:
    process(1000, 3600)
    with offering(world) as service:
        store = BucketStore(address(service, profile="renewed"))
        assert store.access.renewable
        assert "'s'" not in repr(store.access)
        assert fetch(world, store.address)[0].counts["copied"] == COUNT


def test_a_profile_that_is_not_there_is_a_usage_error() -> None:
    with quirky_s3() as service, pytest.raises(RequestError, match="nobody"):
        BucketStore(address(service, profile="nobody")).check()


# --- what obstore says -----------------------------------------------------------------------------------------------


def test_the_form_of_obstores_errors_is_the_one_that_is_read() -> None:
    with quirky_s3("always-400-Whatever") as service:
        store = BucketStore(address(service))
        with pytest.raises(RemoteError) as caught:
            store.find("a.pdf")
        assert caught.value.status == 400
        with pytest.raises(RemoteError) as caught:
            store.open("a.pdf")
        assert (caught.value.status, caught.value.reason) == (400, "400 Whatever: what the service says")
        service.quirks = {"always-503-SlowDown"}
        with pytest.raises(RemoteError, match="503 SlowDown") as caught:
            store.open("a.pdf")
        assert ServiceRefusal.of(caught.value.__cause__ or caught.value).exhausted
    with pytest.raises(StoreOfflineError, match="Cannot reach"):
        BucketStore(bucket_address("s3://bucket", endpoint_url="http://127.0.0.1:9")).check()


@given(st.text(max_size=200))
def test_any_text_of_an_error_is_read(text: str) -> None:
    refusal = ServiceRefusal.of(ValueError(text))
    assert str(refusal).isprintable() or not text.isprintable()
