"""The command line as a process: exit code, stdout, stderr."""

import fcntl
import json
import os
import pty
import re
import shlex
import signal
import socket
import sqlite3
import stat
import struct
import subprocess
import termios
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import cli
from craftkit_archive import __version__
from craftkit_archive.commands import signals as signals_module
from tests.worlds import (
    LIVE_KEY,
    NORTHWIND,
    ROOT,
    SAMPLE,
    Done,
    World,
    command,
    fill,
    keys,
    lack,
    live,
    pdf,
    program,
    projects,
    render,
    render_id,
    write_json,
    write_ndjson,
)


def at(world: World, *words: str | Path, **options: Any) -> Done:
    """Run a command on a world's archive."""
    return command(*words, archive=world.archive.path, **options)


def summary(done: Done) -> dict[str, Any]:
    last = done.lines[-1]
    assert last["type"] == "summary"
    assert last["exit_code"] == done.code
    return last


# --- one day of an operator ------------------------------------------------------------------------------------------


def test_the_main_job_command_by_command(world: World, tmp_path: Path) -> None:
    archive = tmp_path / "new"
    assert command("init", archive=archive).code == 0
    files = {
        "projects": write_json(tmp_path / "projects.json", projects()),
        "keys": write_json(tmp_path / "keys.json", keys()),
        "renders": write_ndjson(tmp_path / "renders.ndjson", [render(n) for n in range(6)]),
    }
    for kind, file in files.items():
        done = command("import", kind, file, archive=archive)
        assert (done.code, done.out) == (0, "")
        assert "inserted" in done.err
    fetched = command("fetch", world.bucket, archive=archive)
    assert (fetched.code, fetched.out) == (3, "")
    assert "not stored: the source does not have it" in fetched.err
    assert command("verify", archive=archive).code == 0
    assert command("export", tmp_path / "out", "--project", "northwind", archive=archive).code == 3
    assert (tmp_path / "out/missing.csv").exists()
    status = command("status", archive=archive)
    assert status.code == 0
    assert re.search(rf"^northwind +{NORTHWIND} +6 +6 +5 ", status.out, re.MULTILINE)


def test_metadata_comes_in_on_standard_input(world: World) -> None:
    done = at(world, "--json", "import", "renders", "-", stdin=json.dumps([render(20), render(21)]).encode())
    assert summary(done)["counts"]["inserted"] == 2


def test_rejects_are_written_and_told_and_the_good_goes_in(world: World, tmp_path: Path) -> None:
    file = write_ndjson(tmp_path / "r.ndjson", [render(20), render(21, status="done")])
    done = at(world, "import", "renders", file, "--rejects", tmp_path / "rejects.ndjson")
    assert done.code == 1
    assert f"{file}:2: status: expected one of queued" in done.err
    [reject] = map(json.loads, (tmp_path / "rejects.ndjson").read_text().splitlines())
    assert (reject["line"], reject["record"]["id"], reject["source"]) == (2, render_id(21), str(file))
    assert reject["reason"].startswith("status:")


def test_many_findings_are_cut_short_unless_asked_for(world: World, tmp_path: Path) -> None:
    file = write_ndjson(tmp_path / "r.ndjson", [render(n, status="done") for n in range(50)])
    assert "… and 30 more" in at(world, "import", "renders", file).err
    verbose = at(world, "-v", "import", "renders", file).err
    assert verbose.count("rejected  ") == 50


def test_a_key_is_printed_once_and_works_until_it_is_revoked(world: World) -> None:
    made = at(world, "keys", "create", "--project", "northwind", "--name", "me")
    assert made.code == 0
    key = made.out.strip()
    assert re.fullmatch(r"ck_live_[\w-]{43}", key)
    listed = at(world, "keys", "list", "--project", "northwind")
    assert key[:12] in listed.out
    assert key not in listed.out
    revoked = at(world, "--json", "keys", "revoke", key[:12])
    assert revoked.lines[0]["revoked_at"]
    assert key not in "".join(path.read_text("latin-1") for path in world.archive.path.glob("archive*"))


def test_quiet_says_nothing_and_gives_results(world: World) -> None:
    for words in (["verify"], ["status"], ["doctor"]):
        done = at(world, "-q", *words)
        assert (done.code, done.out, done.err) == (0, "", "")
    assert re.fullmatch("[0-9a-f]{64}\n", at(world, "-q", "seal").out)


