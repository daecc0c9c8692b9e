"""Names in an export: good on every system, apart from each other, and dependent on nothing but the renders."""

import unicodedata
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from craftkit_archive.catalog.rows import ExportRow
from craftkit_archive.errors import RequestError
from craftkit_archive.export.names import DEFAULT_NAME, PATH_BYTES, NamePlan, fold
from craftkit_archive.values import sorted_marks, sorted_places
from tests.worlds import NORTHWIND, render_id


def row(render_id: str, **fields: Any) -> ExportRow:
    made = "2026-06-05T10:00:03.120Z"
    whole = ExportRow(
        render_id, NORTHWIND, "northwind", "Northwind", "invoice", "succeeded", made, made, "k", 1, "", True
    )
    return whole._replace(**fields)


def names(rows: list[ExportRow], template: str = DEFAULT_NAME, *, compare: bool = False) -> list[str]:
    plan = NamePlan(template)
    for one in rows:
        plan.add(one)
    for one in rows if plan.must_compare or compare else ():
        plan.compare(one)
    return [plan.path(one) for one in rows]


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200) | st.sampled_from(
    [
        "CON",
        "con.pdf",
        "LPT¹",
        "a",
        "A",
        "a.",
        "a ",
        "straße",
        "STRASSE",
        "\u00e9",
        "e\u0301",
        "..",
        ".",
        "~",
        "%0A",
        "ı",
        "\u212a",
    ]
)
_ROWS = st.lists(st.builds(row, _TEXT.filter(bool), project_slug=_TEXT, template_id=_TEXT, created_at=st.none()),
                 unique_by=lambda one: one.render_id, max_size=12)  # fmt: skip
_TEMPLATES = st.sampled_from([DEFAULT_NAME, "{id}", "{template_id}", "{project_slug}/{template_id}-{created}", "x"])


@given(_ROWS, _TEMPLATES)
def test_every_name_is_good_on_every_system(rows: list[ExportRow], template: str) -> None:
    for name in names(rows, template):
        assert name.endswith(".pdf")
        assert name == unicodedata.normalize("NFC", name)
        assert len(name.encode()) <= PATH_BYTES + 10
        assert name.isprintable()
        assert not set(name) & set('<>:"\\|?*%\r\n\0')
        for part in name.split("/"):
            assert part
            assert part[-1] not in ". "
            assert part[0] not in ".~ "
            assert part.split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt1", "lpt¹"}
        assert not name.split("/")[0].endswith((".csv", ".html", ".txt"))


@given(_ROWS, _TEMPLATES, st.randoms())
def test_names_stay_apart_and_do_not_depend_on_the_order(rows: list[ExportRow], template: str, chance: Any) -> None:
    planned = names(rows, template)
    assert len({fold(name) for name in planned}) == len(rows)
    shuffled = list(rows)
    chance.shuffle(shuffled)
    assert dict(zip(rows, planned, strict=True)) == dict(zip(shuffled, names(shuffled, template), strict=True))


_PLAIN_ROWS = st.lists(st.builds(row, st.from_regex(r"[a-z0-9][a-z0-9_-]{0,90}", fullmatch=True), project_slug=_TEXT),
                       unique_by=lambda one: one.render_id, min_size=1, max_size=6)  # fmt: skip


@given(_PLAIN_ROWS | _ROWS, st.sampled_from([DEFAULT_NAME, "{id}", "{project_slug}/{id}.pdf"]))
def test_names_that_need_not_be_compared_are_those_that_comparing_gives(rows: list[ExportRow], template: str) -> None:
    assert names(rows, template) == names(rows, template, compare=True)


def test_only_names_that_end_with_an_id_as_it_is_need_not_be_compared() -> None:
    def must_compare(template: str, *ids: str) -> bool:
        plan = NamePlan(template)
        for one in ids:
            plan.add(row(one))
        return plan.must_compare

    assert not must_compare(DEFAULT_NAME, "a", "b-1", render_id(3))
    for odd in ("A", "a.", "aux", "-a", "a" * 99, "é"):
        assert must_compare("{id}", "b", odd, "c"), odd
    assert not must_compare("{template_id}-{id}", "a", "A")  # these were compared when they were added


@given(_ROWS)
def test_folders_do_not_differ_by_case_alone(rows: list[ExportRow]) -> None:
    folders = {name.split("/")[0] for name in names(rows, "{template_id}/{id}")}
    assert len({fold(folder) for folder in folders}) == len(folders)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (DEFAULT_NAME, f"northwind/2026/06/{render_id(1)}.pdf"),
        ("{id}", f"{render_id(1)}.pdf"),
        ("{project_name}/{created:%Y-%m}/{template_id} {completed:%d.%m.%Y %H%M%S}.pdf",
         "northwind/2026-06/invoice 05.06.2026 100003.pdf"),
        ("{created:%Y/%m}/{created}/{id}", f"2026/06/2026-06-05/{render_id(1)}.pdf"),
        ("Invoices/{{{status}}}.PDF", "invoices/{succeeded}.pdf"),
    ],
)  # fmt: skip
def test_a_template_says_how_it_is_named(template: str, name: str) -> None:
    assert names([row(render_id(1))], template) == [name]


def test_what_a_render_lacks_is_said() -> None:
    lacking = row("r", project_slug=None, project_name=None, template_id=None, created_at=None)
    assert names([lacking], "{project_slug}/{project_name}/{created:%Y}/{template_id}-{id}") == [
        f"{NORTHWIND}/{NORTHWIND}/undated/no-template-r.pdf"
    ]


def test_both_of_two_that_clash_get_a_suffix_and_others_none() -> None:
    first, second, other = names([row("A"), row("a"), row("b")], "{id}")
    assert first.startswith("A~")
    assert second.startswith("a~")
    assert other == "b.pdf"


@pytest.mark.parametrize(
    "template",
    ["{nothing}", "{id", "}", "{id.__class__}", "{id[0]}", "{id!r}", "{id:>10}", "{created:%x}", "{created:%Y{id}}", "",
     "/{id}", "{id}/", "a//b", "{}", "{0}", "/".join("abcdefghijklm"), ".pdf", "{created:%}"],
)  # fmt: skip
def test_what_is_no_template_is_told_with_what_is_known(template: str) -> None:
    with pytest.raises(RequestError, match=r"fields are|Write|unknown|known|format"):
        NamePlan(template)


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_marks_are_sorted_as_a_list_of_them_is(marks: list[int]) -> None:
    assert list(sorted_marks(array("Q", marks))) == sorted(marks)
    assert list(sorted_places(array("Q", marks))) == sorted(range(len(marks)), key=marks.__getitem__)
