"""The list of renders: every render once, newest first, whatever the pages; and what may be asked of it."""

from pathlib import Path
from typing import Any

import pytest
import requests

from craftkit_archive.archive import Archive
from craftkit_archive.catalog.rows import Listing
from tests.worlds import LIVE_KEY, NORTHWIND, OTHER_KEY, SOUTHWIND, keys, live, load, projects, render, render_id

DAYS = ["2026-01-01", "2026-01-02", "2026-01-02", "2026-01-03", None, None, "2026-01-02"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Serve renders of which several share a time and two have none."""
    folder: Path = tmp_path_factory.mktemp("listing")
    archive = Archive.create(folder / "archive")
    rows = [
        render(number, created_at=f"{day}T12:00:00Z" if day else None, status="failed" if number == 1 else "succeeded")
        for number, day in enumerate(DAYS)
    ]
    load(archive, folder, "projects", projects())
    load(archive, folder, "keys", keys())
    load(archive, folder, "renders", [*rows, render(50, project_id=SOUTHWIND)])
    with archive, live(archive) as url:
        yield url


def ask(url: str, key: str = LIVE_KEY, **parameters: Any) -> Any:
    """Ask for a page."""
    headers = {"Authorization": f"Bearer {key}"}
    return requests.get(f"{url}/v1/renders", params=parameters, headers=headers, timeout=10)


def numbers(answer: Any) -> list[int]:
    """Return which renders a page has."""
    assert answer.status_code == 200, answer.text
    return [int(found["id"][-3:]) for found in answer.json()["renders"]]


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 100])
def test_pages_of_any_length_hold_every_render_once_and_the_newest_first(url: str, limit: int) -> None:
    seen, cursor = [], None
    while True:
        page = ask(url, limit=limit, **({"cursor": cursor} if cursor else {}))
        seen += numbers(page)
        cursor = page.json()["nextCursor"]
        assert page.json()["hasMore"] == (cursor is not None)
        if cursor is None:
            break
    assert seen == [3, 6, 2, 1, 0, 5, 4]


def test_only_the_keys_own_project_is_listed(url: str) -> None:
    assert numbers(ask(url, OTHER_KEY)) == [50]
    assert ask(url, "ck_live_unknown").status_code == 401


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"status": "failed"}, [1]),
        ({"status": "queued"}, []),
        ({"since": "2026-01-02"}, [3, 6, 2, 1]),
        ({"until": "2026-01-02"}, [6, 2, 1, 0, 5, 4]),
        ({"since": "2026-01-02", "until": "2026-01-02"}, [6, 2, 1]),
        ({"since": "2026-01-02T12:00:00.001Z"}, [3]),
        ({"search": render_id(2)[:-1]}, [3, 6, 2, 1, 0, 5, 4]),
        ({"search": render_id(2)}, [2]),
        ({"search": render_id(2)[-5:]}, []),
        ({"search": render_id(2).upper()}, [2]),
        ({"search": "%"}, []),
        ({"search": "", "since": "", "until": "", "cursor": ""}, [3, 6, 2, 1, 0, 5, 4]),
        ({"until": "9999-12-31"}, [3, 6, 2, 1, 0, 5, 4]),
        ({"until": "9999-12-31T23:59:59-23:59"}, [3, 6, 2, 1, 0, 5, 4]),
        ({"since": "9999-12-31T23:59:59-23:59"}, []),
        ({"since": "0001-01-01T00:00:00+23:59"}, [3, 6, 2, 1, 0, 5, 4]),
        ({"until": "0001-01-01T00:00:00+23:59"}, [5, 4]),
        ({"since": "2026-01-02t12:00:00.001z"}, [3]),
        ({"unknown": "x"}, [3, 6, 2, 1, 0, 5, 4]),
    ],
)
def test_filters_narrow_the_list(url: str, parameters: dict[str, str], expected: list[int]) -> None:
    assert numbers(ask(url, **parameters)) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "x"),
        ("limit", "-1"),
        ("limit", "٣"),
        ("limit", ""),
        ("status", "done"),
        ("status", ""),
        ("cursor", "x"),
        ("cursor", "W10="),
        ("cursor", "é"),
        ("since", "soon"),
        ("since", "2026-02-30"),
        ("until", "9999-12-32"),
        ("since", "20260131T100000Z"),
        ("limit", "007"),
        ("search", "x" * 201),
    ],
)
def test_what_makes_no_sense_is_named_in_the_form_of_validation_errors(url: str, name: str, value: str) -> None:
    answer = ask(url, **{name: value})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "bad_request"
    assert error["issues"]["formErrors"] == []
    assert list(error["issues"]["fieldErrors"]) == [name]


def test_a_page_is_found_by_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    with Archive.create(tmp_path / "archive") as archive:
        query = archive.catalog._query

        def note(*given: Any) -> list[Any]:
            asked.append(given)
            return []

        monkeypatch.setattr(archive.catalog, "_query", note)
        archive.catalog.list_renders(NORTHWIND, Listing(5, after=("2026-01-01T00:00:00.000Z", "x"), since="2025"))
        plan = str(query(f"EXPLAIN QUERY PLAN {asked[0][0]}", asked[0][1]))
    assert "idx_renders_newest (project_id=? AND <expr>>? AND <expr><?)" in plan
    assert "TEMP B-TREE" not in plan
