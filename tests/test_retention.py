"""Retention and holds: when a period is over, and what a hold keeps."""

import json
from datetime import date, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from craftkit_archive.archive import Archive
from craftkit_archive.catalog import Catalog
from craftkit_archive.catalog.rows import Selection
from craftkit_archive.errors import RequestError
from craftkit_archive.proof.events import Event
from craftkit_archive.records import Finding
from craftkit_archive.repair.quarantine import Quarantine
from craftkit_archive.retention.periods import Period
from craftkit_archive.retention.policy import refusals
from craftkit_archive.retention.rules import place_hold
from tests.worlds import NORTHWIND, SOUTHWIND, Done, World, command, load, render, render_id

PERIODS = st.builds(Period, st.integers(0, 200), st.integers(0, 300), st.integers(0, 5000)).filter(any)


def at(world: World, *words: str | Path) -> Done:
    return command(*words, archive=world.archive.path)


def records(world: World, *words: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in at(world, *words, "--json").out.splitlines()]


@given(PERIODS)
def test_a_period_reads_as_it_is_written(period: Period) -> None:
    assert Period.parse(str(period)) == period


@given(PERIODS, st.dates(date(1970, 1, 1), date(2200, 1, 1)), st.integers(0, 800))
def test_a_later_start_never_ends_earlier_and_no_period_is_cut(period: Period, start: date, later: int) -> None:
    due, after = period.due_on(start), period.due_on(start + timedelta(days=later))
    assert due is not None
    assert after is not None
    assert start < due <= after
    # Independently: counted by hand, month by month, with the last day standing in for one that does not exist.
    year, month = start.year + period.years, start.month + period.months
    year, month = year + (month - 1) // 12, (month - 1) % 12 + 1
    last = due - timedelta(days=1 + period.days)
    assert (last.year, last.month) == (year, month)
    assert last.day == start.day or (last.day < start.day and (last + timedelta(days=1)).day == 1)


@pytest.mark.parametrize(
    ("keep", "start", "due"),
    [
        ("1y", date(2024, 2, 29), date(2025, 3, 1)),
        ("4y", date(2024, 2, 29), date(2028, 3, 1)),
        ("1m", date(2025, 1, 31), date(2025, 3, 1)),
        ("90d", date(2025, 1, 1), date(2025, 4, 2)),
        ("9999y", date(2025, 1, 1), None),
        ("9999999d", date(2025, 1, 1), None),
    ],
)
def test_ends_of_months_years_and_of_the_calendar(keep: str, start: date, due: date | None) -> None:
    assert Period.parse(keep).due_on(start) == due


@pytest.mark.parametrize("text", ["", "y", "0d", "10", "1d1y", "-1y", "1.5y", "1w", "١y"])
def test_what_is_no_period_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Invalid period"):
        Period.parse(text)


def test_the_later_end_counts_and_the_default_only_where_nothing_else_matches(world: World) -> None:
    project = "01900000-0000-7000-8000-00000000000a"
    assert at(world, "retention", "set", "--default", "--keep", "1d").code == 0
    everything = [one for one in records(world, "retention", "due", "--by", "9000-01-01") if one["type"] == "due"]
    assert len(everything) == 5
    assert {one["rule"] for one in everything} == {"default"}
    at(world, "retention", "set", "--project", project, "--keep", "2000y")
    left = [one for one in records(world, "retention", "due", "--by", "4000-01-01") if one["type"] == "due"]
    assert len(left) < len(everything)
    assert at(world, "retention", "remove", "--default").code == 0
    assert at(world, "retention", "remove", "--default").code == 2
    events = [event.what for event in world.archive.catalog.events() if event.what.startswith("retention")]
    assert events == ["retention set", "retention set", "retention remove"]


def test_a_hold_by_rule_covers_what_comes_later_and_the_reason_is_in_the_log_alone(world: World) -> None:
    catalog = world.archive.catalog
    assert at(world, "hold", "place", "--name", "case 1", "--reason", "the dispute", "--since", "1990-01-01").code == 0
    load(world.archive, world.folder, "renders", [render(30)])
    assert catalog.held_by([render_id(30)]) == {render_id(30): ["case 1"]}
    assert list(refusals(catalog, [render_id(30)])) == [render_id(30)]
    assert "the dispute" not in at(world, "hold", "list", "--json").out
    assert at(world, "hold", "place", "--name", "case 1", "--reason", "x", "--since", "1990-01-01").code == 2
    assert at(world, "hold", "place", "--name", "case 2", "--reason", "x").code == 2
    assert at(world, "hold", "release", "case 1", "--reason", "settled").code == 0
    assert catalog.held_by([render_id(30)]) == {}
    placed: list[Event] = [event for event in catalog.events() if event.what.startswith("hold")]
    assert [event.details["reason"] for event in placed] == ["the dispute", "settled"]


