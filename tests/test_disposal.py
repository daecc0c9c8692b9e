"""Disposal: what must go is gone, what must stay stays, and the dead stay dead."""

import csv
import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from craftkit_archive.archive import CATALOG, Archive
from craftkit_archive.catalog.rows import Selection
from craftkit_archive.disposal.run import dispose_renders
from craftkit_archive.doctor import examine_archive
from craftkit_archive.errors import NotWritableError, RequestError
from craftkit_archive.export.run import export_assets
from craftkit_archive.fetch.run import fetch_assets
from craftkit_archive.records import Diagnosis, Finding, Keeping
from craftkit_archive.repair.quarantine import Quarantine
from craftkit_archive.report.gather import WRITERS, gather_report
from craftkit_archive.retention.rules import place_hold, release_hold
from craftkit_archive.stores.folder import FolderStore
from craftkit_archive.tombstones import DISPOSED_FILE
from craftkit_archive.verify.fixity import Seen, Task, check_assets
from craftkit_archive.verify.run import verify_assets
from tests.test_states import states
from tests.worlds import (
    LIVE_KEY,
    NORTHWIND,
    Done,
    World,
    command,
    fill,
    live,
    load,
    needs,
    pdf,
    projects,
    put,
    render,
    render_id,
    summary_of,
    write_ndjson,
)

PERSON = "Zebulon Quillfeather"
PLAIN = f"renders/{NORTHWIND}/{render_id(1)}.pdf"


def at(world: World, *words: str | Path) -> Done:
    return command(*words, archive=world.archive.path)


def dispose(world: World, *numbers: int, code: int = 0) -> list[dict[str, Any]]:
    ids = world.folder / "dispose.txt"
    ids.write_text("".join(f"{render_id(number)}\n" for number in numbers))
    done = at(world, "--json", "dispose", "--ids", ids, "--reason", "a request")
    assert done.code == code, (done.out, done.err)
    return done.lines


def personal_world(folder: Path) -> World:
    """Return an archive in which a person's name is wherever one can be: in keys, fields, findings, copies."""
    key = f"renders/{NORTHWIND}/{PERSON}/invoice.pdf"
    world = fill(folder, count=3)
    row = render(7, asset_key=key, error_message=f"late for {PERSON}", input_data={"name": PERSON})
    put(world.bucket, key, pdf("seven"))
    load(world.archive, folder, "renders", [row])
    assert at(world, "fetch", world.bucket).code == 0
    stored = Path(world.archive.store.address, key)
    stored.write_bytes(b"%PDF-1.4 damaged")
    assert at(world, "verify").code == 1
    assert at(world, "repair", world.bucket).code == 0
    held = at(world, "--json", "quarantine", "list").lines[0]["name"]
    stored.unlink()
    assert at(world, "quarantine", "restore", held).code == 0  # a run whose arguments have the key
    assert at(world, "verify").code == 1
    assert at(world, "repair", world.bucket).code == 0
    world.archive.catalog.close()
    return world


def remnants(folder: Path, word: str = PERSON) -> list[str]:
    """Return the files below a folder that hold a word, or are called by it."""
    return [
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if word in str(file.relative_to(folder)) or (file.is_file() and word.encode() in file.read_bytes())
    ]


