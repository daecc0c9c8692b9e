"""Export, in every form: complete, or it says exactly what it lacks; and anyone can check it without this program."""

import csv
import errno
import os
import subprocess
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple

import bagit
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftkit_archive.archive import Archive
from craftkit_archive.catalog.rows import NewAsset, Selection
from craftkit_archive.errors import LockedError, NoSpaceError, NotWritableError, RequestError, StoreOfflineError
from craftkit_archive.export.bagit import parse_info
from craftkit_archive.export.check import check_export
from craftkit_archive.export.destination import Destination, Options, read_destination
from craftkit_archive.export.index import Volume
from craftkit_archive.export.reader import CATALOGUE, INDEX, MANIFEST, MARKER, MISSING, ODD, SEAL, TAG_MANIFEST, Export
from craftkit_archive.export.run import export_assets
from craftkit_archive.export.targets import LEDGER
from craftkit_archive.fetch.run import fetch_assets
from craftkit_archive.proof.seal import compute_seal
from craftkit_archive.records import Planned, Record, Skipped, Summary
from craftkit_archive.stores.bucket import bucket_address
from craftkit_archive.stores.folder import INCOMING, FolderStore
from tests.services import BUCKET, s3_client
from tests.worlds import (
    NORTHWIND,
    SOUTHWIND,
    World,
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


class Way(NamedTuple):
    """A way to export: what is named, and with which options."""

    name: str
    options: Options

    @property
    def packed(self) -> bool:
        """Whether it is one file."""
        return self.name.endswith((".zip", ".tar"))

    @property
    def bag(self) -> bool:
        """Whether it is a bag."""
        return self.options.form == "bagit"

    def __str__(self) -> str:
        return f"{self.options.form or 'dir'} {self.name}{' linked' if self.options.link else ''}"


FOLDERS = [Way("out", Options()), Way("out", Options(link=True, verify_links=True)), Way("out", Options("bagit"))]
PACKED = [
    Way("out.zip", Options()),
    Way("out.tar", Options("tar")),
    Way("out.zip", Options("bagit")),
    Way("out.tar", Options("bagit")),
]
WAYS = FOLDERS + PACKED
every_way = pytest.mark.parametrize("way", WAYS, ids=str)
every_folder = pytest.mark.parametrize("way", FOLDERS, ids=str)
every_pack = pytest.mark.parametrize("way", PACKED, ids=str)
PAPERS = {MANIFEST, INDEX, MISSING, ODD, SEAL, CATALOGUE, MARKER}
TAGS = PAPERS | {TAG_MANIFEST, "bagit.txt", "bag-info.txt"}


def export(archive: Archive, target: Path | str, **options: Any) -> tuple[Summary, list[Record]]:
    records = list(export_assets(archive, target, **options))
    assert isinstance(records[-1], Summary)
    counts = records[-1].counts
    if records[-1].outcome != "interrupted":
        assert counts["selected"] == sum(counts[name] for name in ("written", "unchanged", "excluded", "failed"))
    return records[-1], records[:-1]


def unpacked(target: Path, folder: Path) -> Path:
    """Unpack an export as people do, if it is packed, and return the folder that holds its manifest."""
    if target.is_dir():
        return target
    folder.mkdir(parents=True)
    if target.suffix == ".zip":
        subprocess.run([needs("unzip"), "-tqq", target], check=True)
        subprocess.run([needs("unzip"), "-qq", target, "-d", folder], check=True)
    else:
        subprocess.run([needs("bsdtar"), "-xf", target, "-C", folder], check=True)
        listed = subprocess.run([needs("tar"), "-tf", target], check=True, capture_output=True)
        assert not listed.stderr
    return folder if (folder / MANIFEST).exists() else folder / target.stem


def prove(target: Path, scratch: Path) -> Path:
    """Check an export as a person without this program would: every file listed, every digest right."""
    folder = unpacked(target, scratch)
    if (folder / MANIFEST).stat().st_size:  # sha256sum takes no empty list
        proof = [needs("sha256sum"), "--check", "--strict", "--quiet", MANIFEST]
        done = subprocess.run(proof, cwd=folder, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    listed = {line.split("  ", 1)[1] for line in (folder / MANIFEST).read_text().splitlines()}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    bag = (folder / "bagit.txt").exists()
    assert found - listed == (TAGS if bag else {MANIFEST, MARKER}) & found
    rows = table(folder / INDEX)
    assert {row["path"] for row in rows} == listed - PAPERS
    lines = sorted(f"{row['sha256']}  {row['asset_key']}\n".encode() for row in rows)
    assert f"Seal: {sha256(b''.join(lines)).hexdigest()}\n" in (folder / SEAL).read_text()
    if bag:
        bagit.Bag(str(folder)).validate()
    checked = summary_of(check_export(target))
    assert checked.outcome == ("incomplete" if (folder / MISSING).exists() else "ok")
    return folder


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def flip(file: Path, at: int | None = None) -> None:
    body = bytearray(file.read_bytes())
    body[len(body) // 2 if at is None else at] ^= 1
    file.write_bytes(body)


@every_way
def test_an_export_proves_itself(world: World, tmp_path: Path, way: Way) -> None:
    target = tmp_path / way.name
    summary, _ = export(world.archive, target, options=way.options)
    assert (summary.outcome, summary.counts["written"]) == ("ok", 5)
    folder = prove(target, tmp_path / "there")
    assert not (folder / MISSING).exists()
    row = table(folder / INDEX)[3]
    assert row["path"] == f"{'data/' if way.bag else ''}northwind/2026/06/{render_id(3)}.pdf"
    file = folder / row["path"]
    assert file.read_bytes() == world.asset(3).read_bytes()
    if not way.options.link:
        assert file.stat().st_mtime == 1780653603, "when it was completed, in UTC"
    assert (row["render_id"], row["project_id"], row["status"]) == (render_id(3), NORTHWIND, "succeeded")
    assert row["created_at"] == "2026-06-05T10:00:00.120Z"
    assert not list(tmp_path.glob(".*.part"))


@every_way
def test_the_seal_is_that_of_what_is_stored(world: World, tmp_path: Path, way: Way) -> None:
    export(world.archive, tmp_path / way.name, options=way.options)
    stored = sorted((asset.sha256 or "", asset.key) for asset in world.archive.catalog.stored_assets(Selection()))
    with Export(tmp_path / way.name).text(SEAL) as lines:
        assert next(lines) == f"Seal: {compute_seal(stored)}\n"


@every_way
def test_what_is_damaged_or_gone_is_left_out_and_named(world: World, tmp_path: Path, way: Way) -> None:
    flip(world.asset(1))
    world.asset(2).unlink()
    world.asset(3).write_bytes(world.asset(3).read_bytes() + b"more")
    target = tmp_path / way.name
    summary, records = export(world.archive, target, options=way.options)
    assert (summary.outcome, summary.counts["written"], summary.counts["failed"]) == ("problems", 2, 3)
    assert [record.render_id for record in records if isinstance(record, Skipped)] == [*map(render_id, (1, 2, 3))]
    folder = prove(target, tmp_path / "there")
    rows = table(folder / MISSING)
    assert [(row["render_id"], row["reason"]) for row in rows] == [
        (render_id(1), "damaged"),
        (render_id(2), "gone"),
        (render_id(3), "damaged"),
    ]
    assert rows[0]["asset_key"] == render(1)["asset_key"]
    for number in (1, 2, 3):
        put(Path(world.archive.store.address), render(number)["asset_key"], pdf(f"render {number}"))
    assert export(world.archive, target, options=way.options)[0].outcome == "ok"
    assert not (prove(target, tmp_path / "again") / MISSING).exists(), "nothing is lacking any more"


@every_way
def test_what_was_never_stored_is_named_and_makes_it_incomplete(world: World, tmp_path: Path, way: Way) -> None:
    load(world.archive, world.folder, "renders", [render(20)])
    summary, _ = export(world.archive, tmp_path / way.name, options=way.options)
    assert (summary.outcome, summary.counts["excluded"]) == ("incomplete", 1)
    folder = prove(tmp_path / way.name, tmp_path / "there")
    assert [row["reason"] for row in table(folder / MISSING)] == ["not-stored"]


@every_pack
def test_the_same_selection_gives_the_same_bytes(tmp_path: Path, way: Way) -> None:
    world = fill(tmp_path, count=210)
    flip(world.asset(3))
    flip(world.asset(150))
    export(world.archive, tmp_path / "a" / way.name, options=way.options, jobs=1)
    export(world.archive, tmp_path / "b" / way.name, options=way.options, jobs=2)
    assert (tmp_path / "a" / way.name).read_bytes() == (tmp_path / "b" / way.name).read_bytes()
    flip(world.asset(3))
    flip(world.asset(150))
    export(world.archive, tmp_path / "whole" / way.name, options=way.options, jobs=2)
    prove(tmp_path / "a" / way.name, tmp_path / "there")
    prove(tmp_path / "whole" / way.name, tmp_path / "all")


@every_pack
def test_python_reads_what_is_packed(world: World, tmp_path: Path, way: Way) -> None:
    target = tmp_path / way.name
    export(world.archive, target, options=way.options)
    if way.name.endswith(".zip"):
        with zipfile.ZipFile(target) as pack:
            assert pack.testzip() is None
            entry = next(entry for entry in pack.infolist() if entry.filename.endswith(f"{render_id(1)}.pdf"))
            assert entry.date_time == (2026, 6, 5, 10, 0, 2)
            assert pack.read(entry) == world.asset(1).read_bytes()
    else:
        with tarfile.open(target) as tar:
            member = next(member for member in tar if member.name.endswith(f"{render_id(1)}.pdf"))
            body = tar.extractfile(member)
            assert body is not None
            assert body.read() == world.asset(1).read_bytes()


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_standard_output_takes_the_same_bytes(world: World, tmp_path: Path, form: str) -> None:
    flip(world.asset(1))
    done = subprocess.run(
        program("export", "-", "--format", form, archive=world.archive.path), capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"damaged: its bytes are not" in done.stderr
    export(world.archive, tmp_path / f"out.{form}")
    assert (tmp_path / f"out.{form}").read_bytes() == done.stdout


def test_standard_output_that_is_closed_is_a_clear_error(tmp_path: Path) -> None:
    world = fill(tmp_path, count=40, size_bytes=100_000)
    with subprocess.Popen(
        program("export", "-", "--format", "tar", archive=world.archive.path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        told = process.stderr.read().decode()
    assert process.returncode == 15
    assert "standard output" in told
    assert "Traceback" not in told


# --- again, and on ---------------------------------------------------------------------------------------------------


@every_folder
def test_a_repeated_export_touches_nothing_and_adds_the_new(world: World, tmp_path: Path, way: Way) -> None:
    target = tmp_path / "out"
    export(world.archive, target, options=way.options)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*.pdf")}
    put(world.bucket, render(20)["asset_key"], pdf("new"))
    load(world.archive, world.folder, "renders", [render(20)])
    summary_of(fetch_assets(world.archive, str(world.bucket)))
    summary, _ = export(world.archive, target, options=way.options)
    assert (summary.counts["unchanged"], summary.counts["written"]) == (5, 1)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    prove(target, tmp_path)
    assert not (target / INCOMING).exists()


@every_folder
def test_a_file_that_was_damaged_in_the_export_is_written_again(world: World, tmp_path: Path, way: Way) -> None:
    target = tmp_path / "out"
    export(world.archive, target, options=way.options)
    damaged = next(target.rglob("*.pdf"))
    damaged.unlink()
    damaged.write_bytes(b"damaged")
    summary, _ = export(world.archive, target, options=way.options)
    assert (summary.counts["unchanged"], summary.counts["written"]) == (4, 1)
    prove(target, tmp_path)


def test_a_good_file_in_the_export_outlives_its_damaged_asset_and_a_bad_one_goes(world: World, tmp_path: Path) -> None:
    target = tmp_path / "out"
    export(world.archive, target)
    flip(world.asset(1))
    flip(world.asset(2))
    flip(next(target.rglob(f"{render_id(2)}.pdf")))
    summary, _ = export(world.archive, target)
    assert (summary.counts["unchanged"], summary.counts["failed"]) == (4, 1)
    assert not list(target.rglob(f"{render_id(2)}.pdf"))
    prove(target, tmp_path)


def exported_ids(target: Path) -> list[str]:
    return [row["render_id"] for row in table(target / INDEX)]


@every_folder
def test_what_the_selection_no_longer_has_stays_in_the_lists_until_it_is_pruned(
    world: World, tmp_path: Path, way: Way
) -> None:
    target = tmp_path / "out"
    export(world.archive, target, options=way.options)
    (world.folder / "ids").write_text(f"{render_id(1)}\n{render_id(4)}\n")
    narrow = world.archive.select(ids=world.folder / "ids")
    summary, _ = export(world.archive, target, options=way.options, selection=narrow)
    assert (summary.counts["unchanged"], summary.counts["kept"]) == (2, 3)
    prove(target, tmp_path)
    assert len(exported_ids(target)) == 5
    mine = target / "mine.txt"
    mine.write_text("mine")
    changed = next(target.rglob(f"{render_id(0)}.pdf"))
    changed.unlink()
    changed.write_bytes(b"a person's own")
    options = way.options._replace(prune=True)
    summary, _ = export(world.archive, target, options=options, selection=narrow)
    assert (summary.counts["unchanged"], summary.counts["pruned"]) == (2, 2)
    assert exported_ids(target) == [render_id(1), render_id(4)]
    assert mine.read_text() == "mine"
    assert changed.read_bytes() == b"a person's own"
    mine.unlink()
    changed.unlink()
    prove(target, tmp_path)
    assert all(world.asset(number).exists() for number in range(5))


def test_what_an_interrupted_export_wrote_is_known_to_the_next(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("craftkit_archive.export.run.BATCH", 1)
    monkeypatch.setattr("craftkit_archive.parallel.pool.AHEAD", 1)
    answers = iter([False] * 5)
    target = tmp_path / "out"
    summary, _ = export(world.archive, target, stop=lambda: next(answers, True))
    assert summary.outcome == "interrupted"
    assert 0 < summary.counts["written"] < 5
    assert not (target / MANIFEST).exists()
    (world.folder / "ids").write_text(f"{render_id(4)}\n")
    narrow = world.archive.select(ids=world.folder / "ids")
    pruned, _ = export(world.archive, target, options=Options(prune=True), selection=narrow)
    assert pruned.counts["pruned"] == summary.counts["written"]
    assert exported_ids(target) == [render_id(4)]
    prove(target, tmp_path)


@pytest.mark.parametrize(
    "damage",
    [b"M\xfcller;x\r\n", b'a,"torn \xc3', b"a,b\rc\n", b'"' + b"x" * 200_000, b",".join([b"9" * 5000] * 11)],
    ids=["latin-1", "torn", "a lone return", "without end", "a number without end"],
)
@pytest.mark.parametrize("table", [INDEX, LEDGER])
def test_a_table_that_was_torn_or_rewritten_does_not_stop_the_next_export(
    world: World, tmp_path: Path, table: str, damage: bytes
) -> None:
    target = tmp_path / "out"
    export(world.archive, target)
    if table == LEDGER:
        (target / INCOMING).mkdir(exist_ok=True)
        (target / INDEX).rename(target / LEDGER)
    with (target / table).open("ab") as file:
        file.write(damage)
    narrow = Selection(render_ids=(render_id(0),))
    summary, _ = export(world.archive, target, selection=narrow)
    assert (summary.counts["unchanged"], summary.counts["kept"]) == (1, 4)
    prove(target, tmp_path / "there")


@every_folder
def test_an_interrupted_export_has_no_manifest_and_goes_on(
    world: World, tmp_path: Path, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("craftkit_archive.export.run.BATCH", 1)
    monkeypatch.setattr("craftkit_archive.parallel.pool.AHEAD", 1)
    answers = iter([False] * 5)
    target = tmp_path / "out"
    summary, _ = export(world.archive, target, options=way.options, stop=lambda: next(answers, True))
    assert summary.outcome == "interrupted"
    assert not (target / MANIFEST).exists()
    again, _ = export(world.archive, target, options=way.options)
    assert again.outcome == "ok"
    assert again.counts["unchanged"] == summary.counts["written"]
    prove(target, tmp_path)


@pytest.mark.long
@every_way
def test_an_export_that_is_killed_leaves_nothing_half_and_the_next_completes_it(tmp_path: Path, way: Way) -> None:
    world = fill(tmp_path, count=150, size_bytes=20_000)
    target = tmp_path / way.name
    words = ["--link"] if way.options.link else ["--format", way.options.form] if way.options.form else []
    before = (
        "import os, signal, craftkit_archive.export.run as e\nreal = e.Manifests.add\ncalls = []\ne.BATCH = 50\n"
        "def add(*given):\n    calls.append(1)\n    real(*given)\n"
        "    if len(calls) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "e.Manifests.add = add"
    )
    done = subprocess.run(
        program("export", target, *words, archive=world.archive.path, before=before), capture_output=True, check=False
    )
    assert done.returncode == -9, done.stderr
    if way.packed:
        assert not target.exists()
    else:
        assert not (target / MANIFEST).exists()
        for file in target.rglob("*.pdf"):
            assert (
                file.read_bytes()
                == (Path(world.archive.store.address) / f"renders/{NORTHWIND}/{file.name}").read_bytes()
            )
    summary, _ = export(world.archive, target, options=way.options)
    assert summary.outcome == "ok"
    assert summary.counts["written"] + summary.counts["unchanged"] == 150
    assert way.packed or summary.counts["unchanged"] >= 100
    prove(target, tmp_path / "there")
    assert not list(tmp_path.glob(".*.part"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """Mount a file system of 2 MB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("way", [WAYS[0], WAYS[2], *PACKED[:2]], ids=str)
def test_a_full_disk_is_a_clear_error_and_the_next_export_goes_on(
    tmp_path: Path, small_disk: Path, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = fill(tmp_path, count=60, size_bytes=50_000)
    target = small_disk / way.name
    with pytest.raises(NoSpaceError, match="Make room, or narrow"):
        export(world.archive, target, options=way.options)
    assert not target.exists(), "nothing was begun"
    # The room may also vanish while it is written.
    monkeypatch.setattr("craftkit_archive.export.destination.Destination.room", lambda self: None)
    with pytest.raises(NoSpaceError, match="No space is left"):
        export(world.archive, target, options=way.options)
    if way.packed:
        assert not list(small_disk.iterdir())
    else:
        assert not (target / MANIFEST).exists()
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    assert export(world.archive, target, options=way.options)[0].outcome == "ok"
    prove(target, tmp_path / "there")


@every_folder
def test_an_export_that_is_made_again_has_no_manifest_until_it_is_whole(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    target = tmp_path / "out"
    export(world.archive, target, options=way.options)
    real = FolderStore.write

    def full(store: FolderStore, key: str, *given: Any, **more: Any) -> Any:
        if key == CATALOGUE:
            raise NoSpaceError("full")
        return real(store, key, *given, **more)

    monkeypatch.setattr(FolderStore, "write", full)
    with pytest.raises(NoSpaceError):
        export(world.archive, target, options=way.options)
    assert not (target / MANIFEST).exists()
    monkeypatch.undo()
    assert export(world.archive, target, options=way.options)[0].counts["unchanged"] == 5
    prove(target, tmp_path)


# --- what is asked for -----------------------------------------------------------------------------------------------


def test_the_selection_narrows_it(world: World, tmp_path: Path) -> None:
    rows = [
        render(20, project_id=SOUTHWIND, created_at="2026-01-31T23:59:59Z"),
        render(21, project_id=SOUTHWIND, created_at="2026-02-01T00:00:00Z", template_id="contract"),
    ]
    for row in rows:
        put(world.bucket, row["asset_key"], pdf(row["id"]))
    load(world.archive, world.folder, "renders", rows)
    summary_of(fetch_assets(world.archive, str(world.bucket)))

    def exported(name: str, **selection: Any) -> list[str]:
        export(world.archive, tmp_path / name, selection=world.archive.select(**selection))
        return exported_ids(tmp_path / name)

    assert exported("a", projects=("southwind",)) == [render_id(20), render_id(21)]
    assert exported("b", projects=("southwind",), until="2026-01-31") == [render_id(20)]
    assert exported("c", projects=("southwind", NORTHWIND), since="2026-02-01", until="2026-03-01") == [render_id(21)]
    assert exported("d", template_id="contract") == [render_id(21)]
    with pytest.raises(RequestError, match="northwind, southwind"):
        exported("e", since="2030-01-01")
    assert not (tmp_path / "e").exists()


def test_a_list_of_ids_is_answered_for_each_of_them(world: World, tmp_path: Path) -> None:
    load(world.archive, world.folder, "renders", [render(20, status="failed", asset_key=None)])
    (tmp_path / "ids").write_text(f"{render_id(1)}\nno-such-id\n{render_id(20)}\n{render_id(1)}\n")
    summary, records = export(world.archive, tmp_path / "out", selection=world.archive.select(ids=tmp_path / "ids"))
    assert (summary.outcome, summary.counts["selected"]) == ("incomplete", 3)
    assert [record.render_id for record in records if isinstance(record, Skipped)] == ["no-such-id", render_id(20)]
    rows = table(tmp_path / "out" / MISSING)
    assert [(row["render_id"], row["reason"]) for row in rows] == [
        ("no-such-id", "unknown"),
        (render_id(20), "not-succeeded"),
    ]
    prove(tmp_path / "out", tmp_path)
    (tmp_path / "ids").write_text("no-such-id\n")
    with pytest.raises(RequestError, match="No render is selected"):
        export(world.archive, tmp_path / "other", selection=world.archive.select(ids=tmp_path / "ids"))


def test_other_statuses_are_exported_when_they_are_asked_for(world: World, tmp_path: Path) -> None:
    load(world.archive, world.folder, "renders", [render(20, status="failed", asset_key=None)])
    assert export(world.archive, tmp_path / "a")[0].counts["selected"] == 5
    summary, _ = export(world.archive, tmp_path / "b", selection=world.archive.select(statuses=("failed",)))
    assert (summary.counts["selected"], summary.counts["excluded"]) == (1, 1)


@pytest.mark.parametrize("way", WAYS[:1] + WAYS[2:], ids=str)
def test_volumes_are_complete_in_themselves(tmp_path: Path, way: Way) -> None:
    world = fill(tmp_path, count=12, size_bytes=300_000)
    flip(world.asset(5))
    load(world.archive, world.folder, "renders", [render(20)])
    options = way.options._replace(split_bytes=1 << 20)
    summary, _ = export(world.archive, tmp_path / way.name, options=options)
    assert (summary.counts["written"], summary.counts["failed"], summary.counts["excluded"]) == (11, 1, 1)
    volumes = [Path(volume["path"]) for volume in summary.details["exports"]]
    stem, _, suffix = way.name.partition(".")
    assert [volume.name for volume in volumes[:2]] == [f"{stem}-{n:03}{'.' if suffix else ''}{suffix}" for n in (1, 2)]
    assert len(volumes) == 6
    ids = []
    for volume in volumes:
        folder = prove(volume, tmp_path / "there" / volume.stem)
        ids += exported_ids(folder)
        assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 1 << 20
    assert sorted(ids) == [render_id(number) for number in range(12) if number != 5]
    if way.bag:
        assert "Bag-Count: 1 of 6\n" in (unpacked(volumes[0], tmp_path / "first") / "bag-info.txt").read_text()
    with pytest.raises(RequestError, match="has only 1\\. Remove it"):
        export(world.archive, tmp_path / way.name, options=options._replace(split_bytes=1 << 30))
    large = fill(tmp_path / "large", count=1, size_bytes=1 << 20)
    with pytest.raises(RequestError, match="more than fits"):
        export(large.archive, tmp_path / "never", options=options)


def test_links_are_the_same_file_and_are_read_when_asked(world: World, tmp_path: Path) -> None:
    flip(world.asset(1))
    before = world.asset(0).stat().st_mtime_ns
    summary, _ = export(world.archive, tmp_path / "quick", options=Options(link=True))
    assert summary.outcome == "ok", "only sizes were compared"
    linked = next((tmp_path / "quick").rglob(f"{render_id(0)}.pdf"))
    assert linked.samefile(world.asset(0))
    assert world.asset(0).stat().st_mtime_ns == before, "the archive is not touched"
    summary, _ = export(world.archive, tmp_path / "sure", options=Options(link=True, verify_links=True))
    assert summary.counts["failed"] == 1
    prove(tmp_path / "sure", tmp_path)


def test_a_bag_says_who_sent_it(world: World, tmp_path: Path) -> None:
    info = (parse_info("Source-Organization=Acme Ltd"), parse_info("Contact-Name=Zoë"))
    export(world.archive, tmp_path / "bag", options=Options("bagit", bag_info=info))
    told = bagit.Bag(str(tmp_path / "bag")).info
    size = sum(world.asset(number).stat().st_size for number in range(5))
    assert (told["Source-Organization"], told["Contact-Name"]) == ("Acme Ltd", "Zoë")
    assert told["Payload-Oxum"] == f"{size}.5"
    assert told["Bagging-Date"] == world.archive.now()[:10]
    with Export(tmp_path / "bag").text(SEAL) as lines:
        assert told["External-Identifier"] == f"sha256:{next(lines).split()[1]}"
    for wrong in ("no value", "Payload-Oxum=1.1", "a b=c", "Key=\n", "=x"):
        with pytest.raises(RequestError):
            parse_info(wrong)


@pytest.mark.parametrize(
    ("target", "options", "told"),
    [
        ("-", Options(), "Standard output takes"),
        ("-", Options("bagit"), "Standard output takes"),
        ("-", Options("zip", split_bytes=1 << 30), "--split-size"),
        ("out.zip", Options(link=True), "--link"),
        ("out.zip", Options(prune=True), "--prune"),
        ("out", Options(verify_links=True), "--verify-links"),
        ("out", Options(split_bytes=1000), "--split-size"),
        ("out", Options(bag_info=(("A", "b"),)), "--bag-info"),
        ("s3://bucket/prefix", Options("zip"), "bucket"),
        ("s3://bucket/prefix", Options(link=True), "--link"),
        ("", Options(), "DEST"),
        ("out", Options(name="{nothing}"), "The fields are id"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_written(
    world: World, tmp_path: Path, target: str, options: Options, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RequestError, match=told):
        export(world.archive, target, options=options)
    assert sorted(tmp_path.iterdir()) == before


def test_the_end_of_the_name_says_the_form_unless_it_is_given(world: World, tmp_path: Path) -> None:
    export(world.archive, tmp_path / "x.zip", options=Options("dir"))
    assert (tmp_path / "x.zip" / MANIFEST).exists()
    export(world.archive, tmp_path / "y", options=Options("tar"))
    assert tarfile.is_tarfile(tmp_path / "y")


def test_several_processes_write_the_same_as_one(tmp_path: Path) -> None:
    world = fill(tmp_path, count=200)
    export(world.archive, tmp_path / "one", jobs=1)
    export(world.archive, tmp_path / "two", jobs=2)
    prove(tmp_path / "two", tmp_path)
    for name in (MANIFEST, INDEX, CATALOGUE, SEAL):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@every_way
def test_a_dry_run_prints_the_plan_and_writes_nothing(world: World, tmp_path: Path, way: Way) -> None:
    summary, records = export(world.archive, tmp_path / way.name, options=way.options, dry_run=True)
    planned = [record for record in records if isinstance(record, Planned)]
    assert not (tmp_path / way.name).exists()
    assert summary.counts["written"] == 5 == len(planned)
    assert planned[0].size_bytes == world.asset(0).stat().st_size
    export(world.archive, tmp_path / way.name, options=way.options)
    assert [row.path for row in planned] == [row.path for row in Export(tmp_path / way.name).listed()]


@every_way
def test_the_archive_is_only_read(world: World, tmp_path: Path, way: Way) -> None:
    world.archive.catalog.close()
    files = [path for path in world.archive.path.rglob("*") if path.is_file()]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    with Archive(world.archive.path, sealed=True) as archive:
        export(archive, tmp_path / way.name, options=way.options)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files} == before
    with Archive(world.archive.path, read_only=True) as archive:
        summary, _ = export(archive, tmp_path / way.name, options=way.options)
        *_, event = archive.catalog.events()
    # But for the event that says so.
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    assert {path.name for path in files if after[path] != before[path]} == {"archive.db", "audit.ndjson"}
    assert (event.what, event.details["target"]) == ("export", str(tmp_path / way.name))
    assert event.details["seal"] == summary.details["exports"][0]["seal"]


def test_a_store_that_is_no_folder_takes_an_export(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Any store will do to show what is asked of one: here a folder's, through the protocol alone.
    (tmp_path / "bucket 2").mkdir()
    place = Destination(str(tmp_path / "bucket 2"), "store", False)
    monkeypatch.setattr("craftkit_archive.export.run.read_destination", lambda *_: place)
    load(world.archive, world.folder, "renders", [render(20)])
    assert export(world.archive, "s3://bucket/prefix")[0].counts["written"] == 5
    prove(tmp_path / "bucket 2", tmp_path)
    put(world.bucket, render(20)["asset_key"], pdf("new"))
    summary_of(fetch_assets(world.archive, str(world.bucket)))
    summary, _ = export(world.archive, "s3://bucket/prefix")
    assert (summary.counts["unchanged"], summary.counts["written"]) == (5, 1)
    assert table(tmp_path / "bucket 2" / MISSING) == [], "nothing is lacking any more"
    assert summary_of(check_export(tmp_path / "bucket 2")).outcome == "ok"
    (tmp_path / "bucket 2" / MARKER).unlink()
    with pytest.raises(RequestError, match="not an export"):
        export(world.archive, "s3://bucket/prefix")


# --- what is not ours ------------------------------------------------------------------------------------------------


@every_way
def test_nothing_is_written_into_the_store(world: World, way: Way) -> None:
    store = Path(world.archive.store.address)
    before = sorted(store.rglob("*"))
    for target in (store / way.name, store / "new" / way.name):
        with pytest.raises(RequestError, match="lies in the archive's store"):
            export(world.archive, target, options=way.options)
    assert sorted(store.rglob("*")) == before


@every_way
def test_a_name_that_no_disk_takes_is_a_clear_error(world: World, tmp_path: Path, way: Way) -> None:
    with pytest.raises(NotWritableError, match="File name too long"):
        export(world.archive, tmp_path / f"{'a' * 300}{way.name}", options=way.options)


def test_a_folder_that_no_export_made_is_left_alone(world: World, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "mine.zip").write_text("mine")
    bag = tmp_path / "bag"
    bag.mkdir()
    (bag / MANIFEST).write_text("0  data/a.txt\n")
    fetching = tmp_path / "fetching"
    (fetching / INCOMING).mkdir(parents=True)
    (fetching / INCOMING / ("0" * 32)).write_text("a piece")
    (fetching / ".craftkit-archive").write_text("an id")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    store = Path(world.archive.store.address)
    for target in (tmp_path / "mine", bag, fetching, world.archive.path, store, store / "out", tmp_path / "mine.zip"):
        with pytest.raises(RequestError):
            export(world.archive, target)
    for target in (tmp_path / "file", tmp_path / "file" / "below", loop):
        with pytest.raises(NotWritableError):
            export(world.archive, target)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    assert (tmp_path / "mine.zip").read_text() == "mine"
    assert (bag / MANIFEST).read_text() == "0  data/a.txt\n"
    assert (fetching / INCOMING / ("0" * 32)).exists()


def test_an_export_that_was_killed_at_its_beginning_goes_on(world: World, tmp_path: Path) -> None:
    (tmp_path / "out" / INCOMING).mkdir(parents=True)
    (tmp_path / "out" / INCOMING / "archive.lock").write_text("{}")
    assert export(world.archive, tmp_path / "out")[0].outcome == "ok"
    prove(tmp_path / "out", tmp_path)
    assert not (tmp_path / "out" / INCOMING).exists()


def test_an_export_of_something_else_is_left_alone(world: World, tmp_path: Path) -> None:
    target = tmp_path / "out"
    export(world.archive, target)
    before = (target / MANIFEST).read_bytes()
    with pytest.raises(RequestError, match=r"something else|another archive or form"):
        export(world.archive, target, options=Options("bagit"))
    with pytest.raises(RequestError, match=r"something else|another archive or form"):
        export(fill(tmp_path / "other").archive, target)
    export(world.archive, tmp_path / "out.zip")
    with (
        Archive(tmp_path / "other" / "archive") as other,
        pytest.raises(RequestError, match=r"something else|another archive or form"),
    ):
        export(other, tmp_path / "out.zip")
    assert (target / MANIFEST).read_bytes() == before


@pytest.mark.parametrize("way", [WAYS[0], PACKED[0]], ids=str)
def test_two_exports_do_not_write_to_one_place(world: World, tmp_path: Path, way: Way) -> None:
    target = tmp_path / way.name
    first = export_assets(world.archive, target)
    next(first)
    next(first)
    with Archive(world.archive.path, read_only=True) as other, pytest.raises(LockedError, match="export"):
        export(other, target)
    assert summary_of(first).outcome == "ok"
    prove(target, tmp_path / "there")


def test_a_link_that_leads_out_of_the_export_is_not_followed(world: World, tmp_path: Path) -> None:
    target = tmp_path / "out"
    export(world.archive, target)
    folder, outside = target / "northwind/2026", tmp_path / "outside"
    folder.rename(outside)
    folder.symlink_to(outside)
    for file in outside.rglob("*.pdf"):
        file.write_bytes(b"mine")
    with pytest.raises(RequestError, match="leads out"):
        export(world.archive, target)
    assert {file.read_bytes() for file in outside.rglob("*.pdf")} == {b"mine"}


@every_way
def test_a_store_that_is_not_there_writes_nothing(world: World, tmp_path: Path, way: Way) -> None:
    Path(world.archive.store.address).rename(tmp_path / "unmounted")
    with pytest.raises(StoreOfflineError):
        export(world.archive, tmp_path / way.name, options=way.options)
    assert not (tmp_path / way.name).exists()


def test_a_store_that_vanishes_meanwhile_is_no_heap_of_lost_assets(world: World, tmp_path: Path) -> None:
    running = export_assets(world.archive, tmp_path / "out")
    next(running)
    Path(world.archive.store.address).rename(tmp_path / "unmounted")
    with pytest.raises(StoreOfflineError):
        list(running)
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_no_cell_is_a_formula(world: World, tmp_path: Path) -> None:
    load(world.archive, world.folder, "projects", [{**projects()[0], "slug": "=cmd|' /C calc'!A0"}])
    load(world.archive, world.folder, "renders", [render(20, template_id="@SUM(1)")])
    export(world.archive, tmp_path / "out")
    for name in (INDEX, MISSING):
        cells = [cell for row in table(tmp_path / "out" / name) for cell in row.values()]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    prove(tmp_path / "out", tmp_path)


# --- properties ------------------------------------------------------------------------------------------------------


_RENDERS = st.lists(
    st.tuples(
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60),
        st.sampled_from(["ok", "ok", "ok", "damaged", "gone", "not-stored"]),
        st.sampled_from([None, "2026-01-31T23:59:59.999Z", "1970-01-01T00:00:00.000Z", "2199-12-31T00:00:00.000Z"]),
        st.integers(0, 3000) | st.integers((1 << 20) - 1, (1 << 20) + 1),
    ),
    unique_by=lambda render: render[0],
    min_size=1,
    max_size=8,
)
_NAMES = st.sampled_from(
    ["{project_slug}/{created:%Y}/{created:%m}/{id}.pdf", "{id}", "{project_name}/{template_id}", "x/{completed}/y.pdf"]
)


@settings(max_examples=25, deadline=None)
@given(
    renders=_RENDERS,
    project=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
    name=_NAMES,
    way=st.sampled_from(WAYS[:1] + WAYS[2:]),
)
def test_every_export_of_anything_is_whole_and_counted(
    renders: list[tuple[str, str, str | None, int]],
    project: str,
    name: str,
    way: Way,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    with Archive.create(folder / "archive") as archive:
        store = Path(archive.store.address)
        rows, assets = [], []
        for number, (render_id, state, created, size) in enumerate(renders):
            key, body = f"renders/p/{number}.pdf", sha256(str(number).encode()).digest() * (size // 32 + 1)
            rows.append((render_id, "p", render_id, "succeeded", None, key, created, created, None, None))
            if state != "not-stored":
                digest = sha256(body[:size]).hexdigest()
                assets.append(NewAsset(render_id, key, size, digest, "first-read", "x", archive.now()))
            if state in ("ok", "damaged"):
                put(store, key, body[:size] + (b"+" if state == "damaged" else b""))
        with archive.catalog.transaction():
            archive.catalog.put("projects", [("p", project, project, None, None, None, None)])
            archive.catalog.put("renders", rows)
            archive.catalog.add_assets(assets)
        summary, _ = export(archive, folder / way.name, options=way.options._replace(name=name))
    states = [state for _, state, _, _ in renders]
    assert summary.counts["written"] == states.count("ok")
    assert summary.counts["failed"] == states.count("damaged") + states.count("gone")
    assert summary.counts["excluded"] == states.count("not-stored")
    there = prove(folder / way.name, folder / "there")
    assert len(exported_ids(there)) == states.count("ok")
    reasons = [row["reason"] for row in table(there / MISSING)] if (there / MISSING).exists() else []
    assert reasons == [state for _, state, _, _ in sorted(renders, key=lambda one: one[0].encode()) if state != "ok"]


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_and_its_check_speak_with_exit_codes(world: World, tmp_path: Path) -> None:
    place = world.archive.path
    done = command("export", tmp_path / "out.zip", "--project", "northwind", archive=place)
    assert (done.code, done.out) == (0, "")
    checked = command("--json", "export-check", tmp_path / "out.zip")
    assert checked.code == 0
    assert checked.lines[-1]["details"]["seal"] in (tmp_path / "out.zip").read_bytes().decode("latin-1")
    assert command("export", "-", "--format", "zip", archive=place.parent / "none").code == 10
    refused = command("--json", "export", "-", "--format", "zip", archive=place)
    assert (refused.code, refused.lines[0]["error"]) == (2, "RequestError")
    world.asset(1).unlink()
    assert command("export", tmp_path / "lacking", archive=place).code == 1
    assert command("export-check", tmp_path / "lacking").code == 3
    flip(next((tmp_path / "lacking").rglob("*.pdf")))
    assert command("export-check", tmp_path / "lacking").code == 1
    assert command("export-check", tmp_path / "nothing").code == 2
    assert command("export", tmp_path / "x", "--name", "{id.__class__}", archive=place).code == 2
    assert command("export", tmp_path / "x", "--split-size", "many", archive=place).code == 2


@pytest.mark.parametrize("again", [False, True])
def test_a_name_that_cannot_be_written_stops_no_other(world: World, tmp_path: Path, again: bool) -> None:
    """Folders, files and links in the way of files and folders, as people and other programs leave them."""
    target = tmp_path / "out"
    options = Options(name="{id}/{id}.pdf")
    summary_of(export_assets(world.archive, target, options=options))
    if not again:
        for name in ("index.csv", "manifest-sha256.txt"):
            (target / name).unlink()
    for number, block in ((0, Path.mkdir), (1, lambda path: path.symlink_to(path.name)), (2, None)):
        file = target / render_id(number) / f"{render_id(number)}.pdf"
        file.unlink()
        if block is None:
            file.parent.rmdir()
            file.parent.write_text("a file where a folder should be")
        else:
            block(file)
    world.asset(3).write_bytes(b"damaged")
    (target / render_id(3) / f"{render_id(3)}.pdf").write_bytes(b"damaged too")
    records = list(export_assets(world.archive, target, options=options))
    reasons = {record.render_id: record.reason for record in records if isinstance(record, Skipped)}
    assert set(reasons) == {render_id(0), render_id(2), render_id(3)}
    assert "in its way" in reasons[render_id(0)]
    assert (target / render_id(1) / f"{render_id(1)}.pdf").read_bytes() == world.asset(1).read_bytes()
    assert (target / render_id(4) / f"{render_id(4)}.pdf").exists()
    assert not (target / render_id(3) / f"{render_id(3)}.pdf").exists()
    assert "unwritable" in (target / "missing.csv").read_text()


def test_a_name_too_long_for_the_folder_is_that_pdfs_matter(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rename

    def rename(path: str, target: str) -> None:
        if target.endswith(f"{render_id(2)}.pdf"):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        real(path, target)

    monkeypatch.setattr(os, "rename", rename)
    summary = summary_of(export_assets(world.archive, tmp_path / "out"))
    assert (summary.outcome, summary.counts["written"], summary.counts["failed"]) == ("problems", 4, 1)
    assert not list((tmp_path / "out").rglob(".incoming/*/*"))


@pytest.mark.parametrize(
    ("address", "options", "kind", "store", "second", "prefix"),
    [
        ("out.zip", Options(), "zip", None, "out-002.zip", ""),
        ("/a.b/out.tar/", Options("bagit"), "tar", None, "/a.b/out-002.tar", "out-002/"),
        ("/a/out/", Options(), "dir", None, "/a/out-002", ""),
        ("out.v1", Options("zip"), "zip", None, "out-002.v1", ""),
        ("s3://b/p/out.zip?region=x.tar/y", Options(), "zip", "s3://b/p?region=x.tar/y",
         "s3://b/p/out-002.zip?region=x.tar/y", ""),
        ("s3://b/out.zip", Options("bagit"), "zip", "s3://b", "s3://b/out-002.zip", "out-002/"),
        ("s3://b/p/out", Options("tar"), "tar", "s3://b/p", "s3://b/p/out-002", ""),
        ("s3://b/p/out.zip", Options("dir"), "store", "s3://b/p/out.zip", "s3://b/p/out.zip-002", ""),
        ("gs://b/p/out/", Options("bagit"), "store", "gs://b/p/out/", "gs://b/p/out-002", ""),
    ],
)  # fmt: skip
def test_volumes_are_named_after_their_export(
    address: str, options: Options, kind: str, store: str | None, second: str, prefix: str
) -> None:
    destination = read_destination(address, options._replace(split_bytes=1 << 20))
    assert (destination.kind, destination.store) == (kind, store)
    named = destination.named(Volume(2, 3))
    assert named == second
    if kind in ("zip", "tar"):
        assert destination.prefix(named) == prefix


@pytest.mark.parametrize("large", [False, True])  # in one request, and in parts
def test_a_bucket_says_what_the_files_of_an_export_are(tmp_path: Path, moto: str, large: bool) -> None:
    world = fill(tmp_path, count=2, size_bytes=(9 << 20) if large else 100)
    prefix = token_hex(8)
    options = Options(split_bytes=64 << 20)
    for name in ("out", "out.zip", "out.tar"):
        address = bucket_address(f"s3://{BUCKET}/{prefix}/{name}", endpoint_url=moto)
        assert export(world.archive, address, options=options)[0].counts["written"] == 2
    client = s3_client(moto)
    keys = [found["Key"] for found in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]]
    types = {key.rpartition(".")[2]: client.head_object(Bucket=BUCKET, Key=key)["ContentType"] for key in keys}
    assert types.pop("craftkit-export")
    assert types == {
        "pdf": "application/pdf",
        "html": "text/html; charset=utf-8",
        "csv": "text/csv; charset=utf-8",
        "txt": "text/plain; charset=utf-8",
        "zip": "application/zip",
        "tar": "application/x-tar",
    }
