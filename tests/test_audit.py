"""The audit log: no line of it can be changed, removed, moved, added or cut off unseen, in the file or in the table."""

import json
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from craftkit_archive import Archive, fetch_assets, rebuild_archive, seal_archive
from craftkit_archive.audit.log import verify_log
from craftkit_archive.catalog import Catalog
from craftkit_archive.doctor import examine_archive
from craftkit_archive.proof.chain import Chain, Fault, compare_logs
from craftkit_archive.proof.events import (
    CATALOG_RESTORED,
    FILE_RESTORED,
    FORKED,
    Event,
    Head,
    canonical,
    make_event,
    read_event,
)
from craftkit_archive.records import AuditFault, Diagnosis, Summary
from tests.worlds import ROOT, load, needs, pdf, peak_kib, put, render, render_id, summary_of, write_ndjson

EVENTS = 40
TIME = "2026-01-01T00:00:00.000Z"
SCRIPT = re.search(r"```python\n(.+?)```", (ROOT / "docs/records.md").read_text(), re.DOTALL)
SHELL = re.search(r"```sh\n(# verify-audit.+?)```", (ROOT / "docs/records.md").read_text(), re.DOTALL)


def record(archive: Archive, count: int, **details: Any) -> None:
    """Record events, each in a transaction of its own."""
    for number in range(count):
        with archive.catalog.transaction():
            archive.record_event("hold place", {"renders": number}, name=f"case “{number}”", **details)


@pytest.fixture
def log(tmp_path: Path) -> Archive:
    """Return an archive with many events, closed and opened again."""
    with Archive.create(tmp_path / "a", by="Anna") as archive:
        record(archive, EVENTS - 1)
    return Archive(tmp_path / "a")


def verify(path: Path, **options: Any) -> tuple[Summary, list[AuditFault]]:
    """Verify the log of an archive, as another process would."""
    with Archive(path, read_only=True) as archive:
        records = list(verify_log(archive, **options))
    assert isinstance(records[-1], Summary)
    return records[-1], [one for one in records if isinstance(one, AuditFault)]


def third_party(file: Path, *head: str) -> int:
    """Run the script of the docs."""
    assert SCRIPT is not None
    return subprocess.run([sys.executable, "-c", SCRIPT[1], str(file), *head], capture_output=True).returncode


def alter_table(path: Path, sql: str, *values: Any) -> None:
    with closing(sqlite3.connect(path / "archive.db", isolation_level=None)) as connection:
        connection.execute(sql, values)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


# --- the form of an event --------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True), inner),
    max_leaves=10,
)