def test_a_dry_run_of_an_export_prints_the_plan(world: World, tmp_path: Path) -> None:
    done = at(world, "export", tmp_path / "out", "--dry-run")
    assert done.code == 0
    assert done.out.splitlines()[0].split() == [
        str(world.asset(0).stat().st_size),
        f"northwind/2026/06/{render_id(0)}.pdf",
    ]


# --- JSON ------------------------------------------------------------------------------------------------------------

JSON_COMMANDS = [
    ["verify"],
    ["status"],
    ["seal"],
    ["doctor"],
    ["report"],
    ["backup", "{folder}/copy.db"],
    ["keys", "list"],
    ["keys", "create", "--project", "northwind"],
    ["keys", "revoke", "key-1"],
    ["fetch", "{bucket}"],
    ["fetch", "{bucket}", "--dry-run"],
    ["export", "{folder}/out"],
    ["import", "projects", "{folder}/projects.ndjson"],
    ["fetch", "/nowhere"],
    ["import", "renders", "/nowhere"],
    ["export", "{folder}/out", "--project", "nobody"],
    ["--nonsense"],
    ["nonsense"],
    ["verify", "--level", "deep"],
]


@pytest.mark.parametrize("words", JSON_COMMANDS, ids=" ".join)
def test_every_line_is_json_and_the_last_is_the_summary(world: World, words: list[str]) -> None:
    filled = [word.format(bucket=world.bucket, folder=world.folder) for word in words]
    done = at(world, "--json", *filled)
    last = summary(done)
    assert {"type", "command", "outcome", "exit_code", "counts"} <= set(last)
    assert all("type" in line for line in done.lines)
    assert done.err == ""
    plain = [
        word
        for word in words
        if word in ("keys", "create", "list", "revoke", "verify", "status", "fetch", "export")
        or word in ("seal", "doctor", "report", "backup")
    ]
    assert last["command"] in (" ".join(plain), "import", None)
    if last["outcome"] == "error":
        assert done.lines[-2]["type"] == "error"
        assert done.lines[-2]["message"]


def test_findings_are_lines_of_json(world: World) -> None:
    world.asset(2).unlink()
    done = at(world, "--json", "verify")
    assert done.code == 1
    assert done.lines[0] | {"run_id": 0, "found_at": ""} == {
        "type": "finding",
        "run_id": 0,
        "render_id": render_id(2),
        "key": render(2)["asset_key"],
        "verdict": "missing",
        "expected": None,
        "found": None,
        "detail": done.lines[0]["detail"],
        "acknowledged": None,
        "found_at": "",
    }
    assert summary(done)["counts"] == {"checked": 5, "ok": 4, "missing": 1}


# --- exit codes and clear sentences ----------------------------------------------------------------------------------


def test_an_archive_that_is_not_there_is_10(tmp_path: Path) -> None:
    for words in (["verify"], ["fetch", "x"], ["status"], ["serve"], ["keys", "list"], ["export", "x"]):
        done = command(*words, archive=tmp_path / "nothing")
        assert done.code == 10
        assert "init" in done.err
        assert len(done.err.splitlines()) == 1


def test_a_second_writer_is_11(world: World) -> None:
    with world.archive.lock("fetch"):
        done = at(world, "fetch", world.bucket)
    assert done.code == 11
    assert f"process {os.getpid()}" in done.err


def test_a_newer_or_damaged_catalog_is_13(world: World) -> None:
    world.archive.catalog.close()
    with closing(sqlite3.connect(world.archive.path / "archive.db")) as connection, connection:
        connection.execute("UPDATE _sqlite_migrations SET name = 'm999' WHERE name = 'm001_tables'")
    assert at(world, "status").code == 13
    for file in world.archive.path.glob("archive.db*"):
        file.unlink()
    (world.archive.path / "archive.db").write_bytes(b"x" * 5000)
    done = at(world, "status")
    assert done.code == 13
    assert "Traceback" not in done.err


