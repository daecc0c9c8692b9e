"""Killed at any moment, and run again: nothing wrong stays behind, and the next run does the rest."""

import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pytest

from craftkit_archive.archive import CATALOG, Archive
from craftkit_archive.audit.log import verify_log
from craftkit_archive.records import AuditFault
from craftkit_archive.verify.run import verify_assets
from tests.worlds import (
    ROOT,
    World,
    command,
    fill,
    keys,
    program,
    projects,
    render,
    render_id,
    summary_of,
    write_ndjson,
)

DIE = "from tests.dying import die_before_change\ndie_before_change({number})"
BAD = (1, 4, 7)  # what is damaged before a repair, or deleted


class Deed(NamedTuple):
    """A command that changes something: what it finds, its words, and what holds after it."""

    prepare: Callable[[World], object]
    words: Callable[[World], list[str | Path]]
    check: Callable[[World], object]


def _forget_assets(world: World) -> None:
    shutil.rmtree(Path(world.archive.store.address, "renders"))
    world.archive.catalog._query("DELETE FROM assets")


def _forget_renders(world: World) -> None:
    _forget_assets(world)
    world.archive.catalog._query("DELETE FROM renders")


def _damage(world: World) -> None:
    for number in BAD[:-1]:
        world.asset(number).write_bytes(b"%PDF-1.4 damaged")
    world.asset(BAD[-1]).unlink()
    summary_of(verify_assets(world.archive))


def _lose_catalog(world: World) -> None:
    for kind, rows in {"projects": projects(), "keys": keys(), "renders": _rows(world)}.items():
        write_ndjson(world.folder / f"{kind}.ndjson", rows)
    world.archive.catalog.close()
    for path in world.archive.path.glob(f"{CATALOG}*"):
        path.unlink()


def _rows(world: World) -> list[dict[str, object]]:
    return [render(number) for number in range(len(list(world.bucket.rglob("*.pdf"))))]


def _all_is_well(world: World) -> None:
    with Archive(world.archive.path) as archive:
        counts = summary_of(verify_assets(archive)).counts
        assert counts == {"checked": len(_rows(world)), "ok": len(_rows(world))}


def _all_renders_are_there(world: World) -> None:
    with Archive(world.archive.path) as archive:
        assert archive.catalog._query("SELECT count(*) FROM renders") == [(len(_rows(world)),)]


def _all_is_repaired(world: World) -> None:
    _all_is_well(world)
    kept = [path for path in (world.archive.path / "quarantine").rglob("*.pdf")]
    assert {path.read_bytes() for path in kept} == {b"%PDF-1.4 damaged"}
    assert all(path.with_name(f"{path.name}.finding.json").exists() for path in kept)


def _back_up(world: World) -> None:
    world.archive.catalog.back_up(world.folder / "backup.db")


def _backup_is_whole(world: World) -> None:
    connection = sqlite3.connect(world.folder / "out")
    assert connection.execute("SELECT count(*) FROM assets").fetchall() == [(len(_rows(world)),)]
    connection.close()


def _export_is_whole(world: World) -> None:
    done = command("export-check", world.folder / "out")
    assert done.code == 0, done.err


def _nothing(_world: World) -> None:
    """Prepare nothing."""


def _export(form: str) -> Deed:
    return Deed(_nothing, lambda world: ["export", world.folder / "out", "--format", form], _export_is_whole)


def _ids(world: World) -> Path:
    file = world.folder / "ids.txt"
    file.write_text("".join(f"{render_id(number)}\n" for number in BAD))
    return file


def _all_is_disposed(world: World) -> None:
    with Archive(world.archive.path) as archive:
        assert archive.catalog.count_disposed() == (len(BAD), 0)
        counts = summary_of(verify_assets(archive)).counts
    assert counts == {"checked": len(_rows(world)) - len(BAD), "ok": len(_rows(world)) - len(BAD)}
    assert not any(world.asset(number).exists() for number in BAD)


