"""docs/messages.md has every id that a message may have."""

import ast
from collections.abc import Iterator
from typing import get_args

import pytest

from craftkit_archive import errors
from craftkit_archive.proof.chain import Problem
from craftkit_archive.records import OUTCOME_CODES, Verdict
from manual import messages
from server.errors import STATUSES
from tests.worlds import ROOT

TABLES: list[tuple[dict[str, str], set[str]]] = [
    (messages.ERRORS, {leaf.__name__ for leaf in errors.leaves()}),
    (messages.OUTCOMES, set(OUTCOME_CODES)),
    (messages.VERDICTS, set(get_args(Verdict))),
    (messages.FAULTS, set(get_args(Problem))),
    (messages.CODES, set(STATUSES)),
]


def _warnings() -> Iterator[str]:
    """Yield the kinds of warnings that the program makes, from its own text."""
    for file in (ROOT / "craftkit_archive").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("Caution", "_caution")
            ):
                given = [*node.args[:1], *(word.value for word in node.keywords if word.arg == "warning")]
                yield from (str(one.value) for one in given if isinstance(one, ast.Constant))


@pytest.mark.parametrize(("table", "ids"), TABLES)
def test_every_id_has_its_row_and_no_row_is_left_over(table: dict[str, str], ids: set[str]) -> None:
    assert set(table) == ids


def test_every_warning_has_its_row() -> None:
    assert set(messages.WARNINGS) == set(_warnings())


def test_every_row_is_on_the_page() -> None:
    page = (ROOT / "docs/messages.md").read_text()
    for table in (*(table for table, _ in TABLES), messages.WARNINGS):
        for name, words in table.items():
            assert f"| `{name}` |" in page
            assert words in page
