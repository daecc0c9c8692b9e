"""Import: every record in, once, and nothing lost."""

import csv
import gzip
import io
import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from contextlib import closing, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from craftkit_archive.archive import Archive
from craftkit_archive.catalog.rows import Listing
from craftkit_archive.decoding import LineReader, read_record
from craftkit_archive.errors import LockedError, NoSpaceError, RequestError
from craftkit_archive.fetch.run import fetch_assets
from craftkit_archive.importer.files import read_source
from craftkit_archive.importer.run import _read_batch as read_piece
from craftkit_archive.importer.run import _ReadTask, import_records, keep_rejects
from craftkit_archive.importer.streams import MAX_RECORD_BYTES
from craftkit_archive.parallel.batches import never
from craftkit_archive.records import Finding, Kind, Plan, Progress, Reject, Render, Summary
from craftkit_archive.stores.base import digest
from craftkit_archive.verify.run import verify_assets
from tests.worlds import (
    LIVE_KEY,
    NORTHWIND,
    ROOT,
    SOUTHWIND,
    STATUSES,
    TEST_KEY,
    World,
    command,
    keys,
    load,
    pdf,
    program,
    projects,
    put,
    render,
    render_id,
    summary_of,
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
    with closing(sqlite3.connect(archive.path / "archive.db")) as connection, connection:
        connection.row_factory = sqlite3.Row
        found = [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY id")]
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


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind, own in (("projects", "projects"), ("keys", "api_keys"), ("keys", "apiKeys"), ("renders", "renders"))
        for name in (own, f"public.{own}", f'"public"."{own}"', "rows", "data", "records")
    ],
)
def test_a_wrapper_may_be_named_as_the_table_or_for_what_it_holds(
    archive: Archive, tmp_path: Path, kind: Kind, name: str, indent: int | None
) -> None:
    records = {"projects": projects(), "keys": keys(), "renders": THREE}[kind]
    (tmp_path / "wrapped").write_text(json.dumps({"count": 1, name: records}, indent=indent))
    counts, rejects = run(archive, kind, tmp_path / "wrapped")
    assert (counts["inserted"], rejects) == (len(records), [])


@pytest.mark.parametrize("between", ["", " ", "\t", " \r\n"])
@pytest.mark.parametrize("before", ["", json.dumps(render(0)) + "\n"])
def test_several_objects_may_stand_on_one_line(archive: Archive, tmp_path: Path, between: str, before: str) -> None:
    text = before + between.join(json.dumps(render(n, note='}{"id"', far=1e300)) for n in range(1, 4))
    (tmp_path / "r").write_text(text)
    counts, rejects = run(archive, "renders", tmp_path / "r")
    assert (counts["inserted"], rejects) == (3 + bool(before), [])


def test_a_line_of_several_objects_is_taken_or_given_back_as_a_whole(archive: Archive, tmp_path: Path) -> None:
    lines = [json.dumps(render(0)), json.dumps(render(1)) + json.dumps(render(2))[:-1], json.dumps(render(3))]
    (tmp_path / "r").write_text("\n".join(lines))
    counts, [reject] = run(archive, "renders", tmp_path / "r")
    assert (counts["inserted"], reject.line, reject.record) == (2, 2, lines[1])


NOT_QUITE_JSON = {
    "a giant exponent": b"1e9999999999999999999",
    "a giant negative exponent": b"-1e-99999999999999999999",
    "thousands of digits": b"9" * 5000,
    "a surrogate": b'"\xed\xa0\x80"',
    "a byte that is never UTF-8": b'"\xff"',
    "a cut sequence": b'"\xc3"',
    "an overlong sequence": b'"\xc0\xaf"',
    "beyond Unicode": b'"\xf5\x80\x80\x80"',
    "not a number": b"NaN",
    "NUL": b"\x00",
    "a control character": b'"\x01"',
}


@pytest.mark.parametrize("form", ["array", "line", "name"])
@pytest.mark.parametrize("odd", NOT_QUITE_JSON)
def test_what_is_not_quite_json_is_a_reject_with_its_place(
    archive: Archive, tmp_path: Path, odd: str, form: str
) -> None:
    record, first, last = (json.dumps(render(n)).encode() for n in (1, 0, 2))
    bad = b'{"note": ' + NOT_QUITE_JSON[odd] + b", " + record[1:]
    if form == "name":
        bad = b"{" + NOT_QUITE_JSON[odd] + b": 1, " + record[1:]
    text = b"\n".join([first, bad, last]) if form == "line" else b"[" + b",\n".join([first, bad, last]) + b"]"
    (tmp_path / "r").write_bytes(text)
    counts, rejects = run(archive, "renders", tmp_path / "r")
    if form == "line" and odd.startswith("a giant"):
        assert (counts["inserted"], rejects) == (3, [])
        assert json.loads(rows(archive, "renders")[1]["extra"])["note"] == NOT_QUITE_JSON[odd].decode()
        return
    [reject] = rejects
    assert counts["inserted"] == (2 if form == "line" else 1)
    assert reject.line == 2
    assert form == "line" or "(in item 2)" in reject.reason


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("deep", ["renders/{p}/{r}.pdf/again.pdf", "renders/{p}/{r}.pdf/a/b/c.pdf"])
def test_a_key_beneath_another_renders_key_is_refused(archive: Archive, tmp_path: Path, deep: str, apart: bool) -> None:
    beneath = render(2, asset_key=deep.format(p=NORTHWIND, r=render_id(1)))
    if apart:
        load(archive, tmp_path, "renders", [render(1)])
        records = [beneath, render(3)]
    else:
        records = [beneath, render(1), render(3)]
    counts, [reject] = run(archive, "renders", write_ndjson(tmp_path / "r", records))
    assert counts["inserted"] == len(records) - 1
    assert reject.reason.startswith("asset_key: expected one that is not below")
    assert render_id(1) in reject.reason
    # Its own folder, or one that is nobody's PDF, is fine.
    fine = [render(4, asset_key=f"renders/{NORTHWIND}/2026/01/x.pdf"), render(5, asset_key="elsewhere/y.pdf/z.pdf")]
    assert load(archive, tmp_path, "renders", fine).counts["inserted"] == 2


HALVES = [r"\ud800", r"x\uDBFFy", r"\\\ud83c", r"\ud83c\ud83c\udf89", r"\ud83cudf89", r"\udc00"]


@pytest.mark.parametrize("block", [9, 40, 1 << 20])
@pytest.mark.parametrize("form", ["array", "line"])
@pytest.mark.parametrize("half", HALVES)
def test_half_a_character_is_no_question_mark(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: str, form: str, block: int
) -> None:
    monkeypatch.setattr("craftkit_archive.importer.json_values.PIECE_BYTES", block)
    body = json.dumps(render(1, note="HERE")).replace("HERE", half)
    (tmp_path / "r").write_text(body if form == "line" else f"[{body}]")
    counts, [_] = run(archive, "renders", tmp_path / "r")
    assert counts["inserted"] == 0
    whole = json.dumps(render(1, note="🎉")).replace("x", r"\\ud800")
    (tmp_path / "r").write_text(whole if form == "line" else f"[{whole}]")
    assert run(archive, "renders", tmp_path / "r")[1] == []
    assert json.loads(rows(archive, "renders")[0]["extra"])["note"] == "🎉"


