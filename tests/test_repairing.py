"""Repair: what is damaged heals from any place that has the right bytes, and nothing good is ever touched."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from craftkit_archive.catalog.rows import NewAsset
from craftkit_archive.errors import RequestError, StoreOfflineError
from craftkit_archive.export.run import export_assets
from craftkit_archive.parallel.threads import map_threads
from craftkit_archive.records import Finding, Planned, Record, Skipped, Summary
from craftkit_archive.repair.quarantine import Quarantine
from craftkit_archive.repair.run import drop_quarantined, list_quarantine, repair_assets, restore_quarantined
from craftkit_archive.stores import aws
from craftkit_archive.stores.bucket import BucketStore, bucket_address
from craftkit_archive.verify.run import verify_assets
from tests.services import BUCKET, Fault, FaultyProxy
from tests.test_store import NOT_FILES
from tests.worlds import LIVE_KEY, World, command, fill, live, load, pdf, put, render, render_id, summary_of


def damage(world: World) -> None:
    """Damage three of five assets in different ways, and let a check find it."""
    body = bytearray(world.asset(1).read_bytes())
    body[50] ^= 1
    world.asset(1).write_bytes(body)
    world.asset(2).write_bytes(b"")
    world.asset(3).unlink()
    assert summary_of(verify_assets(world.archive)).outcome == "problems"


def repair(world: World, source: Path | str, **options: Any) -> tuple[Summary, list[Record]]:
    records = list(repair_assets(world.archive, str(source), **options))
    summary = records[-1]
    assert isinstance(summary, Summary)
    counts = summary.counts
    assert counts["damaged"] == sum(counts[name] for name in ("repaired", "healed", "absent", "refused"))
    return summary, records[:-1]


def all_is_well(world: World) -> None:
    for number in range(5):
        assert world.asset(number).read_bytes() == pdf(f"render {number}")
    assert summary_of(verify_assets(world.archive)).counts == {"checked": 5, "ok": 5}


def held(world: World) -> dict[str, Any]:
    return {copy.key: copy for copy in Quarantine(world.archive.path).list()}


@pytest.mark.parametrize("place", ["folder", "export", "zip", "bucket", "api"])
def test_every_place_that_has_the_right_bytes_heals_an_archive(
    world: World, tmp_path: Path, place: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: dict[str, Callable[[], str]] = {
        "folder": lambda: str(world.bucket),
        "export": lambda: exported(world, tmp_path),
        "zip": lambda: zipped(world, tmp_path),
        "bucket": lambda: uploaded(world, request.getfixturevalue("moto")),
        "api": lambda: "",
    }
    source = sources[place]()
    damage(world)
    if place == "api":
        monkeypatch.setenv("CRAFTKIT_API_KEY", LIVE_KEY)
        with live(fill(tmp_path / "other").archive) as url:
            summary, _ = repair(world, url)
    else:
        summary, _ = repair(world, source)
    assert (summary.outcome, summary.counts["repaired"]) == ("ok", 3)
    all_is_well(world)
    assert {copy.verdict for copy in held(world).values()} == {"wrong-digest", "empty"}
    assert repair(world, world.bucket)[0].counts["damaged"] == 0


def exported(world: World, tmp_path: Path) -> str:
    summary_of(export_assets(world.archive, tmp_path / "export"))
    return str(tmp_path / "export")


def zipped(world: World, tmp_path: Path) -> str:
    folder = exported(world, tmp_path)
    script = "import sys, shutil; shutil.make_archive(sys.argv[1], 'tar', sys.argv[1])"
    subprocess.run(["python3", "-c", script, folder], check=True)
    return f"{folder}.tar"


def uploaded(world: World, moto: str) -> str:
    store = BucketStore(bucket_address(f"s3://{BUCKET}/{token_hex(8)}", endpoint_url=moto))
    for number in range(5):
        store.write(render(number)["asset_key"], [world.asset(number).read_bytes()])
    return store.address


def test_a_source_that_is_wrong_too_touches_nothing(world: World) -> None:
    damage(world)
    put(world.bucket, render(1)["asset_key"], pdf("something else"))
    before = world.asset(1).read_bytes()
    summary, records = repair(world, world.bucket)
    assert (summary.outcome, summary.counts["repaired"], summary.counts["refused"]) == ("problems", 2, 1)
    [finding] = [record for record in records if isinstance(record, Finding)]
    assert (finding.render_id, finding.verdict) == (render_id(1), "wrong-digest")
    assert "not the recorded one either" in (finding.detail or "")
    assert world.asset(1).read_bytes() == before
    assert render(1)["asset_key"] not in held(world)


def test_what_the_source_lacks_stays_damaged_and_is_said(world: World) -> None:
    damage(world)
    (world.bucket / render(2)["asset_key"]).unlink()
    summary, records = repair(world, world.bucket)
    assert (summary.outcome, summary.counts["absent"]) == ("problems", 1)
    assert [record.render_id for record in records if isinstance(record, Skipped)] == [render_id(2)]
    assert world.archive.catalog.count_damaged(world.archive.select()) == 1


def identity(path: Path) -> tuple[int, int, int]:
    """Say what tells a file that was left alone; the time of reading does not."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def test_what_reads_well_again_is_left_alone(world: World) -> None:
    damage(world)
    world.asset(1).write_bytes(pdf("render 1"))
    before = identity(world.asset(1))
    summary, _ = repair(world, world.bucket)
    assert (summary.counts["healed"], summary.counts["repaired"]) == (1, 2)
    assert identity(world.asset(1)) == before
    all_is_well(world)


