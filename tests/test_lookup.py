"""Looking things up: the right renders, runs and findings, as tables that fit, as lines, and as ids for pipes."""

import csv
import io
import json
import os
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, get_args

import click
import pytest
import wcwidth
from hypothesis import example, given, settings
from hypothesis import strategies as st

import cli
from craftkit_archive import Archive, errors, list_findings, list_renders, list_runs
from craftkit_archive.columns import Column, Table, one_line
from craftkit_archive.commands.console import Console
from craftkit_archive.commands.options import GLOBAL_OPTIONS
from craftkit_archive.records import Record, Summary
from craftkit_archive.states import State
from craftkit_archive.verify.run import verify_assets
from tests.worlds import (
    NORTHWIND,
    ROOT,
    World,
    command,
    fill,
    load,
    peak_kib,
    program,
    put,
    render,
    render_id,
    summary_of,
)

LISTS = [
    "status",
    "renders list",
    "runs list",
    "findings list",
    "report",
    "report --list",
    "keys list",
    "quarantine list",
    "accept --list",
    "audit log",
]
A_FILE = "Name a text file with one render id on each line."
HOSTILE = "請求書\x1b[31m\u202eevil\n" + "long" * 30


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return an archive with something in each state, and names that no table likes."""
    world = fill(tmp_path_factory.mktemp("lookup"), count=8)
    load(
        world.archive,
        world.folder,
        "renders",
        [
            render(20, status="failed", error_message=HOSTILE, template_id=HOSTILE),
            render(21),
            render(22),
            render(23, template_id="Größe ﷽ 👩‍👩‍👧"),
        ],
    )
    for number in (0, 1):
        flip(world.asset(number))
    world.asset(2).unlink()
    summary_of(verify_assets(world.archive))
    assert (
        command("repair", world.bucket, "--ids", "-", archive=world.archive.path, stdin=render_id(1).encode()).code == 0
    )
    lost = world.folder / "lost.txt"
    lost.write_text(render_id(21))
    assert command("accept", "--ids", lost, "--reason", HOSTILE, archive=world.archive.path).code == 0
    put(Path(world.archive.store.address), "renders/nobody's.pdf", b"x")
    summary_of(verify_assets(world.archive))
    world.archive.catalog.close()
    return world


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


def rows(records: Iterator[Record]) -> list[Any]:
    """Return what a look-up yields before its summary."""
    *found, summary = records
    assert isinstance(summary, Summary)
    assert list(summary.counts.values()) == [len(found)]
    return found


def ids(world: World, *words: str) -> list[str]:
    done = command("renders", "list", "--format", "ids", *words, archive=world.archive.path)
    assert done.code == 0, done.err
    return done.out.splitlines()


# --- what is listed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_renders_are_listed_by_the_states_of_the_view(damaged: World, count: int) -> None:
    with closing(sqlite3.connect(damaged.archive.path / "archive.db")) as catalog:
        states = dict(catalog.execute("SELECT render_id, state FROM asset_states").fetchall())
    assert {"damaged", "ok", "unchecked", "not-stored", "acknowledged"} & set(states.values()) >= {
        "damaged",
        "ok",
        "not-stored",
        "acknowledged",
    }
    with Archive(damaged.archive.path, read_only=True) as archive:
        for wanted in combinations([state for state in get_args(State) if state != "extra"], count):
            found = rows(list_renders(archive, states=wanted))
            assert [one.id for one in found] == sorted(i for i, state in states.items() if state in wanted)
        everything = rows(list_renders(archive))
    assert {one.id: one.state for one in everything} == states


def test_the_command_has_a_word_for_each_question(damaged: World) -> None:
    assert ids(damaged, "--damaged") == [render_id(0), render_id(2)]
    assert ids(damaged, "--not-stored") == [render_id(22), render_id(23)]
    assert ids(damaged, "--damaged", "--not-stored") == [render_id(n) for n in (0, 2, 22, 23)]
    assert ids(damaged, "--state", "acknowledged") == [render_id(21)]
    assert ids(damaged, "--status", "failed") == [render_id(20)]
    assert ids(damaged, "--project", "southwind") == []
    assert len(ids(damaged, "--project", "northwind")) == 12
    assert ids(damaged, "--search", "GRÖ", "--limit", "5") == []  # only ASCII letters match in either case
    assert ids(damaged, "--search", "GRößE") == [render_id(23)]
    assert ids(damaged, "--search", "\x1b[31m") == [render_id(20)]
    assert ids(damaged, "--until", "2020-01-01") == []
    assert len(ids(damaged, "--since", "2020-01-01")) == 12
    limited = command("renders", "list", "--limit", "3", archive=damaged.archive.path)
    assert limited.err == "renders list: 3 renders shown, and there are more: raise --limit above 3\n"


def test_a_verification_takes_renders_since_a_time(world: World) -> None:
    load(world.archive, world.folder, "renders", [render(3, created_at="2027-01-01T00:00:00Z")])
    for since, checked in (("2020-01-01", 5), ("2027-01-01", 1), ("2027-01-02", 0)):
        done = command("--json", "verify", "--since", since, archive=world.archive.path)
        assert done.lines[-1]["counts"].get("checked", 0) == checked, since


def test_unknown_words_are_refused(damaged: World) -> None:
    with Archive(damaged.archive.path, read_only=True) as archive:
        for wrong in ({"states": ["lost"]}, {"states": "damaged"}):
            with pytest.raises(errors.RequestError, match="Unknown state"):
                list(list_renders(archive, **wrong))
        with pytest.raises(errors.RequestError, match=r"There is no run 999\. See `runs list`\."):
            list(list_findings(archive, run_id=999))
    done = command("runs", "show", "999", archive=damaged.archive.path)
    assert (done.code, done.err) == (2, "craftkit-archive: There is no run 999. See `runs list`.\n")
    assert command("renders", "list", "--project", "nobody", archive=damaged.archive.path).code == 2


def test_pages_join_without_a_gap_or_a_double(damaged: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with Archive(damaged.archive.path, read_only=True) as archive:

        def everything() -> list[list[Record]]:
            return [rows(one) for one in (list_renders(archive), list_findings(archive), list_runs(archive))]

        expected = everything()
        for module in ("catalog.connection.PAGE", "catalog.lookup.PAGE", "lookup.RUNS"):
            monkeypatch.setattr(f"craftkit_archive.{module}", 2)
        assert everything() == expected
    assert all(len(one) > 2 for one in expected)


def test_findings_are_what_is_wrong_now_and_a_run_says_what_it_saw(damaged: World) -> None:
    with Archive(damaged.archive.path, read_only=True) as archive:
        now = rows(list_findings(archive))
        verifications = [one.id for one in rows(list_runs(archive, command="verify"))]
        first = rows(list_findings(archive, run_id=verifications[-1]))
        extra = rows(list_findings(archive, states=["extra"]))
    assert [(one.render_id, one.verdict) for one in now] == [
        (render_id(0), "wrong-digest"),
        (render_id(2), "missing"),
        (None, "orphan"),
    ]
    assert [one.render_id for one in first] == [render_id(0), render_id(1), render_id(2)]
    assert [one.key for one in extra] == ["renders/nobody's.pdf"]
    assert {one.project_slug for one in now} == {"northwind", None}


def test_a_run_is_shown_with_everything_known_of_it(damaged: World) -> None:
    shown = command("runs", "show", "1", archive=damaged.archive.path)
    assert shown.code == 0
    assert "command    import\n" in shown.out
    found = command("--json", "runs", "show", "1", archive=damaged.archive.path)
    assert [line["type"] for line in found.lines] == ["run", "summary"]


# --- for programs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["renders list", "runs list", "findings list"])
def test_every_form_says_the_same(damaged: World, words: str) -> None:
    def out(*more: str) -> str:
        return command(*words.split(), *more, archive=damaged.archive.path).out

    lines = [json.loads(line) for line in out("--format", "json").splitlines()]
    *records, summary = [json.loads(line) for line in out("--json").splitlines()]
    assert lines == records
    assert (summary["command"], summary["exit_code"]) == (words, 0)
    rows = list(csv.DictReader(io.StringIO(out("--format", "csv"), newline="")))
    assert len(rows) == len(lines)
    for name in ("id", "key", "verdict", "command"):
        assert [row.get(name) or "" for row in rows] == [str(line.get(name) or "") for line in lines]
    if words != "runs list":
        written = out("--format", "ids").splitlines()
        assert written == [line.get("id", line.get("render_id")) for line in lines if line.get("render_id", 1)]
    clash = command("--json", *words.split(), "--format", "csv", archive=damaged.archive.path)
    assert clash.code == 2
    assert clash.lines[0]["message"] == "--json and --format csv exclude each other. Leave one of them out."


def test_ids_are_piped_from_one_command_into_another(damaged: World) -> None:
    def line(*words: str) -> str:
        return shlex.join(program(*words, archive=damaged.archive.path))

    for chosen, taking, checked in (
        (("--damaged",), ("verify", "--ids", "-"), 2),
        (("--state", "ok"), ("verify", "--ids", "-"), 6),
        (("--project", "southwind"), ("verify", "--ids", "-"), 0),
    ):
        both = f"{line('renders', 'list', '--format', 'ids', *chosen)} | {line('--json', *taking)}"
        done = subprocess.run(["bash", "-c", both], cwd=ROOT, capture_output=True, text=True)
        assert json.loads(done.stdout.splitlines()[-1])["counts"].get("checked", 0) == checked, done.stderr


@pytest.mark.parametrize("name", [" r1", "r1 ", "a\u2028b", "a\x85b", "a\x1cb"])
def test_an_id_is_the_same_on_both_ends_of_a_pipe(world: World, name: str) -> None:
    load(world.archive, world.folder, "renders", [render(30, id=name, asset_key=None)])
    if [one.id for one in rows(list_renders(world.archive, search=name))] != [name]:
        return  # the import refuses such an id
    listed = command("renders", "list", "--search", name, "--format", "ids", archive=world.archive.path).out
    file = world.folder / "ids.txt"
    file.write_text(listed)
    assert world.archive.select(ids=file).render_ids == (name,)


# --- tables ----------------------------------------------------------------------------------------------------------


def width(text: str) -> int:
    found = wcwidth.wcswidth(text)
    assert found >= 0, f"a control character in {text!r}"
    return found


@pytest.mark.long
@pytest.mark.parametrize("words", LISTS)
@pytest.mark.parametrize("window", [40, 80, 140])
def test_every_list_fits_the_window(damaged: World, words: str, window: int) -> None:
    done = command(*words.split(), archive=damaged.archive.path, env={"COLUMNS": str(window)})
    assert done.code in (0, 1)
    assert done.out
    for line in done.out.splitlines():
        # A seal is never cut: it is compared with what was written down.
        assert width(line) <= max(window, 74 if line.startswith("seal ") else 0), line
    assert "\x1b" not in done.out + done.err
    assert "\u202e" not in done.out


@pytest.mark.parametrize("words", LISTS)
def test_verbose_shows_everything_whole(damaged: World, words: str) -> None:
    done = command(*words.split(), "-v", archive=damaged.archive.path, env={"COLUMNS": "80"})
    assert "…" not in done.out


def test_slugs_stand_beside_ids_and_digests_are_short(damaged: World) -> None:
    wide = command("renders", "list", archive=damaged.archive.path, env={"COLUMNS": ""}).out
    assert wide.splitlines()[0].split()[:3] == ["ID", "PROJECT", "PROJECT"]
    assert f"{render_id(3)}  northwind  {NORTHWIND}" in wide
    [record] = [
        line
        for line in command("renders", "list", "--format", "json", archive=damaged.archive.path).lines
        if line["id"] == render_id(3)
    ]
    digest = record["sha256"]
    assert len(digest) == 64
    assert f"{digest[:10]}…" in wide
    assert digest not in wide
    assert digest in command("renders", "list", "-v", archive=damaged.archive.path).out


class Row(NamedTuple):
    """A row of a made-up table."""

    cells: list[str]


texts = st.text(st.characters(exclude_categories=[]), max_size=30)


def columns(options: list[tuple[bool, int, int, bool]]) -> list[Column]:
    def cell(at: int) -> Any:
        return lambda row: row.cells[at]

    return [
        Column("HEAD"[: at + 1], cell(at), right=right, least=least, drop=drop, middle=middle)
        for at, (right, least, drop, middle) in enumerate(options)
    ]


@settings(deadline=None)
@given(
    options=st.lists(
        st.tuples(st.booleans(), st.integers(0, 8), st.integers(0, 3), st.booleans()), min_size=4, max_size=4
    ),
    rows=st.lists(st.lists(texts, min_size=4, max_size=4), min_size=1, max_size=6),
    window=st.integers(20, 200),
)
@example(
    options=[(False, 0, 0, False)] * 4,
    rows=[["請求書" * 9, "e\u0301" * 30, "👩‍👩‍👧" * 9, "\udcff\x1b\u202e"]],
    window=21,
)
def test_a_table_fits_is_aligned_and_holds_nothing_that_steers(
    options: list[tuple[bool, int, int, bool]], rows: list[list[str]], window: int
) -> None:
    for page in (rows, rows * 2):
        lines = list(Table(columns(options), window).lines([Row(cells) for cells in page]))
        assert len(lines) == len(page) + 1
        for line in lines:
            line.encode()
            assert width(line) <= window
    whole = list(Table(columns(options), None).lines([Row(cells) for cells in rows]))
    for row, line in zip(rows, whole[1:], strict=True):
        at = 0
        for cell in (one_line(text).strip() for text in row):  # nothing is left at the end of a line
            at = line.index(cell, at) + len(cell)


@settings(deadline=None)
@given(texts)
def test_one_line_is_printable_and_what_is_printable_stays(text: str) -> None:
    shown = one_line(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()


def test_asking_for_the_version_loads_no_more_than_before() -> None:
    script = "import sys, cli\ntry: cli.main(['--version'])\nexcept SystemExit: pass\nprint(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"wcwidth", "msgspec", "csv", "textwrap", "sqlite3"} & set(loaded.stdout.split())


# --- a list that nobody reads to its end ------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [*LISTS, "doctor", "runs show 1", "renders list --format ids", "--json renders list",
                                   "findings list --format csv", "seal", "report --format ndjson"])  # fmt: skip
def test_a_reader_that_goes_away_ends_a_command_without_a_word(damaged: World, words: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        program(*words.split(), archive=damaged.archive.path), cwd=ROOT, stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("form", ["table", "ids", "json", "csv"])
def test_head_takes_its_lines_of_a_long_list_and_the_rest_is_quiet(tmp_path: Path, form: str) -> None:
    with Archive.create(tmp_path / "archive") as archive:
        load(archive, tmp_path, "renders", [render(number) for number in range(3000)])
    line = shlex.join(program("renders", "list", "--format", form, archive=tmp_path / "archive"))
    script = f"set -o pipefail; {line} | head -n 2"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, len(done.stdout.splitlines()), done.stderr) == (141, 2, "")


# --- options before and after the command ----------------------------------------------------------------------------


def paths(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if path:
        yield path
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from paths(below, (*path, name))


PATHS = list(paths(cli.main))
GIVEN: dict[str, tuple[list[str], object]] = {
    "archive": (["--archive", "elsewhere"], Path("elsewhere")),
    "config": (["--config", os.devnull], Path(os.devnull)),
    "json": (["--json"], True),
    "progress": (["--progress", "none"], "none"),
    "quiet": (["-q"], True),
    "verbose": (["-v"], True),
}


def seen(path: tuple[str, ...], at: dict[int, list[str]], monkeypatch: pytest.MonkeyPatch) -> Console:
    """Return what a command sees where words are given before its n-th name; what else it needs is not asked for."""
    group: click.Command = cli.main
    words: list[str] = []
    for number, name in enumerate(path):
        assert isinstance(group, click.Group)
        words += [*at.get(number, []), name]
        group = group.commands[name]
    words += at.get(len(path), [])
    found: list[Console] = []
    if isinstance(group, click.Group):
        words.append(next(name for name, below in group.commands.items() if not isinstance(below, click.Group)))
        group = group.commands[words[-1]]
    for parameter in group.params:
        monkeypatch.setattr(parameter, "required", False)
    monkeypatch.setattr(group, "callback", lambda **_: found.append(click.get_current_context().obj))
    monkeypatch.delenv("CRAFTKIT_ARCHIVE", raising=False)
    with cli.main.make_context("craftkit-archive", words) as context:
        cli.main.invoke(context)
    return found[0]


def test_the_test_knows_every_option_of_the_program() -> None:
    names = {option(click.Command(None)).params[-1].name for option in GLOBAL_OPTIONS}
    assert {{"as_json": "json"}.get(name or "", name) for name in names} == set(GIVEN)


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_options_of_the_program_stand_before_and_after_each_name(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in range(len(path) + 1):
        for name, (words, value) in GIVEN.items():
            with monkeypatch.context() as patch:
                assert getattr(seen(path, {place: words}, patch), name) == value, (place, words)
        with monkeypatch.context() as patch:
            console = seen(path, {place: [word for words, _ in GIVEN.values() for word in words]}, patch)
            assert all(getattr(console, name) == value for name, (_, value) in GIVEN.items())


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_where_two_differ_the_last_one_counts(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    at = {place: ["--archive", f"at-{place}", "--progress", "none"] for place in range(len(path))}
    at[len(path)] = ["--archive", "last", "--progress", "bar"]
    console = seen(path, at, monkeypatch)
    assert (console.archive, console.progress) == (Path("last"), "bar")
    monkeypatch.setenv("CRAFTKIT_ARCHIVE", "environment")


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_no_command_has_one_name_for_two_options(path: tuple[str, ...]) -> None:
    command: click.Command = cli.main
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    taken = [word for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts)]
    assert len(taken) == len(set(taken))


# --- bars ------------------------------------------------------------------------------------------------------------

SLOW = """
import sys, time
from craftkit_archive.parallel.progress import show_progress
from craftkit_archive.records import Finding, Plan, Progress
def work():
    yield Plan(40, 40)
    for number in range(40):
        time.sleep(float(sys.argv[1]))
        yield Progress(1, 1)
        if number % 10 == 9:
            yield Finding(1, None, f"key{number}", "missing", "2026-01-01T00:00:00.000Z", None, None, None)
    if sys.argv[2:] == ["raise"]:
        raise KeyboardInterrupt
