"""The running totals are what a walk through everything counts, whoever writes, and `status` takes no walk."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from craftkit_archive.archive import Archive
from craftkit_archive.catalog import Catalog
from craftkit_archive.catalog.rows import Expectation, NewAsset, Selection
from craftkit_archive.catalog.totals import SOURCES
from craftkit_archive.states import STATES
from craftkit_archive.verify.run import verify_assets
from tests.worlds import NORTHWIND, SOUTHWIND, STATUSES, command, fill, render_id, summary_of

NUMBERS = st.integers(0, 7)
IDS = st.lists(NUMBERS, min_size=1, max_size=5, unique=True)
TIMES = st.sampled_from(["2026-01-01T00:00:00.000Z", "2026-06-01T10:00:00.000Z", "2026-06-02T10:00:00.000Z"])
PROJECTS = st.sampled_from([NORTHWIND, SOUTHWIND, "of nobody"])


def put_renders(catalog: Catalog, numbers: list[int], project_id: str, status: str, _time: str, _verdict: str) -> None:
    """Insert renders, or give those that are there another status."""
    columns = (project_id, "t", status, None)
    rows = [(render_id(n), *columns, f"renders/{n}.pdf", "2026-01-01T00:00:00.000Z", None, None, None) for n in numbers]
    catalog.put("renders", rows)


def store(catalog: Catalog, numbers: list[int], _project: str, _status: str, time: str, _verdict: str) -> None:
    """Record assets as stored, some without a digest."""
    catalog.add_assets(
        NewAsset(render_id(n), f"renders/{n}.pdf", 100 + n, "0" * 64 if n % 3 else None, "first-read", "x", time, None)  # type: ignore[arg-type]
        for n in numbers
    )


def check(catalog: Catalog, numbers: list[int], _project: str, _status: str, time: str, verdict: str) -> None:
    """Write a verdict into the ledger."""
    catalog.record_checks(time, verdict, [render_id(n) for n in numbers])


def declare(catalog: Catalog, numbers: list[int], _project: str, _status: str, _time: str, _verdict: str) -> None:
    """Say what assets should be."""
    catalog.expect(Expectation(render_id(n), f"renders/{n}.pdf", n, "1" * 64, False) for n in numbers)


def accept(catalog: Catalog, numbers: list[int], _project: str, _status: str, time: str, _verdict: str) -> None:
    """Accept the losses of what is bad."""
    ids = [render_id(n) for n in numbers]
    states = catalog.states_of(ids)
    bad = ("damaged", "unreadable", "unverified", "not-stored")
    catalog.acknowledge([i for i in ids if states.get(i) in bad], "gone", time)


def revoke(catalog: Catalog, numbers: list[int], _project: str, _status: str, _time: str, _verdict: str) -> None:
    """Take acceptances back."""
    catalog.end_acknowledgements([render_id(n) for n in numbers])


def by_hand(catalog: Catalog, numbers: list[int], project: str, status: str, time: str, verdict: str) -> None:
    """Do what a person with sqlite3 may do."""
    one = render_id(numbers[0])
    for sql, values in (
        ("UPDATE renders SET project_id = ?, status = ? WHERE id = ?", (project, status, one)),
        ("UPDATE assets SET verdict = ?, verified_at = ? WHERE render_id = ?", (verdict, time, one)),
        ("UPDATE assets SET stored_at = NULL WHERE render_id = ?", (render_id(numbers[-1]),)),
    ):
        catalog._query(sql, values)


def delete(catalog: Catalog, numbers: list[int], _project: str, _status: str, _time: str, verdict: str) -> None:
    """Delete rows, of renders or of their assets."""
    table, column = ("assets", "render_id") if verdict == "ok" else ("renders", "id")
    for n in numbers:
        catalog._query(f"DELETE FROM {table} WHERE {column} = ?", (render_id(n),))


def roll_back(catalog: Catalog, numbers: list[int], project: str, status: str, time: str, verdict: str) -> None:
    """Begin something, and let it fail."""
    with pytest.raises(ZeroDivisionError), catalog.transaction():  # noqa: PT012
        put_renders(catalog, numbers, project, status, time, verdict)
        check(catalog, numbers, project, status, time, verdict)
        raise ZeroDivisionError


DEEDS = [put_renders, put_renders, store, store, check, check, declare, accept, revoke, by_hand, delete, roll_back]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(DEEDS), IDS, PROJECTS, st.sampled_from(STATUSES), TIMES, st.sampled_from([*STATES, "ok", "ok"])
    ),
    max_size=25,
)


def walked(catalog: Catalog, since: str, now: str) -> dict[str, Any]:
    """Count everything by walks through the view and the assets, as it was done without totals."""
    stored = "FROM assets WHERE stored_at IS NOT NULL AND render_id IN (SELECT id FROM renders)"
    recent = f"verified_at BETWEEN '{since}' AND '{now}'"
    return {
        "states": dict(catalog._query("SELECT state, COUNT(*) FROM asset_states GROUP BY 1")),
        "stored": catalog._query(f"SELECT COUNT(*), COALESCE(SUM(size_bytes), 0), MIN(verified_at) {stored}")[0],
        "covered": catalog._query(
            f"SELECT COUNT(*), COALESCE(SUM(size_bytes), 0) {stored} AND verdict = 'ok' AND {recent}"
        )[0],
        "days": catalog._query(
            "SELECT CASE WHEN verdict = 'ok' THEN substr(verified_at, 1, 10) END AS day, COUNT(*),"
            f" COALESCE(SUM(size_bytes), 0) {stored} GROUP BY day ORDER BY day"
        ),
        "projects": catalog._query(
            "SELECT project_id, COUNT(*), SUM(status = 'succeeded'), COUNT(stored_at),"
            " COALESCE(SUM(CASE WHEN stored_at IS NOT NULL THEN size_bytes END), 0), COALESCE(SUM(state = 'ok'), 0),"
            " COALESCE(SUM(state = 'damaged'), 0), MIN(verified_at) FROM asset_states GROUP BY 1 ORDER BY 1"
        ),
    }


def totalled(catalog: Catalog, since: str, now: str) -> dict[str, Any]:
    """Ask the catalog for the same."""
    standing, coverage = catalog.standing(), catalog.coverage(since, now, 30)
    names = [name for name in standing.__struct_fields__ if name not in ("stored", "extra")]
    return {
        "states": {n.replace("_", "-"): getattr(standing, n) for n in names if getattr(standing, n)},
        "stored": catalog.stored_totals(),
        "covered": (coverage.covered_assets, coverage.covered_bytes),
        "days": catalog.reading_days(),
        "projects": sorted(
            (p.id, p.renders, p.succeeded, p.stored, p.stored_bytes, p.verified_ok, p.damaged, p.oldest_verified_at)
            for p in catalog.project_summaries(since, now)
            if p.renders
        ),
    }


@pytest.mark.long
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_totals_are_what_a_walk_counts(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    with Archive.create(tmp_path_factory.mktemp("totals") / "archive") as archive:
        catalog = archive.catalog
        for deed, numbers, *given_ in steps:
            known = catalog.known("renders", [render_id(n) for n in numbers])
            there = [n for n in numbers if render_id(n) in known]
            if deed in (put_renders, roll_back):
                there = numbers
            if there:
                deed(catalog, there, *given_)
            assert catalog.has_right_totals(), deed.__name__
        since, now = "2026-06-01T00:00:00.000Z", "2026-06-01T23:00:00.000Z"
        counted = walked(catalog, since, now)
        counted["states"].pop(None, None)
        assert totalled(catalog, since, now) == counted
        assert catalog.count_stored(Selection()) == counted["stored"][:2]


def test_every_table_that_says_a_state_has_its_triggers(tmp_path: Path) -> None:
    with Archive.create(tmp_path / "archive") as archive:
        [[view]] = archive.catalog._query("SELECT sql FROM sqlite_master WHERE name = 'asset_states'")
        tables = set(re.findall(r"(?:FROM|JOIN) (\w+)", view))
        assert tables <= set(SOURCES)
        for table in tables:
            made = archive.catalog._query(
                "SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?", (table,)
            )
            assert len(made) >= 3, table


def test_an_older_catalog_gets_its_totals(tmp_path: Path) -> None:
    world = fill(tmp_path)
    assert summary_of(verify_assets(world.archive)).outcome == "ok"
    before = totalled(world.archive.catalog, "2000", "3000")
    world.archive.catalog.close()
    with closing(sqlite3.connect(world.archive.path / "archive.db")) as database, database:
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {name}")
        database.execute("DROP TABLE totals")
        database.execute("DROP TABLE totals_kept")
        database.execute("DELETE FROM _sqlite_migrations WHERE name = 'm011_totals'")
    with Archive(world.archive.path) as archive:
        assert archive.catalog.has_right_totals()
        assert totalled(archive.catalog, "2000", "3000") == before


def test_doctor_finds_wrong_totals_and_verify_counts_anew(tmp_path: Path) -> None:
    world = fill(tmp_path)
    world.archive.catalog.close()
    with closing(sqlite3.connect(world.archive.path / "archive.db")) as database, database:
        database.execute("UPDATE totals SET renders = renders + 1")
    done = command("doctor", archive=world.archive.path)
    assert (done.code, "FIX   totals" in done.out, "verify --level size" in done.out) == (1, True, True), done.out
    assert command("verify", "--level", "size", archive=world.archive.path).code == 0
    assert command("doctor", archive=world.archive.path).code == 0
