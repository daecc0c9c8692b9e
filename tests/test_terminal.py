"""On a terminal: what is shown stays in its place, fits the window, and is coloured; elsewhere nothing of that is."""

import json
import subprocess

from tests.terminals import Terminal
from tests.worlds import ROOT, World, command, program

# --- status --watch --------------------------------------------------------------------------------------------------


def test_a_watched_status_stays_in_its_place_and_follows_the_archive(world: World) -> None:
    world.archive.catalog.close()
    with Terminal("status", "--watch", "0.5", archive=world.archive.path) as terminal:
        terminal.read(lambda: terminal.raw.count(b"Ctrl-C ends it") == 3)
        world.archive.create_key("northwind")
        assert command("verify", "-q", archive=world.archive.path).code == 0
        terminal.read(lambda: any(" verify " in line for line in terminal.shown))
        terminal.interrupt()
        assert terminal.finish() == 130
    titles = [[at for at, line in enumerate(screen) if "Ctrl-C ends it" in line] for screen in terminal.screens]
    assert {tuple(rows) for rows in titles} <= {(), (0,)}, "once, and always in the first line"
    assert "northwind" in "\n".join(terminal.shown), "the last one stays"
    assert b"\x1b[2J" not in terminal.raw, "the screen is not cleared"


def test_a_watched_status_fits_a_small_window_and_a_new_size(world: World) -> None:
    world.archive.catalog.close()
    with Terminal("status", "--watch", "0.5", archive=world.archive.path, columns=50, lines=6) as terminal:
        terminal.read(lambda: terminal.raw.count(b"every 0.5 s") >= 3 or terminal.raw.count(b"\x1b[J") >= 3)
        assert len(terminal.screens[-1]) <= 6
        terminal.resize(120, 30)
        frames = terminal.raw.count(b"\x1b[J")
        terminal.read(lambda: terminal.raw.count(b"\x1b[J") >= frames + 2)
        terminal.interrupt()
        assert terminal.finish() == 130
    assert sum("Ctrl-C ends it" in line for line in terminal.shown) <= 2


def test_a_watched_status_in_a_pipe_is_one_after_the_other(world: World) -> None:
    world.archive.catalog.close()
    words = program("status", "--watch", "0.5", archive=world.archive.path)
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        seen: list[str] = []
        while sum("Ctrl-C ends it" in line for line in seen) < 3:
            seen.append(watching.stdout.readline())
        watching.terminate()
        assert "\x1b" not in "".join([*seen, watching.stdout.read()])
    assert watching.returncode == 143
    words = program("--json", "status", "--watch", archive=world.archive.path)
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        summaries = 0
        while summaries < 2:
            summaries += json.loads(watching.stdout.readline())["type"] == "summary"
        watching.terminate()
    assert watching.returncode == 143


def test_watching_takes_seconds_that_make_sense(world: World) -> None:
    assert command("status", "--watch", "0", archive=world.archive.path).code == 2
    assert command("status", "--watch", "5", "--nagios", archive=world.archive.path).code == 2
