"""What an import lets in and what breaks later is counted and named when it comes in, in each of the three voices."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from craftkit_archive.archive import Archive
from craftkit_archive.importer.run import import_records
from craftkit_archive.records import Caution, Kind, Summary
from tests.worlds import NORTHWIND, SOUTHWIND, command, keys, load, projects, render, write_ndjson

NOBODY = "01900000-0000-7000-8000-0000000000ff"
TWICE = [row | {"slug": "wind"} for row in projects()[:2]]
KEY = keys()[0] | {"project_id": NOBODY}
# What is imported, the kind of the warning, how many there are, and words that name them.
CASES: dict[str, tuple[Kind, list[dict[str, Any]], str, int, str]] = {
    "a slug twice": ("projects", TWICE, "slug-twice", 1, f"1 slug belongs to several projects: wind ({NORTHWIND}, "),
    "two slugs twice": (
        "projects",
        [*TWICE, *({"id": f"p-{number}", "name": "x", "slug": "calm"} for number in range(2))],
        "slug-twice",
        2,
        "2 slugs belong to several projects: calm (p-0, p-1), wind",
    ),
    "a render of an unknown project": (
        "renders",
        [render(1, project_id=NOBODY)],
        "unknown-project",
        1,
        f"1 render belongs to 1 project that is not in the catalog: {NOBODY}. Import this project too: ",
    ),
    "renders of two unknown projects": (
        "renders",
        [render(1, project_id=NOBODY), render(2, project_id="p-9"), render(3, project_id="p-9")],
        "unknown-project",
        3,
        f"3 renders belong to 2 projects that are not in the catalog: {NOBODY}, p-9. Import these projects too: ",
    ),
    "a key of an unknown project": (
        "keys",
        [KEY],
        "unknown-project",
        1,
        f"1 key belongs to 1 project that is not in the catalog: {NOBODY}. ",
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_each_warning_is_said_in_each_voice(archive: Archive, tmp_path: Path, name: str) -> None:
    kind, rows, warning, count, words = CASES[name]
    file = write_ndjson(tmp_path / "rows.ndjson", rows)
    path = archive.path
    plain = command("import", kind, file, "--dry-run", archive=path)
    assert (plain.code, plain.out) == (0, "")
    assert sum(words in line and line.startswith("  warning: ") for line in plain.err.splitlines()) == 1, plain.err
    assert re.search(r"^import: .*; 1 warning$", plain.err, re.MULTILINE)
    quiet = command("-q", "import", kind, file, "--dry-run", archive=path)
    assert (quiet.code, quiet.out) == (0, "")
    [said] = quiet.err.splitlines()
    assert words in said
    *_, spoken, last = command("--json", "import", kind, file, archive=path).lines
    assert (spoken["type"], spoken["warning"], spoken["count"]) == ("warning", warning, count)
    assert words in spoken["text"]
    assert last["details"]["warnings"] == [{name: spoken[name] for name in ("warning", "count", "names", "text")}]
    # It is there now: the same import once more brings nothing in, and wakes nobody up.
    assert command("-q", "import", kind, file, archive=path).err == ""
    assert words in command("import", kind, file, archive=path).err


def test_what_is_in_order_gives_no_warning(archive: Archive, tmp_path: Path) -> None:
    for kind, rows in (("projects", projects()), ("keys", keys()), ("renders", [render(1)])):
        done = command("import", kind, write_ndjson(tmp_path / "rows.ndjson", rows), archive=archive.path)
        assert (done.code, "warning" in done.err) == (0, False)


def test_a_warning_ends_when_its_cause_does(archive: Archive, tmp_path: Path) -> None:
    load(archive, tmp_path, "renders", [render(1)])
    assert _warnings(archive, tmp_path, "renders", [render(2)]) == {"unknown-project": 2}
    assert _warnings(archive, tmp_path, "projects", TWICE) == {"slug-twice": 1}
    assert _warnings(archive, tmp_path, "renders", [render(3)]) == {}
    assert _warnings(archive, tmp_path, "projects", projects()) == {}


def test_many_are_counted_and_the_first_are_named(archive: Archive, tmp_path: Path) -> None:
    rows = [render(number, project_id=f"p-{number:03}") for number in range(40)]
    [caution] = [one for one in _import(archive, tmp_path, "renders", rows) if isinstance(one, Caution)]
    assert (caution.count, len(caution.names)) == (40, 5)
    assert "40 renders belong to 40 projects that are not in the catalog: p-000, p-001, " in caution.text
    assert ", and 35 more. Import these projects too" in caution.text


def test_what_is_rejected_is_not_warned_of(archive: Archive, tmp_path: Path) -> None:
    rows = [render(1, project_id=NOBODY, status="odd")]
    *records, summary = _import(archive, tmp_path, "renders", rows)
    assert not any(isinstance(one, Caution) for one in records)
    assert isinstance(summary, Summary)
    assert summary.counts["rejected"] == 1


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    slugs=st.lists(st.sampled_from(["a", "b", "c", None, ""]), max_size=8),
    owners=st.lists(st.sampled_from(["p-0", "p-1", "p-7", "q", NORTHWIND, SOUTHWIND]), max_size=8),
)
def test_the_counts_are_those_of_the_catalog(
    tmp_path_factory: pytest.TempPathFactory, slugs: list[str | None], owners: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("counts")
    with Archive.create(folder / "a") as archive:
        rows = [{"id": f"p-{number}", "name": "x", "slug": slug} for number, slug in enumerate(slugs)]
        expected = {slug for slug in slugs if slug and slugs.count(slug) > 1}
        assert _warnings(archive, folder, "projects", rows) == ({"slug-twice": len(expected)} if expected else {})
        known = {f"p-{number}" for number in range(len(slugs))}
        unknown = [owner for owner in owners if owner not in known]
        found = _warnings(archive, folder, "renders", [render(n, project_id=o) for n, o in enumerate(owners)])
        assert found == ({"unknown-project": len(unknown)} if unknown else {})


def _import(archive: Archive, folder: Path, kind: Kind, rows: list[Any]) -> list[Any]:
    return list(import_records(archive, kind, [str(write_ndjson(folder / "rows.ndjson", rows))]))


def _warnings(archive: Archive, folder: Path, kind: Kind, rows: list[Any]) -> dict[str, int]:
    return {one.warning: one.count for one in _import(archive, folder, kind, rows) if isinstance(one, Caution)}
