"""A night on which everything is wrong: each command of the program says last what to run next, or has nothing to say.

The table names every command, so that a new one has to say what comes after it.
"""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import click
import pytest

import cli
from tests.worlds import World, command, fill, load, put, render, render_id


def _commands(group: click.Command, path: tuple[str, ...] = ()) -> list[str]:
    if not isinstance(group, click.Group):
        return [" ".join(path)]
    return [name for word, one in group.commands.items() for name in _commands(one, (*path, word))]


@pytest.fixture(scope="module")
def worst(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return an archive with a PDF that is damaged, one that is gone, one never stored, and one in the quarantine."""
    world = fill(tmp_path_factory.mktemp("worst"), count=5)
    path = world.archive.path
    assert command("export", world.folder / "export", archive=path).code == 0
    assert command("backup", world.folder / "backup.db", archive=path).code == 0
    load(world.archive, world.folder, "renders", [render(8)])
    world.asset(0).write_bytes(b"%PDF-1.4 damaged")
    assert command("verify", archive=path).code == 1
    assert command("repair", world.bucket, archive=path).code == 0
    world.asset(0).write_bytes(b"%PDF-1.4 damaged again")
    world.asset(1).unlink()
    put(Path(world.archive.store.address), "renders/nobody's.pdf", b"x")
    assert command("verify", archive=path).code == 1
    assert command("keys", "revoke", "key-1", archive=path).code == 0
    world.archive.catalog.close()
    (world.folder / "empty").mkdir()
    (world.folder / "access.ndjson").write_text('{"time":"2026-11-25T10:00:00.000Z"}\n')
    (world.folder / "ids.txt").write_text(render_id(8))
    (world.folder / "bad.ndjson").write_text(json.dumps(render(9) | {"status": "odd"}))
    return world


# What each command is given, and what it says last: the words of the next command, or None.
NEXT: dict[str, tuple[str, str | None]] = {
    "accept": ("--ids IDS --reason gone", None),
    "audit access-log": ("ACCESS", None),
    "audit head": ("", None),
    "audit log": ("", None),
    "audit verify": ("", None),
    "backup": ("NEW", None),
    "completion install": ("--shell bash --file NEW", None),
    "completion show": ("bash", None),
    "config init": ("", None),
    "config schema": ("", None),
    "config show": ("", None),
    "doctor": ("", "repair SOURCE"),
    "export": ("NEW", "verify"),
    "export-check": ("EXPORT", None),
    "fetch": ("BUCKET", "fetch SOURCE"),
    "findings list": ("", "repair SOURCE"),
    "hold list": ("", None),
    "dispose": ("--due --reason r", None),
    "hold place": ("--name h --reason r --project northwind", None),
    "hold release": ("h --reason r", None),
    "import": ("renders BAD", "import renders BAD --rejects rejects.ndjson"),
    "keys create": ("--project northwind", None),
    "keys list": ("", None),
    "keys revoke": ("key-2", None),
    "quarantine drop": ("--all --yes", "repair SOURCE"),
    "quarantine list": ("", None),
    "quarantine restore": ("HELD", "verify --failed"),
    "renders list": ("--not-stored", "fetch SOURCE"),
    "repair": ("EMPTY", "repair SOURCE"),
    "report": ("", "repair SOURCE"),
    "restore": ("BACKUP", "keys revoke key-1"),
    "retention due": ("", None),
    "retention list": ("", None),
    "retention remove": ("--default", None),
    "retention set": ("--default --keep 1y", None),
    "runs list": ("", None),
    "runs show": ("1", None),
    "seal": (f"--check {'0' * 64}", "verify"),
    "status": ("", "repair SOURCE"),
    "verify": ("", "repair SOURCE"),
}
BEFORE = {
    "hold release": ["hold place --name h --reason r --project northwind"],
    "retention remove": ["retention set --default --keep 1y"],
}
# They have nights of their own: `test_next_steps.py`, `test_rebuilding.py`, `test_quickstart.py`, `test_serving*.py`.
OTHERS = {"init", "nightly", "quickstart", "rebuild", "serve"}


def test_every_command_is_in_the_table() -> None:
    named = {name for name in _commands(cli.main) if name.split()[0] not in _NOT_ASKED}
    assert named <= {*NEXT, *OTHERS}, "say in NEXT what is to be run after it"


# Commands that no night is about: they look at nothing that could be wrong.
_NOT_ASKED = {"completion", "config", "notify", "man"}


@pytest.mark.parametrize("name", [name for name in NEXT if name.split()[0] not in _NOT_ASKED])
def test_what_to_do_is_said_last(worst: World, tmp_path: Path, name: str) -> None:
    if name not in _commands(cli.main):
        return
    shutil.copytree(worst.folder, tmp_path / "night", symlinks=True)
    folder = tmp_path / "night"
    archive = folder / "archive"
    held = next((archive / "quarantine").rglob("*.pdf")).relative_to(archive / "quarantine")
    places = {
        "ACCESS": folder / "access.ndjson",
        "BACKUP": folder / "backup.db",
        "BAD": folder / "bad.ndjson",
        "BUCKET": folder / "bucket",
        "EMPTY": folder / "empty",
        "EXPORT": folder / "export",
        "HELD": held,
        "IDS": folder / "ids.txt",
        "NEW": folder / "new",
    }
    for before in BEFORE.get(name, []):
        assert command(*before.split(), archive=archive).code == 0
    if name == "quarantine restore":  # a copy that is bad comes back only where there is nothing
        (archive / "assets" / render(0)["asset_key"]).unlink()
    given, following = NEXT[name]
    words = [str(places.get(word, word)) for word in [*name.split(), *given.split()]]
    done = command(*words, archive=archive)
    assert done.code in (0, 1, 3), done.err
    lines = done.err.splitlines()
    assert sum(line.startswith("Next: ") for line in lines) == (following is not None), done.err
    if following is not None:
        expected = [str(places.get(word, word)) for word in following.split()]
        assert shlex.split(lines[-1]) == ["Next:", "craftkit-archive", "--archive", str(archive), *expected]


def _last_words(words: list[str], archive: Path) -> str:
    return command(*words, archive=archive).err.splitlines()[-1]


CHECKS: dict[str, Callable[[Path], str]] = {
    "an archive without renders": lambda path: _last_words(["fetch", str(path.parent)], path),
    "a list of nothing": lambda path: _last_words(["renders", "list"], path),
    "keys without a project": lambda path: _last_words(["keys", "list"], path),
}
AFTER_NOTHING = {
    "an archive without renders": "import renders FILE",
    "a list of nothing": "import renders FILE",
    "keys without a project": "import projects FILE",
}


@pytest.mark.parametrize("name", CHECKS)
def test_what_an_empty_archive_needs_is_said(tmp_path: Path, name: str) -> None:
    path = tmp_path / "archive"
    assert command("init", archive=path).code == 0
    assert CHECKS[name](path).endswith(f" {AFTER_NOTHING[name]}")


# What is said of nothing, and of one: no `0 of these, 0 of those`, no `1 keys`.
SAID = [
    ("fetch FOLDER", "fetch: nothing to fetch: the archive has no renders"),
    ("seal", "seal: nothing is stored: this is the seal of nothing"),
    ("keys list", "keys list: the archive has no keys"),
    ("renders list", "renders list: the archive has no renders"),
    ("renders list --damaged", "renders list: no render matches"),
    ("runs list --command serve", "runs list: no run matches"),
    ("findings list", "findings list: nothing wrong is known"),
    ("retention list", "retention list: there are no retention rules"),
    ("retention due", "retention due: nothing is due"),
    ("hold list", "hold list: there are no holds"),
    ("audit log --since 2030-01-01", "audit log: no event matches"),
    ("export OUT", "craftkit-archive: The archive has no renders to export. Run `import renders FILE` first."),
    ("repair FOLDER", "repair: nothing to repair: no stored PDF was ever verified"),
    ("verify --failed", "verify: nothing is stored"),
]


@pytest.mark.long
def test_of_nothing_it_is_said_that_there_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    assert command("init", archive=path).code == 0
    (tmp_path / "folder").mkdir()
    places = {"FOLDER": str(tmp_path / "folder"), "OUT": str(tmp_path / "out")}
    for words, said in SAID:
        done = command(*(places.get(word, word) for word in words.split()), archive=path)
        assert said in done.err.splitlines(), done.err


def test_of_one_it_is_said_in_the_singular(world: World) -> None:
    path = world.archive.path
    world.archive.catalog.close()
    assert "keys revoke: 1 key" in command("keys", "revoke", "key-1", archive=path).err.splitlines()
    done = command("renders", "list", "--search", render_id(0), archive=path)
    assert done.err.splitlines()[-1] == "renders list: 1 render"
    assert command("audit", "log", "--since", "2030-01-01", archive=path).err.count("1 events") == 0


def test_a_line_says_the_name_of_a_pdf_once(worst: World, tmp_path: Path) -> None:
    shutil.copytree(worst.folder, tmp_path / "night", symlinks=True)
    folder = tmp_path / "night"
    for words in (["export", folder / "new"], ["repair", folder / "empty"], ["verify"], ["fetch", folder / "empty"]):
        for line in command(*words, archive=folder / "archive").err.splitlines():
            assert line.count(render(0)["asset_key"]) <= 1, line


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("backup NOWHERE", 15, "there is no folder"),
        ("export FOLDER --format zip", 2, "is a folder, and a zip is one file. Name a file, such as folder.zip."),
        ("fetch ftp://x", 2, "cannot be a source. Name a folder, s3://bucket/prefix,"),
        ("keys revoke nope", 2, "No key matches 'nope'. Give its id"),
        ("export-check FOLDER", 2, "An export that was interrupted has none: run it again."),
        ("verify --time-limit 0s", 101, "verify: stopped at its limit: no PDF was checked"),
        ("verify --failed", 0, "verify: nothing was bad at its last check"),
        ("status", 0, "status: no stored PDF was ever verified; 0 % of"),
        ("fetch FOLDER", 0, "fetch: nothing to fetch: every succeeded render is stored"),
    ],
)
def test_bad_input_is_answered_in_one_sentence(world: World, words: str, code: int, said: str) -> None:
    world.archive.catalog.close()
    (world.folder / "folder").mkdir()
    places = {"NOWHERE": str(world.folder / "nowhere/b.db"), "FOLDER": str(world.folder / "folder")}
    done = command(*(places.get(word, word) for word in words.split()), archive=world.archive.path)
    assert (done.code, said in done.err) == (code, True), done.err
