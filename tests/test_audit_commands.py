"""Every command that changes something leaves an event that says who did what; no other command changes anything."""

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import click
import pytest

import cli
from craftkit_archive import Archive
from craftkit_archive.archive import CATALOG
from tests.worlds import (
    LIVE_KEY,
    SAMPLE,
    World,
    command,
    fill,
    keys,
    pdf,
    render,
    render_id,
    write_ndjson,
)

# What says how things were checked, or keeps the log itself.
LEDGER = {"runs", "totals", "totals_kept", "nights", "night_steps", "events", "settings", "_sqlite_migrations"}


class Deed(NamedTuple):
    """A command: what it finds, its words, and the event that it leaves; None if it changes nothing."""

    prepare: Callable[[World], object]
    words: Callable[[World], list[str | Path]]
    event: str | None


def _nothing(_world: World) -> None:
    pass


def _damage(world: World) -> None:
    asset = world.asset(2)
    asset.write_bytes(asset.read_bytes()[:100])


def _find_damage(world: World) -> None:
    _damage(world)
    assert command("verify", archive=world.archive.path).code == 1


def _repair(world: World) -> None:
    _find_damage(world)
    assert command("repair", world.bucket, archive=world.archive.path).code == 0


def _damage_again(world: World) -> None:
    """Let the copy in the quarantine be all that is left."""
    _repair(world)
    world.asset(2).unlink()


def _lose(world: World) -> None:
    _find_damage(world)
    (world.folder / "ids.txt").write_text(render_id(2))


def _accept(world: World) -> None:
    _lose(world)
    words: list[str | Path] = ["accept", "--ids", world.folder / "ids.txt", "--reason", "gone"]
    assert command(*words, archive=world.archive.path).code == 0


def _new_render(world: World) -> None:
    write_ndjson(world.folder / "new.ndjson", [render(9)])


def _expect_one_more(world: World) -> None:
    _new_render(world)
    key = world.bucket / render(9)["asset_key"]
    key.write_bytes(pdf("nine"))
    assert command("import", "renders", world.folder / "new.ndjson", archive=world.archive.path).code == 0


def _some_keys(world: World) -> None:
    write_ndjson(world.folder / "keys.ndjson", [{**keys()[0], "id": "key-9", "key_hash": "a" * 64}])


def _lose_catalog(world: World) -> None:
    write_ndjson(world.folder / "new.ndjson", [render(number) for number in range(1, 6)])
    (world.archive.path / CATALOG).unlink()


def _back_up(world: World) -> None:
    assert command("backup", world.folder / "backup.db", archive=world.archive.path).code == 0


def _access_log(world: World) -> None:
    log = world.folder / "access.log.1"
    log.write_text('{"time":"2026-11-25T10:00:00.000Z"}\n')
    os.utime(log, (1, 1))  # nobody has written to it for long


def _export(world: World) -> None:
    assert command("export", world.folder / "out", archive=world.archive.path).code == 0


def _say(*words: str | Path) -> Callable[[World], list[str | Path]]:
    return lambda _world: list(words)


# Every command of the program, and its ways to change something. A new one needs a line here.
_HOLD = ("hold", "place", "--name", "case", "--reason", "a dispute", "--since", "2000-01-01")
_KEEP = ("retention", "set", "--default", "--keep", "1d")


def _hold(world: World) -> None:
    assert command(*_HOLD, archive=world.archive.path).code == 0


def _keep(world: World) -> None:
    assert command(*_KEEP, archive=world.archive.path).code == 0


def _name_somebody(world: World) -> None:
    (world.archive.path / "craftkit-archive.toml").write_text('[notify]\ncommand = ["true"]\n')


def _a_night(world: World) -> None:
    """Let a night only look: each step that changes something leaves its own event."""
    (world.archive.path / "craftkit-archive.toml").write_text("[nightly]\n")


