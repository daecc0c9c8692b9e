"""Craftkit's tables in a real PostgreSQL: read where they are, and in every form that people export them in."""

import gzip
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from craftkit_archive.archive import Archive
from craftkit_archive.errors import RemoteError, RequestError, StoreOfflineError
from craftkit_archive.importer.run import import_records
from craftkit_archive.records import Kind, Reject, Summary
from craftkit_archive.values import default_asset_key, format_time, without_password
from tests.services import Database
from tests.test_importing import rows
from tests.worlds import NORTHWIND, ROOT, SOUTHWIND, command, peak_kib, program

# What has gone wrong on the way between programs.
ODD_TEXTS = [
    "", "plain", "two\nlines", "CR\r\nLF", "\r", "tab\there", 'a "quoted" word', '"', '""', "it's", ",", ";", "|",
    "back\\slash", "\\", "\\\\", "\\N", "\\.", "\\n", "end\\", "NULL", "null", "(null)", "t", "f", "true", "{}",
    '{"a": 1}', "[1]", "[", "{a,b}", "NaN", "infinity", "1e999", "0012", " padded ", "é ü 漢字 🎉", "\u2028", "\ufeff",
    "\x01", "\x7f", "=1+1", "-- x", "$1 %s %(x)s", "<b>", 'a,"",b', '","',
]  # fmt: skip
ODD_TIMES = [
    "2026-06-05 10:00:00.12+00", "2026-01-01 10:00:00.123456+02", "2026-03-29 02:30:00+05:30",
    "1969-12-31 23:59:59.9999-12", "0001-01-02 00:00:00+00", "9999-12-31 05:00:00+00", None,
]  # fmt: skip
SCHEMA = """
CREATE TYPE render_status AS ENUM ('queued', 'rendering', 'succeeded', 'failed', 'cancelled');
CREATE TABLE projects (id text PRIMARY KEY, user_id uuid, name text NOT NULL, slug varchar(200), brand_color char(7),
    brand_logo_url text, created_at timestamptz, updated_at timestamp, deleted_at timestamptz);
CREATE TABLE api_keys (id uuid PRIMARY KEY, project_id text, name text, prefix text, key_hash text,
    created_at timestamptz, revoked_at timestamptz);
CREATE TABLE renders (id text PRIMARY KEY, project_id text, template_id text, status render_status, input_data jsonb,
    error_message text, asset_key text, started_at timestamptz, created_at timestamp(3), completed_at timestamptz,
    note text, flag boolean, amount numeric, ratio double precision, tags text[], counts int[], body bytea, day date,
    span interval, raw json, big bigint, address inet, "Odd, ""name"" \\ here" text, gone int);
ALTER TABLE renders DROP COLUMN gone;
"""
COLUMNS = (
    "id, project_id, template_id, status, input_data, error_message, asset_key, started_at, created_at, completed_at,"
    ' note, flag, amount, ratio, tags, counts, body, day, span, raw, big, address, "Odd, ""name"" \\ here"'
)


def odd_renders() -> Iterator[tuple[Any, ...]]:
    """Yield rows in which every text, time, number and null comes up in the columns that can hold it."""
    statuses = ["succeeded", "failed", "queued", "rendering", "cancelled"]
    amounts = ["0.10", "12345678901234567890.12345678901234567890", "-1e-30", "1e400", "NaN", "7", None]
    ratios = [0.1, float("nan"), float("inf"), -0.0, 1e308, 5e-324, None]
    for number, text in enumerate(ODD_TEXTS * 3):
        nothing = number % 7 == 3
        time_ = ODD_TIMES[number % len(ODD_TIMES)]
        yield (
            f"019c0000-{number:04d}" if number % 2 else f"id ü '{number}', \"{number}\";",
            (NORTHWIND, SOUTHWIND)[number % 2],
            None if nothing else text,
            statuses[number % 5],
            None if nothing else json.dumps({"text": text.replace("\x00", ""), "list": [text, None, 1.5, True]}),
            None if number % 5 == 4 else text,
            None if number % 3 else f"renders/{(NORTHWIND, SOUTHWIND)[number % 2]}/odd é/{number}.pdf",
            time_,
            time_,
            time_,
            None if number % 11 == 0 else text,
            [True, False, None][number % 3],
            amounts[number % 7],
            ratios[number % 7],
            None if nothing else [text, "x", None],
            [None, [], [1, None, 3]][number % 3],
            None if nothing else text.encode() + b"\x00\xff",
            None if nothing else "2026-02-28",
            None if nothing else "1 day 02:03:04.5",
            None if nothing else '{"a" :\n[1,\r\n"' + json.dumps(text)[1:-1] + '"]}',
            2**63 - 1 - number,
            "192.168.0.1/24",
            text,
        )