def test_a_store_that_is_offline_is_14(world: World, tmp_path: Path) -> None:
    assert at(world, "fetch", tmp_path / "nowhere").code == 14
    Path(world.archive.store.address).rename(tmp_path / "unmounted")
    assert at(world, "verify").code == 14
    assert at(world, "fetch", world.bucket).code == 14
    assert at(world, "export", tmp_path / "out").code == 14
    assert at(world, "serve", "--listen", "127.0.0.1:0").code == 14


def test_what_cannot_be_written_is_15(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert at(world, "export", tmp_path / "file" / "out").code == 15
    assert command("init", archive=tmp_path / "file" / "archive").code == 15


def test_a_full_output_is_15_and_no_traceback(world: World) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            program("status", archive=world.archive.path),
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 15
    assert b"Traceback" not in done.stderr


def test_a_full_disk_is_15_and_loses_nothing(world: World, tmp_path: Path) -> None:
    """A real small file system, full."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6M", "none", small], capture_output=True)
    if mounted.returncode:
        lack("the right to mount a file system")
    try:
        archive = small / "archive"
        assert command("init", archive=archive).code == 0
        renders = [render(n) for n in range(200)]
        file = write_ndjson(tmp_path / "r.ndjson", renders)
        assert command("import", "renders", file, archive=archive).code == 0
        for row in renders:
            path = world.bucket / row["asset_key"]
            path.write_bytes(pdf(row["id"], size_bytes=40_000))
        done = command("fetch", world.bucket, archive=archive)
        assert done.code == 15
        assert "No space is left" in done.err
        assert "Traceback" not in done.err
        subprocess.run(["mount", "-o", "remount,size=30M", small], check=True)
        verified = command("--json", "verify", archive=archive)
        counts = summary(verified)["counts"]
        # All that is recorded is good; what was stored and not recorded before it ended is reported. The full disk
        # may have refused every record.
        assert verified.code == (3 if "unrecorded" in counts else 0)
        assert counts["ok"] == counts["checked"]
        assert 0 < counts["ok"] + counts.get("unrecorded", 0) < 200
        assert command("fetch", world.bucket, archive=archive).code == 0
        assert summary(command("--json", "verify", archive=archive))["counts"] == {"checked": 200, "ok": 200}
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_a_read_only_file_system_is_15(world: World, tmp_path: Path) -> None:
    mount = tmp_path / "read-only"
    mount.mkdir()
    world.archive.catalog.close()
    bound = subprocess.run(["mount", "--bind", world.archive.path, mount], capture_output=True)
    if bound.returncode:
        lack("the right to mount a file system")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", mount], check=True)
        assert command("status", archive=mount).code == 0
        assert command("export", tmp_path / "out", archive=mount).code == 0
        for words in (["fetch", world.bucket], ["verify"], ["import", "projects", "-"], ["keys", "revoke", "key-1"]):
            done = command(*words, archive=mount)
            assert (words, done.code) == (words, 15)
            assert "Traceback" not in done.err
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["--nonsense"],
        ["import", "invoices", "x"],
        ["import", "renders", "/nowhere"],
        ["verify", "--jobs", "0"],
        ["verify", "--project", "nobody"],
        ["export", "out", "--since", "yesterday"],
        ["export", "out", "--project", "\udcff"],
        ["serve", "--listen", "8080"],
        ["serve", "--listen", "192.0.2.1:1"],
        ["fetch", "ftp://me:secret@host/"],
        ["keys", "create", "--project", "nobody"],
        ["keys", "revoke", "nobody"],
        ["init"],
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_2(world: World, words: list[str]) -> None:
    done = at(world, *words)
    assert done.code == 2
    assert done.out == ""
    assert "Traceback" not in done.err
    assert "secret" not in done.err


def test_our_own_bug_is_70_with_its_traceback(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_given: object, **_names: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("craftkit_archive.report.gather.describe_archive", broken)
    done = CliRunner().invoke(cli.main, ["--archive", str(world.archive.path), "status"])
    assert done.exit_code == 70
    assert "ZeroDivisionError" in done.output


def test_the_version_is_told() -> None:
    assert command("--version").out == f"craftkit-archive {__version__}\n"


@pytest.mark.parametrize("store", ["", ".", "..", "../.."])
def test_a_store_that_would_hold_the_archive_is_2(tmp_path: Path, store: str) -> None:
    assert command("init", "--store", store, archive=tmp_path / "a" / "archive").code == 2


def test_a_making_that_was_interrupted_can_be_done_again(tmp_path: Path) -> None:
    before = (
        "from craftkit_archive.stores.folder import FolderStore; real = FolderStore.mark\n"
        "def mark(*given): real(*given); import os; os._exit(9)\n"
        "FolderStore.mark = mark"
    )
    assert subprocess.run(program("init", archive=tmp_path / "a", before=before), cwd=ROOT).returncode == 9
    assert command("status", archive=tmp_path / "a").code == 10
    assert command("init", archive=tmp_path / "a").code == 0
    assert command("verify", archive=tmp_path / "a").code == 0
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        "archive.db",
        "archive.lock",
        "assets",
        "audit.ndjson",
    }


def test_a_key_of_a_deleted_project_is_not_made(world: World) -> None:
    done = at(world, "keys", "create", "--project", "gone")
    assert (done.code, done.out) == (2, "")
    assert "deleted" in done.err


def test_an_empty_source_is_2(world: World) -> None:
    assert at(world, "fetch", "").code == 2


def test_a_current_directory_that_is_gone_is_told(world: World, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    words = program("verify", archive=world.archive.path)
    script = f"import os; os.rmdir(os.getcwd()); os.execv({words[0]!r}, {words!r})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([words[0], "-c", script], cwd=gone, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "current directory" in done.stderr


# --- rejects ---------------------------------------------------------------------------------------------------------


def test_rejects_never_take_the_place_of_what_is_read_or_kept(world: World, tmp_path: Path) -> None:
    file = write_ndjson(tmp_path / "r.ndjson", [render(20), render(21, status="done")])
    link = tmp_path / "link"
    link.symlink_to(file)
    for rejects in (file, link, world.archive.path / "archive.db"):
        before = rejects.read_bytes()
        assert at(world, "import", "renders", file, "--rejects", rejects).code == 2
        assert rejects.read_bytes() == before
    old = tmp_path / "old.ndjson"
    old.write_text("old")
    with world.archive.lock("fetch"):
        assert at(world, "import", "renders", file, "--rejects", old).code == 11
    assert old.read_text() == "old"
    assert at(world, "import", "renders", file, "--rejects", old).code == 1
    assert stat.S_IMODE(old.stat().st_mode) == 0o600
    assert len(old.read_text().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.glob("old*")) == ["old.ndjson"]


# --- output that cannot be written -----------------------------------------------------------------------------------


def shell(line: str, world: World) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which $CK is the program."""
    words = " ".join(shlex.quote(word) for word in program(archive=world.archive.path))
    return subprocess.run(
        ["bash", "-c", f'set -o pipefail; ck() {{ {words} "$@"; }}; {line}'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "line", ["ck status | exec 0<&-", "ck --json keys list | true", "ck --json verify | head -c 0"]
)
def test_a_reader_that_has_gone_is_141_and_no_damage(world: World, line: str) -> None:
    done = shell(f"sleep 0.1; {line}", world)
    assert done.returncode in (0, 141), "141 unless it was quicker than its reader"
    assert "craftkit-archive:" not in done.stderr


@pytest.mark.parametrize("line", ["ck status >&-", "ck verify 2>&-", "ck verify <&- >&- 2>&-", "ck --json verify >&-"])
def test_streams_that_are_closed_do_no_harm(world: World, line: str) -> None:
    done = shell(line, world)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert at(world, "verify").code == 0


def test_a_full_output_is_told(world: World) -> None:
    done = shell("ck status > /dev/full", world)
    assert done.returncode == 15
    assert "Standard output cannot be written (No space left on device)" in done.stderr


def test_a_new_key_that_nobody_saw_is_revoked(world: World) -> None:
    done = shell("ck keys create --project northwind > /dev/full", world)
    assert done.returncode == 15
    assert "revoked" in done.stderr
    assert all(key.revoked_at for key in world.archive.list_keys() if not key.id.startswith("key-"))


def test_foreign_names_do_not_steer_the_terminal(world: World, tmp_path: Path) -> None:
    evil = "x\x1b[2J\nverify: ok: 33 checked\u202e\tvalid"
    row = {"id": "evil", "name": evil, "slug": evil}
    assert at(world, "import", "projects", write_json(tmp_path / "p.json", row)).code == 0
    key = {"id": "evil", "project_id": "evil", "name": evil, "key_hash": "0" * 64}
    assert at(world, "import", "keys", write_json(tmp_path / "k.json", key)).code == 0
    for done in (at(world, "status"), at(world, "keys", "list")):
        assert not set(done.out) & set("\x1b\u202e")
        assert not [line for line in done.out.splitlines() if line.startswith("verify: ok")]
    assert len(at(world, "keys", "list").out.splitlines()) == len(world.archive.list_keys()) + 1


def test_any_locale_will_do(world: World) -> None:
    for variables in ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}):
        done = at(world, "import", "keys", "-", stdin=b'{"id": "k", "key": "\xc3\xa9"}', env=variables)
        assert done.code == 1