def test_what_names_the_dead_is_on_the_disk_before_their_bytes_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill cannot show this, since the system still writes what a killed process wrote; a power cut can."""
    world = fill(tmp_path, count=3)
    steps: list[str] = []
    real_fsync, real_unlink = os.fsync, os.unlink

    def fsync(descriptor: int) -> None:
        steps.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real_fsync(descriptor)

    def unlink(path: Any, *given: Any, **named: Any) -> None:
        steps.append(f"unlink {Path(path).name}")
        real_unlink(path, *given, **named)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "unlink", unlink)
    ids = Selection(render_ids=(render_id(1),))
    assert summary_of(dispose_renders(world.archive, "a request", selection=ids)).counts["disposed"] == 1
    gone = steps.index(f"unlink {render_id(1)}.pdf")
    assert DISPOSED_FILE in steps[:gone]
    assert world.archive.path.name in steps[:gone], "the name of the new file"
    assert NORTHWIND in steps[gone:], "and that the bytes have gone"


def test_a_disposed_render_leaves_a_tombstone_and_no_byte(world: World) -> None:
    body = world.asset(1).read_bytes()
    assert body
    lines = dispose(world, 1, 2)
    assert [line["type"] for line in lines[:-1]] == ["tombstone", "tombstone"]
    stone = lines[0]
    assert (stone["render_id"], stone["project_id"], stone["size_bytes"]) == (render_id(1), NORTHWIND, len(body))
    assert (stone["policy"], stone["remains"]) == ("ids", None)
    assert lines[-1]["counts"]["disposed"] == 2
    assert not world.asset(1).exists()
    assert world.asset(3).exists()
    assert states(world)[render_id(1)] == "disposed"
    listed = at(world, "renders", "list", "--disposed", "--format", "ids").out.split()
    assert listed == [render_id(1), render_id(2)]
    assert "2 disposed" in at(world, "status").err
    assert at(world, "verify").code == 0
    file = world.archive.path / DISPOSED_FILE
    assert [json.loads(line)["render_id"] for line in file.read_text().splitlines()] == listed
    assert file.stat().st_mode & 0o777 == 0o600


def test_nothing_about_a_person_stays(tmp_path: Path) -> None:
    world = personal_world(tmp_path)
    assert len(remnants(world.archive.path)) >= 3
    before = (world.archive.path / "audit.ndjson").read_bytes()
    assert PERSON.encode() not in before
    dispose(world, 7)
    assert remnants(world.archive.path) == []
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as catalog:
        assert PERSON not in "".join(catalog.iterdump())


def test_nothing_stays_of_what_an_import_replaced_before_the_disposal(world: World) -> None:
    rows = [render(number, error_message=f"{PERSON} {number}", input_data={"name": PERSON * 9}) for number in range(40)]
    load(world.archive, world.folder, "renders", rows)
    other = [render(number, error_message="-", input_data={"name": "x" * 900}) for number in range(40)]
    load(world.archive, world.folder, "renders", other)
    dispose(world, 1)
    world.archive.catalog.close()
    assert remnants(world.archive.path) == []


def test_the_reason_is_in_the_audit_log_alone(world: World) -> None:
    ids = world.folder / "ids.txt"
    ids.write_text(render_id(1))
    done = at(world, "dispose", "--ids", ids, "--reason", "a very particular reason", "--by", "Anna")
    assert done.code == 0
    assert "audit log" in done.err
    assert "person" in done.err
    assert remnants(world.archive.path, "a very particular reason") == [CATALOG, "audit.ndjson"]
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as catalog:
        [(text,)] = catalog.execute("SELECT group_concat(details) FROM events WHERE what = 'dispose'")
        assert "a very particular reason" in text
        catalog.execute("DELETE FROM events")
        assert "a very particular reason" not in "".join(catalog.iterdump())
    [stone] = [json.loads(line) for line in (world.archive.path / DISPOSED_FILE).read_text().splitlines()]
    assert stone["by"] == "Anna"


def test_a_held_render_is_not_disposed_and_a_released_one_is(world: World) -> None:
    assert at(world, "hold", "place", "--name", "h", "--reason", "r", "--since", "1990-01-01").code == 0
    lines = dispose(world, 1, code=3)
    assert lines[-1]["counts"] == {"disposed": 0, "held": 1, "finished": 0}
    assert world.asset(1).exists()
    assert at(world, "retention", "set", "--default", "--keep", "1d").code == 0
    later = Archive(world.archive.path, clock=lambda: world.archive.clock().replace(year=2090))
    assert summary_of(dispose_renders(later, "due")).counts["held"] == 5
    assert at(world, "hold", "release", "h", "--reason", "r").code == 0
    assert summary_of(dispose_renders(later, "due")).counts["disposed"] == 5
    assert not list(Path(world.archive.store.address, "renders").rglob("*.pdf"))


def test_a_dry_run_changes_nothing_and_says_what_would_be_done(world: World) -> None:
    ids = world.folder / "ids.txt"
    ids.write_text(f"{render_id(1)}\n{render_id(99)}\n")
    done = at(world, "--json", "dispose", "--ids", ids, "--reason", "r", "--dry-run")
    assert done.code == 3
    assert done.lines[-1]["counts"]["disposed"] == 1
    assert world.asset(1).exists()
    assert not (world.archive.path / DISPOSED_FILE).exists()


@pytest.mark.parametrize("words", [["--due"], ["--ids", "x.txt"]])
def test_due_or_ids_and_a_reason_are_needed(world: World, words: list[str]) -> None:
    assert at(world, "dispose", *words).code == 2
    assert at(world, "dispose", *words, "--reason", " ").code == 2
    assert at(world, "dispose", "--reason", "r").code == 2
    assert at(world, "dispose", "--due", "--ids", "x", "--reason", "r").code == 2


def test_a_pdf_that_two_renders_name_goes_with_its_own_alone(world: World) -> None:
    """A render whose key is another's PDF, and that was never stored, does not take that PDF away."""
    load(world.archive, world.folder, "renders", [render(8, asset_key=render(1)["asset_key"])])
    dispose(world, 8)
    assert world.asset(1).exists()
    assert summary_of(verify_assets(world.archive)).outcome == "ok"


