"""The wrong file is one sentence: every pair of kinds, in every form, and what holds no records at all."""

import csv
import gzip
import io
import json
import shutil
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from craftkit_archive.archive import Archive
from craftkit_archive.errors import RequestError
from craftkit_archive.importer.run import import_records
from craftkit_archive.records import KINDS, Kind
from tests.worlds import SAMPLE, STATUSES, World, command, fill, keys, pdf, projects, render, summary_of, write_ndjson

ROWS: dict[Kind, list[dict[str, Any]]] = {
    "projects": projects(),
    "keys": [{"project_id": row.get("projectId"), "name": "a key"} | row for row in keys()],
    "renders": [render(number) for number in range(30)],
}
PAIRS = [(asked, held) for asked in KINDS for held in KINDS if asked != held]


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def _csv(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    names = list({name: None for row in rows for name in row if name != "projectId"})
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(names)
    writer.writerows([[_cell(row.get(name)) for name in names] for row in rows])
    return out.getvalue().encode()


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict) else value


def _ndjson(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _rejects(rows: list[dict[str, Any]]) -> bytes:
    return _ndjson([{"type": "reject", "source": "x", "line": 1, "reason": "y", "record": row} for row in rows])


def _camels(rows: list[dict[str, Any]]) -> bytes:
    return _ndjson([{_camel(name): value for name, value in row.items()} for row in rows])


FORMS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "ndjson": _ndjson,
    "json": lambda rows: json.dumps(rows).encode(),
    "pretty json": lambda rows: json.dumps(rows, indent=2).encode(),
    "camelCase": _camels,
    "csv": _csv,
    "tsv": lambda rows: _csv(rows, "\t"),
    "gzip": lambda rows: gzip.compress(_ndjson(rows)),
    "utf-16": lambda rows: _ndjson(rows).decode().encode("utf-16"),
    "a page of an API": lambda rows: json.dumps({"data": rows, "hasMore": False}).encode(),
    "rejects": _rejects,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("asked", "held"), PAIRS)
def test_each_kind_imported_as_another_is_one_sentence(
    archive: Archive, tmp_path: Path, asked: Kind, held: Kind, form: str
) -> None:
    file = tmp_path / "a file"
    file.write_bytes(FORMS[form](ROWS[held]))
    with pytest.raises(RequestError) as caught:
        summary_of(import_records(archive, asked, [str(file)]))
    assert str(caught.value) == (f"{file}: This looks like {held}. Run craftkit-archive import {held} '{file}'.")
    assert archive.catalog._query("SELECT (SELECT COUNT(*) FROM projects) + (SELECT COUNT(*) FROM renders)") == [(0,)]
    # As what it is, it comes in.
    assert summary_of(import_records(archive, held, [str(file)])).counts["rejected"] == 0


@pytest.mark.parametrize(("asked", "held"), PAIRS)
def test_the_command_ends_with_2_and_says_no_more(archive: Archive, tmp_path: Path, asked: Kind, held: Kind) -> None:
    file = write_ndjson(tmp_path / "f.ndjson", ROWS[held])
    done = command("import", asked, file, archive=archive.path)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert f"This looks like {held}. Run craftkit-archive import {held} {file}." in done.err
    lines = command("--json", "import", asked, file, archive=archive.path).lines
    assert [line["type"] for line in lines] == ["error", "summary"]
    assert (lines[0]["error"], lines[1]["exit_code"]) == ("RequestError", 2)
    piped = command("import", asked, "-", archive=archive.path, stdin=file.read_bytes())
    assert (piped.code, f"import {held} -" in piped.err) == (2, True)


def test_an_object_that_wraps_the_list_of_another_kind(archive: Archive, tmp_path: Path) -> None:
    file = tmp_path / "w.json"
    file.write_text(json.dumps({"renders": ROWS["renders"], "next": None}))
    with pytest.raises(RequestError, match=r"This looks like renders\. Run craftkit-archive import renders"):
        summary_of(import_records(archive, "projects", [str(file)]))
    file.write_text(json.dumps({"renders": ROWS["renders"], "projects": ROWS["projects"]}))
    assert summary_of(import_records(archive, "projects", [str(file)])).counts["inserted"] == 3


# --- what a kind may be, and is never taken for another --------------------------------------------------------------

words = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)
ids = st.text("abcdef0123456789-", min_size=1, max_size=12)
extras = st.dictionaries(st.sampled_from(["note", "tags", "plan", "type", "region", "owner"]), words, max_size=3)
records: dict[Kind, st.SearchStrategy[dict[str, Any]]] = {
    "projects": st.fixed_dictionaries(
        {"id": ids, "name": words}, optional={"slug": words, "status": words | st.sampled_from(STATUSES)}
    ),
    "keys": st.fixed_dictionaries(
        {"id": ids, "project_id": ids, "key_hash": st.text("0123456789abcdef", min_size=64, max_size=64)},
        optional={"name": words, "slug": words, "status": words},
    ),
    "renders": st.fixed_dictionaries(
        {"id": ids, "project_id": ids, "status": st.sampled_from(STATUSES)},
        optional={"name": words, "slug": words, "template_id": words, "prefix": words},
    ),
}