# --- copies ----------------------------------------------------------------------------------------------------------


def test_a_copy_of_the_file_alone_knows_that_a_key_was_revoked(world: World, tmp_path: Path) -> None:
    with live(world.archive) as url:
        request = urllib.request.Request(f"{url}/v1/renders/x", headers={"Authorization": f"Bearer {LIVE_KEY}"})
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(request)
        assert at(world, "keys", "revoke", "key-1").code == 0
        (tmp_path / "copy.db").write_bytes((world.archive.path / "archive.db").read_bytes())
    with closing(sqlite3.connect(tmp_path / "copy.db")) as connection, connection:
        [(revoked,)] = connection.execute("SELECT revoked_at FROM api_keys WHERE id = 'key-1'")
    assert revoked is not None


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_cleanly_with_a_summary(world: World, number: int, code: int) -> None:
    before = (
        "import time; from craftkit_archive.stores import folder; from craftkit_archive.verify import run\n"
        "run.BATCH = 1; real = folder.FolderStore.measure\n"
        "def slow(*given): print('reading', flush=True); time.sleep(0.3); return real(*given)\n"
        "folder.FolderStore.measure = slow"
    )
    words = program("--json", "verify", "--jobs", "1", archive=world.archive.path, before=before)
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as verifying:
        assert verifying.stdout is not None
        verifying.stdout.readline()
        verifying.send_signal(number)
        rest = verifying.stdout.read()
    last = json.loads(rest.splitlines()[-1])
    assert verifying.returncode == code == last["exit_code"]
    assert last["outcome"] == "interrupted"
    assert last["counts"]["checked"] == last["counts"]["ok"] > 0
    assert world.archive.catalog.last_runs(1)[0].outcome == "interrupted"


