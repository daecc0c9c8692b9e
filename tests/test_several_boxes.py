"""Several boxes that serve one archive: nginx in front, the store in a bucket, the catalog carried over by `backup`."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

import pytest

from craftkit_archive.archive import Archive
from craftkit_archive.fetch.run import fetch_assets
from craftkit_archive.stores.bucket import bucket_address
from tests.services import BUCKET, RealService
from tests.test_serving import Serving, download, serving
from tests.test_serving_proxies import HOST, curl, proxy
from tests.worlds import command, keys, load, pdf, projects, put, render, summary_of

BOXES = 3


class Boxes(NamedTuple):
    """The archive, what serves copies of its catalog, and nginx's port."""

    archive: Path
    served: list[Serving]
    port: int
    folder: Path

    def carry_over(self) -> None:
        """Carry the catalog over to each box, as docs/scale.md says."""
        carry(self.archive, [self.folder / f"box-{number}" for number in range(BOXES)])


def carry(archive: Path, boxes: list[Path]) -> None:
    """Make a backup, copy it beside each box's catalog, and put it in its place by a rename."""
    backup = archive.parent / f"{token_hex(4)}.db"
    assert command("backup", backup, archive=archive).code == 0
    for box in boxes:
        box.mkdir(exist_ok=True)
        shutil.copy(backup, box / "archive.db.new")
        (box / "archive.db.new").rename(box / "archive.db")


@pytest.fixture
def boxes(tmp_path: Path, rclone: RealService) -> Iterator[Boxes]:
    """Serve one archive from three ports of the loopback."""
    prefix = token_hex(8)
    address = bucket_address(f"s3://{BUCKET}/{prefix}", endpoint_url=rclone.url)
    with Archive.create(tmp_path / "archive", store_address=address) as archive:
        rows = [render(number) for number in range(6)]
        for row in rows:
            for place in (tmp_path / "mirror", rclone.bucket / prefix):
                put(place, row["asset_key"], pdf(row["id"]))
        for kind, records in (("projects", projects()), ("keys", keys()), ("renders", rows)):
            load(archive, tmp_path, kind, records)  # type: ignore[arg-type]
        assert summary_of(fetch_assets(archive)).counts["adopted"] == 6
    places = [tmp_path / f"box-{number}" for number in range(BOXES)]
    carry(tmp_path / "archive", places)
    with ExitStack() as stack:
        words = ("--workers", "1", "--trusted-proxy", "127.0.0.1", "--public-url", f"https://{HOST}")
        served = [stack.enter_context(serving(place, *words)) for place in places]
        upstream = "; server ".join(one.url.removeprefix("http://") for one in served)
        port = stack.enter_context(proxy("nginx", tmp_path, upstream))
        yield Boxes(tmp_path / "archive", served, port, tmp_path)


def statuses(boxes: Boxes) -> list[str]:
    """Ask nginx for each PDF, and return the HTTP statuses."""
    found = []
    for number in range(6):
        status, body = curl(boxes.port, download(number), boxes.folder)
        found.append(status.split()[0])
        if found[-1] == "200":
            assert body == (boxes.folder / "mirror" / render(number)["asset_key"]).read_bytes()
    return found


@pytest.mark.long
def test_three_boxes_serve_one_archive_and_a_revoked_key_ends_with_the_next_catalog(boxes: Boxes) -> None:
    assert statuses(boxes) == ["200"] * 6
    assert len({one.url for one in boxes.served}) == BOXES
    # One box goes down: nginx asks the others.
    boxes.served[0].process.terminate()
    boxes.served[0].process.wait(20)
    assert statuses(boxes) == ["200"] * 6
    # A key is revoked where the archive is written: the boxes hear of it with the next catalog, and not before.
    assert command("keys", "revoke", "key-1", archive=boxes.archive).code == 0
    assert statuses(boxes) == ["200"] * 6
    boxes.carry_over()
    assert statuses(boxes) == ["401"] * 6