def test_what_came_to_lie_where_nothing_was_is_kept_too(world: World) -> None:
    damage(world)
    world.asset(3).write_bytes(pdf("put there by hand"))
    assert repair(world, world.bucket)[0].counts["repaired"] == 3
    copy = held(world)[render(3)["asset_key"]]
    assert copy.verdict == "wrong-digest"
    assert (world.archive.path / "quarantine" / copy.name).read_bytes() == pdf("put there by hand")
    all_is_well(world)


@pytest.mark.parametrize("kind", ["500", "reset"])
def test_one_object_that_the_source_cannot_give_stops_nothing(
    world: World, moto: str, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws, "PAUSE_SECONDS", 0.01)
    source = uploaded(world, moto)
    damage(world)
    proxy = FaultyProxy(moto)
    proxy.faults = [Fault(kind, where=render_id(1), times=1000)]
    summary, _ = repair(world, bucket_address(source, endpoint_url=proxy.url))
    assert (summary.outcome, summary.counts["repaired"], summary.counts["refused"]) == ("problems", 2, 1)
    assert render(1)["asset_key"] not in held(world)
    proxy.faults.clear()
    assert repair(world, bucket_address(source, endpoint_url=proxy.url))[0].counts["repaired"] == 1
    proxy.close()
    all_is_well(world)


def test_a_dry_run_changes_nothing(world: World) -> None:
    damage(world)
    summary, records = repair(world, world.bucket, dry_run=True)
    assert summary.counts["repaired"] == 3
    assert {record.render_id for record in records if isinstance(record, Planned)} == {render_id(n) for n in (1, 2, 3)}
    assert not world.asset(3).exists()
    assert held(world) == {}
    assert world.archive.catalog.count_damaged(world.archive.select()) == 3


def test_an_unreadable_file_is_replaced_and_its_finding_kept(world: World) -> None:
    world.asset(1).unlink()
    world.asset(1).symlink_to(world.asset(1).name)
    summary_of(verify_assets(world.archive))
    assert repair(world, world.bucket)[0].counts["repaired"] == 1
    assert [(copy.verdict, copy.sha256) for copy in held(world).values()] == [("not-a-file", None)]
    all_is_well(world)


@pytest.mark.parametrize("make", NOT_FILES.values(), ids=list(NOT_FILES))
def test_what_is_not_a_file_goes_to_the_quarantine_and_heals(world: World, make: Callable[[Path], object]) -> None:
    world.asset(1).unlink()
    make(world.asset(1))
    world.asset(3).unlink()
    assert summary_of(verify_assets(world.archive)).counts["not-a-file"] == 1
    assert repair(world, world.bucket)[0].counts["repaired"] == 2
    [copy] = held(world).values()
    assert "was in its place" in (copy.detail or "")
    all_is_well(world)
    list(drop_quarantined(world.archive, [copy.name]))
    assert list((world.archive.path / "quarantine").iterdir()) == []


def test_a_folder_that_holds_another_asset_is_left_where_it_is(world: World) -> None:
    below = f"{render(1)['asset_key']}/below.pdf"
    body = world.asset(2).read_bytes()
    world.asset(1).unlink()
    put(Path(world.archive.store.address), below, body)
    world.archive.catalog._query("UPDATE assets SET key = ? WHERE render_id = ?", (below, render_id(2)))
    world.asset(3).unlink()
    summary_of(verify_assets(world.archive))
    summary, _ = repair(world, world.bucket)
    assert (summary.counts["repaired"], summary.counts["refused"]) == (1, 1)
    assert Path(world.archive.store.address, below).read_bytes() == body