def test_a_second_signal_ends_it_at_once_with_a_summary(world: World) -> None:
    before = (
        "import time; from craftkit_archive.report import gather; from craftkit_archive.commands import signals\n"
        "def slow(*given): print('busy', flush=True); time.sleep(30)\n"
        "gather.describe_archive = slow"
    )
    words = program("--json", "status", archive=world.archive.path, before=before)
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        # However late the program comes to see the first one, and whichever the system merges: one of them is a second.
        while busy.poll() is None:
            busy.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        last = json.loads(busy.stdout.read().splitlines()[-1])
    assert busy.returncode == 143 == last["exit_code"]
    assert (last["outcome"], last["command"]) == ("interrupted", "status")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_two_signals_at_once_are_one_request(number: signal.Signals) -> None:
    with signals_module.Signals() as signals:
        for _ in range(3):
            os.kill(os.getpid(), number)
        assert (signals(), signals.exit_code) == (True, 128 + number)
        signals._noted_at -= signals_module.MERGE_SECONDS[number]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


@pytest.mark.parametrize("slow", ["cli.Commands._fail", "sys.exit", "signals.Signals.__exit__"])
def test_however_many_signals_come_the_exit_code_is_that_of_the_first(world: World, slow: str) -> None:
    before = (
        "import sys, time; from craftkit_archive.report import gather; from craftkit_archive.commands import signals\n"
        "def busy(*given): print('busy', flush=True); time.sleep(30)\n"
        f"gather.describe_archive = busy; real = {slow}\n"
        "def slow(*given): print('ending', flush=True); time.sleep(0.5); return real(*given)\n"
        f"{slow} = slow"
    )
    words = program("status", archive=world.archive.path, before=before)
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ending:
        assert ending.stdout is not None
        ending.stdout.readline()
        while ending.poll() is None:
            ending.send_signal(signal.SIGINT)
            time.sleep(0.13)
        _, said = ending.communicate()
    assert ending.returncode == 130, said
    assert "Traceback" not in said


