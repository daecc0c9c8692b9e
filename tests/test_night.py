"""A night: an archive damaged in eight ways, every command in its three voices, and one table of what each says.

The voices: plain (words on stderr), `--quiet` (silent on success, otherwise the outcome and the worst findings, which
cron mails), `--json` (the last line is the summary, with the exit code).
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.worlds import Done, World, command, fill, put, render, render_id

DAMAGED = 8


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


def turn_into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def turn_into_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


WAYS: list[tuple[str, Callable[[Path], object]]] = [
    ("wrong-digest", flip),
    ("missing", Path.unlink),
    ("empty", lambda path: path.write_bytes(b"")),
    ("truncated", lambda path: os.truncate(path, path.stat().st_size - 40)),
    ("wrong-size", lambda path: path.write_bytes(path.read_bytes() + b"%%EOF\n")),
    ("not-a-pdf", lambda path: path.write_bytes(b"<html>404</html>")),
    ("not-a-file", turn_into_folder),
    ("not-a-file", turn_into_dangling_link),
]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return an archive with twelve good PDFs, verified, with an export of them."""
    world = fill(tmp_path_factory.mktemp("night"), count=12)
    assert command("verify", archive=world.archive.path).code == 0
    assert command("export", world.folder / "export", archive=world.archive.path).code == 0
    world.archive.catalog.close()
    return world


class Night(NamedTuple):
    """A copy of an archive, and where its PDFs came from."""

    archive: Path
    bucket: Path
    folder: Path

    def run(self, words: str, *voice: str) -> Done:
        """Run a command of the table; its places are filled in."""
        places = {"BUCKET": self.bucket, "EXPORT": self.folder / "export", "OUT": self.folder / "out"}
        line = [str(places.get(word, word)) for word in words.split()]
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        # On a busy machine a check takes the second after which progress is shown.
        return command("--progress", "none", *voice, *line, archive=self.archive)


@pytest.fixture
def night(pristine: World, tmp_path: Path) -> Callable[[bool], Night]:
    """Return what makes a copy of the archive, good or damaged."""

    def made(bad: bool) -> Night:
        folder = tmp_path / ("bad" if bad else "good")
        for name in ("archive", "bucket", "export"):
            shutil.copytree(pristine.folder / name, folder / name, symlinks=True)
        # The store's address is relative to the archive.
        found = Night(folder / "archive", folder / "bucket", folder)
        if bad:
            for number, (_, harm) in enumerate(WAYS):
                harm(folder / "archive/assets" / render(number)["asset_key"])
            put(folder / "archive/assets", "renders/nobody's.pdf", b"x")
            flip(next((folder / "export").rglob("*.pdf")))
            assert command("verify", archive=found.archive).code == 1
        return found

    return made


class Expected(NamedTuple):
    """What a command ends with on a good night and on a bad one, and words of its last line then.

    `result` says whether it prints, with --quiet too, what was asked for.
    """

    words: str
    good: int
    good_words: str
    bad: int
    bad_words: str
    result: bool = False


STATES = "8 PDFs damaged, 1 extra"
TABLE = [
    Expected("status", 0, "status: all 12 stored PDFs are good", 1, f"status: {STATES}: see `report`"),
    Expected("status --nagios", 0, "", 2, "", result=True),
    Expected("doctor", 0, "doctor: 0 problems", 1, "doctor: 1 problem, "),
    Expected("verify", 0, "verify: no damage; 12 checked, 12 ok", 1, "verify: 8 damaged (1 missing, 1 wrong-size, "),
    Expected("verify --due 30d", 0, "verify: nothing is due until 20", 1, "verify: 8 damaged"),
    Expected("verify --new", 0, "verify: nothing is new", 0, "verify: nothing is new"),
    Expected("verify --level size", 0, "no damage; 12 checked, 12 of the recorded size", 1, "verify: 7 damaged"),
    Expected("verify --level pdf", 0, "verify: no damage", 1, "verify: 8 damaged"),
    Expected(
        "repair --dry-run BUCKET", 0, "repair: nothing to repair", 0, "repair: 8 bad, 8 would be repaired", result=True
    ),
    Expected("repair BUCKET", 0, "repair: nothing to repair: the last verify (20", 0, "repair: 8 bad, 8 repaired"),
    Expected("fetch BUCKET", 0, "fetch: nothing to fetch", 0, "fetch: nothing to fetch"),
    Expected("export OUT", 0, "export: 12 selected, 12 written", 1, "export: 8 failed; 12 selected, 4 written"),
    Expected("export-check EXPORT", 0, "export-check: no damage", 1, "export-check: 1 damaged (1 wrong-digest)"),
    Expected("seal", 0, "seal: 12 PDFs sealed", 0, "seal: 12 PDFs sealed", result=True),
    Expected(f"seal --check {'a' * 64}", 1, "seal: DOES NOT MATCH: expected aaaa", 1, "DOES NOT MATCH", result=True),
    Expected("report", 0, "", 0, "", result=True),
    Expected("keys list", 0, "keys list: 5 keys", 0, "keys list: 5 keys", result=True),
    Expected(
        "quarantine list", 0, "quarantine list: the quarantine is empty", 0, "quarantine list: the quarantine is empty"
    ),
    Expected("accept --list", 0, "accept --list: no loss was accepted", 0, "accept --list: no loss was accepted"),
]