@pytest.mark.long
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(sorted(KINDS)))
def test_no_valid_record_is_taken_for_another_kind(tmp_path: Path, data: st.DataObject, kind: Kind) -> None:
    rows = data.draw(
        st.lists(st.tuples(records[kind], extras).map(lambda pair: pair[1] | pair[0]), min_size=1, max_size=4)
    )
    shutil.rmtree(tmp_path / "a", ignore_errors=True)
    with Archive.create(tmp_path / "a") as archive:
        summary = summary_of(import_records(archive, kind, [str(write_ndjson(tmp_path / "f", rows))]))
    assert summary.counts["read"] == len(rows)


def test_some_records_of_another_kind_are_rejected_one_by_one(archive: Archive, tmp_path: Path) -> None:
    file = write_ndjson(tmp_path / "mixed.ndjson", [*ROWS["renders"][:3], *projects()])
    counts = summary_of(import_records(archive, "renders", [str(file)])).counts
    assert (counts["inserted"], counts["rejected"]) == (3, 3)


# --- what holds no records -------------------------------------------------------------------------------------------


def _database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a)")
    connection.close()


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("a.csv", "id")


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as packed:
        packed.add(SAMPLE / "README.md", "README.md")


def _tar_gz(path: Path) -> None:
    with tarfile.open(path, "w:gz") as packed:
        packed.add(SAMPLE / "README.md", "README.md")


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a database": (_database, "an SQLite database, not like {}. If it is a backup of the catalog, run"),
    "a pdf": (lambda path: path.write_bytes(pdf("x")), "a PDF, not like {}. PDFs come with craftkit-archive fetch"),
    "an odd pdf": (lambda path: path.write_bytes(b"\xef\xbb\xbf\r\n" + pdf("x")), "a PDF, not like {}"),
    "a zip": (_zip, "a zip or a spreadsheet, not like {}."),
    "a tar": (_tar, "a tar, not like {}."),
    "a tar.gz": (_tar_gz, "a tar, not like {}."),
    "sha256sum": (lambda path: path.write_text(f"{'a' * 64}  renders/x.pdf\n"), "a manifest of digests, not like {}."),
    "md5sum": (lambda path: path.write_text(f"{'a' * 32} *renders/x.pdf\n"), "a manifest of digests, not like {}."),
    "BSD sums": (lambda path: path.write_text(f"SHA256 (x.pdf) = {'a' * 64}\n"), "a manifest of digests, not like {}."),
    "bagit.txt": (lambda path: path.write_text("BagIt-Version: 1.0\n"), "a part of a BagIt bag, not like {}."),
    "xz": (lambda path: path.write_bytes(b"\xfd7zXZ\0\0\1"), "a file packed with xz. Unpack it"),
    "zstd": (lambda path: path.write_bytes(b"\x28\xb5\x2f\xfd\0\0"), "a file packed with zstd. Unpack it"),
    "bzip2": (lambda path: path.write_bytes(b"BZh91AY&SY"), "a file packed with bzip2. Unpack it"),
    "a web page": (lambda path: path.write_text("\n<!DOCTYPE html>\n<p>"), "a page of HTML or XML, not like {}."),
    "a picture": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "a picture, not like {}."),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_holds_no_records_is_named(archive: Archive, tmp_path: Path, name: str, kind: Kind) -> None:
    make, words = FOREIGN[name]
    file = tmp_path / "file"
    make(file)
    with pytest.raises(RequestError) as caught:
        summary_of(import_records(archive, kind, [str(file)]))
    assert f"{file}: This looks like {words.format(kind)}" in str(caught.value)


@pytest.mark.parametrize("form", ["csv", "ndjson", "json", "tsv", "text"])
def test_no_form_that_is_named_makes_records_of_it(archive: Archive, tmp_path: Path, form: Any) -> None:
    (tmp_path / "f").write_bytes(pdf("x"))
    with pytest.raises(RequestError, match="This looks like a PDF"):
        summary_of(import_records(archive, "renders", [str(tmp_path / "f")], form=form))


def test_what_this_program_prints_and_writes_is_named(tmp_path: Path) -> None:
    world: World = fill(tmp_path, count=3)
    world.asset(0).unlink()
    path = world.archive.path
    (tmp_path / "found.ndjson").write_text(command("--json", "verify", archive=path).out)
    (tmp_path / "status.ndjson").write_text(command("--json", "status", archive=path).out)
    assert command("export", tmp_path / "out", archive=path).code == 1
    for kind in KINDS:
        for name in ("found.ndjson", "status.ndjson"):
            done = command("import", kind, tmp_path / name, archive=path)
            assert (done.code, "This looks like what craftkit-archive --json" in done.err) == (2, True), done.err
        manifest = command("import", kind, tmp_path / "out/manifest-sha256.txt", archive=path)
        assert (manifest.code, "This looks like a manifest of digests" in manifest.err) == (2, True)
        database = command("import", kind, path / "archive.db", archive=path)
        assert (database.code, "craftkit-archive restore FILE" in database.err) == (2, True)
    # The index of an export is a list of renders with their digests.
    index = tmp_path / "out/index.csv"
    assert "This looks like renders" in command("import", "projects", index, archive=path).err
    assert command("import", "renders", index, archive=path).code == 0