@pytest.fixture(scope="module")
def craftkit(postgres: Database) -> Database:
    """Return a database with Craftkit's tables and odd values in every column."""
    postgres.run("createdb", "craftkit")
    database = postgres._replace(name="craftkit")
    database.sql(SCHEMA)
    with psycopg.connect(database.url) as connection, connection.cursor() as cursor:
        rows = list(odd_renders())
        cursor.executemany(f"INSERT INTO renders ({COLUMNS}) VALUES ({', '.join(['%s'] * len(rows[0]))})", rows)
        cursor.executemany(
            "INSERT INTO projects VALUES (%s, gen_random_uuid(), %s, %s, '#fff', %s, %s, %s, %s)",
            [
                (
                    f"p{number}",
                    text,
                    text[:9],
                    None if number % 2 else text,
                    time_,
                    time_ and time_[:19],
                    time_,
                )
                for number, text in enumerate(ODD_TEXTS)
                for time_ in [ODD_TIMES[number % len(ODD_TIMES)]]
            ]
            + [(project, project, None, None, None, None, None) for project in (NORTHWIND, SOUTHWIND)],
        )
        cursor.executemany(
            "INSERT INTO api_keys VALUES (gen_random_uuid(), %s, %s, %s, encode(sha256(%s), 'hex'), %s, %s)",
            [
                (
                    NORTHWIND,
                    text,
                    f"ck_live_{number}",
                    f"key {number}",
                    ODD_TIMES[0],
                    "infinity" if number % 2 else None,
                )
                for number, text in enumerate(ODD_TEXTS)
            ],
        )
    return database


# --- what the tables hold, asked of the server in another way --------------------------------------------------------

KNOWN: dict[Kind, tuple[str, ...]] = {
    "projects": ("name", "slug", "created_at", "updated_at", "deleted_at"),
    "keys": ("project_id", "name", "prefix", "key_hash", "created_at", "revoked_at"),
    "renders": ("project_id", "template_id", "status", "error_message", "asset_key", "created_at", "completed_at"),
}
TABLES = {"projects": "projects", "keys": "api_keys", "renders": "renders"}


def time_of(value: datetime | None) -> str | None:
    if value is None:
        return None
    return format_time(value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC))


def held(database: Database, kind: Kind, extra_of: Callable[[str], str]) -> dict[str, dict[str, Any]]:
    """Return the rows of a table by id; `extra_of` is the SQL that writes a column without one of ours."""
    with psycopg.connect(database.url, options="-c timezone=UTC") as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {TABLES[kind]} LIMIT 0")
        assert cursor.description is not None
        names = [column.name for column in cursor.description]
        quoted = ['"' + name.replace('"', '""') + '"' for name in names]
        shown = [
            f"NULLIF({name}, 'infinity')" if plain in ("deleted_at", "revoked_at")
            else f"{name}::text" if plain in ("id", "status")
            else name if plain in KNOWN[kind]
            else extra_of(name)
            for name, plain in zip(quoted, names, strict=True)
        ]  # fmt: skip
        cursor.execute(f"SELECT {', '.join(shown)} FROM {TABLES[kind]}".encode())
        found = {}
        for values in cursor:
            row = dict(zip(names, values, strict=True))
            known: dict[str, Any] = {name: row.pop(name) for name in ("id", *KNOWN[kind])}
            known = {name: time_of(value) if name.endswith("_at") else value for name, value in known.items()}
            if kind == "renders" and known["status"] == "succeeded" and known["asset_key"] is None:
                known["asset_key"] = default_asset_key(known["project_id"], known["id"])
            # Names as the catalog writes them.
            row = {name.lower(): value for name, value in row.items() if value is not None}
            found[known["id"]] = known | {"extra": row}
    return found


def as_json(name: str) -> str:
    return f"to_json({name})::text"


def in_catalog(archive: Archive, kind: Kind) -> dict[str, dict[str, Any]]:
    names = ("id", *KNOWN[kind])
    found = {}
    for row in rows(archive, TABLES[kind]):
        found[row["id"]] = {name: row[name] for name in names} | {"extra": json.loads(row["extra"] or "{}")}
    return found