@pytest.mark.parametrize("busy", ["time.sleep(60)", "[sum(range(10**6)) for _ in range(10**6)]"])
def test_what_never_looks_at_the_signal_is_ended_all_the_same(world: World, busy: str) -> None:
    before = (
        "import time; from craftkit_archive.report import gather; from craftkit_archive.commands import signals\n"
        f"def slow(*given): print('busy', flush=True); {busy}\n"
        "gather.describe_archive = slow; signals.END_SECONDS = 1.2"
    )
    words = program("--json", "status", archive=world.archive.path, before=before)
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as status:
        assert status.stdout is not None
        status.stdout.readline()
        status.send_signal(signal.SIGTERM)
        last = json.loads(status.stdout.read().splitlines()[-1])
    assert status.returncode == 143 == last["exit_code"]


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["http", "s3"])
@pytest.mark.parametrize("count", [0, 5, 220])
def test_what_is_stuck_in_the_network_is_ended_all_the_same(tmp_path: Path, scheme: str, count: int) -> None:
    """It may be the first question to the source, in the main thread, or a worker's: a thread or a process."""
    world = fill(tmp_path, count=max(count, 1))
    world.archive.catalog._query("DELETE FROM assets")
    before = (
        "from craftkit_archive.parallel import pool\nfrom craftkit_archive.commands import signals\n"
        "signals.END_SECONDS, pool.GRACE_SECONDS = 3.0, 1.0\n"
    )
    if count:
        before += "from craftkit_archive.sources import api, store\n"
        before += "store.StoreSource.check = api.CraftkitApi.check = lambda *_: None"
    secret = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "CRAFTKIT_API_KEY": LIVE_KEY}
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections, and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        source = [url] if scheme == "http" else ["s3://bucket", "--endpoint-url", url]
        words = program("fetch", *source, "--jobs", "2", archive=world.archive.path, before=before)
        with subprocess.Popen(words, cwd=ROOT, env={**os.environ, **secret}, stderr=subprocess.PIPE) as process:
            silent.settimeout(30)
            kept, _ = silent.accept()
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
            took = time.monotonic() - began
            kept.close()
    assert (process.returncode, took < 8) == (143, True), (took, said)
    assert b"Traceback" not in said


@pytest.mark.long
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_signal_to_the_group_makes_no_good_pdf_unverified(tmp_path: Path, jobs: str) -> None:
    world = fill(tmp_path, count=250)
    words = program("verify", "--level", "pdf", "--jobs", jobs, archive=world.archive.path)
    for delay in (0.3, 0.8, 1.3):
        process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True)
        time.sleep(delay)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        os.killpg(process.pid, signal.SIGTERM)
        _, told = process.communicate(timeout=30)
        assert process.returncode in (143, 0, -signal.SIGTERM), told  # the last before the first line of Python
        assert time.monotonic() - began < 10
        assert b"Traceback" not in told
        verdicts = world.archive.catalog._query("SELECT DISTINCT verdict FROM assets")
        assert {verdict for (verdict,) in verdicts} <= {None, "ok"}


@pytest.mark.long
@pytest.mark.parametrize("limit", ["-n 20", "-v 60000", "-v 58000", "-v 54000", "-n 12", "-v 120000"])
@pytest.mark.parametrize("words", ["status", "verify --jobs 2", "verify --level pdf"])
def test_limits_of_the_system_are_told_in_a_sentence(tmp_path: Path, limit: str, words: str) -> None:
    world = fill(tmp_path, count=220)
    line = " ".join(shlex.quote(word) for word in program(*words.split(), archive=world.archive.path))
    done = subprocess.run(["bash", "-c", f"ulimit {limit}; exec {line}"], cwd=ROOT, capture_output=True, text=True)
    if "import cli" in done.stderr and done.returncode == 1:
        return  # the interpreter itself did not start
    assert done.returncode in (0, 15), done.stderr
    assert "Traceback" not in done.stderr
    assert {finding for (finding,) in world.archive.catalog._query("SELECT verdict FROM findings")} == set()


