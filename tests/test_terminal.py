"""On a terminal: what is shown stays in its place, fits the window, and is coloured; elsewhere nothing of that is."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.terminals import Terminal
from tests.worlds import ROOT, World, command, fill, pdf, program, put, render, write_ndjson

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


@pytest.mark.long
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


# --- progress --------------------------------------------------------------------------------------------------------

# Slow enough that a bar is drawn, however quick the machine.
SLOWLY = """
import time
from craftkit_archive.parallel import progress
progress.BAR_DELAY_SECONDS = 0.0
def slowly(records, **how):
    def paced():
        for record in records:
            if type(record).__name__ == "Progress":
                time.sleep(0.15)
            yield record
    return shown(paced(), **how)
shown, progress.show_progress = progress.show_progress, slowly
"""


def bars(terminal: Terminal) -> list[str]:
    """Return each line that was seen with a bar in it, or with a rate where there is no end to tell."""
    return [line for screen in terminal.screens for line in screen if "/s " in line]


@pytest.mark.long
@pytest.mark.parametrize("words", [["verify"], ["export", "out"], ["fetch"], ["import"], ["seal"], ["repair"]])
def test_a_bar_shows_rate_and_time_left_and_stays_where_it_is(tmp_path: Path, words: list[str]) -> None:
    world = fill(tmp_path, count=300)
    world.archive.catalog.close()
    known: dict[str, list[str | Path]] = {
        "verify": ["verify", "--jobs", "1"],
        "export": ["export", tmp_path / "out", "--jobs", "1"],
        "fetch": ["fetch", world.bucket, "--jobs", "1"],
        "import": ["import", "renders", write_ndjson(tmp_path / "more.ndjson", [render(n) for n in range(40_000)])],
        "seal": ["seal"],
        "repair": ["repair", world.bucket],
    }
    given = known[words[0]]
    small = "\nfrom craftkit_archive.audit import sealing\nsealing.SEALED_AT_ONCE = 10\n"
    if words[0] == "repair":
        for number in range(0, 300, 2):
            world.asset(number).unlink()
        assert command("verify", "-q", archive=world.archive.path).code == 1
    if words[0] == "fetch":
        write_ndjson(tmp_path / "new.ndjson", rows := [render(n) for n in range(1000, 1300)])
        for row in rows:
            put(world.bucket, row["asset_key"], pdf(row["id"]))
        assert command("import", "-q", "renders", tmp_path / "new.ndjson", archive=world.archive.path).code == 0
    with Terminal(*given, archive=world.archive.path, columns=120, before=SLOWLY + small) as terminal:
        assert terminal.finish() == 0
    seen = bars(terminal)
    assert any("left" in line for line in seen), terminal.screens[-1]
    rows_of_bars = {at for screen in terminal.screens for at, line in enumerate(screen) if "/s " in line}
    assert len(rows_of_bars) == 1, "one line, where it was"
    assert len({line.index("/s ") for line in seen}) == 1, "each figure stays in its place"
    name = "more.ndjson" if words[0] == "import" else ".pdf"
    assert any(name in line for line in seen), seen
    assert "/s " not in "\n".join(terminal.shown), "it is gone at the end"
    assert all(len(line) <= 120 for screen in terminal.screens for line in screen)


# Counts, sizes, rates and names of all lengths.
UNEVEN = """
import sys, time
from craftkit_archive.parallel import progress
from craftkit_archive.records import Plan, Progress
progress.BAR_DELAY_SECONDS = 0.0
def work():
    yield Plan(3_000, 5 * 10**9)
    for step in range(60):
        time.sleep(0.06)
        yield Progress(50, 10 ** (step % 10), f"renders/{'x' * (step * 7 % 90)}/{step}.pdf")
for _ in progress.show_progress(work(), mode="auto"):
    pass
sys.exit(0)
"""


@pytest.mark.long
@pytest.mark.parametrize("columns", [80, 100, 160])
def test_nothing_moves_on_the_line_but_the_bar(world: World, columns: int) -> None:
    with Terminal(archive=world.archive.path, columns=columns, before=UNEVEN) as terminal:
        assert terminal.finish() == 0
    seen = bars(terminal)
    assert len(set(seen)) > 10
    assert {line.count("|") for line in seen} == {2}
    assert len({line.rindex("|") for line in seen}) == 1, "the bar has one width"
    assert len({line.index("/s ") for line in seen}) == 1
    assert len({line.index("/3,000") for line in seen}) == 1
    if columns > 80:
        assert any("x/" in line or ".pdf" in line for line in seen)


def test_a_narrow_window_breaks_no_bar(tmp_path: Path) -> None:
    world = fill(tmp_path, count=100)
    world.archive.catalog.close()
    with Terminal("verify", "--jobs", "1", archive=world.archive.path, columns=40, before=SLOWLY) as terminal:
        assert terminal.finish() == 0
    rows_of_bars = {at for screen in terminal.screens for at, line in enumerate(screen) if "%" in line and "|" in line}
    assert len(rows_of_bars) <= 1


# --- colour ----------------------------------------------------------------------------------------------------------

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def written(*words: str | Path, archive: Path, **env: str) -> str:
    """Return what a command writes on a terminal, without a bar, which only a slow run has, and without durations."""
    with Terminal("--progress", "none", *words, archive=archive, columns=160, lines=50, env=env) as terminal:
        terminal.finish()
    text = terminal.raw.decode()
    return re.sub(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d[.\d]*Z?)?|\b\d+(\.\d+)? s\b| +[\d.]+ k?B\/s", "TIME", text)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an archive in which there is something of everything."""
    world = fill(tmp_path_factory.mktemp("damaged"))
    world.archive.catalog.close()
    world.asset(1).unlink()
    world.asset(2).write_bytes(b"rust")
    assert command("verify", "-q", archive=world.archive.path).code == 1
    return world.archive.path


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "colours"),
    [
        (["status"], {"1", "31"}),
        (["renders", "list"], {"1", "31", "32"}),
        (["findings", "list"], {"1", "31"}),
        (["runs", "list"], {"1", "31"}),
        (["verify"], {"31"}),
        (["doctor"], {"31", "32"}),
        (["keys", "list"], {"1", "32"}),
        (["runs", "show", "999"], {"31"}),
    ],
)
def test_colour_says_how_bad_it_is_and_changes_no_word(damaged: Path, words: list[str], colours: set[str]) -> None:
    shown = written(*words, archive=damaged)
    assert colours <= set(re.findall(r"\x1b\[(\d+)m", shown)), shown
    for without in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        plain = written(*words, archive=damaged, **without)
        assert not COLOUR.search(plain)
        assert plain == COLOUR.sub("", shown), "the same words, in the same places"


@pytest.mark.parametrize("words", [["status"], ["doctor"], ["renders", "list"], ["runs", "show", "999"]])
def test_json_has_no_colour_and_neither_has_a_pipe(damaged: Path, words: list[str]) -> None:
    assert not COLOUR.search(written("--json", *words, archive=damaged))
    done = command(*words, archive=damaged, env={"TERM": "xterm-256color"})
    assert not COLOUR.search(done.out + done.err)


def test_an_empty_no_color_is_none(damaged: Path) -> None:
    assert COLOUR.search(written("status", archive=damaged, NO_COLOR=""))