def bring_in(archive: Archive, kind: Kind, source: str | Path, **options: Any) -> tuple[dict[str, int], list[Reject]]:
    records = list(import_records(archive, kind, [str(source)], **options))
    assert isinstance(records[-1], Summary)
    return records[-1].counts, [record for record in records if isinstance(record, Reject)]


def same_json(ours: Any, theirs: Any) -> bool:
    """Say whether two values are the same to the last digit; a number may be a text where a float cannot hold it."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same_json(ours[name], theirs[name]) for name in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same_json, ours, theirs))
    if isinstance(theirs, Number):
        return Decimal(repr(ours) if isinstance(ours, float) else ours) == Decimal(theirs)
    return type(ours) is type(theirs) and bool(ours == theirs)


class Number(str):
    """A number of JSON as it was written."""


def exactly(text: str) -> Any:
    return json.loads(text, parse_float=Number, parse_int=Number)


@pytest.mark.parametrize("kind", ["projects", "keys", "renders"])
def test_a_database_is_read_where_it_is(craftkit: Database, archive: Archive, kind: Kind) -> None:
    counts, rejects = bring_in(archive, kind, craftkit.url)
    assert rejects == []
    expected = held(craftkit, kind, as_json)
    assert counts["inserted"] == len(expected)
    found = in_catalog(archive, kind)
    assert found.keys() == expected.keys()
    for id_, row in expected.items():
        extra = {name: exactly(value) for name, value in row.pop("extra").items()}
        got = found[id_].pop("extra")
        assert found[id_] == row
        assert same_json(got, extra), (got, extra)
    assert bring_in(archive, kind, craftkit.url)[0]["unchanged"] == len(expected)


# --- every way to export ---------------------------------------------------------------------------------------------

# What psql runs, with {table} and {file}; and what becomes of booleans and JSON in it. `cells`: they are texts, whose
# types are found out; `json`: as the server writes them.
EXPORTS = {
    "copy csv": ("\\copy {table} TO '{file}' CSV HEADER", "cells"),
    "copy csv of a query": ("\\copy (SELECT * FROM {table}) TO '{file}' (FORMAT csv, HEADER)", "cells"),
    "copy csv, quoting": ("\\copy {table} TO '{file}' (FORMAT csv, HEADER, FORCE_QUOTE *)", "cells"),
    "copy csv, semicolons": ("\\copy {table} TO '{file}' (FORMAT csv, HEADER, DELIMITER ';')", "cells"),
    "copy csv, tabs": ("\\copy {table} TO '{file}' (FORMAT csv, HEADER, DELIMITER E'\\t')", "cells"),
    "copy text": ("\\copy {table} TO '{file}' (FORMAT text, HEADER)", "cells"),
    "copy of JSON": ("\\copy (SELECT row_to_json(t) FROM {table} t) TO '{file}'", "json"),
    "copy of an array": ("\\copy (SELECT json_agg(t) FROM {table} t) TO '{file}'", "json"),
    "copy of pretty JSON": ("\\copy (SELECT jsonb_pretty(to_jsonb(t)) FROM {table} t) TO '{file}'", "json"),
    "select of JSON": ("\\t on\n\\a\n\\o {file}\nSELECT row_to_json(t) FROM {table} t;", "json"),
    "json_agg": ("\\t on\n\\a\n\\o {file}\nSELECT json_agg(t) FROM {table} t;", "json"),
    "jsonb_pretty": ("\\t on\n\\a\n\\o {file}\nSELECT jsonb_pretty(jsonb_agg(t)) FROM {table} t;", "json"),
    "wrapped": ("\\t on\n\\a\n\\o {file}\nSELECT json_build_object('rows', json_agg(t)) FROM {table} t;", "json"),
}
KINDS: list[Kind] = ["projects", "keys", "renders"]


def as_cells(name: str) -> str:
    # Not a cast, which takes the blanks from a char(7).
    return f"CASE WHEN {name} IS NOT NULL THEN format('%s', {name}) END"


def exported(database: Database, way: str, kind: Kind, file: Path) -> Path:
    script = f"SET timezone = 'Asia/Kathmandu';\n{EXPORTS[way][0].format(table=TABLES[kind], file=file)}\n"
    database.sql(script)
    return file


def recoded(file: Path, way: str) -> None:
    text = file.read_bytes().decode()
    if "BOM" in way:
        text = "\ufeff" + text
    if "CRLF" in way:
        text = text.replace("\n", "\r\n")
    body = text.encode("utf-16" if "UTF-16" in way else "utf-8", "surrogatepass")
    file.write_bytes(gzip.compress(body) if "gzip" in way else body)


def assert_same(archive: Archive, database: Database, kind: Kind, types: str) -> None:
    expected = held(database, kind, as_json if types == "json" else as_cells)
    found = in_catalog(archive, kind)
    assert found.keys() == expected.keys()
    for id_, row in expected.items():
        extra = {name: exactly(value) if types == "json" else value for name, value in row.pop("extra").items()}
        got = found[id_].pop("extra")
        assert found[id_] == row
        for times in (got, extra):
            if "started_at" in times:
                times["started_at"] = datetime.fromisoformat(times["started_at"]).astimezone(UTC)
        if types == "json":
            assert same_json(got, extra), (got, extra)
            continue
        assert got.keys() == extra.keys()
        for name, text in extra.items():
            match name:
                case "flag":
                    assert got[name] is {"t": True, "true": True, "f": False, "false": False}[text]
                case "input_data" | "raw":
                    assert got[name] == json.loads(text)
                case _:
                    assert got[name] == text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", EXPORTS)
def test_what_psql_writes_goes_in_right(
    craftkit: Database, archive: Archive, tmp_path: Path, way: str, kind: Kind
) -> None:
    file = exported(craftkit, way, kind, tmp_path / "export")
    counts, rejects = bring_in(archive, kind, file)
    assert rejects == []
    assert_same(archive, craftkit, kind, EXPORTS[way][1])
    assert bring_in(archive, kind, file)[0]["unchanged"] == counts["inserted"]


@pytest.mark.parametrize("coding", ["BOM", "UTF-16", "gzip", "UTF-16 gzip", "BOM UTF-8 gzip"])
@pytest.mark.parametrize("way", ["copy csv", "copy csv, semicolons", "copy text", "select of JSON", "json_agg"])
def test_a_file_may_be_coded_as_other_programs_do(
    craftkit: Database, archive: Archive, tmp_path: Path, way: str, coding: str
) -> None:
    file = exported(craftkit, way, "renders", tmp_path / "export")
    recoded(file, coding)
    assert bring_in(archive, "renders", file)[1] == []
    assert_same(archive, craftkit, "renders", EXPORTS[way][1])


@pytest.mark.parametrize("way", ["copy text", "select of JSON"])
def test_lines_may_end_as_on_windows(craftkit: Database, archive: Archive, tmp_path: Path, way: str) -> None:
    file = exported(craftkit, way, "renders", tmp_path / "export")
    recoded(file, "CRLF UTF-16")
    assert bring_in(archive, "renders", file)[1] == []
    assert_same(archive, craftkit, "renders", EXPORTS[way][1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [[], ["--data-only"], ["--data-only", "--encoding=UTF8", "--no-owner"]])
def test_a_dump_is_read(craftkit: Database, archive: Archive, tmp_path: Path, kind: Kind, options: list[str]) -> None:
    (tmp_path / "dump.sql").write_bytes(craftkit.run("pg_dump", *options))
    assert bring_in(archive, kind, tmp_path / "dump.sql")[1] == []
    assert_same(archive, craftkit, kind, "cells")


@pytest.mark.parametrize("way", ["copy csv", "copy text", "copy of JSON", "copy of an array", "json_agg"])
def test_a_table_may_come_through_a_pipe(craftkit: Database, archive: Archive, tmp_path: Path, way: str) -> None:
    file = exported(craftkit, way, "renders", tmp_path / "export")
    done = command("--json", "import", "renders", "-", archive=archive.path, stdin=file.read_bytes())
    assert done.code == 0
    assert_same(archive, craftkit, "renders", EXPORTS[way][1])


def test_what_psql_prints_as_csv_is_right_but_for_empty_texts(
    craftkit: Database, archive: Archive, tmp_path: Path
) -> None:
    # `psql --csv` writes the empty text and null alike, as nothing; `-P null=` tells them apart.
    select = "SET timezone = 'UTC'; SELECT * FROM renders"
    (tmp_path / "plain.csv").write_bytes(craftkit.run("psql", "-qX", "--csv", "-c", select))
    assert bring_in(archive, "renders", tmp_path / "plain.csv")[1] == []
    for id_, row in held(craftkit, "renders", as_cells).items():
        got = in_catalog(archive, "renders")[id_] if row["error_message"] == "" else None
        assert got is None or got["error_message"] is None
    second = Archive.create(tmp_path / "second")
    (tmp_path / "null.csv").write_bytes(craftkit.run("psql", "-qX", "--csv", "-P", "null=@@", "-c", select))
    assert bring_in(second, "renders", tmp_path / "null.csv", null="@@")[1] == []
    assert_same(second, craftkit, "renders", "cells")
    second.catalog.close()


@pytest.mark.parametrize("word", ["NULL", "\\N", "(null)", "[NULL]"])
def test_a_word_for_null_can_be_given_and_quotes_make_it_a_text(
    craftkit: Database, archive: Archive, tmp_path: Path, word: str
) -> None:
    craftkit.sql(f"\\copy renders TO '{tmp_path}/r.csv' (FORMAT csv, HEADER, NULL '{word}')")
    assert bring_in(archive, "renders", tmp_path / "r.csv", null=word)[1] == []
    assert_same(archive, craftkit, "renders", "cells")


REFUSED = {
    "a word for null": (
        "\\copy renders TO '{file}' (FORMAT csv, HEADER, NULL 'NULL')",
        "--null 'NULL' if that means null",
    ),
    "the null of the text format": ("\\copy renders TO '{file}' (FORMAT csv, HEADER, NULL '\\N')", r"--null '\\N' if"),
    "for people": ("\\o {file}\nSELECT * FROM renders;", r"as psql displays it\. Export it with psql -c .\\copy"),
    "JSON for people": ("\\o {file}\nSELECT row_to_json(t) FROM renders t;", "as psql displays it"),
    "an array for people": ("\\o {file}\nSELECT json_agg(t) FROM renders t;", "as psql displays it"),
    "expanded": ("\\x on\n\\o {file}\nSELECT * FROM renders;", "as psql displays it"),
    "bars": ("\\a\n\\o {file}\nSELECT * FROM renders;", "bars between its cells"),
}


@pytest.mark.parametrize("way", REFUSED)
def test_what_does_not_tell_enough_is_refused_as_a_whole(
    craftkit: Database, archive: Archive, tmp_path: Path, way: str
) -> None:
    craftkit.sql(REFUSED[way][0].format(file=tmp_path / "export") + "\n")
    with pytest.raises(RequestError, match=REFUSED[way][1]):
        bring_in(archive, "renders", tmp_path / "export")
    assert rows(archive, "renders") == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data-only", "--inserts"], "INSERT statements. Dump them without --inserts"),
        (["--data-only", "--column-inserts"], "INSERT statements"),
        (["--data-only", "--rows-per-insert=9"], "INSERT statements"),
        (["-Fc"], r"pg_restore --data-only --table renders -f - FILE \| craftkit-archive import renders -"),
        (["--schema-only"], "has no table renders"),
        (
            ["--data-only", "-t", "api_keys"],
            r"has no table renders; it has public\.api_keys\. Name one of them as --table",
        ),
        (["--data-only", "--encoding=SQL_ASCII"], "Dump it again with --encoding=UTF8"),
    ],
)
def test_a_dump_that_cannot_be_read_is_refused_as_a_whole(
    craftkit: Database, archive: Archive, tmp_path: Path, options: list[str], words: str
) -> None:
    (tmp_path / "dump").write_bytes(craftkit.run("pg_dump", *options))
    with pytest.raises(RequestError, match=words):
        bring_in(archive, "renders", tmp_path / "dump")
    assert rows(archive, "renders") == []


def test_a_dump_that_was_cut_is_refused_as_a_whole(craftkit: Database, archive: Archive, tmp_path: Path) -> None:
    dump = craftkit.run("pg_dump", "--data-only", "-t", "renders")
    (tmp_path / "dump").write_bytes(dump[: len(dump) // 2])
    with pytest.raises(RequestError, match=r"ends in the middle of the table public\.renders"):
        bring_in(archive, "renders", tmp_path / "dump")


def test_a_table_without_a_header_is_refused_as_a_whole(craftkit: Database, archive: Archive, tmp_path: Path) -> None:
    for way in ("csv", "text"):
        craftkit.sql(f"\\copy renders TO '{tmp_path}/r' (FORMAT {way})")
        counts, [reject] = bring_in(archive, "renders", tmp_path / "r")
        assert counts["inserted"] == 0
        assert "FORMAT csv, HEADER" in reject.reason


# --- which rows ------------------------------------------------------------------------------------------------------


@pytest.fixture
def scratch(postgres: Database) -> Iterator[Database]:
    """Return a database of one test."""
    postgres.run("createdb", "scratch")
    yield postgres._replace(name="scratch")
    postgres.run("dropdb", "--force", "scratch")


MINIMAL = "id text, project_id text, status text"
ROW = f"VALUES ('r1', '{NORTHWIND}', 'queued')"


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ('"Render"', "Render"),
        ('"Render"', '"Render"'),
        ("renders", None),
        ("renders", "RENDERS"),
        ("other.renders", "other.renders"),
        ('"odd schema"."a.b ""c"""', '"odd schema"."a.b ""c"""'),
        ('"a.b; c"', "a.b; c"),
    ],
)
def test_a_table_is_named_as_in_sql_or_as_it_is(
    scratch: Database, archive: Archive, made: str, named: str | None
) -> None:
    scratch.sql(f'CREATE SCHEMA other; CREATE SCHEMA "odd schema"; CREATE TABLE {made} AS SELECT * FROM ({ROW}) AS t;')
    scratch.sql(f"ALTER TABLE {made} RENAME column1 TO id; ALTER TABLE {made} RENAME column2 TO \"projectId\";"
                f" ALTER TABLE {made} RENAME column3 TO status")  # fmt: skip
    assert bring_in(archive, "renders", scratch.url, table=named)[0]["inserted"] == 1