def test_bytes_that_somebody_put_back_are_extra_and_go_with_the_next_disposal(world: World) -> None:
    body = world.asset(1).read_bytes()
    dispose(world, 1)
    world.asset(1).parent.mkdir(exist_ok=True)
    world.asset(1).write_bytes(body)
    done = at(world, "--json", "verify")
    assert [line["verdict"] for line in done.lines if line["type"] == "finding"] == ["orphan"]
    assert at(world, "fetch").code == 0
    assert states(world)[render_id(1)] == "disposed"
    assert dispose(world, 1)[-1]["counts"]["already"] == 1
    assert not world.asset(1).exists()


# --- the dead stay dead ----------------------------------------------------------------------------------------------


def is_dead(world: World, number: int = 1) -> bool:
    """Say whether nothing of a render can be had: by the server, an export, a fetch, or in the store."""
    path = world.archive.path
    with Archive(path) as archive:
        if archive.catalog.states_of([render_id(number)])[render_id(number)] != "disposed":
            return False
        with live(archive) as url:
            request = urllib.request.Request(f"{url}/v1/renders/{render_id(number)}/download")
            request.add_header("Authorization", f"Bearer {LIVE_KEY}")
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=10)
            body = json.loads(refused.value.read())
            refused.value.close()
            assert refused.value.code == 409
            assert body["error"]["code"] == "conflict"
            assert "succeeded" in body["error"]["message"]
            assert "disposed" in body["error"]["message"]
    assert at(world, "fetch", world.bucket).code == 0
    out = world.folder / f"out-{os.urandom(4).hex()}"
    assert at(world, "export", out).code == 0
    assert not list(out.rglob(f"{render_id(number)}.pdf"))
    with (out / "missing.csv").open() as file:
        assert [row["reason"] for row in csv.DictReader(file) if row["render_id"] == render_id(number)] == ["disposed"]
    assert at(world, "export-check", out).code == 0
    return not list(path.rglob(f"{render_id(number)}.pdf"))


@pytest.mark.long
def test_import_fetch_and_repair_bring_nothing_back(tmp_path: Path) -> None:
    world = personal_world(tmp_path)
    dispose(world, 1, 7)
    rows = [render(1, error_message=PERSON, sha256="a" * 64), render(7, error_message=PERSON, asset_key=PERSON)]
    counts = load(world.archive, tmp_path, "renders", rows).counts
    assert (counts["read"], counts["disposed"], counts["inserted"], counts["updated"]) == (2, 2, 0, 0)
    assert at(world, "fetch", world.bucket).code == 0
    assert at(world, "fetch", world.bucket, "--ids", write_ids(world, 1, 7)).code == 0
    assert at(world, "repair", world.bucket).code == 0
    assert is_dead(world, 1)
    assert is_dead(world, 7)
    world.archive.catalog.close()
    assert remnants(world.archive.path) == []


def write_ids(world: World, *numbers: int) -> Path:
    file = world.folder / "some.txt"
    file.write_text("".join(f"{render_id(number)}\n" for number in numbers))
    return file