DEEDS: dict[str, list[Deed]] = {
    "accept": [
        Deed(_lose, lambda w: ["accept", "--ids", w.folder / "ids.txt", "--reason", "gone for good"], "accept"),
        Deed(_accept, lambda w: ["accept", "--ids", w.folder / "ids.txt", "--revoke"], "accept --revoke"),
        Deed(_accept, _say("accept", "--list"), None),
    ],
    "audit access-log": [
        Deed(_access_log, lambda w: ["audit", "access-log", w.folder / "access.log.1"], "audit access-log")
    ],
    "audit head": [Deed(_nothing, _say("audit", "head"), None)],
    "audit log": [Deed(_nothing, _say("audit", "log"), None)],
    "audit verify": [Deed(_nothing, _say("audit", "verify"), None)],
    "backup": [Deed(_nothing, lambda w: ["backup", w.folder / "copy.db"], None)],
    "completion install": [Deed(_nothing, lambda w: ["completion", "install", "bash", "--to", w.folder], None)],
    "completion show": [Deed(_nothing, _say("completion", "show", "bash"), None)],
    "config init": [Deed(_nothing, _say("config", "init"), None)],
    "config schema": [Deed(_nothing, _say("config", "schema"), None)],
    "config show": [Deed(_nothing, _say("config", "show"), None)],
    "dispose": [
        Deed(_lose, lambda w: ["dispose", "--ids", w.folder / "ids.txt", "--reason", "a request"], "dispose"),
        Deed(_keep, _say("dispose", "--due", "--reason", "over"), "dispose"),
        Deed(_keep, _say("dispose", "--due", "--reason", "over", "--dry-run"), None),
    ],
    "doctor": [Deed(_nothing, _say("doctor"), None)],
    "export": [
        Deed(_nothing, lambda w: ["export", w.folder / "out.zip"], "export"),
        Deed(_nothing, lambda w: ["export", w.folder / "out.zip", "--dry-run"], None),
    ],
    "export-check": [Deed(_export, lambda w: ["export-check", w.folder / "out"], None)],
    "fetch": [
        Deed(_expect_one_more, lambda w: ["fetch", w.bucket], "fetch"),
        Deed(_expect_one_more, lambda w: ["fetch", w.bucket, "--dry-run"], None),
        Deed(_nothing, lambda w: ["fetch", w.bucket], None),
    ],
    "findings list": [Deed(_find_damage, _say("findings", "list"), None)],
    "hold list": [Deed(_nothing, _say("hold", "list"), None)],
    "hold place": [Deed(_nothing, _say(*_HOLD), "hold place")],
    "hold release": [Deed(_hold, _say("hold", "release", "case", "--reason", "settled"), "hold release")],
    "import": [
        Deed(_new_render, lambda w: ["import", "renders", w.folder / "new.ndjson"], "import renders"),
        Deed(_new_render, lambda w: ["import", "renders", w.folder / "new.ndjson", "--dry-run"], None),
        Deed(_some_keys, lambda w: ["import", "keys", w.folder / "keys.ndjson"], "import keys"),
        Deed(_nothing, _say("import", "projects", SAMPLE / "projects.json"), "import projects"),
    ],
    "init": [Deed(lambda w: shutil.rmtree(w.archive.path), _say("init"), "init")],
    "keys create": [Deed(_nothing, _say("keys", "create", "--project", "northwind"), "keys create")],
    "keys list": [Deed(_nothing, _say("keys", "list"), None)],
    "keys revoke": [Deed(_nothing, _say("keys", "revoke", LIVE_KEY), "keys revoke")],
    "nightly": [Deed(_a_night, _say("nightly"), None)],
    "notify test": [Deed(_name_somebody, _say("notify", "test"), None)],
    "quarantine drop": [
        Deed(_repair, lambda w: ["quarantine", "drop", _quarantined(w)], "quarantine drop"),
        Deed(_repair, _say("quarantine", "drop", "--all", "--yes"), "quarantine drop"),
        Deed(_nothing, _say("quarantine", "drop", "--all", "--yes"), None),
    ],
    "quarantine list": [Deed(_repair, _say("quarantine", "list"), None)],
    "quarantine restore": [
        Deed(_damage_again, lambda w: ["quarantine", "restore", _quarantined(w)], "quarantine restore")
    ],
    "quickstart": [
        Deed(lambda w: shutil.rmtree(w.archive.path), _say("quickstart", "--once", SAMPLE), "export"),
    ],
    "rebuild": [Deed(_lose_catalog, lambda w: ["rebuild", "--renders", w.folder / "new.ndjson"], "rebuild")],
    "renders list": [Deed(_nothing, _say("renders", "list"), None)],
    "repair": [
        Deed(_find_damage, lambda w: ["repair", w.bucket], "repair"),
        Deed(_find_damage, lambda w: ["repair", w.bucket, "--dry-run"], None),
    ],
    "report": [Deed(_find_damage, _say("report"), None)],
    "restore": [Deed(_back_up, lambda w: ["restore", w.folder / "backup.db"], "restore")],
    "retention due": [Deed(_keep, _say("retention", "due", "--by", "9000-01-01"), None)],
    "retention list": [Deed(_keep, _say("retention", "list"), None)],
    "retention remove": [Deed(_keep, _say("retention", "remove", "--default"), "retention remove")],
    "retention set": [Deed(_nothing, _say(*_KEEP), "retention set")],
    "runs list": [Deed(_nothing, _say("runs", "list"), None)],
    "runs show": [Deed(_nothing, _say("runs", "show", "1"), None)],
    "seal": [
        Deed(_nothing, _say("seal"), "seal"),
        Deed(_nothing, _say("seal", "--check", "0" * 64), None),
    ],
    "serve": [],  # it opens the catalog read-only; see `test_access_logs.py` for what it records
    "status": [Deed(_nothing, _say("status"), None)],
    "verify": [
        Deed(_damage, _say("verify"), "verify"),
        # What was checked and when is in the ledger.
        Deed(_nothing, _say("verify"), None),
    ],
}


