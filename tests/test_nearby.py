"""A folder or prefix that is one or two levels too high or too low: "Did you mean …/bucket?", and it was meant."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from craftkit_archive.archive import Archive
from craftkit_archive.errors import RequestError
from craftkit_archive.fetch.run import fetch_assets
from craftkit_archive.repair.run import repair_assets
from craftkit_archive.stores.bucket import bucket_address
from craftkit_archive.verify.run import verify_assets
from tests.quirky_s3 import QuirkyS3, quirky_s3
from tests.worlds import NORTHWIND, World, command, fill, load, pdf, projects, put, render, summary_of


@pytest.fixture
def mirror(tmp_path: Path) -> tuple[Archive, Path]:
    """Return an archive that expects three PDFs, and the mirror that has them, two folders deep."""
    archive = Archive.create(tmp_path / "archive")
    load(archive, tmp_path, "projects", projects())
    load(archive, tmp_path, "renders", [render(number) for number in range(3)])
    bucket = tmp_path / "data" / "corpus" / "bucket"
    for number in range(3):
        put(bucket, render(number)["asset_key"], pdf(f"{number}"))
    put(bucket.parent, "README.md", b"x")
    return archive, bucket


WAYS = ["..", "../..", "renders", f"renders/{NORTHWIND}"]


def _named(bucket: Path, way: str) -> Path:
    for part in way.split("/"):
        bucket = bucket.parent if part == ".." else bucket / part
    return bucket


@pytest.mark.parametrize("way", WAYS)
def test_fetch_names_the_folder_that_was_meant(mirror: tuple[Archive, Path], way: str) -> None:
    archive, bucket = mirror
    archive.catalog.close()
    named = _named(bucket, way)
    for address in (str(named), f"{named}/"):
        summary = summary_of(fetch_assets(Archive(archive.path), address))
        assert (summary.outcome, summary.details["did_you_mean"]) == ("incomplete", str(bucket))
    done = command("fetch", named, archive=archive.path)
    *_, said, last = done.err.splitlines()
    extra = ", 4 extra at the source" if way.startswith("..") else ", 3 extra at the source"
    assert said == f"fetch: nothing matched: 3 not stored{extra}. Did you mean {bucket}?"
    assert (done.code, last) == (3, f"Next: craftkit-archive --archive {archive.path} fetch {bucket}")
    quiet = command("-q", "fetch", "--dry-run", named, archive=archive.path)
    assert f"Did you mean {bucket}?" in quiet.err
    spoken = command("--json", "fetch", "--limit", "1", named, archive=archive.path).lines[-1]
    assert (spoken["details"]["did_you_mean"], spoken["exit_code"]) == (str(bucket), 3)
    assert summary_of(fetch_assets(Archive(archive.path), str(bucket))).counts["copied"] == 3


@pytest.mark.parametrize("way", WAYS)
def test_repair_names_it_too(world: World, way: str) -> None:
    world.asset(0).unlink()
    assert summary_of(verify_assets(world.archive)).outcome == "problems"
    summary = summary_of(repair_assets(world.archive, str(_named(world.bucket, way.replace("../..", "..")))))
    assert summary.details["did_you_mean"] == str(world.bucket)
    world.archive.catalog.close()
    done = command("repair", world.bucket / "renders", archive=world.archive.path)
    *_, said, last = done.err.splitlines()
    assert said == f"repair: nothing matched: 1 still bad. Did you mean {world.bucket}?"
    assert (done.code, last.endswith(f"repair {world.bucket}")) == (1, True)


def test_a_source_that_has_some_is_the_right_one(mirror: tuple[Archive, Path]) -> None:
    archive, bucket = mirror
    (bucket / render(0)["asset_key"]).unlink()
    put(bucket, f"other/{render(0)['asset_key']}", pdf("0"))
    summary = summary_of(fetch_assets(archive, str(bucket)))
    assert (summary.counts["copied"], "did_you_mean" in summary.details) == (2, False)


def test_where_nothing_is_nothing_is_suggested(mirror: tuple[Archive, Path], tmp_path: Path) -> None:
    archive, _ = mirror
    (tmp_path / "elsewhere/x/y").mkdir(parents=True)
    put(tmp_path / "elsewhere", "x/y/z.pdf", pdf("z"))
    for name in ("elsewhere", "elsewhere/x", "elsewhere/x/y"):
        assert "did_you_mean" not in summary_of(fetch_assets(archive, str(tmp_path / name))).details


parts = st.text("abcdé ?&%#", min_size=1, max_size=6).filter(lambda part: part.strip(". ") == part)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(parts, min_size=1, max_size=2), up=st.booleans())
def test_whatever_the_folders_are_called(tmp_path_factory: pytest.TempPathFactory, names: list[str], up: bool) -> None:
    folder = tmp_path_factory.mktemp("names")
    with Archive.create(folder / "archive") as archive:
        load(archive, folder, "renders", [render(1)])
        bucket = Path(folder, "sources", *names)
        put(bucket, render(1)["asset_key"], pdf("1"))
        named = Path(folder, "sources") if up else bucket / "renders"
        details = summary_of(fetch_assets(archive, str(named))).details
        assert details["did_you_mean"] == str(bucket)
        # What it says can be fetched.
        assert summary_of(fetch_assets(archive, details["did_you_mean"])).counts["copied"] == 1
    shutil.rmtree(folder)


# --- buckets ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def service(_credentials: None) -> Iterator[QuirkyS3]:
    with quirky_s3() as service:
        for number in range(3):
            service.objects[f"prod/eu/{render(number)['asset_key']}"] = pdf(f"{number}")
        yield service


@pytest.mark.parametrize("prefix", ["", "/prod", "/prod/eu/renders", f"/prod/eu/renders/{NORTHWIND}"])
def test_a_prefix_too_high_or_too_low(mirror: tuple[Archive, Path], service: QuirkyS3, prefix: str) -> None:
    archive, _ = mirror
    summary = summary_of(fetch_assets(archive, bucket_address(f"s3://bucket{prefix}", endpoint_url=service.url)))
    assert summary.details["did_you_mean"] == bucket_address("s3://bucket/prod/eu", endpoint_url=service.url)
    assert summary_of(fetch_assets(archive, summary.details["did_you_mean"])).counts["copied"] == 3


# --- a store that is adopted -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["..", "../..", "renders"])
def test_init_refuses_a_store_on_another_level(mirror: tuple[Archive, Path], tmp_path: Path, way: str) -> None:
    _, bucket = mirror
    new = tmp_path / "new"
    with pytest.raises(RequestError, match=f"Did you mean {bucket}\\?"):
        Archive.create(new, store_address=str(_named(bucket, way)))
    assert not list(_named(bucket, way).glob(".craftkit-archive"))
    done = command("init", "--store", _named(bucket, way), archive=new)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert command("init", "--store", bucket, archive=new).code == 0


def test_init_takes_any_folder_that_may_be_a_store(tmp_path: Path) -> None:
    put(tmp_path / "flat", "a.pdf", pdf("a"))
    put(tmp_path / "flat", "old/renders/x.pdf", pdf("a"))
    (tmp_path / "empty").mkdir()
    for name in ("flat", "empty", "none"):
        Archive.create(tmp_path / f"of {name}", store_address=str(tmp_path / name)).catalog.close()
    world = fill(tmp_path / "w", count=1)
    world.archive.catalog.close()
    shutil.move(world.archive.path / "assets/renders", world.archive.path / "assets/moved")
    assert command("verify", archive=world.archive.path).code == 1