@pytest.fixture
def older(tmp_path: Path) -> tuple[World, Path, Path]:
    """Return an archive that has disposed a render, an older catalog of it, and an older store."""
    world = personal_world(tmp_path)
    backup, store = tmp_path / "older.db", tmp_path / "older-store"
    assert at(world, "backup", backup).code == 0
    shutil.copytree(world.archive.store.address, store)
    dispose(world, 1, 7)
    world.archive.catalog.close()
    return world, backup, store


def put_back(world: World, backup: Path) -> None:
    for file in world.archive.path.glob(f"{CATALOG}*"):
        file.unlink()
    shutil.copyfile(backup, world.archive.path / CATALOG)


@pytest.mark.long
def test_an_older_catalog_is_brought_up_to_date_and_says_so(older: tuple[World, Path, Path]) -> None:
    world, backup, store = older
    put_back(world, backup)
    shutil.rmtree(world.archive.store.address)
    shutil.copytree(store, world.archive.store.address)
    # Nothing that only reads gives the dead away meanwhile.
    with pytest.raises(RequestError, match=re.escape("older than disposed.ndjson")):
        Archive(world.archive.path, read_only=True)
    assert at(world, "export", world.folder / "never").code == 2
    assert not (world.folder / "never").exists()
    done = at(world, "verify")
    assert "2 renders that it did not know to be disposed" in done.err
    assert states(world)[render_id(1)] == "disposed"
    assert states(world)[render_id(7)] == "disposed"
    # The store was put back too: those bytes go with the next disposal, whatever it is about.
    assert at(world, "dispose", "--due", "--reason", "again").code == 0
    assert is_dead(world, 1)
    assert is_dead(world, 7)
    assert at(world, "audit", "verify").code == 0
    with Archive(world.archive.path, read_only=True) as archive:
        assert "dispose again" in [event.what for event in archive.catalog.events()]
    assert remnants(world.archive.path) == []


@pytest.mark.long
def test_a_restored_backup_knows_the_dead_at_once(older: tuple[World, Path, Path]) -> None:
    world, backup, _ = older
    done = at(world, "--json", "restore", backup)
    assert done.lines[-1]["counts"]["disposed"] == 2
    assert states(world)[render_id(7)] == "disposed"
    # Where its bytes may be, stands in the tombstone until a disposal has looked there.
    assert at(world, "dispose", "--due", "--reason", "again").code == 0
    assert remnants(world.archive.path) == []
    assert is_dead(world, 1)
    assert is_dead(world, 7)


@pytest.mark.long
def test_a_rebuilt_catalog_knows_the_dead(older: tuple[World, Path, Path]) -> None:
    world, _, store = older
    shutil.rmtree(world.archive.store.address)
    shutil.copytree(store, world.archive.store.address)
    for file in world.archive.path.glob(f"{CATALOG}*"):
        file.unlink()
    key = f"renders/{NORTHWIND}/{PERSON}/invoice.pdf"
    rows = [*(render(number) for number in range(3)), render(7, asset_key=key, error_message=PERSON)]
    files = {"--renders": write_ndjson(world.folder / "r.ndjson", rows)}
    files["--projects"] = write_ndjson(world.folder / "p.ndjson", projects())
    files["--keys"] = world.folder / "keys.ndjson"
    done = at(world, "rebuild", *(word for pair in files.items() for word in pair))
    assert done.code in (0, 3), done.err
    assert states(world)[render_id(7)] == "disposed"
    assert at(world, "dispose", "--due", "--reason", "again").code == 0
    assert is_dead(world, 1)
    assert is_dead(world, 7)
    assert remnants(world.archive.path) == []