def _quarantined(world: World) -> str:
    return str(command("--json", "quarantine", "list", archive=world.archive.path).lines[0]["name"])


def _commands(group: click.Command, path: str = "") -> list[str]:
    if not isinstance(group, click.Group):
        return [path]
    return [name for word, one in group.commands.items() for name in _commands(one, f"{path} {word}".strip())]


def test_every_command_says_which_event_it_leaves() -> None:
    assert set(DEEDS) == set(_commands(cli.main))


def state(path: Path) -> dict[str, str]:
    """Return a digest of each table and of each file of the store and the quarantine."""
    found = {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for folder in ("assets", "quarantine")
        for file in sorted((path / folder).rglob("*"))
        if file.is_file()
    }
    if not (path / CATALOG).exists():
        return found
    with closing(sqlite3.connect(path / CATALOG)) as catalog:
        tables = [name for (name,) in catalog.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in sorted(set(tables) - LEDGER):
            rows = [_unchecked(table, catalog, row) for row in catalog.execute(f"SELECT * FROM {table}")]
            found[f"table {table}"] = hashlib.sha256(repr(sorted(map(repr, rows))).encode()).hexdigest()
    return found


def _unchecked(table: str, catalog: sqlite3.Connection, row: tuple[object, ...]) -> dict[str, object]:
    """Leave out what is the ledger's: when an asset was checked, and that it was good."""
    names = [name for _, name, *_ in catalog.execute(f"PRAGMA table_info({table})")]
    values = dict(zip(names, row, strict=True))
    if table == "assets":
        values.pop("verified_at")
        values.pop("verdict")
    return values


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name, deeds in DEEDS.items() for number in range(len(deeds))]
)
def test_what_changes_something_leaves_an_event_and_nothing_else_does(tmp_path: Path, name: str, number: int) -> None:
    deed = DEEDS[name][number]
    world = fill(tmp_path)
    world.archive.catalog.close()
    deed.prepare(world)
    path = world.archive.path
    log = path / "audit.ndjson"
    before, lines = state(path), log.read_bytes().splitlines() if log.exists() else []
    words = deed.words(world)
    done = command(*words, archive=path, env={"CRAFTKIT_ARCHIVE_BY": "Anna of Records"})
    assert done.code in (0, 1, 3), done.err
    with Archive(path, read_only=True) as archive:
        events = [event for event in archive.catalog.events() if event.number > len(lines)]
    if deed.event is None:
        assert [event.what for event in events] == []
        assert state(path) == before
        return
    assert deed.event in {event.what for event in events}
    assert {event.who for event in events} == {"Anna of Records"}
    assert command("audit", "verify", archive=path).code == 0
    # No secret gets into the log, nor a hash of one.
    text = log.read_text()
    for key in keys():
        assert key["key_hash"] not in text if "key_hash" in key else True
    assert LIVE_KEY not in text
    assert done.out.strip() not in text if name == "keys create" else True


def test_by_names_who_did_it(world: World) -> None:
    done = command("keys", "revoke", "--by", "  Anna  ", "key-1", archive=world.archive.path)
    assert done.code == 0
    assert command("audit", "log", archive=world.archive.path).out.splitlines()[-1].split()[3] == "Anna"
    assert command("keys", "revoke", "--by", " ", "key-2", archive=world.archive.path).code == 2
    assert command("keys", "revoke", "--by", "a\nb", "key-2", archive=world.archive.path).code == 2
