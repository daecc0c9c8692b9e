"""A hundred disposals killed, each at another moment, in a folder and in buckets: nothing is ever half gone."""

import random
from collections.abc import Callable, Iterator
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple

import pytest
from botocore.exceptions import ClientError

from craftkit_archive.archive import Archive
from craftkit_archive.audit.log import verify_log
from craftkit_archive.catalog.rows import Selection
from craftkit_archive.disposal.run import dispose_renders
from craftkit_archive.fetch.run import fetch_assets
from craftkit_archive.proof.events import Event
from craftkit_archive.records import Finding, Summary
from craftkit_archive.repair.quarantine import Quarantine
from craftkit_archive.retention.rules import place_hold, release_hold
from craftkit_archive.tombstones import DISPOSED_FILE, DisposedFile
from craftkit_archive.verify.run import verify_assets
from tests.dying import die_at_moment
from tests.services import BUCKET, RealService, rclone_server, s3_client
from tests.worlds import NORTHWIND, load, pdf, projects, put, render, render_id, summary_of

# How many kills for each kind of store. A mock of S3 is the only one here that keeps versions, and it is slow.
KILLS = {"folder": 100, "bucket": 100, "bucket with versions": 30}
# The renders of one disposal: a plain one, one with a copy in the quarantine, one with a name of its own, a held one.
PLAIN, COPIED, NAMED, HELD = range(EACH := 4)

# Processes that are forked from one that has everything imported, and no thread yet: to start a hundred programs takes
# minutes. The one that the tests run in cannot be forked, because obstore's threads do not live on in a child.
_SERVER = get_context("forkserver")
_SERVER.set_forkserver_preload([__name__])
# That process keeps the environment that it was started in: with the credentials, even if a folder comes first.
pytestmark = pytest.mark.usefixtures("_credentials")


class _Place(NamedTuple):
    """A store: its address, and how to read an object of it; None if no version of it is left."""

    address: str
    read: Callable[[str], bytes | None]


def _folder(folder: Path, prefix: Path) -> _Place:
    def read(key: str) -> bytes | None:
        file = folder / prefix / key
        return file.read_bytes() if file.exists() else None

    return _Place("assets", read)


@pytest.fixture
def patient_rclone(_credentials: None, tmp_path: Path) -> Iterator[RealService]:
    """Return a real S3 server that keeps in mind what is in its folder, which nobody else changes."""
    with rclone_server(tmp_path / "rclone", "--dir-cache-time", "1h") as service:
        yield service


def _place(kind: str, folder: Path, request: pytest.FixtureRequest) -> _Place:
    if kind == "folder":
        return _folder(folder, Path("archive", "assets"))
    if kind == "bucket":
        service: RealService = request.getfixturevalue("patient_rclone")
        return _folder(service.bucket, Path())._replace(address=f"s3://{BUCKET}?endpoint_url={service.url}")
    client, name = s3_client(request.getfixturevalue("moto")), f"killed-{token_hex(4)}"
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return _Place(
        f"s3://{name}?endpoint_url={request.getfixturevalue('moto')}", lambda key: _version(client, name, key)
    )


def _version(client: Any, bucket: str, key: str) -> bytes | None:
    """Return an object, or a version of one that is hidden behind a delete marker."""
    for found in client.list_object_versions(Bucket=bucket, Prefix=key).get("Versions", ()):
        try:
            body: bytes = client.get_object(Bucket=bucket, Key=key, VersionId=found["VersionId"])["Body"].read()
        except ClientError:
            continue
        return body
    return None


def _key(number: int) -> str:
    name = f"Anna Quillfeather/{number}" if number % EACH == NAMED else render_id(number)
    return f"renders/{NORTHWIND}/{name}.pdf"


def _make(folder: Path, place: _Place, rounds: int) -> Path:
    """Make an archive with what is to be disposed in all rounds, and return its directory."""
    path, numbers = folder / "archive", range(EACH * rounds)
    rows = [render(number, asset_key=_key(number)) for number in numbers]
    with Archive.create(path, store_address=place.address) as archive:
        # One after the other: rclone's server hangs at times when many write to one folder.
        archive.store.lanes = 1
        for number in numbers:
            put(folder / "source", _key(number), pdf(f"render {number}"))
        load(archive, folder, "projects", projects())
        load(archive, folder, "renders", rows)
        assert summary_of(fetch_assets(archive, str(folder / "source"))).counts["copied"] == len(numbers)
        quarantine = Quarantine(path)
        for number in numbers[COPIED::EACH]:
            found = Finding(1, render_id(number), _key(number), "wrong-digest", archive.now())
            quarantine.keep(archive.store, found)
        ids = tuple(render_id(number) for number in numbers[HELD::EACH])
        summary_of(place_hold(archive, "h", "a dispute", Selection(render_ids=ids)))
    return path


def _dispose(path: Path, ids: tuple[str, ...] | None) -> Summary:
    with Archive(path) as archive:
        selection = None if ids is None else Selection(render_ids=ids)
        return summary_of(dispose_renders(archive, "asked for", selection=selection))