@pytest.mark.long
@pytest.mark.parametrize("how", ["older catalog", "restore", "rebuild"])
def test_the_audit_log_alone_keeps_the_dead_dead(older: tuple[World, Path, Path], how: str) -> None:
    world, backup, store = older
    (world.archive.path / DISPOSED_FILE).unlink()
    shutil.rmtree(world.archive.store.address)
    shutil.copytree(store, world.archive.store.address)
    key = f"renders/{NORTHWIND}/{PERSON}/invoice.pdf"
    rows = [*(render(number) for number in range(3)), render(7, asset_key=key, error_message=PERSON)]
    renders = write_ndjson(world.folder / "r.ndjson", rows)
    if how == "older catalog":
        put_back(world, backup)
        assert at(world, "verify").code in (0, 1)
    elif how == "restore":
        assert at(world, "restore", backup).code in (0, 3)
    else:
        for file in world.archive.path.glob(f"{CATALOG}*"):
            file.unlink()
        files = [world.folder / f"{kind}.ndjson" for kind in ("projects", "keys")]
        words: list[str | Path] = ["--projects", files[0], "--keys", files[1], "--renders", renders]
        assert at(world, "rebuild", *words).code in (0, 3)
    assert at(world, "import", "renders", renders).code in (0, 3)
    assert at(world, "fetch", world.bucket).code in (0, 1, 3)
    assert at(world, "dispose", "--due", "--reason", "again").code == 0
    assert is_dead(world, 1)
    assert is_dead(world, 7)
    listed = [json.loads(line)["render_id"] for line in (world.archive.path / DISPOSED_FILE).read_text().splitlines()]
    assert sorted(listed) == [render_id(1), render_id(7)]
    assert at(world, "audit", "verify").code == 0


def test_a_hold_outlives_a_catalog_and_a_log_that_parted(tmp_path: Path) -> None:
    world = fill(tmp_path)
    backup, log = tmp_path / "older.db", world.archive.path / "audit.ndjson"
    for name in ("known", "over"):
        assert at(world, "hold", "place", "--name", name, "--reason", "r", "--ids", write_ids(world, 1)).code == 0
    assert at(world, "backup", backup).code == 0
    older = log.read_bytes()
    assert at(world, "hold", "place", "--name", "ids", "--reason", "r", "--ids", write_ids(world, 2)).code == 0
    assert at(world, "hold", "place", "--name", "gone", "--reason", "r", "--since", "2020-01-01").code == 0
    for name in ("gone", "known"):
        assert at(world, "hold", "release", name, "--reason", "r").code == 0
    world.archive.catalog.close()
    newer = log.read_bytes()
    # Restored without the log, used for a while, and then somebody finds the log.
    put_back(world, backup)
    log.write_bytes(older)
    assert at(world, "hold", "release", "over", "--reason", "r").code == 0
    log.write_bytes(newer)
    assert "Holds that only the file has are in force" in at(world, "verify").err
    in_force = [line["name"] for line in at(world, "--json", "hold", "list").lines[:-1] if not line.get("released_at")]
    assert in_force == ["ids", "known"]
    assert dispose(world, 1, 2, code=3)[-1]["counts"]["held"] == 2


def test_a_hold_outlives_an_older_and_a_lost_catalog(tmp_path: Path) -> None:
    world = fill(tmp_path)
    backup = tmp_path / "older.db"
    assert at(world, "backup", backup).code == 0
    assert at(world, "hold", "place", "--name", "ids", "--reason", "r", "--ids", write_ids(world, 1, 2)).code == 0
    assert at(world, "hold", "place", "--name", "rule", "--reason", "r", "--since", "2020-01-01").code == 0
    assert at(world, "hold", "place", "--name", "gone", "--reason", "r", "--template", "invoice").code == 0
    assert at(world, "hold", "release", "gone", "--reason", "r").code == 0
    assert at(world, "retention", "set", "--default", "--keep", "9y").code == 0
    expected = [at(world, "--json", words, "list").lines[:-1] for words in ("hold", "retention")]
    world.archive.catalog.close()
    put_back(world, backup)
    assert "in force again" in at(world, "verify").err

    def known() -> list[list[dict[str, Any]]]:
        found = [at(world, "--json", words, "list").lines[:-1] for words in ("hold", "retention")]
        for lines in [*expected, *found]:
            for line in lines:
                for name in ("placed_at", "released_at", "set_at"):
                    line[name] = bool(line.get(name))
        return found

    assert known() == expected
    for file in world.archive.path.glob(f"{CATALOG}*"):
        file.unlink()
    rows = write_ndjson(tmp_path / "r.ndjson", [render(number) for number in range(5)])
    assert at(world, "rebuild", "--renders", rows).code == 0
    assert known() == expected
    assert dispose(world, 1, 3, code=3)[-1]["counts"]["held"] == 2


