"""Who took what: finished access logs are bound to the audit log, and cannot be changed, cut or lost unseen."""

import bz2
import gzip
import json
import lzma
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from threading import Timer

import pytest

from craftkit_archive import Archive
from craftkit_archive.archive import CATALOG
from craftkit_archive.audit import access
from craftkit_archive.audit.access import Rotation, record_access_log
from craftkit_archive.errors import RequestError
from craftkit_archive.proof.events import ACCESS_LOG, Event
from tests.test_serving import download, eventually, lines, serving
from tests.worlds import ROOT, World, command, needs, summary_of

JSON = '{"time":"2026-11-25T10:00:00.000Z","status":200}\n{"time":"2026-11-25T11:00:00.000Z","status":404}\n'
COMBINED = (
    '127.0.0.1 id key-1 [25/Nov/2026:12:00:00 +0200] "GET / HTTP/1.1" 200 5 "-" "curl"\n'
    '127.0.0.1 id key-1 [25/Nov/2026:13:00:00 +0200] "GET / HTTP/1.1" 200 5 "-" "curl"\n'
)
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def recorded(path: Path) -> list[Event]:
    with Archive(path, read_only=True) as archive:
        return [event for event in archive.catalog.events() if event.what == ACCESS_LOG]


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Return a folder with two finished logs."""
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "access.log.1").write_text(JSON)
    (folder / "access.log.2").write_text(COMBINED)
    return folder


def record(world: World, logs: Path) -> None:
    world.archive.catalog.close()
    for path in sorted(logs.iterdir()):
        done = command("audit", "access-log", path, archive=world.archive.path)
        assert done.code == 0, done.err


def _uses(*used: tuple[str | None, str]) -> str:
    """Write lines of an access log: which key, when."""
    return "".join(json.dumps({"time": when, "key_id": key, "status": 200}) + "\n" for key, when in used)


def test_keys_show_when_they_were_last_used_whatever_the_form_of_the_log(world: World, logs: Path) -> None:
    def shown(*more: str) -> dict[str, str | None]:
        done = command("--json", "keys", "list", *more, archive=world.archive.path)
        return {line["id"]: line["last_used_at"] for line in done.lines if line["type"] == "key"}

    assert set(shown().values()) == {None}
    assert "No access log says" in command("keys", "list", "--unused", "1d", archive=world.archive.path).err
    (logs / "access.log.1").write_text(
        _uses(
            ("key-2", "2026-11-24T10:00:00.000Z"),
            ("key-4", "2026-11-24T10:00:00.000Z"),
            ("key-2", "2026-11-25T09:59:00.000Z"),
            (None, "2026-11-25T10:00:00.000Z"),
        )
    )
    (logs / "access.log.3").write_text('not JSON\n{"key_id":7}\n')
    record(world, logs)
    assert shown() == {
        "key-1": "2026-11-25T11:00:00.000Z",  # in the combined form
        "key-2": "2026-11-25T09:59:00.000Z",
        "key-3": None,
        "key-4": "2026-11-24T10:00:00.000Z",
        "key-5": None,
    }
    done = command("keys", "list", archive=world.archive.path)
    assert "LAST USED" in done.out
    assert "from 2026-11-24 10:00 to 2026-11-25 11:00 (UTC)" in done.err
    events = recorded(world.archive.path)
    assert events[0].details["keys"] == [
        {"answers": 2, "key": "key-2", "last": "2026-11-25T09:59:00.000Z"},
        {"answers": 1, "key": "key-4", "last": "2026-11-24T10:00:00.000Z"},
    ]
    assert command("audit", "verify", archive=world.archive.path).code == 0


def test_unused_keys_are_those_that_nobody_used_for_so_long(world: World, logs: Path) -> None:
    at = datetime(2026, 11, 26, tzinfo=UTC)
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as catalog, catalog:
        catalog.execute("UPDATE api_keys SET created_at = '2026-01-01T00:00:00.000Z'")
        catalog.execute("UPDATE api_keys SET created_at = '2026-11-20T00:00:00.000Z' WHERE id = 'key-5'")
    (logs / "access.log.1").write_text(
        _uses(("key-1", "2026-11-01T00:00:00.000Z"), ("key-2", "2026-11-25T00:00:00.000Z"))
    )
    (logs / "access.log.2").unlink()
    record(world, logs)
    with Archive(world.archive.path, read_only=True, clock=lambda: at) as archive:
        day = 86_400
        assert [key.id for key in archive.unused_keys(10 * day)] == ["key-1", "key-4"]
        assert [key.id for key in archive.unused_keys(10 * day, "southwind")] == ["key-4"]
        assert [key.id for key in archive.unused_keys(30 * day)] == ["key-4"]
        assert [key.id for key in archive.unused_keys(day // 2)] == ["key-1", "key-2", "key-4", "key-5"]


def test_an_event_names_as_many_keys_as_it_holds(world: World, logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "MAX_KEYS_BYTES", 300)
    (logs / "access.log.1").write_text(
        _uses(*((f"key-{number}", f"2026-11-25T10:00:{number:02}.000Z") for number in range(50)))
    )
    os.utime(logs / "access.log.1", (1, 1))
    summary_of(record_access_log(world.archive, logs / "access.log.1"))
    (event,) = [event for event in world.archive.catalog.events() if event.what == ACCESS_LOG]
    named = [one["key"] for one in event.details["keys"]]
    assert named[:2] == ["key-49", "key-48"]
    assert len(named) + event.details["keys_left_out"] == 50
    assert world.archive.catalog.key_use_span() is None, "of the others nothing is known"


def test_digest_times_and_lines_of_either_form_become_an_event(world: World, logs: Path) -> None:
    record(world, logs)
    events = recorded(world.archive.path)
    assert [event.counts for event in events] == [{"lines": 2}, {"lines": 2}]
    assert {(event.details["first"], event.details["last"]) for event in events} == {
        ("2026-11-25T10:00:00.000Z", "2026-11-25T11:00:00.000Z")
    }
    record(world, logs)
    assert len(recorded(world.archive.path)) == 2, "the same log once more is no news"


def verify(world: World, logs: Path) -> tuple[int, str]:
    done = command("audit", "verify", "--access-logs", logs, archive=world.archive.path)
    return done.code, done.err


def test_logs_are_known_by_what_they_hold_whatever_they_are_called(world: World, logs: Path) -> None:
    record(world, logs)
    for number, (suffix, compress) in enumerate(COMPRESSIONS.items()):
        (logs / "access.log.1").rename(logs / "moved")
        (logs / f"access-{number}{suffix}").write_bytes(compress((logs / "moved").read_bytes()))
        (logs / "moved").unlink()
        code, said = verify(world, logs)
        assert (code, "2 access logs" in said) == (0, True), said
        (logs / f"access-{number}{suffix}").unlink()
        (logs / "access.log.1").write_text(JSON)


def _change(logs: Path) -> None:
    (logs / "access.log.1").write_text(JSON.replace("404", "200"))


def _cut(logs: Path) -> None:
    (logs / "access.log.1").write_text(JSON.splitlines(keepends=True)[0])


def _lose(logs: Path) -> None:
    (logs / "access.log.1").unlink()


def _add(logs: Path) -> None:
    (logs / "access.log.1").write_text(JSON + JSON)


@pytest.mark.parametrize("alter", [_change, _cut, _lose, _add])
def test_a_log_that_was_altered_or_lost_is_named(world: World, logs: Path, alter: Callable[[Path], None]) -> None:
    record(world, logs)
    alter(logs)
    code, said = verify(world, logs)
    assert code == 1
    assert "access.log.1 of event" in said


def test_a_log_that_is_not_finished_is_a_note(world: World, logs: Path) -> None:
    record(world, logs)
    (logs / "access.log").write_text(JSON.replace("11-25", "11-26"))
    (logs / "empty.log").touch()
    code, said = verify(world, logs)
    assert code == 0
    assert "no event has this file" in said


def test_a_log_that_somebody_still_writes_to_is_not_recorded(world: World, logs: Path) -> None:
    path = logs / "access.log.1"
    writer = (
        "import sys, time\nwith open(sys.argv[1], 'a') as f:\n while 1: f.write('x\\n'); f.flush(); time.sleep(.05)"
    )
    with subprocess.Popen([sys.executable, "-c", writer, str(path)]) as process:
        try:
            size = path.stat().st_size
            eventually(lambda: path.stat().st_size > size)
            with pytest.raises(RequestError, match="still written"):
                summary_of(record_access_log(world.archive, path, patience_seconds=0.5))
        finally:
            process.kill()
    assert summary_of(record_access_log(world.archive, path)).counts["lines"] > 2


def test_a_log_that_only_readers_have_open_is_recorded_at_once(world: World, logs: Path) -> None:
    path = logs / "access.log.1"
    with path.open():
        assert summary_of(record_access_log(world.archive, path, patience_seconds=0)).outcome == "ok"


def test_a_writer_that_takes_its_time_is_waited_for(world: World, logs: Path) -> None:
    """Such as a process of the server, on a busy machine, that has yet to open its log again."""
    path = logs / "access.log.1"
    lines = len(path.read_text().splitlines())
    writer = path.open("a")
    os.utime(path, (1, 1))  # nothing was written for long

    def end() -> None:
        writer.write(JSON)
        writer.close()

    late = Timer(1, end)
    late.start()
    found = summary_of(record_access_log(world.archive, path, settle_seconds=0.1))
    late.join()
    assert found.counts["lines"] == lines + len(JSON.splitlines())


def test_a_silent_writer_is_not_waited_for_without_end(world: World, logs: Path) -> None:
    path = logs / "access.log.1"
    with path.open("a"):
        os.utime(path, (1, 1))
        assert summary_of(record_access_log(world.archive, path, patience_seconds=0.5)).outcome == "ok"


def test_what_is_no_log_is_2(world: World, tmp_path: Path) -> None:
    world.archive.catalog.close()
    (tmp_path / "broken.gz").write_bytes(b"no gzip")
    os.utime(tmp_path / "broken.gz", (1, 1))
    for path in (tmp_path / "nothing", tmp_path / "broken.gz"):
        assert command("audit", "access-log", path, archive=world.archive.path).code == 2
    assert command("audit", "verify", "--access-logs", tmp_path / "nowhere", archive=world.archive.path).code == 2


@pytest.mark.long
def test_a_server_rotates_and_records_its_log_and_loses_no_line(world: World) -> None:
    world.archive.catalog.close()
    path, folder = world.archive.path, world.folder / "logs"
    folder.mkdir()
    log = folder / "access.log"
    words = ("--workers", "2", "--access-log", log, "--audit-access", "20k", "--by", "the server")
    asked = 0
    with serving(path, *words) as served, ThreadPoolExecutor(4) as threads:
        while len(recorded(path)) < 3:
            answers = list(threads.map(lambda _: served.get(download(1)).status_code, range(40)))
            assert set(answers) == {200}
            asked += len(answers)
            assert asked < 4000
    finished = sorted(folder.glob("access.log-*Z"))
    found = [line for file in (*finished, log) for line in lines(file)]
    assert sum(line["path"] == download(1) for line in found) == asked
    events = recorded(path)
    assert [event.details["file"] for event in events] == [file.name for file in finished]
    assert sum(event.counts["lines"] for event in events) == sum(len(lines(file)) for file in finished)
    assert {event.who for event in events} == {"the server"}
    assert verify(world, folder)[0] == 0
    finished[0].write_bytes(finished[0].read_bytes().replace(b'"status":200', b'"status":404', 1))
    assert verify(world, folder)[0] == 1


def test_a_log_that_a_killed_server_had_moved_away_is_recorded_by_the_next(world: World) -> None:
    path = world.archive.path
    log = world.folder / "access.log"
    log.with_name("access.log-20261125T000000.000000Z").write_text(JSON)
    with Rotation(path, log, size_bytes=None, reopen=lambda: None, by=None):
        eventually(lambda: recorded(path))
    [event] = recorded(path)
    with Rotation(path, log, size_bytes=None, reopen=lambda: None, by=None):
        time.sleep(0.2)
    assert recorded(path) == [event]


def test_a_day_that_has_ended_is_rotated_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "LOOK_SECONDS", 0.05)
    log = world.folder / "access.log"
    log.write_text(JSON.replace("2026", "2001"))
    reopened: list[str] = []

    def reopen() -> None:
        log.write_text(f'{{"time":"{world.archive.now()}"}}\n')
        reopened.append("reopened")

    with Rotation(world.archive.path, log, size_bytes=None, reopen=reopen, by=None):
        eventually(lambda: recorded(world.archive.path))
        time.sleep(0.3)
    assert (reopened, len(recorded(world.archive.path))) == (["reopened"], 1), "today's log goes on"


def test_logrotate_as_the_docs_configure_it_binds_each_log(world: World) -> None:
    world.archive.catalog.close()
    path, folder = world.archive.path, world.folder / "logs"
    folder.mkdir(mode=0o700)
    log = folder / "access.ndjson"
    configured = (ROOT / "docs/operations/logrotate.conf").read_text()
    assert configured.count("weekly") == configured.count("/srv/archive") == 1
    with serving(path, "--workers", "2", "--access-log", log) as served:
        for here, there in (
            ("/var/log/craftkit-archive/access.ndjson", str(log)),
            ("systemctl reload craftkit-archive.service", f"kill -HUP {served.process.pid}"),
            (
                "runuser -u craftkit-archive -- /opt/craftkit-archive/bin/craftkit-archive",
                f"{sys.executable} -c 'import cli; cli.main()'",
            ),
            ("/srv/archive", str(path)),
        ):
            configured = configured.replace(here, there)
        (world.folder / "logrotate.conf").write_text(configured)
        for number in (1, 2):
            assert served.get(download(number)).status_code == 200
            words = [needs("logrotate"), "-f", "-s", str(world.folder / "state"), str(world.folder / "logrotate.conf")]
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert len(recorded(path)) == number
    assert {file.name for file in folder.iterdir()} >= {"access.ndjson.1", "access.ndjson.2.gz"}
    code, said = verify(world, folder)
    assert (code, "2 access logs" in said) == (0, True), said


@pytest.mark.parametrize("words", [[], ["--access-log", "-"], ["--access-log", "a.log", "--sealed"]])
def test_without_a_file_and_a_writable_archive_nothing_is_rotated(world: World, words: list[str]) -> None:
    world.archive.catalog.close()
    done = command("serve", "--audit-access", "daily", *words, archive=world.archive.path)
    assert (done.code, "--audit-access" in done.err) == (2, True)
    assert command("serve", "--audit-access", "weekly", archive=world.archive.path).code == 2