@pytest.mark.parametrize("length", [245, 250, 251])
def test_a_name_that_is_too_long_for_its_note_stops_nothing(world: World, length: int) -> None:
    key = f"renders/{'n' * (length - 2)}\u00e9.pdf"
    source = put(world.bucket, key, world.asset(1).read_bytes())
    world.asset(1).unlink()
    put(Path(world.archive.store.address), key, b"damaged")
    world.archive.catalog._query("UPDATE assets SET key = ? WHERE render_id = ?", (key, render_id(1)))
    world.asset(2).write_bytes(b"damaged too")
    summary_of(verify_assets(world.archive))
    assert repair(world, world.bucket)[0].counts["repaired"] == 2
    copy = held(world)[key]
    assert (world.archive.path / "quarantine" / copy.name).read_bytes() == b"damaged"
    assert Path(world.archive.store.address, key).read_bytes() == source.read_bytes()


def test_what_a_killed_repair_left_is_removed_by_the_next(world: World) -> None:
    damage(world)
    for folder in (Path(world.archive.store.address), world.archive.path / "quarantine"):
        put(folder, f".incoming/{'0123' * 8}", b"half a PDF")
    repair(world, world.bucket)
    assert not list(world.archive.path.rglob(".incoming"))


@pytest.mark.parametrize("asked", range(14))
def test_a_stop_in_the_middle_of_an_asset_leaves_it_as_it_was_or_repaired(world: World, asked: int) -> None:
    damage(world)
    assets = [world.asset(number) for number in (1, 2, 3)]
    before = [path.exists() and path.read_bytes() for path in assets]
    answers = iter([False] * asked)
    summary, _ = repair(world, world.bucket, stop=lambda: next(answers, True))
    changed = [path for path, body in zip(assets, before, strict=True) if (path.exists() and path.read_bytes()) != body]
    assert summary.counts["repaired"] == len(changed) == 3 - world.archive.catalog.count_damaged(world.archive.select())
    assert not list(world.archive.path.rglob(".incoming"))
    repair(world, world.bucket)
    assert len(held(world)) == sum(body is not False for body in before)
    all_is_well(world)


def test_the_store_itself_is_no_source(world: World) -> None:
    with pytest.raises(RequestError, match="own store"):
        repair(world, world.archive.store.address)
    for nowhere in ("nowhere", "n" * 300):
        with pytest.raises(StoreOfflineError):
            repair(world, world.folder / nowhere)
    assert command("repair", "", archive=world.archive.path).code == 2


def test_a_selection_narrows_it(world: World) -> None:
    damage(world)
    ids = world.folder / "ids.txt"
    ids.write_text(render_id(2))
    assert repair(world, world.bucket, selection=world.archive.select(ids=ids))[0].counts["repaired"] == 1
    assert world.archive.catalog.count_damaged(world.archive.select()) == 2


# --- the quarantine --------------------------------------------------------------------------------------------------


def test_what_is_held_can_be_listed_and_dropped_once_its_asset_is_good(world: World) -> None:
    damage(world)
    repair(world, world.bucket)
    assert summary_of(list_quarantine(world.archive)).counts == {"held": 2}
    names = [copy.name for copy in held(world).values()]
    world.asset(2).unlink()
    with pytest.raises(RequestError, match="still bad"):
        list(drop_quarantined(world.archive, names))
    assert len(held(world)) == 2
    assert summary_of(drop_quarantined(world.archive, names, force=True)).counts == {"dropped": 2}
    assert held(world) == {}
    assert list((world.archive.path / "quarantine").iterdir()) == []
    with pytest.raises(RequestError, match="quarantine list"):
        list(drop_quarantined(world.archive, names))


def test_a_damaged_copy_goes_back_only_where_there_is_nothing(world: World) -> None:
    damage(world)
    bad = world.asset(1).read_bytes()
    repair(world, world.bucket)
    name = held(world)[render(1)["asset_key"]].name
    with pytest.raises(RequestError, match="at least as good"):
        list(restore_quarantined(world.archive, [name]))
    world.asset(1).unlink()
    records = list(restore_quarantined(world.archive, [name]))
    assert [record.verdict for record in records if isinstance(record, Finding)] == ["wrong-digest"]
    assert world.asset(1).read_bytes() == bad
    assert render(1)["asset_key"] not in held(world)


def test_a_copy_that_was_right_after_all_replaces_what_is_wrong(world: World) -> None:
    damage(world)
    repair(world, world.bucket)
    copy = held(world)[render(1)["asset_key"]]
    kept = world.archive.path / "quarantine" / copy.name
    note = kept.with_name(f"{kept.name}.finding.json")
    kept.write_bytes(pdf("render 1"))
    note.write_text(note.read_text().replace(copy.sha256, copy.expected))
    world.asset(1).write_bytes(b"rotten again")
    assert summary_of(restore_quarantined(world.archive, [copy.name])).counts["restored"] == 1
    all_is_well(world)
    assert [kept.verdict for kept in held(world).values() if kept.key == copy.key] == ["wrong-digest"]