@pytest.mark.long
@given(TEXTS, st.dictionaries(st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True), VALUES, max_size=4))
def test_an_event_is_what_python_and_rfc_8785_call_canonical(what: str, details: dict[str, Any]) -> None:
    event = make_event(Head(), what, who="someone", time="2026-01-01T00:00:00.000Z", details=details)
    read = json.loads(event.line)
    assert json.dumps(read, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n" == event.line
    hashed = read.pop("hash")
    text = json.dumps(read, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert sha256(text.encode()).hexdigest() == hashed
    assert event.line.count(b"\n") == 1
    assert read_event(event.line) == event


@pytest.mark.parametrize("value", [1.5, 2**53, -(2**53), b"bytes", {"Größe": 1}, {"a": object()}])
def test_what_readers_might_write_differently_gets_into_no_event(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        make_event(Head(), "hold", who="someone", time="", details={"value": value})


def test_no_key_gets_into_an_event() -> None:
    event = make_event(Head(), "keys create", who="x", time="", details={"note": ["ck_live_SAMPLEnorthwind0001"]})
    assert b"northwind" not in event.line


def test_an_event_needs_the_transaction_of_its_change_and_dies_with_it(log: Archive) -> None:
    with pytest.raises(RuntimeError):
        log.record_event("hold place")
    before = log.catalog.audit_head()
    with suppress(ZeroDivisionError), log.catalog.transaction():
        log.record_event("hold place")
        raise ZeroDivisionError
    assert log.catalog.audit_head() == before
    record(log, 1)
    log.catalog.close()
    assert verify(log.path)[0].outcome == "ok"


# --- alterations -----------------------------------------------------------------------------------------------------


def test_a_log_that_nobody_altered_is_good(log: Archive) -> None:
    summary, faults = verify(log.path, head=log.catalog.audit_head().hash)
    assert (summary.outcome, summary.counts["events"], faults) == ("ok", EVENTS, [])
    assert third_party(log.path / "audit.ndjson") == 0


def _flip(lines: list[bytes], chance: random.Random) -> list[bytes]:
    at = chance.randrange(len(lines))
    place = chance.randrange(len(lines[at]))
    line = bytearray(lines[at])
    line[place] ^= 1 << chance.randrange(8)
    return [*lines[:at], bytes(line), *lines[at + 1 :]]


def _remove(lines: list[bytes], chance: random.Random) -> list[bytes]:
    at = chance.randrange(len(lines))
    return lines[:at] + lines[at + chance.randint(1, 3) :]


def _swap(lines: list[bytes], chance: random.Random) -> list[bytes]:
    one, other = chance.sample(range(len(lines)), 2)
    lines = list(lines)
    lines[one], lines[other] = lines[other], lines[one]
    return lines


def _repeat(lines: list[bytes], chance: random.Random) -> list[bytes]:
    at = chance.randrange(len(lines) + 1)
    return [*lines[:at], chance.choice(lines), *lines[at:]]


def _cut_bytes(lines: list[bytes], chance: random.Random) -> list[bytes]:
    whole = b"".join(lines)
    return [whole[: chance.randrange(len(whole))]]


def _forge_one(lines: list[bytes], chance: random.Random) -> list[bytes]:
    """Change an event and hash it anew, but leave those after it."""
    at = chance.randrange(len(lines))
    return [*lines[:at], _forged(lines[at], chance).line, *lines[at + 1 :]]


def _fork(lines: list[bytes], chance: random.Random) -> list[bytes]:
    """Change an event, and write all after it anew, so that the file by itself is sound."""
    at = chance.randrange(len(lines))
    forged = [_forged(lines[at], chance)]
    for line in lines[at + 1 :]:
        old = read_event(line)
        forged.append(_again(forged[-1].head, old))
    return [*lines[:at], *(event.line for event in forged)]


def _forged(line: bytes, chance: random.Random) -> Event:
    old = read_event(line)
    before = Head(old.number - 1, old.prev)
    return make_event(before, old.what, who=f"somebody {chance.random()}", time=old.time, counts=old.counts)


def _again(head: Head, old: Event) -> Event:
    return make_event(head, old.what, who=old.who, time=old.time, counts=old.counts, details=old.details)


def _respell(lines: list[bytes], chance: random.Random) -> list[bytes]:
    """Write a line in another form that means the same."""
    at = chance.randrange(len(lines))
    return [*lines[:at], json.dumps(json.loads(lines[at])).encode() + b"\n", *lines[at + 1 :]]


def _respell_and_hash(lines: list[bytes], chance: random.Random) -> list[bytes]:
    """Write the last line in another form, with the hash that its bytes have in that form."""
    old = read_event(lines[-1])
    before, _, after = lines[-1].partition(b'"hash":"%b",' % old.hash.encode())
    after = after.replace(b',"who"', b"," + b" " * chance.randint(1, 9) + b'"who"')
    digest = sha256(before + after.removesuffix(b"\n")).hexdigest()
    return [*lines[:-1], before + b'"hash":"%b",' % digest.encode() + after]


ALTERATIONS: list[Callable[[list[bytes], random.Random], list[bytes]]] = [
    _flip,
    _remove,
    _swap,
    _repeat,
    _cut_bytes,
    _forge_one,
    _fork,
    _respell,
    _respell_and_hash,
]


@pytest.mark.long
def test_1000_alterations_of_the_file_are_found(log: Archive) -> None:
    file, chance = log.path / "audit.ndjson", random.Random(8785)
    head = log.catalog.audit_head()
    log.catalog.close()
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    tried = 0
    while tried < 1000:
        alter = ALTERATIONS[tried % len(ALTERATIONS)]
        altered = b"".join(alter(lines, chance))
        if altered == whole:
            continue
        tried += 1
        file.write_bytes(altered)
        with Archive(log.path, read_only=True) as archive:
            *faults, last = verify_log(archive, head=head.hash)
        assert isinstance(last, Summary)
        # A file that only ends early is what a kill leaves, as far as the last command may have been killed.
        assert last.outcome in (("problems", "incomplete") if alter is _cut_bytes else ("problems",)), alter
        assert not _is_sound_alone(altered, head), alter
        named = {n for f in faults if isinstance(f, AuditFault) for n in range(f.number, min(f.last, EVENTS) + 1)}
        assert named & _changed_numbers(lines, altered), alter


def _is_sound_alone(altered: bytes, head: Head) -> bool:
    """Say whether the file is good by itself, and ends with the head that was noted."""
    chain = Chain("file")
    faults = [fault for line in altered.splitlines(keepends=True) for fault in chain.take(line)[1]]
    return not faults and (chain.number, chain.hash) == head


def test_a_line_in_another_form_is_no_event_even_with_a_hash_of_its_own(log: Archive) -> None:
    log.catalog.close()
    lines = (log.path / "audit.ndjson").read_bytes().splitlines(keepends=True)
    chain = Chain("file")
    faults = [fault for line in _respell_and_hash(lines, random.Random(1)) for fault in chain.take(line)[1]]
    assert [(fault.problem, fault.number) for fault in faults] == [("malformed", EVENTS)]


def _changed_numbers(lines: list[bytes], altered: bytes) -> set[int]:
    """Return the numbers of the events that are not where they were, and of their neighbours."""
    found = altered.splitlines(keepends=True)
    wrong = {n for n, line in enumerate(lines, 1) if found[n - 1 : n] != [line]}
    wrong |= {json.loads(line)["number"] for line in found[len(lines) :]}
    return wrong | {n + 1 for n in wrong} | {n - 1 for n in wrong} | {0}


def test_1000_alterations_of_the_file_are_found_by_the_script_in_the_docs(log: Archive, tmp_path: Path) -> None:
    head = log.catalog.audit_head()
    log.catalog.close()
    lines = (log.path / "audit.ndjson").read_bytes().splitlines(keepends=True)
    assert SCRIPT is not None
    code, chance, tried = compile(SCRIPT[1], "verify_audit.py", "exec"), random.Random(3161), 0
    file = tmp_path / "altered.ndjson"

    def run(*given: str) -> bool:
        try:
            exec(code, {"__name__": "__main__"}, {"argv": None} | _argv(["verify_audit.py", str(file), *given]))
        except SystemExit as end:
            return end.code in (None, 0)
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
        return True

    file.write_bytes(b"".join(lines))
    assert run(head.hash)
    while tried < 1000:
        altered = b"".join(ALTERATIONS[tried % len(ALTERATIONS)](lines, chance))
        if altered == b"".join(lines):
            continue
        tried += 1
        file.write_bytes(altered)
        assert not run(head.hash)


def _argv(given: list[str]) -> dict[str, Any]:
    sys.argv = given
    return {}


@pytest.fixture(autouse=True)
def _no_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no writer where the log ends early, because there is none."""
    monkeypatch.setattr("craftkit_archive.audit.log.WRITER_SECONDS", 0)


@pytest.fixture(autouse=True)
def _same_argv() -> Iterator[None]:
    before = sys.argv
    yield
    sys.argv = before


COLUMNS = ("time", "what", "who", "counts", "details", "prev", "hash")


def test_1000_alterations_of_the_table_are_found(log: Archive, tmp_path: Path) -> None:
    """The table alone is altered; the file tells."""
    log.catalog.close()
    lines = (log.path / "audit.ndjson").read_bytes().splitlines(keepends=True)
    chance = random.Random(2026)
    with closing(sqlite3.connect(log.path / "archive.db", isolation_level=None)) as table:
        for tried in range(1000):
            table.execute("BEGIN")
            _alter_row(table, tried, chance)
            rows = _rows(table)
            table.execute("ROLLBACK")
            last = max((number for number, _ in rows), default=0)
            faults = [
                f for f in compare_logs(iter(lines), iter(rows), last=last, flushed=EVENTS) if isinstance(f, Fault)
            ]
            assert faults, tried


def _alter_row(table: sqlite3.Connection, tried: int, chance: random.Random) -> None:
    number = chance.randint(1, EVENTS)
    match tried % 5:
        case 0:
            table.execute("DELETE FROM events WHERE number = ?", (number,))
        case 1:
            table.execute("UPDATE events SET number = number + 100 WHERE number = ?", (number,))
        case 2:
            table.execute("INSERT INTO events SELECT number + 60, time, what, who, counts, details, prev, hash FROM"
                          " events WHERE number = ?", (number,))  # fmt: skip
        case _:
            column = chance.choice(COLUMNS)
            value = chance.choice(["", "x", "{}", b"\xff\x00", 7, 'a"b', '{"a":1'])
            table.execute(f"UPDATE events SET {column} = ? WHERE number = ?", (value, number))


def _rows(table: sqlite3.Connection) -> list[tuple[int, bytes]]:
    from craftkit_archive.catalog.events import _LINE

    return table.execute(f"SELECT number, {_LINE} FROM events ORDER BY number").fetchall()


@pytest.mark.long
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("value", ["", "x", b"\xff\x00", 7, "fetch\0", 'x","y":"'])
def test_a_row_that_was_changed_is_named(log: Archive, column: str, value: object) -> None:
    log.catalog.close()
    alter_table(log.path, f"UPDATE events SET {column} = ? WHERE number = 7", value)
    summary, faults = verify(log.path)
    assert summary.exit_code == 1
    assert {fault.number for fault in faults} <= {7, 8}
    assert "differs" in {fault.problem for fault in faults}


def test_a_log_that_was_written_anew_in_both_places_is_found_by_its_head(log: Archive) -> None:
    head = log.catalog.audit_head()
    log.catalog.close()
    file = log.path / "audit.ndjson"
    lines = _fork(file.read_bytes().splitlines(keepends=True), random.Random(1))
    file.write_bytes(b"".join(lines))
    alter_table(log.path, "DELETE FROM events")
    for event in map(read_event, lines):
        values = (event.number, event.time, event.what, event.who, canonical(event.counts).decode(),
                  canonical(event.details).decode(), event.prev, event.hash)  # fmt: skip
        alter_table(log.path, "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *values)
    assert verify(log.path)[0].outcome == "ok"
    summary, [fault] = verify(log.path, head=f"{head.number} {head.hash}")
    assert (summary.exit_code, fault.problem) == (1, "head")
    assert third_party(file) == 0
    assert third_party(file, head.hash) != 0


def test_verify_takes_little_memory_and_never_reads_a_line_without_end(log: Archive) -> None:
    log.catalog.close()
    with (log.path / "audit.ndjson").open("ab") as file:
        file.write(b"x" * (3 << 20))
    summary, faults = verify(log.path)
    assert summary.exit_code == 1
    assert {fault.problem for fault in faults} <= {"malformed", "added"}


# --- two places, and what lies between them --------------------------------------------------------------------------


def test_a_file_that_a_kill_left_behind_is_caught_up_without_an_event(log: Archive) -> None:
    record(log, 1)
    log.catalog.close()
    # As before a command ends by itself.
    alter_table(log.path, "UPDATE settings SET value = ? WHERE name = 'audit_flushed'", str(EVENTS))
    file = log.path / "audit.ndjson"
    whole = file.read_bytes()
    for torn in (0, 1, 100):
        file.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]) + whole.splitlines()[-1][:torn])
        summary, [fault] = verify(log.path)
        assert (summary.exit_code, fault.problem, fault.number) == (3, "behind", EVENTS + 1)
        with Archive(log.path) as archive:
            assert archive.notices == []
        assert file.read_bytes() == whole
        alter_table(log.path, "UPDATE settings SET value = ? WHERE name = 'audit_flushed'", str(EVENTS))


def test_a_file_that_was_cut_is_written_again_and_the_log_says_so(log: Archive) -> None:
    log.catalog.close()
    file = log.path / "audit.ndjson"
    whole = file.read_bytes()
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:10]))
    summary, faults = verify(log.path)
    assert summary.exit_code == 1
    assert ("cut", 11) in {(fault.problem, fault.number) for fault in faults}
    with Archive(log.path) as archive:
        assert len(archive.notices) == 1
    assert file.read_bytes().startswith(whole)
    assert read_event(file.read_bytes().splitlines(keepends=True)[-1]).what == FILE_RESTORED
    assert verify(log.path)[0].outcome == "ok"


def test_an_older_catalog_that_was_put_back_takes_the_later_events_in(log: Archive, tmp_path: Path) -> None:
    log.catalog.back_up(tmp_path / "old.db")
    old = log.catalog.audit_head()
    record(log, 5)
    new = log.catalog.audit_head()
    log.catalog.close()
    before = (log.path / "audit.ndjson").read_bytes()
    (tmp_path / "old.db").replace(log.path / "archive.db")
    summary, [fault] = verify(log.path)
    assert (summary.exit_code, fault.problem, fault.number, fault.last) == (1, "added", EVENTS + 1, EVENTS + 5)
    with Archive(log.path, by="Ben") as archive:
        assert "older" in archive.notices[0]
        assert archive.catalog.audit_head().number == EVENTS + 6
    after = (log.path / "audit.ndjson").read_bytes()
    assert after.startswith(before)
    event = read_event(after.splitlines(keepends=True)[-1])
    assert (event.what, event.who, event.prev) == (CATALOG_RESTORED, "Ben", new.hash)
    assert event.details == {"file_head": new._asdict(), "table_head": old._asdict()}
    assert verify(log.path, head=new.hash)[0].outcome == "ok"
    with Archive(log.path) as archive:
        assert archive.notices == []


def test_copies_that_parted_are_both_kept_and_stay_news_until_a_later_head_is_given(log: Archive) -> None:
    log.catalog.close()
    file = log.path / "audit.ndjson"
    lines = file.read_bytes().splitlines(keepends=True)
    forked = b"".join(_fork(lines, random.Random(3)))
    file.write_bytes(forked)
    with Archive(log.path) as archive:
        assert "parted-1" in archive.notices[0]
        record(archive, 1)
        later = archive.catalog.audit_head()
    assert (log.path / "audit.ndjson.parted-1").read_bytes() == forked
    event = read_event(file.read_bytes().splitlines(keepends=True)[EVENTS])
    assert event.what == FORKED
    assert event.details["sha256"] == sha256(forked).hexdigest()
    assert file.read_bytes().startswith(b"".join(lines))
    summary, [fault] = verify(log.path)
    assert (summary.exit_code, fault.problem, fault.number) == (1, "forked", EVENTS + 1)
    assert verify(log.path, head=later.hash)[0].outcome == "ok"


def test_a_file_that_is_gone_is_written_again(log: Archive) -> None:
    log.catalog.close()
    file = log.path / "audit.ndjson"
    whole = file.read_bytes()
    file.unlink()
    assert verify(log.path)[0].exit_code == 1
    with Archive(log.path) as archive:
        assert len(archive.notices) == 1
    assert file.read_bytes().startswith(whole)


WRITER = """
import sys
from craftkit_archive import Archive
with Archive(sys.argv[1], by=sys.argv[2]) as archive:
    print("ready", flush=True)
    for number in range(int(sys.argv[3])):
        with archive.catalog.transaction():
            archive.record_event("hold place", {"number": number})
"""


def test_several_writers_make_one_chain(log: Archive) -> None:
    log.catalog.close()
    words = [sys.executable, "-c", WRITER, str(log.path)]
    writers = [subprocess.Popen([*words, f"writer {n}", "60"], stdout=subprocess.DEVNULL) for n in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    summary, faults = verify(log.path)
    assert (summary.counts["events"], faults) == (EVENTS + 240, [])


def test_a_log_that_others_are_writing_to_verifies(log: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("craftkit_archive.audit.log.WRITER_SECONDS", 2.0)
    log.catalog.close()
    words = [sys.executable, "-c", WRITER, str(log.path), "busy", "100000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        try:
            counts = [verify(log.path)[0] for _ in range(20)]
        finally:
            writer.kill()
    assert {summary.outcome for summary in counts} == {"ok"}
    assert counts[-1].counts["events"] > EVENTS


def test_a_line_of_any_depth_is_no_event(log: Archive) -> None:
    log.catalog.close()
    for depth in (100, 990, 1000, 100_000):
        nested = b"[" * depth + b"]" * depth
        with (log.path / "audit.ndjson").open("ab") as file:
            file.write(
                b'{"counts":{},"details":{"a":%b},"hash":"","number":41,"prev":"","time":"","what":"","who":""}\n'
                % nested
            )
        assert verify(log.path)[0].exit_code == 1


def test_after_any_kill_the_log_is_whole_but_for_lines_that_the_next_command_adds(log: Archive) -> None:
    log.catalog.close()
    chance = random.Random(9)
    for _ in range(8):
        words = [sys.executable, "-c", WRITER, str(log.path), "killed", "100000"]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            try:
                writer.wait(chance.uniform(0.0, 0.15))
            except subprocess.TimeoutExpired:
                writer.kill()
        assert {fault.problem for fault in verify(log.path)[1]} <= {"behind"}
        with Archive(log.path) as archive:
            assert archive.notices == []
        assert verify(log.path)[0].outcome == "ok"


# --- for others ------------------------------------------------------------------------------------------------------


def test_jq_and_sha256sum_verify_the_file(log: Archive, tmp_path: Path) -> None:
    needs("jq")
    log.catalog.close()
    assert SHELL is not None
    script = tmp_path / "verify-audit.sh"
    script.write_text(SHELL[1])
    file = tmp_path / "audit.ndjson"
    lines = (log.path / "audit.ndjson").read_bytes().splitlines(keepends=True)[:12]

    def run(altered: list[bytes]) -> int:
        file.write_bytes(b"".join(altered))
        return subprocess.run(["bash", script, file], capture_output=True).returncode

    assert run(lines) == 0
    chance = random.Random(5)
    for alter in (_flip, _flip, _flip, _swap, _repeat, _forge_one):
        assert run(alter(lines, chance)) != 0, alter
    assert run(lines[:3] + lines[4:]) != 0


def test_an_older_archive_begins_its_log_with_the_migration(world_of_old: Path) -> None:
    with Archive(world_of_old, by="Anna") as archive:
        [event] = archive.catalog.events()
    assert (event.what, event.who, event.details["steps"]) == ("migrate", "Anna", ["m007_events"])


@pytest.fixture
def world_of_old(tmp_path: Path) -> Path:
    """Return an archive of a version that kept no log."""
    Archive.create(tmp_path / "old").catalog.close()
    alter_table(tmp_path / "old", "DROP TABLE events")
    alter_table(tmp_path / "old", "DELETE FROM _sqlite_migrations WHERE name = 'm007_events'")
    (tmp_path / "old/audit.ndjson").unlink()
    return tmp_path / "old"


# --- how much, how long ----------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_million_events_are_verified_in_ten_seconds_and_flat_memory(tmp_path: Path) -> None:
    path = tmp_path / "a"
    taken = {}
    for count in (1000, 1_000_000):
        with Archive.create(path) as archive, archive.catalog.transaction():
            archive.catalog.add_events(_many(archive.catalog.audit_head(), count))
        taken[count] = peak_kib("audit", "verify", archive=path)
        began = time.process_time(), time.monotonic()
        with Archive(path, read_only=True) as archive:
            assert summary_of(verify_log(archive)).counts == {"events": count + 1, "faults": 0}
        # Of the processor: other programs of a busy machine are not what is measured.
        assert time.process_time() - began[0] < 10
        shutil.rmtree(path)
    assert taken[1_000_000] - taken[1000] < 8 << 10


def _many(head: Head, count: int) -> Iterator[Event]:
    for number in range(count):
        details = {"run": number // 100, "source": "s3://bucket/renders"}
        event = make_event(head, "fetch", who="root@host", time=TIME, counts={"copied": 256}, details=details)
        head = event.head
        yield event


@pytest.mark.long
def test_events_cost_an_import_and_a_fetch_less_than_2_percent(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = 0.0

    def timed(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            nonlocal spent
            began = time.thread_time()
            try:
                return real(*given, **options)
            finally:
                spent += time.thread_time() - began

        return call

    for name in ("record_event", "_committed"):
        monkeypatch.setattr(Catalog, name, timed(getattr(Catalog, name)))
    count = 2000
    for number in range(count):
        put(tmp_path / "bucket", render(number)["asset_key"], pdf(str(number), size_bytes=60_000))
    began = time.process_time()
    load(archive, tmp_path, "renders", [render(number) for number in range(100_000)])
    assert spent < 0.02 * (time.process_time() - began)
    spent, began = 0.0, time.monotonic()
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(render_id(number) for number in range(count)))
    summary = summary_of(fetch_assets(archive, str(tmp_path / "bucket"), selection=archive.select(ids=ids)))
    assert summary.counts["copied"] == count
    assert spent < 0.02 * (time.monotonic() - began)


# --- histories -------------------------------------------------------------------------------------------------------


class Histories(RuleBasedStateMachine):
    """Whatever is done to an archive in whatever order, its log verifies at every point, and loses nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self.folder = Path(self._stack.enter_context(TemporaryDirectory()))
        self.path = self.folder / "a"
        self.bucket = self.folder / "bucket"
        self.made = 0
        self.backups: list[Path] = []
        self.heads: list[Head] = []
        Archive.create(self.path).catalog.close()

    def teardown(self) -> None:
        """Remove the archive."""
        self._stack.close()

    @rule(count=st.integers(1, 3))
    def import_and_fetch(self, count: int) -> None:
        """Let new renders arrive."""
        new = range(self.made, self.made + count)
        self.made += count
        for number in new:
            put(self.bucket, render(number)["asset_key"], pdf(str(number)))
        with Archive(self.path) as archive:
            load(archive, self.folder, "renders", [render(number) for number in range(self.made)])
            summary_of(fetch_assets(archive, str(self.bucket)))

    @rule()
    def seal(self) -> None:
        """Make a seal, which changes nothing but the log."""
        with Archive(self.path, read_only=True) as archive:
            summary_of(seal_archive(archive))

    @rule()
    def back_up(self) -> None:
        """Keep the catalog as it is now."""
        self.backups.append(self.folder / f"backup-{len(self.backups)}.db")
        with Archive(self.path, read_only=True) as archive:
            archive.catalog.back_up(self.backups[-1])

    @precondition(lambda self: self.backups)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        """Put back a catalog that was kept."""
        backup = data.draw(st.sampled_from(self.backups))
        shutil.copy(backup, self.path / "archive.db")
        Archive(self.path).catalog.close()

    @precondition(lambda self: self.made)
    @rule()
    def rebuild(self) -> None:
        """Lose the catalog, and make it again."""
        (self.path / "archive.db").unlink()
        file = write_ndjson(self.folder / "all.ndjson", [render(number) for number in range(self.made)])
        summary_of(rebuild_archive(self.path, {"renders": [str(file)]}))

    @rule(lines=st.integers(0, 1), torn=st.integers(0, 200))
    def kill_between_row_and_line(self, lines: int, torn: int) -> None:
        """Take from the file what a command that was killed right then would not have written."""
        with Archive(self.path) as archive:
            flushed = archive.catalog.flushed_events()
            record(archive, lines + 1)
        file = self.path / "audit.ndjson"
        written = file.read_bytes().splitlines(keepends=True)
        kept = len(written) - lines - 1
        file.write_bytes(b"".join(written[:kept]) + written[kept][: min(torn, len(written[kept]) - 1)])
        alter_table(self.path, "UPDATE settings SET value = ? WHERE name = 'audit_flushed'", str(flushed))
        assert {fault.problem for fault in verify(self.path)[1]} == {"behind"}
        Archive(self.path).catalog.close()

    @invariant()
    def the_log_verifies_against_every_head_that_was_ever_noted(self) -> None:
        """Verify the log as its owner does, and as a third party does."""
        for head in self.heads[-5:]:
            assert verify(self.path, head=head.hash)[0].outcome == "ok"
        assert verify(self.path)[0].outcome == "ok"
        assert third_party(self.path / "audit.ndjson") == 0
        with Archive(self.path, read_only=True) as archive:
            self.heads.append(archive.catalog.audit_head())


Histories.TestCase.settings = settings(
    max_examples=12, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck)
)
TestHistories = pytest.mark.long(Histories.TestCase)


def _diagnosis(path: Path) -> Diagnosis:
    with Archive(path, read_only=True) as archive:
        seen = [one for one in examine_archive(archive) if isinstance(one, Diagnosis) and one.name == "audit log"]
    assert len(seen) == 1
    return seen[0]


def test_the_doctor_looks_at_the_end_of_the_log(log: Archive) -> None:
    log.catalog.close()
    file = log.path / "audit.ndjson"
    whole = file.read_bytes()
    assert _diagnosis(log.path) == Diagnosis(
        "audit log", f"the last {EVENTS} of {EVENTS} events agree in table and file"
    )
    lines = whole.splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-2]))
    seen = _diagnosis(log.path)
    assert (seen.fix, "is 2 events behind" in seen.seen) == (None, True)
    file.unlink()
    assert _diagnosis(log.path).fix is None
    for altered in (whole.replace(b'"what":"hold', b'"what":"Hold', 1), whole[:-1]):
        file.write_bytes(altered)
        _diagnosis(log.path)  # what is further back, or not a line yet, `audit verify` tells
    file.write_bytes(whole + lines[-1].replace(b'"number":40', b'"number":41'))
    assert "does not end with an event" in str(_diagnosis(log.path))
    assert "audit verify" in str(_diagnosis(log.path).fix)


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE events SET who = 'Eve' WHERE number = 30", "event 30 was changed"),
        ("DELETE FROM events WHERE number = 30", "event 31 does not continue the one before"),
        ("UPDATE events SET details = 'no JSON' WHERE number = 30", "cannot be read"),
    ],
)
def test_the_doctor_sees_that_the_table_was_altered(log: Archive, sql: str, said: str) -> None:
    log.catalog.close()
    alter_table(log.path, sql)
    seen = _diagnosis(log.path)
    assert said in seen.seen
    assert seen.fix is not None