def test_an_address_as_prisma_and_sqlalchemy_write_it(scratch: Database, archive: Archive) -> None:
    scratch.sql(f'CREATE SCHEMA "Own"; CREATE TABLE "Own".renders ({MINIMAL}); INSERT INTO "Own".renders {ROW}')
    url = scratch.url.replace("postgresql://", "postgresql+psycopg://") + "&schema=Own&connection_limit=5"
    assert bring_in(archive, "renders", url)[0]["inserted"] == 1


def test_views_and_partitions_are_tables_too(scratch: Database, archive: Archive) -> None:
    scratch.sql(
        f"CREATE TABLE renders ({MINIMAL}) PARTITION BY LIST (status);"
        f"CREATE TABLE q PARTITION OF renders FOR VALUES IN ('queued'); INSERT INTO renders {ROW};"
        "CREATE VIEW v AS SELECT 'v-' || id AS id, project_id, status FROM renders"
    )
    assert bring_in(archive, "renders", scratch.url)[0]["inserted"] == 1
    assert bring_in(archive, "renders", scratch.url, table="v")[0]["inserted"] == 1


@pytest.mark.parametrize(
    "where",
    ["status = 'failed'", "renders.status = 'failed' -- a comment", "error_message LIKE '%\\%s%' OR status = 'failed'"],
)
def test_a_condition_chooses_rows(craftkit: Database, archive: Archive, where: str) -> None:
    counts, _ = bring_in(archive, "renders", craftkit.url, where=where)
    assert counts["inserted"] == int(craftkit.sql(f"\\pset tuples_only\nSELECT count(*) FROM renders WHERE {where}\n;"))


