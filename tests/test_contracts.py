"""What every source gives, and that every kind of store, source, target and packing is in the suite of its contract."""

from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest

from craftkit_archive.errors import AssetMissingError, RenderNotFoundError
from craftkit_archive.export.packing import Packing, Tar, Zip
from craftkit_archive.export.run import export_assets
from craftkit_archive.export.targets import FolderTarget, PackedTarget, StoreTarget, Target
from craftkit_archive.sources.address import open_source
from craftkit_archive.sources.api import CraftkitApi
from craftkit_archive.sources.base import Source
from craftkit_archive.sources.export import ExportSource
from craftkit_archive.sources.store import StoreSource
from craftkit_archive.stores.base import Store
from craftkit_archive.stores.bucket import BucketStore, bucket_address
from craftkit_archive.stores.folder import FolderStore
from tests.services import BUCKET
from tests.worlds import LIVE_KEY, World, fill, live, pdf, render, render_id

SUITES: dict[type, set[type]] = {
    Store: {FolderStore, BucketStore},  # tests/test_store.py
    Target: {FolderTarget, StoreTarget, PackedTarget},  # tests/test_exporting.py
    Packing: {Zip, Tar},  # tests/test_unpacking.py
    Source: {StoreSource, ExportSource, CraftkitApi},  # below
}


@pytest.mark.parametrize("base", SUITES)
def test_every_kind_is_in_the_suite_of_its_contract(base: type) -> None:
    assert set(base.__subclasses__()) == SUITES[base]


@pytest.mark.parametrize("base", SUITES)
def test_a_kind_that_leaves_something_out_cannot_be_made(base: type) -> None:
    abstract: frozenset[str] = base.__abstractmethods__  # type: ignore[attr-defined]
    for missing in abstract:
        methods = {name: lambda *_: None for name in abstract - {missing}}
        with pytest.raises(TypeError, match=rf"abstract method '?{missing}'?$"):
            type("Incomplete", (base,), methods)()
    assert type("Complete", (base,), {name: lambda *_: None for name in abstract})() is not None


# --- every source ----------------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> World:
    return fill(tmp_path, count=3)


@pytest.fixture(params=["folder", "bucket", "export folder", "export zip", "api"])
def source(
    request: pytest.FixtureRequest, world: World, moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Source]:
    """Return a source of each kind that has the world's three PDFs."""
    monkeypatch.setenv("CRAFTKIT_API_KEY", LIVE_KEY)
    with live(world.archive) as url:
        if request.param == "api":
            yield open_source(url)
        elif request.param == "bucket":
            store = BucketStore(bucket_address(f"s3://{BUCKET}/{tmp_path.name}", endpoint_url=moto))
            for number in range(3):
                store.write(render(number)["asset_key"], [pdf(f"render {number}")])
            yield open_source(store.address)
        elif request.param == "folder":
            yield open_source(world.archive.store.address)
        else:
            target = tmp_path / ("e.zip" if request.param == "export zip" else "e")
            list(export_assets(world.archive, str(target)))
            yield open_source(str(target), exports=True)


def reopen(source: Source) -> Source:
    """Open a source by its address, as a worker does."""
    again = open_source(source.address, exports=isinstance(source, ExportSource))
    if isinstance(again, ExportSource):  # it finds assets by their digests, in one pass over its index
        again.look_for(sha256(pdf(f"render {number}")).hexdigest() for number in range(3))
    return again


def test_a_source_gives_every_byte_from_the_first_however_often(source: Source) -> None:
    for opened in (reopen(source), reopen(source)):
        opened.check()
        assert opened.lanes >= 1
        for number in (0, 1, 2, 0):
            key, body = render(number)["asset_key"], pdf(f"render {number}")
            assert opened.size(render_id(number), key) in (None, len(body))
            with opened.open(render_id(number), key, sha256(body).hexdigest()) as found:
                assert found.size_bytes in (None, len(body))
                assert b"".join(found.chunks()) == body


def test_what_a_source_does_not_have_is_missing(source: Source) -> None:
    with pytest.raises((AssetMissingError, RenderNotFoundError)):
        reopen(source).open(render_id(9), render(9)["asset_key"], "0" * 64)
    with suppress(AssetMissingError, RenderNotFoundError):
        assert reopen(source).size(render_id(9), render(9)["asset_key"]) is None