def _dispose_and_die(path: Path, ids: tuple[str, ...] | None, number: int) -> None:
    moments = die_at_moment(number)
    _dispose(path, ids)
    (path.parent / "moments").write_text(str(moments()))


def _killed(path: Path, ids: tuple[str, ...] | None, number: int) -> bool:
    """Dispose in a process of its own, and say whether it died at its moment of this number."""
    child = _SERVER.Process(target=_dispose_and_die, args=(path, ids, number))
    child.start()
    child.join(60)
    assert child.exitcode in (0, -9), f"moment {number}: {child.exitcode}"
    return child.exitcode == -9


def _named(events: list[Event], count: str) -> set[str]:
    """Return the renders that events which count something name."""
    return {render_id for event in events if count in event.counts for render_id in event.details["renders"]}


def _check(path: Path, place: _Place, numbers: range, *, ended: bool) -> None:
    """Hold what a killed disposal left against what is in the store, and let `verify` look at it too."""
    ids = {render_id(number) for number in numbers}
    # Before the catalog is opened, which writes the lines that a killed command left out.
    listed_first = {tombstone.render_id for tombstone in DisposedFile(path / DISPOSED_FILE).tombstones()}
    assert {render_id(number) for number in numbers if place.read(_key(number)) is None} <= listed_first
    with Archive(path) as archive:
        assert archive.notices == []
        struck = archive.catalog.disposed(sorted(ids))
        begun = {tombstone.render_id for tombstone, _ in archive.catalog.begun(sorted(ids))}
        listed = [tombstone.render_id for tombstone in DisposedFile(path / DISPOSED_FILE).tombstones()]
        stored = {
            asset.render_id: asset.sha256 for asset in archive.catalog.stored_assets(Selection(render_ids=tuple(ids)))
        }
        verified = summary_of(verify_assets(archive, selection=Selection(render_ids=tuple(ids))))
        assert summary_of(verify_log(archive)).outcome == "ok"
        events = [event for event in archive.catalog.events() if event.what == "dispose"]
        copies = {held.render_id for held in Quarantine(path).list()}
    assert ids & set(listed) == struck
    assert len(listed) == len(set(listed))
    assert ids & _named(events, "begun") == struck
    assert ids & _named(events, "disposed") == struck - begun
    assert struck | set(stored) == ids
    assert not struck & set(stored)
    assert verified.counts == {"checked": len(stored), "ok": len(stored)}
    assert render_id(numbers[HELD]) in stored
    for number in numbers:
        body, one = place.read(_key(number)), render_id(number)
        if one in stored:
            assert body is not None
            assert sha256(body).hexdigest() == stored[one]
            assert (one in copies) == (number == numbers[COPIED])
        elif one not in begun:
            assert body is None
            assert one not in copies
    assert not ended or (len(struck), begun) == (EACH - 1, set())


def _hold_back(path: Path, place: _Place, numbers: range, name: str) -> None:
    """See to it that a hold placed after a kill keeps every byte that was still there, until it is released."""
    ids = tuple(render_id(number) for number in numbers)

    def there() -> list[bytes | None]:
        copies = sorted((path / "quarantine").rglob(f"*{render_id(numbers[COPIED])}*"))
        return [place.read(_key(number)) for number in numbers] + [copy.read_bytes() for copy in copies]

    before = there()
    with Archive(path) as archive:
        summary_of(place_hold(archive, name, "a dispute", Selection(render_ids=ids)))
    _dispose(path, ids)
    assert there() == before
    with Archive(path) as archive:
        summary_of(release_hold(archive, name, "settled"))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KILLS)
def test_a_hundred_disposals_that_were_killed(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    """After each kill a render is whole, or its disposal has begun; the next disposal finishes it."""
    chance, place = random.Random(kind), _place(kind, tmp_path, request)
    kills = KILLS[kind]
    path = _make(tmp_path, place, kills + 1)
    moments, killed = 0, set()
    for turn in range(kills + 1):
        numbers = range(EACH * turn, EACH * (turn + 1))
        ids = tuple(render_id(number) for number in numbers)
        # The first lives, and says how many moments there are.
        at = moments * turn // kills if turn else 0
        if _killed(path, ids, at):
            killed.add(at)
        else:
            moments = int((tmp_path / "moments").read_text())
        _check(path, place, numbers, ended=not turn)
        # Every other time, what ends it is killed too.
        if turn % 2:
            _killed(path, None, chance.randint(1, moments))
            _check(path, place, numbers, ended=False)
        if turn % 3 == 0:
            _hold_back(path, place, numbers, f"late {turn}")
        _dispose(path, None)  # whatever it is about, it finishes what has begun
        with Archive(path) as archive:
            assert archive.catalog.begun(ids) == []
        _dispose(path, ids)
        _check(path, place, numbers, ended=True)
    assert len(killed) >= kills - 5, (moments, len(killed))
    with Archive(path) as archive:
        assert archive.catalog.count_disposed() == ((kills + 1) * (EACH - 1), 0)
        assert summary_of(verify_assets(archive)).counts == {"checked": kills + 1, "ok": kills + 1}
        assert summary_of(verify_log(archive)).outcome == "ok"