@pytest.mark.parametrize(
    "where",
    [
        "true); COMMIT; DROP TABLE renders; SELECT (1",
        "true) ; DROP TABLE renders; --",
        "nextval('s') > 0",
        "set_config('transaction_read_only', 'off', false) = 'off' AND nextval('s') > 0",
    ],
)
def test_a_condition_cannot_change_the_database(scratch: Database, archive: Archive, where: str) -> None:
    scratch.sql(f"CREATE TABLE renders ({MINIMAL}); INSERT INTO renders {ROW}; CREATE SEQUENCE s")
    with pytest.raises(RequestError, match=r"^postgresql://postgres@/scratch says: "):
        bring_in(archive, "renders", scratch.url, where=where)
    assert b"1" in scratch.sql("SELECT count(*) FROM renders; SELECT 1/(NOT is_called)::int FROM s")
    assert rows(archive, "renders") == []


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "where", "words"),
    [
        (
            None,
            None,
            r"has no table renders\. Name the one with the renders as --table\. These may be it: other_render\.",
        ),
        ("nothing.here", None, "has no table nothing.here"),
        ("counters", None, "counters has no column id"),
        ("other_render", "colour = 1", 'column "colour" does not exist'),
        ("other_render", "id = 1", "operator does not exist: text = integer .No operator matches"),
        ("other_render", "id::int = 1", "invalid input syntax"),
        ("other_render", "(", "syntax error"),
    ],
)
def test_the_server_says_what_is_wrong_in_its_own_words(
    scratch: Database, archive: Archive, table: str | None, where: str | None, words: str
) -> None:
    scratch.sql(f"CREATE TABLE other_render ({MINIMAL}); INSERT INTO other_render {ROW}; CREATE TABLE counters (n int)")
    with pytest.raises(RequestError, match=words):
        bring_in(archive, "renders", scratch.url, table=table, where=where)
    assert archive.catalog.last_runs(1)[0].outcome == "failed"


