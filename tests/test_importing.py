"""Import: every record in, once, and nothing lost."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from craftkit_archive.archive import Archive
from craftkit_archive.errors import LockedError, RequestError
from craftkit_archive.importing import import_records
from craftkit_archive.reading import MAX_RECORD_BYTES
from craftkit_archive.records import Kind, Reject, Summary
from tests.worlds import (
    LIVE_KEY,
    NORTHWIND,
    SOUTHWIND,
    STATUSES,
    TEST_KEY,
    keys,
    load,
    projects,
    render,
    render_id,
    write_json,
    write_ndjson,
)

FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def run(archive: Archive, kind: Kind, *files: Path, **options: Any) -> tuple[dict[str, int], list[Reject]]:
    """Import files and return the counts and the rejects."""
    records = list(import_records(archive, kind, [str(file) for file in files], **options))
    assert isinstance(records[-1], Summary)
    counts = records[-1].counts
    assert counts["read"] == counts["inserted"] + counts["updated"] + counts["unchanged"] + counts["rejected"]
    assert records[-1].outcome == ("problems" if counts["rejected"] else "ok")
    return counts, [record for record in records if isinstance(record, Reject)]


def rows(archive: Archive, table: str) -> list[dict[str, Any]]:
    """Return a table as another program sees it."""
    with sqlite3.connect(archive.path / "archive.db") as connection:
        connection.row_factory = sqlite3.Row
        found = [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY id")]
    connection.close()
    return found


# --- forms -----------------------------------------------------------------------------------------------------------

THREE = [render(1), render(2), render(3)]
FORMS = {
    "array": json.dumps(THREE),
    "pretty array": json.dumps(THREE, indent=2),
    "NDJSON": "\n".join(map(json.dumps, THREE)),
    "NDJSON with blank lines and CRLF": "\r\n\r\n".join(map(json.dumps, THREE)) + "\r\n",
    "pretty objects, one after another": "\n".join(json.dumps(row, indent=2) for row in THREE),
    "wrapped list": json.dumps({"nextCursor": None, "renders": THREE, "hasMore": False}),
    "pages, one a line": "\n".join(json.dumps({"data": [row]}) for row in THREE),
    "pretty pages": "\n".join(json.dumps({"items": [row], "cursor": "x"}, indent=1) for row in THREE),
    "byte-order mark": "\ufeff" + json.dumps(THREE),
    "leading white space": " \n\t " + json.dumps(THREE),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_brings_in_the_same(archive: Archive, tmp_path: Path, form: str) -> None:
    file = tmp_path / "renders"
    file.write_text(FORMS[form])
    counts, rejects = run(archive, "renders", file)
    assert (counts["inserted"], rejects) == (3, [])
    assert [row["id"] for row in rows(archive, "renders")] == [render_id(n) for n in (1, 2, 3)]
    assert json.loads(rows(archive, "renders")[0]["extra"]) == {"input_data": {"number": 1}}


def test_a_single_object_is_one_record(archive: Archive, tmp_path: Path) -> None:
    counts, _ = run(archive, "projects", write_json(tmp_path / "p.json", projects()[0]))
    assert counts["inserted"] == 1


def test_an_empty_array_holds_nothing(archive: Archive, tmp_path: Path) -> None:
    assert run(archive, "renders", write_json(tmp_path / "r.json", []))[0]["read"] == 0


def test_several_files_are_one_import(archive: Archive, tmp_path: Path) -> None:
    files = [write_json(tmp_path / f"{n}.json", render(n)) for n in range(3)]
    assert run(archive, "renders", *files)[0]["inserted"] == 3


@FEW
@given(blocks=st.lists(st.integers(1, 400), min_size=1, max_size=4), indent=st.sampled_from([None, 0, 3]))
def test_the_cut_of_the_blocks_does_not_matter(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: list[int], indent: int | None
) -> None:
    monkeypatch.setattr("craftkit_archive.reading.BLOCK_BYTES", sum(blocks))
    file = tmp_path / "renders.json"
    file.write_text(json.dumps([render(n, name='é"\\\n' * n) for n in range(5)], indent=indent, ensure_ascii=False))
    counts, rejects = run(archive, "renders", file)
    assert (counts["read"], rejects) == (5, [])


# --- once and again --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "records"), [("projects", projects()), ("keys", keys()), ("renders", THREE)])
def test_importing_twice_is_importing_once(archive: Archive, tmp_path: Path, kind: Kind, records: list[Any]) -> None:
    table = "api_keys" if kind == "keys" else kind
    load(archive, tmp_path, kind, records)
    before = rows(archive, table)
    counts = load(archive, tmp_path, kind, records).counts
    assert (counts["unchanged"], counts["inserted"], counts["updated"]) == (len(records), 0, 0)
    assert rows(archive, table) == before


FIELDS = st.fixed_dictionaries(
    {"status": st.sampled_from(STATUSES)},
    optional={
        "template_id": st.none() | st.sampled_from(["a", "b"]),
        "error_message": st.none() | st.text(max_size=5),
        "completed_at": st.none() | st.just("2026-06-05T10:00:00Z"),
        "durationMs": st.none() | st.integers(0, 9),
        "note": st.integers(0, 3),
    },
)


@FEW
@given(changes=st.lists(st.tuples(st.integers(0, 2), FIELDS), max_size=8))
def test_any_history_imported_again_changes_nothing_once_settled(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, dict[str, Any]]]
) -> None:
    folder = tmp_path_factory.mktemp("history")
    archive = Archive.create(folder / "archive")
    records = [{"id": render_id(number), "project_id": NORTHWIND, **fields} for number, fields in changes]
    load(archive, folder, "renders", records)
    last = {record["id"]: record for record in records}
    settled = rows(archive, "renders")
    ranks = {"queued": 0, "rendering": 1}
    for row in settled:
        seen = [ranks.get(record["status"], 2) for record in records if record["id"] == row["id"]]
        assert ranks.get(row["status"], 2) == max(seen), "a status went back"
    load(archive, folder, "renders", list(last.values()))
    once = rows(archive, "renders")
    load(archive, folder, "renders", list(last.values()))
    assert rows(archive, "renders") == once
    archive.catalog.close()


def test_a_record_brings_another_up_to_date_and_erases_nothing(archive: Archive, tmp_path: Path) -> None:
    load(archive, tmp_path, "renders", [render(1, status="rendering", asset_key=None, completed_at=None)])
    answer = {"id": render_id(1), "projectId": NORTHWIND, "status": "succeeded", "durationMs": 3000, "pollUrl": "u"}
    assert load(archive, tmp_path, "renders", [answer]).counts["updated"] == 1
    [row] = rows(archive, "renders")
    assert (row["status"], row["template_id"], row["duration_ms"]) == ("succeeded", "invoice", 3000)
    assert json.loads(row["extra"]) == {"input_data": {"number": 1}, "poll_url": "u"}


def test_a_late_record_does_not_take_a_render_back(archive: Archive, tmp_path: Path) -> None:
    load(archive, tmp_path, "renders", [render(1, template_id=None)])
    late = render(1, status="queued", asset_key=None, completed_at=None, template_id="late")
    load(archive, tmp_path, "renders", [late])
    [row] = rows(archive, "renders")
    assert (row["status"], row["template_id"], row["asset_key"]) == ("succeeded", "late", render(1)["asset_key"])


def test_a_revoked_key_stays_revoked(archive: Archive, tmp_path: Path) -> None:
    load(archive, tmp_path, "keys", keys())
    archive.revoke_key("key-1")
    revoked = rows(archive, "api_keys")[0]["revoked_at"]
    load(archive, tmp_path, "keys", keys())
    assert rows(archive, "api_keys")[0]["revoked_at"] == revoked is not None


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_bad_line_is_told_and_the_good_ones_go_in(archive: Archive, tmp_path: Path) -> None:
    file = tmp_path / "renders.ndjson"
    lines = [
        json.dumps(render(1)),
        '{"id": "broken',
        json.dumps({"project_id": NORTHWIND, "status": "queued"}),
        json.dumps(render(2, status="done")),
        json.dumps(render(3, asset_key="../../../etc/passwd")),
        "[1, 2]",
        json.dumps(render(4)),
    ]
    file.write_text("\n".join(lines))
    counts, rejects = run(archive, "renders", file)
    assert (counts["inserted"], counts["rejected"]) == (2, 5)
    assert [(reject.line, reject.reason.split(":")[0]) for reject in rejects] == [
        (2, "expected JSON"),
        (3, "id"),
        (4, "status"),
        (5, "asset_key"),
        (6, "expected a JSON object, got list"),
    ]
    assert rejects[0].record == '{"id": "broken'
    assert rejects[2].record == render(2, status="done")


def test_a_mended_reject_can_be_imported(archive: Archive, tmp_path: Path) -> None:
    _, rejects = run(archive, "renders", write_json(tmp_path / "r.json", [render(1, status="done")]))
    mended = rejects[0].record | {"status": "succeeded"}
    assert run(archive, "renders", write_ndjson(tmp_path / "m.ndjson", [mended]))[0]["inserted"] == 1


def test_an_id_of_another_project_is_refused_and_never_moved(archive: Archive, tmp_path: Path) -> None:
    load(archive, tmp_path, "renders", [render(1)])
    counts, rejects = run(
        archive, "renders", write_json(tmp_path / "r.json", [render(1, project_id=SOUTHWIND), render(2)])
    )
    assert (counts["inserted"], counts["rejected"]) == (1, 1)
    assert f"expected {NORTHWIND}" in rejects[0].reason
    assert rows(archive, "renders")[0]["project_id"] == NORTHWIND


def test_a_key_has_one_id_and_an_id_one_key(archive: Archive, tmp_path: Path) -> None:
    load(archive, tmp_path, "keys", keys())
    again = [
        {"id": "other", "project_id": NORTHWIND, "key": LIVE_KEY},
        {"id": "key-1", "project_id": NORTHWIND, "key": TEST_KEY},
        {"id": "key-1", "project_id": NORTHWIND, "key": "ck_live_SAMPLEbrandnew0009"},
        {"id": "new-1", "project_id": NORTHWIND, "key": "ck_live_SAMPLEtwins00010"},
        {"id": "new-2", "project_id": NORTHWIND, "key": "ck_live_SAMPLEtwins00010"},
    ]
    counts, rejects = run(archive, "keys", write_json(tmp_path / "k.json", again))
    assert (counts["inserted"], counts["rejected"]) == (1, 4)
    assert all(reject.reason.startswith("key_hash:") for reject in rejects)


def test_no_plain_key_is_stored_or_given_back(archive: Archive, tmp_path: Path) -> None:
    secret = "ck_live_SECRETsecret0123456789"
    bad = [
        {"id": "a", "key": secret},
        {"id": "b", "project_id": NORTHWIND, "key": secret.replace("live", "acct")},
        {"id": "c", "project_id": NORTHWIND, "key": secret, "remark": f"is {secret}"},
        {"project_id": NORTHWIND, "key": f"  {secret}"},
    ]
    _, rejects = run(archive, "keys", write_json(tmp_path / "k.json", bad))
    (tmp_path / "l.ndjson").write_text(f'{{"id": "d"}}\n{{"id": "x", "key": "{secret}"\n')
    rejects += run(archive, "keys", tmp_path / "l.ndjson")[1]
    (tmp_path / "m.json").write_text(f'[{{"id": "x",\n "key": "{secret}", nonsense ')
    rejects += run(archive, "keys", tmp_path / "m.json")[1]
    assert len(rejects) == 6
    everything = repr(rejects).encode() + b"".join(f.read_bytes() for f in archive.path.iterdir() if f.is_file())
    assert b"SECRETsecret" not in everything
    assert b"ck_live_SECR" in everything


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n \n",
        b"this is no JSON",
        b"id,project_id\n1,2\n",
        b'[{"id": "1"',
        b'{"id": "1"',
        b"[1, 2",
        b'[{"id": NaN}]',
        b"\xff\xfe\x00",
        b'{"id": "\xff"}\n',
        b"%PDF-1.4",
        b"[" * 100_000,
        b"]",
        b'{"a":' * 5000,
        b'{"a":' * 600 + b"1" + b"}" * 600,
    ],
    ids=lambda content: repr(content[:12]),
)
def test_a_file_that_is_no_json_is_one_reject(archive: Archive, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    counts, rejects = run(archive, "renders", file)
    assert counts["rejected"] >= 1
    assert counts["inserted"] == 0
    assert rejects[-1].reason.startswith(("expected", "id:"))


def test_a_cut_off_array_keeps_what_was_whole(archive: Archive, tmp_path: Path) -> None:
    file = tmp_path / "cut.json"
    file.write_text(json.dumps(THREE)[:-20])
    counts, rejects = run(archive, "renders", file)
    assert (counts["inserted"], counts["rejected"]) == (2, 1)
    assert rejects[0].line == 1


def test_a_line_without_end_is_refused_and_the_next_is_read(archive: Archive, tmp_path: Path) -> None:
    file = tmp_path / "long.ndjson"
    with file.open("w") as out:
        out.write(f"{json.dumps(render(1))}\n")
        out.write('{"id": "' + "x" * (MAX_RECORD_BYTES + 1) + '"}\n')
        out.write(json.dumps(render(2)))
    counts, rejects = run(archive, "renders", file)
    assert (counts["inserted"], [reject.line for reject in rejects]) == (2, [2])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | st.text('{}[]",:aid1-\\ \n', max_size=60).map(str.encode))
def test_any_bytes_at_all_end_in_counts(archive: Archive, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "any"
    file.write_bytes(content)
    run(archive, "renders", file)


def test_a_file_that_is_not_there_stops_it(archive: Archive, tmp_path: Path) -> None:
    for name in (tmp_path / "nothing", tmp_path):
        with pytest.raises(RequestError, match="cannot be read"):
            run(archive, "renders", name)


def test_what_was_read_before_a_stop_stays(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("craftkit_archive.importing.BATCH", 10)
    file = write_ndjson(tmp_path / "r.ndjson", [render(n) for n in range(35)])
    records = list(import_records(archive, "renders", [str(file)], stop=lambda: True))
    assert isinstance(records[-1], Summary)
    assert records[-1].outcome == "interrupted"
    assert records[-1].counts["inserted"] == 10 == len(rows(archive, "renders"))
    assert run(archive, "renders", file)[0] == {
        "read": 35,
        "inserted": 25,
        "updated": 0,
        "unchanged": 10,
        "rejected": 0,
    }


def test_a_second_writer_is_told_who_the_first_is(archive: Archive, tmp_path: Path) -> None:
    file = write_json(tmp_path / "r.json", render(1))
    with archive.lock("fetch"), pytest.raises(LockedError, match=r"`fetch` \(process \d+ on .+, since 20"):
        run(archive, "renders", file)
    assert run(archive, "renders", file)[0]["inserted"] == 1
