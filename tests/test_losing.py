"""A lost or damaged catalog: every command that meets one names `restore` and `rebuild`, and none leads to `init`."""

import os
from collections.abc import Callable
from pathlib import Path

import click
import pytest

import cli
from craftkit_archive.archive import CATALOG, Archive
from tests.worlds import World, command, fill, pdf

WORDS = "Restore a backup with `craftkit-archive restore FILE`, or make it again with `craftkit-archive rebuild`."


def _commands(group: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(group, click.Group):
        return [path]
    return [name for word, one in group.commands.items() for name in _commands(one, (*path, word))]


# What each command needs beside its name to get as far as the archive.
ARGUMENTS: dict[str, list[str]] = {
    "accept": ["--list"],
    "audit access-log": ["FILE"],
    "backup": ["NEW"],
    "export": ["NEW"],
    "fetch": ["FOLDER"],
    "hold list": [],
    "dispose": ["--due", "--reason", "r"],
    "hold place": ["--name", "n", "--reason", "r", "--project", "p"],
    "hold release": ["n", "--reason", "r"],
    "import": ["projects", "FILE"],
    "keys create": ["--project", "p"],
    "keys revoke": ["k"],
    "quarantine drop": ["--all", "--yes"],
    "quarantine restore": ["x"],
    "quickstart": ["--once", "FOLDER"],
    "repair": ["FOLDER"],
    "retention set": ["--default", "--keep", "1y"],
    "retention remove": ["--default"],
    "runs show": ["1"],
    "serve": ["--listen", "127.0.0.1:0"],
}
# They are about no archive, or are what is named.
OTHERS = {
    "nightly",  # does nothing without a configuration
    "notify test",
    "config init",
    "config schema",
    "config show",
    "completion install",
    "completion show",
    "export-check",
    "rebuild",
    "restore",
}
COMMANDS = [" ".join(path) for path in _commands(cli.main) if " ".join(path) not in OTHERS]


def _overwrite(path: Path) -> None:
    (path / CATALOG).write_bytes(b"this was a catalog")


def _cut(path: Path) -> None:
    os.truncate(path / CATALOG, 20_000)


def _empty(path: Path) -> None:
    (path / CATALOG).write_bytes(b"")


def _remove(path: Path) -> None:
    (path / CATALOG).unlink()


LOSSES: dict[str, tuple[Callable[[Path], object], int]] = {
    "gone": (_remove, 10),
    "overwritten": (_overwrite, 13),
    "empty": (_empty, 13),
}


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], World]:
    """Return what gives a world whose catalog was lost in one of the ways; no command may change it."""
    worlds: dict[str, World] = {}

    def found(loss: str) -> World:
        if loss not in worlds:
            world = worlds[loss] = fill(tmp_path_factory.mktemp(loss), count=1)
            world.archive.catalog.close()
            LOSSES[loss][0](world.archive.path)
            (world.folder / "file").write_text("{}")
        return worlds[loss]

    return found


# Each command meets one that is gone, and one that cannot be read in one of the other ways.
MEETINGS = [(name, "gone") for name in COMMANDS] + [
    (name, ("overwritten", "empty")[at % 2]) for at, name in enumerate(COMMANDS)
]


@pytest.mark.parametrize(("name", "loss"), MEETINGS)
def test_every_command_that_meets_a_lost_catalog_names_the_way_back(
    lost: Callable[[str], World], name: str, loss: str
) -> None:
    world, code = lost(loss), LOSSES[loss][1]
    path = world.archive.path
    before = sorted(file.relative_to(path) for file in path.rglob("*"))
    places = {"FILE": str(world.folder / "file"), "NEW": str(world.folder / "new"), "FOLDER": str(world.bucket)}
    words = [places.get(word, word) for word in (*name.split(), *ARGUMENTS.get(name, []))]
    done = command(*words, archive=path)
    made = name in ("init", "quickstart") and loss == "gone"
    taken = name == "init" and loss != "gone"
    if taken:
        assert (done.code, "There is an archive" in done.err) == (2, True)
        return
    assert (done.code, WORDS in done.err, done.err.count("\n")) == (2 if made else code, True, 1), done.err
    assert "init" not in done.err
    assert sorted(file.relative_to(path) for file in path.rglob("*")) == before


def test_every_command_is_in_the_table() -> None:
    """A new command that needs an argument fails here until `ARGUMENTS` has it."""
    for path in _commands(cli.main):
        found: click.Command = cli.main
        for word in path:
            assert isinstance(found, click.Group)
            found = found.commands[word]
        required = [one for one in found.params if one.required]
        assert not required or " ".join(path) in {*ARGUMENTS, *OTHERS}, path


def test_a_part_of_a_damaged_catalog_is_told_by_whoever_reads_it(tmp_path: Path) -> None:
    world = fill(tmp_path, count=3)
    world.archive.catalog.close()
    _cut(world.archive.path)
    for words in (["status"], ["verify"], ["doctor"], ["export", str(tmp_path / "out")]):
        done = command(*words, archive=world.archive.path)
        assert (done.code, WORDS in done.err + done.out) == (13, True), done.err


# What else of an archive is left in each case, and what it is called.
TRACES = {
    "its store": ["assets/.craftkit-archive", "audit.ndjson"],
    "its audit log": ["audit.ndjson"],
    "its quarantine": ["quarantine/x"],
    "what was beside it": [f"{CATALOG}.replaced-20260101T000000Z"],
}


@pytest.mark.parametrize("trace", TRACES)
def test_any_trace_of_an_archive_keeps_init_from_making_another(tmp_path: Path, trace: str) -> None:
    path = tmp_path / "archive"
    for name in TRACES[trace]:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("")
    for words, code in ((["status"], 10), (["init"], 2)):
        done = command(*words, archive=path)
        assert (done.code, f"is missing, but {trace} is there. {WORDS}" in done.err) == (code, True), done.err
    assert not (path / CATALOG).exists()


def test_where_nothing_is_there_init_is_the_way(tmp_path: Path) -> None:
    done = command("status", archive=tmp_path / "none")
    assert (done.code, "Make one with `init`, or name one with --archive." in done.err) == (10, True)
    (tmp_path / "some/assets").mkdir(parents=True)
    (tmp_path / "some/assets/a.pdf").write_bytes(pdf("a"))
    assert command("init", archive=tmp_path / "some").code == 0


def test_an_interrupted_init_goes_on(tmp_path: Path) -> None:
    with Archive.create(tmp_path / "a") as archive:
        made = archive.id
    (tmp_path / "a" / CATALOG).rename(tmp_path / "a" / f"{CATALOG}.new")
    with Archive.create(tmp_path / "a") as archive:
        assert archive.id == made


def test_a_store_of_a_lost_archive_is_not_taken_over(world: World, tmp_path: Path) -> None:
    world.archive.catalog.close()
    done = command("init", "--store", world.archive.store.address, archive=tmp_path / "new")
    assert (done.code, "run `craftkit-archive restore` or `craftkit-archive rebuild` instead" in done.err) == (14, True)