try:
    shown = show_progress(work(), mode="auto")
    for record in shown:
        if isinstance(record, Finding):
            print(record.key, file=sys.stderr, flush=True)
except KeyboardInterrupt:
    shown.close()
print("the end", file=sys.stderr)
"""


def terminal(script: str, *words: str) -> tuple[str, list[str]]:
    """Run Python on a terminal and return what was written, and the lines that are seen on it at the end."""
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with subprocess.Popen([sys.executable, "-c", script, *words], cwd=ROOT, stderr=slave, stdout=slave) as running:
        os.close(slave)
        written = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # nobody has the other end any more
                break
            written += part
        running.wait()
    os.close(master)
    text = written.decode()
    seen = []
    for line in text.split("\n"):
        cells: list[str] = []
        at = 0
        for one in line.replace("\x1b[K", ""):
            if one == "\r":
                at = 0
                continue
            cells[at : at + 1] = [one]
            at += 1
        seen.append("".join(cells).rstrip())
    return text, seen


@pytest.mark.parametrize("end", ["", "raise"])
def test_a_bar_is_drawn_after_a_second_and_gone_at_the_end(end: str) -> None:
    written, seen = terminal(SLOW, "0.05", *filter(None, [end]))
    assert "/40 " in written
    assert seen == ["key9", "key19", "key29", "key39", "the end", ""]


def test_what_takes_less_than_a_second_draws_no_bar(world: World) -> None:
    written, seen = terminal(SLOW, "0.001")
    assert "/40 " not in written
    assert seen == ["key9", "key19", "key29", "key39", "the end", ""]


# --- the quarantine, all of it ---------------------------------------------------------------------------------------


def test_all_copies_are_dropped_but_those_that_are_still_needed(world: World) -> None:
    for number in range(3):
        flip(world.asset(number))
    archive = world.archive.path
    assert command("verify", archive=archive).code == 1
    assert command("repair", world.bucket, archive=archive).code == 0
    flip(world.asset(1))
    refused = command("quarantine", "drop", "--all", archive=archive)
    assert (refused.code, refused.err) == (
        2,
        "craftkit-archive: Nobody is there to ask. Pass --yes to drop all copies without a question.\n",
    )
    done = command("--json", "quarantine", "drop", "--all", "--yes", archive=archive)
    assert done.lines[-1]["counts"] == {"dropped": 2, "kept": 1}
    assert done.code == 3
    assert [line.get("render_id") for line in done.lines if line["type"] == "skipped"] == [render_id(1)]
    events = command("--json", "audit", "log", archive=archive).lines
    assert [event["counts"] for event in events if event.get("what") == "quarantine drop"] == [{"dropped": 2}]
    by_render = command("quarantine", "drop", render_id(1), "--force", archive=archive)
    assert by_render.code == 0
    assert command("--json", "quarantine", "list", archive=archive).lines[-1]["counts"].get("held", 0) == 0


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["verify", "report", "findings list", "status", "verify -q"])
def test_people_read_extra_where_json_keeps_the_old_word(damaged: World, words: str) -> None:
    done = command(*words.split(), archive=damaged.archive.path)
    assert "orphan" not in done.out + done.err
    assert "extra" in done.out + done.err
    found = command("--json", "findings", "list", archive=damaged.archive.path).lines
    assert [line["verdict"] for line in found if line.get("state") == "extra"] == ["orphan"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("report 1", "Run 1 is an import, not a verification. See `report --list`."),
        ("report 999", "There is no run 999. See `report --list`."),
        ("findings list --run 999", "There is no run 999. See `runs list`."),
        ("report --list --format csv", "--list takes no RUN, --format or --output. Leave them out."),
        ("verify --ids nowhere", f"Cannot read nowhere (No such file or directory). {A_FILE}"),
        ("verify --ids /dev/null", "/dev/null names no render. Write one render id on each line."),
        ("quarantine drop", "Name copies, or pass --all. See `quarantine list`."),
        ("quarantine drop x", "The quarantine holds nothing named 'x'. See `quarantine list`."),
        ("keys revoke zz", "No key matches 'zz'. Give its id, its beginning or the whole key. See `keys list`."),
        ("accept", "accept needs --ids FILE --reason TEXT, --list, or --revoke --ids FILE."),
        ("seal --check aa --sign k", "--check cannot be combined with --sign or --timestamp. Leave one of them out."),
    ],
)  # fmt: skip
def test_what_cannot_be_done_says_what_can(damaged: World, words: str, said: str) -> None:
    done = command(*words.split(), archive=damaged.archive.path)
    assert (done.code, done.out, done.err) == (2, "", f"craftkit-archive: {said}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("renders list --search nothing-like-it", "renders list: no render matches"),
        ("runs list --command serve", "runs list: no run matches"),
        ("findings list --search nothing-like-it", "findings list: nothing wrong was found that matches"),
        ("keys list --project northwind", "keys list: 3 keys"),
        ("renders list --state acknowledged", "renders list: 1 render"),
    ],
)
def test_a_list_ends_with_how_many_there_are(damaged: World, words: str, said: str) -> None:
    done = command(*words.split(), archive=damaged.archive.path)
    assert (done.code, done.err) == (0, f"{said}\n")


# --- a million renders -----------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("words", ["renders list", "renders list --format ids", "findings list --format csv"])
def test_memory_is_flat_at_a_million(tmp_path: Path, words: str) -> None:
    peaks = []
    for count in (10_000, 1_000_000):
        with Archive.create(tmp_path / str(count)) as archive:
            path = archive.path
        with closing(sqlite3.connect(path / "archive.db")) as catalog, catalog:
            catalog.execute(
                "INSERT INTO renders (id, project_id, template_id, status, asset_key, created_at)"
                " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
                " SELECT printf('r-%09d', i), 'p', 't', 'succeeded', printf('renders/p/r-%09d.pdf', i),"
                " '2026-01-01T00:00:00.000Z' FROM n",
                (count,),
            )
            catalog.execute(
                "INSERT INTO assets (render_id, key, size_bytes, sha256, stored_at, verified_at, verdict)"
                " SELECT id, asset_key, 1, printf('%064d', 1), created_at, created_at, 'missing' FROM renders"
            )
            catalog.execute("INSERT INTO runs (command, started_at) VALUES ('verify', '2026-01-01T00:00:00.000Z')")
            catalog.execute(
                "INSERT INTO findings (run_id, render_id, key, verdict, found_at)"
                " SELECT (SELECT MAX(id) FROM runs), id, asset_key, 'missing', created_at FROM renders"
            )
        peaks.append(peak_kib("-q", *words.split(), archive=path))
    assert peaks[1] < peaks[0] + 30_000, peaks