@pytest.mark.long
@pytest.mark.parametrize("expected", TABLE, ids=lambda expected: expected.words[:30])
@pytest.mark.parametrize("bad", [False, True], ids=["good", "bad"])
def test_every_command_in_its_three_voices(night: Callable[[bool], Night], expected: Expected, bad: bool) -> None:
    code, words = (expected.bad, expected.bad_words) if bad else (expected.good, expected.good_words)
    world = night(bad)
    if expected.words == "repair BUCKET":  # it changes what it says next
        backup = world.folder / "before"
        shutil.copytree(world.archive, backup, symlinks=True)
    quiet = world.run(expected.words, "-q")
    if expected.words == "repair BUCKET":
        shutil.rmtree(world.archive)
        shutil.move(backup, world.archive)
    plain = world.run(expected.words)
    assert plain.code == quiet.code == code
    said = plain.err.splitlines()
    if said and said[-1].startswith("Next: "):
        assert said.pop().startswith("Next: craftkit-archive "), "the last line is what to do"
    assert words in (said[-1] if said else ""), plain.err
    assert not re.search(r"\b(absent|excluded|lacking|never stored|to mend|mend)\b", plain.err + plain.out)
    if code == 0:
        assert quiet.err == "", quiet.err
    elif words:
        assert words in quiet.err, quiet.err
    if not expected.result:
        assert quiet.out == ""
    if expected.words in ("report", "status --nagios"):
        return
    spoken = world.run(expected.words, "--json")
    if expected.words != "repair BUCKET":
        assert spoken.code == code
    assert (spoken.lines[-1]["type"], spoken.lines[-1]["exit_code"]) == ("summary", spoken.code)
    assert spoken.err == ""


def test_quiet_names_the_worst_first_and_no_more_than_twenty(tmp_path: Path) -> None:
    world = fill(tmp_path, count=40)
    for number in range(30):
        put(Path(world.archive.store.address), f"renders/0-{number}.pdf", b"x")
        if number < 25:
            world.asset(number).unlink()
    done = command("-q", "verify", archive=world.archive.path)
    lines = done.err.splitlines()
    assert (done.code, len(lines)) == (1, 23)
    assert all(line.startswith("  missing  ") for line in lines[:20])
    assert lines[20].startswith("  … and 35 more")
    assert lines[21].startswith("verify: 25 damaged (25 missing), 30 extra; 40 checked, 15 ok")
    assert lines[22].startswith("Next: craftkit-archive ")


@pytest.mark.long
def test_all_numbers_of_one_night_agree(night: Callable[[bool], Night]) -> None:
    """Whichever command is asked, eight are damaged and one file is extra."""
    world = night(True)
    status = world.run("status", "--json").lines[-1]
    assert (status["counts"]["damaged"], status["details"]["standing"]["extra"]) == (8, 1)
    assert "8 damaged, 1 extra" in world.run("status --nagios").out
    assert "FIX   PDFs: 8 damaged, 1 extra. Run `report`" in world.run("doctor").out
    assert world.run("report").out.startswith("8 of 12 PDFs are not what was stored.\n")
    assert f'state="damaged"}} {DAMAGED}\n' in world.run("report --format prometheus").out
    assert world.run("report --format junit").out.count("<failure ") == DAMAGED
    ids = world.folder / "one.txt"
    ids.write_text(render_id(11))
    assert world.run(f"verify --ids {ids}").code == 0
    assert "The whole archive: 8 damaged" in world.run("report").out.splitlines()[0]
    assert world.run("status").code == 1
    assert world.run("repair BUCKET").code == 0
    assert world.run("status").code == 0
    assert world.run("verify").code == 0


def test_what_is_not_there_is_said_as_that(tmp_path: Path) -> None:
    """An archive of nothing says so, and never as a share of nothing."""
    path = tmp_path / "a"
    assert (
        command("init", archive=path).err.splitlines()[1]
        == f"Next: craftkit-archive --archive {path} import projects FILE"
    )
    for words in ("status", "verify", "seal", "doctor", "repair"):
        done = command(*words.split(), *([str(tmp_path)] if words == "repair" else []), archive=path)
        assert "%" not in done.err
        assert "ok:" not in done.err
    for words, said, following in (
        ("status", "status: the archive is empty", "import projects FILE"),
        ("verify", "verify: nothing is stored", "import renders FILE"),
    ):
        *_, outcome, last = command(words, archive=path).err.splitlines()
        assert (outcome, last) == (said, f"Next: craftkit-archive --archive {path} {following}")


def test_a_wrong_run_says_what_it_is(world: World) -> None:
    for number, words in ((1, "Run 1 is an import, not a verification"), (99, "There is no run 99")):
        done = command("report", str(number), archive=world.archive.path)
        assert (done.code, words in done.err) == (2, True)


def test_rejected_records_say_what_to_do(tmp_path: Path) -> None:
    world = fill(tmp_path, count=1)
    row = render(5)
    del row["project_id"]
    file = tmp_path / "r.json"
    file.write_text(json.dumps([row]))
    done = command("import", "renders", file, archive=world.archive.path)
    assert "projectId is missing; add it, or pass --project ID" in done.err
    assert "1 rejected; 1 read. Nothing was imported. Save the rejected ones with --rejects FILE" in done.err
