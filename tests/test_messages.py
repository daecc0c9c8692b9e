"""docs/messages/ explains every id that a message may have, and the program shows each of them."""

import ast
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from craftkit_archive import errors
from craftkit_archive.archive import Archive
from craftkit_archive.proof.chain import Problem
from craftkit_archive.records import OUTCOME_CODES, DiagnosisProblem, Reject, RejectProblem, Verdict
from craftkit_archive.report.lines import as_text
from manual import messages
from server.errors import STATUSES
from tests.worlds import NORTHWIND, ROOT, SOUTHWIND, World, command, render

CODE = {file: ast.parse(file.read_text()) for file in sorted((ROOT / "craftkit_archive").rglob("*.py"))}


def _calls(*names: str) -> Iterator[ast.Call]:
    """Yield the calls of functions and classes with these names, in the program's own text."""
    for tree in CODE.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                yield node


def _given(call: ast.Call, place: int, name: str) -> object:
    """Return the constant that a call gives for a parameter; None where it gives none."""
    given = [*call.args[place : place + 1], *(word.value for word in call.keywords if word.arg == name)]
    return next((one.value for one in given if isinstance(one, ast.Constant)), None)


WARNINGS = {str(kind) for call in _calls("Caution", "_caution") if (kind := _given(call, 0, "warning"))}
TABLES: list[tuple[str, object, set[str]]] = [
    ("errors", messages.ERRORS, {leaf.__name__ for leaf in errors.leaves()}),
    ("outcomes", messages.OUTCOMES, set(OUTCOME_CODES)),
    ("verdicts", messages.VERDICTS, set(get_args(Verdict))),
    ("rejects", messages.REJECTS, set(get_args(RejectProblem))),
    ("warnings", messages.WARNINGS, WARNINGS),
    ("doctor", messages.DOCTOR, set(get_args(DiagnosisProblem))),
    ("audit-log", messages.FAULTS, set(get_args(Problem))),
    ("server", messages.CODES, set(STATUSES)),
]


@pytest.mark.parametrize(("name", "table", "ids"), TABLES)
def test_every_id_is_explained_and_no_explanation_is_left_over(name: str, table: dict[str, str], ids: set[str]) -> None:
    assert set(table) == ids
    page = (ROOT / f"docs/messages/{name}.md").read_text()
    assert [line[4:-1] for line in page.splitlines() if line.startswith("## `")] == [
        entry.name for entry in messages.groups()[name].entries
    ]
    index = (ROOT / "docs/messages.md").read_text()
    for one in ids:
        assert f"messages/{name}.md#{one.lower()})" in index


def test_every_group_has_its_page() -> None:
    pages = {file.stem for file in (ROOT / "docs/messages").glob("*.md")}
    assert pages == set(messages.groups()) == {name for name, _, _ in TABLES}


# --- doctor ----------------------------------------------------------------------------------------------------------


def test_every_fix_of_the_doctor_has_an_id_and_every_id_is_used() -> None:
    used = set()
    for call in _calls("Diagnosis"):
        problem = _given(call, 3, "problem")
        has_fix = len(call.args) > 2 or any(word.arg == "fix" for word in call.keywords)
        assert problem or not has_fix, ast.unparse(call)
        used |= {problem} - {None}
    assert used == set(get_args(DiagnosisProblem))


def test_the_doctor_shows_the_id_to_people_and_to_programs(world: World) -> None:
    world.archive.catalog.close()
    (world.archive.path / "archive.db").chmod(0o644)
    done = command("doctor", archive=world.archive.path)
    assert "0600" not in done.out
    assert "chmod 600" in done.out
    assert " [catalog-readable]\n" in done.out
    lines = map(json.loads, command("--json", "doctor", archive=world.archive.path).out.splitlines())
    assert [line["problem"] for line in lines if line.get("name") == "file modes"] == ["catalog-readable"]


# --- rejects ---------------------------------------------------------------------------------------------------------