def test_the_file_and_the_table_heal_each_other(world: World) -> None:
    dispose(world, 1, 2)
    file = world.archive.path / DISPOSED_FILE
    whole = file.read_bytes()
    for damaged in (b"", whole[:-30], whole.splitlines(keepends=True)[1], b"\x00\xff\n" + whole[:10]):
        file.write_bytes(damaged)
        assert at(world, "verify").code == 0
        ids = [json.loads(line)["render_id"] for line in file.read_bytes().splitlines() if line.startswith(b"{\"by")
               and line.endswith(b"}")]  # fmt: skip
        assert sorted(set(ids)) == [render_id(1), render_id(2)]
    file.unlink()
    assert at(world, "verify").code == 0
    assert len(file.read_bytes().splitlines()) == 2


# --- exports ---------------------------------------------------------------------------------------------------------


def test_an_export_that_holds_a_disposed_render_is_named_until_it_is_pruned(world: World) -> None:
    out, zipped = world.folder / "out", world.folder / "out.zip"
    other = world.folder / "other"
    for target in (out, zipped):
        assert at(world, "export", target).code == 0
    assert at(world, "export", other, "--ids", write_ids(world, 3)).code == 0
    lines = dispose(world, 1)
    named = {line["target"]: line["disposed"] for line in lines if line["type"] == "export-made"}
    assert named == {str(out): 1, str(zipped): 1}
    again = at(world, "--json", "export", out)
    assert again.code == 3
    assert again.lines[-1]["counts"]["kept_disposed"] == 1
    [skipped] = [line for line in again.lines if line["type"] == "skipped"]
    assert skipped["render_id"] == render_id(1)
    pruned = at(world, "--json", "export", out, "--prune")
    assert (pruned.code, pruned.lines[-1]["counts"]["pruned"]) == (0, 1)
    assert not list(out.rglob(f"{render_id(1)}.pdf"))
    assert at(world, "export-check", out).code == 0
    lines = dispose(world, 2)
    assert {line["target"] for line in lines if line["type"] == "export-made"} == {str(out), str(zipped)}
    assert at(world, "export", zipped).code == 0
    assert [line["target"] for line in dispose(world, 4) if line["type"] == "export-made"] == [str(out), str(zipped)]


def test_a_held_render_is_not_pruned_from_an_export(world: World) -> None:
    out = world.folder / "out"
    assert at(world, "export", out).code == 0
    assert at(world, "hold", "place", "--name", "h", "--reason", "r", "--ids", write_ids(world, 1)).code == 0
    done = at(world, "--json", "export", out, "--ids", write_ids(world, 3), "--prune")
    assert (done.lines[-1]["counts"]["pruned"], done.lines[-1]["counts"]["kept"]) == (3, 1)
    assert len(list(out.rglob(f"{render_id(1)}.pdf"))) == 1
    assert at(world, "export-check", out).code == 0


def test_hard_links_of_an_export_are_named_as_what_remains(world: World) -> None:
    assert at(world, "export", world.folder / "out", "--link").code == 0
    lines = dispose(world, 1, code=3)
    assert "1 other hard link" in lines[0]["remains"]
    assert lines[-1]["counts"]["remains"] == 1


def test_a_verification_under_way_does_not_miss_what_is_disposed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(task: Task) -> Seen:
        dispose(world, 1)
        world.asset(2).write_bytes(b"damaged")
        return check_assets(task)

    monkeypatch.setattr("craftkit_archive.verify.run.check_assets", slow)
    records = list(verify_assets(world.archive))
    assert [record.render_id for record in records if isinstance(record, Finding)] == [render_id(2)]
    assert summary_of(iter(records)).counts == {"checked": 4, "ok": 3, "not-a-pdf": 1}
    assert states(world)[render_id(2)] == "damaged"


@pytest.mark.long
def test_an_export_under_way_does_not_call_disposed_bytes_damaged(world: World) -> None:
    records = export_assets(world.archive, world.folder / "out")
    next(records)
    dispose(world, 1)
    counts = summary_of(records).counts
    assert (counts["failed"], counts["disposed"], counts["written"]) == (0, 1, 4)


