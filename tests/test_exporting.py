"""Export: complete, or it says exactly what it lacks; and anyone can check it without this program."""

import csv
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from craftkit_archive.archive import Archive
from craftkit_archive.catalog import ExportRow
from craftkit_archive.errors import LockedError, NoSpaceError, NotWritableError, RequestError, StoreOfflineError
from craftkit_archive.exporting import INDEX, MANIFEST, MARKER, MISSING, export_assets, path_of, safe_name
from craftkit_archive.fetching import fetch_assets
from craftkit_archive.folder import INCOMING, FolderStore
from craftkit_archive.records import Planned, Record, Skipped, Summary
from tests.worlds import (
    NORTHWIND,
    SOUTHWIND,
    World,
    fill,
    load,
    needs,
    pdf,
    projects,
    put,
    render,
    render_id,
    summary_of,
)


def export(world: World, target: Path, **options: Any) -> tuple[Summary, list[Record]]:
    records = list(export_assets(world.archive, target, **options))
    assert isinstance(records[-1], Summary)
    counts = records[-1].counts
    assert counts["selected"] == counts["written"] + counts["unchanged"] + counts["not_stored"] + counts["failed"]
    return records[-1], records[:-1]


def prove(target: Path) -> None:
    """Check an export as a person without this program would: every file listed, every digest right."""
    done = subprocess.run(
        [needs("sha256sum"), "--check", "--strict", "--quiet", MANIFEST], cwd=target, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    listed = {line.split("  ", 1)[1] for line in (target / MANIFEST).read_text().splitlines()}
    found = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert found - listed <= {MANIFEST, INDEX, MISSING, MARKER}
    assert {row["path"] for row in table(target / INDEX)} == listed


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_an_export_proves_itself(world: World, tmp_path: Path) -> None:
    target = tmp_path / "out"
    summary, _ = export(world, target)
    assert (summary.outcome, summary.counts["written"]) == ("ok", 5)
    prove(target)
    assert not (target / MISSING).exists()
    assert not (target / INCOMING).exists()
    row = table(target / INDEX)[3]
    assert row["path"] == f"northwind/2026/06/{render_id(3)}.pdf"
    assert (target / row["path"]).read_bytes() == world.asset(3).read_bytes()
    assert (row["render_id"], row["project_id"], row["status"]) == (render_id(3), NORTHWIND, "succeeded")
    assert row["created_at"] == "2026-06-05T10:00:00.120Z"


def test_a_repeated_export_touches_nothing_and_adds_the_new(world: World, tmp_path: Path) -> None:
    target = tmp_path / "out"
    export(world, target)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*.pdf")}
    put(world.bucket, render(20)["asset_key"], pdf("new"))
    load(world.archive, world.folder, "renders", [render(20)])
    summary_of(fetch_assets(world.archive, str(world.bucket)))
    summary, _ = export(world, target)
    assert (summary.counts["unchanged"], summary.counts["written"]) == (5, 1)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    prove(target)


def test_a_file_that_was_damaged_in_the_export_is_written_again(world: World, tmp_path: Path) -> None:
    target = tmp_path / "out"
    export(world, target)
    damaged = next(target.rglob("*.pdf"))
    damaged.write_bytes(b"damaged")
    summary, _ = export(world, target)
    assert (summary.counts["unchanged"], summary.counts["written"]) == (4, 1)
    prove(target)


def test_what_is_damaged_or_gone_is_left_out_and_named(world: World, tmp_path: Path) -> None:
    body = bytearray(world.asset(1).read_bytes())
    body[len(body) // 2] ^= 1
    world.asset(1).write_bytes(body)
    world.asset(2).unlink()
    target = tmp_path / "out"
    summary, records = export(world, target)
    assert (summary.outcome, summary.counts["written"], summary.counts["failed"]) == ("problems", 3, 2)
    assert [record.render_id for record in records if isinstance(record, Skipped)] == [render_id(1), render_id(2)]
    rows = table(target / MISSING)
    assert [(row["render_id"], row["reason"]) for row in rows] == [(render_id(1), "failed"), (render_id(2), "failed")]
    assert "damaged" in rows[0]["detail"]
    prove(target)
    world.asset(1).write_bytes((world.bucket / render(1)["asset_key"]).read_bytes())
    world.asset(2).write_bytes((world.bucket / render(2)["asset_key"]).read_bytes())
    assert export(world, target)[0].outcome == "ok"
    assert not (target / MISSING).exists(), "nothing is lacking any more"


def test_what_was_never_stored_is_named_and_makes_it_incomplete(world: World, tmp_path: Path) -> None:
    load(world.archive, world.folder, "renders", [render(20)])
    summary, _ = export(world, tmp_path / "out")
    assert (summary.outcome, summary.counts["not_stored"]) == ("incomplete", 1)
    assert [row["reason"] for row in table(tmp_path / "out" / MISSING)] == ["not-stored"]


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
        export(world, tmp_path / name, selection=world.archive.select(**selection))
        return [row["render_id"] for row in table(tmp_path / name / INDEX)]

    assert exported("a", projects=("southwind",)) == [render_id(20), render_id(21)]
    assert exported("b", projects=("southwind",), until="2026-01-31") == [render_id(20)]
    assert exported("c", projects=("southwind", NORTHWIND), since="2026-02-01", until="2026-03-01") == [render_id(21)]
    assert exported("d", template_id="contract") == [render_id(21)]
    with pytest.raises(RequestError, match="northwind, southwind"):
        exported("e", since="2030-01-01")
    assert not (tmp_path / "e").exists()


def test_several_processes_write_the_same_as_one(tmp_path: Path) -> None:
    world = fill(tmp_path, count=200)
    export(world, tmp_path / "one", jobs=1)
    export(world, tmp_path / "two", jobs=2)
    prove(tmp_path / "two")
    for name in (MANIFEST, INDEX):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_dry_run_prints_the_plan_and_writes_nothing(world: World, tmp_path: Path) -> None:
    summary, records = export(world, tmp_path / "out", dry_run=True)
    planned = [record for record in records if isinstance(record, Planned)]
    assert summary.counts["written"] == 5 == len(planned)
    assert planned[0].path == f"northwind/2026/06/{render_id(0)}.pdf"
    assert planned[0].size_bytes == world.asset(0).stat().st_size
    assert not (tmp_path / "out").exists()


def test_the_archive_is_only_read(world: World, tmp_path: Path) -> None:
    world.archive.catalog.close()
    before = (world.archive.path / "archive.db").read_bytes()
    with Archive(world.archive.path, read_only=True) as archive:
        summary_of(export_assets(archive, tmp_path / "out"))
    assert (world.archive.path / "archive.db").read_bytes() == before


def test_a_folder_that_no_export_made_is_left_alone(world: World, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
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
    for target in (tmp_path / "mine", bag, fetching, world.archive.path, store, store / "out"):
        with pytest.raises(RequestError):
            export(world, target)
    for target in (tmp_path / "file", tmp_path / "file" / "below", loop):
        with pytest.raises(NotWritableError):
            export(world, target)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    assert (bag / MANIFEST).read_text() == "0  data/a.txt\n"
    assert (fetching / INCOMING / ("0" * 32)).exists()


def test_an_export_that_was_killed_at_its_beginning_goes_on(world: World, tmp_path: Path) -> None:
    (tmp_path / "out" / INCOMING).mkdir(parents=True)
    (tmp_path / "out" / INCOMING / "archive.lock").write_text("{}")
    assert export(world, tmp_path / "out")[0].outcome == "ok"
    prove(tmp_path / "out")
    assert not (tmp_path / "out" / INCOMING).exists()


def test_an_export_of_something_else_is_left_alone(world: World, tmp_path: Path) -> None:
    target = tmp_path / "out"
    export(world, target)
    before = (target / MANIFEST).read_bytes()
    with pytest.raises(RequestError, match="something else"):
        export(world, target, selection=world.archive.select(projects=("northwind",)))
    with pytest.raises(RequestError, match="something else"):
        export(fill(tmp_path / "other"), target)
    assert (target / MANIFEST).read_bytes() == before


def test_two_exports_do_not_write_to_one_folder(world: World, tmp_path: Path) -> None:
    target = tmp_path / "out"
    first = export_assets(world.archive, target)
    next(first)
    next(first)
    with pytest.raises(LockedError, match="`export`"):
        export(world, target)
    assert summary_of(first).outcome == "ok"
    prove(target)


def test_an_export_that_is_made_again_has_no_manifest_until_it_is_whole(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    export(world, target)
    real = FolderStore.write

    def full(store: FolderStore, key: str, *given: Any, **more: Any) -> Any:
        if key == INDEX:
            raise NoSpaceError("full")
        return real(store, key, *given, **more)

    monkeypatch.setattr(FolderStore, "write", full)
    with pytest.raises(NoSpaceError):
        export(world, target)
    assert not (target / MANIFEST).exists()
    monkeypatch.undo()
    assert export(world, target)[0].counts["unchanged"] == 5
    prove(target)


def test_a_store_that_is_not_there_writes_nothing(world: World, tmp_path: Path) -> None:
    Path(world.archive.store.address).rename(tmp_path / "unmounted")
    with pytest.raises(StoreOfflineError):
        export(world, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_export_has_no_manifest_and_goes_on(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("craftkit_archive.exporting.BATCH", 1)
    monkeypatch.setattr("craftkit_archive.work.AHEAD", 1)
    answers = iter([False, False])
    target = tmp_path / "out"
    summary, _ = export(world, target, stop=lambda: next(answers, True))
    assert summary.outcome == "interrupted"
    assert 0 < summary.counts["written"] < 5
    assert not (target / MANIFEST).exists()
    again, _ = export(world, target)
    assert again.outcome == "ok"
    assert again.counts["unchanged"] == summary.counts["written"]
    prove(target)


def test_a_full_disk_is_a_clear_error_and_the_next_export_goes_on(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = os.link, []

    def link(path: str, target: str) -> None:
        made.append(target)
        if len(made) > 2:
            raise OSError(28, os.strerror(28))
        real(path, target)

    def rename(path: str, target: str) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(os, "rename", lambda *given: rename(*given) if made[2:] else real(*given))
    with pytest.raises(NoSpaceError):
        export(world, tmp_path / "out")
    monkeypatch.undo()
    assert len(list((tmp_path / "out").rglob("*.pdf"))) == 2
    assert export(world, tmp_path / "out")[0].counts["unchanged"] == 2
    prove(tmp_path / "out")


def test_no_cell_is_a_formula(world: World, tmp_path: Path) -> None:
    load(world.archive, world.folder, "projects", [{**projects()[0], "slug": "=cmd|' /C calc'!A0"}])
    load(world.archive, world.folder, "renders", [render(20, template_id="@SUM(1)")])
    export(world, tmp_path / "out")
    for name in (INDEX, MISSING):
        cells = [cell for row in table(tmp_path / "out" / name) for cell in row.values()]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    prove(tmp_path / "out")


# --- names -----------------------------------------------------------------------------------------------------------


@given(st.text(max_size=300))
def test_a_safe_name_is_good_on_every_system(text: str) -> None:
    name = safe_name(text)
    assert 0 < len(name.encode()) <= 120
    assert not set(name) & set('<>:"/\\|?*%\r\n\0')
    assert name[-1] not in ". "
    assert name[0] not in ".~ "
    assert name.split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt1"}


@given(st.lists(st.text(max_size=20), unique=True, max_size=10))
def test_different_names_stay_different_even_where_case_is_ignored(texts: list[str]) -> None:
    assert len({safe_name(text).casefold() for text in texts}) == len(texts)


@pytest.mark.parametrize(
    "pair", [("A", "a"), ("CON", "con"), ("straße", "strasse"), ("\u00e9", "e\u0301"), ("a.", "a")]
)
def test_names_that_some_systems_take_for_one_stay_apart(pair: tuple[str, str]) -> None:
    assert safe_name(pair[0]).casefold() != safe_name(pair[1]).casefold()


def test_a_plain_id_keeps_its_name() -> None:
    row = ExportRow(render_id(1), NORTHWIND, None, None, "succeeded", None, None, "k", 1, None)
    assert path_of(row) == f"{NORTHWIND}/undated/{render_id(1)}.pdf"