DEEDS: dict[str, Deed] = {
    "dispose": Deed(
        _nothing, lambda world: ["dispose", "--ids", _ids(world), "--reason", "asked for"], _all_is_disposed
    ),
    "import": Deed(
        _forget_renders,
        lambda world: ["import", "renders", write_ndjson(world.folder / "renders.ndjson", _rows(world))],
        _all_renders_are_there,
    ),
    "fetch": Deed(_forget_assets, lambda world: ["fetch", world.bucket], _all_is_well),
    "export dir": _export("dir"),
    "export zip": _export("zip"),
    "export bagit": _export("bagit"),
    "repair": Deed(_damage, lambda world: ["repair", world.bucket], _all_is_repaired),
    "verify": Deed(_nothing, lambda world: ["verify", "--level", "pdf"], _all_is_well),
    "backup": Deed(_nothing, lambda world: ["backup", world.folder / "out"], _backup_is_whole),
    "restore": Deed(_back_up, lambda world: ["restore", world.folder / "backup.db"], _all_is_well),
    "rebuild": Deed(
        _lose_catalog,
        lambda world: [
            "rebuild",
            *(
                word
                for kind in ("projects", "keys", "renders")
                for word in (f"--{kind}", world.folder / f"{kind}.ndjson")
            ),
        ],
        _all_is_well,
    ),
}


def _die(words: list[str], seconds: float) -> int:
    """Run a program, kill it if it still runs after some seconds, and return its exit code."""
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            _, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            _, said = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), said.decode()
    return process.returncode


def _is_sound(path: Path) -> None:
    """Hold what a killed command recorded against what is on the disk."""
    if not (path / CATALOG).exists():
        return
    with Archive(path, read_only=True) as archive:
        assert {found.problem for found in verify_log(archive) if isinstance(found, AuditFault)} <= {"behind"}
    with Archive(path) as archive:
        assert archive.notices == []
        assert summary_of(verify_log(archive)).outcome == "ok"
        assert archive.catalog._query("PRAGMA integrity_check") == [("ok",)]
        for key, digest in archive.catalog._query(
            "SELECT key, sha256 FROM assets WHERE verdict IS NULL OR verdict = 'ok'"
        ):
            assert sha256(Path(archive.store.address, key).read_bytes()).hexdigest() == digest


def _kill_and_run_again(folder: Path, name: str, *, number: int, seconds: float, count: int) -> None:
    deed, world = DEEDS[name], fill(folder, count=count)
    deed.prepare(world)
    words = deed.words(world)
    path = world.archive.path
    died = _die(program(*words, archive=path, before=DIE.format(number=number)), seconds)
    _is_sound(path)
    # These two refuse to do again what is done: the kill came after the last rename.
    done_already = {"rebuild": path / CATALOG, "backup": folder / "out"}
    if died and not (name in done_already and done_already[name].exists()):
        done = command("--json", *words, archive=path)
        assert done.code == 0, (done.out, done.err)
    deed.check(world)
    left = [file for file in folder.rglob("*") if ".incoming" in file.parts]
    left += [file for end in (".part", ".new", ".rebuilt", ".restored", "-journal") for file in folder.rglob(f"*{end}")]
    left += list(folder.glob(".out.*"))
    assert left == []
    world.archive.catalog.close()


@pytest.mark.long
@pytest.mark.parametrize("number", [3, 17])
@pytest.mark.parametrize("name", DEEDS)
def test_a_command_that_was_killed_is_run_again(tmp_path: Path, name: str, number: int) -> None:
    _kill_and_run_again(tmp_path, name, number=number, seconds=60, count=9)


@pytest.mark.long
@pytest.mark.parametrize("name", DEEDS)
def test_killed_before_any_change_it_makes(tmp_path: Path, name: str) -> None:
    for number in range(1, 60, 4):
        _kill_and_run_again(tmp_path / str(number), name, number=number, seconds=60, count=9)


@pytest.mark.long
@pytest.mark.parametrize("name", DEEDS)
def test_killed_at_any_moment(tmp_path: Path, name: str) -> None:
    chance = random.Random(name)
    began = time.monotonic()
    _kill_and_run_again(tmp_path / "whole", name, number=0, seconds=60, count=250)
    usual = time.monotonic() - began
    for number in range(8):
        seconds = chance.uniform(0.2, usual)
        _kill_and_run_again(tmp_path / str(number), name, number=0, seconds=seconds, count=250)