def test_copies_in_the_quarantine_go_too(world: World) -> None:
    key = f"renders/{NORTHWIND}/{render_id(1)}.pdf"
    for run in (1, 2):
        Quarantine(world.archive.path).keep(
            FolderStore(Path(world.archive.store.address)),
            Finding(run, render_id(1) if run == 1 else None, key, "wrong-digest", world.archive.now()),
        )
    Quarantine(world.archive.path).keep(
        FolderStore(Path(world.archive.store.address)),
        Finding(1, render_id(2), render(2)["asset_key"], "wrong-digest", world.archive.now()),
    )
    dispose(world, 1)
    assert [held.render_id for held in Quarantine(world.archive.path).list()] == [render_id(2)]


# --- the certificate -------------------------------------------------------------------------------------------------


def test_the_certificate_says_what_was_disposed_and_is_signed(world: World) -> None:
    key = world.folder / "key"
    subprocess.run([needs("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    digest = hashlib.sha256(world.asset(1).read_bytes()).hexdigest()
    assert at(world, "export", world.folder / "<out>").code == 0
    assert at(world, "hold", "place", "--name", "h", "--reason", "r", "--ids", write_ids(world, 3)).code == 0
    file = world.folder / "certificate.html"
    words: list[str | Path] = ["--certificate", file, "--sign", key, "--by", "Anna <b>", "--reason", "a secret reason"]
    done = at(world, "--json", "dispose", "--ids", write_ids(world, 1, 2, 3), *words)
    assert done.code == 3
    names = ["certificate.html", "certificate.html.sig", "certificate.json", "certificate.json.sig"]
    assert sorted(Path(name).name for name in done.lines[-1]["details"]["certificate"]) == names
    said = json.loads((world.folder / "certificate.json").read_text())
    assert [stone["render_id"] for stone in said["disposed"]] == [render_id(1), render_id(2)]
    assert said["disposed"][0]["sha256"] == digest
    assert said["disposed"][0]["by"] == "Anna <b>"
    assert said["counts"] == {"disposed": 2, "held": 1}
    assert [export["target"] for export in said["exports_that_hold_any"]] == [str(world.folder / "<out>")]
    page = file.read_text()
    for text in (render_id(1), digest, "Anna &lt;b&gt;", "&lt;out&gt;", said["audit_head"]["hash"]):
        assert text in page
    assert hashlib.sha256((world.folder / "certificate.json").read_bytes()).hexdigest() in page
    assert "a secret reason" not in page + json.dumps(said)
    signers = world.folder / "signers"
    signers.write_text(f"records@northwind.example {key.with_suffix('.pub').read_text()}")
    for name in ("certificate.html", "certificate.json"):
        verify = ["ssh-keygen", "-Y", "verify", "-n", "craftkit-archive", "-I", "records@northwind.example"]
        verify += ["-f", str(signers), "-s", str(world.folder / f"{name}.sig")]
        with (world.folder / name).open("rb") as text_of:
            subprocess.run(verify, stdin=text_of, check=True, capture_output=True)
    with Archive(world.archive.path, read_only=True) as archive:
        event = next(event for event in archive.catalog.events() if event.number == said["first_event"])
        assert event.details["reason"] == "a secret reason"


@pytest.mark.parametrize(
    "words",
    [
        ["--certificate", "nowhere/c.html"],
        ["--certificate", "c.pdf"],
        ["--certificate", "c.html", "--sign", "no-key"],
        ["--certificate", "c.html", "--dry-run"],
        ["--sign", "key"],
    ],
)
def test_a_certificate_that_cannot_be_written_deletes_nothing(world: World, words: list[str]) -> None:
    given = [str(world.folder / word) if word[0] != "-" else word for word in words]
    assert at(world, "dispose", "--ids", write_ids(world, 1), "--reason", "r", *given).code == 2
    assert world.asset(1).exists()


def test_every_report_says_what_is_due_held_and_disposed(world: World) -> None:
    summary_of(verify_assets(world.archive))
    plain = io.StringIO()
    WRITERS["text"](gather_report(world.archive), plain)
    assert "keeping" not in plain.getvalue()
    assert at(world, "retention", "set", "--default", "--keep", "1d").code == 0
    assert at(world, "hold", "place", "--name", "h", "--reason", "r", "--ids", write_ids(world, 3, 4)).code == 0
    dispose(world, 1)
    report = gather_report(world.archive)
    assert report.keeping == Keeping(90, 4, 4, report.keeping.due_soon_bytes, 1, 2, 1, 0)
    written = {}
    for form, write in WRITERS.items():
        out = io.StringIO()
        write(report, out)
        written[form] = out.getvalue()
    line = "4 due within 90 days, 4 of them now; 2 held by 1 hold; 1 disposed"
    assert line in written["text"]
    assert "<dt>Held</dt><dd>2 by 1 hold</dd>" in written["html"]
    assert json.loads(written["ndjson"].splitlines()[-1])["keeping"]["disposed"] == 1
    archive = f'{{archive="{report.archive_id}"'
    for sample in (f"retention_due{archive}}} 4", f"held{archive}}} 2", f'assets{archive},state="disposed"}} 1'):
        assert f"craftkit_archive_{sample}\n" in written["prometheus"]


def test_a_disposal_that_was_refused_is_begun_and_the_next_one_finishes_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_store: FolderStore, key: str) -> None:
        raise NotWritableError(f"Cannot write {key}.")

    chosen = Selection(render_ids=(render_id(1),))
    with monkeypatch.context() as broken:
        broken.setattr(FolderStore, "remove", refuse)
        summary = summary_of(dispose_renders(world.archive, "asked for", selection=chosen))
    assert (summary.outcome, summary.counts["failed"], summary.counts["disposed"]) == ("incomplete", 1, 0)
    assert world.asset(1).exists()
    assert states(world)[render_id(1)] == "disposed"

    def seen() -> Diagnosis:
        return next(one for one in examine_archive(world.archive) if getattr(one, "name", "") == "disposals")  # type: ignore[return-value]

    assert "1 of 1 disposals have begun" in seen().seen
    assert summary_of(verify_assets(world.archive)).outcome == "ok"
    summary = summary_of(dispose_renders(world.archive, "due"))
    assert (summary.counts["finished"], world.asset(1).exists(), seen().fix) == (1, False, None)


def test_bytes_that_became_another_renders_stay(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    key = render(1)["asset_key"]
    with monkeypatch.context() as broken:
        broken.setattr(FolderStore, "remove", lambda *_: (_ for _ in ()).throw(NotWritableError("No.")))
        summary_of(dispose_renders(world.archive, "r", selection=Selection(render_ids=(render_id(1),))))
    load(world.archive, world.folder, "renders", [render(9, asset_key=key)])
    assert summary_of(fetch_assets(world.archive, str(world.bucket))).counts["adopted"] == 1
    assert summary_of(dispose_renders(world.archive, "r")).counts["finished"] == 1
    assert world.asset(1).exists()
    assert (states(world)[render_id(1)], states(world)[render_id(9)]) == ("disposed", "unchecked")


def test_a_hold_stops_a_disposal_that_has_begun(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(FolderStore, "remove", lambda *_: (_ for _ in ()).throw(NotWritableError("No.")))
        summary_of(dispose_renders(world.archive, "r", selection=Selection(render_ids=(render_id(1),))))
    summary_of(place_hold(world.archive, "late", "r", Selection(render_ids=(render_id(1),))))
    assert summary_of(dispose_renders(world.archive, "r")).counts["held"] == 1
    assert world.asset(1).exists()
    summary_of(release_hold(world.archive, "late", "r"))
    assert summary_of(dispose_renders(world.archive, "r")).counts["finished"] == 1
    assert not world.asset(1).exists()


def test_what_was_disposed_is_no_loss_to_accept(world: World) -> None:
    dispose(world, 1)
    done = at(world, "--json", "accept", "--ids", write_ids(world, 1), "--reason", "gone")
    assert (done.code, "was disposed" in done.lines[0]["reason"]) == (3, True)
    assert states(world)[render_id(1)] == "disposed"