NAMES = (f"hold {number}" for number in count())


@pytest.mark.long
@pytest.mark.timeout(400)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(1, 5), min_size=1)), max_size=6))
def test_a_render_is_held_as_long_as_one_hold_covers_it(world: World, holds: list[tuple[bool, set[int]]]) -> None:
    catalog: Catalog = world.archive.catalog
    expected: dict[str, list[str]] = {}
    every = [render_id(number) for number in range(1, 6)]
    for hold in catalog.holds():
        catalog.release_hold(hold.name, "2026-01-01T00:00:00.000Z")
    for released, numbers in holds:
        name = next(NAMES)
        ids = world.folder / "held.txt"
        ids.write_text("\n".join(map(render_id, numbers)))
        assert at(world, "hold", "place", "--name", name, "--reason", "r", "--ids", ids).code == 0
        if released:
            assert at(world, "hold", "release", name, "--reason", "r").code == 0
        for number in numbers if not released else ():
            expected.setdefault(render_id(number), []).append(name)
    assert {key: sorted(names) for key, names in catalog.held_by(every).items()} == {
        key: sorted(names) for key, names in expected.items()
    }


@pytest.mark.parametrize("words", [["--all", "--force", "--yes"], ["--force", render_id(1)]])
def test_the_quarantine_keeps_copies_of_a_held_render(world: World, words: list[str]) -> None:
    key = f"renders/{NORTHWIND}/{render_id(1)}.pdf"
    finding = Finding(1, render_id(1), key, "wrong-digest", world.archive.now())
    Quarantine(world.archive.path).keep(world.archive.store, finding)
    assert at(world, "hold", "place", "--name", "h", "--reason", "r", "--since", "1990-01-01").code == 0
    assert at(world, "quarantine", "drop", *words).code in (2, 3)
    assert len(list(Quarantine(world.archive.path).list())) == 1
    assert at(world, "hold", "release", "h", "--reason", "r").code == 0
    assert at(world, "quarantine", "drop", *words).code == 0
    assert not list(Quarantine(world.archive.path).list())


def held(world: World, number: int) -> list[str]:
    world.archive.catalog.close()
    return world.archive.catalog.held_by([render_id(number)]).get(render_id(number), [])


def test_what_a_rule_holds_stays_held_whatever_an_import_says_later(world: World) -> None:
    assert at(world, "hold", "place", "--name", "t", "--reason", "r", "--template", "invoice").code == 0
    assert at(world, "hold", "place", "--name", "d", "--reason", "r", "--until", "2026-12-31").code == 0
    later = [
        render(1, template_id="letter"),
        render(2, created_at="2027-06-05 10:00:00+00"),
        render(9, template_id="x"),
    ]
    load(world.archive, world.folder, "renders", later)
    assert [held(world, number) for number in (1, 2, 9)] == [["d", "t"], ["d", "t"], ["d"]]
    # An older catalog learns it from the log.
    assert [event.details["renders"] for event in world.archive.catalog.events() if event.what == "hold keep"]
    with Archive(world.archive.path) as archive:
        archive.catalog._query("DELETE FROM hold_ids")
        for event in archive.catalog.events():
            if event.what == "hold keep":
                archive.catalog.replay(event)
    assert [held(world, number) for number in (1, 2)] == [["d", "t"], ["d", "t"]]
    for name in ("t", "d"):
        assert at(world, "hold", "release", name, "--reason", "r").code == 0
    assert [held(world, number) for number in (1, 2)] == [[], []]


def test_a_rule_holds_what_nobody_knows_to_be_outside_of_it(world: World) -> None:
    assert at(world, "hold", "place", "--name", "t", "--reason", "r", "--template", "contract").code == 0
    assert at(world, "hold", "place", "--name", "d", "--reason", "r", "--since", "2030-01-01").code == 0
    assert at(world, "hold", "place", "--name", "p", "--reason", "r", "--project", SOUTHWIND).code == 0
    load(world.archive, world.folder, "renders", [render(8, template_id=None), render(9, created_at=None)])
    known = [held(world, number) for number in (1, 8, 9)]
    assert known == [[], ["t"], ["d"]]
    assert held(world, 77) == ["d", "p", "t"]  # no render has this id: its copies in the quarantine may be anything
    listed = {line["name"]: line["covers"] for line in at(world, "--json", "hold", "list").lines[:-1]}
    assert listed == {"t": 1, "d": 1, "p": 0}


def test_a_hold_is_on_one_project(world: World) -> None:
    for selection in (
        Selection(project_ids=(NORTHWIND, SOUTHWIND)),
        Selection(project_ids=(NORTHWIND,), statuses=("failed",)),
    ):
        with pytest.raises(RequestError, match="one project"):
            list(place_hold(world.archive, "h", "r", selection))