def test_a_table_that_may_not_be_read_is_named(scratch: Database, archive: Archive) -> None:
    scratch.sql(f"CREATE TABLE renders ({MINIMAL}); CREATE ROLE reader LOGIN")
    with pytest.raises(RequestError, match=r"permission denied for table renders\. .* the rights of the user"):
        bring_in(archive, "renders", scratch.url.replace("postgres@", "reader@"))
    scratch.sql("DROP ROLE reader")


def test_conditions_are_for_databases(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("[]")
    with pytest.raises(RequestError, match="--where"):
        bring_in(archive, "renders", tmp_path / "r.json", where="true")


def test_a_database_that_is_not_there_is_offline(archive: Archive, postgres: Database) -> None:
    for url, words in [
        ("postgresql://x@127.0.0.1:1/db", "127.0.0.1.* port 1 failed: Connection refused"),
        (postgres._replace(name="nothing").url, 'database "nothing" does not exist'),
        (postgres.url.replace("postgres@", "nobody@"), 'role "nobody" does not exist'),
        ("postgresql://x@/db?host=/nowhere", "No such file"),
    ]:
        with pytest.raises(StoreOfflineError, match=words):
            bring_in(archive, "renders", url)


def test_psycopg_is_asked_for_where_it_is_missing(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "psycopg.py").write_text("raise ImportError('no pq wrapper available')")
    done = command(
        "import", "renders", "postgresql://x:hidden@h/db", archive=archive.path, env={"PYTHONPATH": str(tmp_path)}
    )
    assert done.code == 2
    assert f"{sys.executable} -m pip install 'craftkit-archive[postgres]'" in done.err
    assert "hidden" not in done.err


# --- the password ----------------------------------------------------------------------------------------------------


def everything_in(archive: Path) -> bytes:
    return b"".join(file.read_bytes() for file in archive.rglob("*") if file.is_file())


@pytest.mark.long
@pytest.mark.parametrize("way", ["in the address", "as a parameter", "in the environment"])
def test_a_password_opens_the_database_and_is_never_shown(
    craftkit: Database, archive: Archive, tmp_path: Path, way: str
) -> None:
    from urllib.parse import quote

    escaped = quote(craftkit.password, safe="")
    url = craftkit.network_url
    env = {}
    if way == "in the address":
        url = url.replace("postgres@", f"postgres:{escaped}@")
    elif way == "as a parameter":
        url += f"?password={escaped}"
    else:
        env = {"PGPASSWORD": craftkit.password}
    craftkit.sql("UPDATE renders SET project_id = '' WHERE status = 'cancelled'")
    try:
        rejects = tmp_path / "rejects.ndjson"
        done = command("-v", "import", "renders", url, "--rejects", rejects, archive=archive.path, env=env)
        failed = command("--json", "import", "renders", url, "--where", "nonsense", archive=archive.path, env=env)
    finally:
        craftkit.sql(f"UPDATE renders SET project_id = '{NORTHWIND}' WHERE project_id = ''")
    assert (done.code, failed.code) == (1, 2)
    assert json.loads(rejects.read_text().splitlines()[0])["source"] == craftkit.network_url
    archive.catalog.close()
    seen = done.out + done.err + failed.out + failed.err + rejects.read_text()
    for secret in (craftkit.password, escaped):
        assert secret not in seen
        assert secret.encode() not in everything_in(archive.path)
    assert craftkit.network_url in done.err


def test_a_wrong_password_says_where_to_give_the_right_one(archive: Archive, postgres: Database) -> None:
    for url in (postgres.network_url, postgres.network_url.replace("postgres@", "postgres:wr0ng@")):
        done = command("import", "renders", url, archive=archive.path, env={"PGPASSWORD": ""})
        assert done.code == 14
        assert "password" in done.err
        assert "give the password as PGPASSWORD or in ~/.pgpass" in done.err
        assert "wr0ng" not in done.err


@pytest.mark.long
@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://u:SECRET@h:5432/db?sslmode=require&password=SECRET", "postgresql://u@h:5432/db"),
        ("postgres://u:SE@CRET@h/db", "postgres://u@h/db"),
        ("postgresql://u:SE?CRET@h/db", "postgresql://…"),
        ("postgresql://u:SE/CRET@h/db", "postgresql://…"),
        ("postgresql://u:SE%%CRET@h/db", "postgresql://u@h/db"),
        ("postgresql://h/db?password=SEC@RET", "postgresql://h/db"),
        ("postgresql://h?password=SEC@RET", "postgresql://…"),
        ("postgresql://h?password=SECRET/x", "postgresql://h"),
        ("postgresql:///db", "postgresql:///db"),
        ("plain.csv", "plain.csv"),
    ],
)
def test_no_part_of_a_password_is_shown(archive: Archive, address: str, shown: str) -> None:
    assert without_password(address) == shown
    if address != "plain.csv":
        done = command("import", "renders", f"{address}&nonsense", archive=archive.path, env={"PGCONNECT_TIMEOUT": "2"})
        assert done.code in (2, 14)
        assert not {"SECRET", "CRET", "SEC", "RET"} & set(done.err.replace("@", " ").replace('"', " ").split())
        assert "CRET" not in done.err
        archive.catalog.close()
        assert b"CRET" not in everything_in(archive.path)