def test_an_archive_in_a_folder_that_is_not_utf8_works(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/arch\xff\nive"))
    assert command("--json", "init", archive=path).code == 0
    for words in (["status"], ["doctor"], ["verify"], ["seal"], ["fetch", os.fsdecode(b"no\xffwhere")]):
        done = command("--json", *words, archive=path)
        assert done.code in (0, 1, 3, 14), done.err
        assert done.lines
        assert "Traceback" not in done.err


def test_a_signal_ends_an_import_that_waits_for_input(world: World) -> None:
    words = program("--json", "import", "renders", "-", archive=world.archive.path)
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as importing:
        assert importing.stdin is not None
        assert importing.stdout is not None
        importing.stdin.write(json.dumps(render(20)).encode() + b"\n")
        importing.stdin.flush()
        time.sleep(1)
        importing.send_signal(signal.SIGTERM)
        last = json.loads(importing.stdout.read().splitlines()[-1])
    assert importing.returncode == 143 == last["exit_code"]
    assert last["counts"]["inserted"] == 1


def test_no_bar_is_drawn_for_what_is_quick(world: World) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    words = program("verify", archive=world.archive.path)
    with subprocess.Popen(words, cwd=ROOT, stderr=slave) as verifying:
        verifying.wait()
    os.close(slave)
    shown = os.read(master, 100_000).decode()
    os.close(master)
    assert "| 0/5 [" not in shown
    assert "\r" not in at(world, "verify").err


# --- serve and quickstart --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_serve_prints_where_it_listens_and_stops_on_a_signal(world: World, number: int, code: int) -> None:
    words = program("--json", "serve", "--listen", "127.0.0.1:0", archive=world.archive.path)
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as serving:
        assert serving.stdout is not None
        assert serving.stderr is not None
        url = json.loads(serving.stdout.readline())["url"]
        request = urllib.request.Request(
            f"{url}/v1/renders/{render_id(1)}/download", headers={"Authorization": f"Bearer {LIVE_KEY}"}
        )
        with urllib.request.urlopen(request) as answer:
            assert answer.read() == world.asset(1).read_bytes()
        serving.send_signal(number)
        last = json.loads(serving.stdout.read().splitlines()[-1])
        assert serving.stderr.read() == b""
    assert serving.returncode == code == last["exit_code"]


def test_an_address_that_is_taken_is_told(world: World) -> None:
    from server.serve import listen

    with listen("127.0.0.1:0") as listener:
        done = at(world, "serve", "--listen", f"127.0.0.1:{listener.getsockname()[1]}")
    assert done.code == 2
    assert "another address" in done.err


def test_quickstart_does_the_main_job_on_the_sample_and_can_be_run_again(tmp_path: Path) -> None:
    for _ in range(2):
        done = command("quickstart", SAMPLE, "--once", archive=tmp_path / "archive")
        assert done.code == 0, done.err
        assert "whose digest is the recorded one" in done.err
        assert (tmp_path / "archive/export/manifest-sha256.txt").exists()
    assert "42 unchanged" in done.err


def test_the_curl_line_of_quickstart_works_when_pasted(tmp_path: Path) -> None:
    words = program("quickstart", SAMPLE, archive=tmp_path / "archive")
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as serving:
        assert serving.stdout is not None
        line = serving.stdout.readline()
        assert line.startswith("curl ")
        pasted = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True)
        serving.send_signal(signal.SIGINT)
    assert pasted.returncode == 0, pasted.stderr
    assert (tmp_path / "sample.pdf").read_bytes().startswith(b"%PDF-")
    assert serving.returncode == 130


def test_quickstart_says_what_a_folder_lacks(tmp_path: Path) -> None:
    done = command("quickstart", tmp_path, "--once", archive=tmp_path / "archive")
    assert done.code == 2
    assert "projects.json" in done.err


def test_a_key_of_the_sample_is_documented_as_it_is() -> None:
    readme = (SAMPLE / "README.md").read_text()
    listed = json.loads((SAMPLE / "keys.json").read_text())
    assert len(re.findall(r"ck_(?:live|test)_\w+SAMPLE\w+", readme)) >= len(listed)
    assert NORTHWIND not in readme
