"""Questions that are asked often walk through no table, as SQLite's own plans say."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from craftkit_archive.archive import Archive
from craftkit_archive.catalog import Catalog
from craftkit_archive.catalog.rows import Listing, Selection
from craftkit_archive.report.gather import describe_archive, nagios_status
from tests.worlds import NORTHWIND, SOUTHWIND, fill, load, render, render_id

KEYS = [render(n)["asset_key"] for n in range(3)] + ["elsewhere/a.pdf", "orphan.pdf", "renders/x/orphan.pdf"]


def search(text: str) -> Callable[[Archive, Catalog], Any]:
    """Return what lists the renders whose ids begin with a text."""
    return lambda _, catalog: catalog.list_renders(NORTHWIND, Listing(50, None, None, None, text, None))


QUESTIONS: dict[str, Callable[[Archive, Catalog], Any]] = {
    "status": lambda archive, _: list(describe_archive(archive)),
    "status --nagios": lambda archive, _: nagios_status(archive),
    "coverage": lambda archive, _: archive.coverage(30),
    "metrics": lambda _, catalog: catalog.totals(),
    "report": lambda _, catalog: catalog.reading_days(),
    "how much there is to verify": lambda _, catalog: catalog.count_stored(Selection()),
    "how much of a project": lambda _, catalog: catalog.count_stored(Selection(project_ids=(NORTHWIND,))),
    "unclaimed": lambda _, catalog: catalog.unclaimed(KEYS),
    "expecting": lambda _, catalog: catalog.expecting(KEYS),
    "a search without hits": search("nothing"),
    "a search in the other case": search(render_id(1).upper()),
    "a render": lambda _, catalog: catalog.find_render(NORTHWIND, render_id(1)),
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """Return an archive with some renders, of which one has its PDF elsewhere."""
    world = fill(tmp_path_factory.mktemp("plans"))
    rows = [render(n, project_id=SOUTHWIND) for n in range(100, 150)]
    load(world.archive, world.folder, "renders", [*rows, render(200, asset_key="elsewhere/a.pdf")])
    yield world.archive
    world.archive.catalog.close()


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_walks_through_neither_renders_nor_assets(archive: Archive, question: str) -> None:
    statements: list[str] = []
    connection = archive.catalog._connection
    connection.set_trace_callback(statements.append)
    QUESTIONS[question](archive, archive.catalog)
    connection.set_trace_callback(None)
    asked = [sql for sql in statements if sql.lstrip().startswith(("SELECT", "WITH"))]
    assert asked
    for sql in asked:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
        assert not [step for step in plan if re.match(r"SCAN (?:r|a|s|renders|assets)\b", step)], (sql, plan)


def test_what_they_say_is_right(archive: Archive) -> None:
    catalog = archive.catalog
    assert catalog.unclaimed(KEYS) == ["orphan.pdf", "renders/x/orphan.pdf"]
    assert catalog.expecting(KEYS) == {"elsewhere/a.pdf": render_id(200)}
    assert [found.id for found in search(render_id(1).upper())(archive, catalog)] == [render_id(1)]
    assert len(search(render_id(1)[:8])(archive, catalog)) == 6


def test_many_that_begin_alike_are_found_newest_first(tmp_path: Path) -> None:
    with Archive.create(tmp_path / "archive") as archive:
        rows = [render(n, created_at=f"2026-01-01T00:{n // 60 % 60:02}:{n % 60:02}Z") for n in range(1500)]
        load(archive, tmp_path, "renders", rows)
        found = [one.id for one in search(render_id(0)[:8])(archive, archive.catalog)]
        assert found[:3] == [render_id(1499), render_id(1498), render_id(1497)]