def test_a_copy_that_rotted_in_the_quarantine_is_not_put_back(world: World) -> None:
    damage(world)
    repair(world, world.bucket)
    copy = held(world)[render(1)["asset_key"]]
    (world.archive.path / "quarantine" / copy.name).write_bytes(b"rotten")
    world.asset(1).unlink()
    with pytest.raises(RequestError, match="has changed"):
        list(restore_quarantined(world.archive, [copy.name]))
    assert not world.asset(1).exists()


def test_copies_are_kept_while_others_are_dropped(world: World) -> None:
    """Lanes share the folders of the quarantine."""
    quarantine = Quarantine(world.archive.path)

    def keep_and_drop(turn: int) -> None:
        finding = Finding(run_id=1, render_id="", key=f"renders/{turn}.pdf", verdict="missing", found_at="")
        quarantine.drop(quarantine.keep(world.archive.store, finding))

    map_threads(keep_and_drop, range(100), 8)
    quarantine.tidy()
    assert list((world.archive.path / "quarantine").iterdir()) == []


def test_a_note_leads_nowhere_else_and_a_damaged_one_is_named(world: World) -> None:
    damage(world)
    repair(world, world.bucket)
    copy = held(world)[render(1)["asset_key"]]
    note = world.archive.path / "quarantine" / f"{copy.name}.finding.json"
    note.write_text(note.read_text().replace(copy.name, "../precious"))
    precious = world.archive.path / "precious"
    precious.write_text("precious")
    assert held(world)[copy.key].name == copy.name
    summary_of(drop_quarantined(world.archive, [copy.name]))
    assert precious.exists()
    put(note.parent, note.name, b'{"name')
    done = command("quarantine", "list", archive=world.archive.path)
    assert (done.code, note.name in done.err) == (2, True)


def test_the_commands_say_what_they_do(world: World) -> None:
    damage(world)
    path = world.archive.path
    assert command("repair", world.bucket, "--dry-run", archive=path).code == 0
    assert command("repair", world.bucket, archive=path).code == 0
    listed = command("--json", "quarantine", "list", archive=path)
    assert [line["type"] for line in listed.lines] == ["held", "held", "summary"]
    names = [line["name"] for line in listed.lines[:2]]
    assert command("quarantine", "restore", names[0], archive=path).code == 2
    assert command("quarantine", "drop", *names, archive=path).code == 0
    assert command("verify", archive=path).code == 0


def _store(world: World) -> Path:
    return Path(world.archive.store.address)


def _hide(world: World) -> None:
    world.asset(1).unlink()
    world.asset(1).mkdir()


def _fill_with_another(world: World) -> None:
    """Let a folder lie in an asset's place in which another asset is recorded."""
    world.asset(1).unlink()
    row = render(30, asset_key=f"{render(1)['asset_key']}/inner.pdf")
    load(world.archive, world.folder, "renders", [row])
    other = NewAsset(row["id"], row["asset_key"], 3, "0" * 64, "first-read", "x", world.archive.now())
    world.archive.catalog.add_assets([other])
    put(Path(world.archive.store.address), row["asset_key"], b"abc")


def _put_file_over_folder(world: World) -> None:
    folder = world.asset(1).parent
    shutil.rmtree(folder)
    folder.write_bytes(b"no folder")


@pytest.mark.long
@pytest.mark.parametrize(
    "damage",
    [
        lambda world: world.asset(1).unlink(),
        lambda world: world.asset(1).write_bytes(b"wrong"),
        lambda world: [folder.joinpath(render(1)["asset_key"]).unlink() for folder in (world.bucket, _store(world))],
        lambda world: shutil.rmtree(world.asset(1).parent),
        _hide,
        _fill_with_another,
        _put_file_over_folder,
    ],
    ids=["missing", "wrong", "no-copy", "no-folder", "folder-in-place", "folder-of-others", "file-over-folder"],
)
def test_a_dry_run_says_what_the_real_one_does(world: World, damage: Callable[[World], object]) -> None:
    damage(world)
    summary_of(verify_assets(world.archive))

    def ran(*more: str) -> tuple[int, dict[str, int]]:
        done = command("--json", "repair", world.bucket, *more, archive=world.archive.path)
        return done.code, done.lines[-1]["counts"]

    foreseen = ran("--dry-run")
    assert foreseen == ran()