ROW = render(0)
KEY = {"id": "k", "project_id": NORTHWIND, "name": "n", "key_hash": "0" * 64}


def _lines(*records: object) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in records)


# Of each id: the kind, files that are imported one after the other, the last of which is refused, and options of it.
REFUSED: dict[str, tuple[str, list[bytes], list[str]]] = {
    "missing-field": ("renders", [_lines({**ROW, "project_id": None})], []),
    "wrong-value": ("renders", [_lines({**ROW, "status": "lost"})], []),
    "wrong-key": ("keys", [_lines({**KEY, "key_hash": None, "key": "ck_acct_abcdefghijklmnopqrstuvwxyz"})], []),
    "wrong-asset-key": ("renders", [_lines({**ROW, "asset_key": "../x.pdf"})], []),
    "given-twice": ("renders", [_lines({**ROW, "createdAt": "2020-01-01T00:00:00Z"})], []),
    "not-an-object": ("renders", [b"17\n"], ["--format", "ndjson"]),
    "not-json": ("renders", [_lines(ROW) + b'{"id": \n'], ["--format", "ndjson"]),
    "not-utf-8": ("renders", [b'{"id": "\xff\xfe"}\n'], ["--format", "ndjson"]),
    "too-large": ("renders", [b'{"id": "' + b"x" * (17 << 20) + b'"}\n'], ["--format", "ndjson"]),
    "cut-short": ("renders", [gzip.compress(_lines(*(render(number) for number in range(500))))[:-300]], []),
    "no-records": ("renders", [b""], []),
    "list-before-id": ("renders", [b'{"renders": [], ' + json.dumps(ROW)[1:].encode()], ["--format", "json"]),
    "bad-table": ("renders", [b"id,project_id,status\na,b\n"], ["--format", "csv"]),
    "other-project": ("renders", [_lines(ROW), _lines({**ROW, "project_id": SOUTHWIND, "asset_key": None})], []),
    "known-id": ("renders", [_lines(ROW), _lines(ROW)], ["--on-duplicate", "fail"]),
    "other-key": ("keys", [_lines(KEY), _lines({**KEY, "key_hash": "1" * 64})], []),
    "key-of-another": ("keys", [_lines(KEY), _lines({**KEY, "id": "other"})], []),
    "asset-key-of-another": (
        "renders",
        [_lines({**ROW, "sha256": "0" * 64}), _lines({**render(1), "asset_key": ROW["asset_key"], "sha256": "1" * 64})],
        [],
    ),
    "below-another-pdf": ("renders", [_lines(ROW), _lines({**render(1), "asset_key": f"{ROW['asset_key']}/x"})], []),
}


@pytest.mark.parametrize("problem", REFUSED)
def test_a_refused_record_shows_why_to_people_and_to_programs(tmp_path: Path, problem: str) -> None:
    kind, files, options = REFUSED[problem]
    with Archive.create(tmp_path / "archive") as archive:
        path = archive.path
    for number, content in enumerate(files):
        file, words = tmp_path / str(number), options if number == len(files) - 1 else []
        file.write_bytes(content)
        rejects = tmp_path / "rejects"
        done = command("--json", "import", kind, str(file), *words, "--rejects", str(rejects), archive=path)
    found = [line for line in map(json.loads, done.out.splitlines()) if line["type"] == "reject"]
    assert [line["problem"] for line in found] == [problem], done.out + done.err
    assert json.loads(rejects.read_text())["problem"] == problem
    reject = Reject(**{name: value for name, value in found[0].items() if name != "type"})
    assert as_text(reject).endswith(f" [{problem}]")


def test_what_is_stored_otherwise_is_refused_as_that(world: World) -> None:
    file = world.folder / "again"
    file.write_bytes(_lines({**ROW, "sha256": "0" * 64}))
    done = command("import", "renders", str(file), archive=world.archive.path)
    assert " [not-as-stored]\n" in done.err


def test_every_reject_is_tried() -> None:
    assert {*REFUSED, "not-as-stored"} == set(get_args(RejectProblem))