# --- memory, stops, breaks -------------------------------------------------------------------------------------------


def test_a_stop_ends_a_query_that_waits(scratch: Database, archive: Archive) -> None:
    scratch.sql(f"CREATE TABLE renders ({MINIMAL}); INSERT INTO renders {ROW}")
    words = program(
        "--json", "import", "renders", scratch.url, "--where", "pg_sleep(60) IS NOT NULL", archive=archive.path
    )
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as importing:
        busy = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'FETCH%'"
        deadline = time.monotonic() + 30
        while b"1" not in scratch.run("psql", "-Atc", busy):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        began = time.monotonic()
        importing.send_signal(signal.SIGTERM)
        out, err = importing.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert importing.returncode == 128 + signal.SIGTERM, err
    assert json.loads(out.splitlines()[-1])["outcome"] == "interrupted"
    assert b"0" in scratch.run("psql", "-Atc", busy)


def test_a_connection_that_breaks_keeps_what_came_and_says_so(
    scratch: Database, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("craftkit_archive.importer.run.TRANSACTION_RECORDS", 10)
    monkeypatch.setattr("craftkit_archive.importer.postgres.BLOCK_BYTES", 1000)
    scratch.sql(
        f"CREATE TABLE renders ({MINIMAL}); INSERT INTO renders SELECT 'r' || n, '{NORTHWIND}', 'queued'"
        " FROM generate_series(1, 5000) n"
    )
    records = import_records(archive, "renders", [scratch.url])
    next(records)
    scratch.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'craftkit-archive'")
    with pytest.raises(RemoteError, match=r"(terminating|closed) .*\. Run the import again, which does the rest"):
        list(records)
    kept = len(rows(archive, "renders"))
    assert kept >= 10
    assert bring_in(archive, "renders", scratch.url)[0]["inserted"] == 5000 - kept


def test_a_row_that_is_too_large_is_one_reject(scratch: Database, archive: Archive) -> None:
    scratch.sql(
        f"CREATE TABLE renders ({MINIMAL}, note text); INSERT INTO renders {ROW.replace(')', ', NULL)')};"
        f" INSERT INTO renders VALUES ('big', 'p', 'queued', repeat('x', 17 << 20)), ('r2', 'p', 'queued', 'n')"
    )
    counts, [reject] = bring_in(archive, "renders", scratch.url)
    assert counts["inserted"] == 2
    assert reject.reason == "expected at most 16 MiB in a record"
    assert (reject.source, reject.line) == ("postgresql://postgres@/scratch", 2)


@pytest.mark.long
def test_memory_stays_flat_whatever_the_table_holds(scratch: Database, tmp_path: Path) -> None:
    peaks = []
    for count in (2_000, 200_000):
        scratch.sql(
            f"DROP TABLE IF EXISTS renders; CREATE TABLE renders ({MINIMAL}, note text); INSERT INTO renders SELECT"
            f" 'r' || n, '{NORTHWIND}', 'queued', repeat('x', CASE WHEN n % 1000 = 0 THEN 1000000 ELSE 500 END)"
            f" FROM generate_series(1, {count}) n"
        )
        Archive.create(tmp_path / str(count)).catalog.close()
        peaks.append(peak_kib("-q", "import", "renders", scratch.url, archive=tmp_path / str(count)))
    assert peaks[1] < peaks[0] + (120 << 10), "KiB: 300 MB went through"