@pytest.mark.parametrize("block", [4000, 4290, 4400, 9000])
def test_a_number_of_thousands_of_digits_is_seen_across_pieces(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    for module in ("files", "streams"):
        monkeypatch.setattr(f"craftkit_archive.importer.{module}.BLOCK_BYTES", block)
    monkeypatch.setattr("craftkit_archive.importer.json_values.PIECE_BYTES", block)
    (tmp_path / "r").write_text(f'[{json.dumps(render(1))}, {{"id": "x", "note": {"9" * 8000}}}]')
    counts, [reject] = run(archive, "renders", tmp_path / "r")
    assert (counts["inserted"], reject.reason[:35]) == (1, "expected numbers of at most 4,300 d")


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
    for module in ("files", "streams"):
        monkeypatch.setattr(f"craftkit_archive.importer.{module}.BLOCK_BYTES", sum(blocks))
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


@pytest.mark.long
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


def test_of_two_dates_of_revocation_the_earlier_holds(archive: Archive, tmp_path: Path) -> None:
    for date in ("2026-02-02", "2026-02-01", "2026-02-03"):
        load(archive, tmp_path, "keys", [{**keys()[0], "revoked_at": date}])
    assert rows(archive, "api_keys")[0]["revoked_at"] == "2026-02-01T00:00:00.000Z"


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
        b"name,project_id\n1,2\n",
        b'[{"id": "1"',
        b'{"id": "1"',
        b"[1, 2",
        b'[{"id": NaN}]',
        b"\xff\xfe\x00",
        b'{"id": "\xff"}\n',
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


@pytest.mark.parametrize(
    "text",
    [
        "[\n" + ",\n".join(map(json.dumps, THREE)) + "\n]",
        '{"renders": [\n' + ",\n".join(map(json.dumps, THREE)) + "\n]}",
        '{"renders": [\n' + json.dumps(THREE[0]) + "\n]}\n" + json.dumps({"renders": THREE[1:]}),
    ],
)
def test_elements_on_lines_of_their_own_are_no_ndjson(archive: Archive, tmp_path: Path, text: str) -> None:
    (tmp_path / "r").write_text(text)
    counts, rejects = run(archive, "renders", tmp_path / "r")
    assert (counts["inserted"], rejects) == (3, [])


@pytest.mark.parametrize("block", [7, 100, 5000])
def test_a_broken_first_line_does_no_harm_to_the_next(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    for module in ("files", "streams"):
        monkeypatch.setattr(f"craftkit_archive.importer.{module}.BLOCK_BYTES", block)
    long = json.dumps(render(1, note="x" * 3000))
    (tmp_path / "r").write_text("\n".join(['{"id": "broken', long, '{"id": broken}', json.dumps(render(2))]))
    counts, rejects = run(archive, "renders", tmp_path / "r")
    assert (counts["inserted"], [reject.line for reject in rejects]) == (2, [1, 3])


def test_an_element_without_end_is_refused_before_it_fills_the_memory(archive: Archive, tmp_path: Path) -> None:
    with (tmp_path / "long.json").open("w") as out:
        out.write(f"[{json.dumps(render(1))}, ")
        out.write('{"id": "2", "input_data": [' + ", ".join(['"' + "x" * 1000 + '"'] * 20_000) + "]}]")
    counts, [reject] = run(archive, "renders", tmp_path / "long.json")
    assert counts["inserted"] == 1
    assert reject.reason.startswith("expected at most 16 MiB")


def test_a_refused_key_does_not_block_a_good_one(archive: Archive, tmp_path: Path) -> None:
    load(archive, tmp_path, "keys", [{"id": "k1", "project_id": NORTHWIND, "key": LIVE_KEY}])
    file = write_json(
        tmp_path / "k.json",
        [
            {"id": "k1", "project_id": NORTHWIND, "key": TEST_KEY},
            {"id": "k2", "project_id": NORTHWIND, "key": TEST_KEY},
        ],
    )
    counts, [reject] = run(archive, "keys", file)
    assert (counts["inserted"], reject.record["id"]) == (1, "k1")


def test_an_ambiguous_project_is_no_default(archive: Archive, tmp_path: Path) -> None:
    load(archive, tmp_path, "projects", [{"id": "a", "name": "A", "slug": "s"}, {"id": "b", "name": "B", "slug": "s"}])
    with pytest.raises(RequestError, match="a, b"):
        run(archive, "renders", write_json(tmp_path / "r.json", THREE), project="s")


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
    with suppress(RequestError):  # or in a sentence: a table as psql displays it
        run(archive, "renders", file)


def test_a_file_that_is_not_there_stops_it(archive: Archive, tmp_path: Path) -> None:
    for name in (tmp_path / "nothing", tmp_path):
        with pytest.raises(RequestError, match="Cannot read"):
            run(archive, "renders", name)


def test_what_was_read_before_a_stop_stays(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("craftkit_archive.importer.run.TRANSACTION_RECORDS", 10)
    for module in ("files", "streams"):
        monkeypatch.setattr(f"craftkit_archive.importer.{module}.BLOCK_BYTES", 10 * len(json.dumps(render(10))) + 20)
    file = write_ndjson(tmp_path / "r.ndjson", [render(n) for n in range(60)])
    stopped: list[bool] = []
    records = import_records(archive, "renders", [str(file)], stop=lambda: bool(stopped))
    next(records)
    stopped.append(True)
    summary = list(records)[-1]
    assert isinstance(summary, Summary)
    assert summary.outcome == "interrupted"
    kept = summary.counts["inserted"]
    assert 0 < kept == len(rows(archive, "renders")) < 60
    counts, _ = run(archive, "renders", file)
    assert (counts["read"], counts["inserted"], counts["unchanged"]) == (60, 60 - kept, kept)


def test_a_second_writer_is_told_who_the_first_is(archive: Archive, tmp_path: Path) -> None:
    file = write_json(tmp_path / "r.json", render(1))
    with archive.lock("fetch"), pytest.raises(LockedError, match=r"`fetch` \(process \d+ on .+, since 20"):
        run(archive, "renders", file)
    assert run(archive, "renders", file)[0]["inserted"] == 1


# --- tables, zipped files, logs --------------------------------------------------------------------------------------

COLUMNS = [
    "id",
    "project_id",
    "status",
    "asset_key",
    "created_at",
    "completed_at",
    "error_message",
    "is_draft",
    "input_data",
]


def as_table(records: list[dict[str, Any]], delimiter: str = ",") -> str:
    """Write records as Postgres copies them to CSV: empty is null, booleans are t and f."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerow(COLUMNS)
    for record in records:
        cells = [record.get(name) for name in COLUMNS]
        writer.writerow(
            "" if cell is None else "tf"[not cell] if isinstance(cell, bool) else
            json.dumps(cell) if isinstance(cell, dict) else cell
            for cell in cells
        )  # fmt: skip
    return out.getvalue()


DRAFTS = [
    render(1, is_draft=True, error_message='two\nlines, "quoted"', template_id=None),
    render(2, is_draft=False, template_id=None, completed_at=None),
]


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_table_means_the_same_as_json(tmp_path: Path, delimiter: str, mark: str) -> None:
    tables = []
    for name, text in (("json", json.dumps(DRAFTS)), ("table", mark + as_table(DRAFTS, delimiter))):
        (tmp_path / name).write_text(text)
        archive = Archive.create(tmp_path / f"archive-{name}")
        counts, rejects = run(archive, "renders", tmp_path / name)
        assert (counts["inserted"], rejects) == (2, [])
        tables.append(rows(archive, "renders"))
        archive.catalog.close()
    assert tables[0] == tables[1]
    assert json.loads(tables[1][0]["extra"]) == {"input_data": {"number": 1}, "is_draft": True}


NULLS: dict[str, tuple[str, dict[str, str], list[Any]]] = {
    "nothing is null": ('a,\nb,""\nc,x', {}, [None, "", "x"]),
    "a word beside nothing is a text": ("a,\nb,NULL", {}, [None, "NULL"]),
    "a word beside an empty text is a text": ('a,""\nb,NULL', {}, ["", "NULL"]),
    "a quoted word is a text": ('a,"NULL"\nb,NULL', {"null": "NULL"}, ["NULL", None]),
    "with a word, nothing is the empty text": ("a,NULL\nb,", {"null": "NULL"}, [None, ""]),
    "a word may be said to be a text": ("a,NULL\nb,x", {"null": ""}, ["NULL", "x"]),
    "a word of the user's": ("a,-\nb,x", {"null": "-"}, [None, "x"]),
    "quotes within": ('a,"x"", """\nb,\nc,"y,"', {}, ['x", "', None, "y,"]),
}


@pytest.mark.parametrize("law", NULLS)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_nulls_of_a_table(archive: Archive, tmp_path: Path, law: str, delimiter: str) -> None:
    body, options, expected = NULLS[law]
    if delimiter != "," and "quotes" in law:
        return
    lines = [f"{line[0]},{NORTHWIND},queued{line[1:]}" for line in body.split("\n")]
    text = "\n".join(["id,project_id,status,error_message", *lines])
    (tmp_path / "t.csv").write_text(text.replace(",", delimiter))
    _, rejects = run(archive, "renders", tmp_path / "t.csv", **options)
    assert rejects == []
    assert [row["error_message"] for row in rows(archive, "renders")] == expected


def test_where_everything_is_quoted_nothing_is_null(archive: Archive, tmp_path: Path) -> None:
    text = f'"id","project_id","status","completed_at","error_message"\n"a","{NORTHWIND}","queued","",""\n'
    (tmp_path / "t.csv").write_text(text + f'"b","{NORTHWIND}","failed","2026-01-01","NULL"\n')
    assert run(archive, "renders", tmp_path / "t.csv")[1] == []
    assert [row["error_message"] for row in rows(archive, "renders")] == [None, "NULL"]
    again = Archive.create(tmp_path / "again")
    (tmp_path / "n.csv").write_text(text.replace(',""', ',"NULL"'))
    assert run(again, "renders", tmp_path / "n.csv", null="NULL")[1] == []
    assert [row["error_message"] for row in rows(again, "renders")] == [None]
    again.catalog.close()


@pytest.mark.parametrize("word", ["NULL", "null", "(null)", "<null>", "[NULL]", "\\N", "None"])
@pytest.mark.parametrize("column", ["completed_at", "error_message", "note"])
def test_a_column_whose_empty_places_hold_one_word_is_asked_about(
    archive: Archive, tmp_path: Path, word: str, column: str
) -> None:
    text = f"id,project_id,status,other,{column}\na,{NORTHWIND},queued,,{word}\nb,{NORTHWIND},queued,,2026-01-01\n"
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(RequestError, match=r"column .*, line 2\)\. Run the import again with --null"):
        run(archive, "renders", tmp_path / "t.csv")
    assert rows(archive, "renders") == []
    assert run(archive, "renders", tmp_path / "t.csv", null=word)[0]["inserted"] == 2


def test_a_table_with_tabs_that_can_be_read_in_two_ways_is_asked_about(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text(f"id\tproject_id\tstatus\tnote\na\t{NORTHWIND}\tqueued\tC:\\new\n")
    found = []
    for form in ("text", "tsv", None):
        archive = Archive.create(tmp_path / str(form))
        if form is None:
            with pytest.raises(RequestError, match=r"line 2\).* --format text .* --format tsv"):
                run(archive, "renders", tmp_path / "t.tsv")
        else:
            run(archive, "renders", tmp_path / "t.tsv", form=form)
            found.append(json.loads(rows(archive, "renders")[0]["extra"])["note"])
        archive.catalog.close()
    assert found == ["C:\new", "C:\\new"]


def test_json_that_can_be_read_in_two_ways_is_asked_about(tmp_path: Path) -> None:
    (tmp_path / "r.ndjson").write_text(json.dumps(render(1)) + "\n" + json.dumps(render(2, note="a\\nb")) + "\n")
    found = []
    for form in ("text", "ndjson", None):
        archive = Archive.create(tmp_path / str(form))
        if form is None:
            with pytest.raises(RequestError, match=r"--format text if psql's .copy wrote it"):
                run(archive, "renders", tmp_path / "r.ndjson")
        else:
            run(archive, "renders", tmp_path / "r.ndjson", form=form)
            found.append(json.loads(rows(archive, "renders")[-1]["extra"])["note"])
        archive.catalog.close()
    assert found == ["a\nb", "a\\nb"]


def test_types_of_columns_are_those_of_all_their_cells(archive: Archive, tmp_path: Path) -> None:
    lines = [
        "id,project_id,status,flag,letter,json,some,twice",
        f'a,{NORTHWIND},queued,t,t,"{{""a"": 1}}","{{}}","{{""a"": 1, ""a"": 2}}"',
        f'b,{NORTHWIND},queued,f,x,[],"{{x,y}}",',
        f"c,{NORTHWIND},queued,,,,,",
    ]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    run(archive, "renders", tmp_path / "t.csv")
    first, second, third = (json.loads(row["extra"] or "{}") for row in rows(archive, "renders"))
    assert first == {"flag": True, "letter": "t", "json": {"a": 1}, "some": "{}", "twice": '{"a": 1, "a": 2}'}
    assert (second, third) == ({"flag": False, "letter": "x", "json": [], "some": "{x,y}"}, {})


def test_camel_case_headers_and_numbers_in_a_table(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"id,projectId,status,durationMs,createdAt\n1,{NORTHWIND},failed,250,2026-06-05\n")
    run(archive, "renders", tmp_path / "t.csv")
    [row] = rows(archive, "renders")
    assert (row["id"], row["duration_ms"], row["created_at"]) == ("1", 250, "2026-06-05T00:00:00.000Z")


def test_bad_rows_of_a_table_are_told_with_their_line(archive: Archive, tmp_path: Path) -> None:
    lines = [
        b"id,project_id,status,note",
        b"1,p,queued,fine",
        b"2,p,queued,fine,too many",
        b'3,p,queued,"over\ntwo lines"',
        b"4,p,queued",
        b'5,p,queued,"bad"quote',
        b"6,p,queued,\xff",
        b"7,p,done,x",
        b"",
        b"8,p,queued,fine",
    ]
    (tmp_path / "t.csv").write_bytes(b"\n".join(lines))
    counts, rejects = run(archive, "renders", tmp_path / "t.csv")
    assert counts["inserted"] == 3
    assert [(reject.line, reject.reason[:22]) for reject in rejects] == [
        (3, "expected 4 cells, as t"),
        (6, "expected 4 cells, as t"),
        (7, "expected a row of cell"),
        (8, "expected UTF-8"),
        (9, "status: expected one o"),
    ]


def test_a_header_that_names_a_column_twice_is_refused(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,projectId,project_id\n1,2,3\n")
    counts, [reject] = run(archive, "renders", tmp_path / "t.csv")
    assert counts["inserted"] == 0
    assert "each column once" in reject.reason


@pytest.mark.parametrize("text", [FORMS["array"], FORMS["NDJSON"], as_table(THREE)], ids=["array", "NDJSON", "CSV"])
def test_each_form_can_be_gzipped(archive: Archive, tmp_path: Path, text: str) -> None:
    half = len(text) // 2
    (tmp_path / "r.gz").write_bytes(gzip.compress(text[:half].encode()) + gzip.compress(text[half:].encode()))
    assert run(archive, "renders", tmp_path / "r.gz")[0]["inserted"] == 3


@pytest.mark.parametrize("harm", ["cut", "flipped", "followed by nonsense"])
def test_a_damaged_gzip_keeps_what_came_before_and_is_told(archive: Archive, tmp_path: Path, harm: str) -> None:
    chance = random.Random(1)
    records = [render(n, noise=chance.getrandbits(200)) for n in range(2000)]
    body = bytearray(gzip.compress("".join(f"{json.dumps(record)}\n" for record in records).encode()))
    if harm == "cut":
        body = body[: len(body) // 2]
    elif harm == "flipped":
        body[-6] ^= 1
    else:
        body += b"nonsense"
    (tmp_path / "r.gz").write_bytes(body)
    counts, rejects = run(archive, "renders", tmp_path / "r.gz")
    assert rejects[-1].reason.startswith("expected a whole gzip file")
    assert counts["inserted"] == (2000 if harm != "cut" else len(rows(archive, "renders"))) > 500


def test_a_log_of_webhooks_repeats_and_comes_out_of_order(archive: Archive, tmp_path: Path) -> None:
    def body(number: int, event: str, **more: Any) -> dict[str, Any]:
        status = event.split(".")[1]
        made = {"event": event, "renderId": render_id(number), "templateId": "t", "status": status}
        return made | {"downloadUrl": None, "errorMessage": None, "createdAt": "2026-06-05T10:00:00.000Z"} | more

    log = [
        body(1, "render.succeeded", completedAt="2026-06-05T10:00:09.000Z", downloadUrl="https://x/1"),
        body(2, "render.failed", errorMessage="no"),
        body(1, "render.succeeded", completedAt="2026-06-05T10:00:09.000Z", downloadUrl="https://x/1"),
    ]
    file = write_ndjson(tmp_path / "log.ndjson", log)
    counts, _ = run(archive, "renders", file, project=NORTHWIND)
    assert (counts["inserted"], counts["unchanged"]) == (2, 1)
    queued = {"id": render_id(1), "projectId": NORTHWIND, "status": "rendering", "completedAt": None}
    run(archive, "renders", write_json(tmp_path / "late.json", queued))
    first, second = rows(archive, "renders")
    assert (first["status"], first["completed_at"]) == ("succeeded", "2026-06-05T10:00:09.000Z")
    assert (second["status"], second["error_message"]) == ("failed", "no")
    assert first["asset_key"] == render(1)["asset_key"]


@pytest.mark.parametrize(("form", "good"), [("ndjson", False), ("csv", True), ("json", False), (None, True)])
def test_the_form_can_be_said(archive: Archive, tmp_path: Path, form: Any, good: bool) -> None:
    (tmp_path / "t").write_text(as_table(THREE))
    counts, rejects = run(archive, "renders", tmp_path / "t", form=form)
    assert (counts["inserted"] == 3) == good == (not rejects)


# --- what records declare --------------------------------------------------------------------------------------------


def test_a_declared_digest_is_expected_before_any_byte_was_seen(archive: Archive, tmp_path: Path) -> None:
    body = pdf("declared")
    good: dict[str, Any] = {"sizeBytes": len(body), "sha256": digest([body]).sha256.upper()}
    load(archive, tmp_path, "renders", [render(1, **good), render(2, size_bytes=1), render(3, sha256="0" * 64)])
    assert load(archive, tmp_path, "renders", [render(1, **good)]).counts["unchanged"] == 1
    for number in (1, 2, 3):
        put(tmp_path / "bucket", render(number)["asset_key"], body)
    records = list(fetch_assets(archive, str(tmp_path / "bucket")))
    assert [record.verdict for record in records if isinstance(record, Finding)] == ["wrong-size", "wrong-digest"]
    [stored] = archive.catalog.stored_assets(archive.select())
    assert (stored.render_id, stored.sha256) == (render_id(1), digest([body]).sha256)
    with closing(sqlite3.connect(archive.path / "archive.db")) as connection, connection:
        sources = connection.execute("SELECT digest_source FROM assets ORDER BY render_id").fetchall()
    assert sources == [("declared",), (None,), ("declared",)]


def test_a_declared_digest_that_contradicts_what_is_stored_is_refused(world: World) -> None:
    contradiction = load(world.archive, world.folder, "renders", [render(1, sha256="0" * 64), render(2, size_bytes=1)])
    assert contradiction.counts["rejected"] == 2
    assert summary_of(verify_assets(world.archive)).outcome == "ok"


@pytest.mark.parametrize("declared", [{"sha256": "xyz"}, {"sha256": 5}, {"size_bytes": -1}, {"sizeBytes": "large"}])
def test_a_declaration_that_is_none_is_refused(archive: Archive, tmp_path: Path, declared: dict[str, Any]) -> None:
    counts, [reject] = run(archive, "renders", write_json(tmp_path / "r.json", [render(1, **declared)]))
    assert counts["inserted"] == 0
    assert reject.reason.startswith(("sha256: expected 64 hex digits", "size_bytes: expected a whole number"))


# --- policies --------------------------------------------------------------------------------------------------------


def test_skip_leaves_what_is_there_and_adds_the_new(archive: Archive, tmp_path: Path) -> None:
    load(archive, tmp_path, "renders", [render(1)])
    file = write_json(tmp_path / "r.json", [render(1, template_id="changed", sha256="0" * 64), render(2)])
    counts, _ = run(archive, "renders", file, on_duplicate="skip")
    assert (counts["unchanged"], counts["inserted"]) == (1, 1)
    assert rows(archive, "renders")[0]["template_id"] == "invoice"
    assert archive.catalog.expectations([render_id(1)]) == []


def test_fail_refuses_what_is_there_even_within_one_file(archive: Archive, tmp_path: Path) -> None:
    file = write_json(tmp_path / "r.json", [render(1), render(2), render(1)])
    counts, [reject] = run(archive, "renders", file, on_duplicate="fail")
    assert (counts["inserted"], counts["rejected"]) == (2, 1)
    assert reject.reason == "id: expected a new one, this is there already"


def test_all_or_nothing_is_all_or_nothing(archive: Archive, tmp_path: Path) -> None:
    load(archive, tmp_path, "renders", [render(1)])
    before = rows(archive, "renders")
    file = write_json(tmp_path / "r.json", [render(1, template_id="changed"), render(2), render(3, status="done")])
    records = list(import_records(archive, "renders", [str(file)], all_or_nothing=True))
    assert isinstance(records[-1], Summary)
    assert records[-1].counts == {"read": 3, "rejected": 1, "discarded": 2}
    assert rows(archive, "renders") == before
    file = write_json(tmp_path / "r.json", [render(1, template_id="changed"), render(2)])
    assert run(archive, "renders", file, all_or_nothing=True)[0]["inserted"] == 1
    assert len(rows(archive, "renders")) == 2


def test_a_dry_run_says_what_would_change_and_changes_nothing(archive: Archive, tmp_path: Path) -> None:
    load(archive, tmp_path, "renders", [render(1)])
    before, runs = rows(archive, "renders"), len(archive.catalog.last_runs(9))
    file = write_json(
        tmp_path / "r.json", [render(1, template_id="changed"), render(2), render(2), render(3, status="x")]
    )
    counts, rejects = run(archive, "renders", file, dry_run=True)
    assert counts == {"read": 4, "inserted": 1, "updated": 1, "unchanged": 1, "rejected": 1}
    assert len(rejects) == 1
    assert rows(archive, "renders") == before
    assert len(archive.catalog.last_runs(9)) == runs


def test_an_older_row_of_a_project_only_adds_what_is_missing(archive: Archive, tmp_path: Path) -> None:
    new = {"id": "p", "name": "New", "slug": "new", "updated_at": "2026-02-01"}
    old = {"id": "p", "name": "Old", "slug": "old", "updated_at": "2026-01-01", "created_at": "2025-01-01"}
    load(archive, tmp_path, "projects", [new, old])
    [row] = rows(archive, "projects")
    assert (row["name"], row["slug"], row["created_at"]) == ("New", "new", "2025-01-01T00:00:00.000Z")


def test_a_mended_file_of_rejects_is_imported_as_it_is(archive: Archive, tmp_path: Path) -> None:
    lines = [
        json.dumps(render(1, status="done")),
        '{"id": "x" "status": "queued"}',
        json.dumps({"id": "k", "key": TEST_KEY}),
    ]
    (tmp_path / "r.ndjson").write_text("\n".join(lines))
    _, rejects = run(archive, "renders", tmp_path / "r.ndjson")
    text = "".join(msgspec.json.encode(reject).decode() + "\n" for reject in rejects)
    mended = text.replace('"done"', '"succeeded"').replace(
        r"{\"id\": \"x\" \"status\": \"queued\"}",
        rf"{{\"id\": \"x\", \"project_id\": \"{NORTHWIND}\", \"status\": \"queued\"}}",
    )
    (tmp_path / "mended.ndjson").write_text(mended)
    counts, [left] = run(archive, "renders", tmp_path / "mended.ndjson")
    assert (counts["inserted"], left.record) == (2, rejects[2].record)


def test_a_masked_key_does_not_pass_for_a_key(archive: Archive, tmp_path: Path) -> None:
    _, rejects = run(archive, "keys", write_json(tmp_path / "k.json", [{"id": "k", "key": TEST_KEY}]))
    again = rejects[0].record | {"project_id": NORTHWIND}
    counts, [reject] = run(archive, "keys", write_json(tmp_path / "again.json", [again]))
    assert counts["inserted"] == 0
    assert "whole key" in reject.reason


@pytest.mark.parametrize("form", ["ndjson", "json"])
def test_a_name_that_is_given_twice_loses_nothing_silently(archive: Archive, tmp_path: Path, form: Any) -> None:
    rest = json.dumps(render(1))[1:]
    spaced = '{"status" : "queued", ' + rest
    lines = [json.dumps(render(0)), '{"id": "other", ' + rest, json.dumps(render(2)), spaced]
    file = tmp_path / "twice"
    file.write_text("\n".join(lines) if form == "ndjson" else f"[{', '.join(lines)}]")
    counts, rejects = run(archive, "renders", file)
    assert counts["inserted"] == 2
    assert [reject.reason[:30] for reject in rejects] == [
        "id: expected once in an object",
        "status: expected once in an ob",
    ]


# --- what operators really bring -------------------------------------------------------------------------------------


def big(folder: Path, count: int = 9000, **fields: Any) -> Path:
    """Write a file that is large enough to be read by other processes."""
    return write_ndjson(folder / "big.ndjson", [render(n, note="x" * 500, **fields) for n in range(count)])


def test_a_large_file_may_come_on_standard_input(archive: Archive, tmp_path: Path) -> None:
    done = command("--json", "import", "renders", "-", archive=archive.path, stdin=big(tmp_path).read_bytes())
    assert done.lines[-1]["counts"]["inserted"] == 9000
    words = " ".join(program("--json", "import", "renders", "-", archive=archive.path)[2:])
    assert words.endswith("import renders -")
    with (tmp_path / "big.ndjson").open("rb") as file:
        again = subprocess.run(
            program("--json", "import", "renders", "-", archive=archive.path), cwd=ROOT, stdin=file, capture_output=True
        )
    assert json.loads(again.stdout.splitlines()[-1])["counts"]["unchanged"] == 9000


@pytest.mark.parametrize("harm", ["replaced", "cut"])
def test_a_file_that_changes_while_it_is_read_is_told(archive: Archive, tmp_path: Path, harm: str) -> None:
    file = big(tmp_path, 40_000)
    records = import_records(archive, "renders", [str(file)])
    assert next(records) == Plan(count=0, size_bytes=file.stat().st_size)
    next(records)
    if harm == "replaced":
        big(tmp_path / "archive", 40_000, template_id="other").replace(file)
    else:
        os.truncate(file, file.stat().st_size // 2)
    try:
        outcome = list(records)[-1]
    except RequestError as error:
        assert "changed while it was being read" in str(error)  # noqa: PT017 - either way of telling it will do
    else:
        assert isinstance(outcome, Summary)
        assert outcome.outcome == "problems"
    assert {row["template_id"] for row in rows(archive, "renders")} == {"invoice"}


@pytest.mark.parametrize("option", ["--all-or-nothing", "--dry-run"])
def test_a_key_can_be_revoked_while_an_import_waits_for_input(world: World, option: str) -> None:
    words = program("--json", "import", "renders", "-", option, archive=world.archive.path)
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as importing:
        assert importing.stdin is not None
        assert importing.stdout is not None
        importing.stdin.write(json.dumps(render(20)).encode() + b"\n")
        importing.stdin.flush()
        time.sleep(1)
        began = time.monotonic()
        world.archive.revoke_key("key-1")
        assert time.monotonic() - began < 10, "it did not wait"
        importing.stdin.close()
        last = json.loads(importing.stdout.read().splitlines()[-1])
    assert last["counts"]["inserted"] == 1
    assert len(rows(world.archive, "renders")) == (5 if option == "--dry-run" else 6)


def test_an_import_that_may_not_begin_leaves_the_rejects_of_another(archive: Archive, tmp_path: Path) -> None:
    rejects = tmp_path / "rejects.ndjson"
    file = write_ndjson(tmp_path / "r.ndjson", [render(1, status="done"), render(2, status="done")])
    first = keep_rejects(import_records(archive, "renders", [str(file)]), rejects)
    next(first)
    with pytest.raises(LockedError):
        list(keep_rejects(import_records(archive, "renders", [str(file)]), rejects))
    list(first)
    assert len(rejects.read_text().splitlines()) == 2
    assert sorted(path.name for path in tmp_path.glob("rejects*")) == ["rejects.ndjson"]


def test_rejects_go_where_a_link_leads_and_not_into_its_place(archive: Archive, tmp_path: Path) -> None:
    file = write_ndjson(tmp_path / "r.ndjson", [render(1, status="done")])
    (tmp_path / "link").symlink_to("real")
    list(keep_rejects(import_records(archive, "renders", [str(file)]), tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert len((tmp_path / "real").read_text().splitlines()) == 1
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RequestError, match="not a file"):
        list(keep_rejects(import_records(archive, "renders", [str(file)]), tmp_path / "pipe"))


def test_a_named_asset_key_holds_against_a_supposed_one_in_any_order(tmp_path: Path) -> None:
    named = render(1, asset_key=f"renders/{NORTHWIND}/2026/r.pdf")
    body = {"event": "render.succeeded", "renderId": render_id(1), "projectId": NORTHWIND, "status": "succeeded"}
    for order in ([named, body], [body, named]):
        archive = Archive.create(tmp_path / str(len(order[0])))
        for record in order:
            load(archive, tmp_path, "renders", [record])
        assert rows(archive, "renders")[0]["asset_key"] == named["asset_key"]
        archive.catalog.close()


@pytest.mark.parametrize("text", ["[{}]", "{}"])
def test_numbers_of_any_length_are_kept(archive: Archive, tmp_path: Path, text: str) -> None:
    record = json.dumps(render(1, large=10**30, exact=0.1, far="FAR")).replace('"FAR"', "1e999")
    (tmp_path / "r").write_text(text.replace("{}", record))
    _, rejects = run(archive, "renders", tmp_path / "r")
    assert rejects == []
    extra = json.loads(rows(archive, "renders")[0]["extra"])
    assert (extra["exact"], Decimal(extra["far"])) == (0.1, Decimal("1e999"))
    assert str(10**30) in rows(archive, "renders")[0]["extra"]


def test_a_refused_number_of_any_length_comes_back_from_a_large_file(archive: Archive, tmp_path: Path) -> None:
    file = big(tmp_path)
    with file.open("a") as out:
        out.write(json.dumps(render(9000, duration_ms=10**30)) + "\n")
    counts, [reject] = run(archive, "renders", file)
    assert (counts["inserted"], reject.record["duration_ms"]) == (9000, 10**30)


@pytest.mark.parametrize("indent", [None, 1])
def test_lists_of_other_things_are_left_alone(archive: Archive, tmp_path: Path, indent: int | None) -> None:
    dump = {"keys": keys(), "projects": projects(), "renders": THREE}
    (tmp_path / "dump.json").write_text(json.dumps(dump, indent=indent))
    for kind in ("projects", "keys", "renders"):
        counts, rejects = run(archive, kind, tmp_path / "dump.json")
        assert (counts["inserted"], rejects) == (len(dump[kind]), [])


@pytest.mark.parametrize("indent", [None, 1])
def test_a_record_with_a_list_is_a_record(archive: Archive, tmp_path: Path, indent: int | None) -> None:
    record = {"renderId": "r1", "projectId": NORTHWIND, "status": "failed", "items": [{"sku": 1}]}
    (tmp_path / "r.json").write_text(json.dumps(record, indent=indent))
    assert run(archive, "renders", tmp_path / "r.json")[0]["inserted"] == 1
    late = {"data": [{"x": 1}], "id": "r2", "project_id": NORTHWIND, "status": "failed"}
    (tmp_path / "late.json").write_text(json.dumps(late, indent=indent))
    counts, rejects = run(archive, "renders", tmp_path / "late.json")
    assert counts["inserted"] == 1 or rejects[-1].record["id"] == "r2", "it is taken or given back, and never lost"


@pytest.mark.parametrize("form", ["mark", "zipped"])
def test_a_pipe_may_be_slow_from_its_first_byte(archive: Archive, form: str) -> None:
    text = json.dumps(render(1)).encode()
    body = b"\xef\xbb\xbf" + text if form == "mark" else gzip.compress(text)
    words = program("--json", "import", "renders", "-", archive=archive.path)
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as importing:
        assert importing.stdin is not None
        assert importing.stdout is not None
        for piece in (body[:1], body[1:2], body[2:]):
            importing.stdin.write(piece)
            importing.stdin.flush()
            time.sleep(0.3)
        importing.stdin.close()
        assert json.loads(importing.stdout.read().splitlines()[-1])["counts"]["inserted"] == 1


def test_a_first_line_that_is_cut_costs_one_line(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "r").write_text('{"id": "r0", "project_id": "p",\n' + FORMS["NDJSON"])
    counts, rejects = run(archive, "renders", tmp_path / "r")
    assert (counts["inserted"], [reject.line for reject in rejects]) == (3, [1])


def test_a_quote_that_is_never_closed_says_what_it_costs(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('id,project_id,status,note\n1,p,queued,fine\n2,p,queued,"oops\n3,p,queued,x\n')
    counts, [reject] = run(archive, "renders", tmp_path / "t.csv")
    assert (counts["inserted"], reject.line) == (1, 3)
    assert "never closed, and nothing after it was read" in reject.reason


def test_a_ragged_row_comes_back_so_that_it_can_be_mended(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,project_id,status\n1,p,queued,more\n2,p\n")
    _, rejects = run(archive, "renders", tmp_path / "t.csv")
    assert rejects[0].record == {"id": "1", "project_id": "p", "status": "queued", "rest": ["more"]}
    text = "".join(msgspec.json.encode(reject).decode() + "\n" for reject in rejects)
    (tmp_path / "m").write_text(text.replace('"project_id":"p"}', '"project_id":"p","status":"failed"}'))
    assert run(archive, "renders", tmp_path / "m")[0]["inserted"] == 2


def test_lines_of_a_table_are_counted_as_an_editor_counts_them(archive: Archive, tmp_path: Path) -> None:
    long = "x" * (MAX_RECORD_BYTES + 1)
    (tmp_path / "t.csv").write_bytes(f'id,project_id,status\n1,p,"a\rb"\n{long}\n2,p\n'.encode())
    assert [reject.line for reject in run(archive, "renders", tmp_path / "t.csv")[1]][-2:] == [3, 4]


def test_half_a_line_at_the_end_of_a_broken_gzip_is_no_record(archive: Archive, tmp_path: Path) -> None:
    whole = gzip.compress(("".join(f"{json.dumps(record)}\n" for record in THREE)).encode(), 0)
    (tmp_path / "r.gz").write_bytes(whole[: len(whole) - 60])
    counts, [reject] = run(archive, "renders", tmp_path / "r.gz")
    assert counts["inserted"] == 2
    assert reject.reason.startswith("expected a whole gzip")


def test_keys_in_odd_spellings_do_not_come_back(archive: Archive, tmp_path: Path) -> None:
    secret = "ck_live_abcd\\u0065fghijklmnop"
    lines = [f'{{"id": "a", "key": "{secret}", oops}}', '{"id": "b", "Key": "sk-SECRETSECRET"}', '{"id": "c"}']
    (tmp_path / "k.ndjson").write_text("\n".join(lines))
    _, rejects = run(archive, "keys", tmp_path / "k.ndjson")
    assert "fghijk" not in repr(rejects)
    assert "SECRETSECRET" not in repr(rejects)


def test_a_record_with_very_many_names_is_read_at_once(archive: Archive, tmp_path: Path) -> None:
    names: dict[str, Any] = {f"name{number}": 1 for number in range(60_000)}
    record = render(1, **names)
    for name, text in (("array", json.dumps([record])), ("line", json.dumps(record)[:-1] + ', "name1": 2}')):
        (tmp_path / name).write_text(text)
        run(archive, "renders", tmp_path / name)


# --- laws ------------------------------------------------------------------------------------------------------------

ODD = st.sampled_from(
    [
        "plain",
        'a "quote": in it',
        '":',
        ": first",
        '" :',
        "\t:",
        "{",
        "back\\slash",
        "\\",
        "é",
        "\u2028",
        {"a:": '":"'},
        [":"],
    ]
)
EXTRA = st.dictionaries(
    st.sampled_from(["note", "pollUrl", "odd name", "class", "id2", "extra"]), ODD | st.none() | st.integers()
)


@settings(max_examples=150, deadline=None)
@given(
    records=st.lists(st.tuples(FIELDS, EXTRA), min_size=1, max_size=6),
    camel=st.booleans(),
    colon=st.sampled_from([":", ": ", " : "]),
)
@example(records=[({"status": "failed", "error_message": ":"}, {})], camel=False, colon=": ")
def test_the_fast_way_reads_what_the_slow_way_reads(
    records: list[tuple[dict[str, Any], dict[str, Any]]], camel: bool, colon: str
) -> None:
    reader = LineReader(Render, None)
    for fields, extra in records:
        record = {"id": "r", "projectId" if camel else "project_id": "p", **fields, **extra}
        try:
            slow = read_record(Render, record)
        except ValueError:
            slow = None
        line = json.dumps(record, separators=(", ", colon)).encode()
        fast = reader.read(line)
        if fast is not None:
            assert slow is not None
            assert {name: getattr(fast, name) for name in Render.__struct_fields__} == msgspec.structs.asdict(slow)
        reader.learn(record)
        if slow is not None and "extra" not in extra:
            assert reader.read(line) is not None or "class" in extra or "odd name" in extra


@given(value=st.sampled_from(['":"', r'"\u003a"', r'"\":"', '{"a":1}', r'{"\u003a":":"}', "1"]), gap=st.text(" \t\r"))
def test_the_fast_way_never_loses_a_name_that_is_given_twice(value: str, gap: str) -> None:
    reader = LineReader(Render, "p")
    reader.learn({"id": "r", "status": "queued", "note": 1})
    assert reader.read(f'{{"id"{gap}:"r","status":"queued","note":{value}}}'.encode()) is not None
    assert reader.read(f'{{"id"{gap}:"r","status":"queued","id":"s","note":{value}}}'.encode()) is None
    assert reader.read(f'{{"id"{gap}:"r","status":"queued","note":1,"note":{value}}}'.encode()) is None


@st.composite
def histories(draw: st.DrawFn) -> list[list[dict[str, Any]]]:
    """Draw files of what was seen of some renders at some time, in rows, answers and webhook bodies."""
    files: list[list[dict[str, Any]]] = []
    for _ in range(draw(st.integers(1, 4))):
        seen = []
        for number in draw(st.lists(st.integers(0, 3), max_size=4)):
            state = draw(st.sampled_from(["queued", "rendering", "final"]))
            status = ("succeeded", "failed")[number % 2] if state == "final" else state
            ended = "2026-06-05T10:00:09.000Z" if state == "final" else None
            error = "no" if status == "failed" else None
            row = render(number, status=status, completed_at=ended, error_message=error)
            row["asset_key"] = row["asset_key"] if status == "succeeded" else None
            answer = {"id": row["id"], "projectId": NORTHWIND, "status": status, "createdAt": row["created_at"]}
            answer |= {"errorMessage": error, "completedAt": ended, "durationMs": 9000 if ended else None}
            body = {"event": f"render.{status}", "renderId": row["id"], "projectId": NORTHWIND, "status": status}
            seen.append(draw(st.sampled_from([row, answer, body] if state == "final" else [row, answer])))
        files.append(seen)
    return files


@pytest.mark.long
@FEW
@given(files=histories(), order=st.randoms(use_true_random=False))
def test_any_order_of_the_same_files_gives_the_same_catalog(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[dict[str, Any]]], order: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("order")
    paths = [write_ndjson(folder / f"{number}.ndjson", file) for number, file in enumerate(files)]
    found = []
    for name in ("as drawn", "shuffled"):
        archive = Archive.create(folder / name)
        run(archive, "renders", *paths)
        found.append(rows(archive, "renders"))
        archive.catalog.close()
        order.shuffle(paths)
    assert found[0] == found[1]


# Words of every form, and what has broken readers of them.
TOKENS = [
    *(b'{ } [ ] " "" : , ; | \t \\ \\\\ \\N \\. \\n \\" \\u \\ud800 \\u0000 / - + . e E'.split(b" ")),
    *(b"0 1 -1 1e5 1e999 1e9999999999999999999 -1e-9999999999999999999 0.1 01 NaN Infinity null NULL true t f".split()),
    *(b'"id" "project_id" "status" "queued" "succeeded" "created_at" "asset_url" "renders" "data" "key" id'.split()),
    *(b"\n", b"\r\n", b"\r", b" ", b"\x00", b"\x01", b"\x7f", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf5\x80\x80\x80"),
    *(b"\xc0\xaf", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b", "é漢🎉\u2028".encode()),
    *(b"9" * 5000, b"." + b"1" * 5000),
    *(b"[" * 200, b'{"a":' * 200, b"PGDMP", b"-- PostgreSQL database dump\n"),
    *(b"COPY public.renders (id, project_id, status) FROM stdin;\n", b"id,project_id,status\n", b"a,b,queued\n"),
    *(b"id\tproject_id\tstatus\n", b'"id";"project_id";"status"\n', b"a\tb\tqueued\n"),
    *(b"ck_live_SECRETsecret0123456789", b"2026-01-01", b"postgresql://u:p@h/d"),
]  # fmt: skip
DUMP = "--\n-- PostgreSQL database dump\n--\n\nCOPY public.renders (id, project_id, status) FROM stdin;\na\tp\tqueued\n"
SEEDS = [
    json.dumps(THREE),
    json.dumps(THREE, indent=1),
    "\n".join(map(json.dumps, THREE)),
    json.dumps({"data": keys(), "more": [1, {"a": None}]}),
    as_table(DRAFTS),
    as_table(DRAFTS, "\t"),
    as_table(DRAFTS, ";"),
    "id\tproject_id\tstatus\tnote\na\tp\tqueued\t\\N\nb\tp\tfailed\tx\\ty\\\\\n\\.\n",
    DUMP + "\\.\n",
    json.dumps({"type": "reject", "source": "s", "line": 1, "reason": "r", "record": "{}"}),
]


def nonsense(chance: random.Random) -> bytes:
    """Draw a file that is nearly one of records, or that is made of pieces of such files."""
    if chance.random() < 0.4:
        body = b"".join(chance.choices(TOKENS, k=chance.randint(1, 25)))
    else:
        text = chance.choice(SEEDS)
        body = text.encode(chance.choice(["utf-8", "utf-8", "utf-8", "utf-16", "utf-8-sig", "utf-16-le"]))
        for _ in range(chance.randint(0, 4)):
            at, end = sorted(chance.choices(range(len(body) + 1), k=2))
            match chance.randrange(5):
                case 0:
                    body = body[:at] + chance.choice(TOKENS) + body[at:]
                case 1:
                    body = body[:at] + chance.choice(TOKENS) + body[min(end, at + 9) :]
                case 2:
                    body = body[:at]
                case 3:
                    body = body[:at] + body[end:]
                case _:
                    flipped = bytes([body[at] ^ 1 << chance.randrange(8)]) if at < len(body) else b""
                    body = body[:at] + flipped + body[at + 1 :]
    if chance.random() < 0.05:
        body = gzip.compress(body, 1)
        body = body[: chance.randint(0, len(body))] if chance.random() < 0.5 else body
    return body


def read_nonsense(file: Path, seeds: range) -> None:
    """Read as many files of nonsense, as import does but for the catalog."""
    for seed in seeds:
        chance = random.Random(seed)
        body = nonsense(chance)
        file.write_bytes(body)
        kind: Kind = chance.choice(["projects", "keys", "renders"])
        form: Any = chance.choice([None, None, None, "json", "ndjson", "csv", "tsv", "text", "dump"])
        null = chance.choice([None, None, "NULL", ""])
        reads, refused = [], False
        try:
            for piece in read_source(str(file), kind=kind, form=form, null=null, stop=never):
                reads.append(read_piece(_ReadTask(kind, chance.choice([None, "p"]), str(file), piece)))
                msgspec.msgpack.encode(reads[-1])
        except RequestError:
            refused = True
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {body!r} as {form}") from error
        assert not (refused and reads), f"seed {seed}: refused as a whole, after some of it was read"
        for read in reads:
            assert b"ck_live_SECRETsecret" not in msgspec.json.encode(read.rejects), f"seed {seed}: a key came back"
            for line, reason, record in read.rejects:
                assert line >= 1, f"seed {seed}"
                assert reason, f"seed {seed}"
                msgspec.json.decode(record)


def test_nonsense_ends_in_records_and_rejects(tmp_path: Path) -> None:
    read_nonsense(tmp_path / "nonsense", range(2_000))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(4))
def test_a_hundred_thousand_pieces_of_nonsense_end_in_records_and_rejects(tmp_path: Path, part: int) -> None:
    read_nonsense(tmp_path / "nonsense", range(10_000 + part * 25_000, 35_000 + part * 25_000))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=300), form=st.sampled_from([None, "json", "ndjson", "csv", "tsv"]), zipped=st.booleans()
)
def test_any_bytes_in_any_form_end_in_counts(
    archive: Archive, tmp_path: Path, content: bytes, form: Any, zipped: bool
) -> None:
    file = tmp_path / "any"
    file.write_bytes(gzip.compress(content) if zipped else content)
    for kind in ("projects", "keys", "renders"):
        with suppress(RequestError):
            run(archive, kind, file, form=form)


def test_a_large_file_is_read_in_another_process_and_means_the_same(archive: Archive, tmp_path: Path) -> None:
    records = [render(n, note="x" * 500) for n in range(9000)]
    records[4000]["status"] = "done"
    records[8999] = render(8999, project_id=SOUTHWIND)
    file = write_ndjson(tmp_path / "r.ndjson", [*records, render(8999)])
    counts, rejects = run(archive, "renders", file)
    assert (counts["inserted"], [reject.line for reject in rejects]) == (8999, [4001, 9001])
    assert rejects[0].record == records[4000]


# --- the index of the server's list ----------------------------------------------------------------------------------


def _has_index(archive: Archive) -> bool:
    return bool(archive.catalog._query("SELECT 1 FROM sqlite_master WHERE name = 'idx_renders_newest'"))


@pytest.mark.parametrize("words", [{}, {"dry_run": True}, {"all_or_nothing": True}, {"stop": lambda: True}])
def test_an_import_always_ends_with_the_index_of_the_list(archive: Archive, tmp_path: Path, words: Any) -> None:
    file = write_ndjson(tmp_path / "renders.ndjson", [render(number) for number in range(5)])
    seen = []
    for record in import_records(archive, "renders", [str(file)], **words):
        if isinstance(record, Progress):
            seen.append(_has_index(archive))
    assert (seen, _has_index(archive)) == ([False], True)
    assert (archive.catalog.has_renders()) == (not words.get("dry_run"))
    for _ in import_records(archive, "renders", [str(file)]):
        assert _has_index(archive) or words.get("dry_run")
    assert _has_index(archive)


def test_an_import_that_fails_ends_with_it_too(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_given: object) -> None:
        raise NoSpaceError("full")

    monkeypatch.setattr(archive.catalog, "put", fail)
    file = write_ndjson(tmp_path / "renders.ndjson", [render(1)])
    with pytest.raises(NoSpaceError):
        list(import_records(archive, "renders", [str(file)]))
    assert _has_index(archive)


def test_the_index_that_a_killed_import_left_out_is_made_by_the_next_command_that_writes(tmp_path: Path) -> None:
    file = write_ndjson(tmp_path / "renders.ndjson", [render(number) for number in range(20)])
    with Archive.create(tmp_path / "other") as other:
        load(other, tmp_path, "projects", projects())
    before = (
        "import os, signal, craftkit_archive.catalog.connection as c\n"
        "c.Connection.index_renders = lambda self: os.kill(os.getpid(), signal.SIGKILL) if self.has_renders() else None"
    )
    words = program("import", "renders", file, archive=tmp_path / "other", before=before)
    assert subprocess.run(words, capture_output=True, check=False).returncode == -signal.SIGKILL
    with Archive(tmp_path / "other", read_only=True) as other:
        assert not _has_index(other)
        assert len(other.catalog.list_renders(NORTHWIND, Listing(5))) == 6, (
            "five, and one that says that there are more"
        )
    assert command("import", "renders", file, archive=tmp_path / "other").code == 0
    with Archive(tmp_path / "other", read_only=True) as other:
        assert _has_index(other)


@pytest.mark.parametrize("kind", ["projects", "keys", "renders"])
def test_a_column_whose_name_is_not_utf8_makes_rejects(archive: Archive, tmp_path: Path, kind: Kind) -> None:
    first = {"projects": projects()[0], "keys": keys()[0], "renders": render(1)}[kind]
    file = tmp_path / "table.csv"
    names, cells = zip(*((name, value) for name, value in first.items() if isinstance(value, str)), strict=True)
    file.write_bytes(",".join([*names, "erro"]).encode() + b"\xf2\r\n" + ",".join([*cells, "x"]).encode() + b"\r\n")
    counts, rejects = run(archive, kind, file)
    assert (counts["inserted"], [reject.problem for reject in rejects]) == (0, ["not-utf-8"])
